use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use rustix::fs::{Mode, OFlags, openat};

use super::*;

#[test]
fn a_worker_of_an_earlier_life_that_still_writes_keeps_no_daemon_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tmp/left/fs");
    fs::create_dir_all(&folder).unwrap();
    beside_writers(&File::open(&folder).unwrap(), |writers| {
        Content::open(dir.path(), Snapshotter::Overlay).expect("the store is opened");
        assert!(writers.go_on(), "only when nobody wrote any more");
    });
    let until = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(dir.path().join("tmp")).unwrap().count() > 0 {
        assert!(Instant::now() < until, "what was left stays");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Some that write into a folder, which hardly anybody can remove then, until they are told or it is gone, and ten seconds at most.
pub struct Writers {
    until: Instant,
    is_over: AtomicBool,
}

impl Writers {
    pub fn go_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed) && Instant::now() < self.until
    }

    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

pub fn beside_writers<T>(folder: &File, work: impl FnOnce(&Writers) -> T) -> T {
    // So many that one of them always comes between the last look and the removal.
    const COUNT: usize = 6;
    let begun = AtomicUsize::new(0);
    let writers = Writers {
        until: Instant::now() + Duration::from_secs(10),
        is_over: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        for writer in 0..COUNT {
            let (begun, writers) = (&begun, &writers);
            scope.spawn(move || {
                for number in 0_u32.. {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    let written = openat(folder, format!("{writer}-{number}"), flags, Mode::RUSR);
                    if number == 20 {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                    // In a folder that is gone nothing can be made.
                    if written.is_err() || !writers.go_on() {
                        return;
                    }
                }
            });
        }
        while begun.load(Ordering::Relaxed) < COUNT && writers.go_on() {
            thread::yield_now();
        }
        let done = work(&writers);
        writers.stop();
        done
    })
}

#[test]
fn what_the_disk_lost_is_told_to_all_who_wrote_meanwhile() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    crate::sys::thread::in_own_mount_namespace(|| {
        run("mount", &["--make-rprivate", "/"], &[])?;
        let room = tempfile::tempdir()?;
        let disk = Disk::new(room.path())?;
        let content = Content::of(&disk.place);
        let (pull, another) = (content.writes().unwrap(), content.writes().unwrap());
        fs::write(disk.place.join("layer"), vec![1; 4 << 20])?;
        disk.fill()?;
        another.sync().expect_err("the disk takes no more");
        // Everything that could be written was, so that who begins now loses nothing.
        content.writes().unwrap().sync().expect("nothing is left to be written");
        pull.sync().expect_err("its file was lost");
        Ok(())
    })
    .unwrap();
}

/// A file system in a file that is full of holes, on one that can be filled.
struct Disk {
    below: PathBuf,
    place: PathBuf,
}

impl Disk {
    fn new(room: &Path) -> io::Result<Self> {
        let disk = Self {
            below: room.join("below"),
            place: room.join("place"),
        };
        fs::create_dir(&disk.below)?;
        fs::create_dir(&disk.place)?;
        let file = disk.below.join("disk");
        run("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs"], &[&disk.below])?;
        File::create_new(&file)?.set_len(64 << 20)?;
        // A journal that cannot be written ends the whole file system.
        run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"], &[&file])?;
        run("mount", &["-o", "loop"], &[&file, &disk.place])?;
        Ok(disk)
    }

    /// Leaves no room for what is not on it yet.
    fn fill(&self) -> io::Result<()> {
        match fs::write(self.below.join("rest"), vec![1; 32 << 20]) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            other => Err(io::Error::other(format!("not full: {other:?}"))),
        }
    }
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> io::Result<()> {
    let out = std::process::Command::new(program).args(options).args(paths).output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&out.stderr).into_owned())),
    }
}
