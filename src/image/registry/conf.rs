//! Which repositories stand for an image's name: `registries.conf` and its drop-ins, read at each pull.
//!
//! Source: containers-registries.conf(5) and containers-registries.conf.d(5). Keys that are not known are passed over, as
//! there: the file is shared with other programs, and newer ones. Version 1 of the format is read in the file itself, not
//! in drop-ins.

mod file;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::FileError;
use crate::image::{ImageError, reference::Reference};

/// What the files say together.
#[derive(Debug, Default)]
pub struct RegistriesConf {
    /// By prefix.
    rules: BTreeMap<String, Rule>,
    /// Where names without a registry are looked for, and the file that says so; `None`: no file does.
    search: Option<(Vec<String>, PathBuf)>,
    is_enforcing: bool,
    aliases: BTreeMap<String, Alias>,
}

/// A `[[registry]]` table.
#[derive(Debug, Clone)]
pub struct Rule {
    file: PathBuf,
    prefix: String,
    pub is_blocked: bool,
    /// Its mirrors, and itself as the last.
    locations: Vec<Location>,
}

#[derive(Debug, Clone)]
struct Location {
    /// Empty: the image's own name, as a prefix with a `*` may have it.
    at: String,
    insecure: bool,
    pulls: Pulls,
    /// Counted from one; `None`: the rule's own.
    mirror: Option<usize>,
}

/// Which pulls a mirror is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulls {
    All,
    ByDigest,
    ByTag,
}

#[derive(Debug)]
struct Alias {
    /// `None`: a drop-in erased it.
    target: Option<String>,
    file: PathBuf,
}

/// A repository that stands for a name.
#[derive(Debug)]
pub struct Source {
    pub reference: Reference,
    pub insecure: bool,
    /// The rule's location, not a mirror.
    pub is_own: bool,
    /// The file and table that name it.
    pub rule: String,
}

/// A whole name that a name may mean.
#[derive(Debug)]
pub struct Candidate {
    pub reference: Reference,
    /// What made a whole name of a short one.
    pub because: Option<String>,
}

impl RegistriesConf {
    /// Reads the file at `path` and the `*.conf` in the folder `path.d`, which win in their order. That the file is missing
    /// is an error unless it is the one that everybody has.
    ///
    /// # Errors
    /// [`FileError`] naming the file and the key at fault.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let mut whole = Self::default();
        if path.as_os_str().is_empty() {
            return Ok(whole);
        }
        let needed = path != Path::new(DEFAULT_PATH);
        for (file, is_drop_in) in std::iter::once((path.to_owned(), false)).chain(drop_ins(path)?) {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // A drop-in may go between the listing and now.
                Err(error) if error.kind() == io::ErrorKind::NotFound && (is_drop_in || !needed) => continue,
                Err(source) => return Err(FileError::Read { path: file, source }),
            };
            let said = file::parse(&text, &file, is_drop_in).map_err(|why| FileError::Invalid { path: file, why })?;
            whole.merge(said);
        }
        Ok(whole)
    }

    /// Tables are replaced by those of the same prefix, aliases by those of the same name, and everything else as a whole.
    fn merge(&mut self, from: file::Said) {
        self.rules.extend(from.rules);
        self.aliases.extend(from.aliases);
        self.search = from.search.or(self.search.take());
        self.is_enforcing = from.is_enforcing.unwrap_or(self.is_enforcing);
    }

    /// The rule with the longest prefix of a reference.
    pub fn rule(&self, reference: &Reference) -> Option<&Rule> {
        let whole = reference.to_string();
        // Of two that are equally long the first by name: what the containers tools' order comes to.
        let matching = self
            .rules
            .values()
            .rev()
            .filter(|rule| matched(&whole, &rule.prefix).is_some());
        matching.max_by_key(|rule| rule.prefix.len())
    }

    /// What a name may mean, in the order to try. A name without a registry is an alias, or one of the registries that are
    /// searched; it is Docker Hub's where no file says anything.
    ///
    /// # Errors
    /// [`ImageError::Reference`] when it is none, or one that nothing says where to look for.
    pub fn candidates(&self, text: &str) -> Result<Vec<Candidate>, ImageError> {
        let reference: Reference = text.parse()?;
        let unresolved = |why: String| ImageError::Reference {
            reference: text.to_owned(),
            why,
        };
        if Reference::names_registry(text) {
            let because = None;
            return Ok(vec![Candidate { reference, because }]);
        }
        let after_folders = text.rfind('/').map_or(0, |slash| slash + 1);
        let end = text[after_folders..].find([':', '@']);
        let (name, suffix) = text.split_at(end.map_or(text.len(), |end| after_folders + end));
        if let Some(Alias {
            target: Some(target),
            file,
        }) = self.aliases.get(name)
        {
            return Ok(vec![Candidate {
                reference: format!("{target}{suffix}").parse()?,
                because: Some(format!("{}: aliases.{name:?}", file.display())),
            }]);
        }
        let Some((search, file)) = &self.search else {
            return Ok(vec![Candidate {
                reference,
                because: Some("it has no registry, which means Docker Hub".into()),
            }]);
        };
        let key = format!("{}: unqualified-search-registries", file.display());
        match search.len() {
            0 => return Err(unresolved(format!("it names no registry, and there is none in {key}"))),
            2.. if self.is_enforcing => {
                let why = "it names no registry, and short-name-mode \"enforcing\" allows no choice between those in";
                return Err(unresolved(format!("{why} {key}")));
            }
            _ => {}
        }
        let found = search.iter().map(|registry| {
            Ok(Candidate {
                reference: format!("{registry}/{text}").parse()?,
                because: Some(key.clone()),
            })
        });
        found.collect()
    }
}

impl Rule {
    /// The repositories to ask for a reference that the rule matches: mirrors first, where they are for such a reference.
    ///
    /// # Errors
    /// [`FileError::Invalid`] when a location makes no reference of it.
    pub fn sources(&self, reference: &Reference) -> Result<Vec<Source>, FileError> {
        let is_wanted = |location: &&Location| match location.pulls {
            Pulls::All => true,
            Pulls::ByDigest => reference.digest.is_some(),
            Pulls::ByTag => reference.digest.is_none(),
        };
        let wanted = self.locations.iter().filter(is_wanted);
        wanted
            .map(|location| {
                Ok(Source {
                    reference: self.rewritten(reference, location)?,
                    insecure: location.insecure,
                    is_own: location.mirror.is_none(),
                    rule: match location.mirror {
                        Some(number) => format!("{self}, mirror {number}"),
                        None => self.to_string(),
                    },
                })
            })
            .collect()
    }

    /// What is behind the prefix goes behind the location.
    fn rewritten(&self, reference: &Reference, location: &Location) -> Result<Reference, FileError> {
        let whole = reference.to_string();
        if location.at.is_empty() {
            return Ok(reference.clone());
        }
        let rest = matched(&whole, &self.prefix).map_or("", |end| &whole[end..]);
        let text = format!("{}{rest}", location.at);
        let invalid = |why: String| FileError::Invalid {
            path: self.file.clone(),
            why: format!(
                "[[registry]] {:?}: location {:?} makes {text:?} of {whole:?}: {why}",
                self.prefix, location.at
            ),
        };
        if !Reference::names_registry(&text) {
            return Err(invalid("it does not begin with a host".into()));
        }
        text.parse::<Reference>().map_err(|error| match error {
            ImageError::Reference { why, .. } => invalid(why),
            other => invalid(other.to_string()),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [[registry]] {:?}", self.file.display(), self.prefix)
    }
}

/// Where the match of a prefix ends in a reference. A `*.` stands for any beginning of the host. That `host` is a prefix of
/// `host:port`, too, is how the containers tools have it.
fn matched(whole: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            let place = whole.find(domain)?;
            if whole[..place].contains('/') {
                return None;
            }
            place + domain.len()
        }
        _ => whole.starts_with(prefix).then_some(prefix.len())?,
    };
    let next = whole[end..].chars().next();
    matches!(next, None | Some(':' | '/' | '@')).then_some(end)
}

fn drop_ins(path: &Path) -> Result<Vec<(PathBuf, bool)>, FileError> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FileError::Read { path: folder, source }),
    };
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|e| e == "conf") && !file.is_dir())
        .collect();
    files.sort();
    Ok(files.into_iter().map(|file| (file, true)).collect())
}

/// Where the containers tools have it.
pub const DEFAULT_PATH: &str = "/etc/containers/registries.conf";

#[cfg(test)]
mod test;
