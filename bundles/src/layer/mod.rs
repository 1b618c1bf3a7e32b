//! Unpacks one layer, a tar stream, into a folder in the form that overlayfs takes as a lower layer.
//! Knows neither archives nor the store; it gets a stream and an empty folder.
//!
//! ```text
//! thread:  blob ─▶ hash ─▶ decompress ─▶ parts ─┐          (stream.rs, compression.rs)
//! caller:  hash ◀─ parts ◀─ tar entries ◀───────┘          (stream.rs, unpack.rs); that hash is a thread's as well
//!                             ├─▶ files below one folder   (folder.rs), and what they are (inventory.rs)
//!                             └─▶ what else the tar consists of                           (frame.rs)
//! ```
//! Nothing is believed before both hashes are right, so what is written must be harmless until then: it lies below
//! one folder, and every path is resolved by the kernel as if that were the root.

pub(crate) mod bounds;
pub(crate) mod changes;
pub(crate) mod compression;
mod folder;
pub(crate) mod frame;
pub(crate) mod gzip;
pub(crate) mod inventory;
mod levels;
mod stream;
mod unpack;
pub(crate) mod windows;

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::archive::FoundLayer;
use crate::error::{Error, Result};
use bounds::Meter;
use stream::Verdict;
use unpack::Trouble;

/// What a layer turned out to hold.
pub(crate) struct Unpacked {
    /// Bytes of its regular files, holes included, hard links counted once.
    pub(crate) bytes: u64,
    /// Its entries.
    pub(crate) entries: u64,
    /// Whether anything was given extended attributes.
    pub(crate) attributes_given: bool,
    /// The digest of each file's content.
    pub(crate) contents: inventory::Contents,
    /// The digest of the frame, from which the layer's tar can be made again.
    pub(crate) frame: frame::Framed,
}

/// Unpacks a layer into an empty folder and checks its digests. On an error the folder's content is worthless.
/// `trash` is another empty folder of the same file system, for what the layer itself replaces; `frame` an empty file,
/// open for reading and writing. `advanced` hears how many bytes more of the blob have gone through.
pub(crate) fn unpack(
    layer: &FoundLayer,
    into: OwnedFd,
    trash: OwnedFd,
    frame: &File,
    meter: &Meter,
    advanced: &mut dyn FnMut(u64),
) -> Result<Unpacked> {
    let mut first = [0; compression::MAGIC_BYTES];
    let mut blob = layer.blob.open().map_err(|error| not_read(layer, error))?;
    let there = read_at_most(&mut blob, &mut first).map_err(|error| not_read(layer, error))?;
    let found = compression::by_magic(&first[..there]);
    let blob = Cursor::new(first).take(there as u64).chain(blob);
    let expected = layer.compression;
    let compression = match found {
        Ok(found) if expected.is_none_or(|expected| expected == found) => found,
        found => {
            return Err(Error::WrongCompression {
                layer: layer.title.clone(),
                expected: expected.map_or("plain, gzip or zstd", compression::Compression::name),
                found: found.map_or_else(|other| other, compression::Compression::name),
            });
        }
    };
    let (outcome, verdict) = stream::run(blob, compression, meter, advanced, |stream| {
        unpack::entries(stream, into, trash, frame, meter)
    });
    judge(layer, outcome, verdict)
}

/// The first bytes; fewer only where there are fewer.
fn read_at_most(blob: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match blob.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A layer that could not be read. What comes from elsewhere has an error of this room within.
fn not_read(layer: &FoundLayer, error: io::Error) -> Error {
    match error.downcast::<Arc<Error>>() {
        Ok(source) => Error::Download { blob: layer.title.clone(), source },
        Err(error) => Error::io(format!("read {}", layer.title), error),
    }
}

/// Decides what was wrong, if something was. A damaged blob shows in several ways at once (as bad gzip, as a bad
/// entry, as a wrong diff id): the first of these that is certain is the one worth reading.
fn judge(layer: &FoundLayer, outcome: Result<Unpacked, Trouble>, verdict: Verdict) -> Result<Unpacked> {
    let title = || layer.title.clone();
    if let Err(Trouble::Host { entry, doing, source }) = outcome {
        return Err(match Error::io(format!("{doing} for {entry:?} of {}", title()), source) {
            Error::Io { source, .. } => Error::EntryRefused { layer: title(), entry, doing, source },
            full => full,
        });
    }
    if let Err(Trouble::TooMany(excess)) = outcome {
        return Err(Error::TooLarge { what: title(), source: excess });
    }
    let read = verdict.blob.as_ref().err();
    let decoded = verdict.undecodable.as_ref().map(|(_, error)| error);
    if let Some(excess) = read.or(decoded).and_then(bounds::excess) {
        return Err(Error::TooLarge { what: title(), source: excess });
    }
    let blob = verdict.blob.map_err(|source| not_read(layer, source))?;
    if let Some(expected) = layer.digest.filter(|expected| *expected != blob) {
        return Err(Error::WrongDigest { blob: title(), expected, found: blob });
    }
    if let Some((compression, source)) = verdict.undecodable {
        return Err(Error::Decompress { layer: title(), compression, source });
    }
    if verdict.diff_id != layer.diff_id {
        return Err(Error::WrongDiffId { layer: title(), expected: layer.diff_id, found: verdict.diff_id });
    }
    outcome.map_err(|trouble| match trouble {
        Trouble::Host { .. } | Trouble::TooMany(_) => unreachable!("returned above"),
        Trouble::Refused { entry, doing, source } => {
            Error::EntryRefused { layer: title(), entry, doing, source }
        }
        Trouble::Entry { entry, reason } => Error::Entry { layer: title(), entry, reason },
        Trouble::Ends { entry } => {
            Error::Truncated { origin: title(), reason: format!("it ends in or after {entry:?}") }
        }
    })
}
