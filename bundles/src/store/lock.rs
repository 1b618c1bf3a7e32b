//! Who may change the store, and who keeps layers from being removed.
//! Does not know what is changed.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Progress;
use crate::error::{Error, Result};

/// A lock that is kept until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
#[must_use = "the lock is let go when this is dropped"]
pub struct Held {
    // Closing it lets go. No child gets it: it is opened with O_CLOEXEC.
    _file: File,
}

/// The right to change the store; says for whom it waits.
pub(super) fn change(path: &Path, progress: &mut dyn Progress) -> Result<Held> {
    let mut file = open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // OK to fail: then it is just not known for whom this waits.
            let _ = (&mut file).take(32).read_to_string(&mut holder);
            progress.waiting(holder.trim().parse().ok());
            wait(&file, FlockOperation::LockExclusive, path)?;
        }
        Err(error) => return Err(failed(path, error)),
    }
    let pid = format!("{}\n", std::process::id());
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
    written.map_err(|error| Error::io(format!("write {}", path.display()), error))?;
    Ok(Held { _file: file })
}

/// The right to rely on what is there; says for whom it waits.
pub(super) fn hold_shared(path: &Path, progress: &mut dyn Progress) -> Result<Held> {
    let wanted = (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared);
    hold(path, wanted, progress)
}

/// The right to remove what others could rely on; says for whom it waits, for one of them if they are many.
pub(super) fn hold_alone(path: &Path, progress: &mut dyn Progress) -> Result<Held> {
    let wanted = (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive);
    hold(path, wanted, progress)
}

fn hold(
    path: &Path,
    (at_once, waiting): (FlockOperation, FlockOperation),
    progress: &mut dyn Progress,
) -> Result<Held> {
    let file = open(path)?;
    match rustix::fs::flock(&file, at_once) {
        Err(Errno::WOULDBLOCK) => {
            progress.waiting(holder_of(&file));
            wait(&file, waiting, path)?;
        }
        other => other.map_err(|error| failed(path, error))?,
    }
    Ok(Held { _file: file })
}

/// A process that holds a lock on a file, as far as the kernel says: proc_locks(5).
fn holder_of(file: &File) -> Option<u32> {
    let seen = rustix::fs::fstat(file).ok()?;
    let inode = seen.st_ino.to_string();
    let (major, minor) = (rustix::fs::major(seen.st_dev), rustix::fs::minor(seen.st_dev));
    let here = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holders = || {
        locks.lines().filter_map(|line| {
            // `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; who waits has an arrow after the number.
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { return None };
            let pid = pid.parse().ok().filter(|pid| *pid != std::process::id())?;
            Some((pid, (*place).to_owned()))
        })
    };
    // Some file systems show another device here than in stat(2).
    let by_device = holders().find(|(_, place)| *place == here);
    let found = by_device.or_else(|| holders().find(|(_, place)| place.rsplit(':').next() == Some(&inode)));
    found.map(|(pid, _)| pid)
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|error| Error::io(format!("open {}", path.display()), error))
}

fn wait(file: &File, operation: FlockOperation, path: &Path) -> Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            other => return other.map_err(|error| failed(path, error)),
        }
    }
}

fn failed(path: &Path, error: Errno) -> Error {
    Error::io(format!("lock {}", path.display()), error)
}
