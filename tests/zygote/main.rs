//! The zygote against the real kernel: containers made of one busybox on a tmpfs. Needs root, cgroup v1 controllers
//! and the busybox that `tests/tools.sh` unpacks; skips with a reason without them.

mod attach;
mod create;
mod exec;
mod pods;
mod survival;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use inro::{
    model::{BaseMount, CapabilitySets, ContainerId, IdRange, UserNamespace},
    zygote::{
        BeginRequest, CgroupJoin, CreateRequest, Created, Exec, ExecProcess, ExecRequest, ExecStdio, Launch,
        NamespaceFds, NamespaceKind, NamespacesRequest, Place, PodInitRequest, Stage, Stdio, Zygote, ZygoteError,
        namespace_path, start,
    },
};
use rustix::{
    fs::{CWD, MemfdFlags, memfd_create},
    mount::{OpenTreeFlags, UnmountFlags, mount, open_tree, unmount},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::{Value, json};

/// One at a time: each test compares the node with before.
static ALONE: Mutex<()> = Mutex::new(());

const DEFAULT_CAPS: u64 = 0xa804_25fb;
const CONTROLLERS: &[&str] = &["pids", "freezer", "devices", "cpu"];

/// A state folder on a tmpfs of its own and a zygote; everything goes when dropped.
struct Ground {
    base: PathBuf,
    state: PathBuf,
    zygote: Zygote,
    mounts_before: usize,
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl Ground {
    fn new() -> Option<Self> {
        let busybox = tools().join("busybox/bin/busybox");
        if !rustix::process::geteuid().is_root() || !busybox.exists() {
            eprintln!("skipped: needs root and {}", busybox.display());
            return None;
        }
        if CONTROLLERS
            .iter()
            .any(|name| !Path::new("/sys/fs/cgroup").join(name).join("tasks").exists())
        {
            eprintln!("skipped: needs cgroup v1 controllers");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let mounts_before = mounts();
        let base = std::env::temp_dir().join(format!("inro-zygote-{}-{}", std::process::id(), random()));
        fs::create_dir(&base).unwrap();
        mount(
            "tmpfs",
            &base,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .unwrap();
        let state = base.join("state");
        fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        let rootfs = base.join("rootfs");
        for dir in ["bin", "dev", "proc", "sys", "tmp", "etc", "data"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy(&busybox, rootfs.join("bin/busybox")).unwrap();
        for library in libraries(&busybox) {
            let place = rootfs.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
        for name in [
            "sh", "cat", "sleep", "true", "id", "ls", "tty", "stty", "readlink", "setsid", "kill", "env",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(rootfs.join("etc/plain"), "not a program").unwrap();
        // Of this thread only, but the zygote is forked by it: nothing of it may reach a container.
        let groups = [27, 4242].map(rustix::process::Gid::from_raw);
        rustix::thread::set_thread_groups(&groups).unwrap();
        let args: Vec<OsString> = vec!["zygote".into(), state.clone().into()];
        let zygote = Zygote::spawn(Launch {
            exe: env!("CARGO_BIN_EXE_inro").into(),
            args,
        })
        .unwrap();
        Some(Self {
            base,
            state,
            zygote,
            mounts_before,
            _alone: alone,
        })
    }

    fn rootfs(&self) -> OwnedFd {
        tree(&self.base.join("rootfs"))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        unmount(&self.base, UnmountFlags::DETACH).unwrap();
        fs::remove_dir(&self.base).unwrap();
        assert_eq!(mounts(), self.mounts_before, "mounts left behind");
    }
}

/// Both parts of a request for a container.
type Asked = (BeginRequest, CreateRequest);

async fn create(zygote: &Zygote, (begin, rest): Asked) -> Result<Created, ZygoteError> {
    zygote.begin(begin).await?.create(rest).await
}

/// One container: its folder, its spec, its cgroups.
struct Box_ {
    id: ContainerId,
    dir: PathBuf,
    spec: Value,
    stdio: Stdio,
    capabilities: CapabilitySets,
    seccomp: Option<Vec<u8>>,
    namespaces: NamespaceFds,
    mounts: Vec<OwnedFd>,
}

impl Box_ {
    fn new(ground: &Ground, args: &[&str]) -> Self {
        let id = ContainerId::random();
        let dir = ground.state.join(id.as_str());
        fs::create_dir(&dir).unwrap();
        for name in CONTROLLERS {
            fs::create_dir(cgroup(name, &id)).unwrap();
        }
        let sets = CapabilitySets {
            bounding: DEFAULT_CAPS,
            effective: DEFAULT_CAPS,
            permitted: DEFAULT_CAPS,
            ..CapabilitySets::default()
        };
        Self {
            id,
            dir,
            spec: spec(args),
            stdio: Stdio::default(),
            capabilities: sets,
            seccomp: None,
            namespaces: NamespaceFds::default(),
            mounts: Vec::new(),
        }
    }

    async fn create(&mut self, ground: &Ground) -> Result<Created, ZygoteError> {
        create(&ground.zygote, self.request(ground)).await
    }

    fn begin(&self) -> BeginRequest {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let namespaces = self.spec["linux"]["namespaces"].as_array().unwrap();
        let find = |kind: &str| namespaces.iter().find(|namespace| namespace["type"] == kind);
        BeginRequest {
            id: self.id.clone(),
            dir: self.dir.clone(),
            stdio: self.stdio,
            log: Some(log.into()),
            first_pid: find("user").is_none() && find("pid").is_some_and(|pids| pids["path"].is_null()),
            born_in_cgroup: false,
        }
    }

    fn request(&mut self, ground: &Ground) -> Asked {
        (self.begin(), self.rest(ground))
    }

    fn rest(&mut self, ground: &Ground) -> CreateRequest {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).unwrap();
        let user = &self.spec["process"]["user"];
        let owner = (
            user["uid"].as_u64().unwrap() as u32,
            user["gid"].as_u64().unwrap() as u32,
        );
        CreateRequest {
            rootfs: ground.rootfs(),
            root: (0, 0),
            base: Vec::new(),
            devices: Vec::new(),
            files: Vec::new(),
            closed: Default::default(),
            volumes: Vec::new(),
            mounts: std::mem::take(&mut self.mounts),
            cgroups: Vec::new(),
            namespaces: std::mem::take(&mut self.namespaces),
            cgroup: self.join(),
            seccomp: self.seccomp.as_deref().map(memfd),
            apparmor: None,
            capabilities: self.capabilities,
            owner,
            cwd: self.spec["process"]["cwd"].as_str().unwrap().into(),
            oom_score_adj: Some(500),
            place: Place::small(),
            halt: None,
            start_hooks: Vec::new(),
            state: Default::default(),
        }
    }

    fn join(&self) -> CgroupJoin {
        let open = |name: &&str| {
            File::options()
                .write(true)
                .open(cgroup(name, &self.id).join("tasks"))
                .unwrap()
                .into()
        };
        CgroupJoin::V1(CONTROLLERS.iter().map(open).collect())
    }

    fn start(&self) -> Result<(), ZygoteError> {
        start(&self.dir, Duration::ZERO).map(drop)
    }

    /// Creates, starts, waits for the exit record; the log.
    async fn run(&mut self, ground: &Ground) -> String {
        self.create(ground).await.unwrap();
        self.start().unwrap();
        eventually("the exit record", || self.dir.join("exit").exists());
        eventually("the end of the shim", || !self.dir.join("shim.sock").exists());
        self.log()
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap();
        // With the CRI prefix or without: only the message counts here.
        let message = |line: &str| match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            [_, "stdout" | "stderr", "F" | "P", message] => message.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(message).collect::<Vec<_>>().join("\n")
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(cgroup("pids", &self.id).join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    async fn exec(&self, ground: &Ground, init: u32, args: &[&str]) -> Result<(Exec, File), ZygoteError> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stdio = ExecStdio::Pipes {
            stdin: None,
            stdout: Some(write.try_clone().unwrap()),
            stderr: Some(write),
        };
        let exec = ground.zygote.exec(self.exec_request(init, args, stdio)).await?;
        Ok((exec, read.into()))
    }

    fn exec_request(&self, init: u32, args: &[&str], stdio: ExecStdio) -> ExecRequest {
        let pid = Pid::from_raw(init as i32).unwrap();
        ExecRequest {
            init_pid: init,
            init_pidfd: pidfd_open(pid, PidfdFlags::empty()).unwrap(),
            process: ExecProcess {
                args: args.iter().map(|arg| arg.to_string()).collect(),
                env: vec!["PATH=/bin".into(), "HOME=/".into()],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: vec![],
                capabilities: self.capabilities,
                no_new_privs: false,
                apparmor: None,
            },
            seccomp: self.seccomp.as_deref().map(memfd),
            cgroup: self.join(),
            stdio,
            owner: (0, 0),
        }
    }
}

impl Drop for Box_ {
    fn drop(&mut self) {
        eventually("an empty cgroup", || {
            for pid in self.processes() {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            CONTROLLERS.iter().all(|name| {
                let dir = cgroup(name, &self.id);
                !dir.exists() || fs::remove_dir(dir).is_ok()
            }) || !cgroup("pids", &self.id).exists()
        });
        eventually("no process that names the container", || {
            let needle = self.id.as_str().as_bytes();
            !command_lines()
                .iter()
                .any(|line| line.windows(needle.len()).any(|part| part == needle))
        });
    }
}

fn block<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn report(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!("{name:16} p50 {:?} p95 {:?}", at(50), at(95));
}

fn spec(args: &[&str]) -> Value {
    let mut caps = names(DEFAULT_CAPS);
    caps.extend(["CAP_SYS_ADMIN", "CAP_SETPCAP"].map(str::to_owned));
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "/stage/rootfs"},
        "hostname": "box",
        "process": {
            "args": args,
            "cwd": "/",
            "env": ["PATH=/bin", "HOME=/root"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "inheritable": [], "ambient": []},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

fn names(mask: u64) -> Vec<String> {
    const ALL: &[(u32, &str)] = &[
        (0, "CHOWN"),
        (1, "DAC_OVERRIDE"),
        (3, "FOWNER"),
        (4, "FSETID"),
        (5, "KILL"),
        (6, "SETGID"),
        (7, "SETUID"),
        (8, "SETPCAP"),
        (10, "NET_BIND_SERVICE"),
        (13, "NET_RAW"),
        (18, "SYS_CHROOT"),
        (27, "MKNOD"),
        (29, "AUDIT_WRITE"),
        (31, "SETFCAP"),
    ];
    ALL.iter()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// A filter of one instruction: allow.
fn allow_all() -> Vec<u8> {
    let mut program = vec![0x06, 0, 0, 0];
    program.extend(0x7fff_0000u32.to_ne_bytes());
    program
}

fn memfd(bytes: &[u8]) -> OwnedFd {
    let mut file = File::from(memfd_create("filter", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.into()
}

fn tree(path: &Path) -> OwnedFd {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .unwrap()
}

fn name_of(id: &ContainerId) -> String {
    format!("inro-zygote-test-{}", &id.as_str()[..16])
}

fn cgroup(controller: &str, id: &ContainerId) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(name_of(id))
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

fn command_lines() -> Vec<Vec<u8>> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok());
    pids.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .collect()
}

fn random() -> String {
    ContainerId::random().as_str()[..8].to_owned()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "no {what} in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where `tests/tools.sh` puts what it fetches: in the target folder, of which the tested binary is part.
fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_inro")).ancestors().nth(3);
    target.expect("target/TRIPLE/PROFILE/inro").join("tools")
}

/// The shared libraries of a program, and its loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = std::process::Command::new("ldd").arg(program).output().unwrap();
    let words = String::from_utf8(listed.stdout).unwrap();
    words
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}
