//! What can be measured, one file each.

mod burst;
mod churn;
mod exec;
mod list;
mod memory;
mod pod;
mod pull;

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::{Bench, arguments::Subject};

/// Measures `subject` at all endpoints.
///
/// # Errors
/// At the first call that fails; what was made by then is found by its label.
pub async fn measure(subject: Subject, bench: &mut Bench<'_>) -> anyhow::Result<()> {
    match subject {
        Subject::Pod => pod::measure(bench).await,
        Subject::Exec => exec::measure(bench).await,
        Subject::Burst => burst::measure(bench).await,
        Subject::Churn => churn::measure(bench).await,
        Subject::List => list::measure(bench).await,
        Subject::Pull => pull::measure(bench).await,
        Subject::Memory => memory::measure(bench).await,
        Subject::All => {
            for each in subject.each() {
                Box::pin(measure(each, bench)).await?;
            }
            Ok(())
        }
    }
}

/// Does all of it, `concurrency` at once: what came out, and how long it took.
///
/// # Errors
/// The first one's, after all have come to their end: a call that is dropped may make a pod that nobody knows of.
async fn at_once<T>(
    works: impl Iterator<Item = impl Future<Output = anyhow::Result<T>>>,
    concurrency: usize,
) -> anyhow::Result<(Vec<T>, Duration)> {
    let began = Instant::now();
    let done: Vec<_> = stream::iter(works).buffer_unordered(concurrency).collect().await;
    let time = began.elapsed();
    Ok((done.into_iter().collect::<anyhow::Result<_>>()?, time))
}
