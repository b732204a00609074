//! The criu program: whether it works here, and one dump. Source: criu(8).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

use super::{CheckpointError, io_error};

/// What is to be dumped, and where to.
pub struct Dump<'a> {
    pub init: u32,
    pub volumes: &'a [PathBuf],
    pub images: &'a Path,
}

/// Whether criu is there and this kernel has what it needs.
pub async fn check(criu: &Path) -> Result<(), CheckpointError> {
    if !criu.is_file() {
        return Err(CheckpointError::Missing { path: criu.to_owned() });
    }
    let output = run(criu, &["check".into()]).await?;
    if output.status.success() {
        return Ok(());
    }
    let told = [output.stdout, output.stderr].concat();
    Err(CheckpointError::Unfit {
        path: criu.to_owned(),
        why: reason(&String::from_utf8_lossy(&told)),
    })
}

/// Dumps a container's processes; they go on.
pub async fn dump(criu: &Path, dump: &Dump<'_>) -> Result<(), CheckpointError> {
    let output = run(criu, &arguments(dump)?).await?;
    if output.status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(dump.images.join("dump.log")).unwrap_or_default();
    Err(CheckpointError::Dump { why: reason(&log) })
}

fn arguments(dump: &Dump<'_>) -> Result<Vec<String>, CheckpointError> {
    let mut arguments = vec![
        "dump".to_owned(),
        "--tree".to_owned(),
        dump.init.to_string(),
        "--images-dir".to_owned(),
        dump.images.display().to_string(),
        "--log-file".to_owned(),
        "dump.log".to_owned(),
    ];
    let switches = [
        "-v4",
        "--leave-running",
        "--manage-cgroups=ignore",
        "--file-locks",
        "--link-remap",
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
    ];
    arguments.extend(switches.map(str::to_owned));
    // What belongs to the pod or the host is named, and stays out of the dump. The keys are runc's and crun's: their
    // restore looks for them.
    for (kind, key) in [("net", "extRootNetNS"), ("pid", "extRootPidNS")] {
        let path = PathBuf::from(format!("/proc/{}/ns/{kind}", dump.init));
        let inode = fs::metadata(&path).map_err(io_error("look at", &path))?.ino();
        if kind == "net" || !first_of_its_namespace(dump.init)? {
            arguments.extend(["--external".to_owned(), format!("{kind}[{inode}]:{key}")]);
        }
    }
    for place in foreign_mounts(dump)? {
        arguments.extend(["--external".to_owned(), format!("mnt[{place}]:{place}")]);
    }
    // And what a volume brought along below it.
    arguments.extend(["--external".to_owned(), "mnt[]:m".to_owned()]);
    Ok(arguments)
}

/// Whether a process is the first of a PID namespace: then that is the container's own, else the pod's or the host's.
fn first_of_its_namespace(pid: u32) -> Result<bool, CheckpointError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(numbers.and_then(|all| all.split_whitespace().next_back()) == Some("1"))
}

/// Mount points whose content is not the container's own: volumes, the pod's files and shared memory, and every other
/// part of a file system of the host.
fn foreign_mounts(dump: &Dump<'_>) -> Result<Vec<String>, CheckpointError> {
    let path = PathBuf::from(format!("/proc/{}/mountinfo", dump.init));
    let table = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let places = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let of_the_pod = place == "/dev/shm" || dump.volumes.iter().any(|volume| volume == Path::new(place));
        (root != "/" || of_the_pod).then(|| place.to_owned())
    });
    Ok(places.collect())
}

async fn run(criu: &Path, arguments: &[String]) -> Result<Output, CheckpointError> {
    let mut command = Command::new(criu);
    command
        .args(arguments)
        .env_clear()
        // For tar, which criu packs a tmpfs with.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.output().await.map_err(io_error("execute", criu))
}

/// The first error of criu's own words, without where in its source it was: what comes after follows from it.
fn reason(log: &str) -> String {
    let first = log
        .lines()
        .find_map(|line| line.split_once("Error (")?.1.split_once("): "));
    match first {
        Some((_, why)) => why.trim().to_owned(),
        None => "it does not say why".to_owned(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_first_error_is_the_reason() {
        let log = "(00.1) Warn  (criu/x.c:1): a\n(00.2) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n\
                   (00.3) Error (criu/kerndat.c:1615): kerndat failed\n";
        assert_eq!(reason(log), "vdso: Unexpected rt vDSO area bounds");
        assert_eq!(reason(""), "it does not say why");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let missing = check(Path::new("/nonexistent/criu")).await.unwrap_err();
        assert!(matches!(&missing, CheckpointError::Missing { .. }));
        assert!(missing.to_string().contains("/nonexistent/criu"));
        // A program that is not criu: it fails, and says nothing that criu would.
        let unfit = check(Path::new("/bin/false")).await.unwrap_err();
        assert!(matches!(&unfit, CheckpointError::Unfit { .. }), "{unfit}");
    }

    #[test]
    fn our_own_mounts_are_read() {
        let me = std::process::id();
        let dump = Dump {
            init: me,
            volumes: &["/proc".into()],
            images: Path::new("/i"),
        };
        assert!(foreign_mounts(&dump).unwrap().contains(&"/proc".to_owned()));
        let arguments = arguments(&dump).unwrap();
        assert!(
            arguments.iter().any(|argument| argument.starts_with("net[")),
            "{arguments:?}"
        );
    }
}
