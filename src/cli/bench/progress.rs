//! How far it is, on stderr; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of so many steps. It is drawn only when a step ends, between what is measured.
pub fn bar(title: &str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24} {bar:40} {pos:>5}/{len} {eta:>4}");
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    bar.set_style(style.expect("a template").progress_chars("━╸ "));
    bar.set_prefix(title.to_owned());
    bar
}
