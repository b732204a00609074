//! `image.writable_layer`: what a container may write into its own layer, held by the file system's project quotas.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use inro::sys::{
    project,
    quota::{self, Limit, Project},
};

use crate::{
    config,
    harness::{
        Container, Disk, Node, eventually, own_network, own_users, patience, skipped,
        v1::{self, security_profile::ProfileType},
    },
    image_volumes, images, security, stats, userns,
};

const MIB: u64 = 1 << 20;
/// Where inro's projects are.
const OURS: std::ops::RangeInclusive<u32> = 0x696e_0000..=0x696e_ffff;

/// A disk of each file system that has project quotas, with them on; or why this machine has not.
fn disks() -> impl Iterator<Item = (&'static str, Result<Disk, String>)> {
    let ext4: &[&str] = &[
        "mkfs.ext4",
        "-q",
        "-F",
        "-O",
        "quota,project",
        "-E",
        "quotatype=prjquota",
    ];
    let xfs: &[&str] = &["mkfs.xfs", "-q"];
    let all = [("ext4", ext4, "prjquota"), ("xfs", xfs, "pquota")];
    all.into_iter()
        .map(|(name, mkfs, options)| (name, Disk::mount(mkfs, 1024, options)))
}

/// Does `test` on each such disk.
fn on_each(name: &str, test: impl Fn(&Disk)) {
    for (file_system, disk) in disks() {
        match disk {
            Ok(disk) => {
                eprintln!("{name}: {file_system}");
                test(&disk);
            }
            Err(reason) => return skipped(name, &format!("no {file_system} with project quotas: {reason}")),
        }
    }
}

/// A node on a disk, with an image to run.
fn node(disk: &Disk, lines: &str) -> Node {
    let node = Node::on(disk, lines);
    node.pull("shell");
    node
}

/// The lines that limit new layers.
fn limits(mib: u64, inodes: u64) -> String {
    format!(
        "[image.writable_layer]\nsize_bytes = {}\ninodes = {inodes}\n",
        mib * MIB
    )
}

/// Has the next daemon on these folders have `new` lines in the place of `old` ones.
fn reconfigure(node: &Node, old: &str, new: &str) {
    let path = node.dir().join("config.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(old), "{text}");
    fs::write(&path, text.replace(old, new)).expect("a configuration");
}

fn folder(node: &Node, id: &str) -> File {
    File::open(node.dir().join("root/snapshots").join(id)).expect("a container's folder")
}

/// The project of a container's layer, and what the kernel knows of it.
fn project_of(node: &Node, id: &str) -> (u32, Project) {
    let folder = folder(node, id);
    let id = project::of(folder.as_fd()).expect("attributes");
    (id, quota::read(folder.as_fd(), id).expect("a quota"))
}

/// The projects of ours that have limits.
fn limited(place: &Path) -> BTreeSet<u32> {
    let place = File::open(place).expect("a folder");
    let (mut all, mut from) = (BTreeSet::new(), *OURS.start());
    while let Some((id, project)) = quota::next(place.as_fd(), from).expect("a quota") {
        if OURS.contains(&id) && project.limit != Limit::default() {
            all.insert(id);
        }
        from = id + 1;
    }
    all
}

/// Writes zeros until it cannot; how many mebibytes that were, and why there were no more.
fn fill(container: &Container, mib: u64) -> (u64, String) {
    let reply = container.exec(&[
        "dd",
        "if=/dev/zero",
        "of=/filled",
        "bs=64k",
        &format!("count={}", mib * 16),
    ]);
    let told = String::from_utf8_lossy(&reply.stderr).into_owned();
    let size: u64 = container.sh("stat -c %s /filled").parse().expect("a size");
    assert_eq!(reply.exit_code == 0, size == mib * MIB, "{told}");
    (size / MIB, told)
}

/// It cannot write more than `mib` mebibytes, and little less.
fn assert_limited(container: &Container, mib: u64) {
    let (written, told) = fill(container, mib * 2);
    assert!((mib - 3..=mib).contains(&written), "{written} MiB: {told}");
    assert!(
        told.contains("No space left") || told.to_lowercase().contains("quota exceeded"),
        "{told}"
    );
}

#[test]
fn a_full_layer_is_its_containers_alone() {
    on_each("a_full_layer_is_its_containers_alone", |disk| {
        let node = node(disk, &limits(16, 0));
        let pod = node.pod(|_| {});
        let (greedy, neighbour) = (
            pod.run_container("shell", &["sleep", "1000"]),
            pod.run_container("shell", &["sleep", "1000"]),
        );
        assert_limited(&greedy, 16);
        assert_eq!(fill(&neighbour, 12).0, 12);
        assert_eq!(greedy.sh("echo alive"), "alive");
        // The file system that it sees is as large as its limit.
        let told = greedy.sh("df -m / | tail -n 1");
        assert_eq!(told.split_whitespace().nth(1), Some("16"), "{told}");
        // What it removes is room again; what is the image's takes none.
        greedy.sh("rm /filled /etc/passwd");
        assert_limited(&greedy, 16);
        // Another one in the place of the full one has all of its own.
        greedy.stop(0);
        greedy.remove();
        assert_limited(&pod.run_container("shell", &["sleep", "1000"]), 16);
    });
}

#[test]
fn a_layer_may_have_so_many_files() {
    on_each("a_layer_may_have_so_many_files", |disk| {
        let node = node(disk, &limits(0, 200));
        let pod = node.pod(|_| {});
        let run = || pod.run_container("shell", &["sleep", "1000"]);
        let (greedy, neighbour) = (run(), run());
        let line = "mkdir /many; n=0; while [ $n -lt 300 ] && : > /many/$n; do n=$((n + 1)); done; echo $n";
        let many = |container: &Container| container.sh(&format!("sh -c '{line}' 2>/dev/null || ls /many | wc -l"));
        let made: u64 = many(&greedy).parse().expect("a number");
        assert!((180..200).contains(&made), "{made} files");
        assert_eq!(
            neighbour.sh("mkdir /some; cd /some; touch $(seq 100); ls | wc -l"),
            "100"
        );
        assert_eq!(fill(&neighbour, 32).0, 32, "bytes are not limited");
    });
}

#[test]
fn stats_tell_what_the_quota_counts() {
    on_each("stats_tell_what_the_quota_counts", |disk| {
        let node = node(disk, &limits(64, 0));
        // A file without a name is found by nobody who looks at the folders.
        let line =
            "exec 3>/gone; rm /gone; dd if=/dev/zero bs=1M count=8 2>/dev/null >&3; sync; echo written; sleep 1000";
        let container = node.pod(|_| {}).run_container("shell", &["sh", "-c", line]);
        container.wait_logged("written");
        let project = eventually("stats tell it", Duration::from_secs(30), || {
            let layer = stats::stats(&node, &container).writable_layer.expect("a layer");
            let (_, project) = project_of(&node, &container.id);
            let told = (stats::value(&layer.used_bytes), stats::value(&layer.inodes_used));
            (told == (project.used_bytes, project.inodes)).then_some(project)
        });
        // XFS takes some more for a file that grows.
        assert!((8 * MIB..24 * MIB).contains(&project.used_bytes), "{project:?}");
        assert!(project.inodes <= 12, "{project:?}");
    });
}

#[test]
fn no_two_layers_share_a_project_and_none_outlives_its_container() {
    on_each(
        "no_two_layers_share_a_project_and_none_outlives_its_container",
        |disk| {
            let node = node(disk, &limits(16, 1000));
            let pod = node.pod(|_| {});
            let expected = Limit {
                bytes: 16 * MIB,
                inodes: 1000,
            };
            for _ in 0..2 {
                let containers: Vec<_> = thread::scope(|scope| {
                    let make = || pod.container("shell", &["sleep", "1000"], |_| {});
                    let made: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                    made.into_iter().map(|made| made.join().expect("a container")).collect()
                });
                let mut projects = BTreeSet::new();
                for container in &containers {
                    let (id, project) = project_of(&node, &container.id);
                    assert!(OURS.contains(&id) && project.limit == expected, "{id}: {project:?}");
                    projects.insert(id);
                }
                assert_eq!(projects.len(), containers.len());
                assert_eq!(limited(node.dir()), projects);
                containers.iter().for_each(Container::remove);
                assert_eq!(limited(node.dir()), BTreeSet::new());
            }
        },
    );
}

#[test]
fn a_limit_is_its_containers_whatever_the_daemon_is_told_later() {
    on_each("a_limit_is_its_containers_whatever_the_daemon_is_told_later", |disk| {
        let (small, large) = (limits(16, 0), limits(32, 0));
        let mut node = node(disk, &small);
        let pod = node.pod(|_| {});
        let run = || pod.run_container("shell", &["sleep", "1000"]);
        let first = run();
        node.daemon.kill9();
        node.daemon.restart();
        assert_limited(&first, 16);
        node.daemon.kill9();
        reconfigure(&node, &small, &large);
        node.daemon.restart();
        let second = run();
        node.daemon.kill9();
        reconfigure(&node, &large, "");
        node.daemon.restart();
        let third = run();
        assert_limited(&first, 16);
        assert_limited(&second, 32);
        assert_eq!(fill(&third, 40).0, 40);
        assert_eq!(project_of(&node, &third.id).0, 0);
        assert_eq!(limited(node.dir()).len(), 2);
        for container in [first, second] {
            container.stop(0);
            container.remove();
        }
        assert_eq!(limited(node.dir()), BTreeSet::new());
    });
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_no_limit() {
    on_each("a_daemon_that_is_killed_at_any_moment_leaves_no_limit", |disk| {
        let mut node = node(disk, &limits(16, 0));
        let pod = node.pod(|_| {});
        let kept = pod.run_container("shell", &["sleep", "1000"]);
        for round in 0..6 {
            thread::scope(|scope| {
                // Until there is nobody to ask.
                scope.spawn(|| {
                    while let Ok(container) = pod.try_container("shell", &["sleep", "1000"], |_| {}) {
                        if container.try_remove().is_err() {
                            break;
                        }
                    }
                });
                thread::sleep(patience(Duration::from_millis(40 + 13 * round)));
                node.daemon.kill9();
            });
            node.daemon.restart();
            for container in node.cri.list_containers(Default::default()).expect("list").containers {
                if container.id != kept.id {
                    let request = v1::RemoveContainerRequest {
                        container_id: container.id,
                    };
                    node.cri.remove_container(request).expect("remove");
                }
            }
            assert_eq!(
                limited(node.dir()),
                BTreeSet::from([project_of(&node, &kept.id).0]),
                "{round}"
            );
        }
        assert_limited(&kept, 16);
        // What no daemon would leave: a folder that nobody planned, and limits of nothing at all, in its range and beyond.
        node.daemon.kill9();
        let place = File::open(node.dir()).expect("a folder");
        let limit = Limit { bytes: MIB, inodes: 0 };
        let [stray, unused, foreign] = [*OURS.start() + 1, *OURS.start() + 2, *OURS.end() + 1];
        let nobodys = node.dir().join("root/snapshots").join("7".repeat(64));
        fs::create_dir(&nobodys).expect("a folder");
        project::assign(File::open(&nobodys).expect("a folder").as_fd(), stray).expect("a project");
        fs::create_dir(nobodys.join("upper")).expect("a folder");
        for id in [stray, unused, foreign] {
            quota::set_limit(place.as_fd(), id, limit).expect("a limit");
        }
        node.daemon.restart();
        assert!(!nobodys.exists());
        assert_eq!(limited(node.dir()), BTreeSet::from([project_of(&node, &kept.id).0]));
        assert_eq!(quota::read(place.as_fd(), foreign).expect("a quota").limit, limit);
        quota::set_limit(place.as_fd(), foreign, Limit::default()).expect("no limit");
    });
}

#[test]
fn a_pod_with_users_of_its_own_cannot_leave_its_project() {
    on_each("a_pod_with_users_of_its_own_cannot_leave_its_project", |disk| {
        let node = node(disk, &limits(16, 0));
        let pod = node.pod(|config| {
            own_network(config);
            own_users(config);
        });
        let container = pod.run_container("shell", &["sleep", "1000"]);
        assert_limited(&container, 16);
        let pid = container.pid().to_string();
        // chattr(1) as root of the pod; of whom the file is.
        let chattr = |arguments: &[&str]| -> Output {
            Command::new("nsenter")
                .args(["--target", &pid, "--user", "chattr"])
                .args(arguments)
                .arg(format!("/proc/{pid}/root/filled"))
                .output()
                .expect("nsenter")
        };
        let left = chattr(&["-p", "0"]);
        let told = String::from_utf8_lossy(&left.stderr);
        assert!(!left.status.success() && told.contains("Invalid argument"), "{told}");
        let other = chattr(&["+d"]);
        assert!(other.status.success(), "what else it may: {other:?}");
        let (_, project) = project_of(&node, &container.id);
        assert!(project.used_bytes > 12 * MIB, "{project:?}");
    });
}

#[test]
fn no_container_leaves_its_project_but_a_privileged_one() {
    on_each("no_container_leaves_its_project_but_a_privileged_one", |disk| {
        let mut node = node(disk, &limits(16, 0));
        let run = |node: &Node, edit: &dyn Fn(&mut v1::LinuxContainerSecurityContext)| {
            let pod = node.pod(|config| {
                let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
                security.expect("made by pod").privileged = true;
            });
            let container = pod.container("shell", &["sh", "-c", "probe leave /first; sleep 1000"], |config| {
                security::security(config, edit);
            });
            container.start();
            container
        };
        let containers = [ProfileType::Unconfined, ProfileType::RuntimeDefault]
            .map(|kind| run(&node, &|security| security.seccomp = Some(security::profile(kind, ""))));
        const REFUSED: &str = "1 1 38";
        for container in &containers {
            container.wait_logged(REFUSED);
            assert_eq!(container.sh("probe leave /second"), REFUSED);
        }
        let privileged = run(&node, &|security| security.privileged = true);
        assert!(
            privileged.sh("probe leave /second").starts_with("0 0 "),
            "the probe can do it"
        );
        // An exec keeps it too whatever the daemon limits by then.
        node.daemon.kill9();
        reconfigure(&node, &limits(16, 0), "");
        node.daemon.restart();
        for container in &containers {
            assert_eq!(container.sh("probe leave /third"), REFUSED);
        }
    });
}

#[test]
fn with_limits_everything_else_is_as_without() {
    on_each("with_limits_everything_else_is_as_without", |disk| {
        let node = Node::on(disk, &limits(64, 5000));
        images::apply_layers(&node);
        image_volumes::mount_read_only(&node);
        userns::map_images(&node);
        let readonly = node.pod(|_| {}).container("shell", &["sleep", "1000"], |config| {
            security::security(config, |security| security.readonly_rootfs = true);
        });
        readonly.start();
        assert!(readonly.exec(&["touch", "/file"]).exit_code != 0);
    });
}

#[test]
fn a_limit_that_the_disk_cannot_hold_is_refused_with_what_is_missing() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let ext4 = ["mkfs.ext4", "-q", "-F"];
    let quota = [&ext4[..], &["-O", "quota,project", "-E", "quotatype=prjquota"]].concat();
    let disks = [
        ("tmpfs", "a file system that has project quotas", Ok(None)),
        (
            "ext4",
            "the features quota and project",
            Disk::mount(&ext4, 64, "").map(Some),
        ),
        (
            "ext4",
            "the mount option prjquota",
            Disk::mount(&quota, 64, "").map(Some),
        ),
        (
            "xfs",
            "the mount option pquota",
            Disk::mount(&["mkfs.xfs", "-q"], 512, "").map(Some),
        ),
    ];
    for (number, (file_system, missing, disk)) in disks.into_iter().enumerate() {
        let disk = match disk {
            Ok(disk) => disk,
            // What the others say is a test all the same.
            Err(reason) => {
                eprintln!("no {file_system} for {missing:?}: {reason}");
                continue;
            }
        };
        let place = match &disk {
            Some(disk) => disk.place().to_owned(),
            None => dir.path().join(number.to_string()),
        };
        fs::create_dir_all(&place).expect("a folder");
        let mounted = disk.is_none().then(|| Tmpfs::on(&place));
        for (key, line) in [
            ("image.writable_layer.size_bytes", "size_bytes = 16777216"),
            ("image.writable_layer.inodes", "inodes = 1000"),
        ] {
            fs::write(place.join("config.toml"), format!("[image.writable_layer]\n{line}\n")).expect("config.toml");
            let output = config::serve(&place);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{told}");
            let snapshots = place.join("root/snapshots").display().to_string();
            for part in [key, &snapshots, &format!(" is on {file_system}, "), missing] {
                assert!(told.contains(part), "{part:?} is not told: {told}");
            }
        }
        drop(mounted);
    }
}

/// A tmpfs until it is dropped.
struct Tmpfs<'a>(&'a Path);

impl Tmpfs<'_> {
    fn on(place: &Path) -> Tmpfs<'_> {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", place, "tmpfs", flags, c"").expect("mount");
        Tmpfs(place)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
