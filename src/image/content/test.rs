use std::{
    sync::{Barrier, mpsc},
    time::Instant,
};

use rustix::fs::{Mode, OFlags, openat};

use super::*;

#[test]
fn a_worker_of_an_earlier_life_that_still_writes_keeps_no_daemon_from_starting() {
    // Not each of them comes at the moment.
    (0..6).for_each(|_| open_beside_writers());
}

fn open_beside_writers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tmp/left/fs");
    fs::create_dir_all(&folder).unwrap();
    let inside = File::open(&folder).unwrap();
    // So many that one of them always comes between the last look and the removal.
    const WRITERS: u32 = 6;
    let begun = Barrier::new(WRITERS as usize + 1);
    let (told, tells) = mpsc::channel();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (inside, begun) = (&inside, &begun);
            scope.spawn(move || {
                let until = Instant::now() + Duration::from_millis(300);
                for number in 0_u32.. {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    let written = openat(inside, format!("{writer}-{number}"), flags, Mode::RUSR);
                    if number == 20 {
                        begun.wait();
                    }
                    // In a folder that is gone nothing can be made.
                    if written.is_err() || Instant::now() > until {
                        return;
                    }
                }
            });
        }
        scope.spawn(|| {
            begun.wait();
            told.send(Content::open(dir.path(), Snapshotter::Overlay).map(drop))
                .unwrap();
        });
    });
    tells.recv().unwrap().expect("the store is opened");
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
