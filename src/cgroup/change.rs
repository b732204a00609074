//! Limits changed in place: all of them or none.

use std::{fs, io, path::Path};

use super::{
    CgroupError, below, files,
    hierarchy::Hierarchy,
    limits::{MEMORY_V1, MEMORY_V2, Write, writes},
};
use crate::model::Resources;

/// Applies `resources` to a new cgroup. One that fails is removed by the caller, so nothing is put back.
pub fn set(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Result<(), CgroupError> {
    writes(hierarchy, path, resources, &now)?.iter().try_for_each(write)
}

/// Tells somebody else what the files have by now.
pub type Agree<'a> = &'a dyn Fn(&Resources) -> Result<(), CgroupError>;

/// Applies `resources` to a cgroup in use. When one limit is refused, those before it are put back. The kernel judges
/// first; then whoever writes the same files has to `agree`.
pub fn change(
    hierarchy: &Hierarchy,
    path: &str,
    resources: &Resources,
    agree: Option<Agree<'_>>,
) -> Result<(), CgroupError> {
    let writes = writes(hierarchy, path, resources, &now)?;
    if let (Hierarchy::V2 { root }, Some(limit)) = (hierarchy, resources.memory_limit_bytes.filter(|bytes| *bytes > 0))
    {
        make_room(&below(root, path), limit.unsigned_abs())?;
    }
    let mut before: Vec<(&Write, Option<String>)> = Vec::new();
    for one in &writes {
        let was = now(&one.file);
        if let Err(error) = write(one) {
            put_back(&before);
            return Err(error);
        }
        before.push((one, was));
    }
    let Some(agree) = agree else { return Ok(()) };
    if let Err(error) = agree(&with_whole_quota(hierarchy, path, resources)) {
        put_back(&before);
        return Err(error);
    }
    // It has written its own, rounded.
    writes.iter().try_for_each(write)
}

fn put_back(before: &[(&Write, Option<String>)]) {
    for (done, was) in before.iter().rev() {
        // What cannot be put back stays changed, and the client is told that it failed.
        if let Some(was) = was
            && let Err(error) = files::write(&done.file, was.trim_end())
        {
            tracing::warn!(%error, file = %done.file.display(), "a limit cannot be put back");
        }
    }
}

/// `resources` with the quota and the period that the file has, if they change one of them: the other is needed to
/// tell what share of a CPU that is.
fn with_whole_quota(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Resources {
    let mut whole = resources.clone();
    if let Hierarchy::V2 { root } = hierarchy
        && (resources.cpu_quota_us.is_some() || resources.cpu_period_us.is_some())
        && let Some(text) = now(&below(root, path).join("cpu.max"))
        && let Some((quota, period)) = text.trim_end().split_once(' ')
    {
        whole.cpu_quota_us = Some(quota.parse().unwrap_or(-1));
        whole.cpu_period_us = period.parse().ok();
    }
    whole
}

/// v1 refuses a memory limit that what is in use does not fit into; v2 would kill for it. So the kernel is asked to
/// give back what it can first, and the limit is refused when that is not enough.
fn make_room(folder: &Path, limit: u64) -> Result<(), CgroupError> {
    let used = || {
        let text = now(&folder.join("memory.current"))?;
        text.trim().parse::<u64>().ok()
    };
    let Some(excess) = used()
        .and_then(|used| used.checked_sub(limit))
        .filter(|excess| *excess > 0)
    else {
        return Ok(());
    };
    // Kernels before 5.19 have no such file, and it fails when less than that was given back: what counts is what is left.
    let _ = fs::write(folder.join("memory.reclaim"), excess.to_string());
    match used() {
        Some(used) if used > limit => Err(in_use(limit, used)),
        _ => Ok(()),
    }
}

fn write(write: &Write) -> Result<(), CgroupError> {
    files::write(&write.file, &write.value).map_err(|error| match error {
        CgroupError::Io { source, .. } if source.raw_os_error() == Some(libc::EBUSY) && limits_memory(&write.file) => {
            let usage = write.file.with_file_name("memory.usage_in_bytes");
            let used = now(&usage).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            in_use(write.value.parse().unwrap_or(0), used)
        }
        CgroupError::Io { source, .. } if refused(&source) => CgroupError::Refused {
            field: write.field,
            value: write.value.clone(),
            source,
        },
        error => error,
    })
}

fn limits_memory(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [MEMORY_V1, MEMORY_V2, "memory.memsw.limit_in_bytes"].contains(&name)
}

/// Whether it is the value that the kernel does not take: malformed, out of range, or more than the parent has.
fn refused(error: &io::Error) -> bool {
    let value = [
        libc::EINVAL,
        libc::ERANGE,
        libc::EDOM,
        libc::EACCES,
        libc::ENOSPC,
        libc::EBUSY,
        libc::EOPNOTSUPP,
    ];
    error.raw_os_error().is_some_and(|errno| value.contains(&errno))
}

fn in_use(limit: u64, used: u64) -> CgroupError {
    CgroupError::InUse {
        field: "memory_limit_in_bytes",
        limit,
        used,
    }
}

fn now(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()
}
