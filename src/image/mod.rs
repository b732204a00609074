//! Images: references, registries, content, layers and snapshots; and artifacts, which are stored as images are.
//!
//! ```text
//! <root>/blobs/sha256/<hex>            manifests and configs, as they were served
//! <root>/layers/<chain id>/fs, done    unpacked layers; without a valid `done` there is no layer
//!                          /erofs/layer  in the place of `fs`: a layer that is an EROFS image
//! <root>/base/                         below every image's layers: the places of what every container gets mounted
//! <root>/images/<hex>                  one record per image: its names, manifest, layers; written last
//! <root>/snapshots/<container>/        upper and work folders of a container's root file system; may have a quota
//! <root>/partial/<hex>                 what came of large layers that are not unpacked yet, for who goes on with them
//! <root>/preloaded                     archives that were imported at a start, as they were then
//! <root>/tmp/                          what is being made, or removed; a start has it emptied
//! ```
//! Additional stores are such folders too, of which blobs, layers and images are read.
//!
//! Content comes before what names it, so the store can be smaller than the truth, never wrong.

mod additional;
mod admit;
mod artifact;
mod config;
mod content;
#[cfg(test)]
mod contract;
mod import;
pub mod manifest;
mod mounts;
mod pinned;
mod pull;
mod quota;
mod records;
pub mod reference;
pub mod registry;
mod shares;
pub mod snapshot;
mod store;
pub mod trust;
pub mod unpack;
mod usage;
mod verify;
mod worker;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::model::{ContainerId, ErrorKind, FsUsage, ImageId, ImageView, Verified};
pub use admit::AskedBy;
pub use config::{Config, Workers};
pub use import::ImportError;
pub use mounts::Mounts;
pub use pull::{
    Confine, PullObserver, Waiting as Pulling,
    progress::{LayerView, PullView, Stage, Totals},
};
pub use quota::{QuotaError, WritableLayer};
use reference::Reference;
use registry::Puller;
use snapshot::Snapshots;
use store::Store;
pub use trust::Verdict;
use trust::{Trust, TrustError};
pub use unpack::Snapshotter;
pub use verify::Repairing;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {reference:?}: {why}")]
    Reference { reference: String, why: String },
    #[error("{0}")]
    Registry(#[from] registry::RegistryError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("manifest: {0}")]
    Manifest(#[from] manifest::ManifestError),
    #[error("layer {digest}: {why}")]
    Layer { digest: String, why: String },
    #[error("{what} has digest {got}, not {expected}")]
    Digest {
        what: &'static str,
        expected: String,
        got: String,
    },
    #[error("import {}", path.display())]
    Import { path: PathBuf, source: Box<ImageError> },
    #[error(transparent)]
    Archive(#[from] ImportError),
    #[error("{0}: not found")]
    NotFound(String),
    #[error("{what} is in the additional store {}, which is never changed", store.display())]
    ReadOnly { what: String, store: PathBuf },
    #[error("layer {layer} is below container {container}: it can be replaced when that is gone")]
    InUse { layer: String, container: ContainerId },
    #[error(
        "image.snapshotter = \"erofs\": this node cannot run containers on EROFS images, which takes Linux 6.15 with CONFIG_EROFS_FS_BACKED_BY_FILE"
    )]
    NoErofs(#[source] Box<ImageError>),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A pull that several waited for.
    #[error(transparent)]
    Joined(Arc<ImageError>),
    #[error(
        "layer {digest}: nothing has moved for {limit:?}: {fetched} of {size} bytes came, {unpacked} were unpacked"
    )]
    Stalled {
        digest: String,
        fetched: u64,
        size: u64,
        unpacked: u64,
        limit: std::time::Duration,
    },
    #[error("the pull was abandoned")]
    Abandoned,
}

impl ImageError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } => ErrorKind::InvalidArgument,
            Self::Registry(error) => error.kind(),
            Self::Trust(error) => error.kind(),
            Self::Import { source, .. } => source.kind(),
            Self::Archive(error) => error.kind(),
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Manifest(_)
            | Self::Layer { .. }
            | Self::Digest { .. }
            | Self::ReadOnly { .. }
            | Self::InUse { .. } => ErrorKind::FailedPrecondition,
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                ErrorKind::ResourceExhausted
            }
            Self::Io { .. } | Self::NoErofs(_) | Self::Quota(_) => ErrorKind::Internal,
            Self::Joined(error) => error.kind(),
            Self::Stalled { .. } => ErrorKind::DeadlineExceeded,
            Self::Abandoned => ErrorKind::Cancelled,
        }
    }
}

/// The images of this node. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    config: Arc<Config>,
    pulls: Arc<pull::Pulls>,
    trust: Arc<Trust>,
}

impl Images {
    /// Opens the store below `root` and removes what an earlier life was making.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &Path, config: &Config) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(root, config.snapshotter, &config.additional_stores)?);
        Ok(Self {
            pulls: Arc::new(pull::Pulls::new(config, &store.content)?),
            store,
            trust: Arc::new(Trust::new(config.policy.clone(), config.policy_dir.clone())),
            config: Arc::new(config.clone()),
        })
    }

    /// Pulls an image. A pull of the same reference with the same credentials under way is joined; it ends early only
    /// when the last who waits for it has left.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is named that is not whole.
    pub async fn pull(&self, reference: &str, puller: Puller<'_>) -> Result<ImageId, ImageError> {
        self.begin_pull(reference, puller)?.outcome().await
    }

    /// The same for who wants to look how far it is.
    ///
    /// # Errors
    /// [`ImageError`] for what can be said before anybody is asked.
    pub fn begin_pull(&self, reference: &str, puller: Puller<'_>) -> Result<Pulling, ImageError> {
        pull::begin(self, reference, puller)
    }

    /// The pulls that are under way, the oldest first.
    pub fn pulls(&self) -> Vec<PullView> {
        self.pulls.views()
    }

    /// What all pulls since the start have done.
    pub fn pull_totals(&self) -> &Totals {
        self.pulls.totals()
    }

    /// From now on `observer` is told of each pull that ends. There is one for good.
    pub fn observe_pulls(&self, observer: PullObserver) {
        self.pulls.observe(observer);
    }

    /// From now on what unpacks layers is in a cgroup of its own.
    ///
    /// # Errors
    /// Why it cannot be made just now.
    pub fn confine_workers(&self, confine: Confine) -> Result<(), String> {
        self.pulls.confine(confine)
    }

    /// Whether the policy of today lets pods of a namespace have an image that is here, asked for by these names.
    ///
    /// # Errors
    /// [`ImageError::Trust`].
    pub async fn admit(&self, image: &ImageView, asked: AskedBy<'_>, namespace: &str) -> Result<(), ImageError> {
        admit::admit(self, image, asked, namespace).await
    }

    /// Why an image was let in, for each name that it was pulled by under a policy.
    pub fn verdicts(&self, image: &ImageId) -> Vec<Verdict> {
        self.store.record(image).map_or_else(Vec::new, |record| record.verdicts)
    }

    /// By image id or the beginning of one, or by what `registries.conf` says that a name means.
    fn find(&self, name: &str) -> Result<Option<ImageView>, ImageError> {
        if Reference::names_registry(name) || name.starts_with("sha256:") {
            return self.store.find(name);
        }
        if let Some(image) = self.store.find_id(name) {
            return Ok(Some(image));
        }
        for candidate in registry::candidates(&self.config.registries_conf, name)? {
            if let Some(image) = self.store.find(&candidate.reference.to_string())? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// The image that a reference, an image id or the unique beginning of one means; `None` when there is none.
    ///
    /// # Errors
    /// [`ImageError::Reference`] when it is none of these.
    pub fn status(&self, name: &str) -> Result<Option<ImageView>, ImageError> {
        Ok(self.find(name)?.map(|image| self.marked(image)))
    }

    /// All images, or the one that `filter` means.
    pub fn list(&self, filter: Option<&str>) -> Vec<ImageView> {
        let images = match filter {
            None => self.store.all(),
            Some(name) => self.find(name).ok().flatten().into_iter().collect(),
        };
        images.into_iter().map(|image| self.marked(image)).collect()
    }

    /// With the mark of an image that the configuration pins, or that cannot be removed.
    fn marked(&self, image: ImageView) -> ImageView {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        let is_pinned = names.any(|name| pinned::pins(&self.config.pinned, name));
        ImageView {
            pinned: is_pinned || self.store.read_only(&image.id).is_some(),
            ..image
        }
    }

    /// Removes an image with all its names; nothing to do when it is not there. Layers that a container uses stay
    /// until it is gone. Blocks.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::Io`]; [`ImageError::ReadOnly`] for an image of an additional store.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        match self.find(name)? {
            Some(image) => self.store.remove(&image.id),
            // Somebody else may just be removing it.
            None => {
                self.store.settle();
                Ok(())
            }
        }
    }

    /// Imports the images of an archive or a folder of this node: an OCI layout or what `docker save` makes, in a tar
    /// file, which may be compressed, or a layout's folder. All of them, or none. A `name` is for the one image that is
    /// in it.
    ///
    /// # Errors
    /// [`ImageError::Import`] naming the archive and the file in it that is at fault.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<ImageView>, ImageError> {
        let naming = match name {
            None => import::Naming::Own,
            Some(name) => import::Naming::As(name.parse()?),
        };
        import::import(self, archive, naming).await
    }

    /// Imports what is new in the preload folder; what is broken is logged and passed over.
    pub async fn preload(&self) {
        if let Some(dir) = &self.config.preload_dir {
            import::preload::run(self, dir).await;
        }
    }

    /// Looks whether this node can run containers on what layers are unpacked into.
    ///
    /// # Errors
    /// [`ImageError::NoErofs`].
    pub fn probe(&self, snapshots: &Snapshots) -> Result<(), ImageError> {
        match self.config.snapshotter {
            Snapshotter::Overlay => Ok(()),
            Snapshotter::Erofs => {
                mounts::probe(&self.store.content, snapshots).map_err(|error| ImageError::NoErofs(Box::new(error)))
            }
        }
    }

    /// The mounts of layers that are images.
    pub fn mounts(&self) -> Mounts {
        self.store.content.mounts.clone()
    }

    /// Looks whether images still are what was pulled, all of them or those called `names`. With `repair` what is damaged
    /// is had from its registry again.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] for a name that no image has. What is damaged is no error.
    pub async fn verify(&self, names: &[String], repair: Option<Repairing>) -> Result<Verified, ImageError> {
        verify::verify(self, names, repair).await
    }

    /// Keeps an image's layers for a container.
    pub fn hold(&self, image: &ImageId, container: &ContainerId) {
        self.store.hold(image, container);
    }

    /// Ends a hold; the layers of an image removed meanwhile go with the last.
    pub fn release(&self, image: &ImageId, container: &ContainerId) {
        self.store.release(image, container);
    }

    /// What the images take, from what was counted when they were unpacked.
    pub fn fs_info(&self) -> FsUsage {
        self.store.usage()
    }
}

/// Runs what waits for the disk where that keeps nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(ImageError::Abandoned))
}
