//! Where something slow is made without a lock on the store: a folder in `tmp` that nobody empties meanwhile.
//! Does not know what is made there.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::disk;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// How the folders' names begin.
const PREFIX: &str = "stage-";
/// In such a folder: files called like the layers of the store that what is made relies on.
const NEEDS: &str = "needs";

/// A folder that is kept until this is removed, or the process ends in whatever way: then it is the next one's to
/// remove who empties `tmp`.
#[derive(Debug)]
#[must_use = "what is made is lost when this is dropped"]
pub(super) struct Stage {
    folder: PathBuf,
    // flock(2) on the folder itself. No child gets it: it is opened with O_CLOEXEC.
    _lock: OwnedFd,
}

impl Stage {
    pub(super) fn new(tmp: &Path) -> Result<Self> {
        let mut number: u32 = 0;
        loop {
            let folder = tmp.join(format!("{PREFIX}{}-{number}", std::process::id()));
            number += 1;
            match DirBuilder::new().mode(0o755).create(&folder) {
                // Of another thread, or of a process of another pid namespace.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                other => other
                    .map_err(|error| Error::io(format!("create the folder {}", folder.display()), error))?,
            }
            // Nothing: who empties tmp was between the two, and takes it away.
            if let Some(lock) = lock(&folder)? {
                disk::create_folder(&folder.join(NEEDS), 0o755)?;
                return Ok(Self { folder, _lock: lock });
            }
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps layers in the store, if they are there. One that somebody is about to take out all the same is gone when
    /// the caller, who has the store's lock then, looks again.
    pub(super) fn rely_on(&self, layers: impl Iterator<Item = Digest>) -> Result<()> {
        for layer in layers.collect::<BTreeSet<_>>() {
            disk::write_new(&self.folder.join(NEEDS).join(layer.hex()), b"")?;
        }
        Ok(())
    }

    /// Takes the folder away, with all that is still in it.
    pub(super) fn remove(self) -> Result<()> {
        disk::empty(&self.folder)?;
        std::fs::remove_dir(&self.folder)
            .map_err(|error| Error::io(format!("remove {}", self.folder.display()), error))
    }
}

/// Empties `tmp`, but for what others are making at this moment. The caller has the store's lock.
pub(super) fn clear(tmp: &Path) -> Result<()> {
    let (mut spared, mut dead) = (Vec::new(), Vec::new());
    for folder in all(tmp)? {
        match lock(&folder)? {
            // Kept locked until it is gone.
            Some(lock) => dead.push(lock),
            None => spared.extend(folder.file_name().map(ToOwned::to_owned)),
        }
    }
    disk::empty_but(tmp, &spared)
}

/// The layers that those rely on who are making something at this moment.
pub(super) fn relied_on(tmp: &Path) -> Result<BTreeSet<Digest>> {
    let mut needed = BTreeSet::new();
    for folder in all(tmp)? {
        if lock(&folder)?.is_some() {
            continue;
        }
        match disk::digests_in(&folder.join(NEEDS)) {
            // Just made, or just done.
            Err(Error::StoreMissing { .. }) => {}
            other => needed.extend(other?),
        }
    }
    Ok(needed)
}

fn all(tmp: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(format!("list {}", tmp.display()), error);
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(tmp).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// The lock of a folder; nothing if somebody else has it or the folder is gone.
fn lock(folder: &Path) -> Result<Option<OwnedFd>> {
    let failed = |error: Errno| Error::io(format!("lock {}", folder.display()), error);
    let opened = match disk::open_folder(folder) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        other => other.map_err(failed)?,
    }
    // Whoever had it before may have removed the folder.
    match (rustix::fs::fstat(&opened).map_err(failed)?, rustix::fs::lstat(folder)) {
        (mine, Ok(there)) if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino) => Ok(Some(opened)),
        (_, Ok(_) | Err(Errno::NOENT)) => Ok(None),
        (_, Err(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_made_stays_and_what_was_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path();
        let layer = Digest::of(b"a layer");
        let stage = Stage::new(tmp).unwrap();
        stage.rely_on([layer, layer].into_iter()).unwrap();
        std::fs::write(stage.folder().join("file"), "x").unwrap();
        let dead = tmp.join(format!("{PREFIX}1-0"));
        std::fs::create_dir_all(dead.join(NEEDS)).unwrap();
        std::fs::write(dead.join(NEEDS).join(Digest::of(b"another").hex()), "").unwrap();
        std::fs::create_dir_all(tmp.join("load/layers")).unwrap();

        assert_eq!(relied_on(tmp).unwrap(), BTreeSet::from([layer]));
        clear(tmp).unwrap();
        assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 1);
        assert!(stage.folder().join("file").exists());
        let other = Stage::new(tmp).unwrap();
        assert_ne!(stage.folder(), other.folder());
        drop(stage);
        clear(tmp).unwrap();
        assert_eq!(all(tmp).unwrap(), [other.folder()]);
        other.remove().unwrap();
        assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
    }
}
