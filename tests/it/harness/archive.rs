//! Archives of the prepared images, as the tools of the world write them, and as nobody should.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::target;

/// A prepared image, from the registry's storage.
#[derive(Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// As they are in the registry.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// `docker.io/library/<name>:latest`.
    pub fn prepared(name: &str) -> Image {
        let v2 = target().join("test-images/registry/docker/registry/v2");
        let tag = v2.join(format!(
            "repositories/library/{name}/_manifests/tags/latest/current/link"
        ));
        let blob = |digest: &str| {
            let hex = digest.trim_start_matches("sha256:");
            let path = v2.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let manifest = blob(&fs::read_to_string(tag).expect("no images: run tests/run"));
        let json: Value = serde_json::from_slice(&manifest).expect("a manifest");
        let digest = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
        let layers = json["layers"].as_array().expect("layers");
        Image {
            config: blob(&digest(&json["config"])),
            layers: layers.iter().map(|layer| blob(&digest(layer))).collect(),
            manifest,
        }
    }

    pub fn id(&self) -> String {
        sha256(&self.config)
    }

    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// What an index says of it.
    pub fn entry(&self, annotations: &[(&str, &str)]) -> Value {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.digest(),
            "size": self.manifest.len(), "annotations": annotations,
        })
    }
}

/// Files by their names.
#[derive(Clone, Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    /// A layout of these images under `entries`.
    pub fn oci(images: &[&Image], entries: &[Value]) -> Files {
        let mut files = Files::default();
        files.put("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "manifests": entries});
        files.put("index.json", index.to_string().as_bytes());
        for image in images {
            for blob in image.layers.iter().chain([&image.manifest, &image.config]) {
                files.put(&blob_path(blob), blob);
            }
        }
        files
    }

    /// The same of one image under a whole name.
    pub fn oci_of(image: &Image, name: &str) -> Files {
        Files::oci(&[image], &[image.entry(&[("org.opencontainers.image.ref.name", name)])])
    }

    /// What `docker save` made before it wrote layouts: layers without compression, each in its folder.
    pub fn docker(images: &[(&Image, &[&str])]) -> Files {
        let (mut files, mut list) = (Files::default(), Vec::new());
        for (image, names) in images {
            let config = format!("{}.json", image.id().trim_start_matches("sha256:"));
            files.put(&config, &image.config);
            let layers = image.layers.iter().map(|layer| {
                let tar = plain(layer);
                let name = format!("{}/layer.tar", sha256(&tar).trim_start_matches("sha256:"));
                files.put(&name, &tar);
                name
            });
            let layers: Vec<String> = layers.collect();
            list.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
        }
        files.put("manifest.json", json!(list).to_string().as_bytes());
        files
    }

    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        self.0.insert(name.to_owned(), bytes.to_owned());
    }

    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &bytes[..]).expect("an entry");
        }
        tar.into_inner().expect("an archive")
    }

    pub fn write_tar(&self, path: &Path) -> PathBuf {
        fs::write(path, self.tar()).expect("an archive");
        path.to_owned()
    }

    pub fn write_gz(&self, path: &Path) -> PathBuf {
        let mut encoder = GzEncoder::new(fs::File::create(path).expect("an archive"), Compression::fast());
        encoder.write_all(&self.tar()).expect("an archive");
        encoder.finish().expect("an archive");
        path.to_owned()
    }

    pub fn write_folder(&self, path: &Path) -> PathBuf {
        for (name, bytes) in &self.0 {
            let file = path.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, bytes).expect("a file");
        }
        path.to_owned()
    }
}

pub fn blob_path(bytes: &[u8]) -> String {
    sha256(bytes).replace("sha256:", "blobs/sha256/")
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer without its compression, which is gzip.
pub fn plain(layer: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    GzDecoder::new(layer).read_to_end(&mut tar).expect("gzip");
    tar
}
