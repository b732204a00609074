use proptest::prelude::*;

use super::*;

const DIGEST: &str = file::ANY_DIGEST;

/// A file, and drop-ins by name.
fn load(text: &str, drop_ins: &[(&str, &str)]) -> Result<RegistriesConf, FileError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registries.conf");
    fs::write(&path, text).unwrap();
    let folder = dir.path().join("registries.conf.d");
    fs::create_dir(&folder).unwrap();
    for (name, text) in drop_ins {
        fs::write(folder.join(name), text).unwrap();
    }
    RegistriesConf::load(&path)
}

fn prefix<'a>(conf: &'a RegistriesConf, name: &str) -> &'a str {
    conf.rule(&name.parse().unwrap())
        .map_or("none", |rule| rule.prefix.as_str())
}

/// Where a name is asked for, in order; an `!` marks what is insecure.
fn sources(text: &str, name: &str) -> Vec<String> {
    let conf = load(text, &[]).unwrap();
    let reference: Reference = name.parse().unwrap();
    let sources = conf.rule(&reference).expect("a rule").sources(&reference).unwrap();
    let told = sources
        .iter()
        .map(|source| format!("{}{}", source.reference, if source.insecure { "!" } else { "" }));
    told.collect()
}

fn meant(conf: &RegistriesConf, name: &str) -> Result<Vec<String>, String> {
    let candidates = conf.candidates(name).map_err(|error| error.to_string())?;
    Ok(candidates.iter().map(|c| c.reference.to_string()).collect())
}

#[test]
fn the_longest_prefix_wins() {
    let table = |prefix: &str| format!("[[registry]]\nprefix = '{prefix}'\nlocation = 'l.test'\n");
    let prefixes = [
        "r.test",
        "r.test/a",
        "r.test/a/b",
        "r.test/a/b:v1",
        "*.r.test",
        "*.sub.r.test",
        "x.sub.r.test",
        "p.test:5000",
        "docker.io/library",
    ];
    let conf = load(&prefixes.map(table).concat(), &[]).unwrap();
    for (name, expected) in [
        ("r.test/x", "r.test"),
        ("r.test/a", "r.test/a"),
        ("r.test/ab", "r.test"),
        ("r.test/a/c", "r.test/a"),
        ("r.test/a/b", "r.test/a/b"),
        ("r.test/a/b:v1", "r.test/a/b:v1"),
        ("r.test/a/b:v12", "r.test/a/b"),
        (&format!("r.test/a/b:v1@{DIGEST}"), "r.test/a/b:v1"),
        (&format!("r.test/a/b@{DIGEST}"), "r.test/a/b"),
        ("y.r.test/a", "*.r.test"),
        ("y.z.r.test/a", "*.r.test"),
        ("y.sub.r.test/a", "*.sub.r.test"),
        ("x.sub.r.test/a", "*.sub.r.test"),
        ("y.r.test:5000/a", "*.r.test"),
        ("o.test/y.r.test/a", "none"),
        ("y.r.testing/a", "none"),
        // As with the containers tools: a host without a port is also that host with one.
        ("r.test:5000/a", "r.test"),
        ("p.test:5000/a", "p.test:5000"),
        ("p.test/a", "none"),
        ("p.test:50001/a", "none"),
        ("busybox", "docker.io/library"),
        ("docker.io/user/busybox", "none"),
    ] {
        assert_eq!(prefix(&conf, name), expected, "{name}");
    }
}

#[test]
fn the_manuals_example_is_asked_for_in_its_order() {
    let text = r#"
        unqualified-search-registries = ["example.com"]
        [[registry]]
        prefix = "example.com/foo"
        insecure = false
        blocked = false
        location = "internal-registry-for-example.com/bar"
        [[registry.mirror]]
        location = "example-mirror-0.local/mirror-for-foo"
        [[registry.mirror]]
        location = "example-mirror-1.local/mirrors/foo"
        insecure = true
    "#;
    assert_eq!(
        sources(text, "example.com/foo/image:latest"),
        [
            "example-mirror-0.local/mirror-for-foo/image:latest",
            "example-mirror-1.local/mirrors/foo/image:latest!",
            "internal-registry-for-example.com/bar/image:latest",
        ]
    );
    let conf = load(text, &[]).unwrap();
    assert_eq!(meant(&conf, "image").unwrap(), ["example.com/image:latest"]);
    assert_eq!(prefix(&conf, "example.com/image"), "none");
}

#[test]
fn names_are_rewritten_behind_the_prefix() {
    let table = |prefix: &str, location: &str| format!("[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n");
    for (prefix, location, name, expected) in [
        ("r.test", "m.test", "r.test/a:1", "m.test/a:1"),
        ("r.test", "m.test:5000/x", "r.test/a:1", "m.test:5000/x/a:1"),
        ("r.test/a", "m.test/b/", "r.test/a/c:1", "m.test/b/c:1"),
        ("r.test/a", "m.test/b", "r.test/a:1", "m.test/b:1"),
        ("r.test/a:1", "m.test/b:2", "r.test/a:1", "m.test/b:2"),
        ("*.r.test", "m.test/x", "y.r.test/a:1", "m.test/x/a:1"),
        ("*.r.test", "", "y.r.test/a:1", "y.r.test/a:1"),
        ("", "r.test", "r.test/a:1", "r.test/a:1"),
        ("docker.io/library", "m.test/hub", "busybox:1", "m.test/hub/busybox:1"),
    ] {
        assert_eq!(
            sources(&table(prefix, location), name),
            [expected],
            "{prefix} {location}"
        );
    }
    let conf = load(&table("r.test", "nowhere"), &[]).unwrap();
    let reference = "r.test/a".parse().unwrap();
    let error = conf.rule(&reference).unwrap().sources(&reference).unwrap_err();
    assert!(error.to_string().contains("\"nowhere\""), "{error}");
}

#[test]
fn a_mirror_is_asked_for_the_pulls_that_it_is_for() {
    let with = |own: &str, mirror: &str| {
        format!("[[registry]]\nlocation = 'r.test'\n{own}\n[[registry.mirror]]\nlocation = 'm.test'\n{mirror}\n")
    };
    for (own, mirror, by_tag, by_digest) in [
        ("", "", 2, 2),
        ("", "pull-from-mirror = 'all'", 2, 2),
        ("", "pull-from-mirror = 'digest-only'", 1, 2),
        ("", "pull-from-mirror = 'tag-only'", 2, 1),
        ("mirror-by-digest-only = true", "", 1, 2),
        ("mirror-by-digest-only = false", "pull-from-mirror = 'tag-only'", 2, 1),
    ] {
        let text = with(own, mirror);
        let counts = [
            sources(&text, "r.test/a:1").len(),
            sources(&text, &format!("r.test/a@{DIGEST}")).len(),
        ];
        assert_eq!(counts, [by_tag, by_digest], "{own} {mirror}");
    }
}

#[test]
fn faults_name_their_file_and_key() {
    let mirror = "[[registry]]\nlocation = 'r.test'\n[[registry.mirror]]\n";
    for (text, key) in [
        ("[[registry]]\n", "neither a prefix nor a location"),
        ("[[registry]]\nprefix = 'r.test'\n", "location"),
        ("[[registry]]\nlocation = 'https://r.test'\n", "location"),
        (
            "[[registry]]\nprefix = 'http://r.test'\nlocation = 'r.test'\n",
            "prefix",
        ),
        ("[[registry]]\nprefix = '*.r.test/a'\n", "prefix"),
        ("[[registry]]\nprefix = '*.r.test:5000'\n", "prefix"),
        (
            "[[registry]]\nlocation = 'r.test'\nblocked = 'yes'\n",
            "blocked = 'yes'",
        ),
        (
            "[[registry]]\nlocation = 'r.test'\npull-from-mirror = 'all'\n",
            "pull-from-mirror",
        ),
        (mirror, "mirror 1: location"),
        (
            &format!("{mirror}location = 'm.test'\npull-from-mirror = 'some'\n"),
            "pull-from-mirror",
        ),
        (
            &format!("{mirror}location = 'm.test'\npull-from-mirror = 'all'\n").replace(
                "location = 'r.test'",
                "location = 'r.test'\nmirror-by-digest-only = true",
            ),
            "mirror-by-digest-only",
        ),
        (
            "[[registry]]\nlocation = 'r.test'\n[[registry]]\nprefix = 'o.test'\nlocation = 'r.test'\ninsecure = true\n",
            "insecure",
        ),
        (
            "[[registry]]\nlocation = 'r.test'\n[[registry]]\nprefix = 'o.test'\nlocation = 'r.test'\nblocked = true\n",
            "blocked",
        ),
        (
            "unqualified-search-registries = ['r.test/a']\n",
            "unqualified-search-registries",
        ),
        (
            "unqualified-search-registries = ['https://r.test']\n",
            "unqualified-search-registries",
        ),
        ("short-name-mode = 'ask'\n", "short-name-mode"),
        ("[aliases]\n'r.test/a' = 'r.test/a'\n", "aliases.\"r.test/a\""),
        ("[aliases]\n'a:1' = 'r.test/a'\n", "aliases.\"a:1\""),
        ("[aliases]\n'a' = 'b'\n", "aliases.\"a\""),
        ("[aliases]\n'a' = 'r.test/a:1'\n", "aliases.\"a\""),
        (
            "[registries.search]\nregistries = []\n[aliases]\n'a' = 'r.test/a'\n",
            "registries",
        ),
        ("[[registry]\n", "line 1"),
    ] {
        let error = load(text, &[]).expect_err(text).to_string();
        assert!(
            error.contains(key) && error.contains("registries.conf: "),
            "{text}: {error}"
        );
        let error = load("", &[("10.conf", text)]).expect_err(text).to_string();
        assert!(error.contains("10.conf: "), "{text}: {error}");
    }
    let absent = RegistriesConf::load(Path::new("/nonexistent/registries.conf")).unwrap_err();
    assert!(absent.to_string().contains("/nonexistent/registries.conf"));
    RegistriesConf::load(Path::new("")).unwrap();
}

#[test]
fn what_is_not_known_is_passed_over() {
    let text = "credential-helpers = ['x']\n[[registry]]\nlocation = 'r.test'\nnew = 1\n[[registry.mirror]]\n\
                location = 'm.test'\nnew = 2\n[new]\nx = 1\n";
    assert_eq!(sources(text, "r.test/a:1"), ["m.test/a:1", "r.test/a:1"]);
}

#[test]
fn drop_ins_win_by_prefix_by_alias_and_by_key() {
    let base = r#"
        unqualified-search-registries = ["base.test"]
        short-name-mode = "enforcing"
        [[registry]]
        location = "one.test"
        [[registry.mirror]]
        location = "m.test"
        [[registry]]
        location = "two.test"
        blocked = true
        [aliases]
        "a" = "base.test/a"
        "b" = "base.test/b"
        "c" = "base.test/c"
    "#;
    let drop_ins = [
        ("20.conf", "[[registry]]\nlocation = 'one.test'\ninsecure = true\n"),
        (
            "10.conf",
            "[[registry]]\nlocation = 'one.test'\nblocked = true\n[aliases]\n'a' = 'ten.test/a'\n'b' = ''\n",
        ),
        ("30.ignored", "nonsense"),
        ("40.conf", "unqualified-search-registries = ['x.test', 'y.test']\n"),
    ];
    let conf = load(base, &drop_ins).unwrap();
    let one: Reference = "one.test/x:1".parse().unwrap();
    let rule = conf.rule(&one).unwrap();
    let sources = rule.sources(&one).unwrap();
    assert!(!rule.is_blocked && sources.len() == 1 && sources[0].insecure);
    assert!(rule.to_string().contains("20.conf"));
    assert!(conf.rule(&"two.test/x".parse().unwrap()).unwrap().is_blocked);
    assert_eq!(meant(&conf, "a:1").unwrap(), ["ten.test/a:1"]);
    assert_eq!(meant(&conf, "c").unwrap(), ["base.test/c:latest"]);
    let erased = meant(&conf, "b").unwrap_err();
    assert!(erased.contains("enforcing") && erased.contains("40.conf"), "{erased}");
}

#[test]
fn short_names_are_aliases_then_searched() {
    let with = |more: &str| {
        load(
            &format!("{more}\n[aliases]\n'a' = 'r.test/x/a'\n'n/b' = 'docker.io/b'\n"),
            &[],
        )
        .unwrap()
    };
    let two = "unqualified-search-registries = ['x.test', 'docker.io']";
    let both = ["x.test/n/c:1", "docker.io/n/c:1"];
    for (text, name, expected) in [
        ("", "a", &["r.test/x/a:latest"][..]),
        ("", "a:1", &["r.test/x/a:1"]),
        ("", &format!("a@{DIGEST}"), &[&format!("r.test/x/a@{DIGEST}")]),
        ("", "n/b", &["docker.io/library/b:latest"]),
        ("", "c", &["docker.io/library/c:latest"]),
        ("", "localhost/a", &["localhost/a:latest"]),
        ("", "docker.io/a", &["docker.io/library/a:latest"]),
        (two, "n/c:1", &both),
        (&format!("{two}\nshort-name-mode = 'permissive'"), "n/c:1", &both),
        (&format!("{two}\nshort-name-mode = 'disabled'"), "n/c:1", &both),
        (
            "unqualified-search-registries = ['x.test/']\nshort-name-mode = 'enforcing'",
            "c",
            &["x.test/c:latest"],
        ),
        (
            "unqualified-search-registries = ['localhost:5000']",
            "c",
            &["localhost:5000/c:latest"],
        ),
    ] {
        assert_eq!(meant(&with(text), name).unwrap(), expected, "{text} {name}");
    }
    for text in [
        &format!("{two}\nshort-name-mode = 'enforcing'"),
        "unqualified-search-registries = []",
    ] {
        let error = meant(&with(text), "c").unwrap_err();
        assert!(
            error.contains("unqualified-search-registries") && error.contains("registries.conf"),
            "{error}"
        );
        assert_eq!(meant(&with(text), "r.test/c").unwrap(), ["r.test/c:latest"]);
    }
    assert!(meant(&with(two), "UPPER").is_err());
}

#[test]
fn version_1_of_the_format_is_read_without_drop_ins() {
    let text = "[registries.search]\nregistries = ['one.test', 'two.test']\n[registries.insecure]\nregistries = \
                ['three.test']\n[registries.block]\nregistries = ['four.test/']\n";
    let conf = load(text, &[]).unwrap();
    assert_eq!(meant(&conf, "a").unwrap(), ["one.test/a:latest", "two.test/a:latest"]);
    assert_eq!(sources(text, "three.test/a:1"), ["three.test/a:1!"]);
    assert!(conf.rule(&"four.test/a".parse().unwrap()).unwrap().is_blocked);
    assert!(load("", &[("1.conf", text)]).is_err());
}

proptest! {
    /// Of pieces that mean something somewhere, with any names: no file breaks the parser, and what a rule makes of a
    /// name is a name, with its tag.
    #[test]
    fn what_a_file_says_is_an_error_or_makes_names(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("[[registry]]\n".to_owned()),
                Just("[[registry.mirror]]\n".to_owned()),
                Just("blocked = true\n".to_owned()),
                "prefix = \"(\\*\\.)?[a-c]{1,2}(\\.test)?(:50)?(/[a-c])?\"\n",
                "location = \"[a-c*.:/@]{0,12}\"\n",
                "location = \"m\\.test(:50)?(/[a-c]){0,2}\"\n",
                "pull-from-mirror = \"(all|tag-only|[a-z]{0,3})\"\n",
                "unqualified-search-registries = \\[\"[a-c.:/]{0,8}\"\\]\n",
                "[ -~\n]{0,12}",
            ],
            0..8,
        ),
        name in "([a-c]{1,2}\\.test(:50)?/)?[a-c]{1,2}(/[a-c])?:t",
    ) {
        let Ok(said) = file::parse(&pieces.concat(), Path::new("/f"), false) else { return Ok(()) };
        let mut conf = RegistriesConf::default();
        conf.merge(said);
        let Ok(candidates) = conf.candidates(&name) else { return Ok(()) };
        for candidate in candidates {
            let Some(rule) = conf.rule(&candidate.reference) else { continue };
            let Ok(sources) = rule.sources(&candidate.reference) else { continue };
            prop_assert!(!sources.is_empty());
            for source in sources {
                prop_assert_eq!(source.reference.tag.as_deref(), Some("t"));
            }
        }
    }
}
