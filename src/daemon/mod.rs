//! Assembly of the daemon: folders, lock, zygote, mechanisms, recovery, socket.

mod socket;
mod supervisor;

use std::{
    fs::{self, File, Permissions},
    io::{Read, Seek, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
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
    image::{self, Images, snapshot::Snapshots},
    lockdown::apparmor::AppArmor,
    metrics::{self, Durations},
    model::chain,
    net::Network,
    pod::{self, Mechanisms, Pods},
    stream,
    sys::inherited,
    zygote::{Launch, Zygote},
};

/// Threads that run the daemon's tasks; what waits for a disk has threads of its own.
const WORKERS: usize = 2;
/// Threads that may wait for a disk at once. A worker that waits is replaced by one of them, so where all of them wait the
/// daemon answers nothing: more than a node has pods.
const THREADS: usize = 512;
/// How long calls under way may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// How long interfaces of stopped pods may take after that.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a folder may be taken at the start.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT. Every pod goes on. At SIGHUP the configuration is asked for again, by `read`.
///
/// # Errors
/// When anything it needs cannot be had; the message names it.
pub fn serve(config: Config, read: impl Fn() -> anyhow::Result<Config>) -> anyhow::Result<()> {
    let began = Instant::now();
    let passed = inherited::take().context("take what the service manager passed")?;
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
        .max_blocking_threads(THREADS)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(run(config, read, passed, zygote, began));
    // What still waits for a disk is the next start's to take up: every step is planned on disk.
    runtime.shutdown_timeout(DRAIN);
    outcome
}

async fn run(
    config: Config,
    read: impl Fn() -> anyhow::Result<Config>,
    passed: Vec<(String, OwnedFd)>,
    zygote: Zygote,
    began: Instant,
) -> anyhow::Result<()> {
    let images = Images::open(&config.root, &config.image).context("open the image store")?;
    let additional = &config.image.additional_stores;
    let snapshots = Snapshots::open(&config.root, additional, images.mounts()).context("open the snapshots")?;
    let snapshots = snapshots.limited(&config.image.writable_layer)?;
    images.probe(&snapshots)?;
    let network = Network::open(&config.net, &config.root).context("open the network")?;
    let cgroups = Cgroups::open(&config.cgroup)?;
    confine_workers(&images, &cgroups, &config.image.workers);
    let streams = stream::Server::bind(&config.stream)
        .await
        .context("start the streaming server")?;
    let metrics = metrics::Server::bind(&config.metrics)
        .await
        .context("start the metrics endpoint")?;
    let apparmor = AppArmor::detect();
    match &apparmor {
        AppArmor::OutOfReach { why } => tracing::warn!(why, "AppArmor is on, but out of reach: containers run without"),
        apparmor => tracing::debug!(apparmor = apparmor.state()),
    }
    let with = Mechanisms {
        apparmor,
        zygote,
        cgroups: cgroups.clone(),
        network: network.clone(),
        images: images.clone(),
        snapshots,
    };
    let pods = Pods::open(&config.state, &config.root, config.pod.clone(), with).context("open the run folder")?;
    pods.recover().await.context("recover the pods")?;
    pods.probe_user_namespaces().await;
    if config.image.preload_dir.is_some() {
        supervisor::patiently(images.preload()).await;
    }

    let path = config.socket()?;
    // Before anybody can know of us: one that came while its handler is made would be lost.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = UnixListener::from_std(socket::listen(&path, passed)?).context("listen")?;
    let elapsed_ms = began.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(
        listen = config.listen,
        streams = streams.base_url(),
        elapsed_ms,
        "ready"
    );
    supervisor::ready("");
    let (stop, stopping) = tokio::sync::oneshot::channel();
    let ground = cri::Ground {
        pods: pods.clone(),
        images: images.clone(),
        stream_url: streams.base_url().to_owned(),
        observer: metrics.as_ref().map(|metrics| observer(metrics.durations())),
    };
    // Dropped at the end of this function, and every session with it: they end with the daemon, containers do not.
    let mut http = JoinSet::new();
    http.spawn(streams.serve(pods.clone()));
    if let Some(metrics) = metrics {
        tracing::info!(listen = %metrics.address(), "metrics");
        let durations = metrics.durations();
        let of_pulls = durations.clone();
        images.observe_pulls(Box::new(move |succeeded, took| of_pulls.pull(succeeded, took)));
        pods.observe_stages(Box::new(move |operation, stages| durations.stages(operation, stages)));
        http.spawn(metrics.serve(pods.clone(), images));
    }
    let health = tokio::spawn(supervisor::report_health(path, pods.clone()));
    let server = tokio::spawn(cri::serve(listener, ground, async move {
        let _ = stopping.await;
        // No connection is taken after this is told: who comes now waits for the next daemon.
        supervisor::stopping();
    }));
    let mut config = config;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hangup.recv() => config = reload(config, &read, &pods),
        }
    }
    tracing::info!("stopping; pods go on");
    health.abort();
    let _ = stop.send(());
    match tokio::time::timeout(DRAIN, server).await {
        Ok(served) => served?.context("serve")?,
        Err(_) => tracing::warn!("calls were under way for too long"),
    }
    if !config.image.workers.cgroup.is_empty() {
        cgroups.drop_own(&config.image.workers.cgroup);
    }
    Ok(tokio::task::spawn_blocking(move || network.settle(SETTLE)).await?)
}

/// Has workers in a cgroup of their own, where that can be had: a node whose cgroups are read-only pulls all the same.
fn confine_workers(images: &Images, cgroups: &Cgroups, config: &image::Workers) {
    if config.cgroup.is_empty() {
        return;
    }
    let (cgroups, path, resources) = (cgroups.clone(), config.cgroup.clone(), config.resources());
    let made = images.confine_workers(Box::new(move || {
        cgroups.make_own(&path, &resources).map_err(|error| chain(&error))
    }));
    if let Err(error) = made {
        tracing::warn!(
            error,
            "image.workers: what unpacks layers is in the daemon's own cgroup"
        );
    }
}

/// Counts calls as they end.
fn observer(durations: Durations) -> cri::Observer {
    Arc::new(move |call: cri::Ended| durations.call(call.method, call.code, call.took))
}

/// Reads the configuration again and does what can be done with it in a running daemon; what is in force then.
///
/// Registries and certificates need none of this: their files are read when they are used.
fn reload(running: Config, read: impl Fn() -> anyhow::Result<Config>, pods: &Pods) -> Config {
    supervisor::reloading();
    let (config, told) = match read() {
        Ok(wanted) => {
            // Pods that run are found below the parent they were made in.
            let pod = pod::Config {
                cgroup_parent: running.pod.cgroup_parent.clone(),
                ..wanted.pod.clone()
            };
            pods.reconfigure(pod.clone());
            let config = Config { pod, ..running };
            match config.differences(&wanted) {
                keys if keys.is_empty() => (config, String::new()),
                keys => (config, format!("changes that need a restart: {}", keys.join(", "))),
            }
        }
        Err(error) => (running, format!("the configuration stays as it was: {error:#}")),
    };
    if told.is_empty() {
        tracing::info!("reloaded");
    } else {
        tracing::warn!("reloaded; {told}");
    }
    supervisor::ready(&told);
    config
}

/// Takes a folder for this daemon alone. The lock ends with the process, however it ends; but for a moment it is also that
/// of a zygote which is not executed yet, so it is waited for.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let mut owner = String::new();
        file.read_to_string(&mut owner)?;
        bail!("{} belongs to another inro: process {}", folder.display(), owner.trim());
    }
    let told = file.set_len(0).and_then(|()| file.rewind());
    told.and_then(|()| write!(file, "{}", std::process::id()))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(file)
}
