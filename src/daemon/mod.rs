//! Assembly of the daemon: folders, lock, zygote, mechanisms, recovery, socket.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    cgroup::Cgroups,
    config::Config,
    cri, durable,
    image::{Images, snapshot::Snapshots},
    lockdown::apparmor::AppArmor,
    net::Network,
    pod::{Mechanisms, Pods},
    stream,
    zygote::{Launch, Zygote},
};

/// Threads that run the daemon's tasks; what waits for a disk has threads of its own.
const WORKERS: usize = 2;
/// How long calls under way may take after SIGTERM.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT. Every pod goes on.
///
/// # Errors
/// When anything it needs cannot be had; the message names it.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let began = Instant::now();
    for path in [&config.root, &config.state] {
        if !path.is_absolute() {
            bail!("{} is not an absolute path", path.display());
        }
        durable::create_private_dir(path).with_context(|| format!("make {}", path.display()))?;
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("protect {}", path.display()))?;
    }
    let _locks = [lock(&config.root)?, lock(&config.state)?];
    // Before any thread of ours exists.
    let zygote = Zygote::spawn(Launch::own(&config.state)).context("start the zygote")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(64)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(run(&config, zygote, began));
    // What still waits for a disk is the next start's to take up: every step is planned on disk.
    runtime.shutdown_timeout(DRAIN);
    outcome
}

async fn run(config: &Config, zygote: Zygote, began: Instant) -> anyhow::Result<()> {
    let images = Images::open(&config.root, &config.image).context("open the image store")?;
    let snapshots = Snapshots::open(&config.root).context("open the snapshots")?;
    let network = Network::open(&config.net, &config.root).context("open the network")?;
    let cgroups = Cgroups::detect()?;
    let streams = stream::Server::bind(&config.stream)
        .await
        .context("start the streaming server")?;
    let apparmor = AppArmor::detect();
    match &apparmor {
        AppArmor::OutOfReach { why } => tracing::warn!(why, "AppArmor is on, but out of reach: containers run without"),
        apparmor => tracing::debug!(apparmor = apparmor.state()),
    }
    let with = Mechanisms {
        apparmor,
        zygote,
        cgroups,
        network,
        images: images.clone(),
        snapshots,
    };
    let pods = Pods::open(&config.state, config.pod.clone(), with).context("open the run folder")?;
    pods.recover().await.context("recover the pods")?;
    pods.probe_user_namespaces().await;
    if config.image.preload_dir.is_some() {
        let images = images.clone();
        tokio::task::spawn_blocking(move || images.preload()).await?;
    }

    let path = config.socket()?;
    let listener = listen(&path)?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let elapsed_ms = began.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(
        listen = config.listen,
        streams = streams.base_url(),
        elapsed_ms,
        "ready"
    );
    // Absent NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
    let (stop, stopping) = tokio::sync::oneshot::channel();
    let stream_url = streams.base_url().to_owned();
    // Dropped at the end of this function, and every session with it: they end with the daemon, containers do not.
    let mut streaming = JoinSet::new();
    streaming.spawn(streams.serve(pods.clone()));
    let server = tokio::spawn(cri::serve(listener, pods, images, stream_url, async move {
        let _ = stopping.await;
    }));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping; pods go on");
    let _ = stop.send(());
    match tokio::time::timeout(DRAIN, server).await {
        Ok(served) => served?.context("serve")?,
        Err(_) => tracing::warn!("calls were under way for too long"),
    }
    Ok(())
}

/// Takes a folder for this daemon alone. The lock ends with the process, however it ends.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut owner = String::new();
        file.read_to_string(&mut owner)?;
        bail!("{} belongs to another inro: process {}", folder.display(), owner.trim());
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Binds the socket, 0600 in a folder that only root enters. A stale one is ours: we hold the lock.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let folder: PathBuf = path.parent().unwrap_or(Path::new("/")).to_owned();
    durable::create_private_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(|| format!("protect {}", path.display()))?;
    Ok(listener)
}
