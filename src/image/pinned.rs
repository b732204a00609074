//! Which images the configuration pins.

/// Whether one of `patterns` means the image with this name.
pub fn pins(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// A `*` at the beginning or the end of a pattern stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => name.contains(pattern.trim_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(beginning)) => name.starts_with(beginning),
        (None, None) => name == pattern,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn stars_stand_for_anything_at_either_end() {
        let name = "registry.k8s.io/pause:3.10";
        for (pattern, pinned) in [
            (name, true),
            ("registry.k8s.io/*", true),
            ("*/pause:3.10", true),
            ("*pause*", true),
            ("*", true),
            ("registry.k8s.io/pause", false),
            ("pause:3.10", false),
            ("", false),
        ] {
            assert_eq!(matches(pattern, name), pinned, "{pattern}");
        }
    }
}
