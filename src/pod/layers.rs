//! How large the writable layers are: found out in the background, never in a call.
//!
//! One thread counts one layer after the other. It works a tenth of the time at most, so a container with millions of
//! files costs the node little and is only told of later. A layer is counted every ten seconds or so while its container
//! lives, and once more after its end.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use super::{Inner, Pods, index::Container};
use crate::model::{ContainerId, ContainerState, FsUsage, Timestamp, chain};

/// How often it looks for layers to count.
const ROUND: Duration = Duration::from_secs(1);
/// From one count of a layer to the next.
const EVERY: Duration = Duration::from_secs(10);
/// For each moment of work so many of rest.
const REST: u32 = 9;
/// It works so long at once: a rest costs more than to count a small layer.
const SHIFT: Duration = Duration::from_millis(1);
const STACK: usize = 256 << 10;

/// When a layer's turn comes again.
enum Next {
    At(Instant),
    /// Its container had ended before it was counted last.
    Never,
}

/// Starts the thread; it ends with the pods.
///
/// # Errors
/// Those of making a thread.
pub fn watch(pods: Weak<Inner>) -> io::Result<()> {
    let thread = thread::Builder::new().name("layers".into()).stack_size(STACK);
    thread.spawn(move || {
        let mut turns = HashMap::new();
        while let Some(inner) = pods.upgrade() {
            inner.count_layers(&mut turns);
            drop(inner);
            thread::sleep(ROUND);
        }
    })?;
    Ok(())
}

impl Pods {
    /// The folder that stands for the file system of the writable layers.
    pub fn layers_place(&self) -> &Path {
        self.inner.with.snapshots.place()
    }

    /// What all writable layers take, each as it was counted last; one that was not yet, lately made or found by a
    /// starting daemon, is left out. Source: CRI ImageFsInfo, `container_filesystems`.
    pub fn layers_usage(&self) -> FsUsage {
        let mut all = FsUsage {
            at: Timestamp::now(),
            path: self.layers_place().to_owned(),
            used_bytes: 0,
            inodes: 0,
        };
        for container in self.inner.index.find_containers(&Default::default()) {
            let Some(layer) = container.layer() else { continue };
            all.used_bytes += layer.used_bytes;
            all.inodes += layer.inodes;
            // As old as the oldest part of it, as containerd has it too; what has ended stays as it was counted.
            if !has_ended(&container) {
                all.at = all.at.min(layer.at);
            }
        }
        all
    }
}

impl Inner {
    fn count_layers(&self, turns: &mut HashMap<ContainerId, Next>) {
        match self.with.snapshots.disk() {
            Ok(disk) => *self.disk.lock().expect("no panic while the value is held") = disk,
            Err(error) => tracing::debug!(error = %chain(&error), "cannot examine the disk"),
        }
        let containers = self.index.find_containers(&Default::default());
        let mut pace = Pace::begin();
        for container in &containers {
            match turns.get(&container.plan.id) {
                Some(Next::Never) => {}
                Some(Next::At(at)) if *at > Instant::now() && !has_ended(container) => {}
                _ => {
                    let next = self.count_layer(container, &mut pace);
                    turns.insert(container.plan.id.clone(), next);
                }
            }
        }
        if turns.len() > containers.len() {
            let there: HashSet<_> = containers.iter().map(|container| &container.plan.id).collect();
            turns.retain(|id, _| there.contains(id));
        }
    }

    fn count_layer(&self, container: &Arc<Container>, pace: &mut Pace) -> Next {
        let ended = has_ended(container);
        let begin = Instant::now();
        let measured = self.with.snapshots.measure(&container.plan.id, || pace.rest_when_due());
        pace.rest_when_due();
        match measured {
            Ok(usage) => *container.layer.lock().expect("no panic while the value is held") = Some(usage),
            // Removed meanwhile, or busy moving folders: what was known stays, with its time.
            Err(error) => tracing::debug!(container = %container.plan.id, error = %chain(&error), "layer not counted"),
        }
        if ended {
            Next::Never
        } else {
            Next::At(begin + EVERY.max(begin.elapsed() * 2))
        }
    }
}

/// Work and rest in turns.
struct Pace {
    resumed: Instant,
}

impl Pace {
    fn begin() -> Self {
        Self {
            resumed: Instant::now(),
        }
    }

    fn rest_when_due(&mut self) {
        let worked = self.resumed.elapsed();
        if worked >= SHIFT {
            thread::sleep(worked * REST);
            self.resumed = Instant::now();
        }
    }
}

fn has_ended(container: &Container) -> bool {
    matches!(*container.state.borrow(), ContainerState::Exited { .. })
}
