//! Keeps a container's `/etc/resolv.conf` and `/etc/hosts` equal to the host's.
//! It knows nothing of the container: it keeps copies in a folder, which a bundle mounts file by file.
//!
//! Mounting the host's own files would pin the inodes of this moment: editors and resolvers replace them by rename,
//! and the container would go on seeing the old ones. The copies are rewritten in place instead, which a mount
//! follows; how Docker does it, too.
//!
//! Changes are told by dnotify (fcntl(2), `F_NOTIFY`) and not by inotify(7): of the latter's instances a user has 128, by
//! default, and a supervisor for each service would take them all from the rest of the host (fs.inotify.max_user_instances).

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};

use crate::os;

/// The files that are followed, all in `/etc`.
pub const NAMES: [&str; 2] = ["resolv.conf", "hosts"];

/// The signal that says that [`HostFiles::refresh`] is to be called.
pub(crate) const CHANGED: Signal = Signal::SIGIO;

/// Copies of the host's files, kept equal for as long as this lives and [`HostFiles::refresh`] is called.
#[derive(Debug)]
pub(crate) struct HostFiles {
    folder: PathBuf,
    /// What is changed in these is told of.
    watched: Vec<OwnedFd>,
}

impl HostFiles {
    /// From now on [`CHANGED`] comes when the copies in `folder`, which are made by [`copy`] after this, may differ from the
    /// host's. The signal is blocked for this thread and those that it starts, and must be for all others.
    ///
    /// # Errors
    /// When it cannot be blocked.
    pub(crate) fn follow(folder: PathBuf) -> io::Result<Self> {
        let mut signal = SigSet::empty();
        signal.add(CHANGED);
        signal.thread_block()?;
        // OK to ignore what cannot be watched: the copy is as fresh as the last restart then, which is no reason to fail.
        Ok(Self { folder, watched: folders().filter_map(|folder| watch(&folder).ok()).collect() })
    }

    /// Copies again what has changed.
    ///
    /// # Errors
    /// As [`copy`].
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        // A file may have become a symlink to another folder (systemd-resolved does this): watch that one as well.
        self.watched = folders().filter_map(|folder| watch(&folder).ok()).collect();
        copy(&self.folder)
    }
}

/// Keeps the copies in `folder` equal from now on, beside whatever this process does, until it ends.
///
/// In a thread that gets no other signal: those are for the thread that reads them. A supervisor, which has one thread, has
/// [`CHANGED`] in its loop instead.
///
/// # Errors
/// When it cannot be begun.
pub(crate) fn keep_following(folder: PathBuf) -> io::Result<()> {
    let mut files = HostFiles::follow(folder)?;
    let mut changed = SigSet::empty();
    changed.add(CHANGED);
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let thread = std::thread::Builder::new().name("host files".to_owned()).spawn(move || {
        loop {
            // OK to ignore failures: the copies are then as they were, which is no reason to end the command.
            let _ = files.refresh();
            let _ = os::wait_signal(&changed);
        }
    });
    before.thread_set_mask()?;
    thread.map(drop)
}

/// Makes the copies in `folder`, or makes them equal to the host's files again.
///
/// # Errors
/// When one cannot be read or written. One that the host does not have is empty.
pub(crate) fn copy(folder: &Path) -> io::Result<()> {
    fs_err::create_dir_all(folder)?;
    for name in NAMES {
        let wanted = match fs_err::read(Path::new("/etc").join(name)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let copy = folder.join(name);
        if std::fs::read(&copy).is_ok_and(|present| present == wanted) {
            continue;
        }
        let mut file = fs_err::OpenOptions::new().write(true).create(true).truncate(false).open(&copy)?;
        // One write and then the cut: a reader in between sees the new text with a rest of the old one at worst,
        // never an empty file.
        file.write_all(&wanted)?;
        file.set_len(wanted.len() as u64)?;
    }
    Ok(())
}

/// Whether the kernel tells of changes in folders: asked for one in which none happens, as the signal would end this process.
///
/// # Errors
/// Why it does not.
pub(crate) fn can_be_followed() -> io::Result<()> {
    watch(Path::new("/proc/self")).map(drop)
}

/// Where the files are, and where they are links to. Folders are watched, not files: those are replaced.
fn folders() -> impl Iterator<Item = PathBuf> {
    let etc = Path::new("/etc");
    let linked = NAMES.into_iter().filter_map(move |name| {
        let target = std::fs::canonicalize(etc.join(name)).ok()?;
        target.parent().filter(|folder| *folder != etc).map(Path::to_owned)
    });
    std::iter::once(etc.to_owned()).chain(linked)
}

fn watch(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    os::notify_of_changes(folder.as_fd())?;
    Ok(folder)
}
