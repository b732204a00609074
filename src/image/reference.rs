//! Image references as people write them.

use std::{fmt, str::FromStr};

use super::ImageError;

/// A fully qualified reference: registry, repository, and a tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: Option<String>,
}

impl Reference {
    /// What a registry is asked for: the digest if there is one.
    pub fn wanted(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// As it is written: without a tag and a digest it names a repository, which [`Self::from_str`] makes `latest` of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn as_written(text: &str) -> Result<Self, String> {
        parse(text)
    }

    /// Whether a name as people write it says which registry it is of. Otherwise it is a short one.
    pub fn names_registry(text: &str) -> bool {
        text.split_once('/').is_some_and(|(first, _)| can_be_host(first))
    }

    /// By which names files have what they say of it, the most special first: itself, its repository, the folders above
    /// that, the registry, `*.` and the domains above that.
    ///
    /// Source: containers/image, `docker/policyconfiguration`.
    pub fn scopes(&self) -> Vec<String> {
        let name = self.name();
        let itself = match (&self.digest, &self.tag) {
            (Some(digest), _) => Some(format!("{name}@{digest}")),
            (None, tag) => tag.as_ref().map(|tag| format!("{name}:{tag}")),
        };
        let mut scopes: Vec<String> = itself.into_iter().chain([name.clone()]).collect();
        scopes.extend(name.rmatch_indices('/').map(|(slash, _)| name[..slash].to_owned()));
        // A wildcard is for hosts: it says nothing of ports.
        let host = self.registry.split(':').next().unwrap_or_default();
        scopes.extend(host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..])));
        scopes
    }

    /// `registry/repository:tag`, when there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    /// A bare name means Docker Hub, and no tag and no digest mean `latest`, as with every engine. The grammar is that of
    /// `github.com/distribution/reference`.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let mut reference = Self::as_written(text).map_err(|why| ImageError::Reference {
            reference: text.to_owned(),
            why,
        })?;
        // With a digest and no tag, none: `latest` would be a name that nobody gave.
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".into());
        }
        Ok(reference)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let (rest, digest) = split_off(text, text.find('@'));
    digest.map_or(Ok(()), check_digest)?;
    let after_folders = rest.rfind('/').map_or(0, |slash| slash + 1);
    let colon = rest[after_folders..].find(':').map(|colon| after_folders + colon);
    let (name, tag) = split_off(rest, colon);
    tag.map_or(Ok(()), check_tag)?;
    let (registry, repository) = split_name(name)?;
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// What is before the separator at `place`, and after it.
fn split_off(text: &str, place: Option<usize>) -> (&str, Option<&str>) {
    match place {
        Some(place) => (&text[..place], Some(&text[place + 1..])),
        None => (text, None),
    }
}

/// The registry, which is Docker Hub unless the first part can be a host, and the repository there.
fn split_name(name: &str) -> Result<(&str, String), String> {
    let (registry, path) = match name.split_once('/') {
        Some(("index.docker.io", path)) => (HUB, path),
        Some((host, path)) if can_be_host(host) => (host, path),
        _ => (HUB, name),
    };
    if !is_host(registry) {
        return Err(format!("{registry:?} is not a registry's name"));
    }
    let repository = match registry == HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    if repository.len() > LONGEST_NAME {
        return Err(format!("a repository's name has at most {LONGEST_NAME} characters"));
    }
    match path.split('/').all(is_component) {
        true => Ok((registry, repository)),
        false => Err(format!("{path:?} is not a repository's name")),
    }
}

/// Whether the first part of a name is a host, and not the first folder of a repository.
fn can_be_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// `host` or `host:port`. Underscores are in no name of the DNS, but there are registries that have one.
fn is_host(text: &str) -> bool {
    let (name, port) = split_off(text, text.find(':'));
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    (name.split('.').all(is_label) || is_component(name)) && port.is_none_or(is_number)
}

/// A part of a repository's name: small letters and digits, with a separator at most between two of them.
fn is_component(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    part.starts_with(is_plain) && part.ends_with(is_plain) && part.split(is_plain).all(is_separator)
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fits = (1..=LONGEST_TAG).contains(&tag.len())
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
        && tag.bytes().next().is_some_and(is_word);
    match fits {
        true => Ok(()),
        false => Err(format!("{tag:?} is not a tag")),
    }
}

const HUB: &str = "docker.io";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Checks a digest before it becomes a part of a path or URL: `sha256:` and 64 lower-case hex digits.
///
/// # Errors
/// What is wrong with it.
pub fn check_digest(digest: &str) -> Result<(), String> {
    let hex = digest
        .strip_prefix("sha256:")
        .ok_or_else(|| format!("{:?} is not a sha256 digest", shortened(digest)))?;
    let plain = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain {
        Ok(())
    } else {
        Err(format!("{:?} is not 64 lower-case hex digits", shortened(digest)))
    }
}

/// So much of a text that is not ours as an error has room for.
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(100).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod test {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_become_whole() {
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("registry.test/x/y/z:1.2", "registry.test/x/y/z:1.2"),
            ("docker.io/library/busybox:1", "docker.io/library/busybox:1"),
        ];
        for (text, whole) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), whole, "{text}");
            assert_eq!(whole.parse::<Reference>().unwrap(), reference);
        }
        let both: Reference = format!("r.test/x:t@{DIGEST}").parse().unwrap();
        assert_eq!((both.tag.as_deref(), both.wanted()), (Some("t"), DIGEST));
        let digest: Reference = format!("r.test/x@{DIGEST}").parse().unwrap();
        assert_eq!(digest.to_string(), format!("r.test/x@{DIGEST}"));
    }

    /// Of pieces that are all allowed somewhere, most of what is made is wrong somewhere.
    #[test]
    fn the_grammar_is_that_of_others() {
        let pieces = [
            "a",
            "b0",
            "library",
            "localhost",
            "r.test",
            "index.docker.io",
            "docker.io",
            "X",
            "-",
            "--",
            ".",
            "_",
            "__",
            "___",
            "/",
            "/",
            "/",
            ":",
            ":",
            "5000",
            "v1.2",
            "@",
            DIGEST,
        ];
        let (mut state, mut taken) = (1_u64, 0);
        for _ in 0..20_000 {
            let mut text = String::new();
            let mut next = |below: usize| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            for _ in 0..1 + next(7) {
                text.push_str(pieces[next(pieces.len())]);
            }
            let theirs = text.parse::<oci_spec::distribution::Reference>().ok();
            // Where they agree with everybody else: large letters are for hosts and tags.
            let theirs = theirs.filter(|theirs| !theirs.repository().contains('X'));
            let ours = text.parse::<Reference>().ok();
            taken += usize::from(ours.is_some());
            assert_eq!(
                ours.map(|ours| (ours.registry, ours.repository, ours.digest)),
                theirs.map(|theirs| (
                    theirs.registry().to_owned(),
                    theirs.repository().to_owned(),
                    theirs.digest().map(str::to_owned)
                )),
                "{text}"
            );
        }
        assert!(taken > 500, "{taken} of them are references");
    }

    #[test]
    fn names_and_tags_end_somewhere() {
        for (name, tag, fits) in [(255, 128, true), (256, 1, false), (1, 129, false), (1, 0, false)] {
            let text = format!("r.test/{}:{}", "n".repeat(name), "t".repeat(tag));
            assert_eq!(text.parse::<Reference>().is_ok(), fits, "{name} {tag}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let upper = DIGEST.to_uppercase();
        for text in [
            "",
            "UPPER",
            "a b",
            "x@sha256:../../x",
            "x@sha256:abc",
            &format!("x@{upper}"),
            "x:bad tag",
            "UPPER/case",
            "registry.test/Upper:1",
            "registry.test/x/../y",
            "-x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
