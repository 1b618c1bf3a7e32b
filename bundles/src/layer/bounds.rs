//! How much may come out of an image: a few kilobytes can claim to be terabytes ("zip bombs"), or millions of empty files.
//! Does not know what the bytes are.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::windows::Windows;

/// A layer may grow by any factor up to here, bytes: a small one of zeros is no attack.
const RATIO_COUNTS_FROM_BYTES: u64 = 64 << 20;

/// What may come out of the layers of one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// All layers together, uncompressed, bytes.
    pub unpacked_bytes: u64,
    /// Each layer, uncompressed, as a multiple of its blob. Layers of programs grow three- to fivefold.
    pub ratio: u64,
    /// Names that are made, in all layers together: each file, folder and link. File systems have only so many inodes.
    pub files: u64,
}

impl Bounds {
    /// For what is no stranger's.
    pub(crate) fn none() -> Self {
        Self { unpacked_bytes: u64::MAX, ratio: u64::MAX, files: u64::MAX }
    }
}

impl Default for Bounds {
    /// 100 GiB, a ratio of 200, and 4 million files: twenty times as many as large images have.
    fn default() -> Self {
        Self { unpacked_bytes: 100 << 30, ratio: 200, files: 4_000_000 }
    }
}

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// [`Bounds::unpacked_bytes`].
    Unpacked {
        /// The bound.
        bound: u64,
    },
    /// [`Bounds::ratio`].
    Ratio {
        /// The bound.
        bound: u64,
        /// What had come out by then, bytes.
        out: u64,
        /// From so many bytes of the blob.
        taken: u64,
    },
    /// [`Bounds::files`].
    Files {
        /// The bound.
        bound: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpacked { bound } => {
                write!(formatter, "more than {bound} bytes would be unpacked, which is the bound")
            }
            Self::Ratio { bound, out, taken } => {
                write!(formatter, "{taken} bytes of it became {out}, and the bound is {bound} times as many")
            }
            Self::Files { bound } => {
                write!(formatter, "more than {bound} files would be made, which is the bound")
            }
        }
    }
}

impl std::error::Error for Excess {}

/// Measures all that comes out in one load.
#[derive(Debug)]
pub(crate) struct Meter {
    bounds: Bounds,
    out: AtomicU64,
    made: AtomicU64,
    windows: Windows,
}

impl Meter {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, out: AtomicU64::new(0), made: AtomicU64::new(0), windows: Windows::default() }
    }

    /// One more name is going to be made.
    pub(crate) fn one_more(&self) -> Result<(), Excess> {
        let bound = self.bounds.files;
        match self.made.fetch_add(1, Ordering::Relaxed) {
            before if before < bound => Ok(()),
            _ => Err(Excess::Files { bound }),
        }
    }

    /// What the decoders of one load share.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The bytes of a decoder, which has taken as many as `taken` says of its source.
    pub(crate) fn measure<'a, R: Read>(&'a self, decoder: R, taken: &'a AtomicU64) -> Measured<'a, R> {
        Measured { decoder, meter: self, taken, out: 0 }
    }
}

/// What comes out of a decoder, up to the bounds; beyond them reading fails with an [`Excess`].
pub(crate) struct Measured<'a, R> {
    decoder: R,
    meter: &'a Meter,
    taken: &'a AtomicU64,
    out: u64,
}

impl<R: Read> Read for Measured<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.out += count as u64;
        let all = self.meter.out.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let Bounds { unpacked_bytes, ratio, .. } = self.meter.bounds;
        if all > unpacked_bytes {
            return Err(io::Error::other(Excess::Unpacked { bound: unpacked_bytes }));
        }
        let taken = self.taken.load(Ordering::Relaxed);
        if self.out > RATIO_COUNTS_FROM_BYTES && self.out > taken.saturating_mul(ratio) {
            return Err(io::Error::other(Excess::Ratio { bound: ratio, out: self.out, taken }));
        }
        Ok(count)
    }
}

/// The excess that an error of reading tells of.
pub(crate) fn excess(error: &io::Error) -> Option<Excess> {
    error.get_ref()?.downcast_ref().copied()
}

/// Counts what a decoder takes.
pub(crate) struct Counting<'a, S> {
    pub(crate) inner: S,
    pub(crate) counted: &'a AtomicU64,
}

impl<S: BufRead> Read for Counting<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.counted.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<S: BufRead> BufRead for Counting<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.counted.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
