//! Makes one folder equal to another, entry by entry: each entry is the old one or the new one at any moment, whole.
//! It does not know what the files mean, and who reads them meanwhile may see some of the old and some of the new.
//!
//! ```text
//! for each entry of `from`   made aside as .opsrun-new, brought to disk, renamed over the old one; what is equal stays
//! then, in `to`              what `from` does not have is removed, and the folder gets its owner, mode and times
//! ```
//!
//! A crash leaves some entries old and some new, perhaps with one that is aside; the next call finishes it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Stat, flock, fstat,
    fsync, linkat, listxattr, mkdirat, openat, openat2, readlinkat, removexattr, renameat, renameat_with,
};
use rustix::io::Errno;

use super::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_NOT_COPIED, Copy, DEPTH_MAX, Origin, dress, names};
use crate::error::{Error, Result};
use crate::rootfs::{proc_path, reopen};

/// What an entry is called until it is whole. A file of that name in `from` is what a crash left there, and none of it.
const ASIDE: &CStr = c".opsrun-new";

/// Makes the folder `to`, which must exist, equal to `from`: bytes, modes, owners, times of change, symlinks as such. What
/// lies in `to` at one of the paths `except`, relative to it, is not touched, and neither are the folders above it removed.
///
/// # Errors
/// [`Error::CopyUnderWay`] when another process is doing the same, [`Error::NotEmpty`] when a file would have to take the
/// place of a folder with something of `except` in it, and those of [`super::copy`]. Each entry is then old or new.
pub fn make_equal(from: &Path, to: &Path, except: &[PathBuf]) -> Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Error::io(format!("open the folder {}", path.display()), errno))
    };
    let (source, target) = (open(from)?, open(to)?);
    match flock(&target, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(Error::CopyUnderWay { folder: to.to_owned() }),
        Err(errno) => return Err(Error::io(format!("lock {}", to.display()), errno)),
    }
    let root = target.as_fd();
    let made = Equal { root, except, shown: to, links: HashMap::new(), at: PathBuf::new(), depth: 0 }
        .folder(source.as_fd(), root);
    // Not left to closing: a process that another thread is just starting has the folder open as well (flock(2)).
    flock(&target, FlockOperation::Unlock)
        .map_err(|errno| Error::io(format!("unlock {}", to.display()), errno))?;
    made
}

/// A folder being made equal.
struct Equal<'a> {
    root: BorrowedFd<'a>,
    except: &'a [PathBuf],
    shown: &'a Path,
    /// Where a file with several names is by now, relative to the root.
    links: HashMap<(u64, u64), PathBuf>,
    /// The entry that is being made equal, relative to the root.
    at: PathBuf,
    depth: usize,
}

impl Equal<'_> {
    fn folder(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
        if self.depth > DEPTH_MAX {
            return Err(Error::TooDeep { path: self.shown.to_owned(), depth_max: DEPTH_MAX });
        }
        self.depth += 1;
        let mut wanted = names(source).map_err(|error| self.failed(error))?;
        wanted.retain(|name| name.as_c_str() != ASIDE);
        for name in &wanted {
            self.below(name, |this| this.entry(source, target, name))?;
        }
        // Last: whoever reads meanwhile rather finds too much than too little.
        for name in names(target).map_err(|error| self.failed(error))? {
            if wanted.binary_search(&name).is_err() {
                self.below(&name, |this| this.remove(target, &name))?;
            }
        }
        let dressed = fstat(source).and_then(|stat| {
            drop_attributes(source, target)?;
            dress(source, target, &stat, Origin::Operator)
        });
        dressed.and_then(|()| fsync(target)).map_err(|errno| self.failed(errno))?;
        self.depth -= 1;
        Ok(())
    }

    /// Does something about an entry, unless it is not to be touched.
    fn below(&mut self, name: &CStr, what: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.at.push(OsStr::from_bytes(name.to_bytes()));
        let done = if self.except.contains(&self.at) { Ok(()) } else { what(self) };
        self.at.pop();
        done
    }

    /// Whether something that is not to be touched lies in the folder that is the current entry.
    fn holds_excepted(&self) -> bool {
        self.except.iter().any(|path| path.starts_with(&self.at))
    }

    fn entry(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let Some((found, stat)) = look(source, name).map_err(|errno| self.failed(errno))? else {
            return Ok(());
        };
        let there = look(target, name).map_err(|errno| self.failed(errno))?;
        let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let folder_there = there.as_ref().is_some_and(|(_, stat)| is_folder(stat));
        if is_folder(&stat) && folder_there {
            let (found, there) = (self.opened(source, name)?, self.opened(target, name)?);
            return self.folder(found.as_fd(), there.as_fd());
        }
        if folder_there && self.holds_excepted() {
            return Err(Error::NotEmpty { path: self.shown.join(&self.at) });
        }
        self.remove_aside(target)?;
        if is_folder(&stat) {
            mkdirat(target, ASIDE, Mode::RWXU).map_err(|errno| self.failed(errno))?;
            let (found, made) = (self.opened(source, name)?, self.opened(target, ASIDE)?);
            self.folder(found.as_fd(), made.as_fd())?;
        } else if !self.file_aside(source, target, name, (&found, &stat), there.as_ref())? {
            return Ok(());
        }
        self.put_in_place(target, name, folder_there != is_folder(&stat) && there.is_some())
    }

    /// Makes a file, symlink or pipe aside. Whether it is needed: what is equal stays as it is.
    fn file_aside(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        (found, stat): (&OwnedFd, &Stat),
        there: Option<&(OwnedFd, Stat)>,
    ) -> Result<bool> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let linked = linkat(self.root, &first, target, ASIDE, AtFlags::empty());
                return linked.map(|()| true).map_err(|errno| self.failed(errno));
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.at.clone());
        }
        if let Some((there, stat_there)) = there
            && same(found, stat, there, stat_there).map_err(|error| self.failed(error))?
        {
            return Ok(false);
        }
        let (shown, at) = (self.shown, self.at.clone());
        Copy { root: target, links: HashMap::new(), origin: Origin::Operator, shown, at, depth: 0 }
            .entry_as(source, target, name, ASIDE)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let synced = openat(target, ASIDE, flags, Mode::empty()).and_then(fsync);
            synced.map_err(|errno| self.failed(errno))?;
        }
        Ok(true)
    }

    /// Gives what was made aside its name. A file and a folder cannot replace each other, so they change places.
    fn put_in_place(&self, target: BorrowedFd<'_>, name: &CStr, of_other_kind: bool) -> Result<()> {
        let put = match of_other_kind {
            true => renameat_with(target, ASIDE, target, name, RenameFlags::EXCHANGE),
            false => renameat(target, ASIDE, target, name),
        };
        put.map_err(|errno| self.failed(errno))?;
        // Two names of one file are not renamed over each other (rename(2)).
        self.remove_aside(target)
    }

    fn remove_aside(&self, target: BorrowedFd<'_>) -> Result<()> {
        remove_all(target, ASIDE).map_err(|error| self.failed(error))
    }

    fn remove(&mut self, target: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        if !self.holds_excepted() {
            return remove_all(target, name).map_err(|error| self.failed(error));
        }
        let folder = self.opened(target, name)?;
        for inside in names(folder.as_fd()).map_err(|error| self.failed(error))? {
            self.below(&inside, |this| this.remove(folder.as_fd(), &inside))?;
        }
        Ok(())
    }

    fn opened(&self, folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder, name, flags, Mode::empty()).map_err(|errno| self.failed(errno))
    }

    fn failed(&self, source: impl Into<io::Error>) -> Error {
        Error::io(format!("replace {}", self.shown.join(&self.at).display()), source)
    }
}

/// An entry of a folder, when there is one: not opened, and no symlink followed.
fn look(folder: BorrowedFd<'_>, name: &CStr) -> Result<Option<(OwnedFd, Stat)>, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(folder, name, flags, Mode::empty(), resolve) {
        Ok(found) => fstat(&found).map(|stat| Some((found, stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether two entries that are no folders are equal in kind, mode, owner, time of change and content.
fn same(one: &OwnedFd, stat: &Stat, two: &OwnedFd, stat_two: &Stat) -> io::Result<bool> {
    let facts = |stat: &Stat| {
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
    };
    // With another name in this tree or elsewhere, the other one would be changed with it one day.
    if facts(stat) != facts(stat_two) || stat_two.st_nlink != stat.st_nlink {
        return Ok(false);
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Ok(readlinkat(one, c"", Vec::new())? == readlinkat(two, c"", Vec::new())?),
        FileType::RegularFile => {
            let open =
                |found: &OwnedFd| reopen(found.as_fd(), OFlags::RDONLY | OFlags::CLOEXEC).map(File::from);
            same_content(open(one)?, open(two)?)
        }
        _ => Ok(true),
    }
}

fn same_content(one: File, two: File) -> io::Result<bool> {
    let (mut one, mut two) = (io::BufReader::new(one).bytes(), io::BufReader::new(two).bytes());
    loop {
        match (one.next().transpose()?, two.next().transpose()?) {
            (None, None) => return Ok(true),
            (a, b) if a != b => return Ok(false),
            _ => {}
        }
    }
}

/// Takes away the attributes that only the second has.
fn drop_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let list = |fd: BorrowedFd<'_>| -> Result<Vec<CString>, Errno> {
        let mut text = vec![0; ATTRIBUTE_BYTES_MAX];
        let length = match listxattr(proc_path(fd), &mut text[..]) {
            Err(Errno::NOTSUP) => 0,
            listed => listed?,
        };
        let names = text[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(names.filter_map(|name| CString::new(name).ok()).collect())
    };
    let wanted = list(source)?;
    for name in list(target)?.into_iter().filter(|name| !wanted.contains(name)) {
        if !ATTRIBUTES_NOT_COPIED.iter().any(|own| own.as_bytes() == name.as_bytes()) {
            removexattr(proc_path(target), &name)?;
        }
    }
    Ok(())
}

/// Removes an entry with all that is in it; it may be missing.
fn remove_all(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let path = Path::new(&proc_path(folder)).join(OsStr::from_bytes(name.to_bytes()));
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
