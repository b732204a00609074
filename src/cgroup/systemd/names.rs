//! Slices and scopes: from the names that the kubelet and systemd use to cgroup paths and back.
//!
//! A slice's name is its place: `a-b.slice` lies in `a.slice`, so its path is `/a.slice/a-b.slice`. A `-` that is no
//! step is written `_` by the kubelet and `\x2d` by systemd; to us both are letters.
//!
//! Sources: systemd.slice(5), systemd.unit(5) "String Escaping for Inclusion in Unit Names"; kubelet
//! `pkg/kubelet/cm/cgroup_manager_linux.go`, `ToSystemd`.

/// Where a sandbox that names no parent belongs.
pub const DEFAULT_SLICE: &str = "/system.slice";

/// The slice that holds all others.
const ROOT: &str = "-.slice";
/// Source: systemd `UNIT_NAME_MAX`.
const LONGEST: usize = 255;

/// A transient scope and the slice it is in, by their unit names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub unit: String,
    pub slice: String,
}

/// The path of a slice told by its name (`a-b.slice`) or by its path (`/a.slice/a-b.slice`); in words why it is none.
pub fn slice_path(told: &str) -> Result<String, String> {
    let name = told.rsplit('/').next().unwrap_or_default();
    let path = expand(name)?;
    // The kubelet tells paths. One that systemd would not make is not where the client believes it to be.
    if told != name && format!("/{}", told.trim_start_matches('/')) != path {
        return Err(format!("not where systemd has it: {path}"));
    }
    Ok(path)
}

/// The path of the scope of `id` (a sandbox's or a container's) in a slice.
pub fn scope_path(slice: &str, id: &str) -> String {
    format!("{}/inro-{id}.scope", slice.trim_end_matches('/'))
}

/// What [`scope_path`] made; `None` for every other path.
pub fn scope_at(path: &str) -> Option<Scope> {
    let (slice, unit) = path.rsplit_once('/')?;
    unit.strip_prefix("inro-")?.strip_suffix(".scope")?;
    let slice = match slice.rsplit('/').next()? {
        "" => ROOT,
        name => name,
    };
    slice.ends_with(".slice").then(|| Scope {
        unit: unit.to_owned(),
        slice: slice.to_owned(),
    })
}

fn expand(name: &str) -> Result<String, String> {
    let Some(steps) = name.strip_suffix(".slice") else {
        return Err("not a slice, and the driver here is systemd".to_owned());
    };
    if name == ROOT {
        return Ok("/".to_owned());
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'.' | b'\\' | b'-');
    if name.len() > LONGEST || !steps.bytes().all(letter) || steps.split('-').any(str::is_empty) {
        return Err("not the name of a slice".to_owned());
    }
    let ends = steps.match_indices('-').map(|(at, _)| at).chain([steps.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &steps[..end])).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_and_paths_of_the_kubelet_become_paths() {
        let burstable = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0_1.slice";
        for (told, path) in [
            ("system.slice", "/system.slice"),
            ("/system.slice", "/system.slice"),
            ("-.slice", "/"),
            ("test-a-b.slice", "/test.slice/test-a.slice/test-a-b.slice"),
            ("kubepods-burstable-pod0_1.slice", burstable),
            (burstable, burstable),
            (&burstable[1..], burstable),
            // Guaranteed pods are right below the top.
            (
                "kubepods-pod1234_5678.slice",
                "/kubepods.slice/kubepods-pod1234_5678.slice",
            ),
            // `--cgroup-root=/node-a` of the kubelet.
            (
                "/node_a.slice/node_a-kubepods.slice",
                "/node_a.slice/node_a-kubepods.slice",
            ),
            // A dash as systemd escapes it.
            (r"a\x2db-c.slice", r"/a\x2db.slice/a\x2db-c.slice"),
        ] {
            assert_eq!(slice_path(told).as_deref(), Ok(path), "{told}");
        }
    }

    #[test]
    fn what_systemd_would_not_take_or_would_put_elsewhere_is_refused() {
        for told in [
            "",
            "/",
            "/kubepods/burstable",
            "a.scope",
            ".slice",
            "/-.slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a b.slice",
            "a@b.slice",
            "/a.slice/b.slice",
            "/kubepods-burstable.slice/kubepods-burstable-pod1.slice",
            "/../a.slice",
            &format!("{}.slice", "a".repeat(250)),
        ] {
            assert!(slice_path(told).is_err(), "{told}");
        }
    }

    #[test]
    fn a_scope_is_known_by_its_path() {
        let path = scope_path("/kubepods.slice/kubepods-pod1.slice", "abc");
        assert_eq!(path, "/kubepods.slice/kubepods-pod1.slice/inro-abc.scope");
        let known = |unit: &str, slice: &str| {
            Some(Scope {
                unit: unit.into(),
                slice: slice.into(),
            })
        };
        assert_eq!(scope_at(&path), known("inro-abc.scope", "kubepods-pod1.slice"));
        assert_eq!(scope_at(&scope_path("/", "abc")), known("inro-abc.scope", "-.slice"));
        for path in [
            "/inro/abc",
            "/a.slice/other.scope",
            "/a/inro-abc.scope",
            "/a.slice",
            "/",
        ] {
            assert_eq!(scope_at(path), None, "{path}");
        }
    }
}
