//! A service's output on disk: one file per generation, written by the supervisor, read by anyone at any time.
//! It knows nothing of containers; a stream is a descriptor.
//!
//! A line of a file is a record in the log format of Kubernetes' container runtimes, so that what reads those reads
//! these (`cri-api`, "CRI Container Log"):
//!
//! ```text
//! 2026-11-23T06:00:00.123456789Z stdout F a line of the service
//! 2026-11-23T06:00:00.123456789Z stderr P the first piece of a line that is longer than a record may be
//! ```
//!
//! `P` says that the line goes on in the next record of the same stream. The time is the one at which opsrun read the
//! line, in UTC.

mod journal;
mod reader;
mod rotation;
mod staging;
mod writer;

pub use journal::Journal;
pub use reader::{Options, read, remove_before};
pub use rotation::Rotation;
pub use staging::Staging;
pub use writer::{Drained, LogWriter};

/// A longer line is cut into pieces of this many bytes, as other container runtimes do.
const PIECE_BYTES: usize = 16 * 1024;

/// Which of a service's two outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Descriptor 1.
    #[default]
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// As records have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A record of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record<'a> {
    time: &'a [u8],
    stream: Stream,
    /// Whether its line ends here.
    full: bool,
    text: &'a [u8],
}

/// Appends a record, with its newline.
fn encode(into: &mut Vec<u8>, record: &Record<'_>) {
    into.extend_from_slice(record.time);
    into.push(b' ');
    into.extend_from_slice(record.stream.name().as_bytes());
    into.extend_from_slice(if record.full { b" F " } else { b" P " });
    into.extend_from_slice(record.text);
    into.push(b'\n');
}

/// Reads a record, without its newline; `None` for what is none, such as the rest of a line that lost its head when
/// the machine went down.
fn decode(line: &[u8]) -> Option<Record<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = fields.next().filter(|time| time.first().is_some_and(u8::is_ascii_digit))?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record { time, stream, full, text: fields.next()? })
}

/// Where a test has the process end.
#[cfg(not(test))]
fn crash_point() {}

/// How much of a write is still done where a test has the process end within it.
#[cfg(not(test))]
fn crash_within(_length: usize) -> Option<usize> {
    None
}

#[cfg(test)]
use crashes::{crash_point, crash_within};

#[cfg(test)]
mod crashes {
    use std::cell::Cell;

    thread_local! {
        /// Points that are still passed; `None`: all of them.
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Has this thread panic at the point after so many others.
    pub(super) fn crash_after(points: Option<u32>) {
        LEFT.set(points);
    }

    pub(super) fn crash_point() {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                // Unlike panic!, it says nothing: thousands of these are wanted.
                std::panic::resume_unwind(Box::new("a crash"));
            }
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }

    pub(super) fn crash_within(length: usize) -> Option<usize> {
        match LEFT.get() {
            Some(0) => Some(length / 2 + 1),
            left => {
                LEFT.set(left.map(|left| left - 1));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for (full, text) in [(true, &b"a  line "[..]), (false, b""), (true, b"\xff\r")] {
            let record =
                Record { time: b"2026-11-23T06:00:00.123456789Z", stream: Stream::Stderr, full, text };
            let mut line = Vec::new();
            encode(&mut line, &record);
            assert_eq!(line.pop(), Some(b'\n'));
            assert_eq!(decode(&line), Some(record));
        }
        assert_eq!(decode(b"the rest of a line"), None);
    }
}
