//! Networks of plugins: the Container Network Interface, as a cluster's network brings it.
//!
//! ```text
//! record ─▶ ADD of each plugin in order ─▶ record with the result        a pod comes
//! DEL of each in reverse ─▶ no record; when it fails: again, later       a pod goes
//! DEL of what no pod has any more ─▶ GC                                   the daemon starts
//! ```
//! Source: CNI specification 1.1.0.

mod attachment;
mod conf;
mod deletions;
mod plugin;
mod result;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{LivePod, NetError, bandwidth::BadRate};
use crate::{
    model::{ErrorKind, SandboxConfig, SandboxId, chain},
    sys::program::Unfinished,
};
use attachment::{Attachment, Attachments, INTERFACE};
pub use conf::Network;
use conf::{Plugin, Version};
use deletions::Deletions;
use plugin::{Runner, Target, Verb, runtime_config};
use result::Refusal;

/// Where configurations and plugins are, and how long those may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The first file in it, by name, is the network of new pods.
    pub conf_dir: PathBuf,
    /// Other folders for pods of runtime handlers.
    pub handler_conf_dirs: BTreeMap<String, PathBuf>,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one plugin may take.
    pub timeout_s: u64,
    /// Which address of a pod is told first.
    pub prefer: Preference,
}

/// The order of a pod's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    Ipv4,
    Ipv6,
    /// As the plugins answer them.
    Cni,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            handler_conf_dirs: BTreeMap::new(),
            // The second is Debian's.
            bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).into(),
            timeout_s: 60,
            prefer: Preference::Ipv4,
        }
    }
}

impl Config {
    /// The key at fault, and why.
    fn fault(&self) -> Option<(&'static str, String)> {
        let relative = |path: &&PathBuf| !path.is_absolute();
        let told = |path: &PathBuf| format!("{} is not an absolute path", path.display());
        let conf_dirs = std::iter::once(&self.conf_dir).chain(self.handler_conf_dirs.values());
        if let Some(dir) = conf_dirs.into_iter().find(relative) {
            return Some(("net.cni.conf_dir", told(dir)));
        }
        if let Some(dir) = self.bin_dirs.iter().find(relative) {
            return Some(("net.cni.bin_dirs", told(dir)));
        }
        (self.timeout_s == 0).then(|| ("net.cni.timeout_s", "no plugin ends within 0 seconds".into()))
    }
}

/// Why plugins gave a pod no network, or do not let it go.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("{}: {why}", path.display())]
    Config { path: PathBuf, why: String },
    #[error("no network configuration in {}", .0.display())]
    NoNetwork(PathBuf),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("plugin {plugin:?} is in none of {}", bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoProgram { plugin: String, bin_dirs: Vec<PathBuf> },
    #[error("{0}")]
    Plugin(Box<Failure>),
    #[error("plugin {plugin:?} of network {network:?}: {why}")]
    Answer {
        plugin: String,
        network: String,
        why: String,
    },
    #[error(transparent)]
    Wish(#[from] BadRate),
}

impl CniError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Wish(_) => ErrorKind::InvalidArgument,
            Self::NoNetwork(_) | Self::Config { .. } | Self::NoProgram { .. } => ErrorKind::FailedPrecondition,
            Self::Plugin(failure) => failure.kind(),
            _ => ErrorKind::Internal,
        }
    }
}

/// A plugin that did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    verb: Verb,
    plugin: String,
    network: String,
    /// What it says itself.
    refusal: Option<Refusal>,
    unfinished: Unfinished,
}

impl Failure {
    fn kind(&self) -> ErrorKind {
        match (&self.unfinished, &self.refusal) {
            (Unfinished::TimedOut { .. }, _) => ErrorKind::DeadlineExceeded,
            (_, Some(refusal)) if refusal.code == Refusal::TRY_LATER => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, plugin, network) = (self.verb.name(), &self.plugin, &self.network);
        write!(f, "{verb} of plugin {plugin:?}, network {network:?}: ")?;
        match &self.refusal {
            None => write!(f, "{}", self.unfinished),
            Some(Refusal { code, msg, details }) => {
                let details = if details.is_empty() {
                    String::new()
                } else {
                    format!("; {details}")
                };
                write!(f, "{msg}{details} (code {code}; {})", self.unfinished)
            }
        }
    }
}

/// The plugins of this node.
pub struct Cni {
    config: Config,
    runner: Runner,
    attachments: Attachments,
    deletions: Deletions,
    /// What was last found out about a network. Held while that is done.
    health: Mutex<BTreeMap<PathBuf, Health>>,
    /// Held to write while plugins are told of all attachments: none may come into being meanwhile.
    all: RwLock<()>,
}

/// Whether the plugins of a network are there and well.
struct Health {
    network: Network,
    at: Instant,
    /// What is wrong.
    wrong: Option<String>,
}

/// What a pod asks of its network.
pub struct Wishes<'a> {
    pub config: &'a SandboxConfig,
    /// The path of the pod's network namespace.
    pub netns: &'a Path,
    /// The path of the pod's cgroup.
    pub cgroup: &'a str,
    /// The subnets that the kubelet has named.
    pub subnets: &'a [String],
}

impl Cni {
    /// With attachments on record below `root_dir`.
    ///
    /// # Errors
    /// [`NetError::Config`] with the key at fault, [`CniError::Io`].
    pub fn open(config: &Config, root_dir: &Path) -> Result<Self, NetError> {
        if let Some((key, why)) = config.fault() {
            return Err(NetError::Config { key, why });
        }
        Ok(Self {
            runner: Runner {
                bin_dirs: config.bin_dirs.clone(),
                limit: Duration::from_secs(config.timeout_s),
            },
            config: config.clone(),
            attachments: Attachments::open(root_dir.join("net/attachments"))?,
            deletions: Deletions::default(),
            health: Mutex::default(),
            all: RwLock::default(),
        })
    }

    /// The network of new pods of a runtime handler, if there is one by now.
    ///
    /// # Errors
    /// [`CniError::Config`], [`CniError::Io`].
    pub fn network(&self, handler: &str) -> Result<Option<Network>, CniError> {
        conf::load(self.conf_dir(handler))
    }

    pub fn conf_dir(&self, handler: &str) -> &Path {
        self.config
            .handler_conf_dirs
            .get(handler)
            .unwrap_or(&self.config.conf_dir)
    }

    /// Whether a pod is on a network of plugins, or was and could not be taken off.
    pub fn has(&self, id: &SandboxId) -> bool {
        self.attachments.has(id)
    }

    /// Attaches a pod; its addresses. What was made when this fails is ended by [`Cni::detach`].
    ///
    /// # Errors
    /// [`CniError::Wish`], [`CniError::NoProgram`], [`CniError::Plugin`], [`CniError::Answer`], [`CniError::Io`].
    pub fn attach(&self, network: Network, id: &SandboxId, wishes: &Wishes<'_>) -> Result<Vec<IpAddr>, CniError> {
        let capabilities = wishes::capabilities(wishes.config, wishes.cgroup, wishes.subnets)?;
        let mut attachment = Attachment {
            network,
            args: wishes::arguments(id, wishes.config),
            wishes: capabilities,
            result: None,
        };
        let _all = self.all.read().expect("no panic while plugins are told of all");
        self.attachments.write(id, &attachment)?;
        let netns = wishes.netns.to_string_lossy();
        let target = attachment.target(id, &netns);
        for plugin in &attachment.network.plugins {
            let output = self.ask(Verb::Add, &attachment, plugin, &target)?;
            let answer = serde_json::from_slice(&output).map_err(|error| error.to_string());
            attachment.result = Some(answer.map_err(|why| answer_fault(&attachment.network, plugin, why))?);
        }
        self.attachments.write(id, &attachment)?;
        let last = attachment.network.plugins.last().zip(attachment.result.as_ref());
        let Some((plugin, result)) = last else {
            return Ok(Vec::new());
        };
        let told = result::addresses(result).map_err(|why| answer_fault(&attachment.network, plugin, why))?;
        Ok(in_order(told, self.config.prefer))
    }

    /// Takes a pod off its network; nothing to do when it is on none. Where a plugin does not let it go that is tried
    /// again in the background: the pod need not wait.
    pub fn detach(self: &Arc<Self>, id: &SandboxId, netns: &Path) {
        if !self.has(id) {
            return;
        }
        let netns = if netns.exists() {
            netns.to_string_lossy()
        } else {
            "".into()
        };
        if let Err(error) = self.delete(id, &netns, false) {
            tracing::warn!(sandbox = %id, error = %chain(&error), "its attachment is not ended yet; trying again");
            self.deletions.add(self, id, 1);
        }
    }

    /// DEL of every plugin, and then no record. `without_missing`: a plugin whose program is gone is left out.
    fn delete(&self, id: &SandboxId, netns: &str, without_missing: bool) -> Result<(), CniError> {
        let Some(attachment) = self.attachments.read(id)? else {
            return Ok(());
        };
        let target = attachment.target(id, netns);
        for plugin in attachment.network.plugins.iter().rev() {
            match self.ask(Verb::Del, &attachment, plugin, &target) {
                Err(error @ CniError::NoProgram { .. }) if without_missing => {
                    tracing::error!(sandbox = %id, error = %chain(&error), "what it made for the pod may be left");
                }
                done => drop(done?),
            }
        }
        self.attachments.remove(id)
    }

    /// Ends the attachments of pods that no longer exist, tells plugins which are left, and looks after those that go on: in
    /// the background, one plugin after the other. Before any new pod.
    ///
    /// # Errors
    /// [`CniError::Io`]: nothing is ended then.
    pub fn recover(self: &Arc<Self>, live: Vec<LivePod>) -> Result<(), CniError> {
        // Now: what comes later is not of an earlier life.
        let known = self.attachments.all()?;
        let cni = self.clone();
        let work = move || cni.take_up(&known, &live);
        let thread = thread::Builder::new().name("cni-recovery".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(work) {
            tracing::error!(%error, "no thread that ends attachments of pods that are gone: the next start does");
        }
        Ok(())
    }

    fn take_up(self: &Arc<Self>, known: &BTreeSet<SandboxId>, live: &[LivePod]) {
        for id in known.iter().filter(|id| live.iter().all(|pod| pod.id != **id)) {
            self.deletions.add(self, id, 0);
        }
        let folders = std::iter::once(&self.config.conf_dir).chain(self.config.handler_conf_dirs.values());
        for network in folders.filter_map(|folder| conf::load(folder).ok().flatten()) {
            let _all = self.all.write().expect("no panic while a pod is attached");
            self.collect(&network, &self.valid(known, live));
        }
        live.iter().for_each(|pod| self.check(&pod.id, &pod.netns));
    }

    /// The attachments of pods that go on, and of those that came since `known` was found.
    fn valid(&self, known: &BTreeSet<SandboxId>, live: &[LivePod]) -> Vec<Value> {
        let now = self.attachments.all().unwrap_or_default();
        let valid = now
            .iter()
            .filter(|id| !known.contains(id) || live.iter().any(|pod| pod.id == **id));
        valid
            .map(|id| json!({"containerID": id.as_str(), "ifname": INTERFACE}))
            .collect()
    }

    /// GC: what plugins keep for others than the valid attachments goes. Source: specification, section 4.
    fn collect(&self, network: &Network, valid: &[Value]) {
        if network.version < Version::WITH_STATUS || network.disable_gc {
            return;
        }
        for plugin in &network.plugins {
            let more = [("cni.dev/valid-attachments".to_owned(), Value::from(valid))];
            if let Err(error) = self
                .runner
                .run(Verb::Gc, network, plugin, None, more.into_iter().collect())
            {
                tracing::warn!(error = %chain(&error), "what it keeps for pods that are gone may be left");
            }
        }
    }

    /// Whether new pods can be attached: there is a network, its plugins are there, speak its version, and are well by
    /// their own word, which may be some seconds old.
    ///
    /// # Errors
    /// What is wrong.
    pub fn ready(&self, handler: &str) -> Result<(), String> {
        let folder = self.conf_dir(handler);
        let network = match conf::load(folder) {
            Ok(Some(network)) => network,
            Ok(None) => return Err(CniError::NoNetwork(folder.to_owned()).to_string()),
            Err(error) => return Err(chain(&error).to_string()),
        };
        let mut known = self.health.lock().expect("no panic while the plugins are asked");
        let fresh = known
            .get(folder)
            .filter(|health| health.network == network && health.at.elapsed() < FRESH);
        let wrong = match fresh {
            Some(health) => health.wrong.clone(),
            None => {
                let spoken = known
                    .get(folder)
                    .is_some_and(|health| health.network == network && health.wrong.is_none());
                let wrong = self
                    .examine(&network, spoken)
                    .err()
                    .map(|error| chain(&error).to_string());
                let health = Health {
                    network,
                    at: Instant::now(),
                    wrong: wrong.clone(),
                };
                known.insert(folder.to_owned(), health);
                wrong
            }
        };
        wrong.map_or(Ok(()), Err)
    }

    /// `spoken`: that the plugins speak the network's version is known.
    fn examine(&self, network: &Network, spoken: bool) -> Result<(), CniError> {
        let runner = Runner {
            limit: self.runner.limit.min(STATUS_LIMIT),
            ..self.runner.clone()
        };
        for plugin in &network.plugins {
            runner.find(&plugin.kind)?;
            if !spoken {
                let output = runner.run(Verb::Version, network, plugin, None, Map::new())?;
                if !plugin::versions(&output).contains(&network.version) {
                    let why = format!("does not speak version {}", network.version);
                    return Err(answer_fault(network, plugin, why));
                }
            }
            if network.version >= Version::WITH_STATUS {
                runner.run(Verb::Status, network, plugin, None, Map::new())?;
            }
        }
        Ok(())
    }

    /// Whether the pods that go on are attached as they were: CHECK, told in the log.
    fn check(&self, id: &SandboxId, netns: &Path) {
        let Ok(Some(attachment)) = self.attachments.read(id) else {
            return;
        };
        if attachment.network.version < Version::WITH_CHECK || attachment.network.disable_check {
            return;
        }
        let target = attachment.target(id, &netns.to_string_lossy());
        for plugin in &attachment.network.plugins {
            if let Err(error) = self.ask(Verb::Check, &attachment, plugin, &target) {
                tracing::warn!(sandbox = %id, error = %chain(&error), "its network is not as it was made");
                return;
            }
        }
    }

    /// With the previous result and the wishes that the plugin can fulfil.
    fn ask(&self, verb: Verb, attachment: &Attachment, plugin: &Plugin, target: &Target) -> Result<Vec<u8>, CniError> {
        let mut more = Map::new();
        let knows_result = verb == Verb::Add || attachment.network.version >= Version::WITH_CHECK;
        if let Some(result) = attachment.result.as_ref().filter(|_| knows_result) {
            more.insert("prevResult".into(), result.clone());
        }
        if let Some(config) = runtime_config(plugin, &attachment.wishes) {
            more.insert("runtimeConfig".into(), config);
        }
        self.runner.run(verb, &attachment.network, plugin, Some(target), more)
    }
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CniError + use<> {
    let path = path.to_owned();
    move |source| CniError::Io {
        action,
        path: path.clone(),
        source,
    }
}

fn answer_fault(network: &Network, plugin: &Plugin, why: String) -> CniError {
    CniError::Answer {
        plugin: plugin.kind.clone(),
        network: network.name.clone(),
        why,
    }
}

fn in_order(mut addresses: Vec<IpAddr>, prefer: Preference) -> Vec<IpAddr> {
    match prefer {
        Preference::Ipv4 => addresses.sort_by_key(IpAddr::is_ipv6),
        Preference::Ipv6 => addresses.sort_by_key(IpAddr::is_ipv4),
        Preference::Cni => {}
    }
    addresses
}

const STACK: usize = 256 << 10;
/// How long a plugin's word holds.
const FRESH: Duration = Duration::from_secs(10);
/// How long it may take to give it.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod test;
