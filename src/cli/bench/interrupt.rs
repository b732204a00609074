//! Ctrl-C and SIGTERM: the first lets the step under way end and then everything be removed, the second ends at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether somebody wants this to end. Clones are the same.
///
/// A call under way is not dropped: its server may go on with it, and what it makes would be found by nobody.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupt {
    /// Listens from now on, in a task of the runtime this is called in.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(wait(signals, asked.clone()));
        Ok(Self(asked))
    }

    /// Before anything new is begun.
    ///
    /// # Errors
    /// When it is not wanted any more.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Interrupted),
            false => Ok(()),
        }
    }
}

async fn wait((mut interrupt, mut terminate): (Signal, Signal), asked: Arc<AtomicBool>) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if asked.swap(true, Ordering::Relaxed) {
            eprintln!(
                "inro: ended at once; pods with the label {} are left",
                super::endpoint::LABEL
            );
            // As a shell tells of SIGINT.
            std::process::exit(130);
        }
        eprintln!("inro: removing what was made (again: end at once)");
    }
}
