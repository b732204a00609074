//! Where the signatures of images are kept that are not in their registry: the files of `registries.d`, read at each
//! question.
//!
//! As lenient as containers/image: what is no `.yaml` and keys that are unknown are passed over, and a section without a
//! storage leaves the choice to a less special one. What is there twice is an error. Sources: containers-registries.d(5);
//! containers/image, `docker/registries_d.go`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use reqwest::Url;
use yaml_rust2::{Yaml, YamlLoader, yaml::Hash};

use super::FileError;
use crate::image::reference::Reference;

/// What the files say together.
#[derive(Debug, Default)]
pub struct RegistriesD {
    default: Option<Section>,
    /// By scope.
    sections: BTreeMap<String, Section>,
}

/// What is said of the images of a scope, and by which file.
#[derive(Debug)]
struct Section {
    lookaside: Option<String>,
    file: PathBuf,
}

/// A storage of signatures.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookaside {
    Folder(PathBuf),
    /// A folder of an HTTP server, with the file and key that name it.
    Web(Url, String),
}

impl RegistriesD {
    /// Reads the files of a folder; without the folder there are none.
    ///
    /// # Errors
    /// [`FileError`] naming the file at fault.
    pub fn load(dir: &Path) -> Result<Self, FileError> {
        let mut all = Self::default();
        for file in files(dir)? {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // It was removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(FileError::Read { path: file, source }),
            };
            let added = all.add(&text, &file);
            added.map_err(|why| FileError::Invalid { path: file, why })?;
        }
        Ok(all)
    }

    fn add(&mut self, text: &str, file: &Path) -> Result<(), String> {
        let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
        let Some(whole) = documents.first().map(|yaml| table(yaml, "it")).transpose()?.flatten() else {
            return Ok(());
        };
        let twice = |key: &str, other: &Section| format!("{key}: it is in {} as well", other.file.display());
        if let Some(yaml) = value(whole, DEFAULT) {
            if let Some(other) = &self.default {
                return Err(twice(DEFAULT, other));
            }
            self.default = section(yaml, DEFAULT, file)?;
        }
        let docker = value(whole, "docker").map(|yaml| table(yaml, "docker"));
        for (scope, yaml) in docker.transpose()?.flatten().into_iter().flatten() {
            let scope = scope.as_str().ok_or("docker: a scope is not a string")?;
            let key = format!("docker.{scope:?}");
            match self.sections.entry(scope.to_owned()) {
                Entry::Occupied(other) => return Err(twice(&key, other.get())),
                Entry::Vacant(vacant) => {
                    if let Some(section) = section(yaml, &key, file)? {
                        vacant.insert(section);
                    }
                }
            }
        }
        Ok(())
    }

    /// Where the signatures of an image are, as it is called where it is pulled from.
    ///
    /// # Errors
    /// [`FileError::Invalid`] when the most special section that names a storage names none that can be asked.
    pub fn lookaside(&self, reference: &Reference) -> Result<Lookaside, FileError> {
        let scopes = reference.scopes();
        let special = scopes.iter().filter_map(|scope| {
            let section = self.sections.get(scope)?;
            Some((format!("docker.{scope:?}"), section))
        });
        let default = self.default.iter().map(|section| (DEFAULT.to_owned(), section));
        let named = special.chain(default).find_map(|(key, section)| {
            let text = section.lookaside.as_deref()?;
            Some((key, text, &section.file))
        });
        let Some((key, text, file)) = named else {
            return Ok(Lookaside::Folder(DEFAULT_FOLDER.into()));
        };
        lookaside(text, format!("{}: {key}", file.display())).map_err(|why| FileError::Invalid {
            path: file.clone(),
            why: format!("{key}: lookaside: {why}"),
        })
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.map_err(|source| FileError::Read {
        path: dir.to_owned(),
        source,
    })?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let mut files: Vec<_> = paths
        .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    Ok(files)
}

/// A section; `None`: there is nothing in it.
fn section(yaml: &Yaml, key: &str, file: &Path) -> Result<Option<Section>, String> {
    let Some(keys) = table(yaml, key)? else {
        return Ok(None);
    };
    let text = |name: &str| match value(keys, name) {
        None => Ok(None),
        Some(yaml) => match yaml.as_str() {
            Some("") => Ok(None),
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(format!("{key}: {name}: it is not a string")),
        },
    };
    // What it was called before counts where the newer name is not there.
    let (lookaside, older) = (text("lookaside")?, text("sigstore")?);
    Ok(Some(Section {
        lookaside: lookaside.or(older),
        file: file.to_owned(),
    }))
}

/// What is at a key, unless it is nothing.
fn value<'a>(table: &'a Hash, key: &str) -> Option<&'a Yaml> {
    table.get(&Yaml::String(key.to_owned())).filter(|yaml| !yaml.is_null())
}

fn table<'a>(yaml: &'a Yaml, what: &str) -> Result<Option<&'a Hash>, String> {
    match yaml {
        Yaml::Null => Ok(None),
        Yaml::Hash(table) => Ok(Some(table)),
        _ => Err(format!("{what}: it is not a mapping")),
    }
}

fn lookaside(text: &str, rule: String) -> Result<Lookaside, String> {
    let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
    // They would be told wherever the URL is.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("there are credentials in it".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{text:?} is more than the place of a folder"));
    }
    match url.scheme() {
        "http" | "https" => Ok(Lookaside::Web(url, rule)),
        "file" => match url.to_file_path() {
            Ok(folder) => Ok(Lookaside::Folder(folder)),
            Err(()) => Err(format!("{text:?} is not on this host")),
        },
        other => Err(format!("{other:?} is none of https, http and file")),
    }
}

const DEFAULT: &str = "default-docker";
/// Where it is when no file says it: what `skopeo copy --sign-by` fills.
const DEFAULT_FOLDER: &str = "/var/lib/containers/sigstore";
/// Where the containers tools have the files.
pub const DEFAULT_DIR: &str = "/etc/containers/registries.d";

#[cfg(test)]
mod test {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<RegistriesD, FileError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        RegistriesD::load(dir.path())
    }

    fn place(files: &RegistriesD, reference: &str) -> String {
        match files.lookaside(&reference.parse().unwrap()).unwrap() {
            Lookaside::Folder(folder) => folder.display().to_string(),
            Lookaside::Web(url, _) => url.to_string(),
        }
    }

    #[test]
    fn the_most_special_section_that_names_a_storage_counts() {
        let digest = format!("r.test/x/y@sha256:{}", "ab".repeat(32));
        let one = format!(
            r#"
default-docker:
    lookaside: file:///default
docker:
    r.test: {{lookaside: "https://r.test/registry"}}
    r.test:5000: {{sigstore: "http://r.test:1/older"}}
    r.test/x: {{lookaside: file:///folder, sigstore: file:///never}}
    r.test/x/y: {{lookaside: file:///repository}}
    r.test/x/y:1: {{lookaside: file:///tag}}
    {digest}: {{lookaside: file:///digest}}
    r.test/x/z: {{lookaside-staging: file:///staging, use-sigstore-attachments: true}}
"#
        );
        let other =
            r#"docker: {"*.test": {lookaside: file:///domain}, docker.io/library/busybox: {lookaside: file:///hub}}"#;
        let files = load(&[("one.yaml", &one), ("other.yaml", other), ("third.yml", "docker: [")]).unwrap();
        for (reference, storage) in [
            ("r.test/x/y:1", "/tag"),
            ("r.test/x/y:2", "/repository"),
            (digest.as_str(), "/digest"),
            ("r.test/x/z:1", "/folder"),
            ("r.test/xx:1", "https://r.test/registry"),
            ("r.test:5000/x:1", "http://r.test:1/older"),
            ("r.test:6000/x:1", "/domain"),
            ("a.r.test/x", "/domain"),
            ("busybox", "/hub"),
            ("alpine", "/default"),
        ] {
            assert_eq!(place(&files, reference), storage, "{reference}");
        }
    }

    #[test]
    fn what_no_file_says_is_the_tools_default() {
        let absent = RegistriesD::load(Path::new("/nowhere/registries.d")).unwrap();
        let empty = load(&[
            ("a.yaml", ""),
            ("b.yaml", "default-docker:\ndocker:\n"),
            ("c.yaml", "docker: {r.test: null}\nunknown: [1]\n"),
            ("d.yaml", "docker: {r.test/x: {lookaside: \"\", unknown: {}}}\n"),
        ]);
        for files in [absent, empty.unwrap()] {
            assert_eq!(place(&files, "r.test/x:1"), "/var/lib/containers/sigstore");
        }
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_its_key() {
        const SECTION: &str = "docker: {r.test: {lookaside: file:///a}}";
        type Files = &'static [(&'static str, &'static str)];
        let table: &[(Files, &[&str])] = &[
            (&[("a.yaml", "docker: [")], &["a.yaml: while parsing", "line 2"]),
            (&[("a.yaml", "- 1")], &["a.yaml", "it: it is not a mapping"]),
            (&[("a.yaml", "docker: 1")], &["docker: it is not a mapping"]),
            (&[("a.yaml", "docker: {1: {}}")], &["docker: a scope is not a string"]),
            (
                &[("a.yaml", "docker: {r.test: file}")],
                &[r#"docker."r.test": it is not a mapping"#],
            ),
            (
                &[("a.yaml", "docker: {r.test: {lookaside: [a]}}")],
                &[r#"docker."r.test": lookaside: it is not a string"#],
            ),
            (
                &[("a.yaml", "default-docker: {sigstore: 1}")],
                &["default-docker: sigstore: it is not a string"],
            ),
            (
                &[("a.yaml", SECTION), ("b.yaml", SECTION)],
                &["b.yaml", r#"docker."r.test": it is in"#, "a.yaml as well"],
            ),
            (
                &[
                    ("a.yaml", "default-docker: {lookaside: file:///a}"),
                    ("b.yaml", "default-docker: {}"),
                ],
                &["b.yaml", "default-docker: it is in", "a.yaml as well"],
            ),
            (&[("a.yaml", "docker: {a: {}, a: {}}")], &["a.yaml", "duplicate"]),
        ];
        for (files, parts) in table {
            let told = match load(files).expect_err(parts[0]) {
                FileError::Invalid { path, why } => format!("{}: {why}", path.display()),
                other => panic!("{other:?}"),
            };
            for part in *parts {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
    }

    #[test]
    fn a_storage_that_cannot_be_asked_is_an_error_for_its_images_only() {
        for (url, why) in [
            ("/var/lib/signatures", "it is not a URL"),
            ("ftp://r.test", r#""ftp" is none of"#),
            ("https://user:word@r.test", "there are credentials in it"),
            ("https://r.test/?a=b", "more than the place"),
            ("file://other.test/x", "not on this host"),
        ] {
            let files = load(&[("a.yaml", &format!("docker: {{r.test/x: {{lookaside: {url:?}}}}}"))]).unwrap();
            let refused = files.lookaside(&"r.test/x:1".parse().unwrap()).expect_err(url);
            let told = refused.to_string();
            assert!(
                told.contains("a.yaml") && told.contains(r#"docker."r.test/x": lookaside"#) && told.contains(why),
                "{url}: {told}"
            );
            assert!(!told.contains("word"), "{told}");
            assert_eq!(place(&files, "r.test/y:1"), DEFAULT_FOLDER);
        }
    }
}
