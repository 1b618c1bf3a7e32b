//! Turns the entries of a layer's tar stream into files, and its whiteouts into overlayfs's.
//! Does not know where the stream comes from, and resolves no path itself.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;

use super::Unpacked;
use super::bounds::{self, Excess, Meter};
use super::folder::{self, Attributes, Failure, Folder};
use super::frame::Recording;
use super::inventory::Contents;
use super::stream::Hopeless;
use crate::account::UIDS_OF_LISTENERS;
use crate::digest::{Digest, Hasher};
use crate::tape::{Entry, Fault, Kind, Segment, Skip, Tape};

/// Begins the names by which a layer says that something of the layers below is gone (image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Says that all of the folder in the layers below is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept in every branch and Docker took along when it ran on it. It means nothing any more.
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

/// Why a layer cannot be unpacked.
pub(super) enum Trouble {
    /// The entry is malformed or asks for what cannot be had.
    Entry { entry: String, reason: String },
    /// The kernel refused it.
    Refused { entry: String, doing: String, source: io::Error },
    /// The host cannot take it, whatever it is: the disk is full, for one.
    Host { entry: String, doing: String, source: io::Error },
    /// It has more files than are allowed.
    TooMany(Excess),
    /// The stream ends too early.
    Ends { entry: String },
}

impl Hopeless for Trouble {
    fn is_hopeless(&self) -> bool {
        matches!(self, Self::Host { .. } | Self::TooMany(_))
    }
}

/// Unpacks all entries into a folder. `trash` takes what they replace, `frame` what the tar has beside contents of files.
pub(super) fn entries<S: Skip>(
    source: S,
    into: OwnedFd,
    trash: OwnedFd,
    frame: &File,
    meter: &Meter,
) -> Result<Unpacked, Trouble> {
    let begun =
        Contents::new(&trash).and_then(|contents| Ok((contents, Recording::new(source, frame, &trash)?)));
    let (mut contents, recording) = begun.map_err(|error| not_kept(b"", error))?;
    let mut folder = Folder::new(into, trash, meter).map_err(|failure| from_failure(b"", failure))?;
    let mut tape = Tape::new(recording);
    let (mut entries, mut bytes) = (0, 0_u64);
    while let Some(entry) = tape.next().map_err(from_fault)? {
        entries += 1;
        // Holes cost nothing, so this is not bounded by the disk.
        bytes = bytes.saturating_add(one(&mut tape, &entry, &mut folder, &mut contents)?);
    }
    folder.finish().map_err(|failure| from_failure(b"", failure))?;
    let attributes_given = folder.attributes_given();
    let (root, trash, replaced) = folder.into_parts();
    let frame = tape.into_source().finish(replaced, &root, &trash).map_err(|error| not_kept(b"", error))?;
    Ok(Unpacked { bytes, entries, attributes_given, contents, frame })
}

/// Unpacks one entry; how many bytes its file has.
fn one<S: Skip>(
    tape: &mut Tape<Recording<S>>,
    entry: &Entry,
    folder: &mut Folder,
    contents: &mut Contents,
) -> Result<u64, Trouble> {
    let refuse = |reason: &str| Trouble::Entry { entry: shown(&entry.name), reason: reason.to_owned() };
    let failed = |failure: Failure| from_failure(&entry.name, failure);
    let path = clean(&entry.name).map_err(refuse)?;
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], &path[..]),
    };
    if parent.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(refuse("a folder's name begins with .wh., which is kept for whiteouts"));
    }
    if name.starts_with(WHITEOUT) {
        return whiteout(entry, parent, name, folder).map(|()| 0);
    }
    if UIDS_OF_LISTENERS.contains(&entry.uid) {
        return Err(refuse(&format!("its owner, {}, is of the uids that are listening sockets'", entry.uid)));
    }
    let kept: Vec<_> = entry.xattrs.iter().filter(|(name, _)| is_kept(name)).cloned().collect();
    let modified = (entry.modified_s, entry.modified_ns);
    let attributes = Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, modified, xattrs: &kept };
    if !kept.is_empty() {
        folder.give_attributes();
    }
    if path.is_empty() && entry.kind != Kind::Folder {
        return Err(refuse("it would take the place of the root folder"));
    }
    match &entry.kind {
        Kind::Folder => folder.folder(&path, &attributes).map_err(failed)?,
        Kind::File { real_size, sparse } => {
            let (file, there) = folder.file(&path, &attributes).map_err(failed)?;
            let target = Target { file: &file, path: &path, inode: there.st_ino };
            let digest = write(tape, &target, *real_size, sparse.as_deref(), entry)?;
            // The number may have been one's that this layer had before and replaced.
            contents.set(there.st_ino, digest).map_err(|error| not_kept(&entry.name, error))?;
            Folder::finish_file(&file, &there, &attributes).map_err(failed)?;
            return Ok(*real_size);
        }
        Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
            return Err(refuse("its target is no path"));
        }
        Kind::Symlink { target } => folder.symlink(&path, target, &attributes).map_err(failed)?,
        Kind::HardLink { target } => {
            let target = clean(target).map_err(refuse)?;
            if !folder.hard_link(&path, &target).map_err(failed)? {
                let reason = format!("it is a hard link to {:?}, which is not in the layer", shown(&target));
                return Err(refuse(&reason));
            }
        }
        Kind::CharacterDevice { major: 0, minor: 0 } => {
            return Err(refuse("a character device 0:0 would be a whiteout"));
        }
        Kind::CharacterDevice { major, minor } => {
            let device = rustix::fs::makedev(*major, *minor);
            folder.special(&path, FileType::CharacterDevice, device, &attributes).map_err(failed)?;
        }
        Kind::BlockDevice { major, minor } => {
            let device = rustix::fs::makedev(*major, *minor);
            folder.special(&path, FileType::BlockDevice, device, &attributes).map_err(failed)?;
        }
        Kind::Fifo => folder.special(&path, FileType::Fifo, 0, &attributes).map_err(failed)?,
    }
    Ok(0)
}

/// Does what a whiteout says.
fn whiteout(entry: &Entry, parent: &[u8], name: &[u8], folder: &mut Folder) -> Result<(), Trouble> {
    let refuse = |reason: &str| Trouble::Entry { entry: shown(&entry.name), reason: reason.to_owned() };
    let failed = |failure: Failure| from_failure(&entry.name, failure);
    if name == OPAQUE {
        return folder.opaque(parent).map_err(failed);
    }
    if AUFS.contains(&name) {
        return Ok(());
    }
    match &name[WHITEOUT.len()..] {
        b"" | b"." | b".." => Err(refuse("it is a whiteout of no name")),
        hidden if hidden.starts_with(WHITEOUT) => Err(refuse("it is a whiteout of a whiteout")),
        hidden if parent.is_empty() => folder.whiteout(hidden).map_err(failed),
        hidden => folder.whiteout(&[parent, b"/", hidden].concat()).map_err(failed),
    }
}

/// A file that is being written.
struct Target<'a> {
    file: &'a File,
    path: folder::Path<'a>,
    inode: u64,
}

/// Writes a file's data; where a sparse one has holes, nothing. The digest of the content, unless the file is sparse:
/// its holes may be longer than anything that can be hashed.
fn write<S: Skip>(
    tape: &mut Tape<Recording<S>>,
    target: &Target,
    real_size: u64,
    sparse: Option<&[Segment]>,
    entry: &Entry,
) -> Result<Option<Digest>, Trouble> {
    let failed = |error: io::Error| from_failure(&entry.name, ("write it".to_owned(), error));
    let whole = [Segment { offset: 0, bytes: real_size }];
    let mut hasher = Hasher::default();
    let file = target.file;
    for segment in sparse.unwrap_or(&whole) {
        tape.source_mut()
            .goes_into(target.path, target.inode, segment.offset, segment.bytes)
            .map_err(|error| not_kept(&entry.name, error))?;
        let mut done = 0;
        while done < segment.bytes {
            let part = tape.data().map_err(from_fault)?;
            let most = usize::try_from(segment.bytes - done).unwrap_or(usize::MAX);
            let count = part.len().min(most);
            if count == 0 {
                return Err(Trouble::Ends { entry: shown(&entry.name) });
            }
            file.write_all_at(&part[..count], segment.offset + done).map_err(failed)?;
            if sparse.is_none() {
                hasher.take(&part[..count]);
            }
            tape.consume(count);
            done += count as u64;
        }
    }
    if sparse.is_some() {
        // A hole at the end is made by nothing else.
        file.set_len(real_size).map_err(failed)?;
        return Ok(None);
    }
    Ok(Some(hasher.finish()))
}

/// A path without leading, doubled and trailing slashes, and without `.`; one with `..` is nobody's honest path.
fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.is_empty() {
        return Err("it has no name");
    }
    if name.contains(&0) {
        return Err("there is a NUL in its name");
    }
    let parts = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let mut path = Vec::with_capacity(name.len());
    for part in parts {
        if part == b".." {
            return Err("there is a .. in its path");
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// An overlay's own marks would make the layer mean something else, and a label of SELinux belongs to the host on
/// which the image was built; Docker, buildah and umoci leave these out too.
fn is_kept(xattr: &[u8]) -> bool {
    !xattr.starts_with(b"trusted.overlay.") && xattr != b"security.selinux"
}

fn from_fault(fault: Fault) -> Trouble {
    match fault {
        // The stream has no errors of its own; the thread that reads the blob reports them.
        Fault::Io(source) => {
            Trouble::Host { entry: String::new(), doing: "read the layer".to_owned(), source }
        }
        Fault::Ends { entry } => Trouble::Ends { entry: shown(&entry) },
        Fault::Malformed { entry, reason } => Trouble::Entry { entry: shown(&entry), reason },
    }
}

/// What has to be known later could not be written down.
fn not_kept(name: &[u8], source: io::Error) -> Trouble {
    Trouble::Host { entry: shown(name), doing: "keep what its tar consists of".to_owned(), source }
}

fn from_failure(name: &[u8], (doing, source): Failure) -> Trouble {
    if let Some(excess) = bounds::excess(&source) {
        return Trouble::TooMany(excess);
    }
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let is_host = matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | OutOfMemory)
        || matches!(
            rustix::io::Errno::from_io_error(&source),
            Some(rustix::io::Errno::IO | rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
        );
    let entry = shown(name);
    match is_host {
        true => Trouble::Host { entry, doing, source },
        false => Trouble::Refused { entry, doing, source },
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
