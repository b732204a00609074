//! `docs/guarantees.md` and `docs/advisories.md` name tests that exist.

use std::{fs, path::Path};

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["docs/guarantees.md", "docs/advisories.md"];
    let page: String = pages
        .map(|page| fs::read_to_string(root.join(page)).expect(page))
        .concat();
    let sources: String = ["src", "tests", "shim", "proto"]
        .iter()
        .map(|dir| sources_in(&root.join(dir)))
        .collect();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut promises = 0;
    for row in rows {
        let held_by = row
            .trim_end_matches([' ', '|'])
            .rsplit(" | ")
            .next()
            .expect("a last cell");
        let names: Vec<_> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing holds: {row}");
        for name in names {
            assert!(
                sources.contains(&format!("fn {name}(")) || sources.contains(&format!("\ndef {name}(")),
                "there is no test {name}: {row}"
            );
        }
        promises += 1;
    }
    assert!(promises > 40, "only {promises} promises were read");
}

/// Rust, and the Python of the tests that need a whole node.
fn sources_in(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            text += &sources_in(&path);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "py")
        {
            text += &fs::read_to_string(&path).expect("a source file");
        }
    }
    text
}
