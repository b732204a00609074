//! One file of those that make a `registries.conf`: its tables as rules, or what is wrong with them.
//!
//! Source: containers-registries.conf(5); version 1 of the format from the same page's older editions.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Alias, Location, Pulls, Rule};
use crate::image::reference::Reference;

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
pub struct Said {
    pub rules: BTreeMap<String, Rule>,
    pub search: Option<(Vec<String>, PathBuf)>,
    pub is_enforcing: Option<bool>,
    pub aliases: BTreeMap<String, Alias>,
}

/// Reads one file's text; `file` is where it is from.
///
/// # Errors
/// What is wrong with it, with the key at fault.
pub fn parse(text: &str, file: &Path, is_drop_in: bool) -> Result<Said, String> {
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

/// Any that is one.
pub const ANY_DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
