//! An unmount that takes long: what the kernel still has to write goes nowhere. Nobody waits for it but its container.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{
    Container, Node,
    disk::{mount_loop, path, run},
    eventually, patience, skipped, v1,
};

#[test]
fn no_list_waits_for_a_slow_unmount() {
    let node = Node::start();
    node.pull("shell");
    let disk = match Disk::mount(node.dir()) {
        Ok(disk) => disk,
        Err(reason) => return skipped("no_list_waits_for_a_slow_unmount", &reason),
    };
    let pod = node.pod(|_| {});
    let other = pod.run_container("shell", &["sleep", "1000"]);
    let line = "head -c 1000000 /dev/zero > /volume/file; echo written; exec sleep 1000";
    let writer = pod.container("shell", &["sh", "-c", line], |config| {
        config.mounts.push(v1::Mount {
            container_path: "/volume".into(),
            host_path: disk.upper.display().to_string(),
            ..Default::default()
        });
    });
    writer.start();
    writer.wait_logged("written");
    let init = writer.pid();
    // From now on the container alone has it mounted: its end is the unmount.
    disk.detach();
    let frozen = disk.freeze();
    thread::scope(|scope| {
        let stop = scope.spawn(|| stop(&node, &writer));
        eventually("the end of the container waits for the unmount", SOON, || {
            (state_of(init) == Some('D')).then_some(())
        });
        let cri = &node.cri;
        let status = || v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let calls: [(&str, &dyn Fn()); 10] = [
            ("ListContainers", &|| {
                drop(cri.list_containers(Default::default()).expect("list"))
            }),
            ("ListPodSandbox", &|| {
                drop(cri.list_pod_sandbox(Default::default()).expect("list"))
            }),
            ("ListContainerStats", &|| {
                drop(cri.list_container_stats(Default::default()).expect("list"))
            }),
            ("ListPodSandboxStats", &|| {
                drop(cri.list_pod_sandbox_stats(Default::default()).expect("list"))
            }),
            ("ListPodSandboxMetrics", &|| {
                drop(cri.list_pod_sandbox_metrics(Default::default()).expect("list"))
            }),
            ("ListImages", &|| {
                drop(cri.list_images(Default::default()).expect("list"))
            }),
            ("ImageFsInfo", &|| {
                drop(cri.image_fs_info(Default::default()).expect("usage"))
            }),
            ("PodSandboxStatus", &|| {
                drop(cri.pod_sandbox_status(status()).expect("status"))
            }),
            ("ContainerStatus of another", &|| drop(other.status())),
            ("ContainerStatus of its own", &|| drop(writer.status())),
        ];
        for _ in 0..ROUNDS {
            for (name, call) in &calls {
                let begin = Instant::now();
                call();
                let took = begin.elapsed();
                assert!(took < patience(Duration::from_secs(1)), "{name}: {took:?}");
            }
        }
        // Neither does what other containers do.
        assert_eq!(other.sh("echo alive"), "alive");
        pod.run_container("shell", &["true"]).remove();
        assert_eq!(state_of(init), Some('D'), "it waits still");
        assert!(!stop.is_finished(), "nothing was waited for");
        assert_eq!(writer.status().state(), v1::ContainerState::ContainerRunning);
        frozen.thaw();
    });
    assert_eq!(writer.status().exit_code, 137);
    writer.remove();
}

/// StopContainer, as often as the kubelet would call it: a container that cannot die yet is told as such.
fn stop(node: &Node, container: &Container) {
    let request = v1::StopContainerRequest {
        container_id: container.id.clone(),
        timeout: 0,
    };
    eventually("the container stops", SOON, || {
        match node.cri.stop_container(request.clone()) {
            Ok(_) => Some(()),
            Err(status) if status.code() == Code::DeadlineExceeded => None,
            Err(status) => panic!("stop: {status:?}"),
        }
    });
}

/// A process's state as proc_pid_stat(5) has it; `D`: it waits and no signal ends that.
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.chars().next()
}

/// A file system on a file of another one. While the lower one is frozen, what is written to the upper one's device
/// waits there, and so does its last unmount.
struct Disk {
    lower: PathBuf,
    upper: PathBuf,
}

impl Disk {
    /// Why not, if this machine cannot.
    fn mount(dir: &Path) -> Result<Disk, String> {
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        let disk = Disk { lower, upper };
        let mkfs = ["mkfs.ext4", "-q", "-F"];
        mount_loop(&dir.join("lower.img"), &mkfs, 64, "", &disk.lower)?;
        mount_loop(&disk.lower.join("upper.img"), &mkfs, 32, "", &disk.upper)?;
        Ok(disk)
    }

    /// Takes the upper one from the host; who has it mounted elsewhere keeps it.
    fn detach(&self) {
        run("umount", &["--lazy", path(&self.upper)]).expect("umount");
    }

    fn freeze(&self) -> Frozen {
        // It thaws when we let go of its input, however that comes.
        let thawer = Command::new("sh")
            .args(["-c", "cat; exec fsfreeze --unfreeze \"$0\"", path(&self.lower)])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let frozen = Frozen(thawer);
        run("fsfreeze", &["--freeze", path(&self.lower)]).expect("fsfreeze");
        frozen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached already, if all went well; lazily, because a container may have it still.
        let _ = run("umount", &["--lazy", path(&self.upper)]);
        let _ = run("umount", &["--lazy", path(&self.lower)]);
    }
}

/// While it lives, nothing is written.
struct Frozen(Child);

impl Frozen {
    fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

const ROUNDS: usize = 20;
const SOON: Duration = Duration::from_secs(20);
