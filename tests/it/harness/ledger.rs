//! The host before and after a test: whatever is there afterwards and was not before is a leak.
//!
//! Two comparisons. With the daemon still running and its pods removed: its descriptors by kind, its children and
//! zombies, the files of its run folder, the addresses of pods. After it ended: the host's mounts (pinned namespaces are
//! mounts), links, nftables' tables, processes of ours, and every cgroup below the test's parent. A node that is in a
//! network namespace has the links and tables of that one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{Daemon, Driver, Netns, SCRATCH, patience};

/// What was there before.
pub struct Ledger {
    host: Host,
    netns: Option<Netns>,
    cgroup: String,
    serving: Option<Serving>,
}

/// What a daemon without pods holds.
#[derive(Default)]
struct Serving {
    descriptors: BTreeMap<String, usize>,
    files: BTreeSet<PathBuf>,
}

/// What the host holds.
struct Host {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    processes: BTreeSet<(u32, String)>,
}

/// How long the host may take to become as it was: kernel work after a last reference is asynchronous.
const SETTLE: Duration = Duration::from_secs(5);

impl Ledger {
    /// Notes the host and makes the cgroup of the test `name` in every hierarchy.
    pub fn open(dir: &Path, name: &str, netns: Option<Netns>) -> Ledger {
        let driver = Driver::of_tests();
        let cgroup = driver.parent(name);
        driver.make(&cgroup);
        Ledger {
            host: Host::now(dir, &cgroup, netns.as_ref()),
            netns,
            cgroup,
            serving: None,
        }
    }

    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Notes what the daemon holds before its first pod.
    pub fn daemon_started(&mut self, pid: u32, dir: &Path) {
        self.serving = Some(Serving::now(pid, dir));
    }

    /// Compares with the daemon running, ends it, compares the host, and takes away what is left. The leaks.
    pub fn settle(&self, daemon: &mut Daemon, dir: &Path) -> Vec<String> {
        let mut leaks = Vec::new();
        if let Some(before) = &self.serving {
            let pid = daemon.pid();
            leaks = until_empty(|| before.missed(&Serving::now(pid, dir), pid));
        }
        let status = daemon.terminate();
        if !status.success() {
            leaks.push(format!("the daemon ended with {status}"));
        }
        leaks.extend(until_empty(|| {
            let mut leaks = self.host.missed(&Host::now(dir, &self.cgroup, self.netns.as_ref()));
            leaks.extend(
                cgroups(&self.cgroup)
                    .into_iter()
                    .map(|path| format!("cgroup {}", path.display())),
            );
            leaks.extend(
                Driver::of_tests()
                    .units()
                    .into_iter()
                    .map(|unit| format!("unit {unit}")),
            );
            leaks
        }));
        self.take_away(dir);
        leaks
    }

    /// Leaves a usable host to the next test even when this one leaked.
    fn take_away(&self, dir: &Path) {
        for (pid, _) in ours(dir, &self.cgroup) {
            super::daemon::signal(pid, rustix::process::Signal::KILL);
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(mount).starts_with(dir) {
                let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
            }
        }
        if Driver::of_tests() == Driver::Systemd {
            return Driver::Systemd.remove(&self.cgroup);
        }
        for hierarchy in hierarchies() {
            remove_cgroups(&hierarchy.join(&self.cgroup));
        }
    }
}

impl Serving {
    fn now(pid: u32, dir: &Path) -> Serving {
        let mut serving = Serving::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.display().to_string();
            let kind = match target.split_once(':') {
                // Idle connections to a registry and those of a client come and go.
                Some(("socket", _)) => continue,
                Some((kind, _)) if !target.starts_with('/') => kind.to_owned(),
                _ => target,
            };
            *serving.descriptors.entry(kind).or_default() += 1;
        }
        walk(&dir.join("state"), &mut serving.files);
        walk(&dir.join("root/net/leases"), &mut serving.files);
        walk(&dir.join("root/net/attachments"), &mut serving.files);
        serving
    }

    fn missed(&self, now: &Serving, pid: u32) -> Vec<String> {
        let mut leaks = Vec::new();
        for (kind, &count) in &now.descriptors {
            let before = self.descriptors.get(kind).copied().unwrap_or(0);
            if count > before {
                leaks.push(format!("{} descriptors more of the daemon: {kind}", count - before));
            }
        }
        leaks.extend(
            now.files
                .difference(&self.files)
                .map(|path| format!("file {}", path.display())),
        );
        leaks.extend(
            zombies(pid)
                .into_iter()
                .map(|(pid, name)| format!("zombie {pid} ({name})")),
        );
        leaks
    }
}

impl Host {
    fn now(dir: &Path, cgroup: &str, netns: Option<&Netns>) -> Host {
        let (links, tables) = match netns {
            Some(netns) => netns.within(|| (links(), tables())),
            None => (links(), tables()),
        };
        Host {
            mounts: mounts(dir),
            links,
            tables,
            processes: ours(dir, cgroup),
        }
    }

    fn missed(&self, now: &Host) -> Vec<String> {
        let mut leaks = Vec::new();
        leaks.extend(
            now.mounts
                .difference(&self.mounts)
                .map(|mount| format!("mount {mount}")),
        );
        leaks.extend(now.links.difference(&self.links).map(|link| format!("link {link}")));
        leaks.extend(
            now.tables
                .difference(&self.tables)
                .map(|table| format!("nftables {table}")),
        );
        let processes = now.processes.difference(&self.processes);
        leaks.extend(processes.map(|(pid, command)| format!("process {pid} ({command})")));
        leaks
    }
}

fn until_empty(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let start = Instant::now();
    loop {
        let leaks = look();
        if leaks.is_empty() || start.elapsed() > patience(SETTLE) {
            return leaks;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Mount point, type and source of every mount of this mount namespace but those of other nodes, which may still have
/// pods.
fn mounts(dir: &Path) -> BTreeSet<String> {
    let others = dir.with_file_name(SCRATCH).display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table
        .lines()
        .filter_map(|line| {
            let (fields, kind) = line.split_once(" - ")?;
            let fields: Vec<_> = fields.split(' ').collect();
            let target = *fields.get(4)?;
            let own = !target.starts_with(&others) || Path::new(target).starts_with(dir);
            own.then(|| format!("{target} of {} ({kind})", fields[3]))
        })
        .collect()
}

/// Those of the calling thread's network namespace.
pub(super) fn links() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("interfaces");
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    // One bridge and one table stay for the next daemon: they belong to the node, not to a pod.
    names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name != "inro0")
        .collect()
}

fn tables() -> BTreeSet<String> {
    let listing = Command::new("nft").args(["list", "tables"]).output().expect("nft");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    listing
        .lines()
        .map(str::to_owned)
        .filter(|table| !table.ends_with(" inro0"))
        .collect()
}

/// Processes of this node: those in its cgroup, and those that name its folder.
fn ours(dir: &Path, cgroup: &str) -> BTreeSet<(u32, String)> {
    let dir = dir.display().to_string();
    processes()
        .filter(|&pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let mentions = |bytes: Vec<u8>, text: &str| String::from_utf8_lossy(&bytes).contains(text);
            let holds = || {
                let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                descriptors
                    .flat_map(|entry| fs::read_link(entry.path()))
                    .any(|path| path.starts_with(&dir))
            };
            pid != std::process::id()
                && (mentions(read("cgroup"), cgroup) || (mentions(read("cmdline"), "inro") && holds()))
        })
        .map(|pid| {
            (
                pid,
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            )
        })
        .collect()
}

/// Dead descendants of `root` that nobody waited for.
fn zombies(root: u32) -> Vec<(u32, String)> {
    let all = family(root).into_iter();
    all.filter(|(_, _, dead)| *dead)
        .map(|(pid, name, _)| (pid, name))
        .collect()
}

/// The processes below `root`.
pub fn descendants(root: u32) -> Vec<u32> {
    family(root).into_iter().map(|(pid, ..)| pid).collect()
}

/// Descendants of `root`: number, name, and whether it is dead.
fn family(root: u32) -> Vec<(u32, String, bool)> {
    let mut children = BTreeMap::<u32, Vec<(u32, String, bool)>>::new();
    for pid in processes() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = tail.split(' ');
        let (state, parent) = (fields.next(), fields.next().and_then(|parent| parent.parse().ok()));
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        children
            .entry(parent.unwrap_or(0))
            .or_default()
            .push((pid, name, state == Some("Z")));
    }
    let (mut found, mut todo) = (Vec::new(), vec![root]);
    while let Some(parent) = todo.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            todo.push(child.0);
            found.push(child);
        }
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The mount points of all cgroup hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[2].starts_with("cgroup"))
        .map(|fields| fields[1].into())
        .collect()
}

/// Cgroups below the test's parent, in every hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies() {
        folders(&hierarchy.join(name), &mut found);
    }
    found.into_iter().collect()
}

fn folders(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders(&entry.path(), found);
            found.insert(entry.path());
        }
    }
}

fn remove_cgroups(dir: &Path) {
    let mut below = BTreeSet::new();
    folders(dir, &mut below);
    // Children sort after their parents.
    for path in below.iter().rev().map(PathBuf::as_path).chain([dir]) {
        let _ = fs::remove_dir(path);
    }
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}
