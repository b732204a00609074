//! The cgroup that pods are put in: a kubelet always names one, and some runtimes count a pod's resources there.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use inro_proto as wire;

use super::Endpoint;

impl Endpoint {
    /// The parent for a runtime's pods, in the form that its driver wants.
    ///
    /// # Errors
    /// When the runtime does not say.
    pub(super) async fn choose_cgroup_parent(&self) -> anyhow::Result<String> {
        let request = wire::RuntimeConfigRequest {};
        let mut client = self.client.runtime.clone();
        let config = self.optional("RuntimeConfig", client.runtime_config(request)).await?;
        let driver = config
            .and_then(|config| config.linux)
            .map(|linux| linux.cgroup_driver());
        Ok(match driver {
            Some(wire::CgroupDriver::Systemd) => "system.slice".to_owned(),
            // Who has no such call has by default this driver: containerd before 2.0.
            Some(wire::CgroupDriver::Cgroupfs) | None => own_parent(),
        })
    }
}

/// The folder of this run.
fn own_parent() -> String {
    format!("/inro-bench-{}", std::process::id())
}

/// Removes it from all hierarchies, when the last pod is gone.
///
/// # Errors
/// When something is still in it.
pub async fn remove_own_parent() -> io::Result<()> {
    let name = own_parent();
    let deadline = Instant::now() + SETTLE;
    for folder in hierarchies()?.into_iter().map(|root| root.join(&name[1..])) {
        loop {
            match fs::remove_dir(&folder) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // What was in it is dying.
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = fields.filter(|fields| fields.get(2).is_some_and(|kind| kind.starts_with("cgroup")));
    Ok(cgroups.map(|fields| fields[1].into()).collect())
}

const SETTLE: Duration = Duration::from_secs(2);
