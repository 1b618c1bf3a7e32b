//! Files and folders that are there wholly or not at all, also after a power cut.
//! Does not know what is in them.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};

/// How deep a folder may be before its sub-folders are brought up to be removed: every level costs a descriptor.
const DEPTH_MAX: usize = 32;

/// A whole file; nothing if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// The digest of a file, however large; nothing if it is not there.
pub(super) fn digest_of(path: &Path) -> Result<Option<Digest>> {
    let hashed = File::open(path).and_then(|file| {
        let mut hashing = Hashing::new(file);
        io::copy(&mut hashing, &mut io::sink())?;
        Ok(hashing.finish().0)
    });
    match hashed {
        Ok(digest) => Ok(Some(digest)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// Makes a folder and those above it, unless they are there.
pub(super) fn create_folder(path: &Path, mode: u32) -> Result<()> {
    let failed = |error| Error::io(format!("create the folder {}", path.display()), error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(failed),
    }
}

/// Opens a folder.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| Error::io(format!("open the folder {}", path.display()), error))
}

/// Writes a file that does not exist yet.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(content));
    written.map_err(|error| Error::io(format!("write {}", path.display()), error))
}

/// Puts a new content in the place of a file's, which is always one of the two, whatever happens.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let aside = path.with_extension("new");
    let failed = |error| Error::io(format!("write {}", path.display()), error);
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(content)?;
        // Before the rename: else a power cut can leave the new name with no content.
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| std::fs::rename(&aside, path)) {
        // OK to fail: the error at hand is the one worth reporting, and the next write starts anew.
        let _ = std::fs::remove_file(&aside);
        return Err(failed(error));
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Brings a folder's list of names to disk.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    rustix::fs::fsync(open_folder(path)?)
        .map_err(|error| Error::io(format!("bring the folder {} to disk", path.display()), error))
}

/// Brings all of the file system to disk on which a folder is: cheaper than many files one by one.
pub(super) fn sync_all(path: &Path) -> Result<()> {
    rustix::fs::syncfs(open_folder(path)?)
        .map_err(|error| Error::io(format!("bring {} to disk", path.display()), error))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .map_err(|error| Error::io(format!("move {} to {}", from.display(), to.display()), error))
}

/// The digests by which the things in a folder are called, sorted.
pub(super) fn digests_in(folder: &Path) -> Result<Vec<Digest>> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::StoreMissing { path: folder.to_owned() },
        _ => Error::io(format!("list {}", folder.display()), error),
    };
    let mut digests = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let digest = name.to_str().and_then(Digest::from_hex);
        digests.push(digest.ok_or_else(|| Error::StoreCorrupt {
            path: folder.join(&name),
            reason: "its name is not a digest".to_owned(),
        })?);
    }
    digests.sort_unstable();
    Ok(digests)
}

/// Removes all that is in a folder, however deep it is nested: layers come from strangers.
pub(crate) fn empty(path: &Path) -> Result<()> {
    empty_but(path, &[])
}

/// As [`empty`], but for what has one of these names.
pub(super) fn empty_but(path: &Path, spared: &[OsString]) -> Result<()> {
    let folder = open_folder(path)?;
    let mut brought_up = 0;
    loop {
        let before = brought_up;
        empty_level(&folder, &folder, 0, spared, &mut brought_up)
            .map_err(|error| Error::io(format!("remove what is in {}", path.display()), error))?;
        if before == brought_up {
            return Ok(());
        }
    }
}

fn empty_level(
    folder: &OwnedFd,
    top: &OwnedFd,
    depth: usize,
    spared: &[OsString],
    brought_up: &mut u64,
) -> rustix::io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") && !spared.iter().any(|spared| spared.as_bytes() == name) {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
                // Some file systems don't tell the kind of an entry.
                Err(Errno::ISDIR) => {}
                Err(Errno::NOENT) => continue,
                other => {
                    other?;
                    continue;
                }
            }
        }
        if depth == DEPTH_MAX {
            *brought_up += 1;
            rustix::fs::renameat(folder, &name, top, format!("deep-{}-{brought_up}", std::process::id()))?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
        empty_level(&below, top, depth + 1, &[], brought_up)?;
        rustix::fs::unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}
