//! What took how long.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Stages in their order.
#[derive(Default)]
pub struct Stages {
    done: Vec<(String, Duration)>,
}

impl Stages {
    /// Runs a step and notes its time.
    pub async fn time<T, E>(&mut self, name: &str, step: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
    where
        anyhow::Error: From<E>,
    {
        let began = Instant::now();
        let result = step.await;
        self.done.push((name.to_owned(), began.elapsed()));
        result.map_err(|error| anyhow::Error::from(error).context(name.to_owned()))
    }

    /// A table on stdout.
    pub fn print(&self) {
        let width = self.done.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, time) in &self.done {
            println!("{name:width$}  {:9.2} ms", time.as_secs_f64() * 1000.0);
        }
    }
}
