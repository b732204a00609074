//! The thread that reads what cgroups and namespaces tell.
//!
//! It has a thread of its own so that a stats call never waits for a place among those who wait for disks. It also looks
//! at every live container's CPU time now and then, so that the first answer has something to compare with.

use std::{
    collections::HashMap,
    io,
    sync::{Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Inner, PodError};
use crate::model::{ContainerState, SandboxState, Timestamp};

/// How often the CPU time of all is looked at when nobody asks.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A rate is taken over this time at least.
const WINDOW_NS: i64 = 1_000_000_000;
/// What it calls is shallow.
const STACK: usize = 256 << 10;

/// Work for the thread.
type Job = Box<dyn FnOnce(&mut Rates) + Send>;

/// The thread's end of a queue; it ends with the last of these.
pub struct Meter {
    jobs: mpsc::Sender<Job>,
}

impl Meter {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of making a thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("meter".into()).stack_size(STACK);
        thread.spawn(move || serve(&queue))?;
        Ok(Self { jobs })
    }

    /// Lets it look at these pods from now on.
    pub fn watch(&self, pods: Weak<Inner>) {
        // It fails only when the thread is gone, which the first question will tell.
        let _ = self.jobs.send(Box::new(move |rates| rates.pods = pods));
    }

    /// Runs `work` on the thread, after what was asked before.
    ///
    /// # Errors
    /// [`PodError::NoMeter`].
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Rates) -> T + Send + 'static,
    ) -> Result<T, PodError> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |rates: &mut Rates| {
            // It fails when the client has gone.
            let _ = answer.send(work(rates));
        });
        self.jobs.send(job).map_err(|_| PodError::NoMeter)?;
        result.await.map_err(|_| PodError::NoMeter)
    }
}

fn serve(queue: &mpsc::Receiver<Job>) {
    let mut rates = Rates::default();
    let mut next = Instant::now() + SAMPLE_EVERY;
    loop {
        match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(job) => job(&mut rates),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= next {
            rates.sample_all();
            next = Instant::now() + SAMPLE_EVERY;
        }
    }
}

/// CPU times seen before, by the id of a container or sandbox.
#[derive(Default)]
pub struct Rates {
    pods: Weak<Inner>,
    known: HashMap<String, Known>,
}

/// Two looks at one cgroup.
struct Known {
    base: Look,
    last: Look,
}

#[derive(Clone, Copy)]
struct Look {
    at: Timestamp,
    cpu_ns: u64,
}

impl Rates {
    /// Notes a CPU time, and answers the nanoseconds per second since an earlier look, which is at least a second ago
    /// if there is any. A cgroup that is seen for the first time is compared with its beginning, if that is known.
    pub fn note(&mut self, id: &str, began_at: Option<Timestamp>, at: Timestamp, cpu_ns: u64) -> Option<u64> {
        let now = Look { at, cpu_ns };
        if !self.known.contains_key(id) {
            let base = began_at.map_or(now, |at| Look { at, cpu_ns: 0 });
            self.known.insert(id.to_owned(), Known { base, last: now });
        }
        let known = self.known.get_mut(id)?;
        // The clock was set back, or it is another cgroup of that name.
        if now.at < known.last.at || now.cpu_ns < known.last.cpu_ns {
            *known = Known { base: now, last: now };
        }
        if now.at.0 - known.last.at.0 >= WINDOW_NS {
            known.base = known.last;
            known.last = now;
        }
        known.base.rate_until(now)
    }

    /// Looks at everything that lives, and forgets the rest.
    fn sample_all(&mut self) {
        let Some(inner) = self.pods.upgrade() else { return };
        let (cgroups, index) = (&inner.with.cgroups, &inner.index);
        let mut before = std::mem::take(&mut self.known);
        let mut keep = |id: &str| before.remove(id).map(|known| (id.to_owned(), known));
        let containers = index.find_containers(&Default::default());
        let live = containers
            .iter()
            .filter(|container| !matches!(*container.state.borrow(), ContainerState::Exited { .. }));
        let live: Vec<_> = live.collect();
        self.known.extend(live.iter().filter_map(|c| keep(c.plan.id.as_str())));
        let sandboxes = index.find_sandboxes(&Default::default());
        let ready = sandboxes
            .iter()
            .filter(|s| s.status.borrow().state == SandboxState::Ready);
        self.known.extend(ready.filter_map(|s| keep(s.plan.id.as_str())));
        for container in live {
            if let Some(cpu_ns) = cgroups.cpu_ns(&container.plan.cgroup) {
                let began_at = Some(container.plan.created_at);
                self.note(container.plan.id.as_str(), began_at, Timestamp::now(), cpu_ns);
            }
        }
    }
}

impl Look {
    fn rate_until(self, now: Look) -> Option<u64> {
        let passed = u128::try_from(now.at.0 - self.at.0).ok().filter(|ns| *ns > 0)?;
        let used = u128::from(now.cpu_ns.checked_sub(self.cpu_ns)?);
        u64::try_from(used * 1_000_000_000 / passed).ok()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(tenths: i64) -> Timestamp {
        Timestamp(tenths * SECOND / 10)
    }

    #[test]
    fn the_first_answer_is_the_average_since_the_beginning() {
        let mut rates = Rates::default();
        assert_eq!(rates.note("a", Some(at(0)), at(20), 1_000_000_000), Some(500_000_000));
        assert_eq!(rates.note("b", None, at(20), 1_000_000_000), None);
    }

    #[test]
    fn a_later_answer_is_of_the_time_since_an_earlier_look_a_second_ago_or_more() {
        let mut rates = Rates::default();
        rates.note("a", Some(at(0)), at(20), 2_000_000_000);
        // Too near to the first look: still compared with the beginning.
        assert_eq!(rates.note("a", None, at(21), 2_000_000_000), Some(952_380_952));
        assert_eq!(rates.note("a", None, at(40), 2_500_000_000), Some(250_000_000));
        assert_eq!(rates.note("a", None, at(41), 2_500_000_000), Some(238_095_238));
    }

    #[test]
    fn a_clock_or_a_counter_that_goes_back_begins_anew() {
        let mut rates = Rates::default();
        rates.note("a", Some(at(0)), at(100), 5_000_000_000);
        assert_eq!(rates.note("a", None, at(50), 6_000_000_000), None);
        assert_eq!(rates.note("a", None, at(70), 6_000_000_000), Some(0));
        assert_eq!(rates.note("a", None, at(90), 1), None);
    }

    #[tokio::test]
    async fn questions_are_answered_in_their_order() {
        let meter = Meter::start().unwrap();
        let first = meter.ask(|rates| rates.note("a", None, at(0), 0));
        let second = meter.ask(|rates| rates.note("a", None, at(10), 1_000_000_000));
        assert_eq!(first.await.unwrap(), None);
        assert_eq!(second.await.unwrap(), Some(1_000_000_000));
    }
}
