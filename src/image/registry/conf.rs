//! Which repositories stand for an image's name: `registries.conf` and its drop-ins, read at each pull.
//!
//! Source: containers-registries.conf(5) and containers-registries.conf.d(5). Keys that are not known are passed over, as
//! there: the file is shared with other programs, and newer ones. Version 1 of the format is read in the file itself, not
//! in drop-ins.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;

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
            let said = parse(&text, &file, is_drop_in).map_err(|why| FileError::Invalid { path: file, why })?;
            whole.merge(said);
        }
        Ok(whole)
    }

    /// Tables are replaced by those of the same prefix, aliases by those of the same name, and everything else as a whole.
    fn merge(&mut self, from: Said) {
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

#[derive(Deserialize)]
struct FileToml {
    #[serde(default)]
    registry: Vec<RegistryToml>,
    #[serde(rename = "unqualified-search-registries")]
    search: Option<Vec<String>>,
    #[serde(rename = "short-name-mode", default)]
    mode: String,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1.
    registries: Option<OldToml>,
}

#[derive(Deserialize)]
struct RegistryToml {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(rename = "mirror-by-digest-only", default)]
    by_digest_only: bool,
    #[serde(rename = "pull-from-mirror", default)]
    pulls: String,
    #[serde(default)]
    mirror: Vec<MirrorToml>,
}

#[derive(Deserialize)]
struct MirrorToml {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(rename = "pull-from-mirror", default)]
    pulls: String,
}

#[derive(Deserialize)]
struct OldToml {
    #[serde(default)]
    search: OldListToml,
    #[serde(default)]
    insecure: OldListToml,
    #[serde(default)]
    block: OldListToml,
}

#[derive(Deserialize, Default)]
struct OldListToml {
    #[serde(default)]
    registries: Vec<String>,
}

/// What one file says.
struct Said {
    rules: BTreeMap<String, Rule>,
    search: Option<(Vec<String>, PathBuf)>,
    is_enforcing: Option<bool>,
    aliases: BTreeMap<String, Alias>,
}

fn parse(text: &str, file: &Path, is_drop_in: bool) -> Result<Said, String> {
    let mut toml: FileToml =
        toml::from_str(text).map_err(|error| error.message().to_owned() + &line_of(text, error.span()))?;
    if let Some(old) = toml.registries.take() {
        if is_drop_in {
            return Err("registries: version 1 of the format has no drop-ins".into());
        }
        let is_mixed = !toml.registry.is_empty() || toml.search.is_some() || !toml.mode.is_empty();
        if is_mixed || !toml.aliases.is_empty() {
            return Err("registries: version 1 of the format is mixed with version 2".into());
        }
        toml.search = Some(old.search.registries);
        toml.registry = of_version_1(&old.insecure.registries, &old.block.registries)?;
    }
    let search = toml.search.map(|registries| {
        let hosts = registries.iter().map(|registry| host(registry));
        Ok::<_, String>((hosts.collect::<Result<_, _>>()?, file.to_owned()))
    });
    let is_enforcing = match toml.mode.as_str() {
        "" => None,
        "enforcing" => Some(true),
        // Without a terminal to ask at, these two are one.
        "permissive" | "disabled" => Some(false),
        other => return Err(format!("short-name-mode: {other:?} is unknown")),
    };
    Ok(Said {
        rules: rules(toml.registry, file)?,
        search: search.transpose()?,
        is_enforcing,
        aliases: toml
            .aliases
            .into_iter()
            .map(|(name, target)| alias(&name, target, file).map(|alias| (name, alias)))
            .collect::<Result<_, _>>()?,
    })
}

fn of_version_1(insecure: &[String], blocked: &[String]) -> Result<Vec<RegistryToml>, String> {
    let mut tables: BTreeMap<String, RegistryToml> = BTreeMap::new();
    for name in insecure.iter().chain(blocked) {
        let location = trimmed(name).map_err(|why| format!("registries: {why}"))?;
        let table = RegistryToml {
            prefix: String::new(),
            insecure: insecure.contains(name),
            blocked: blocked.contains(name),
            location: location.clone(),
            by_digest_only: false,
            pulls: String::new(),
            mirror: Vec::new(),
        };
        tables.insert(location, table);
    }
    Ok(tables.into_values().collect())
}

/// By prefix: of two tables with one prefix in one file the first counts.
fn rules(tables: Vec<RegistryToml>, file: &Path) -> Result<BTreeMap<String, Rule>, String> {
    let mut rules = BTreeMap::new();
    let mut places: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for table in tables {
        let (insecure, is_blocked) = (table.insecure, table.blocked);
        let rule = rule(table, file)?;
        let own = rule.locations.last().map(|own| own.at.clone()).unwrap_or_default();
        let place = if own.is_empty() { rule.prefix.clone() } else { own };
        let known = *places.entry(place.clone()).or_insert((insecure, is_blocked));
        if known != (insecure, is_blocked) {
            let key = if known.0 == insecure { "blocked" } else { "insecure" };
            return Err(format!(
                "[[registry]] {:?}: {key}: another table says otherwise of {place:?}",
                rule.prefix
            ));
        }
        if let Entry::Vacant(vacant) = rules.entry(rule.prefix.clone()) {
            vacant.insert(rule);
        }
    }
    Ok(rules)
}

fn rule(table: RegistryToml, file: &Path) -> Result<Rule, String> {
    let location = trimmed(&table.location).map_err(|why| format!("[[registry]]: location: {why}"))?;
    let prefix = trimmed(&table.prefix).map_err(|why| format!("[[registry]]: prefix: {why}"))?;
    let prefix = if prefix.is_empty() { location.clone() } else { prefix };
    let fail = |why: &str| Err(format!("[[registry]] {prefix:?}: {why}"));
    let is_wild = prefix.starts_with("*.");
    if prefix.is_empty() {
        return Err("[[registry]]: it has neither a prefix nor a location".into());
    }
    if location.is_empty() && !is_wild {
        return fail("location: only a prefix such as \"*.example.com\" may be without");
    }
    if is_wild && prefix.contains(['/', '@', ':']) {
        return fail("prefix: behind \"*.\" there is a domain and nothing else");
    }
    if !table.pulls.is_empty() {
        return fail("pull-from-mirror: it is a mirror's key");
    }
    let mut locations = Vec::new();
    for (at, mirror) in table.mirror.into_iter().enumerate() {
        let number = at + 1;
        let fail = |why: String| format!("[[registry]] {prefix:?}: mirror {number}: {why}");
        let at = trimmed(&mirror.location).map_err(|why| fail(format!("location: {why}")))?;
        if at.is_empty() {
            return Err(fail("location: it has none".into()));
        }
        if table.by_digest_only && !mirror.pulls.is_empty() {
            return Err(fail("pull-from-mirror: not together with mirror-by-digest-only".into()));
        }
        let pulls = match mirror.pulls.as_str() {
            _ if table.by_digest_only => Pulls::ByDigest,
            "" | "all" => Pulls::All,
            "digest-only" => Pulls::ByDigest,
            "tag-only" => Pulls::ByTag,
            other => return Err(fail(format!("pull-from-mirror: {other:?} is unknown"))),
        };
        locations.push(Location {
            at,
            insecure: mirror.insecure,
            pulls,
            mirror: Some(number),
        });
    }
    locations.push(Location {
        at: location,
        insecure: table.insecure,
        pulls: Pulls::All,
        mirror: None,
    });
    Ok(Rule {
        file: file.to_owned(),
        prefix,
        is_blocked: table.blocked,
        locations,
    })
}

fn trimmed(location: &str) -> Result<String, String> {
    match location.starts_with("http://") || location.starts_with("https://") {
        true => Err(format!("{location:?} has a scheme")),
        false => Ok(location.trim_end_matches('/').to_owned()),
    }
}

fn host(registry: &str) -> Result<String, String> {
    let fail = |why: &str| format!("unqualified-search-registries: {registry:?} {why}");
    let host = trimmed(registry).map_err(|_| fail("has a scheme"))?;
    let is_host = Reference::names_registry(&format!("{host}/x")) && !host.contains('/');
    match is_host && format!("{host}/x").parse::<Reference>().is_ok() {
        true => Ok(host),
        false => Err(fail("is not a registry's name")),
    }
}

fn alias(name: &str, target: String, file: &Path) -> Result<Alias, String> {
    let fail = |why: &str| Err(format!("aliases.{name:?}: {why}"));
    // With a tag or digest, what follows would be the second.
    let is_name = |text: &str| format!("{text}:t@{ANY_DIGEST}").parse::<Reference>().is_ok();
    if Reference::names_registry(name) || !is_name(name) {
        return fail("it is not a name without registry, tag and digest");
    }
    if target.is_empty() {
        let (target, file) = (None, file.to_owned());
        return Ok(Alias { target, file });
    }
    if !Reference::names_registry(&target) || !is_name(&target) {
        return fail(&format!(
            "{target:?} is not a registry and repository without tag and digest"
        ));
    }
    let (target, file) = (Some(target), file.to_owned());
    Ok(Alias { target, file })
}

/// The line at fault; it names the key.
fn line_of(text: &str, span: Option<Range<usize>>) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return String::new();
    };
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!(" in line {}: {line}", number + 1)
}

/// Where the containers tools have it.
pub const DEFAULT_PATH: &str = "/etc/containers/registries.conf";
const ANY_DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[cfg(test)]
mod test;
