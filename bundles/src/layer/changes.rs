//! Writes what a container has changed, the upper folder of its overlay, as a layer's tar: whiteouts and opaque folders in
//! the form of the image specification (layer.md). Knows neither images' records nor containers.
//!
//! The same changes always give the same tar: names are sorted by their bytes, and nothing but what is on disk goes in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::inventory::{self, Place, Seen};
use crate::error::{Error, Result};
use crate::rootfs::RootView;
use crate::tape::Kind;
use crate::tape::write::{END, Head, padding};

/// Linux's limit for a list of names and for a value, bytes (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const ATTRIBUTE_BYTES_MAX: usize = 65536;
const PART_BYTES: usize = 256 << 10;

/// What has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Entries of the tar.
    pub(crate) entries: u64,
    /// Sockets, which no tar can hold.
    pub(crate) sockets: u64,
}

/// Writes the changes in `upper` over `base`. `mount_points` are places of the container where something is mounted:
/// what had to be made for that, in a place where the image has nothing, is no change. `aside` is a folder for what would be
/// too much for memory.
pub(crate) fn write(
    upper: &OwnedFd,
    base: &RootView,
    mount_points: &[PathBuf],
    aside: impl AsFd,
    out: &mut dyn Write,
) -> Result<Written> {
    let unread = |error: io::Error| Error::io("read what the container has changed", error);
    let left_out = made_for_mounts(upper, base, mount_points).map_err(unread)?;
    let again = rustix::fs::openat(upper, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut tar = Tar { out, base, written: Written::default() };
    let mut refused = None;
    let walked = inventory::walk(again.map_err(|error| unread(error.into()))?, aside, |place, it| {
        if left_out.contains(&it.path) {
            return Ok(());
        }
        match tar.one(place, &it) {
            Ok(()) => Ok(()),
            Err(Trouble::Io(error)) => Err(error),
            Err(Trouble::Refused(reason)) => {
                let path = Path::new("/").join(std::ffi::OsStr::from_bytes(&it.path));
                refused = Some(Error::NotForLayer { path, reason });
                Err(io::ErrorKind::Other.into())
            }
        }
    });
    match (walked, refused) {
        (_, Some(error)) => return Err(error),
        (walked, None) => walked.map_err(unread)?,
    }
    tar.out.write_all(&END).map_err(unread)?;
    Ok(tar.written)
}

enum Trouble {
    Io(io::Error),
    /// No layer can say this.
    Refused(&'static str),
}

impl<E: Into<io::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

struct Tar<'a> {
    out: &'a mut dyn Write,
    base: &'a RootView,
    written: Written,
}

impl Tar<'_> {
    fn one(&mut self, place: &Place, it: &Seen) -> Result<(), Trouble> {
        let file_type = FileType::from_raw_mode(it.mode);
        if file_type == FileType::CharacterDevice && it.device == 0 {
            return self.whiteout(&it.path);
        }
        if file_type == FileType::Socket {
            self.written.sockets += 1;
            // At least it hides what it took the place of.
            return if in_base(self.base, &it.path)?.is_some() { self.whiteout(&it.path) } else { Ok(()) };
        }
        if split(&it.path).1.starts_with(b".wh.") {
            return Err(Trouble::Refused("a name that begins with .wh. means that something is gone"));
        }
        let (xattrs, overlay) = attributes(place)?;
        if overlay.redirects {
            return Err(Trouble::Refused("the overlay says that its content lies elsewhere"));
        }
        let kind = match file_type {
            _ if it.same_as.is_some() => Kind::HardLink { target: it.same_as.clone().unwrap_or_default() },
            FileType::Directory => Kind::Folder,
            FileType::RegularFile => Kind::File { real_size: it.bytes, sparse: None },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(place.folder, place.name, Vec::new())?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::Fifo => Kind::Fifo,
            other => {
                let (major, minor) = (rustix::fs::major(it.device), rustix::fs::minor(it.device));
                match other {
                    FileType::CharacterDevice => Kind::CharacterDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                }
            }
        };
        let name = match (&kind, it.path.as_slice()) {
            (_, b"") => b"./".to_vec(),
            (Kind::Folder, path) => [path, b"/"].concat(),
            (_, path) => path.to_vec(),
        };
        let (uid, gid, modified) = (it.uid, it.gid, it.modified);
        let head =
            Head { name: &name, kind: &kind, mode: it.mode & 0o7777, uid, gid, modified, xattrs: &xattrs };
        self.out.write_all(&head.blocks())?;
        self.written.entries += 1;
        match kind {
            Kind::File { real_size, .. } => self.content(place, real_size),
            // Of a new folder the overlay says so too, to be faster; there is nothing to hide then.
            Kind::Folder if overlay.is_opaque && is_folder(in_base(self.base, &it.path)?) => {
                self.marker(&[name.strip_prefix(b"./").unwrap_or(&name), b".wh..wh..opq"].concat())
            }
            _ => Ok(()),
        }
    }

    fn content(&mut self, place: &Place, bytes: u64) -> Result<(), Trouble> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(place.folder, place.name, flags, Mode::empty())?);
        let mut source = file.take(bytes);
        let mut part = vec![0; PART_BYTES.min(usize::try_from(bytes).unwrap_or(PART_BYTES))];
        let mut left = bytes;
        while left > 0 {
            match source.read(&mut part) {
                Ok(0) => return Err(Trouble::Refused("it became shorter while it was read")),
                Ok(count) => {
                    self.out.write_all(&part[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.out.write_all(&vec![0; padding(bytes)])?)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Trouble> {
        let (folder, name) = split(path);
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        self.marker(&[folder, slash, b".wh.", name].concat())
    }

    /// An empty file whose name is all that counts.
    fn marker(&mut self, name: &[u8]) -> Result<(), Trouble> {
        let kind = Kind::File { real_size: 0, sparse: None };
        self.out.write_all(&Head { mode: 0, ..Head::blob(name, &kind) }.blocks())?;
        self.written.entries += 1;
        Ok(())
    }
}

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What the overlay says of something by its own extended attributes.
#[derive(Default)]
struct Overlay {
    is_opaque: bool,
    redirects: bool,
}

/// The extended attributes that belong to a layer, sorted, and what the overlay's own say.
fn attributes(place: &Place) -> Result<(Attributes, Overlay), Trouble> {
    // fgetxattr(2) needs an open file, which a symlink or a device cannot be; this leads to each.
    let link =
        [format!("/proc/self/fd/{}/", place.folder.as_raw_fd()).as_bytes(), place.name.to_bytes()].concat();
    let mut listed = vec![0; ATTRIBUTE_BYTES_MAX];
    let length = match rustix::fs::llistxattr(link.as_slice(), &mut listed[..]) {
        Err(Errno::NOTSUP) => return Ok((Vec::new(), Overlay::default())),
        length => length?,
    };
    let mut names: Vec<&[u8]> = listed[..length].split(|&byte| byte == 0).collect();
    names.retain(|name| !name.is_empty() && !inventory::ATTRIBUTES_OF_HOST.contains(name));
    names.sort_unstable();
    let (mut found, mut overlay) = (Vec::new(), Overlay::default());
    let mut value = vec![0; if names.is_empty() { 0 } else { ATTRIBUTE_BYTES_MAX }];
    for name in names {
        let length = rustix::fs::lgetxattr(link.as_slice(), name, &mut value[..])?;
        let value = &value[..length];
        match name.strip_prefix(b"trusted.overlay.") {
            None => found.push((name.to_vec(), value.to_vec())),
            Some(b"opaque") => overlay.is_opaque = value == b"y",
            Some(b"redirect" | b"metacopy") => overlay.redirects = true,
            // Where it was copied from, and whether something below it was.
            Some(_) => {}
        }
    }
    Ok((found, overlay))
}

/// The paths in `upper` that are there only because something had to be mounted on them.
fn made_for_mounts(
    upper: &OwnedFd,
    base: &RootView,
    mount_points: &[PathBuf],
) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut made = BTreeSet::new();
    for point in mount_points {
        let path = point.strip_prefix("/").unwrap_or(point).as_os_str().as_bytes();
        if path.is_empty() || in_base(base, path)?.is_some() {
            continue;
        }
        let Some((_, stat)) = in_upper(upper, path)? else { continue };
        let is_made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => stat.st_size == 0 && stat.st_nlink == 1,
            FileType::Directory => names_in(upper, path)?.is_empty(),
            _ => false,
        };
        if is_made {
            made.insert(path.to_vec());
        }
    }
    // The folders that lead there, unless something else was done in or to them.
    for point in made.clone() {
        let mut path = point.as_slice();
        while let (folder @ [_, ..], _) = split(path) {
            let names = names_in(upper, folder)?;
            let Some((_, stat)) = in_upper(upper, folder)? else { break };
            let is_unchanged = in_base(base, folder)?.is_none_or(|before| {
                (before.st_mode, before.st_uid, before.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
            });
            let is_way = names.iter().all(|name| made.contains(&[folder, b"/", name.as_slice()].concat()));
            if !(is_way && is_unchanged) {
                break;
            }
            made.insert(folder.to_vec());
            path = folder;
        }
    }
    Ok(made)
}

/// What is at a path of the image, if anything; a symlink itself.
fn in_base(base: &RootView, path: &[u8]) -> io::Result<Option<Stat>> {
    Ok(look(base, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?.map(|(_, stat)| stat))
}

fn in_upper(upper: &OwnedFd, path: &[u8]) -> io::Result<Option<(OwnedFd, Stat)>> {
    look(upper, path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn look(root: &impl AsFd, path: &[u8], resolve: ResolveFlags) -> io::Result<Option<(OwnedFd, Stat)>> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                return Ok(Some((found, stat)));
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            // A rename elsewhere disturbed it.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_folder(stat: Option<Stat>) -> bool {
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn names_in(upper: &OwnedFd, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let Some((folder, _)) = in_upper(upper, path)? else { return Ok(Vec::new()) };
    let opened = rustix::fs::openat(&folder, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&opened)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// The folder and the last name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}
