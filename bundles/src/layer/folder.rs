//! Makes files below one folder, from paths that cannot be trusted.
//! Knows nothing of archives or whiteouts' names.
//!
//! A path is only ever resolved by the kernel, below the folder, as if that were the root (openat2(2),
//! `RESOLVE_IN_ROOT`): symlinks that the layer itself has planted lead to where they will lead in the container.
//! The last name of a path is never followed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::bounds::Meter;
use crate::spill::Records;

/// Marks a folder in an overlay's layer that hides the folders of that name below it. Kernel documentation,
/// filesystems/overlayfs.rst, "whiteouts and opaque directories".
const OPAQUE: &str = "trusted.overlay.opaque";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// Renames anywhere on the host can make the kernel give up on a path with `..` in a symlink; it asks to try again.
const TRIES_MAX: usize = 100;

/// How many folders are kept open to be used again.
const LATEST_MAX: usize = 8;
const CREATE: &str = "create it";
const PUT_OFF: &str = "set the times of a folder";
/// The mode that most folders have.
const NEW_FOLDER: Mode = Mode::from_raw_mode(0o755);

/// A path below the folder, without `.` and `..`; empty for the folder itself.
pub(super) type Path<'a> = &'a [u8];

/// What was being done, and what the kernel said.
pub(super) type Failure = (String, io::Error);
type Done<T = ()> = Result<T, Failure>;

/// Who owns something, what may be done with it, and what else is known of it.
pub(super) struct Attributes<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) modified: (i64, u32),
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What a folder gets that the archive leaves out.
const LEFT_OUT: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755, modified: (0, 0), xattrs: &[] };

/// The folder, and what it still wants done when everything is in it.
pub(super) struct Folder<'a> {
    root: Rc<OwnedFd>,
    meter: &'a Meter,
    /// Where things go that something else takes the place of.
    trash: OwnedFd,
    thrown_away: u64,
    attributes_given: bool,
    /// The folders used last, the latest one last; archives list the files of a folder one after the other, or with
    /// those of its sub-folders between them.
    latest: VecDeque<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times and default ACLs, which have to wait until the folders are filled: files in them would change the ones
    /// and inherit the others. Each is a [`Pending`].
    pending: Records,
}

struct Pending<'a> {
    path: Path<'a>,
    /// The path may lead elsewhere by then. Numbers are not used anew, since nothing is deleted but files.
    inode: u64,
    modified: (i64, u32),
    /// Empty for none.
    default_acl: &'a [u8],
}

impl<'a> Pending<'a> {
    fn write(&self, into: &mut Records) -> io::Result<()> {
        let (seconds, nanoseconds) = self.modified;
        let (inode, seconds) = (self.inode.to_le_bytes(), seconds.to_le_bytes());
        let (nanoseconds, length) = (nanoseconds.to_le_bytes(), (self.path.len() as u64).to_le_bytes());
        into.push(&[&inode, &seconds, &nanoseconds, &length, self.path, self.default_acl]).map(|_| ())
    }

    fn read(record: &'a [u8]) -> Option<Self> {
        let (inode, rest) = record.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (path, default_acl) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let modified = (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanoseconds));
        Some(Self { path, inode: u64::from_le_bytes(*inode), modified, default_acl })
    }
}

impl<'a> Folder<'a> {
    /// Begins with a folder that looks the same wherever the layer is unpacked; most layers don't list their root.
    pub(super) fn new(root: OwnedFd, trash: OwnedFd, meter: &'a Meter) -> Done<Self> {
        let pending = Records::new(&trash).map_err(|error| (PUT_OFF.to_owned(), error))?;
        let (root, latest) = (Rc::new(root), VecDeque::new());
        let mut folder =
            Self { root, meter, trash, thrown_away: 0, attributes_given: false, latest, pending };
        folder.folder(b"", &LEFT_OUT)?;
        Ok(folder)
    }

    /// Makes a folder, or takes the one that is there.
    pub(super) fn folder(&mut self, path: Path, attributes: &Attributes) -> Done {
        let folder = match split(path) {
            None => Rc::clone(&self.root),
            Some((parent, name)) => {
                let parent = self.parent(parent)?;
                Rc::new(self.sub_folder(&parent, name)?)
            }
        };
        let there = look(&*folder)?;
        set_owner_and_mode(&folder, &there, attributes)?;
        let mut default_acl: &[u8] = &[];
        for (name, value) in attributes.xattrs {
            match name.as_slice() {
                DEFAULT_ACL => default_acl = value,
                name => set_xattr(&folder, name, value)?,
            }
        }
        self.put_off(path, &there, attributes.modified, default_acl)?;
        self.remember(path, folder);
        Ok(())
    }

    /// Makes an empty regular file to be written to; what it is by then.
    pub(super) fn file(&mut self, path: Path, attributes: &Attributes) -> Done<(File, Stat)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Mostly the right one then and there.
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        let file = self.make(path, |parent, name| rustix::fs::openat(parent, name, flags, mode))?;
        let there = look(&file)?;
        Ok((File::from(file), there))
    }

    /// Gives a file that has been written its attributes, in the one order that keeps them: chown(2) takes setuid
    /// bits and file capabilities away. `there` is what it was when it was made.
    pub(super) fn finish_file(file: &File, there: &Stat, attributes: &Attributes) -> Done {
        set_owner_and_mode(file, there, attributes)?;
        for (name, value) in attributes.xattrs {
            set_xattr(file, name, value)?;
        }
        rustix::fs::futimens(file, &times(attributes.modified)).map_err(failed("set its times"))
    }

    pub(super) fn symlink(&mut self, path: Path, target: &[u8], attributes: &Attributes) -> Done {
        self.make(path, |parent, name| rustix::fs::symlinkat(target, parent, name))?;
        self.finish_named(path, attributes, false)
    }

    /// Makes a device or a named pipe.
    pub(super) fn special(
        &mut self,
        path: Path,
        kind: FileType,
        device: u64,
        attributes: &Attributes,
    ) -> Done {
        self.make(path, |parent, name| rustix::fs::mknodat(parent, name, kind, Mode::empty(), device))?;
        self.finish_named(path, attributes, true)
    }

    /// Gives a file a further name; false if there is no such file in the folder.
    pub(super) fn hard_link(&mut self, path: Path, target: Path) -> Done<bool> {
        const DOING: &str = "make a hard link";
        let Some((target_parent, target_name)) = split(target) else { return Ok(false) };
        let target_parent = match self.open(target_parent) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(error) => return Err(failed(DOING)(error)),
        };
        let there = match rustix::fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if is_whiteout(&there) => return Ok(false),
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed(DOING)(error)),
        };
        let Some((parent, name)) = split(path) else { return Err(failed(DOING)(Errno::ISDIR)) };
        let parent = self.parent(parent)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It is the same file already, perhaps by the same name; making way would remove it.
            Ok(here) if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) => return Ok(true),
            _ => {}
        }
        self.make(path, |parent, name| {
            rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
        })?;
        Ok(true)
    }

    /// Hides what layers below have under this name. What this layer itself has there stays, since whiteouts are
    /// for lower layers only (image-spec, layer.md, "Whiteouts").
    pub(super) fn whiteout(&mut self, path: Path) -> Done {
        const DOING: &str = "hide what is below it";
        let Some((parent, name)) = split(path) else { return Err(failed(DOING)(Errno::INVAL)) };
        let parent = self.parent(parent)?;
        self.one_more()?;
        match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match open_folder(&parent, name) {
                Ok(folder) => self.make_opaque(&folder),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(failed(DOING)(error)),
            },
            Err(error) => Err(failed(DOING)(error)),
        }
    }

    /// Hides all that layers below have in this folder.
    pub(super) fn opaque(&mut self, path: Path) -> Done {
        let folder = self.parent(path)?;
        self.make_opaque(&folder)
    }

    /// Does what had to wait.
    pub(super) fn finish(&mut self) -> Done {
        // A root folder that the layer does not list has no time; this moment's would make each unpacking another one.
        rustix::fs::futimens(&self.root, &times((0, 0)))
            .map_err(failed("set the times of the root folder"))?;
        for record in self.pending.all() {
            let record = record.map_err(|error| (PUT_OFF.to_owned(), error))?;
            let Some(pending) = Pending::read(&record) else { return Err(failed(PUT_OFF)(Errno::INVAL)) };
            let folder = match self.open(pending.path) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(failed(PUT_OFF)(error)),
            };
            if look(&*folder)?.st_ino != pending.inode {
                // Something else has taken its place since.
                continue;
            }
            if !pending.default_acl.is_empty() {
                set_xattr(&folder, DEFAULT_ACL, pending.default_acl)?;
            }
            rustix::fs::futimens(&folder, &times(pending.modified)).map_err(failed(PUT_OFF))?;
        }
        Ok(())
    }

    /// Something is going to be given extended attributes.
    pub(super) fn give_attributes(&mut self) {
        self.attributes_given = true;
    }

    /// Whether anything was given some.
    pub(super) fn attributes_given(&self) -> bool {
        self.attributes_given
    }

    /// The folder, the trash, and whether that has got anything.
    pub(super) fn into_parts(self) -> (Rc<OwnedFd>, OwnedFd, bool) {
        (self.root, self.trash, self.thrown_away > 0)
    }

    fn put_off(&mut self, path: Path, there: &Stat, modified: (i64, u32), default_acl: &[u8]) -> Done {
        let pending = Pending { path, inode: there.st_ino, modified, default_acl };
        pending.write(&mut self.pending).map_err(|error| (PUT_OFF.to_owned(), error))
    }

    /// The folder will probably be used again.
    fn remember(&mut self, path: Path, folder: Rc<OwnedFd>) {
        // A path can mean another folder than it did.
        self.latest.retain(|(known, _)| known != path);
        if self.latest.len() == LATEST_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back((path.to_vec(), folder));
    }

    fn one_more(&self) -> Done {
        self.meter.one_more().map_err(|excess| (CREATE.to_owned(), io::Error::other(excess)))
    }

    fn make_opaque(&mut self, folder: &OwnedFd) -> Done {
        self.give_attributes();
        set_xattr(folder, OPAQUE.as_bytes(), b"y")
    }

    /// Makes something that must not exist yet, in the place of whatever is there.
    fn make<T>(&mut self, path: Path, make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>) -> Done<T> {
        let Some((parent, name)) = split(path) else { return Err(failed(CREATE)(Errno::ISDIR)) };
        let parent = self.parent(parent)?;
        self.one_more()?;
        match make(&parent, name) {
            Err(Errno::EXIST) => {
                self.make_way(&parent, name)?;
                make(&parent, name).map_err(failed(CREATE))
            }
            other => other.map_err(failed(CREATE)),
        }
    }

    fn make_way(&mut self, parent: &OwnedFd, name: &[u8]) -> Done {
        self.latest.clear();
        // Not deleted: the layer's tar has it too, and is to be made again from what is on disk.
        self.thrown_away += 1;
        let aside = self.thrown_away.to_string();
        rustix::fs::renameat(parent, name, &self.trash, aside).map_err(failed("replace what is there"))
    }

    /// The folder of that name, made if need be. One that takes the place of a whiteout does not let through what
    /// the whiteout hid.
    fn sub_folder(&mut self, parent: &OwnedFd, name: &[u8]) -> Done<OwnedFd> {
        const DOING: &str = "create a folder";
        match rustix::fs::mkdirat(parent, name, NEW_FOLDER) {
            Ok(()) => self.one_more()?,
            Err(Errno::EXIST) => {
                let there =
                    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(DOING))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    self.make_way(parent, name)?;
                    rustix::fs::mkdirat(parent, name, NEW_FOLDER).map_err(failed(DOING))?;
                }
                let folder = open_folder(parent, name).map_err(failed(DOING))?;
                if is_whiteout(&there) {
                    self.make_opaque(&folder)?;
                }
                return Ok(folder);
            }
            Err(error) => return Err(failed(DOING)(error)),
        }
        open_folder(parent, name).map_err(failed(DOING))
    }

    /// The folder that something is to be made in; archives may leave out folders.
    fn parent(&mut self, path: Path) -> Done<Rc<OwnedFd>> {
        const DOING: &str = "open its folder";
        if let Some((_, folder)) = self.latest.iter().rev().find(|(known, _)| known == path) {
            return Ok(Rc::clone(folder));
        }
        let mut missing = Vec::new();
        let mut there = path;
        let mut folder = loop {
            match self.open(there) {
                Ok(folder) => break folder,
                // ENOTDIR: perhaps only a whiteout is in its place.
                Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
                    let (above, name) = split(there).ok_or_else(|| failed(DOING)(error))?;
                    missing.push((there, name, error));
                    there = above;
                }
                Err(error) => return Err(failed(DOING)(error)),
            }
        };
        while let Some((path, name, error)) = missing.pop() {
            match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if !is_whiteout(&there) => return Err(failed(DOING)(error)),
                _ => {}
            }
            folder = Rc::new(self.sub_folder(&folder, name)?);
            let there = look(&*folder)?;
            set_owner_and_mode(&folder, &there, &LEFT_OUT)?;
            self.put_off(path, &there, LEFT_OUT.modified, &[])?;
        }
        self.remember(path, Rc::clone(&folder));
        Ok(folder)
    }

    fn open(&self, path: Path) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES_MAX {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.map(Rc::new),
            }
        }
        Err(Errno::AGAIN)
    }

    /// Gives attributes to what cannot be opened for it: symlinks, devices and pipes.
    fn finish_named(&mut self, path: Path, attributes: &Attributes, has_mode: bool) -> Done {
        let Some((parent, name)) = split(path) else { return Ok(()) };
        let parent = self.parent(parent)?;
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set its owner"))?;
        if has_mode {
            // It was made just now and is no symlink, so there is nothing to follow.
            let mode = Mode::from_raw_mode(attributes.mode);
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()).map_err(failed("set its mode"))?;
        }
        if !attributes.xattrs.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let itself = rustix::fs::openat(&parent, name, flags, Mode::empty());
            let itself = itself.map_err(failed("set its extended attributes"))?;
            // fsetxattr(2) does not take such a descriptor, but its link in /proc leads to the thing itself.
            let link = format!("/proc/self/fd/{}", itself.as_raw_fd());
            for (name, value) in attributes.xattrs {
                rustix::fs::setxattr(link.as_str(), name.as_slice(), value, XattrFlags::empty())
                    .map_err(failed(xattr_doing(name)))?;
            }
        }
        rustix::fs::utimensat(&parent, name, &times(attributes.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set its times"))
    }
}

/// The folder and the last name of a path; nothing for the root.
fn split(path: Path<'_>) -> Option<(Path<'_>, &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((&[], path)),
    }
}

fn open_folder(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn look(it: &impl AsFd) -> Done<Stat> {
    rustix::fs::fstat(it).map_err(failed("look at it"))
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Most of what is made has the right owner and the right mode from the beginning.
fn set_owner_and_mode(it: &impl AsFd, there: &Stat, attributes: &Attributes) -> Done {
    let is_owner = (there.st_uid, there.st_gid) == (attributes.uid, attributes.gid);
    if !is_owner {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(it, Some(uid), Some(gid)).map_err(failed("set its owner"))?;
    }
    // After the owner, whose change takes setuid and setgid away.
    if !is_owner || there.st_mode & 0o7777 != attributes.mode {
        rustix::fs::fchmod(it, Mode::from_raw_mode(attributes.mode)).map_err(failed("set its mode"))?;
    }
    Ok(())
}

fn set_xattr(it: &impl AsFd, name: &[u8], value: &[u8]) -> Done {
    rustix::fs::fsetxattr(it, name, value, XattrFlags::empty()).map_err(failed(xattr_doing(name)))
}

fn xattr_doing(name: &[u8]) -> String {
    format!("set its extended attribute {:?}", String::from_utf8_lossy(name))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn failed(doing: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let doing = doing.into();
    move |error| (doing, error.into())
}
