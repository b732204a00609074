//! A file system in a file, that can lose its power.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::harness::{
    disk::{loop_on, mount_loop, path, run},
    eventually_ok,
};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Ext4,
    Xfs,
}

/// Mounted until its value ends.
pub struct Disk {
    file: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// A new one in `file`, mounted at `place`.
    pub fn make(kind: Kind, file: &Path, place: &Path) -> Disk {
        let mkfs = match kind {
            Kind::Ext4 => ["mkfs.ext4", "-q", "-F"],
            Kind::Xfs => ["mkfs.xfs", "-q", "-f"],
        };
        mount_loop(file, &mkfs, 400, "", place).expect("a disk");
        Disk {
            file: file.to_owned(),
            place: place.to_owned(),
        }
    }

    /// What can cut the power at once.
    pub fn arm(&self) -> Cut {
        let script = format!(
            "import fcntl, os, struct, sys\n\
             disk = os.open(sys.argv[1], os.O_RDONLY)\n\
             print(flush=True)\n\
             sys.stdin.readline()\n\
             fcntl.ioctl(disk, {FS_IOC_SHUTDOWN}, struct.pack('I', {NO_LOG_FLUSH}))\n"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .arg(&self.place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut ready).expect("its output");
        Cut(child)
    }

    /// Mounts it again, when nobody holds any more what it was.
    pub fn switch_on(&mut self) {
        run("umount", &[path(&self.place)]).expect("nobody is there");
        eventually_ok("the disk is mounted again", Duration::from_secs(5), || {
            loop_on(&self.file, "", &self.place)
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Of a test that failed the daemon may still be there.
        let _ = run("umount", &["--lazy", path(&self.place)]);
    }
}

/// A process that waits for its moment.
pub struct Cut(Child);

impl Cut {
    pub fn now(&mut self) {
        let stdin = self.0.stdin.as_mut().expect("its input");
        stdin.write_all(b"\n").expect("its input");
        assert!(self.0.wait().expect("its end").success());
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // Both do nothing to one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Source: kernel fs/ext4/ext4.h, `EXT4_IOC_SHUTDOWN`, which is XFS's `XFS_IOC_GOINGDOWN`.
const FS_IOC_SHUTDOWN: u32 = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;
