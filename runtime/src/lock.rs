//! The lock that makes one process the only one to change a service.
//! It knows nothing of what is changed.
//!
//! It is an open-file-description lock (fcntl(2), `F_OFD_SETLK`): given back by the kernel however its holder ends, and
//! unlike flock(2) it can be asked about without being taken, so that `opsrun ps` never stands in anyone's way.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::container::boot_id;
use crate::small_file;

/// A held lock; given back when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// What came of trying.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It is held now.
    Held(Lock),
    /// Another process holds it; 0 when it has not said who it is yet.
    By(i32),
}

impl Lock {
    /// Tries to hold it, without waiting.
    pub(crate) fn try_hold(path: &Path) -> io::Result<Tried> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match fcntl(file.as_raw_fd(), FcntlArg::F_OFD_SETLK(&wholefile())) {
            Ok(_) => {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}\n{}\n", std::process::id(), boot_id().unwrap_or_default())?;
                Ok(Tried::Held(Self { file }))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(Tried::By(written_holder(&file)?)),
            Err(error) => Err(error.into()),
        }
    }

    /// The held file: whoever inherits it holds the lock.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A lock that was inherited.
    pub(crate) fn inherited(file: File) -> Self {
        Self { file }
    }

    /// Whether somebody has held it since this host was started. The folder it is in need not be gone at a reboot.
    pub(crate) fn was_held(path: &Path) -> bool {
        let held_in = |text: &[u8]| std::str::from_utf8(text).ok()?.lines().nth(1).map(str::to_owned);
        let held_in = small_file::read(path, held_in).ok().flatten();
        held_in.is_some_and(|held_in| boot_id().is_ok_and(|this| this == held_in))
    }

    /// Who holds it; `None` when nobody does.
    pub(crate) fn holder(path: &Path) -> io::Result<Option<i32>> {
        let file = match small_file::opened(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut question = wholefile();
        fcntl(file.as_raw_fd(), FcntlArg::F_OFD_GETLK(&mut question))?;
        if i32::from(question.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        written_holder(&file).map(Some)
    }
}

/// The kernel does not say who holds an open-file-description lock, so the holder writes its number into the file, and the
/// number of the boot on a line below.
fn written_holder(file: impl AsFd) -> io::Result<i32> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.lines().next()?.parse().ok();
    Ok(small_file::read_beginning(file, number)?.unwrap_or(0))
}

fn wholefile() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_others_see_who_and_it_is_free_afterwards() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("lock");
        assert_eq!(Lock::holder(&path).expect("ask"), None);
        assert!(!Lock::was_held(&path));
        let held = Lock::try_hold(&path).expect("try");
        assert!(matches!(held, Tried::Held(_)));
        let own = i32::try_from(std::process::id()).expect("pid");
        assert_eq!(Lock::holder(&path).expect("ask"), Some(own));
        assert!(matches!(Lock::try_hold(&path).expect("try"), Tried::By(by) if by == own));
        drop(held);
        assert!(Lock::was_held(&path));
        assert_eq!(Lock::holder(&path).expect("ask"), None);
        assert!(matches!(Lock::try_hold(&path).expect("try"), Tried::Held(_)));
        std::fs::write(&path, "7\nanother boot\n").expect("written");
        assert!(!Lock::was_held(&path));
    }
}
