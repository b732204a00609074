//! `inro image pull` and `pulls`: how far pulls are, live on a terminal, as plain lines elsewhere. What they say of it goes
//! to stderr; stdout has the image's id alone.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::Duration,
};

use inro_proto::{
    self as wire, images as own,
    images::pull::{Layer, Stage},
};
use tonic::Code;

use super::{
    own_told, print, spec,
    table::{Table, bytes, short},
    told,
};
use crate::cli::client::Client;

/// Pulls an image and shows how far it is, with a daemon of ours; with another runtime's only the end is told.
///
/// # Errors
/// The runtime's.
pub async fn run(client: &mut Client, image: &str, auth: Option<wire::AuthConfig>) -> anyhow::Result<()> {
    let request = own::PullRequest {
        image: image.into(),
        auth: auth.clone(),
        ..Default::default()
    };
    let mut updates = match client.own_images.pull(request).await {
        Ok(updates) => updates.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return of_any_runtime(client, image, auth).await,
        Err(status) => return Err(told(status)),
    };
    let mut shown = Shown::new(std::io::stderr().is_terminal());
    while let Some(update) = updates.message().await.map_err(told)? {
        if let Some(pull) = &update.pull {
            show(&shown.next(pull));
        }
        if !update.image_ref.is_empty() {
            show(&shown.end(update.pull.as_ref()));
            return print(&format!("{}\n", update.image_ref));
        }
    }
    anyhow::bail!("the daemon ended before the pull did")
}

async fn of_any_runtime(client: &mut Client, image: &str, auth: Option<wire::AuthConfig>) -> anyhow::Result<()> {
    let request = wire::PullImageRequest {
        image: spec(image),
        auth,
        ..Default::default()
    };
    let pulled = client.images.pull_image(request).await.map_err(told)?.into_inner();
    print(&format!("{}\n", pulled.image_ref))
}

/// Prints the pulls that are under way.
///
/// # Errors
/// The runtime's.
pub async fn list(client: &mut Client) -> anyhow::Result<()> {
    let request = own::ListPullsRequest {};
    let pulls = client
        .own_images
        .list_pulls(request)
        .await
        .map_err(own_told)?
        .into_inner()
        .pulls;
    let mut table = Table::new(&["IMAGE", "FOR", "WAITING", "LAYERS", "FETCHED", "OF", "UNPACKED"]);
    for pull in &pulls {
        let sum = Sum::of(pull);
        table.row([
            pull.image.clone(),
            format!("{:.0?}", Duration::from_secs(pull.elapsed_ms / 1000)),
            pull.waiting.to_string(),
            format!("{}/{}", sum.done, pull.layers.len()),
            bytes(sum.fetched),
            bytes(sum.size),
            bytes(sum.unpacked),
        ]);
    }
    print(&table.to_string())
}

/// Whether anybody reads it or not, the pull goes on.
fn show(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// All layers of a pull together; those that were there before have no part in it but in their number.
#[derive(Default)]
struct Sum {
    done: usize,
    size: u64,
    fetched: u64,
    kept: u64,
    unpacked: u64,
}

impl Sum {
    fn of(pull: &own::Pull) -> Self {
        let mut sum = Self::default();
        for layer in &pull.layers {
            if matches!(layer.stage(), Stage::Unpacked | Stage::Present) {
                sum.done += 1;
            }
            if layer.stage() != Stage::Present {
                sum.size += layer.size_bytes;
                sum.fetched += layer.fetched_bytes;
                sum.kept += layer.kept_bytes;
                sum.unpacked += layer.unpacked_bytes;
            }
        }
        sum
    }
}

/// What was shown of a pull so far.
enum Shown {
    /// Lines that are written over.
    Live { lines: usize },
    /// Layers whose end was told.
    Plain { told: HashSet<String> },
}

impl Shown {
    fn new(is_terminal: bool) -> Self {
        match is_terminal {
            true => Self::Live { lines: 0 },
            false => Self::Plain { told: HashSet::new() },
        }
    }

    /// What to write now that it is that far.
    fn next(&mut self, pull: &own::Pull) -> String {
        match self {
            Self::Live { lines } => {
                let mut text = String::new();
                if *lines > 0 {
                    // Up to the first of them, and all to the screen's end is gone.
                    let _ = write!(text, "\x1b[{lines}A\x1b[J");
                }
                *lines = 0;
                for layer in pull.layers.iter().filter(|layer| layer.stage() == Stage::Fetching) {
                    let _ = writeln!(text, "{}", line(layer));
                    *lines += 1;
                }
                let sum = Sum::of(pull);
                let _ = writeln!(
                    text,
                    "{} of {} layers, {} of {} fetched, {} unpacked, {} s",
                    sum.done,
                    pull.layers.len(),
                    bytes(sum.fetched),
                    bytes(sum.size),
                    bytes(sum.unpacked),
                    pull.elapsed_ms / 1000
                );
                *lines += 1;
                text
            }
            Self::Plain { told } => {
                let over = pull
                    .layers
                    .iter()
                    .filter(|layer| matches!(layer.stage(), Stage::Unpacked | Stage::Present));
                over.filter(|layer| told.insert(layer.digest.clone()))
                    .map(|layer| line(layer) + "\n")
                    .collect()
            }
        }
    }

    /// What to write when it is over.
    fn end(&self, pull: Option<&own::Pull>) -> String {
        let Some(pull) = pull.filter(|_| matches!(self, Self::Plain { .. })) else {
            return String::new();
        };
        let sum = Sum::of(pull);
        let kept = match sum.kept {
            0 => String::new(),
            kept => format!(", {} of them kept by an earlier pull", bytes(kept)),
        };
        format!(
            "{} layers, {} fetched{kept}, in {:.1} s\n",
            pull.layers.len(),
            bytes(sum.fetched),
            pull.elapsed_ms as f64 / 1000.0
        )
    }
}

fn line(layer: &Layer) -> String {
    let digest = short(&layer.digest);
    let (fetched, size) = (bytes(layer.fetched_bytes), bytes(layer.size_bytes));
    match layer.stage() {
        Stage::Waiting => format!("{digest} waits"),
        Stage::Present => format!("{digest} is here"),
        Stage::Fetching => format!("{digest} {fetched} of {size}, {} unpacked", bytes(layer.unpacked_bytes)),
        Stage::Unpacked => format!("{digest} {size} from {}", layer.endpoint),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn layer(digit: &str, stage: Stage, fetched: u64) -> Layer {
        Layer {
            digest: format!("sha256:{}", digit.repeat(64)),
            size_bytes: 2 << 20,
            stage: stage.into(),
            fetched_bytes: fetched,
            unpacked_bytes: 3 * fetched,
            endpoint: "https://r.test".into(),
            ..Layer::default()
        }
    }

    fn pull(layers: Vec<Layer>) -> own::Pull {
        own::Pull {
            image: "shell".into(),
            elapsed_ms: 1500,
            layers,
            ..own::Pull::default()
        }
    }

    #[test]
    fn a_terminal_has_one_line_for_each_layer_under_way_which_is_written_over() {
        let mut shown = Shown::new(true);
        let first = shown.next(&pull(vec![
            layer("a", Stage::Fetching, 1 << 20),
            layer("b", Stage::Waiting, 0),
        ]));
        assert!(!first.contains('\x1b') && first.lines().count() == 2, "{first:?}");
        assert!(first.starts_with("aaaaaaaaaaaa 1"), "{first:?}");
        let second = shown.next(&pull(vec![
            layer("a", Stage::Unpacked, 2 << 20),
            layer("b", Stage::Present, 0),
        ]));
        assert!(second.starts_with("\x1b[2A\x1b[J2 of 2 layers"), "{second:?}");
        assert!(shown.next(&pull(vec![])).starts_with("\x1b[1A"));
    }

    #[test]
    fn elsewhere_each_layers_end_is_told_once() {
        let mut shown = Shown::new(false);
        assert_eq!(shown.next(&pull(vec![layer("a", Stage::Fetching, 1)])), "");
        let done = pull(vec![
            layer("a", Stage::Unpacked, 2 << 20),
            layer("b", Stage::Present, 0),
        ]);
        let text = shown.next(&done);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(
            text.contains("from https://r.test\n") && text.contains("bbbbbbbbbbbb is here\n"),
            "{text:?}"
        );
        assert_eq!(shown.next(&done), "");
        assert!(shown.end(Some(&done)).ends_with("in 1.5 s\n"));
    }
}
