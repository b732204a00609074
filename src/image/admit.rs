//! The second look at an image's trust: before each container, by the policy of that moment.
//!
//! What was let in under another policy, for another namespace or out of an archive is judged by what is on record of
//! it. When that is not enough, its registry is asked for signatures, with the node's own credentials.

use std::time::Duration;

use super::{
    ImageError, Images, blocking,
    records::ImageRecord,
    reference::Reference,
    registry::{self, Puller, Registry, Taking},
    trust::{InForce, Signature, Signatures, TrustError, Verdict},
};
use crate::model::ImageView;

/// How long the registry may take while a container waits to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// By which names a container wants its image. Source: CRI `ImageSpec`.
#[derive(Debug, Clone, Copy)]
pub struct AskedBy<'a> {
    /// `image`: a reference, or what PullImage answered.
    pub image: &'a str,
    /// `user_specified_image`: as the pod has it; may be empty.
    pub user: &'a str,
}

pub async fn admit(images: &Images, image: &ImageView, asked: AskedBy<'_>, namespace: &str) -> Result<(), ImageError> {
    let Some(policy) = images.trust.in_force(namespace)? else {
        return Ok(());
    };
    let mut refused = unknown(image, asked);
    let Some(record) = images.store.record(&image.id) else {
        return Err(refused.into());
    };
    for name in names(images, image, asked) {
        match admit_as(images, &policy, &record, &name).await {
            Ok(()) => return Ok(()),
            Err(ImageError::Trust(error @ TrustError::Refused { .. })) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused.into())
}

/// The names that count: the one that was asked for, if the image is known by it. What was asked for by its id may have
/// come by any of its names.
fn names(images: &Images, image: &ImageView, asked: AskedBy<'_>) -> Vec<Reference> {
    let text = asked_name(asked);
    let is_known = |reference: &Reference| {
        let repository = format!("{}@", reference.name());
        image.repo_digests.iter().any(|name| name.starts_with(&repository))
    };
    // What is no name, or one that nothing says where to look for, is none that it is known by.
    let meant = registry::candidates(&images.config.registries_conf, text).unwrap_or_default();
    let mut meant = meant.into_iter().map(|candidate| candidate.reference);
    if let Some(reference) = meant.find(is_known) {
        return vec![reference];
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let own = &image.id.0["sha256:".len()..];
    // The beginning of an id is for who types it, not for what a pod says.
    let is_by_id = hex == own || (asked.user.is_empty() && hex.len() >= 3 && own.starts_with(hex));
    let all = image.repo_tags.iter().chain(&image.repo_digests);
    all.filter(|_| is_by_id).filter_map(|name| name.parse().ok()).collect()
}

fn asked_name<'a>(asked: AskedBy<'a>) -> &'a str {
    match asked.user {
        "" => asked.image,
        user => user,
    }
}

fn unknown(image: &ImageView, asked: AskedBy<'_>) -> TrustError {
    TrustError::OtherName {
        reference: asked_name(asked).to_owned(),
        image: image.id.to_string(),
    }
}

async fn admit_as(
    images: &Images,
    policy: &InForce,
    record: &ImageRecord,
    reference: &Reference,
) -> Result<(), ImageError> {
    policy.check_name(reference)?;
    let at_hand = Signatures {
        usable: record.signatures.clone(),
        unusable: Vec::new(),
    };
    let refused = match policy.judge(reference, &record.blobs, &at_hand) {
        Ok(_) => return Ok(()),
        Err(TrustError::Refused { why, path, scope, .. }) => move |more: String| TrustError::Refused {
            reference: reference.to_string(),
            path,
            scope,
            why: format!("{why}; and {more}"),
        },
        Err(error) => return Err(error.into()),
    };
    match tokio::time::timeout(PATIENCE, judge_anew(images, policy, record, reference)).await {
        Ok(Ok((verdict, signatures))) => {
            let (store, id) = (images.store.clone(), record.id.clone());
            blocking(move || store.trust(&id, verdict, signatures)).await
        }
        Ok(Err(ImageError::Registry(error))) => Err(refused(error.to_string()).into()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(refused(format!("its registry does not answer within {PATIENCE:?}")).into()),
    }
}

/// Signatures may have come since it was pulled, or nobody asked for them then.
async fn judge_anew(
    images: &Images,
    policy: &InForce,
    record: &ImageRecord,
    reference: &Reference,
) -> Result<(Verdict, Vec<Signature>), ImageError> {
    let (files, puller) = (images.config.files(), Puller::default());
    let registry = Registry::open(&files, &reference.to_string(), &puller, Taking::Never)?;
    let session = registry.resolve(reference, None, &images.pulls.traffic, images.pulls.asker())?;
    policy.judge_in(&session, reference, &record.blobs).await
}
