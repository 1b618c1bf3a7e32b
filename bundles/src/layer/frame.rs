//! Keeps what is needed to give a layer's tar again, byte for byte: all of it but the contents of the files that were
//! unpacked from it. Knows nothing of tar; it is told which bytes went into which file.
//!
//! Compressed by gzip: the line `opsrun frame 1`, and then items, numbers as LEB128 (DWARF 5, 7.6):
//!
//! ```text
//! R LENGTH BYTES                     bytes of the tar
//! F LENGTH PATH OFFSET BYTES         so many bytes of the tar are in this file of the layer's folder, from there on
//! E BYTES                            the end, and how many bytes the whole tar has
//! ```
//! A path is resolved as the archive's are, with the layer's folder as the root. What a later entry of the same layer
//! has taken the place of is in no file of the folder any more, and so is kept here.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::inventory;
use crate::digest::{Digest, Hashing};
use crate::spill::{ByNumber, Records};
use crate::tape::Skip;

const HEAD: &[u8] = b"opsrun frame 1\n";
/// The kernel takes no longer ones.
const PATH_BYTES_MAX: u64 = 4096;
const PART_BYTES: usize = 64 << 10;
/// Renames anywhere on the host can make the kernel give up on a path with `..` in a symlink; it asks to try again.
const TRIES_MAX: usize = 100;

/// A frame that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Framed {
    /// The digest of its file.
    pub(crate) digest: Digest,
    /// How long the tar is.
    pub(crate) tar_bytes: u64,
}

/// A part of a layer's tar.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    /// These bytes.
    Raw(Vec<u8>),
    /// What is in a file.
    File { path: Vec<u8>, offset: u64, bytes: u64 },
    /// The end of a tar of so many bytes.
    End(u64),
}

/// A frame being written.
struct Writer<'a> {
    out: GzEncoder<BufWriter<Hashing<&'a File>>>,
    raw: Vec<u8>,
    tar_bytes: u64,
    /// Why it could not be written; nothing is written after that.
    failed: Option<io::Error>,
}

impl<'a> Writer<'a> {
    fn new(into: &'a File) -> Self {
        // As fast as can be: headers are so alike that the best compression hardly gains anything.
        let out = BufWriter::with_capacity(PART_BYTES, Hashing::new(into));
        let out = GzEncoder::new(out, flate2::Compression::fast());
        let mut writer = Self { out, raw: Vec::with_capacity(PART_BYTES), tar_bytes: 0, failed: None };
        writer.put(|out| out.write_all(HEAD));
        writer
    }

    fn put(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.out).err();
        }
    }

    fn raw(&mut self, mut bytes: &[u8]) {
        self.tar_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART_BYTES - self.raw.len()));
            self.raw.extend_from_slice(now);
            if self.raw.len() == PART_BYTES {
                self.flush_raw();
            }
            bytes = later;
        }
    }

    fn flush_raw(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let raw = std::mem::take(&mut self.raw);
        self.put(|out| {
            out.write_all(b"R")?;
            write_number(out, raw.len() as u64)?;
            out.write_all(&raw)
        });
        self.raw = raw;
        self.raw.clear();
    }

    fn file(&mut self, path: &[u8], offset: u64, bytes: u64) {
        self.flush_raw();
        self.tar_bytes += bytes;
        self.put(|out| {
            out.write_all(b"F")?;
            write_number(out, path.len() as u64)?;
            out.write_all(path)?;
            write_number(out, offset)?;
            write_number(out, bytes)
        });
    }

    /// Ends it.
    fn finish(mut self) -> io::Result<Framed> {
        self.flush_raw();
        let tar_bytes = self.tar_bytes;
        self.put(|out| {
            out.write_all(b"E")?;
            write_number(out, tar_bytes)
        });
        if let Some(error) = self.failed {
            return Err(error);
        }
        let file = self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Framed { digest: file.finish().0, tar_bytes })
    }
}

/// A source of which all that is read is kept in a frame, but for what goes into files.
pub(super) struct Recording<'a, S> {
    source: S,
    frame: Writer<'a>,
    into: &'a File,
    /// So many of the next bytes are in a file.
    aside: u64,
    /// The inode for each file item.
    inodes: Records,
}

impl<'a, S: Skip> Recording<'a, S> {
    /// Keeps what is read from `source` in `into`, an empty file open for reading and writing. `folder` is for what would
    /// be too much for memory.
    pub(super) fn new(source: S, into: &'a File, folder: impl AsFd) -> io::Result<Self> {
        Ok(Self { source, frame: Writer::new(into), into, aside: 0, inodes: Records::new(folder)? })
    }

    /// The next `bytes` bytes go into a file of the layer, from `offset` on.
    pub(super) fn goes_into(&mut self, path: &[u8], inode: u64, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes > 0 {
            self.frame.file(path, offset, bytes);
            self.inodes.push(&[&inode.to_le_bytes()])?;
            self.aside = bytes;
        }
        Ok(())
    }

    /// Keeps what is left of the source, and ends the frame. If something of the layer has been replaced by
    /// something else of it, what was replaced must be below `trash`.
    pub(super) fn finish(mut self, replaced: bool, root: &OwnedFd, trash: &OwnedFd) -> io::Result<Framed> {
        loop {
            let there = self.source.fill_buf()?.len();
            if there == 0 {
                break;
            }
            self.consume(there);
        }
        let framed = self.frame.finish()?;
        if replaced { settle(self.into, &self.inodes, root, trash, framed) } else { Ok(framed) }
    }
}

impl<S: Skip> Read for Recording<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.source.fill_buf()?;
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<S: Skip> BufRead for Recording<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        let aside = self.aside.min(bytes as u64);
        self.aside -= aside;
        // It only gives what it gave before, so it cannot fail.
        if let Ok(there) = self.source.fill_buf()
            && let Some(raw) = there.get(aside as usize..bytes)
            && !raw.is_empty()
        {
            self.frame.raw(raw);
        }
        self.source.consume(bytes);
    }
}

impl<S: Skip> Skip for Recording<'_, S> {}

/// Writes a frame anew, with the contents of files that are not any more where the frame says.
fn settle(
    frame: &File,
    inodes: &Records,
    root: &OwnedFd,
    trash: &OwnedFd,
    unchanged: Framed,
) -> io::Result<Framed> {
    let is_there = |path: &[u8], inode: u64| match open_below(root, path) {
        Ok(file) => Ok(rustix::fs::fstat(&file)?.st_ino == inode),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Ok(false),
        Err(error) => Err(io::Error::from(error)),
    };
    let (mut lost, mut is_any_lost) = (Lost::new(trash)?, false);
    let (mut items, mut at) = (Reader::new(rewound(frame)?)?, inodes.all());
    loop {
        match items.next()? {
            Item::Raw(_) => {}
            Item::File { path, .. } => {
                let inode = inode_of(at.next())?;
                if !lost.contains(inode)? && !is_there(&path, inode)? {
                    lost.insert(inode)?;
                    is_any_lost = true;
                }
            }
            Item::End(_) => break,
        }
    }
    if !is_any_lost {
        return Ok(unchanged);
    }
    // Under another name, as a hard link of it, or thrown away.
    for (folder, mark) in [(root, IN_ROOT), (trash, IN_TRASH)] {
        let folder_again =
            rustix::fs::openat(folder, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        inventory::walk(folder_again, trash, |place, it| match it.is_file() {
            true => lost.found(place.inode, mark, &it.path),
            false => Ok(()),
        })?;
    }
    let aside = File::from(crate::archive::nameless(trash.as_fd())?);
    let mut again = Writer::new(&aside);
    let (mut items, mut at) = (Reader::new(rewound(frame)?)?, inodes.all());
    loop {
        match items.next()? {
            Item::Raw(bytes) => again.raw(&bytes),
            Item::File { path, offset, bytes } => {
                let inode = inode_of(at.next())?;
                if !lost.contains(inode)? {
                    again.file(&path, offset, bytes);
                    continue;
                }
                let (mark, path) = lost.place(inode)?;
                let file = File::from(open_below(if mark == IN_ROOT { root } else { trash }, &path)?);
                each_part(&file, offset, bytes, |part| {
                    again.raw(part);
                    Ok(())
                })?;
            }
            Item::End(_) => break,
        }
    }
    let framed = again.finish()?;
    let mut into = rewound(frame)?;
    into.set_len(0)?;
    io::copy(&mut rewound(&aside)?, &mut into)?;
    Ok(framed)
}

const IN_ROOT: u8 = 0;
const IN_TRASH: u8 = 1;

/// Files that are not where the frame says, by their inodes, and where each is then.
struct Lost {
    /// One: not found yet. More: its place in the list below, and two.
    places: ByNumber<8>,
    /// A mark for the folder, and the path in that.
    list: Records,
}

impl Lost {
    fn new(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self { places: ByNumber::new(&folder)?, list: Records::new(&folder)? })
    }

    fn contains(&mut self, inode: u64) -> io::Result<bool> {
        Ok(self.places.get(inode)?.is_some())
    }

    fn insert(&mut self, inode: u64) -> io::Result<()> {
        self.places.set(inode, Some(1_u64.to_le_bytes()))
    }

    /// A file was met; the first time counts, if it is a lost one.
    fn found(&mut self, inode: u64, mark: u8, path: &[u8]) -> io::Result<()> {
        if self.places.get(inode)?.map(u64::from_le_bytes) == Some(1) {
            let place = self.list.push(&[&[mark], path])? + 2;
            self.places.set(inode, Some(place.to_le_bytes()))?;
        }
        Ok(())
    }

    fn place(&mut self, inode: u64) -> io::Result<(u8, Vec<u8>)> {
        let place = self.places.get(inode)?.and_then(|place| u64::from_le_bytes(place).checked_sub(2));
        let mut found = self.list.get(place.ok_or_else(|| io::Error::other("a replaced file is gone"))?)?;
        Ok((found.remove(0), found))
    }
}

fn inode_of(record: Option<io::Result<Vec<u8>>>) -> io::Result<u64> {
    let record = record.ok_or_else(not_understood)??;
    record.try_into().map(u64::from_le_bytes).map_err(|_| not_understood())
}

fn rewound(mut file: &File) -> io::Result<&File> {
    file.rewind()?;
    Ok(file)
}

/// Opens a regular file by its path in the layer, resolved as the unpacker resolves it.
fn open_below(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES_MAX {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Gives a part of a file bit by bit.
fn each_part(
    file: &File,
    mut offset: u64,
    mut bytes: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut part = vec![0; PART_BYTES.min(usize::try_from(bytes).unwrap_or(PART_BYTES))];
    while bytes > 0 {
        let most = part.len().min(usize::try_from(bytes).unwrap_or(PART_BYTES));
        let count = match file.read_at(&mut part[..most], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        each(&part[..count])?;
        offset += count as u64;
        bytes -= count as u64;
    }
    Ok(())
}

/// Gives a layer's tar again, from its frame and the folder it was unpacked into. Whether it is the same one only its
/// digest tells.
pub(crate) fn replay(frame: impl Read, root: &OwnedFd, into: &mut impl Write) -> Result<(), Replay> {
    let mut items = Reader::new(frame).map_err(Replay::Frame)?;
    let mut tar_bytes = 0_u64;
    loop {
        match items.next().map_err(Replay::Frame)? {
            Item::Raw(bytes) => {
                into.write_all(&bytes).map_err(Replay::Written)?;
                tar_bytes = tar_bytes.saturating_add(bytes.len() as u64);
            }
            Item::File { path, offset, bytes } => {
                let unread = |error: io::Error| Replay::File {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    source: error,
                };
                let file = File::from(open_below(root, &path).map_err(|error| unread(error.into()))?);
                let mut not_written = None;
                let read = each_part(&file, offset, bytes, |part| {
                    into.write_all(part).map_err(|error| {
                        not_written = Some(error);
                        io::ErrorKind::Other.into()
                    })
                });
                if let Some(error) = not_written {
                    return Err(Replay::Written(error));
                }
                read.map_err(unread)?;
                tar_bytes = tar_bytes.saturating_add(bytes);
            }
            Item::End(expected) if expected == tar_bytes => return Ok(()),
            Item::End(_) => return Err(Replay::Frame(not_understood())),
        }
    }
}

/// Why a layer's tar cannot be given again.
#[derive(Debug)]
pub(crate) enum Replay {
    /// The frame makes no sense.
    Frame(io::Error),
    /// A file of the layer cannot be read, or is too short.
    File { path: String, source: io::Error },
    /// It cannot be written where it should go.
    Written(io::Error),
}

/// A frame being read.
struct Reader<S: Read> {
    source: BufReader<GzDecoder<BufReader<S>>>,
}

impl<S: Read> Reader<S> {
    fn new(frame: S) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(PART_BYTES, GzDecoder::new(BufReader::new(frame)));
        let mut head = [0; HEAD.len()];
        source.read_exact(&mut head)?;
        if head != HEAD {
            return Err(not_understood());
        }
        Ok(Self { source })
    }

    fn next(&mut self) -> io::Result<Item> {
        let mut kind = [0];
        self.source.read_exact(&mut kind)?;
        match &kind {
            b"R" => self.bytes(PART_BYTES as u64).map(Item::Raw),
            b"F" => Ok(Item::File {
                path: self.bytes(PATH_BYTES_MAX)?,
                offset: self.number()?,
                bytes: self.number()?,
            }),
            b"E" => {
                let tar_bytes = self.number()?;
                // Also has the checksum looked at.
                match self.source.read(&mut kind)? {
                    0 => Ok(Item::End(tar_bytes)),
                    _ => Err(not_understood()),
                }
            }
            _ => Err(not_understood()),
        }
    }

    fn bytes(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > most {
            return Err(not_understood());
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            let digit = u64::from(byte[0] & 0x7f);
            if shift == 63 && digit > 1 {
                break;
            }
            number |= digit << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(not_understood())
    }
}

fn write_number(out: &mut (impl Write + ?Sized), mut number: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(10);
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    out.write_all(&bytes)
}

fn not_understood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a frame that this opsrun understands")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_item_is_read_as_it_was_written(
            parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..60), any::<u64>(), 1u64..1 << 50), 0..20),
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut writer = Writer::new(&file);
            let (mut expected, mut total) = (Vec::new(), 0);
            for (is_raw, bytes, offset, length) in parts {
                if is_raw {
                    writer.raw(&bytes);
                    total += bytes.len() as u64;
                    match expected.last_mut() {
                        Some(Item::Raw(before)) => before.extend(bytes),
                        _ => expected.push(Item::Raw(bytes)),
                    }
                } else {
                    writer.file(&bytes, offset, length);
                    total += length;
                    expected.push(Item::File { path: bytes, offset, bytes: length });
                }
            }
            expected.push(Item::End(total));
            writer.finish().unwrap();
            let mut reader = Reader::new(rewound(&file).unwrap()).unwrap();
            for item in expected {
                prop_assert_eq!(reader.next().unwrap(), item);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(HEAD).unwrap();
            packed.write_all(&bytes).unwrap();
            let packed = packed.finish().unwrap();
            let mut reader = Reader::new(packed.as_slice()).unwrap();
            while let Ok(item) = reader.next() {
                if matches!(item, Item::End(_)) {
                    break;
                }
            }
        }
    }
}
