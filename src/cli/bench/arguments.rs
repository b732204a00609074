//! What the command line says.

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};

/// What to measure, where, and how often.
#[derive(Args)]
#[command(after_long_help = METHOD)]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    pub subject: Subject,
    /// A runtime, as NAME=SOCKET; repeat it for more than one: they take turns, and the first is what others are compared to
    #[arg(long = "endpoint", value_name = "NAME=SOCKET", required = true)]
    pub endpoints: Vec<NamedSocket>,
    /// The image of the containers; it needs a `sh`, a `sleep` and a `true`
    #[arg(long, default_value = "docker.io/library/busybox:latest")]
    pub image: String,
    /// The network of the pods; subjects that need only one of `both` have the host's
    #[arg(long, value_enum, default_value_t = Networks::Both)]
    pub network: Networks,
    /// The runtime handler of the pods, of all endpoints or as NAME=HANDLER of one
    #[arg(long = "runtime-handler", value_name = "[NAME=]HANDLER")]
    pub handlers: Vec<Setting<String>>,
    /// The cgroup parent of the pods [default: what the runtime's driver wants, of this run alone where possible]
    #[arg(long, value_name = "PARENT")]
    pub cgroup_parent: Option<String>,
    /// Measured rounds; a tenth of them where one round takes many pods or a pull
    #[arg(long, default_value = "100", value_name = "COUNT")]
    pub rounds: NonZeroUsize,
    /// Rounds before them that are not counted
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    pub warm_up: usize,
    /// Calls, or pods, at once where many are made
    #[arg(long, default_value = "8", value_name = "COUNT")]
    pub concurrency: NonZeroUsize,
    /// Pods of a burst, and pods that run where lists and memory are measured
    #[arg(long, default_value = "20", value_name = "COUNT")]
    pub pods: NonZeroUsize,
    /// Pods that run meanwhile where the life of one pod is measured, at all endpoints or as NAME=COUNT at one
    #[arg(long = "among", value_name = "[NAME=]COUNT")]
    pub among: Vec<Setting<usize>>,
    /// Milliseconds of rest before each measured step
    #[arg(long, default_value_t = 60, value_name = "MS")]
    pub pause_ms: u64,
    /// Waits up to so many milliseconds more before each measured step for a machine that does nothing else
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub wait_idle_ms: u64,
    /// Writes everything measured as JSON; `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page to look at: one HTML file that needs no other
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// How it is measured; the end of `--help`.
const METHOD: &str = "\
How it is measured:
  Each runtime is measured as its client sees it: from the moment a call is sent until its answer is here. Endpoints take
  turns in each round, and another one begins in the next. A step that is measured has a rest before it, because a busy
  loop hides what a real start waits for; inside a step calls follow each other at once.

  The first instruction of a container is the first line in its log, at the moment that this client sees it there (inotify
  on the log's folder, which is a temporary one: the runtime must see the same files). So it contains the runtime's way to
  the log. The workload is `sh -c 'echo up; exec sleep ...'`.

  pod-up is RunPodSandbox, CreateContainer and StartContainer until the first instruction; container-up the same without
  RunPodSandbox; pod-down is StopContainer with no grace, StopPodSandbox, RemoveContainer and RemovePodSandbox.

  Memory is the proportional set size (Pss of smaps_rollup) of the daemon, its descendants, and the processes that are new
  with the pods and belong to them, without the workload's own. It needs root.

  The interval of a median contains the true one with 95 % confidence (order statistics, no assumption on the
  distribution). That of a ratio of medians is a percentile bootstrap of 2,000 resamples. Both need six values.

What was made is removed at the end, also after a failure and on ctrl-c; a second ctrl-c ends at once. Pods of others are
not touched. `pull` removes the image and pulls it again.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The life of one pod, call by call
    Pod,
    /// ExecSync of `true` in a running container: its latency, and how many a second at once
    Exec,
    /// Many pods at once, up and down
    Burst,
    /// Pods that come and go without a rest, as many as there are rounds
    Churn,
    /// Lists, statuses and statistics while pods run
    List,
    /// RemoveImage and PullImage
    Pull,
    /// Memory of everything that is not the workload
    Memory,
    /// All of these but churn
    All,
}

impl Subject {
    /// The subjects this one stands for, in the order they are measured: memory is looked at in a daemon that has worked.
    pub fn each(self) -> Vec<Subject> {
        match self {
            Subject::All => vec![
                Subject::Pod,
                Subject::Exec,
                Subject::Burst,
                Subject::List,
                Subject::Pull,
                Subject::Memory,
            ],
            one => vec![one],
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Networks {
    /// The host's network
    Host,
    /// A network namespace of the pod's own
    Pod,
    /// First the one, then the other
    Both,
}

/// The network of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Host,
    Pod,
}

impl Networks {
    pub fn each(self) -> &'static [Network] {
        match self {
            Networks::Host => &[Network::Host],
            Networks::Pod => &[Network::Pod],
            Networks::Both => &[Network::Host, Network::Pod],
        }
    }

    /// Where one is enough.
    pub fn one(self) -> Network {
        self.each()[0]
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Host => "host network",
            Network::Pod => "pod network",
        })
    }
}

/// `NAME=SOCKET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSocket {
    pub name: String,
    pub socket: PathBuf,
}

impl FromStr for NamedSocket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, socket) = text.split_once('=').ok_or("not NAME=SOCKET")?;
        let socket = socket.strip_prefix("unix://").unwrap_or(socket);
        if name.is_empty() || socket.is_empty() {
            return Err("not NAME=SOCKET");
        }
        Ok(Self {
            name: name.into(),
            socket: socket.into(),
        })
    }
}

/// What is so at one endpoint, or at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    endpoint: Option<String>,
    value: T,
}

impl<T: FromStr> FromStr for Setting<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (endpoint, value) = match text.split_once('=') {
            Some((endpoint, value)) => (Some(endpoint.to_owned()), value),
            None => (None, text),
        };
        Ok(Self {
            endpoint,
            value: value.parse()?,
        })
    }
}

/// The value at `endpoint`: its own, or everyone's.
fn at<'a, T>(settings: &'a [Setting<T>], endpoint: &str) -> Option<&'a T> {
    let own = settings
        .iter()
        .find(|setting| setting.endpoint.as_deref() == Some(endpoint));
    let any = || settings.iter().find(|setting| setting.endpoint.is_none());
    own.or_else(any).map(|found| &found.value)
}

impl Arguments {
    /// What clap cannot check.
    ///
    /// # Errors
    /// Names the argument.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        for NamedSocket { name, .. } in &self.endpoints {
            ensure!(names.insert(name), "--endpoint {name}: the name is used twice");
        }
        let handlers = self.handlers.iter().map(|one| ("--runtime-handler", &one.endpoint));
        let among = self.among.iter().map(|one| ("--among", &one.endpoint));
        for (option, endpoint) in handlers.chain(among) {
            if let Some(name) = endpoint.as_ref().filter(|name| !names.contains(name)) {
                bail!("{option} {name}=...: no endpoint is called {name}");
            }
        }
        for (option, file) in [("--json", &self.json), ("--report", &self.report)] {
            let Some(file) = file.as_deref().filter(|file| *file != Path::new("-")) else {
                continue;
            };
            let folder = file
                .parent()
                .filter(|folder| *folder != Path::new(""))
                .unwrap_or(Path::new("."));
            // Said now and not when everything is measured.
            ensure!(folder.is_dir(), "{option} {}: there is no such folder", file.display());
        }
        Ok(())
    }

    /// The handler of `endpoint`'s pods: its own, or everyone's, or the runtime's default.
    pub fn handler(&self, endpoint: &str) -> String {
        at(&self.handlers, endpoint).cloned().unwrap_or_default()
    }

    /// How many pods run at `endpoint` while one pod's life is measured.
    pub fn among(&self, endpoint: &str) -> usize {
        at(&self.among, endpoint).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod test {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let line = Line::try_parse_from(format!("bench {line}").split(' ')).map_err(|error| error.to_string())?;
        line.arguments.check().map_err(|error| error.to_string())?;
        Ok(line.arguments)
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, told) in [
            ("pod", "--endpoint <NAME=SOCKET>"),
            ("pod --endpoint inro", "not NAME=SOCKET"),
            ("pod --endpoint =/sock", "not NAME=SOCKET"),
            (
                "pod --endpoint a=/x --endpoint a=/y",
                "--endpoint a: the name is used twice",
            ),
            ("pod --endpoint a=/x --rounds 0", "--rounds"),
            (
                "pod --endpoint a=/x --runtime-handler b=runc",
                "no endpoint is called b",
            ),
            ("pod --endpoint a=/x --among b=5", "no endpoint is called b"),
            ("pod --endpoint a=/x --among a=many", "invalid digit"),
            (
                "pod --endpoint a=/x --report /no/such/folder/x.html",
                "--report /no/such/folder/x.html",
            ),
            ("sleep --endpoint a=/x", "invalid value 'sleep'"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} is taken"));
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn a_handler_of_its_own_wins() {
        let line = "all --endpoint a=unix:///x --endpoint b=/y --runtime-handler any --runtime-handler b=crun --among b=7 --json -";
        let arguments = parse(line).unwrap();
        assert_eq!(arguments.endpoints[0].socket, Path::new("/x"));
        assert_eq!(arguments.handler("a"), "any");
        assert_eq!(arguments.handler("b"), "crun");
        assert_eq!((arguments.among("a"), arguments.among("b")), (0, 7));
        assert_eq!(parse("all --endpoint a=/x").unwrap().handler("a"), "");
    }

    #[test]
    fn all_is_every_other_subject_but_churn() {
        let all = Subject::All.each();
        for subject in Subject::value_variants() {
            let left_out = [Subject::All, Subject::Churn].contains(subject);
            assert_eq!(all.contains(subject), !left_out, "{subject:?}");
        }
    }
}
