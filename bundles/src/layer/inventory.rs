//! What lies in a layer's folder, file by file: written down when the layer is unpacked, so that it can be told later
//! what has changed since. Knows nothing of archives or the store.
//!
//! It is a text, compressed by gzip; `zcat` shows it. After a line with the version comes one line for each file, in
//! the order of a walk that takes each folder's names sorted by their bytes:
//! `MODE UID GID BYTES SECONDS.NANOSECONDS DEVICE CONTENT ATTRIBUTES PATH SAME`, the mode octal and with the type, the
//! content and the extended attributes by their sha256 or `-`, the path and the first name of the same file (hard links)
//! with everything but plain ASCII as `%XX`. The content of a sparse file has `s` in front: it is the digest of those
//! blocks of 4 KiB that are not all zeros, each after its place, since holes may be longer than anything can be hashed.
//!
//! What is written down is what the file system says after everything is unpacked, not what the archive said: entries can
//! replace each other, and lead through symlinks. Only contents are taken from the stream, by inode, so that nothing has
//! to be read again.

use std::cmp::Ordering;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::levels::{Levels, Next};
use crate::digest::{Digest, Hasher, Hashing};
use crate::spill::{ByNumber, Records};

/// The first line.
const HEAD: &str = "opsrun files 1";
/// Deeper than any tool gets.
const PATH_BYTES_MAX: usize = 128 << 10;
/// No line is longer: two paths, each byte of which can take three.
const LINE_BYTES_MAX: u64 = 1 << 20;
const PART_BYTES: usize = 256 << 10;
const BLOCK_BYTES: usize = 4096;
/// Linux's limit for a list of names and for a value, bytes (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const ATTRIBUTE_BYTES_MAX: usize = 65536;
/// The file system's or the host's policy's, not the layer's.
pub(crate) const ATTRIBUTES_OF_HOST: [&[u8]; 4] =
    [b"security.selinux", b"security.SMACK64", b"security.ima", b"security.evm"];

/// The digests of files' contents by their inodes.
pub(crate) struct Contents(ByNumber<32>);

impl Contents {
    /// Begins with none; a folder in which to keep them, should they be many.
    pub(crate) fn new(aside: impl AsFd) -> io::Result<Self> {
        ByNumber::new(aside).map(Self)
    }

    /// Gives a file another digest, or none.
    pub(crate) fn set(&mut self, inode: u64, digest: Option<Digest>) -> io::Result<()> {
        self.0.set(inode, digest.map(|digest| digest.bytes()))
    }

    fn get(&mut self, inode: u64) -> io::Result<Option<Digest>> {
        Ok(self.0.get(inode)?.map(Digest::from_bytes))
    }
}

/// All that is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Relative to the layer's root; empty for that itself.
    pub(crate) path: Vec<u8>,
    /// Type and permissions, as `st_mode`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The length of a file; 0 for folders, whose length is the file system's business.
    pub(crate) bytes: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) device: u64,
    /// A file's or a symlink's; nothing for what is [`Seen::same_as`] another.
    pub(crate) content: Option<Content>,
    attributes: Option<Digest>,
    /// The first name of the same file, if this is not it.
    pub(crate) same_as: Option<Vec<u8>>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The digest of its bytes, or of a symlink's target.
    Plain(Digest),
    /// The digest of its blocks that are not all zeros, each after its place in bytes (little endian, 64 bits).
    Sparse(Digest),
}

/// Where something was met: its folder, its name in there, and its inode.
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a OwnedFd,
    pub(crate) name: &'a CStr,
    pub(crate) inode: u64,
}

/// Goes through a folder in the order of the inventory. What is met has no content yet if it is a regular file. `aside`
/// is a folder for what would be too much for memory.
pub(crate) fn walk(
    root: OwnedFd,
    aside: impl AsFd,
    each: impl FnMut(&Place, Seen) -> io::Result<()>,
) -> io::Result<()> {
    walk_where(root, aside, true, each)
}

/// As [`walk`]. Where nothing has been given extended attributes, asking for them costs more than all the rest; the file
/// system may have given everything some, but then it has given the root some, too.
fn walk_where(
    root: OwnedFd,
    aside: impl AsFd,
    attributes_given: bool,
    mut each: impl FnMut(&Place, Seen) -> io::Result<()>,
) -> io::Result<()> {
    let mut first_names = FirstNames::new(aside)?;
    let mut path = Vec::new();
    let stat = rustix::fs::fstat(&root)?;
    let of_root = attributes(
        |list| rustix::fs::flistxattr(&root, list),
        |name, value| rustix::fs::fgetxattr(&root, name, value),
    )?;
    let are_attributes = attributes_given || of_root.is_some();
    each(&Place { folder: &root, name: c".", inode: stat.st_ino }, seen(&path, &stat, of_root))?;
    // One descriptor at a time: layers may be nested deeper than there are descriptors.
    let mut folder = root;
    let mut levels = Levels::default();
    levels.down(&folder, stat.st_ino, &path)?;
    loop {
        let name = match levels.next(&folder, &path)? {
            Next::Name { name, path_bytes } => {
                path.truncate(path_bytes);
                name
            }
            Next::Up { inode } => {
                folder = above_of(&folder, inode)?;
                continue;
            }
            Next::Done => return Ok(()),
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        if path.len() > PATH_BYTES_MAX {
            return Err(io::Error::other("folders are nested too deeply: a path has more than 128 KiB"));
        }
        let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let of_it = if are_attributes { attributes_at(&folder, &name)? } else { None };
        let mut it = seen(&path, &stat, of_it);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            it.same_as = first_names.of(stat.st_ino, &path)?;
        }
        if it.same_as.is_none() && kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(&folder, &name, Vec::new())?;
            it.content = Some(Content::Plain(Digest::of(target.as_bytes())));
        }
        each(&Place { folder: &folder, name: &name, inode: stat.st_ino }, it)?;
        if kind == FileType::Directory {
            folder = open_folder(&folder, &name)?;
            levels.down(&folder, stat.st_ino, &path)?;
        }
    }
}

/// The first name of each file that has several.
struct FirstNames {
    places: ByNumber<8>,
    names: Records,
}

impl FirstNames {
    fn new(aside: impl AsFd) -> io::Result<Self> {
        Ok(Self { places: ByNumber::new(&aside)?, names: Records::new(&aside)? })
    }

    /// The first name of a file, if this is not it.
    fn of(&mut self, inode: u64, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if let Some(place) = self.places.get(inode)? {
            // Counted from one: zero means none.
            return self.names.get(u64::from_le_bytes(place) - 1).map(Some);
        }
        let place = self.names.push(&[path])? + 1;
        self.places.set(inode, Some(place.to_le_bytes()))?;
        Ok(None)
    }
}

/// Writes down what lies in a folder; the digest of the inventory. What is not among the contents is sparse, and read.
/// `aside` is a folder for what would be too much for memory; `attributes_given` whether anything in there was given
/// extended attributes.
pub(crate) fn write(
    root: OwnedFd,
    aside: impl AsFd,
    contents: &mut Contents,
    attributes_given: bool,
    into: &File,
) -> io::Result<Digest> {
    // As fast as can be: the digests, which are most of it, cannot be made smaller anyway.
    let out = GzEncoder::new(Hashing::new(into), flate2::Compression::fast());
    // The encoder would write something at each line.
    let mut out = BufWriter::with_capacity(PART_BYTES, out);
    writeln!(out, "{HEAD}")?;
    let mut text = Vec::new();
    walk_where(root, aside, attributes_given, |place, mut it| {
        if it.is_file() && it.same_as.is_none() {
            it.content = Some(match contents.get(place.inode)? {
                Some(digest) => Content::Plain(digest),
                None => read_sparse(place)?,
            });
        }
        text.clear();
        line(&it, &mut text);
        out.write_all(&text)
    })?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(out.finish()?.finish().0)
}

/// Reads a file's content.
pub(crate) fn read_plain(place: &Place) -> io::Result<Content> {
    let mut file = open_file(place)?;
    let mut hasher = Hasher::default();
    let mut part = vec![0; PART_BYTES];
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(Content::Plain(hasher.finish())),
            Ok(count) => hasher.take(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the content of a sparse file, leaving out its holes.
pub(crate) fn read_sparse(place: &Place) -> io::Result<Content> {
    let file = open_file(place)?;
    let mut hasher = Hasher::default();
    let mut block = [0; BLOCK_BYTES];
    let mut at = 0;
    loop {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(Content::Sparse(hasher.finish())),
            Err(error) => return Err(error.into()),
        };
        // Where data begins is up to the file system, so all that counts is what is not zero.
        at = data - data % BLOCK_BYTES as u64;
        let end = rustix::fs::seek(&file, SeekFrom::Hole(data))?;
        while at < end {
            let count = read_block(&file, &mut block, at)?;
            if block[..count].iter().any(|&byte| byte != 0) {
                hasher.take(&at.to_le_bytes());
                hasher.take(&block[..count]);
            }
            at += BLOCK_BYTES as u64;
        }
    }
}

fn open_file(place: &Place) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(place.folder, place.name, flags, Mode::empty())?))
}

/// A whole block, but for the last one of the file.
fn read_block(file: &File, block: &mut [u8; BLOCK_BYTES], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < BLOCK_BYTES {
        match file.read_at(&mut block[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// An inventory being read.
pub(crate) struct Inventory {
    lines: BufReader<GzDecoder<BufReader<File>>>,
}

impl Inventory {
    /// Begins to read one.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let mut inventory = Self { lines: BufReader::new(GzDecoder::new(BufReader::new(file))) };
        match inventory.line()? {
            Some(head) if head == HEAD.as_bytes() => Ok(inventory),
            _ => Err(not_understood()),
        }
    }

    /// The next file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Seen>> {
        match self.line()? {
            Some(line) => parse(&line).map(Some).ok_or_else(not_understood),
            None => Ok(None),
        }
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(not_understood()),
        }
    }
}

impl Seen {
    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }

    /// In which order the walk meets two files.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        self.path.split(|&byte| byte == b'/').cmp(other.path.split(|&byte| byte == b'/'))
    }

    /// In what this differs from another of the same path.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        if FileType::from_raw_mode(self.mode) != FileType::from_raw_mode(other.mode) {
            return vec!["type"];
        }
        let mut found = Vec::new();
        let mut note = |equal: bool, what| {
            if !equal {
                found.push(what);
            }
        };
        note(self.bytes == other.bytes, "size");
        note(self.content == other.content, "content");
        note(self.same_as == other.same_as, "hard links");
        note(self.mode == other.mode, "mode");
        note((self.uid, self.gid) == (other.uid, other.gid), "owner");
        note(self.modified == other.modified, "time");
        note(self.device == other.device, "device number");
        note(self.attributes == other.attributes, "extended attributes");
        found
    }
}

fn seen(path: &[u8], stat: &Stat, attributes: Option<Digest>) -> Seen {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Seen {
        path: path.to_vec(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        bytes: if kind == FileType::RegularFile { stat.st_size as u64 } else { 0 },
        modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
        device: if is_device { stat.st_rdev } else { 0 },
        content: None,
        attributes,
        same_as: None,
    }
}

fn open_folder(folder: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// The folder above, which must be the one that the walk came from.
fn above_of(folder: &OwnedFd, inode: u64) -> io::Result<OwnedFd> {
    let above = open_folder(folder, c"..")?;
    match rustix::fs::fstat(&above)?.st_ino == inode {
        true => Ok(above),
        false => Err(io::Error::other("a folder was moved while it was looked at")),
    }
}

/// The digest of the extended attributes of something in a folder.
fn attributes_at(folder: &OwnedFd, name: &CStr) -> io::Result<Option<Digest>> {
    // fgetxattr(2) needs an open file, which a symlink or a device cannot be; this leads to each.
    let link = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    attributes(
        |list| rustix::fs::llistxattr(link.as_slice(), list),
        |name, value| rustix::fs::lgetxattr(link.as_slice(), name, value),
    )
}

/// The digest of all extended attributes, if there are any. `list` and `get` are the system calls for one file.
fn attributes(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Option<Digest>> {
    let mut listed = vec![0; 1024];
    let length = loop {
        match list(&mut listed) {
            Ok(length) => break length,
            Err(Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if listed.len() < ATTRIBUTE_BYTES_MAX => listed.resize(ATTRIBUTE_BYTES_MAX, 0),
            Err(error) => return Err(error.into()),
        }
    };
    let mut names: Vec<&[u8]> = listed[..length].split(|&byte| byte == 0).collect();
    names.retain(|name| !name.is_empty() && !ATTRIBUTES_OF_HOST.contains(name));
    if names.is_empty() {
        return Ok(None);
    }
    names.sort_unstable();
    let mut hasher = Hasher::default();
    let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
    for name in names {
        let length = get(name, &mut value)?;
        // A name has no NUL, and a length in front keeps values apart.
        hasher.take(name);
        hasher.take(&[0]);
        hasher.take(&(length as u64).to_le_bytes());
        hasher.take(&value[..length]);
    }
    Ok(Some(hasher.finish()))
}

/// Writes the line of a file.
fn line(it: &Seen, line: &mut Vec<u8>) {
    let content = match it.content {
        None => "-".to_owned(),
        Some(Content::Plain(digest)) => digest.hex(),
        Some(Content::Sparse(digest)) => format!("s{}", digest.hex()),
    };
    let attributes = it.attributes.map_or_else(|| "-".to_owned(), |digest| digest.hex());
    let Seen { mode, uid, gid, bytes, modified: (seconds, nanoseconds), device, .. } = it;
    // OK to ignore: memory takes everything.
    let _ =
        write!(line, "{mode:o} {uid} {gid} {bytes} {seconds}.{nanoseconds} {device} {content} {attributes} ");
    escape(&it.path, line);
    line.push(b' ');
    // No path of a file is empty, so nothing else can be meant.
    escape(it.same_as.as_deref().unwrap_or_default(), line);
    line.push(b'\n');
}

fn parse(line: &[u8]) -> Option<Seen> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    let mut word = || words.next();
    let it = Seen {
        mode: u32::from_str_radix(word()?, 8).ok()?,
        uid: word()?.parse().ok()?,
        gid: word()?.parse().ok()?,
        bytes: word()?.parse().ok()?,
        modified: {
            let (seconds, nanoseconds) = word()?.split_once('.')?;
            (seconds.parse().ok()?, nanoseconds.parse().ok()?)
        },
        device: word()?.parse().ok()?,
        content: match word()? {
            "-" => None,
            word => Some(match word.strip_prefix('s') {
                Some(hex) => Content::Sparse(Digest::from_hex(hex)?),
                None => Content::Plain(Digest::from_hex(word)?),
            }),
        },
        attributes: match word()? {
            "-" => None,
            hex => Some(Digest::from_hex(hex)?),
        },
        path: unescape(word()?)?,
        same_as: Some(unescape(word()?)?).filter(|same| !same.is_empty()),
    };
    word().is_none().then_some(it)
}

fn escape(path: &[u8], into: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => into.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            plain => into.push(plain),
        }
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (rest, _) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                (after, path.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?))
            }
            (b'%', _) => return None,
            (plain, after) => (after, path.push(*plain)),
        };
    }
    Some(path)
}

fn not_understood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a list of files that this opsrun understands")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn what_is_written_is_what_a_walk_finds_again() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("root");
        let mut deep = root.clone();
        for _ in 0..40 {
            deep.push("d".repeat(60));
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.join("a"), "1").unwrap();
        std::fs::write(root.join("a b%\n"), "2").unwrap();
        std::fs::hard_link(root.join("a"), root.join("z")).unwrap();
        symlink("nowhere", root.join("link")).unwrap();
        let list = temporary.path().join("files.gz");
        let holes = File::create(root.join("holes")).unwrap();
        holes.set_len(1 << 43).unwrap();
        holes.write_all_at(b"x", 1 << 42).unwrap();
        let mut contents = Contents::new(open(&root)).unwrap();
        let digest =
            write(open(&root), open(&root), &mut contents, false, &File::create(&list).unwrap()).unwrap();
        assert_eq!(digest, Digest::of(&std::fs::read(&list).unwrap()));

        let mut inventory = Inventory::open(File::open(&list).unwrap()).unwrap();
        let mut last: Option<Seen> = None;
        let mut count = 0;
        walk(open(&root), open(&root), |place, mut found| {
            let expected = inventory.next().unwrap().unwrap();
            if found.is_file() && found.same_as.is_none() {
                found.content = Some(read_sparse(place).unwrap());
            }
            assert_eq!(expected, found);
            assert!(last.as_ref().is_none_or(|last| last.order(&found) == Ordering::Less));
            count += 1;
            last = Some(found);
            Ok(())
        })
        .unwrap();
        assert_eq!(inventory.next().unwrap(), None);
        assert_eq!(count, 46);
        assert_eq!(last.unwrap().same_as, Some(b"a".to_vec()));
    }

    proptest! {
        #[test]
        fn any_file_survives_its_line(
            path in proptest::collection::vec(1u8.., 1..40),
            numbers in any::<(u32, u32, u32, u64, i64, u32, u64)>(),
            same in proptest::option::of(proptest::collection::vec(1u8.., 1..40)),
            content in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let (mode, uid, gid, bytes, seconds, nanoseconds, device) = numbers;
            let it = Seen {
                path, mode, uid, gid, bytes, modified: (seconds, nanoseconds), device,
                content: content.map(|bytes| Content::Sparse(Digest::of(&bytes))), attributes: None, same_as: same,
            };
            let mut written = Vec::new();
            line(&it, &mut written);
            let line = written;
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(parse(&line[..line.len() - 1]), Some(it));
        }

        #[test]
        fn any_line_is_refused_or_understood(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
        }
    }
}
