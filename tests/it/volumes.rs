//! Folders of the host in a container: which mounts travel into them, and out.

use std::{fs, path::PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use crate::harness::{Node, v1};

/// A mount that lets mounts travel, for as long as it lives.
struct Shared(PathBuf);

impl Shared {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a folder");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"").expect("mount");
        mount_change(&path, MountPropagationFlags::SHARED).expect("share");
        Self(path)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn mounts_travel_as_a_volume_wants() {
    let node = Node::start();
    node.pull("shell");
    let shared = Shared::make(node.dir().join("shared"));
    let privileged = |linux: &mut v1::LinuxContainerConfig| {
        linux.security_context.get_or_insert_default().privileged = true;
    };
    let pod = node.pod(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    });
    let volume = |place: &str, propagation: v1::MountPropagation| v1::Mount {
        container_path: place.into(),
        host_path: shared.0.display().to_string(),
        propagation: propagation.into(),
        ..Default::default()
    };
    // Mounts that leave one volume make everything in the container shared, but the others not with the host.
    for out in [false, true] {
        let container = pod.container("shell", &["sleep", "1000"], |config| {
            config.metadata.get_or_insert_default().name = format!("out-{out}");
            privileged(config.linux.get_or_insert_default());
            config.mounts = vec![
                volume("/alone", v1::MountPropagation::PropagationPrivate),
                volume("/into", v1::MountPropagation::PropagationHostToContainer),
            ];
            if out {
                config
                    .mounts
                    .push(volume("/both", v1::MountPropagation::PropagationBidirectional));
            }
        });
        container.start();
        let late = shared.0.join(format!("late-{out}"));
        fs::create_dir(&late).expect("a folder");
        let late = Shared::make(late.join("mount"));
        fs::write(late.0.join("here"), "").expect("a file");
        let seen = |volume: &str| container.sh(&format!("ls {volume}/late-{out}/mount"));
        assert_eq!((seen("/alone"), seen("/into")), (String::new(), "here".into()));

        fs::create_dir(shared.0.join(format!("inside-{out}"))).expect("a folder");
        let inside = |volume: &str| {
            let place = format!("{volume}/inside-{out}");
            container.sh(&format!("mount -t tmpfs none {place} && touch {place}/there"));
            fs::read_dir(shared.0.join(format!("inside-{out}")))
                .expect("a folder")
                .count()
        };
        assert_eq!((inside("/alone"), inside("/into")), (0, 0), "nothing leaves them");
        if out {
            assert_eq!(seen("/both"), "here");
            assert_eq!(inside("/both"), 1, "it reaches the host");
            unmount(shared.0.join("inside-true"), UnmountFlags::DETACH).expect("unmount");
        }
        container.remove();
    }
}
