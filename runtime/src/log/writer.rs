//! Takes what a service writes to its two outputs and appends it to a file, record by record.
//! It knows neither who polls the outputs nor when a service begins and ends; why nothing is lost or doubled when the
//! supervisor is killed in the middle of it is told in `staging.rs`.
//!
//! The service must never wait for its log. So whatever becomes of the file, the outputs are drained: on a full disk
//! records are dropped and counted, and one record says so once there is room again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::io::Errno;

use super::rotation::rotate;
use super::staging::{Begun, Intent, MOVED_BYTES};
use super::{Journal, PIECE_BYTES, Record, Rotation, Staging, Stream, crash_point, crash_within, encode};
use crate::error::Error;

/// How often an output is read before the caller gets a turn; a service that writes without pause must not keep the
/// supervisor from everything else.
const READS_MAX: usize = 4;
/// The same for what is left when the service has ended: far more than a pipe can hold.
const LAST_READS_MAX: usize = 1000;
/// How many lines are kept in memory for messages.
const TAIL_LINES: usize = 20;
/// How much of such a line.
const TAIL_LINE_BYTES: usize = 2000;
/// A buffer that has grown beyond this, by a service's very short lines, is given back.
const BATCH_BYTES_KEPT: usize = 256 * 1024;

/// What is left of an output after it was drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// There may be more, now or later.
    Open,
    /// Nobody can write to it any more.
    Ended,
}

/// Appends a service's output to a file.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    rotation: Rotation,
    staging: Staging,
    /// What was read of a line whose end was not: stdout's and stderr's.
    begun: [Begun; 2],
    /// Records that are ready to be written.
    batch: Vec<u8>,
    /// How many they are.
    batch_records: u64,
    /// Records that could not be written since the last one that could.
    dropped: u64,
    /// Why not: an error number.
    dropped_why: Option<i32>,
    tail: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
    journal: Option<Journal>,
}

impl LogWriter {
    /// Opens a file for appending; makes it when there is none, readable by its owner and group.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open(path: &Path, rotation: Rotation) -> Result<Self, Error> {
        let staging = Staging::new().map_err(|source| Error::Io { doing: "open a log", source })?;
        Self::with(path, rotation, staging)
    }

    /// Goes on where a writer that was killed has stopped; `staging` was its.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn resume(path: &Path, rotation: Rotation, staging: Staging) -> Result<Self, Error> {
        let mut writer = Self::with(path, rotation, staging)?;
        writer.finish_interrupted().map_err(|source| Error::Io { doing: "go on with a log", source })?;
        Ok(writer)
    }

    fn with(path: &Path, rotation: Rotation, staging: Staging) -> Result<Self, Error> {
        let file = open_file(path).map_err(|source| Error::Io { doing: "open a log", source })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            rotation,
            staging,
            begun: Default::default(),
            batch: Vec::new(),
            batch_records: 0,
            dropped: 0,
            dropped_why: None,
            tail: VecDeque::new(),
            buffer: Vec::new(),
            journal: None,
        })
    }

    /// The same, with every line handed to the host's journal too. What is done again after a kill is not: the journal
    /// is a copy that may lack lines.
    #[must_use]
    pub fn with_journal(self, journal: Option<Journal>) -> Self {
        Self { journal, ..self }
    }

    /// What must outlive this process for [`LogWriter::resume`], by name.
    #[must_use]
    pub fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        self.staging.descriptors()
    }

    /// Takes what an output holds, without waiting, up to a bound; the descriptor must be a non-blocking one. What was
    /// begun of a line is kept by stream and not by descriptor, so the descriptor may be another one next time.
    ///
    /// # Errors
    /// What splice(2) says. Failing to write the log is no error here; see the head of this file.
    pub fn drain(&mut self, stream: Stream, source: BorrowedFd<'_>) -> io::Result<Drained> {
        for _ in 0..READS_MAX {
            match self.take(stream, source)? {
                Some(0) => {
                    self.end_line(stream);
                    return Ok(Drained::Ended);
                }
                Some(MOVED_BYTES) => {}
                _ => return Ok(Drained::Open),
            }
        }
        Ok(Drained::Open)
    }

    /// Takes all that an output holds: to be called when the service has ended.
    ///
    /// # Errors
    /// As [`LogWriter::drain`].
    pub fn drain_rest(&mut self, stream: Stream, source: BorrowedFd<'_>) -> io::Result<()> {
        for _ in 0..LAST_READS_MAX {
            if matches!(self.take(stream, source)?, Some(0) | None) {
                break;
            }
        }
        Ok(())
    }

    /// Writes a line of opsrun's own among the service's, as if it came from stderr.
    pub fn remark(&mut self, text: &str) {
        let time = text_of(now_ns());
        self.record(&time, Stream::Stderr, true, text.as_bytes(), false);
        self.write_batch(&Intent::default(), 0);
    }

    /// Writes what was begun of a line on either stream: to be called when the service has ended.
    pub fn finish(&mut self) {
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
    }

    /// The last lines of both streams, oldest first, shortened where very long.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.tail.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Forgets the lines kept for [`LogWriter::last_lines`]: at the start of another container.
    pub fn forget_lines(&mut self) {
        self.tail.clear();
    }

    /// Takes what one move gives: how much; 0 at the end, `None` when there is nothing now.
    fn take(&mut self, stream: Stream, source: BorrowedFd<'_>) -> io::Result<Option<usize>> {
        let intent = self.intend(stream, false);
        let moved = loop {
            match self.staging.fill(source) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                moved => break moved?,
            }
        };
        if moved > 0 {
            self.write_staged(&intent, 0)?;
        }
        Ok(Some(moved))
    }

    fn end_line(&mut self, stream: Stream) {
        let begun = &self.begun[stream as usize];
        if begun.continued || !begun.text.is_empty() {
            let intent = self.intend(stream, true);
            // OK to ignore: nothing is staged.
            let _ = self.write_staged(&intent, 0);
        }
    }

    /// Says what is about to be done, before it is.
    fn intend(&mut self, stream: Stream, ends: bool) -> Intent {
        if self.file.metadata().is_ok_and(|file| file.nlink() == 0) {
            // Somebody has removed the file; what would be written to it nobody could read.
            if let Ok(file) = open_file(&self.path) {
                self.file = file;
            }
        }
        let (inode, length) = self.place();
        let intent = Intent {
            stream,
            ends,
            time_ns: now_ns(),
            inode,
            length,
            dropped: self.dropped,
            dropped_errno: self.dropped_why.unwrap_or(0),
        };
        crash_point();
        self.staging.open(intent.clone());
        crash_point();
        intent
    }

    /// Does what a writer was doing when it was killed.
    fn finish_interrupted(&mut self) -> io::Result<()> {
        let (begun, intent) = self.staging.recover()?;
        self.begun = begun;
        let Some(mut intent) = intent else {
            self.end_torn_record();
            return Ok(());
        };
        self.dropped = intent.dropped;
        self.dropped_why = (intent.dropped_errno != 0).then_some(intent.dropped_errno);
        let (inode, length) = self.place();
        let already = match length.checked_sub(intent.length) {
            Some(already) if inode == intent.inode => already,
            // The file is a new one, in which there is nothing of it yet.
            _ => {
                (intent.inode, intent.length) = (inode, length);
                self.staging.open(intent.clone());
                0
            }
        };
        self.write_staged(&intent, usize::try_from(already).unwrap_or(usize::MAX))
    }

    /// Makes records of what is staged, writes them but for what is in the file already, and forgets it.
    fn write_staged(&mut self, intent: &Intent, already: usize) -> io::Result<()> {
        crash_point();
        let mut buffer = std::mem::take(&mut self.buffer);
        let looked = self.staging.look(&mut buffer);
        let time = text_of(intent.time_ns);
        for part in buffer.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.add(intent.stream, text, ends, &time);
        }
        self.buffer = buffer;
        looked?;
        if intent.ends {
            self.add(intent.stream, b"", true, &time);
        }
        self.write_batch(intent, already);
        crash_point();
        self.staging.done(&self.begun[intent.stream as usize]);
        crash_point();
        self.staging.empty()
    }

    /// Adds to the line that was begun on a stream, and makes records of it as far as it is known.
    fn add(&mut self, stream: Stream, text: &[u8], ends: bool, time: &str) {
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        begun.text.extend_from_slice(text);
        let mut rest = begun.text.as_slice();
        while rest.len() > PIECE_BYTES {
            let (piece, behind) = rest.split_at(PIECE_BYTES);
            self.record(time, stream, false, piece, begun.continued);
            begun.continued = true;
            rest = behind;
        }
        if ends {
            self.record(time, stream, true, rest, begun.continued);
            begun.continued = false;
            begun.text.clear();
        } else {
            let done = begun.text.len() - rest.len();
            begun.text.drain(..done);
        }
        self.begun[stream as usize] = begun;
    }

    fn record(&mut self, time: &str, stream: Stream, full: bool, text: &[u8], continued: bool) {
        encode(&mut self.batch, &Record { time: time.as_bytes(), stream, full, text });
        self.batch_records += 1;
        if let Some(journal) = &self.journal {
            journal.line(stream, text);
        }
        if continued {
            return;
        }
        let mut line = if self.tail.len() == TAIL_LINES { self.tail.pop_front() } else { None };
        let kept = line.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(&text[..text.len().min(TAIL_LINE_BYTES)]);
        self.tail.extend(line);
    }

    /// Writes the batch at once, so that a reader seldom meets half a record, behind a word about what was dropped. So
    /// many bytes of all that are in the file `already`.
    fn write_batch(&mut self, intent: &Intent, already: usize) {
        if self.batch.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        let mut records = self.batch_records;
        if let Some(why) = self.dropped_why {
            let time = if intent.time_ns == 0 { text_of(now_ns()) } else { text_of(intent.time_ns) };
            let why = io::Error::from_raw_os_error(why);
            let text = format!("opsrun: {} lines of output were lost: {why}", self.dropped);
            let record =
                Record { time: time.as_bytes(), stream: Stream::Stderr, full: true, text: text.as_bytes() };
            encode(&mut bytes, &record);
            records += 1;
        }
        bytes.append(&mut self.batch);
        if already == 0 {
            self.rotate_for(bytes.len(), intent);
        }
        let remarked = self.dropped_why.is_some();
        match self.append(&bytes[already.min(bytes.len())..]) {
            Ok(()) => (self.dropped, self.dropped_why) = (0, None),
            Err((written, why)) => {
                // Once the remark is in the file it has told of all that was dropped before.
                let before = if remarked && written > 0 { 0 } else { self.dropped };
                self.dropped = before + records - written - u64::from(remarked && written == 0);
                self.dropped_why = Some(why.raw_os_error().unwrap_or(0));
            }
        }
        bytes.clear();
        bytes.shrink_to(BATCH_BYTES_KEPT);
        self.batch = bytes;
        self.batch_records = 0;
    }

    /// Begins another file when so many bytes more would be too many for this one.
    fn rotate_for(&mut self, more: usize, intent: &Intent) {
        let (_, length) = self.place();
        if length == 0 || length.saturating_add(more as u64) <= self.rotation.bytes_max {
            return;
        }
        crash_point();
        // A file that grows too large is better than output that is lost.
        let Ok(file) = rotate(&self.path, self.rotation.files_max).and_then(|()| open_file(&self.path))
        else {
            return;
        };
        crash_point();
        self.file = file;
        if intent.time_ns != 0 {
            let (inode, length) = self.place();
            self.staging.open(Intent { inode, length, ..intent.clone() });
            crash_point();
        }
    }

    /// Appends records, or as many whole ones as fit; then says how many and why no more.
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        if let Some(cut) = crash_within(bytes.len()) {
            let _ = self.file.write(&bytes[..cut.min(bytes.len())]);
            crash_point();
        }
        let mut done = 0;
        let why = loop {
            if done == bytes.len() {
                return Ok(());
            }
            match self.file.write(&bytes[done..]) {
                Ok(0) => break io::Error::from(io::ErrorKind::WriteZero),
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        // A full disk takes part of a record. It is cut off again, so that the next one begins a line.
        let whole = bytes[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < done
            && let Ok(metadata) = self.file.metadata()
        {
            let _ = self.file.set_len(metadata.len().saturating_sub((done - whole) as u64));
        }
        let records = bytes[..whole].iter().filter(|byte| **byte == b'\n').count();
        Err((records as u64, why))
    }

    /// The file's inode and length.
    fn place(&self) -> (u64, u64) {
        self.file.metadata().map_or((0, 0), |file| (file.ino(), file.len()))
    }

    /// A record of opsrun's own, or the last one before the machine went down, may lack its end.
    fn end_torn_record(&mut self) {
        let (_, length) = self.place();
        let mut last = [0];
        let Some(at) = length.checked_sub(1) else { return };
        let read = File::open(&self.path).and_then(|file| file.read_exact_at(&mut last, at));
        if read.is_ok() && last != *b"\n" {
            let _ = self.file.write(b"\n");
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = fs_err::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    Ok(file.into_file())
}

fn now_ns() -> i64 {
    Utc::now().timestamp_nanos_opt().unwrap_or_default()
}

/// The time as records have it: all of the same length, so that they sort as text.
fn text_of(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
