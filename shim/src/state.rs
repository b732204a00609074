//! The supervisor's life as a table.
//!
//! ```text
//!            InitPid                InitExited                 StreamsClosed, DrainOver
//! Creating ──────────▶ Running ───────────────────▶ Draining ──────────────────────────▶ Done
//!     └── CreateFailed ──────────────────────────────────────────────────────────────────▲
//! ```

/// Where a supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The helper is still making the container; children are not reaped yet, so that init's end cannot be missed.
    Creating,
    Running,
    /// Init has ended and that is on record; what it printed is still being written out.
    Draining,
    Done,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    InitPid,
    CreateFailed,
    InitExited,
    StreamsClosed,
    DrainOver,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Write the shim record and begin to reap.
    Begin,
    /// Write the exit record, tell the clients, begin the drain's clock.
    RecordExit,
    /// Write out what is left and end.
    Finish,
}

/// The table.
pub fn next(state: State, event: Event) -> (State, Action) {
    match (state, event) {
        (State::Creating, Event::InitPid) => (State::Running, Action::Begin),
        (State::Creating, Event::CreateFailed) => (State::Done, Action::Finish),
        (State::Running, Event::InitExited) => (State::Draining, Action::RecordExit),
        (State::Draining, Event::StreamsClosed | Event::DrainOver) => (State::Done, Action::Finish),
        // A container may close its streams and go on; the rest cannot happen or is late.
        (state, _) => (state, Action::Nothing),
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [Event; 5] = [
        Event::InitPid,
        Event::CreateFailed,
        Event::InitExited,
        Event::StreamsClosed,
        Event::DrainOver,
    ];

    proptest! {
        #[test]
        fn an_exit_is_recorded_once_and_only_of_a_container_that_was(events in proptest::collection::vec(0..5usize, 0..40)) {
            let (mut state, mut begun, mut recorded) = (State::Creating, 0, 0);
            for event in events {
                let (after, action) = next(state, EVENTS[event]);
                begun += usize::from(action == Action::Begin);
                if action == Action::RecordExit {
                    prop_assert_eq!(begun, 1);
                    recorded += 1;
                }
                state = after;
            }
            prop_assert!(begun <= 1 && recorded <= begun);
            if state == State::Draining { prop_assert_eq!(recorded, 1); }
        }
    }

    #[test]
    fn closed_streams_do_not_end_a_running_container() {
        assert_eq!(
            next(State::Running, Event::StreamsClosed),
            (State::Running, Action::Nothing)
        );
    }
}
