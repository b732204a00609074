//! What can be measured, one file each.

mod burst;
mod churn;
mod exec;
mod list;
mod memory;
mod pod;
mod pull;

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
