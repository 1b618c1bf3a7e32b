//! Copies a folder whole: bytes, modes, owners, times, extended attributes, symlinks as such, hard links, pipes.
//! It does not know what the files mean.
//!
//! The source may change or be malicious while it is read: each entry is opened once, below its folder's descriptor
//! and without following symlinks, and everything after that happens to what was opened. The copy is made aside, in
//! `.NAME.opsrun-copy` next to its place, brought to disk and renamed; so it appears whole or not at all, and what a
//! crash left aside is removed by the next copy to the same place.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat,
    Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, flock, fstat, fsync, getxattr, linkat,
    listxattr, mkdirat, mknodat, openat, openat2, readlinkat, renameat_with, setxattr, symlinkat, syncfs,
    utimensat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::rootfs::{proc_path, reopen};

mod equal;

pub use equal::make_equal;

/// How deep folders may lie in each other. Each level holds two descriptors open, of the usual 1024.
const DEPTH_MAX: usize = 256;

/// The kernel's own limit for the list of attribute names and for a value, bytes (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const ATTRIBUTE_BYTES_MAX: usize = 65536;

/// Attributes that belong to the file system or to the host's policy and not to the file: a copy gets its own.
const ATTRIBUTES_NOT_COPIED: [&str; 6] = [
    "security.selinux",
    "security.SMACK64",
    "security.ima",
    "security.evm",
    "system.nfs4_acl",
    "system.cifs_acl",
];

/// Copies the folder `from` to `to`, which must not exist or be an empty folder, in an existing one.
///
/// # Errors
/// [`Error::NotEmpty`] when there is something already, [`Error::CopyUnderWay`] when another process is just copying to
/// the same place, [`Error::DeviceInFolder`], [`Error::TooDeep`], and [`Error::Io`] or [`Error::DiskFull`], which
/// leave nothing behind.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = openat(CWD, from, flags, Mode::empty())
        .map_err(|errno| Error::io(format!("open the folder {}", from.display()), errno))?;
    copy_opened(source.as_fd(), from, to, Origin::Operator)
}

/// Whose the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The operator's own: copied as they are.
    Operator,
    /// An image's: nothing in the copy may give privileges to who runs it on the host.
    Image,
}

/// Copies an open folder to `to`; `shown` is its name in errors.
pub(crate) fn copy_opened(source: BorrowedFd<'_>, shown: &Path, to: &Path, origin: Origin) -> Result<()> {
    let aside = Aside::claim(to)?;
    let copied =
        copy_content(source, shown, aside.folder.as_fd(), origin).and_then(|()| aside.put_in_place());
    if copied.is_err() {
        aside.discard();
    }
    copied
}

fn copy_content(source: BorrowedFd<'_>, shown: &Path, target: BorrowedFd<'_>, origin: Origin) -> Result<()> {
    let mut copy = Copy { root: target, links: HashMap::new(), origin, shown, at: PathBuf::new(), depth: 0 };
    copy.folder(source, target)?;
    let failed = |errno: Errno| Error::io(format!("copy the attributes of {}", shown.display()), errno);
    let stat = fstat(source).map_err(failed)?;
    dress(source, target, &stat, origin).map_err(failed)?;
    syncfs(target).map_err(|errno| Error::io("bring the copy to disk", errno))
}

/// The folder in which a copy is made before it is put in its place.
struct Aside<'a> {
    to: &'a Path,
    parent: OwnedFd,
    name: &'a OsStr,
    aside: CString,
    folder: OwnedFd,
}

impl<'a> Aside<'a> {
    /// Makes the folder, empty and locked. The lock tells a crashed copy's remains from a copy that is being made.
    fn claim(to: &'a Path) -> Result<Self> {
        let failed = |errno: Errno| Error::io(format!("make room for a copy at {}", to.display()), errno);
        let name = to.file_name().ok_or(Errno::INVAL).map_err(failed)?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, parent, flags, Mode::empty()).map_err(failed)?;
        let aside = CString::new([b".", name.as_bytes(), b".opsrun-copy"].concat())
            .map_err(|_| failed(Errno::INVAL))?;
        loop {
            match mkdirat(&parent, &aside, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let folder = match openat(&parent, &aside, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::CopyUnderWay { folder: to.to_owned() }),
                Err(errno) => return Err(failed(errno)),
            }
            // Whoever held the lock before may have renamed or removed the folder meanwhile.
            let locked = fstat(&folder).map_err(failed)?;
            match rustix::fs::statat(&parent, &aside, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => {}
                _ => continue,
            }
            let claimed = Self { to, parent, name, aside, folder };
            claimed.empty().map_err(|error| {
                Error::io(format!("remove what an interrupted copy left at {}", to.display()), error)
            })?;
            return Ok(claimed);
        }
    }

    fn empty(&self) -> io::Result<()> {
        for name in names(self.folder.as_fd())? {
            let path = Path::new(&proc_path(self.folder.as_fd())).join(OsStr::from_bytes(name.to_bytes()));
            if path.symlink_metadata()?.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn put_in_place(&self) -> Result<()> {
        // A plain rename also replaces an empty folder, which an operator or a package may have made.
        match renameat_with(&self.parent, &self.aside, &self.parent, self.name, RenameFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                return Err(Error::NotEmpty { path: self.to.to_owned() });
            }
            Err(errno) => {
                return Err(Error::io(format!("put the copy in place at {}", self.to.display()), errno));
            }
        }
        fsync(&self.parent).map_err(|errno| Error::io(format!("bring {} to disk", self.to.display()), errno))
    }

    /// The best that can be done: the error that led here is the one to report, and the next copy cleans up too.
    fn discard(&self) {
        let _ = self.empty();
        let _ = rustix::fs::unlinkat(&self.parent, &self.aside, AtFlags::REMOVEDIR);
    }
}

/// A copy being made.
struct Copy<'a> {
    root: BorrowedFd<'a>,
    /// Where a file with several names was copied to, relative to the root.
    links: HashMap<(u64, u64), PathBuf>,
    origin: Origin,
    shown: &'a Path,
    /// The entry that is being copied, relative to the root.
    at: PathBuf,
    depth: usize,
}

impl Copy<'_> {
    fn folder(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
        if self.depth > DEPTH_MAX {
            return Err(Error::TooDeep { path: self.shown.to_owned(), depth_max: DEPTH_MAX });
        }
        self.depth += 1;
        for name in names(source).map_err(|error| self.failed(error))? {
            self.at.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(source, target, &name)?;
            self.at.pop();
        }
        self.depth -= 1;
        Ok(())
    }

    fn entry(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.entry_as(source, target, name, name)
    }

    /// Copies the entry `from` to one that is called `name`.
    fn entry_as(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        from: &CStr,
        name: &CStr,
    ) -> Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat2(source, from, flags, Mode::empty(), resolve) {
            Ok(found) => found,
            // Removed since it was listed: so it is no part of what is copied.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.failed(errno)),
        };
        let stat = fstat(&found).map_err(|errno| self.failed(errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.sub_folder(&found, target, name)?,
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                        return linkat(self.root, first, target, name, AtFlags::empty())
                            .map_err(|errno| self.failed(errno));
                    }
                    self.links.insert((stat.st_dev, stat.st_ino), self.at.clone());
                }
                self.file(&found, target, name)?;
            }
            FileType::Symlink => readlinkat(&found, c"", Vec::new())
                .and_then(|leads_to| symlinkat(leads_to, target, name))
                .map_err(|errno| self.failed(errno))?,
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(target, name, kind, Mode::RUSR, 0).map_err(|errno| self.failed(errno))?;
            }
            _ => return Err(Error::DeviceInFolder { path: self.shown.join(&self.at) }),
        }
        let copy = openat(target, name, flags, Mode::empty()).map_err(|errno| self.failed(errno))?;
        dress(found.as_fd(), copy.as_fd(), &stat, self.origin).map_err(|errno| self.failed(errno))
    }

    fn sub_folder(&mut self, found: &OwnedFd, target: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = mkdirat(target, name, Mode::RWXU)
            .and_then(|()| openat(target, name, flags, Mode::empty()))
            .and_then(|below| Ok((reopen(found.as_fd(), flags - OFlags::NOFOLLOW)?, below)));
        let (source, below) = opened.map_err(|errno| self.failed(errno))?;
        self.folder(source.as_fd(), below.as_fd())
    }

    fn file(&self, found: &OwnedFd, target: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = reopen(found.as_fd(), OFlags::RDONLY | OFlags::CLOEXEC)
            .and_then(|source| Ok((source, openat(target, name, flags, Mode::RUSR | Mode::WUSR)?)));
        let (source, copy) = opened.map_err(|errno| self.failed(errno))?;
        io::copy(&mut File::from(source), &mut File::from(copy)).map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn failed(&self, source: impl Into<io::Error>) -> Error {
        Error::io(format!("copy {}", self.shown.join(&self.at).display()), source)
    }
}

/// The entries of a folder, sorted, so that a copy is made in the same order each time.
fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Gives a copy the owner, attributes, mode and times of what it was copied from.
///
/// The order matters: a change of owner takes set-user-id bits and file capabilities away, a list of access rights
/// (an attribute) alters the mode, and everything alters the time.
fn dress(found: BorrowedFd<'_>, copy: BorrowedFd<'_>, stat: &Stat, origin: Origin) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(copy, c"", Some(owner), Some(group), AtFlags::EMPTY_PATH)?;
    copy_attributes(found, copy, origin)?;
    let path = proc_path(copy);
    if kind != FileType::Symlink {
        let mut mode = stat.st_mode & 0o7777;
        if origin == Origin::Image && kind == FileType::RegularFile {
            mode &= 0o1777;
        }
        chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    utimensat(CWD, &path, &times, AtFlags::empty())
}

/// Copies the extended attributes, between descriptors that may be `O_PATH` ones.
pub(crate) fn copy_attributes(
    found: BorrowedFd<'_>,
    copy: BorrowedFd<'_>,
    origin: Origin,
) -> Result<(), Errno> {
    let (found, copy) = (proc_path(found), proc_path(copy));
    let mut list = vec![0; ATTRIBUTE_BYTES_MAX];
    let length = match listxattr(&found, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut value = Vec::new();
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name);
        let dangerous = origin == Origin::Image && name == "security.capability";
        // overlayfs's own, which would make it believe things of this folder if it ever became a layer.
        let overlay = name.starts_with("trusted.overlay.");
        if dangerous || overlay || ATTRIBUTES_NOT_COPIED.contains(&name.as_ref()) {
            continue;
        }
        value.resize(ATTRIBUTE_BYTES_MAX, 0);
        match getxattr(&found, name.as_ref(), &mut value[..]) {
            Ok(length) => setxattr(&copy, name.as_ref(), &value[..length], XattrFlags::empty())?,
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
