//! Reads tar archives: v7, ustar, pax, GNU and star, with extended attributes and sparse files.
//! Knows nothing of images, layers or the file system; it only says what the archive says.
//!
//! Not the `tar` crate, because that one cuts pax values at newlines (so it loses file capabilities and ACLs that
//! hold the byte 10) and leaves pax's three sparse formats to its user.
//!
//! Formats: POSIX.1-2017 `pax`, "Extended Description"; GNU tar manual, "Tar Internals" (also for sparse files).
//! Where they leave room this does what Go's `archive/tar` does, which wrote nearly every image there is.

use std::io::{self, BufRead};

mod header;
mod pax;
mod sparse;
pub(crate) mod write;

use header::{BLOCK, Header};
use pax::Records;
pub(crate) use sparse::Segment;

/// Go's limit for pax headers and GNU's long names; the kernel allows neither paths nor attributes that come near.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with an archive.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It could not be read.
    Io(io::Error),
    /// It ends in the middle of an entry.
    Ends { entry: Vec<u8> },
    /// It makes no sense.
    Malformed { entry: Vec<u8>, reason: String },
}

/// What kind of thing an entry is. Names of things are bytes, as the kernel's are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file; its bytes follow. `real_size` is its length, holes included.
    File {
        real_size: u64,
        sparse: Option<Vec<Segment>>,
    },
    /// A further name of the file `target`.
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Folder,
    Fifo,
}

/// One entry of an archive, its extensions already applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As written: possibly with `./`, `..`, or slashes at either end.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified_s: i64,
    pub(crate) modified_ns: u32,
    /// Names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where its data begins, in bytes from the beginning of the archive.
    pub(crate) data_at: u64,
    /// How many bytes of data the archive holds for it.
    pub(crate) data_bytes: u64,
}

/// A source of which parts can be left out.
pub(crate) trait Skip: BufRead {
    /// Goes on `bytes` further, by reading them where nothing better is possible.
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let there = self.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let part = there.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.consume(part);
            bytes -= part as u64;
        }
        Ok(())
    }
}

impl Skip for &[u8] {}

impl<S: Skip> Skip for &mut S {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        (**self).skip(bytes)
    }
}

/// An archive being read.
pub(crate) struct Tape<S> {
    source: S,
    at: u64,
    data_left: u64,
    padding: u64,
    globals: Records,
    /// The name of the latest entry, for faults.
    latest: Vec<u8>,
    marked_end: bool,
}

impl<S: Skip> Tape<S> {
    /// Begins at the beginning of an archive.
    pub(crate) fn new(source: S) -> Self {
        let globals = Records::default();
        Self { source, at: 0, data_left: 0, padding: 0, globals, latest: Vec::new(), marked_end: false }
    }

    /// The next entry, leaving out what is left of this one's data. Nothing at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut locals: Option<Records> = None;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.next_header()? else {
                if locals.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(Fault::Ends { entry: std::mem::take(&mut self.latest) });
                }
                return Ok(None);
            };
            match header.kind() {
                b'x' => locals = Some(self.records(&header)?),
                b'g' => {
                    let records = self.records(&header)?;
                    self.globals.override_for_good(records).map_err(|reason| self.malformed(reason))?;
                }
                b'L' => long_name = Some(self.long(&header)?),
                b'K' => long_link = Some(self.long(&header)?),
                _ => {
                    let mut records = self.globals.clone();
                    records.override_with(locals.unwrap_or_default());
                    return self.entry(&header, records, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next bytes of the entry's data; none at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8], Fault> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        // Asked twice because of a limit of the borrow checker: a slice that is returned in one branch only.
        if self.source.fill_buf().map_err(Fault::Io)?.is_empty() {
            return Err(Fault::Ends { entry: self.latest.clone() });
        }
        let there = self.source.fill_buf().map_err(Fault::Io)?;
        let part = there.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        Ok(&there[..part])
    }

    /// Takes bytes that [`Tape::data`] gave.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.at += bytes as u64;
        self.data_left -= bytes as u64;
    }

    /// The source, which must not be read from while the archive is.
    pub(crate) fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// The source, behind what was read of the archive.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// Whether the archive's end was marked as such, by a block of zeros, rather than just reached.
    pub(crate) fn marked_end(&self) -> bool {
        self.marked_end
    }

    fn next_header(&mut self) -> Result<Option<Header>, Fault> {
        self.skip(self.data_left)?;
        self.data_left = 0;
        // Some writers end with the last file's data, without the rest of its block: to readers of Go that is an end too.
        let mut padding = [0; BLOCK];
        let padding = padding.get_mut(..usize::try_from(self.padding).unwrap_or(BLOCK)).unwrap_or_default();
        if !self.fill(padding)? {
            return Ok(None);
        }
        self.padding = 0;
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().any(|&byte| byte != 0) {
            return Header::new(block).map(Some).map_err(|reason| self.malformed(reason));
        }
        self.marked_end = true;
        // A lone block of zeros at the very end is in order; between entries it is damage.
        match self.block()? {
            Some(block) if block.iter().any(|&byte| byte != 0) => {
                Err(self.malformed("a block of zeros is followed by more"))
            }
            _ => Ok(None),
        }
    }

    /// One block, or nothing at the end of the source.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        Ok(self.fill(&mut block)?.then_some(block))
    }

    /// Reads as many bytes as fit; whether the source has not ended before them.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Fault::Ends { entry: self.latest.clone() }),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        self.at += bytes.len() as u64;
        Ok(true)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Fault> {
        self.source.skip(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Ends { entry: self.latest.clone() },
            _ => Fault::Io(error),
        })?;
        self.at += bytes;
        Ok(())
    }

    /// The data of an extension header, which is read as a whole.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let bytes = header.size().map_err(|reason| self.malformed(reason))?;
        if bytes > EXTENSION_BYTES_MAX {
            return Err(self.malformed("an extension header is larger than 1 MiB"));
        }
        self.begin_data(bytes);
        let mut data = Vec::with_capacity(bytes as usize);
        while self.data_left > 0 {
            let part = self.data()?;
            let count = part.len();
            data.extend_from_slice(part);
            self.consume(count);
        }
        Ok(data)
    }

    fn records(&mut self, header: &Header) -> Result<Records, Fault> {
        let data = self.extension(header)?;
        Records::parse(&data).map_err(|reason| self.malformed(reason))
    }

    fn long(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let mut data = self.extension(header)?;
        let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
        data.truncate(end);
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Fault> {
        let name = records.sparse_name().or_else(|| records.path()).map(<[u8]>::to_vec).or(long_name);
        let name = name.unwrap_or_else(|| header.name());
        self.latest.clone_from(&name);
        let link =
            records.link_path().map(<[u8]>::to_vec).or(long_link).unwrap_or_else(|| header.link_name());
        let fault =
            |reason: &'static str| Fault::Malformed { entry: name.clone(), reason: reason.to_owned() };

        let size = records.size().map_err(fault)?;
        let size = size.map_or_else(|| header.size(), Ok).map_err(fault)?;
        let (modified_s, modified_ns) = match records.modified().map_err(fault)? {
            Some(modified) => modified,
            None => (header.modified_s().map_err(fault)?, 0),
        };
        let uid = records.uid().map_err(fault)?.map_or_else(|| header.uid(), Ok).map_err(fault)?;
        let gid = records.gid().map_err(fault)?.map_or_else(|| header.gid(), Ok).map_err(fault)?;
        let mode = header.mode().map_err(fault)?;
        let has_data = matches!(header.kind(), b'0' | 0 | b'7' | b'S');
        let is_v7_folder = header.kind() == 0 && name.ends_with(b"/");
        let device = || Ok::<_, &'static str>((header.device_major()?, header.device_minor()?));
        let kind = match header.kind() {
            0 if is_v7_folder => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File { real_size: size, sparse: None },
            b'S' => Kind::File { real_size: header.real_size().map_err(fault)?, sparse: None },
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice { major, minor }).map_err(fault)?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor }).map_err(fault)?,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => return Err(self.malformed(format!("its type {:?} is not known", char::from(other)))),
        };
        // Only files have data, whatever the size says: so does Go, and some writers fill the size of links.
        self.begin_data(if has_data && !is_v7_folder { size } else { 0 });
        let kind = match kind {
            Kind::File { real_size, .. } => self.sparse(header, &records, real_size)?,
            other => other,
        };
        let xattrs = records.into_xattrs();
        let (data_at, data_bytes) = (self.at, self.data_left);
        Ok(Entry { name, kind, mode, uid, gid, modified_s, modified_ns, xattrs, data_at, data_bytes })
    }

    /// Reads the map of a sparse file, wherever its format has put it.
    fn sparse(&mut self, header: &Header, records: &Records, real_size: u64) -> Result<Kind, Fault> {
        let (segments, real_size) = if header.kind() == b'S' {
            let mut segments = Vec::new();
            let mut more =
                sparse::from_header(header, &mut segments).map_err(|reason| self.malformed(reason))?;
            while more {
                let block = self.map_block()?;
                more =
                    sparse::from_extension(&block, &mut segments).map_err(|reason| self.malformed(reason))?;
            }
            (segments, real_size)
        } else if records.sparse_map_is_in_data() {
            let real_size = records.sparse_real_size().map_err(|reason| self.malformed(reason))?;
            (self.map_in_data()?, real_size)
        } else if let Some(found) = records.sparse().map_err(|reason| self.malformed(reason))? {
            found
        } else {
            return Ok(Kind::File { real_size, sparse: None });
        };
        sparse::check(&segments, real_size, self.data_left).map_err(|reason| self.malformed(reason))?;
        Ok(Kind::File { real_size, sparse: Some(segments) })
    }

    /// A block of an old GNU sparse map; these lie between the header and the data and are not counted in its size.
    fn map_block(&mut self) -> Result<[u8; BLOCK], Fault> {
        self.block()?.ok_or_else(|| Fault::Ends { entry: self.latest.clone() })
    }

    /// The map of a pax sparse file of version 1.0: decimal numbers at the beginning of the data, a line each,
    /// filled up to a whole block.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, Fault> {
        let mut numbers = sparse::Numbers::default();
        while !numbers.are_complete() {
            if self.data_left < BLOCK as u64 {
                return Err(self.malformed("its map of holes is cut off"));
            }
            let block = self.map_block()?;
            self.data_left -= BLOCK as u64;
            numbers.take(&block).map_err(|reason| self.malformed(reason))?;
        }
        Ok(numbers.into_segments())
    }

    fn begin_data(&mut self, bytes: u64) {
        self.data_left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
    }

    fn malformed(&self, reason: impl Into<String>) -> Fault {
        Fault::Malformed { entry: self.latest.clone(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests;
