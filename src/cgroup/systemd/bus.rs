//! What is asked of systemd: units started, stopped and changed, each within a deadline and over a lost connection.
//!
//! systemd goes away for a moment when it executes itself again (`daemon-reexec`). A call whose answer was lost is made
//! again, so each is one that may be made twice: a start that was heard the first time finds its unit there.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{
    BusError,
    link::{Asked, Link},
    properties::Property,
    wire::{Call, Message, Reader, Writer},
};

/// How long one operation may take, waiting for a lost connection included.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first pause before a connection is tried again, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// A job of this mode takes the place of any that the unit has.
const REPLACE: &str = "replace";

type Result<T> = std::result::Result<T, BusError>;

/// systemd as it is spoken to. The connection is made when it is first needed.
#[derive(Default)]
pub struct Bus {
    /// The connection that was used last. Guards the value and its replacement.
    link: Mutex<Option<Arc<Link>>>,
}

/// A unit that was asked for and may not be there yet.
pub struct Starting {
    pub unit: String,
    call: Call<'static>,
    asked: Asked,
    deadline: Instant,
}

impl Bus {
    /// systemd's version, such as `257.13-1~deb13u1`.
    pub fn version(&self) -> Result<String> {
        let answer = self.ask(&property(MANAGER_PATH, MANAGER, "Version"), deadline())?;
        let mut reader = Reader::new(&answer.body);
        let text = reader.signature().and_then(|_| reader.text());
        text.map(str::to_owned).ok_or(BusError::Answer)
    }

    /// Asks for a transient unit and does not wait for it.
    pub fn begin_start(&self, unit: &str, properties: &[Property]) -> Result<Starting> {
        let deadline = deadline();
        let mut body = Writer::default();
        body.text(unit).text(REPLACE).properties(properties).nothing();
        let call = manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body);
        let asked = self.send(&call, Some(unit), deadline)?;
        Ok(Starting {
            unit: unit.to_owned(),
            call,
            asked,
            deadline,
        })
    }

    /// Waits until the unit is there.
    pub fn finish_start(&self, starting: Starting) -> Result<()> {
        let Starting {
            unit,
            call,
            asked,
            deadline,
        } = starting;
        let mut outcome = asked.job(deadline);
        while let Err(BusError::Lost) = outcome {
            thread::sleep(PAUSES[0]);
            outcome = match self.send(&call, Some(&unit), deadline)?.job(deadline) {
                Err(BusError::Refused { name, .. }) if name == UNIT_EXISTS => self.settle(&unit, deadline),
                outcome => outcome,
            };
        }
        outcome
    }

    /// Stops a unit; its processes should be dead, or systemd takes its time to kill them. One that is not there is no
    /// error, and none stays behind as failed.
    pub fn stop(&self, unit: &str) -> Result<()> {
        let deadline = deadline();
        let mut body = Writer::default();
        body.text(unit).text(REPLACE);
        let call = manager("StopUnit", "ss", body);
        let outcome = loop {
            match self.send(&call, Some(unit), deadline)?.job(deadline) {
                Err(BusError::Lost) => thread::sleep(PAUSES[0]),
                outcome => break outcome,
            }
        };
        match outcome {
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            // Another request to stop it was faster, or it failed to stop: gone it is either way once it is forgotten.
            Err(BusError::Job(_)) => self.reset_failed(unit, deadline),
            outcome => outcome,
        }
    }

    /// Changes properties of a unit for as long as it lives.
    pub fn set_properties(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit).flag(true).properties(properties);
        let call = manager("SetUnitProperties", "sba(sv)", body);
        self.ask(&call, deadline()).map(drop)
    }

    fn reset_failed(&self, unit: &str, deadline: Instant) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        match self.ask(&manager("ResetFailedUnit", "s", body), deadline) {
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Waits until a unit that is there has started.
    fn settle(&self, unit: &str, deadline: Instant) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        // Listened to before it is looked at: no end of a job is missed.
        let listening = self.send(&manager("GetUnit", "s", body), Some(unit), deadline)?;
        let path = listening.object(deadline)?;
        let answer = self.ask(&property(&path, UNIT, "Job"), deadline)?;
        let job = read_job(&answer).ok_or(BusError::Answer)?;
        if job != "/" {
            return listening.job_called(&job, deadline);
        }
        let answer = self.ask(&property(&path, UNIT, "ActiveState"), deadline)?;
        let mut reader = Reader::new(&answer.body);
        match reader.signature().and_then(|_| reader.text()) {
            Some("active") => Ok(()),
            Some(state) => Err(BusError::Job(state.to_owned())),
            None => Err(BusError::Answer),
        }
    }

    /// Calls and waits for the answer.
    fn ask(&self, call: &Call<'_>, deadline: Instant) -> Result<Message> {
        loop {
            match self.send(call, None, deadline)?.answer(deadline) {
                Err(BusError::Lost) => thread::sleep(PAUSES[0]),
                outcome => return outcome,
            }
        }
    }

    /// Sends a call over a connection that is there, or over a new one.
    fn send(&self, call: &Call<'_>, unit: Option<&str>, deadline: Instant) -> Result<Asked> {
        let mut pause = PAUSES[0];
        loop {
            let outcome = self.link(deadline).and_then(|link| link.send(call, unit));
            match outcome {
                Err(BusError::Connect(_) | BusError::Lost) if Instant::now() + pause < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES[1]);
                }
                outcome => return outcome,
            }
        }
    }

    fn link(&self, deadline: Instant) -> Result<Arc<Link>> {
        let mut slot = self.link.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(link) = slot.as_ref().filter(|link| !link.is_lost()) {
            return Ok(link.clone());
        }
        let link = Arc::new(Link::open(deadline).map_err(BusError::Connect)?);
        *slot = Some(link.clone());
        Ok(link)
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn manager(member: &'static str, signature: &'static str, body: Writer) -> Call<'static> {
    Call {
        path: MANAGER_PATH,
        interface: MANAGER,
        member,
        signature,
        body,
    }
}

fn property<'a>(path: &'a str, interface: &str, name: &str) -> Call<'a> {
    let mut body = Writer::default();
    body.text(interface).text(name);
    Call {
        path,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        signature: "ss",
        body,
    }
}

/// The path in a variant with a job (`(uo)`); `/` when there is none.
fn read_job(answer: &Message) -> Option<String> {
    let mut reader = Reader::new(&answer.body);
    reader.signature()?;
    reader.structure()?;
    reader.u32()?;
    reader.text().map(str::to_owned)
}
