//! A corpus of hostile images, pulled by the real daemon: each is refused in words or harmless, in bounded time and memory,
//! and nothing changes outside. And the jail alone: what an unpacker without any check can do in it.

mod documents;
mod jail;
mod layers;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use inro::image::Mounts;

use crate::harness::{
    Node,
    http::{Answer, Server},
    patience,
    registry::write_server,
};
use documents::Image;
use layers::Expect;

/// Most memory of the daemon and of a worker at any time, in KiB.
const MOST_DAEMON: u64 = 160 << 10;
const MOST_WORKER: u64 = 192 << 10;
const LONGEST: Duration = Duration::from_secs(10);

#[test]
fn hostile_layers_are_refused_or_harmless() {
    refuse_layers(&Node::start());
}

/// For a node with either snapshotter.
pub fn refuse_layers(node: &Node) {
    let corpus = Corpus::new(node);
    let mut wrong = Vec::new();
    for layer in layers::all(&corpus.canary.to_string_lossy(), "../../../../canary") {
        let image = Image::of(&[(layer.bytes, layer.tar)]);
        wrong.extend(corpus.pull(layer.name, image, &layer.expect));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_layer_that_trusts_the_one_below_it_stays_inside() {
    let node = Node::start();
    let corpus = Corpus::new(&node);
    let mut wrong = Vec::new();
    for (name, below, above, expect) in layers::pairs(&corpus.canary.to_string_lossy()) {
        let image = Image::of(&[below, above]);
        wrong.extend(corpus.pull(name, image, &expect));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hostile_manifests_and_configs_are_refused_or_harmless() {
    let node = Node::start();
    let corpus = Corpus::new(&node);
    let mut wrong = Vec::new();
    for document in documents::all() {
        wrong.extend(corpus.pull(document.name, document.image, &document.expect));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A node, a registry that serves what it is given, and a folder beside the store that nothing may touch.
struct Corpus<'a> {
    node: &'a Node,
    canary: PathBuf,
    before: BTreeMap<PathBuf, String>,
    /// Of the registry: what is served now, by the end of its address.
    served: Shelf,
}

type Shelf = Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>;

impl<'a> Corpus<'a> {
    fn new(node: &'a Node) -> Corpus<'a> {
        let canary = canary(node.dir());
        let served = Shelf::default();
        let shelf = served.clone();
        let server = Server::start(0, move |request, _| {
            let path = request.target.split('?').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let found = shelf.lock().expect("no panic while it is held").get(name).cloned();
            match found {
                Some((media_type, bytes)) => Answer::Give(media_type, bytes),
                None => Answer::Say("404 Not Found", String::new(), String::new()),
            }
        });
        let text = format!("server = \"http://127.0.0.1:{}\"\n", server.port);
        write_server(&node.dir().join("hosts"), "hostile.example", &text);
        Corpus {
            node,
            before: snapshot(&canary),
            canary,
            served,
        }
    }

    /// Pulls an image; what was not as expected.
    fn pull(&self, name: &str, image: Image, expect: &Expect) -> Option<String> {
        let mut shelf = HashMap::from([("latest".to_owned(), (image.media_type.to_owned(), image.manifest))]);
        for (digest, bytes) in image.content {
            let media_type = match bytes.starts_with(b"{\"manifests\"") {
                true => documents::INDEX,
                false => documents::MANIFEST,
            };
            shelf.insert(digest, (media_type.to_owned(), bytes));
        }
        *self.served.lock().expect("no panic while it is held") = shelf;
        let daemon = self.node.daemon.pid();
        // The peak since now. Source: proc_pid_clear_refs(5).
        fs::write(format!("/proc/{daemon}/clear_refs"), "5").expect("clear_refs");
        let watch = Watch::start(daemon);
        let begin = Instant::now();
        let reference = "hostile.example/library/x";
        let pulled = self.node.try_pull(reference);
        let took = begin.elapsed();
        let worker = watch.stop();
        let memory = peak(daemon).unwrap_or(0);
        eprintln!(
            "{name}: {} ms, daemon {memory} KiB, worker {worker} KiB: {}",
            took.as_millis(),
            pulled
                .as_ref()
                .map_or_else(|status| shortened(status.message()), String::clone)
        );
        let mut wrong = match (&pulled, expect) {
            (Err(status), Expect::Refused(words)) if status.message().contains(words) => Vec::new(),
            (Ok(_), Expect::Harmless(tree)) => self.look(tree),
            (Ok(_), Expect::Refused(words)) => vec![format!("taken, not refused with {words:?}")],
            (Err(status), _) => vec![format!("refused: {:?} {}", status.code(), shortened(status.message()))],
        };
        if let Err(status) = &pulled
            && status.message().len() > 2048
        {
            wrong.push(format!("an error of {} bytes", status.message().len()));
        }
        if pulled.is_ok() {
            let verified = self.node.inro_image(&["verify"]);
            if !verified.status.success() {
                wrong.push(format!("not as it was unpacked: {verified:?}"));
            }
            self.node.remove_image(reference);
        }
        for folder in ["tmp", "layers", "images"] {
            let found = fs::read_dir(self.node.dir().join("root").join(folder)).expect(folder);
            let found: Vec<_> = found.flatten().map(|entry| entry.file_name()).collect();
            if !found.is_empty() {
                wrong.push(format!("left in {folder}: {found:?}"));
            }
        }
        let after = snapshot(&self.canary);
        if after != self.before {
            wrong.push(format!("the canary: {after:#?}, was {:#?}", self.before));
        }
        if took > patience(LONGEST) {
            wrong.push(format!("took {took:?}"));
        }
        if memory > MOST_DAEMON || worker > MOST_WORKER {
            wrong.push(format!("memory in KiB: daemon {memory}, worker {worker}"));
        }
        (!wrong.is_empty()).then(|| format!("{name}: {}", wrong.join("; ")))
    }

    /// What is not as it should be in the one layer that is there.
    fn look(&self, tree: &[(&str, char)]) -> Vec<String> {
        let layers = self.node.dir().join("root/layers");
        let only = fs::read_dir(&layers).expect("layers").flatten().next();
        let Some(layer) = only.map(|entry| entry.path()) else {
            return vec!["no layer".into()];
        };
        let mounts = Mounts::default();
        let image = layer.join("erofs/layer");
        let mount = image.exists().then(|| mounts.of(&image, None).expect("a mount"));
        let layer = match mount {
            None => layer.join("fs"),
            Some(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
        };
        let kind = |name: &str| {
            let Ok(found) = fs::symlink_metadata(layer.join(name)).map(|found| found.file_type()) else {
                return '-';
            };
            match found {
                kind if kind.is_file() => 'f',
                kind if kind.is_dir() => 'd',
                kind if kind.is_symlink() => 'l',
                kind if kind.is_fifo() => 'p',
                _ => 'c',
            }
        };
        let differs = tree.iter().filter(|(name, wanted)| kind(name) != *wanted);
        differs
            .map(|(name, wanted)| format!("{name:?} is {:?}, not {wanted:?}", kind(name)))
            .collect()
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

/// A folder with what a hostile layer would like to change.
fn canary(dir: &Path) -> PathBuf {
    let canary = dir.join("canary");
    fs::create_dir(&canary).expect("canary");
    fs::write(canary.join("file"), "untouched").expect("a file");
    fs::create_dir(canary.join("folder")).expect("a folder");
    std::os::unix::fs::symlink("file", canary.join("link")).expect("a link");
    canary
}

/// Everything of a tree that a write, a link or an attribute would change.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .expect("a folder")
            .flatten()
            .map(|entry| entry.path());
        for path in entries.chain([folder.clone()]) {
            let meta = fs::symlink_metadata(&path).expect("an entry");
            let content = match meta.is_file() {
                true => fs::read_to_string(&path).expect("a file"),
                false => String::new(),
            };
            let (links, time) = (
                meta.nlink(),
                (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()),
            );
            let shown = format!(
                "{:o} {}:{} {links} {time:?} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid()
            );
            if meta.is_dir() && path != folder {
                folders.push(path.clone());
            }
            all.insert(path, shown);
        }
    }
    all
}

/// The peak of a process's memory in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Looks at the daemon's workers for as long as a pull goes on; what is shorter than a look is small.
struct Watch {
    over: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(daemon: u32) -> Watch {
        let (over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, found) = (over.clone(), most.clone());
        let thread = thread::spawn(move || {
            while !ended.load(Relaxed) {
                for worker in workers(daemon) {
                    found.fetch_max(peak(worker).unwrap_or(0), Relaxed);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Watch { over, most, thread }
    }

    fn stop(self) -> u64 {
        self.over.store(true, Relaxed);
        self.thread.join().expect("it only looks");
        self.most.load(Relaxed)
    }
}

/// The unpack workers of a daemon.
pub fn workers(daemon: u32) -> Vec<u32> {
    let mut workers = Vec::new();
    for task in fs::read_dir(format!("/proc/{daemon}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.starts_with(b"inro-unpack") {
                workers.push(pid);
            }
        }
    }
    workers
}
