//! Images: references, registries, content, layers and snapshots.
//!
//! ```text
//! <root>/blobs/sha256/<hex>            manifests and configs, as they were served
//! <root>/layers/<chain id>/fs, done    unpacked layers; without a valid `done` there is no layer
//! <root>/base/                         below every image's layers: the places of what every container gets mounted
//! <root>/images/<hex>                  one record per image: its names, manifest, layers; written last
//! <root>/snapshots/<container>/        upper and work folders of a container's root file system
//! <root>/tmp/                          what is being made; emptied at start
//! ```
//! Content comes before what names it, so the store can be smaller than the truth, never wrong.

mod content;
mod import;
pub mod manifest;
mod pinned;
mod pull;
mod records;
pub mod reference;
pub mod registry;
mod shares;
pub mod snapshot;
mod store;
pub mod unpack;
mod usage;

use std::{io, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{ContainerId, ErrorKind, FsUsage, ImageId, ImageView};
use reference::Reference;
use registry::Puller;
use store::Store;

/// Where images come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of `hosts.toml` files, in containerd's layout; read at each pull.
    pub hosts_dir: PathBuf,
    /// `registries.conf` of the containers tools, with its drop-ins in the folder `registries.conf.d` beside it; read at each
    /// pull. The default need not be there; empty: none.
    pub registries_conf: PathBuf,
    /// Credentials for registries and mirrors where a pull brings none: Docker's `config.json` or the containers tools'
    /// `auth.json`; read at each pull.
    pub auth_file: Option<PathBuf>,
    /// Folder of `NAMESPACE-SHA256.json`, credentials of one namespace for one pull of one repository, as CRI-O's credential
    /// provider writes them. They win over `auth_file`, and are removed by the pull that uses them.
    pub namespaced_auth_dir: Option<PathBuf>,
    /// Layers unpacked at once; 0: cores + 1.
    pub concurrent_layers: usize,
    /// Blobs fetched at once by all pulls together, parts of a blob each for itself; shared evenly between pulls.
    pub connections: usize,
    /// Bytes a second of all pulls together; 0: as fast as they come.
    pub bandwidth: u64,
    /// Parts of one large blob fetched at once where one connection is slower than unpacking, from registries that can; 1:
    /// never more than one.
    pub parallel_ranges: usize,
    /// A blob is fetched in parts when it has at least so many bytes left.
    pub parallel_ranges_from: u64,
    /// Archives in this folder are imported at start; for nodes without a registry.
    pub preload_dir: Option<PathBuf>,
    /// Images that the kubelet's clean-up leaves alone: full names with tag or digest, or with a `*` at the end, the
    /// beginning or both.
    pub pinned: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let bounds = registry::Bounds::default();
        Self {
            hosts_dir: "/etc/inro/hosts".into(),
            registries_conf: registry::DEFAULT_REGISTRIES_CONF.into(),
            auth_file: None,
            namespaced_auth_dir: None,
            concurrent_layers: 0,
            connections: bounds.connections,
            bandwidth: bounds.bandwidth,
            parallel_ranges: bounds.ranges,
            parallel_ranges_from: bounds.ranges_from,
            preload_dir: None,
            pinned: Vec::new(),
        }
    }
}

impl Config {
    /// How much may be fetched at once.
    fn bounds(&self) -> registry::Bounds {
        registry::Bounds {
            connections: self.connections,
            bandwidth: self.bandwidth,
            ranges: self.parallel_ranges,
            ranges_from: self.parallel_ranges_from,
        }
    }

    /// The files that say where images are to be had, and as whom.
    pub fn files(&self) -> registry::Files {
        registry::Files {
            hosts_dir: self.hosts_dir.clone(),
            registries_conf: self.registries_conf.clone(),
            auth_file: self.auth_file.clone(),
            namespaced_auth_dir: self.namespaced_auth_dir.clone(),
        }
    }
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {reference:?}: {why}")]
    Reference { reference: String, why: String },
    #[error("{0}")]
    Registry(#[from] registry::RegistryError),
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
    #[error("archive: {0}")]
    Archive(String),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
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
            Self::Manifest(_) | Self::Layer { .. } | Self::Digest { .. } | Self::Archive(_) => {
                ErrorKind::FailedPrecondition
            }
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                ErrorKind::ResourceExhausted
            }
            Self::Io { .. } => ErrorKind::Internal,
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
}

impl Images {
    /// Opens the store below `root` and removes what an earlier life was making.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &std::path::Path, config: &Config) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(root)?);
        Ok(Self {
            store,
            pulls: Arc::new(pull::Pulls::new(config)),
            config: Arc::new(config.clone()),
        })
    }

    /// Pulls an image. A pull of the same reference under way is joined.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is named that is not whole.
    pub async fn pull(&self, reference: &str, puller: Puller<'_>) -> Result<ImageId, ImageError> {
        pull::pull(self, reference, puller).await
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

    /// With the mark of an image that the configuration pins.
    fn marked(&self, image: ImageView) -> ImageView {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        ImageView {
            pinned: names.any(|name| pinned::pins(&self.config.pinned, name)),
            ..image
        }
    }

    /// Removes an image with all its names; nothing to do when it is not there. Layers that a container uses stay
    /// until it is gone. Blocks.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::Io`].
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        match self.find(name)? {
            Some(image) => self.store.remove(&image.id),
            None => Ok(()),
        }
    }

    /// Imports an OCI archive under `name`. Blocks.
    ///
    /// # Errors
    /// [`ImageError::Archive`] and those of a pull.
    pub fn import(&self, archive: impl io::Read, name: &str) -> Result<ImageId, ImageError> {
        import::import(&self.store, archive, name)
    }

    /// Imports every archive of the preload folder: `NAME.tar` whose index names its image by
    /// `org.opencontainers.image.ref.name`. One that is broken is logged and passed over. Blocks.
    pub fn preload(&self) {
        if let Some(dir) = &self.config.preload_dir {
            import::preload(&self.store, dir);
        }
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
