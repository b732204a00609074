//! Streaming calls that were promised: gRPC answers with a URL, and whoever comes with it over HTTP gets the call, once.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::rand::{GetRandomFlags, getrandom};

use super::{PodError, Pods, index::Container};
use crate::model::{ContainerId, ContainerState, SandboxId, SandboxState};

/// How long a promise holds.
const LIFE: Duration = Duration::from_secs(60);
/// Promises that may be outstanding: a client that asks and never comes must not fill the memory.
const MOST: usize = 1000;

/// A streaming call, checked. Source: CRI Exec, Attach, PortForward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamCall {
    Exec {
        container: ContainerId,
        command: Vec<String>,
        streams: Streams,
    },
    Attach {
        container: ContainerId,
        streams: Streams,
    },
    PortForward {
        sandbox: SandboxId,
        /// The ports that were asked for; empty: the client names them stream by stream.
        ports: Vec<u16>,
    },
}

/// Which streams a client wants of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Exec: give the process a terminal. Attach: it has one.
    pub tty: bool,
}

/// The kinds of [`StreamCall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    Exec,
    Attach,
    PortForward,
}

/// What a client redeems: 128 bits from the kernel's random generator, printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; 16]);

impl StreamCall {
    pub fn kind(&self) -> StreamKind {
        match self {
            Self::Exec { .. } => StreamKind::Exec,
            Self::Attach { .. } => StreamKind::Attach,
            Self::PortForward { .. } => StreamKind::PortForward,
        }
    }
}

impl StreamKind {
    /// The word for it in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
}

impl Pods {
    /// Promises a call: the token is good for one [`Pods::redeem`] within a minute.
    ///
    /// # Errors
    /// [`PodError::Invalid`] naming the field; [`PodError::NoContainer`], [`PodError::NoSandbox`];
    /// [`PodError::WrongState`] and [`PodError::SandboxNotReady`] when it does not run; [`PodError::TooManyStreams`].
    pub fn promise(&self, call: StreamCall) -> Result<Token, PodError> {
        match &call {
            StreamCall::Exec {
                container,
                command,
                streams,
            } => {
                check_streams(*streams)?;
                check_command(command)?;
                running(&*self.inner.index.container(container.as_str())?)?;
            }
            StreamCall::Attach { container, streams } => {
                check_streams(*streams)?;
                let container = self.inner.index.container(container.as_str())?;
                running(&container)?;
                check_tty(&container, *streams)?;
            }
            StreamCall::PortForward { sandbox, .. } => {
                let sandbox = self.inner.index.sandbox(sandbox.as_str())?;
                if sandbox.status.borrow().state != SandboxState::Ready {
                    return Err(PodError::SandboxNotReady(sandbox.plan.id.clone()));
                }
            }
        }
        self.inner.tickets.issue(call, Instant::now())
    }

    /// The call that a token stands for; the token is void afterwards. `None`: there is no such promise of this kind,
    /// or it is too old.
    pub fn redeem(&self, kind: StreamKind, token: &str) -> Option<StreamCall> {
        self.inner.tickets.redeem(kind, token, Instant::now())
    }

    /// How many promises wait for their clients.
    pub fn promised(&self) -> usize {
        self.inner.tickets.valid(Instant::now()).len()
    }
}

/// A terminal has one output, and a call without any stream is a mistake. Source: CRI `ExecRequest`, `AttachRequest`.
fn check_streams(streams: Streams) -> Result<(), PodError> {
    let invalid = |field, why: &str| Err(PodError::Invalid { field, why: why.into() });
    if streams.tty && streams.stderr {
        return invalid(
            "stderr",
            "a terminal has no stderr of its own: ask for tty or for stderr",
        );
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return invalid("stdout", "one of stdin, stdout and stderr must be asked for");
    }
    Ok(())
}

pub(super) fn check_command(command: &[String]) -> Result<(), PodError> {
    let invalid = |why: &str| {
        Err(PodError::Invalid {
            field: "cmd",
            why: why.into(),
        })
    };
    match command.first() {
        Some(program) if !program.is_empty() => {}
        _ => return invalid("no command"),
    }
    if command.iter().any(|word| word.contains('\0')) {
        return invalid("a zero byte in a word");
    }
    Ok(())
}

/// Source: CRI `AttachRequest.tty`: "must match the TTY setting in the ContainerConfig".
fn check_tty(container: &Container, streams: Streams) -> Result<(), PodError> {
    let has = container.plan.config.stdio.tty;
    if streams.tty == has {
        return Ok(());
    }
    let why = if has {
        "the container has a terminal"
    } else {
        "the container has no terminal"
    };
    Err(PodError::Invalid {
        field: "tty",
        why: why.into(),
    })
}

/// That a container runs.
pub(super) fn running(container: &Container) -> Result<(), PodError> {
    let state = match &*container.state.borrow() {
        ContainerState::Running { .. } => return Ok(()),
        ContainerState::Created => "created",
        ContainerState::Exited { .. } => "exited",
    };
    Err(PodError::WrongState {
        id: container.plan.id.clone(),
        state,
        needed: "running",
    })
}

/// The outstanding promises.
#[derive(Default)]
pub(super) struct Tickets {
    /// Oldest first. Guards the list only; never held across an await.
    outstanding: Mutex<Vec<Ticket>>,
}

struct Ticket {
    token: Token,
    call: StreamCall,
    until: Instant,
}

impl Tickets {
    pub fn issue(&self, call: StreamCall, now: Instant) -> Result<Token, PodError> {
        let token = Token::random();
        let mut outstanding = self.valid(now);
        if outstanding.len() >= MOST {
            return Err(PodError::TooManyStreams(MOST));
        }
        let until = now + LIFE;
        outstanding.push(Ticket { token, call, until });
        Ok(token)
    }

    pub fn redeem(&self, kind: StreamKind, token: &str, now: Instant) -> Option<StreamCall> {
        let token: Token = token.parse().ok()?;
        let mut outstanding = self.valid(now);
        // Every token is looked at in full, whichever it is: the time taken tells nothing about any of them.
        let mut found = None;
        for (at, ticket) in outstanding.iter().enumerate() {
            if ticket.token.is(&token) {
                found = Some(at);
            }
        }
        let at = found.filter(|&at| outstanding[at].call.kind() == kind)?;
        Some(outstanding.remove(at).call)
    }

    /// The list without what is too old.
    fn valid(&self, now: Instant) -> std::sync::MutexGuard<'_, Vec<Ticket>> {
        let mut outstanding = self.outstanding.lock().expect("no panic while the list is held");
        outstanding.retain(|ticket| ticket.until > now);
        outstanding
    }
}

impl Token {
    fn random() -> Self {
        let mut bytes = [0; 16];
        // Up to 256 bytes come whole, and only an unseeded generator could be interrupted (getrandom(2)).
        while getrandom(&mut bytes, GetRandomFlags::empty()) != Ok(bytes.len()) {}
        Self(bytes)
    }

    fn is(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whoever has it has the call: not for logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl std::str::FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) {
            return Err(());
        }
        u128::from_str_radix(text, 16)
            .map(|number| Self(number.to_be_bytes()))
            .map_err(|_| ())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn call() -> StreamCall {
        StreamCall::PortForward {
            sandbox: SandboxId::random(),
            ports: vec![80],
        }
    }

    #[test]
    fn a_token_is_good_once_and_for_its_kind_only() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let (call, other) = (call(), call());
        let token = tickets.issue(call.clone(), now).unwrap().to_string();
        let second = tickets.issue(other.clone(), now).unwrap().to_string();
        assert_ne!(token, second);
        assert_eq!(tickets.redeem(StreamKind::Exec, &token, now), None);
        assert_eq!(tickets.redeem(StreamKind::PortForward, &token, now), Some(call));
        assert_eq!(tickets.redeem(StreamKind::PortForward, &token, now), None);
        assert_eq!(tickets.redeem(StreamKind::PortForward, &second, now), Some(other));
    }

    #[test]
    fn a_token_lives_for_a_minute() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let [early, late] = [(); 2].map(|()| tickets.issue(call(), now).unwrap().to_string());
        let last = now + LIFE - Duration::from_nanos(1);
        assert!(tickets.redeem(StreamKind::PortForward, &early, last).is_some());
        assert_eq!(tickets.redeem(StreamKind::PortForward, &late, now + LIFE), None);
    }

    #[test]
    fn a_thousand_are_outstanding_at_most_and_old_ones_make_room() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        for _ in 0..MOST {
            tickets.issue(call(), now).unwrap();
        }
        assert!(matches!(
            tickets.issue(call(), now),
            Err(PodError::TooManyStreams(MOST))
        ));
        assert!(tickets.issue(call(), now + LIFE).is_ok());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let token = tickets.issue(call(), now).unwrap().to_string();
        let wrong = [
            "".into(),
            "0".into(),
            token[1..].into(),
            format!("+{}", &token[1..]),
            format!("{token}0"),
            token.replace(|c: char| c.is_ascii_digit(), "A"),
        ];
        for text in wrong {
            assert_eq!(tickets.redeem(StreamKind::PortForward, &text, now), None, "{text}");
        }
        assert_eq!(format!("{:?}", Token::random()), "***");
    }

    #[test]
    fn streams_that_make_no_sense_name_their_field() {
        let fault = |streams| match check_streams(streams) {
            Err(PodError::Invalid { field, .. }) => Some(field),
            _ => None,
        };
        let none = Streams::default();
        assert_eq!(fault(none), Some("stdout"));
        assert_eq!(fault(Streams { tty: true, ..none }), Some("stdout"));
        let both = Streams {
            tty: true,
            stderr: true,
            ..none
        };
        assert_eq!(fault(both), Some("stderr"));
        assert_eq!(fault(Streams { stdin: true, ..none }), None);
        assert_eq!(fault(Streams { stderr: true, ..none }), None);
    }
}
