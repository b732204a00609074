//! The power goes while images are pulled, imported and removed: what is there afterwards is whole.
//!
//! The store is on a file system of its own, which is shut down in the middle of everything as a power cut leaves it:
//! what was not synced is lost (`FS_IOC_SHUTDOWN`, as xfstests do it; nobody stops in order). It is mounted again, which
//! replays its journal, and the next daemon has to make something right of it.
//!
//! `INRO_POWER_CUTS` says how many cuts, `INRO_POWER_SEED` which.

mod disk;
mod truth;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::harness::{
    Cri, Daemon, Node,
    archive::{Files, Image},
    descendants, eventually, inro, signal, v1,
};
use disk::{Disk, Kind};
use truth::Truth;

/// Each client has images of its own and does one thing after the other, so of each it is known what was acknowledged.
/// They share layers all the same, but no two are one image.
const CLIENTS: [&[&str]; 4] = [
    &["shell", "layered", "shared-0"],
    &["many-layers", "shared-1"],
    &["shared-2", "configured", "tiny"],
    &["shared-3", "imported"],
];
/// It comes from an archive.
const IMPORTED: &str = "imported";

/// What a client was told last of an image, when it was not yet being told something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    There,
    Gone,
    /// Something was under way.
    Nothing,
}

#[test]
fn no_power_cut_leaves_a_wrong_layer_or_takes_what_was_acknowledged() {
    let count: u64 = env::var("INRO_POWER_CUTS").map_or(6, |count| count.parse().expect("INRO_POWER_CUTS"));
    let seed: u64 = env::var("INRO_POWER_SEED").map_or(1, |seed| seed.parse().expect("INRO_POWER_SEED"));
    let mut scene = Scene::start();
    let mut found = BTreeMap::<Told, u64>::new();
    for (kind, cuts) in [(Kind::Ext4, count - count / 3), (Kind::Xfs, count / 3)] {
        scene.use_disk(kind);
        scene.add_everything("a new disk");
        for cut in 0..cuts {
            let what = format!("{kind:?}, cut {cut} of INRO_POWER_SEED={seed}");
            for told in scene.cut(&mut Dice::new(seed, cut), &what).into_values() {
                *found.entry(told).or_default() += 1;
            }
            if cut % 3 == 2 {
                scene.add_everything(&what);
            }
        }
        scene.add_everything("the last cut");
        scene.remove_everything("the last cut");
        scene.use_no_disk();
    }
    eprintln!("{count} cuts; what clients knew of images then: {found:?}");
    assert!(
        found.len() == 3 || count < 6,
        "all cuts came at the same moment: {found:?}"
    );
}

/// Before a cut.
const MOST_STEPS: u64 = 16;

/// What clients and the cut know of each other.
#[derive(Default)]
struct Clock {
    /// What was acknowledged to all of them.
    steps: AtomicU64,
    off: AtomicBool,
}

/// A node, what it serves when nothing goes wrong, and the disk that it is on.
struct Scene {
    truth: Truth,
    archive: PathBuf,
    disk: Option<Disk>,
    node: Node,
}

impl Scene {
    fn start() -> Scene {
        let node = Node::start();
        let image = Image::prepared("volumes");
        let name = format!("docker.io/library/{IMPORTED}:latest");
        let archive = Files::oci_of(&image, &name).write_gz(&node.dir().join("imported.tar.gz"));
        let mut scene = Scene {
            truth: Truth::default(),
            archive,
            disk: None,
            node,
        };
        scene.node.registry();
        scene.add_all("undisturbed");
        scene.truth = Truth::of(&scene.root());
        scene
    }

    fn root(&self) -> PathBuf {
        self.node.dir().join("root")
    }

    fn client(&self) -> Client {
        Client {
            cri: self.node.cri.clone(),
            endpoint: self.node.daemon.endpoint(),
            archive: self.archive.clone(),
        }
    }

    fn use_disk(&mut self, kind: Kind) {
        self.node.daemon.terminate();
        self.disk = Some(Disk::make(kind, &self.node.dir().join("disk"), &self.root()));
        self.node.daemon.restart();
    }

    fn use_no_disk(&mut self) {
        self.node.daemon.terminate();
        self.disk = None;
        self.node.daemon.restart();
    }

    fn add_all(&self, what: &str) {
        thread::scope(|scope| {
            for images in CLIENTS {
                let client = self.client();
                scope.spawn(move || {
                    for image in images {
                        client
                            .add(image)
                            .unwrap_or_else(|error| panic!("{what}: {image}: {error}"));
                    }
                });
            }
        });
    }

    /// One cut, and a look at what is there then. What was known of each image.
    fn cut(&mut self, dice: &mut Dice, what: &str) -> BTreeMap<&'static str, Told> {
        let disk = self.disk.as_ref().expect("a disk");
        let mut cut = disk.arm();
        let clock = Arc::new(Clock::default());
        let clients: Vec<_> = CLIENTS
            .map(|images| {
                let (client, clock, dice) = (self.client(), clock.clone(), dice.split());
                let told = |image: &&'static str| match self.node.image(image) {
                    Some(_) => (*image, Told::There),
                    None => (*image, Told::Gone),
                };
                let told = images.iter().map(told).collect();
                thread::spawn(move || client.work(told, dice, &clock))
            })
            .into();
        // Some way into what they do, on a slow machine too.
        let steps = dice.below(MOST_STEPS);
        eventually("the clients get on", Duration::from_secs(60), || {
            (clock.steps.load(Ordering::SeqCst) >= steps).then_some(())
        });
        thread::sleep(Duration::from_millis(dice.below(100)));
        clock.off.store(true, Ordering::SeqCst);
        cut.now();
        kill_all(&mut self.node.daemon);
        let told: BTreeMap<_, _> = clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect();
        self.disk.as_mut().expect("a disk").switch_on();
        self.node.daemon.restart();
        // It serves before all of that is gone.
        eventually("what was left is removed", Duration::from_secs(30), || {
            truth::is_empty(&self.root().join("tmp")).then_some(())
        });
        self.check(&told, what);
        told
    }

    /// What was acknowledged is there, and whatever is there is whole.
    fn check(&self, told: &BTreeMap<&'static str, Told>, what: &str) {
        let wrong = self.truth.wrong_in(&self.root());
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        for (image, told) in told {
            let is_there = self.node.image(image).is_some();
            match told {
                Told::There => assert!(is_there, "{what}: {image} was there"),
                Told::Gone => assert!(!is_there, "{what}: {image} was removed"),
                Told::Nothing => {}
            }
        }
        let verified = self.node.inro_image(&["verify"]);
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "{what}: {said}");
    }

    /// Everything can be had again, and then the store is as if nothing had happened.
    fn add_everything(&self, what: &str) {
        self.add_all(what);
        assert_eq!(truth::names(&self.root()), self.truth.names, "{what}");
    }

    /// Nothing is left when nothing is wanted.
    fn remove_everything(&self, what: &str) {
        for image in CLIENTS.concat() {
            self.node.remove_image(image);
        }
        let left = truth::names(&self.root());
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

struct Client {
    cri: Cri,
    endpoint: String,
    archive: PathBuf,
}

impl Client {
    fn add(&self, image: &str) -> Result<(), String> {
        if image == IMPORTED {
            let imported = Command::new(inro())
                .args(["image", "--endpoint", &self.endpoint, "import"])
                .arg(&self.archive)
                .output()
                .expect("inro image");
            return match imported.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&imported.stderr).into_owned()),
            };
        }
        let request = v1::PullImageRequest {
            image: spec(image),
            ..Default::default()
        };
        self.cri
            .pull_image(request)
            .map(drop)
            .map_err(|status| status.to_string())
    }

    fn remove(&self, image: &str) -> Result<(), String> {
        let request = v1::RemoveImageRequest { image: spec(image) };
        self.cri
            .remove_image(request)
            .map(drop)
            .map_err(|status| status.to_string())
    }

    /// Pulls and removes until the power is off. `told`: what is known before.
    fn work(
        &self,
        mut told: BTreeMap<&'static str, Told>,
        mut dice: Dice,
        clock: &Clock,
    ) -> BTreeMap<&'static str, Told> {
        let images: Vec<_> = told.keys().copied().collect();
        loop {
            let image = images[dice.below(images.len() as u64) as usize];
            let (done, then) = match told[image] {
                Told::There => (self.remove(image), Told::Gone),
                _ => (self.add(image), Told::There),
            };
            match (done, clock.off.load(Ordering::SeqCst)) {
                (Ok(()), false) => {
                    clock.steps.fetch_add(1, Ordering::SeqCst);
                    told.insert(image, then)
                }
                // It may have come too late, or not at all.
                (_, true) => {
                    told.insert(image, Told::Nothing);
                    return told;
                }
                (Err(error), false) => panic!("{image}: {error}"),
            };
        }
    }
}

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: image.into(),
        ..Default::default()
    })
}

/// Ends the daemon and every process below it, and waits for that.
fn kill_all(daemon: &mut Daemon) {
    let below = descendants(daemon.pid());
    daemon.kill9();
    for &pid in &below {
        signal(pid, rustix::process::Signal::KILL);
    }
    eventually("nothing of the daemon runs", Duration::from_secs(5), || {
        let is_there = |pid: &u32| Path::new("/proc").join(pid.to_string()).exists();
        (!below.iter().any(is_there)).then_some(())
    });
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, number: u64) -> Dice {
        let mut dice = Dice((seed << 32 | number) ^ 0x9e37_79b9_7f4a_7c15);
        // The first ones are much alike.
        (0..8).for_each(|_| _ = dice.next());
        dice
    }

    fn split(&mut self) -> Dice {
        Dice(self.next() | 1)
    }

    /// xorshift64.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
