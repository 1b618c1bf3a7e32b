//! The files in an archive or a layout folder, each as a range of bytes of an open file.
//! Does not know what the files mean.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::blob::{Blob, Blobs, Document};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::tape::{Fault, Kind, Skip, Tape};

/// Configurations, manifests and indexes are a few KiB; registries allow 4 MiB.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// All documents of an archive together, since some are kept until the end.
const DOCUMENTS_BYTES_MAX: u64 = 16 << 20;
/// An honest one has fewer than a thousand; in memory each takes many times its bytes.
const VALUES_MAX: usize = 100_000;
/// Images have at most some hundreds of layers, and each layer two or three files in an archive.
const MEMBERS_MAX: usize = 50_000;
/// The kernel takes no longer ones.
const NAME_BYTES_MAX: usize = 4096;
/// All names of an archive together, bytes.
const NAMES_BYTES_MAX: usize = 8 << 20;
/// How many links from one name to the next are followed before it is a circle.
const LINKS_MAX: usize = 16;
/// Enough for a header and the next one; most of an archive is skipped.
const SCAN_BYTES: usize = 8 << 10;

/// A part of an open file, with a place of its own in it, so that several can be read at once.
#[derive(Clone, Debug)]
pub(crate) struct FileRange {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl FileRange {
    /// A plain file from where it stands to its end.
    pub(crate) fn rest_of(file: Arc<File>) -> io::Result<Self> {
        let at = (&*file).stream_position()?;
        let end = file.metadata()?.len();
        Ok(Self { file, at, end: end.max(at) })
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// The first bytes, without going on; fewer only where there are fewer.
    pub(crate) fn read_at_most(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut copy = self.clone();
        let mut filled = 0;
        while filled < buffer.len() {
            match copy.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    pub(crate) fn part(&self, at: u64, bytes: u64) -> Self {
        Self { file: Arc::clone(&self.file), at: self.at + at, end: self.at + at + bytes }
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.len()).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 {
            // The file was longer when it was opened.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for FileRange {
    /// Only forward, as [`BufReader::seek_relative`] needs it here.
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Current(by) = position else { return Err(io::ErrorKind::Unsupported.into()) };
        let at = self.at.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        if at > self.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = at;
        Ok(at)
    }
}

impl Skip for BufReader<FileRange> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?)
    }
}

/// All files of an archive or a layout folder.
pub(super) struct Files {
    origin: String,
    /// How much of documents has been read.
    documents_bytes: AtomicU64,
    place: Place,
}

enum Place {
    Folder(PathBuf),
    Archive { whole: FileRange, members: HashMap<String, Member>, marked_end: bool },
}

enum Member {
    Bytes {
        at: u64,
        bytes: u64,
    },
    /// podman writes a layer that occurs twice once, and links to it.
    Link(String),
}

impl Files {
    pub(super) fn folder(path: PathBuf, origin: String) -> Self {
        Self { origin, documents_bytes: AtomicU64::new(0), place: Place::Folder(path) }
    }

    /// Looks through a tar archive for its members, skipping their content.
    pub(super) fn archive(whole: FileRange, origin: String) -> Result<Self> {
        let mut members = HashMap::new();
        let mut tape = Tape::new(BufReader::with_capacity(SCAN_BYTES, whole.clone()));
        let (mut first, mut names_bytes) = (true, 0);
        loop {
            let entry = match tape.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(fault) => return Err(scan_error(fault, first, origin)),
            };
            first = false;
            if entry.data_at + entry.data_bytes > whole.len() {
                let reason = format!("it ends in the middle of {:?}", String::from_utf8_lossy(&entry.name));
                return Err(Error::Truncated { origin, reason });
            }
            let name = joined("", &String::from_utf8_lossy(&entry.name));
            let member = match &entry.kind {
                Kind::File { sparse: None, .. } => {
                    Member::Bytes { at: entry.data_at, bytes: entry.data_bytes }
                }
                Kind::HardLink { target } => Member::Link(joined("", &String::from_utf8_lossy(target))),
                Kind::Symlink { target } => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::Link(joined(folder, &String::from_utf8_lossy(target)))
                }
                _ => continue,
            };
            names_bytes += name.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
            if name.len() > NAME_BYTES_MAX || names_bytes > NAMES_BYTES_MAX || members.len() == MEMBERS_MAX {
                let reason = "it has more files, or longer names, than any archive of images".to_owned();
                return Err(Error::NotAnImage { origin, reason });
            }
            members.insert(name, member);
        }
        let marked_end = tape.marked_end();
        let place = Place::Archive { whole, members, marked_end };
        Ok(Self { origin, documents_bytes: AtomicU64::new(0), place })
    }

    /// What messages call the whole.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.open(name)?.is_some())
    }

    /// A file by its path in the archive; nothing if it is not there.
    pub(super) fn open(&self, name: &str) -> Result<Option<FileRange>> {
        match &self.place {
            Place::Folder(folder) => open_plain(folder.join(name)),
            Place::Archive { whole, members, .. } => {
                let mut name = joined("", name);
                for _ in 0..LINKS_MAX {
                    match members.get(&name) {
                        Some(Member::Bytes { at, bytes }) => return Ok(Some(whole.part(*at, *bytes))),
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// A blob of an OCI layout, whose length must be the given one.
    pub(super) fn open_blob(&self, digest: Digest, bytes: u64, title: &str) -> Result<FileRange> {
        let Some(blob) = self.open(&format!("blobs/sha256/{}", digest.hex()))? else {
            return Err(self.missing(title));
        };
        if blob.len() != bytes {
            return Err(Error::WrongSize { blob: title.to_owned(), expected: bytes, found: blob.len() });
        }
        Ok(blob)
    }

    /// A JSON document, which must not be larger than any honest one.
    pub(super) fn read_document(&self, mut range: FileRange, title: &str) -> Result<Vec<u8>> {
        if range.len() > DOCUMENT_BYTES_MAX {
            let reason = format!("{title} is larger than 4 MiB");
            return Err(Error::NotAnImage { origin: self.origin.clone(), reason });
        }
        if self.documents_bytes.fetch_add(range.len(), Ordering::Relaxed) > DOCUMENTS_BYTES_MAX {
            let reason = "its documents are larger than 16 MiB together".to_owned();
            return Err(Error::NotAnImage { origin: self.origin.clone(), reason });
        }
        let mut document = Vec::with_capacity(range.len() as usize);
        range
            .read_to_end(&mut document)
            .map_err(|error| Error::io(format!("read {title} in {}", self.origin), error))?;
        if document.iter().filter(|&&byte| byte == b',').count() > VALUES_MAX {
            let reason = format!("{title} has more than {VALUES_MAX} values");
            return Err(Error::NotAnImage { origin: self.origin.clone(), reason });
        }
        Ok(document)
    }

    /// A JSON document that must have a digest.
    pub(super) fn read_verified(&self, range: FileRange, expected: Digest, title: &str) -> Result<Vec<u8>> {
        let document = self.read_document(range, title)?;
        match Digest::of(&document) {
            found if found == expected => Ok(document),
            found => Err(Error::WrongDigest { blob: title.to_owned(), expected, found }),
        }
    }

    pub(super) fn not_understood(&self, document: &str, source: serde_json::Error) -> Error {
        super::not_understood(&self.origin, document, source)
    }

    pub(super) fn missing(&self, blob: &str) -> Error {
        let (origin, blob) = (self.origin.clone(), blob.to_owned());
        match &self.place {
            Place::Archive { marked_end: false, .. } => {
                Error::Truncated { origin, reason: format!("{blob} is missing, and so is the archive's end") }
            }
            _ => Error::BlobMissing { origin, blob },
        }
    }

    /// Neither kind of image is in it.
    pub(super) fn no_image(&self) -> Error {
        let origin = self.origin.clone();
        let reason = match &self.place {
            Place::Folder(_) => "an image layout has the files oci-layout and index.json",
            Place::Archive { marked_end: false, .. } => {
                let reason = "it has no list of its images, and neither has it an end".to_owned();
                return Error::Truncated { origin, reason };
            }
            Place::Archive { .. } => {
                "it is an archive, but holds neither manifest.json nor oci-layout and index.json"
            }
        };
        Error::NotAnImage { origin, reason: reason.to_owned() }
    }
}

impl Blobs for Files {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn document(&self, _: Document, digest: Digest, bytes: u64, title: &str) -> Result<Vec<u8>> {
        let blob = self.open_blob(digest, bytes, title)?;
        self.read_verified(blob, digest, title)
    }

    fn layer(&self, digest: Digest, bytes: u64, title: &str) -> Result<Blob> {
        self.open_blob(digest, bytes, title).map(Blob::Range)
    }
}

fn scan_error(fault: Fault, first: bool, origin: String) -> Error {
    match fault {
        Fault::Io(error) => Error::io(format!("read {origin}"), error),
        Fault::Malformed { .. } | Fault::Ends { .. } if first => {
            Error::NotAnImage { origin, reason: "it is no tar archive".to_owned() }
        }
        Fault::Ends { entry } => {
            let reason = format!("it ends in or after {:?}", String::from_utf8_lossy(&entry));
            Error::Truncated { origin, reason }
        }
        Fault::Malformed { entry, reason } => Error::Damaged {
            origin,
            reason: format!("{reason} (in or after {:?})", String::from_utf8_lossy(&entry)),
        },
    }
}

/// Opens a plain file. A pipe or a device in its place could make the program wait for ever.
fn open_plain(path: PathBuf) -> Result<Option<FileRange>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = match File::options().read(true).custom_flags(nonblocking).open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(format!("open {}", path.display()), error)),
    };
    let is_file =
        file.metadata().map_err(|error| Error::io(format!("open {}", path.display()), error))?.is_file();
    if !is_file {
        return Ok(None);
    }
    let range = FileRange::rest_of(Arc::new(file));
    range.map(Some).map_err(|error| Error::io(format!("open {}", path.display()), error))
}

/// A path within an archive, without `.` and `..`; it never leaves the archive.
fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn paths_stay_in_the_archive() {
        for (folder, path, expected) in [
            ("", "./manifest.json", "manifest.json"),
            ("abc", "../def/layer.tar", "def/layer.tar"),
            ("", "../../etc/shadow", "etc/shadow"),
            ("a/b", "", "a/b"),
            ("", "/x//y/", "x/y"),
        ] {
            assert_eq!(joined(folder, path), expected);
        }
    }
}
