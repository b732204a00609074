//! The archive of a checkpoint.
//!
//! ```text
//! checkpoint/       criu's images
//! config.dump       what the container is
//! spec.dump         its OCI spec
//! rootfs-diff.tar   files that differ from its image
//! deleted.files     files of its image that are gone: a JSON list
//! dump.log          criu's log
//! stats-dump        criu's figures
//! ```
//! Source: checkpointctl `lib/metadata.go`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use tar::Builder;

use super::{CheckpointError, Subject, io_error};

pub const IMAGES: &str = "checkpoint";

/// Packs what criu left in `work` with what belongs to it, and puts it at `location` when it is whole.
pub fn pack(work: &Path, subject: &Subject, location: &Path) -> Result<(), CheckpointError> {
    let images = work.join(IMAGES);
    for name in ["dump.log", "stats-dump"] {
        let from = images.join(name);
        fs::rename(&from, work.join(name)).map_err(io_error("move", &from))?;
    }
    let description = serde_json::to_vec_pretty(&subject.description).map_err(io::Error::from);
    let path = work.join("config.dump");
    fs::write(&path, description.map_err(io_error("write", &path))?).map_err(io_error("write", &path))?;
    fs::copy(&subject.spec, work.join("spec.dump")).map_err(io_error("copy", &subject.spec))?;
    let path = work.join("rootfs-diff.tar");
    let deleted = difference(&subject.upper, &path).map_err(io_error("write", &path))?;
    if !deleted.is_empty() {
        let path = work.join("deleted.files");
        let list = serde_json::to_vec(&deleted).map_err(io::Error::from);
        fs::write(&path, list.map_err(io_error("write", &path))?).map_err(io_error("write", &path))?;
    }

    let whole = work.join("whole");
    archive(work, &whole).map_err(io_error("write", &whole))?;
    fs::rename(&whole, location).map_err(io_error("put in place", location))
}

/// Everything of `work` in one archive that only root can read: it holds the container's memory.
fn archive(work: &Path, to: &Path) -> io::Result<()> {
    let names: Vec<_> = fs::read_dir(work)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    let mut builder = Builder::new(private(to)?);
    builder.follow_symlinks(false);
    for name in names {
        let path = work.join(&name);
        if path.is_dir() {
            builder.append_dir_all(&name, &path)?;
        } else {
            builder.append_path_with_name(&path, &name)?;
        }
    }
    builder.into_inner()?.sync_all()
}

/// The changed files of an overlay's upper folder as an archive; the deleted ones are answered.
fn difference(upper: &Path, to: &Path) -> io::Result<Vec<String>> {
    let mut builder = Builder::new(private(to)?);
    builder.follow_symlinks(false);
    let mut deleted = Vec::new();
    walk(upper, Path::new(""), &mut builder, &mut deleted)?;
    builder.into_inner()?.flush()?;
    Ok(deleted)
}

fn walk(upper: &Path, below: &Path, builder: &mut Builder<File>, deleted: &mut Vec<String>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(upper.join(below))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        let result = (|| {
            let meta = fs::symlink_metadata(&path)?;
            let kind = meta.file_type();
            if kind.is_char_device() && meta.rdev() == 0 {
                // Overlayfs's mark of a file of a lower layer that is gone.
                deleted.push(format!("/{}", name.display()));
            } else if kind.is_dir() {
                builder.append_dir(&name, &path)?;
                walk(upper, &name, builder, deleted)?;
            } else if !kind.is_socket() {
                builder.append_path_with_name(&path, &name)?;
            }
            Ok(())
        })();
        match result {
            // The container goes on, and may have deleted it meanwhile.
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

fn private(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_difference_has_what_changed_and_names_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir_all(upper.join("etc/deep")).unwrap();
        fs::write(upper.join("etc/deep/file"), "text").unwrap();
        std::os::unix::fs::symlink("/nowhere", upper.join("link")).unwrap();
        let gone = rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("etc/gone"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        );
        if gone.is_err() {
            eprintln!("skipped: needs CAP_MKNOD");
            return;
        }
        let tar = dir.path().join("diff.tar");
        assert_eq!(difference(&upper, &tar).unwrap(), ["/etc/gone"]);
        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["etc", "etc/deep", "etc/deep/file", "link"]);
        assert_eq!(fs::metadata(&tar).unwrap().mode() & 0o777, 0o600);
    }
}
