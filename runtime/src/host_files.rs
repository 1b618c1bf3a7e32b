//! Keeps a container's `/etc/resolv.conf` and `/etc/hosts` equal to the host's.
//! It knows nothing of the container: it keeps copies in a folder, which a bundle mounts file by file.
//!
//! Mounting the host's own files would pin the inodes of this moment: editors and resolvers replace them by rename,
//! and the container would go on seeing the old ones. The copies are rewritten in place instead, which a mount
//! follows; how Docker does it, too.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{PollFd, PollFlags};

/// The files that are followed, all in `/etc`.
pub const NAMES: [&str; 2] = ["resolv.conf", "hosts"];

/// Copies of the host's files, kept equal for as long as this lives and [`HostFiles::refresh`] is called.
#[derive(Debug)]
pub(crate) struct HostFiles {
    folder: PathBuf,
    watch: Inotify,
}

impl HostFiles {
    /// Makes the copies in `folder` and begins to watch the host's.
    pub(crate) fn follow(folder: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(folder)?;
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let files = Self { folder: folder.to_owned(), watch };
        files.watch_folders();
        files.copy_all()?;
        Ok(files)
    }

    /// Keeps the copies equal from now on, beside whatever this process does, until it ends.
    ///
    /// In a thread that gets no signal: those are for the thread that reads them. A supervisor, which has one thread,
    /// has the descriptor in its loop instead.
    pub(crate) fn keep_following(self) -> io::Result<()> {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let thread = std::thread::Builder::new().name("host files".to_owned()).spawn(move || {
            loop {
                let mut wait = [PollFd::new(&self.watch, PollFlags::IN)];
                // OK to ignore failures: the copies are then as they were, which is no reason to end the command.
                let _ = rustix::event::poll(&mut wait, None);
                let _ = self.refresh();
            }
        });
        before.thread_set_mask()?;
        thread.map(drop)
    }

    /// Copies again what has changed, when the descriptor is readable.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        while self.watch.read_events().is_ok_and(|events| !events.is_empty()) {}
        // A file may have become a symlink to another folder (systemd-resolved does this): watch that one as well.
        self.watch_folders();
        self.copy_all()
    }

    /// Folders are watched, not files: a watch on a file is lost when it is replaced (inotify(7)).
    fn watch_folders(&self) {
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE;
        let _ = self.watch.add_watch("/etc", changes);
        for name in NAMES {
            let target = std::fs::canonicalize(Path::new("/etc").join(name)).ok();
            if let Some(folder) = target.as_deref().and_then(Path::parent) {
                // OK to ignore: without it the copy is as fresh as the last restart, which is no reason to fail.
                let _ = self.watch.add_watch(folder, changes);
            }
        }
    }

    fn copy_all(&self) -> io::Result<()> {
        for name in NAMES {
            let wanted = match fs_err::read(Path::new("/etc").join(name)) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            let copy = self.folder.join(name);
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
}

impl AsFd for HostFiles {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
