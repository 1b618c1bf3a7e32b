//! Copies what can be read only once into a file that can be read from anywhere.
//! Does not know what it copies.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::files::FileRange;
use crate::error::{Error, Result};
use crate::layer::bounds::{self, Bounds, Counting, Meter};
use crate::layer::compression::{self, Compression};

const PART_BYTES: usize = 256 << 10;

/// Keeps all of a pipe, up to the bound for what is unpacked: a pipe may have no end, but the disk has.
pub(super) fn keep(source: impl Read, folder: BorrowedFd, origin: &str, bounds: Bounds) -> Result<FileRange> {
    let meter = Meter::new(Bounds { ratio: u64::MAX, ..bounds });
    let taken = AtomicU64::new(0);
    copy(&mut meter.measure(source, &taken), folder, origin, |error| match bounds::excess(&error) {
        Some(source) => Error::TooLarge { what: origin.to_owned(), source },
        None => Error::io(format!("read {origin}"), error),
    })
}

/// Keeps an archive that is compressed as a whole, uncompressed.
pub(super) fn unpack(
    whole: FileRange,
    packed: Compression,
    folder: BorrowedFd,
    origin: &str,
    bounds: Bounds,
) -> Result<FileRange> {
    let counted = AtomicU64::new(0);
    let whole = Counting { inner: BufReader::with_capacity(PART_BYTES, whole), counted: &counted };
    let meter = Meter::new(bounds);
    let mut source = meter.measure(compression::reader(whole, packed, meter.windows()), &counted);
    copy(&mut source, folder, origin, |source| match bounds::excess(&source) {
        Some(source) => Error::TooLarge { what: origin.to_owned(), source },
        None => Error::Decompress { layer: origin.to_owned(), compression: packed.name(), source },
    })
}

fn copy(
    source: &mut dyn Read,
    folder: BorrowedFd,
    origin: &str,
    not_read: impl Fn(io::Error) -> Error,
) -> Result<FileRange> {
    let not_kept = |error: io::Error| Error::io(format!("keep {origin} in the store meanwhile"), error);
    let mut file = File::from(nameless(folder).map_err(not_kept)?);
    let mut part = vec![0; PART_BYTES];
    loop {
        match source.read(&mut part) {
            Ok(0) => break,
            Ok(count) => file.write_all(&part[..count]).map_err(not_kept)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(not_read(error)),
        }
    }
    file.rewind().map_err(not_kept)?;
    FileRange::rest_of(Arc::new(file)).map_err(not_kept)
}

/// A file without a name, so that nothing stays behind however this process ends.
pub(crate) fn nameless(folder: BorrowedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, ".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        // Some file systems, such as older overlayfs, have no O_TMPFILE: open(2).
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let name = format!("spool-{}", std::process::id());
            let file = rustix::fs::openat(
                folder,
                &name,
                flags | OFlags::CREATE | OFlags::EXCL,
                Mode::RUSR | Mode::WUSR,
            )?;
            rustix::fs::unlinkat(folder, &name, AtFlags::empty())?;
            Ok(file)
        }
        other => Ok(other?),
    }
}
