//! Image references as people write them.

use std::{fmt, str::FromStr};

use oci_spec::distribution::Reference as Parsed;

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

    /// `registry/repository:tag`, when there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    /// A bare name means Docker Hub, and no tag and no digest mean `latest`, as with every engine.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = |why: String| ImageError::Reference {
            reference: text.to_owned(),
            why,
        };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        let parsed: Parsed = text.parse().map_err(|error| bad(format!("{error}")))?;
        if let Some(digest) = parsed.digest() {
            check_digest(digest).map_err(bad)?;
        }
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
        if !parsed.repository().bytes().all(lower)
            || parsed
                .repository()
                .split('/')
                .any(|part| part.trim_matches('.').is_empty())
        {
            return Err(bad(format!("{:?} is not a repository's name", parsed.repository())));
        }
        // With a digest and no tag, none: `latest` would be a name that nobody gave.
        let tag = parsed.tag().map(str::to_owned);
        let tag = if tag.is_none() && parsed.digest().is_none() {
            Some("latest".to_owned())
        } else {
            tag
        };
        Ok(Self {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag,
            digest: parsed.digest().map(str::to_owned),
        })
    }
}

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
        .ok_or_else(|| format!("{digest:?} is not a sha256 digest"))?;
    let plain = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain {
        Ok(())
    } else {
        Err(format!("{digest:?} is not 64 lower-case hex digits"))
    }
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
