//! Takes what a service writes to its two outputs and appends it to a file, record by record.
//! It knows neither who polls the outputs nor when a service begins and ends.
//!
//! The service must never wait for its log. So whatever becomes of the file, the outputs are drained: on a full disk
//! records are dropped and counted, and one record says so once there is room again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::io::Errno;

use super::{Journal, Record, Stream, encode};
use crate::error::Error;

/// A longer line is cut into pieces of this many bytes, as other container runtimes do.
const PIECE_BYTES: usize = 16 * 1024;
/// How much is taken from an output at once, and so at most written at once.
const READ_BYTES: usize = 32 * 1024;
/// How often an output is read before the caller gets a turn; a service that writes without pause must not keep the
/// supervisor from everything else.
const READS_MAX: usize = 8;
/// How many lines are kept in memory for messages.
const TAIL_LINES: usize = 20;
/// How much of such a line.
const TAIL_LINE_BYTES: usize = 2000;

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
    file: File,
    /// What was read of a line whose end was not: stdout's and stderr's.
    begun: [Begun; 2],
    /// Records that are ready to be written.
    batch: Vec<u8>,
    /// How many they are.
    batch_records: u64,
    /// Records that could not be written since the last one that could.
    dropped: u64,
    /// Why not.
    dropped_why: Option<io::Error>,
    tail: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
    journal: Option<Journal>,
}

#[derive(Debug, Default)]
struct Begun {
    text: Vec<u8>,
    /// Whether a piece of this line was written before.
    continued: bool,
}

impl LogWriter {
    /// Opens a file for appending; makes it when there is none, readable by its owner and group.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
            .map_err(|source| Error::Io { doing: "open a log", source })?;
        Ok(Self {
            file: file.into_file(),
            begun: [Begun::default(), Begun::default()],
            batch: Vec::new(),
            batch_records: 0,
            dropped: 0,
            dropped_why: None,
            tail: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            journal: None,
        })
    }

    /// The same, with every line handed to the host's journal too.
    #[must_use]
    pub fn with_journal(self, journal: Option<Journal>) -> Self {
        Self { journal, ..self }
    }

    /// Takes what an output holds, without waiting, up to a bound; the descriptor must be non-blocking. What was begun
    /// of a line is kept by stream and not by descriptor, so the descriptor may be another one next time.
    ///
    /// # Errors
    /// What read(2) says. Failing to write the log is no error here; see the head of this file.
    pub fn drain(&mut self, stream: Stream, source: BorrowedFd<'_>) -> io::Result<Drained> {
        for _ in 0..READS_MAX {
            let mut buffer = std::mem::take(&mut self.buffer);
            let length = rustix::io::read(source, &mut buffer[..]);
            let taken = length.map(|length| self.take(stream, &buffer[..length]));
            self.buffer = buffer;
            match (length, taken) {
                (Ok(0), _) => {
                    self.end_line(stream);
                    return Ok(Drained::Ended);
                }
                (Ok(length), _) if length < READ_BYTES => return Ok(Drained::Open),
                (Ok(_), _) | (Err(Errno::INTR), _) => {}
                (Err(Errno::AGAIN), _) => return Ok(Drained::Open),
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(Drained::Open)
    }

    /// Writes a line of opsrun's own among the service's, as if it came from stderr.
    pub fn remark(&mut self, text: &str) {
        self.take(Stream::Stderr, format!("{text}\n").as_bytes());
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

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let time = now();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.add(stream, text, ends, &time);
        }
        self.write_batch();
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

    fn end_line(&mut self, stream: Stream) {
        let begun = &self.begun[stream as usize];
        if begun.continued || !begun.text.is_empty() {
            self.add(stream, b"", true, &now());
            self.write_batch();
        }
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
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text[..text.len().min(TAIL_LINE_BYTES)].to_vec());
    }

    /// Writes the batch at once, so that a reader seldom meets half a record, behind a word about what was dropped.
    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        let mut records = self.batch_records;
        if let Some(why) = &self.dropped_why {
            let time = now();
            let text = format!("opsrun: {} lines of output were lost: {why}", self.dropped);
            let record =
                Record { time: time.as_bytes(), stream: Stream::Stderr, full: true, text: text.as_bytes() };
            encode(&mut bytes, &record);
            records += 1;
        }
        bytes.append(&mut self.batch);
        let remarked = self.dropped_why.is_some();
        match self.append(&bytes) {
            Ok(()) => (self.dropped, self.dropped_why) = (0, None),
            Err((written, why)) => {
                // Once the remark is in the file it has told of all that was dropped before.
                let before = if remarked && written > 0 { 0 } else { self.dropped };
                self.dropped = before + records - written - u64::from(remarked && written == 0);
                self.dropped_why = Some(why);
            }
        }
        self.batch = bytes;
        self.batch.clear();
        self.batch_records = 0;
    }

    /// Appends records, or as many whole ones as fit; then says how many and why no more.
    fn append(&mut self, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        let mut done = 0;
        let why = loop {
            match self.file.write(&bytes[done..]) {
                Ok(0) => break io::Error::from(io::ErrorKind::WriteZero),
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if done == bytes.len() {
                return Ok(());
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
}

/// The time as records have it: all of the same length, so that they sort as text.
fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::super::decode;
    use super::*;

    struct Fixture {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        writer: LogWriter,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("1.log");
        let writer = LogWriter::open(&path).expect("a log");
        Fixture { _folder: folder, path, writer }
    }

    impl Fixture {
        /// Stream, fullness and text of each record.
        fn records(&self) -> Vec<(Stream, bool, String)> {
            let bytes = std::fs::read(&self.path).expect("the log");
            assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "half a record at the end");
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines
                .map(|line| {
                    let record = decode(line).expect("a record");
                    assert_eq!(record.time.len(), 30);
                    (record.stream, record.full, String::from_utf8_lossy(record.text).into_owned())
                })
                .collect()
        }
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe")
    }

    fn write(pipe: &OwnedFd, text: &[u8]) {
        assert_eq!(rustix::io::write(pipe, text), Ok(text.len()));
    }

    #[test]
    fn lines_of_both_streams_become_records() {
        let mut it = fixture();
        let (out_read, out) = pipe();
        let (err_read, err) = pipe();
        write(&out, b"one\ntw");
        write(&err, b"bad\n");
        assert_eq!(it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read"), Drained::Open);
        assert_eq!(it.writer.drain(Stream::Stderr, err_read.as_fd()).expect("read"), Drained::Open);
        // The rest comes through another pipe, as after a supervisor was replaced.
        let (out_read, out) = pipe();
        write(&out, b"o\n\nthree");
        drop(out);
        it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read");
        assert_eq!(it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read"), Drained::Ended);

        let expected = [
            (Stream::Stdout, "one"),
            (Stream::Stderr, "bad"),
            (Stream::Stdout, "two"),
            (Stream::Stdout, ""),
            (Stream::Stdout, "three"),
        ];
        assert_eq!(it.records(), expected.map(|(stream, text)| (stream, true, text.to_string())));
        assert_eq!(it.writer.last_lines(), ["one", "bad", "two", "", "three"]);
    }

    #[test]
    fn an_overlong_line_comes_in_pieces() {
        let mut it = fixture();
        let line = "x".repeat(2 * PIECE_BYTES + 5);
        for part in line.as_bytes().chunks(5000) {
            it.writer.take(Stream::Stdout, part);
        }
        it.writer.take(Stream::Stdout, b"\nshort\n");
        let lengths: Vec<_> = it.records().into_iter().map(|(_, full, text)| (full, text.len())).collect();
        assert_eq!(lengths, [(false, PIECE_BYTES), (false, PIECE_BYTES), (true, 5), (true, 5)]);
        assert_eq!(it.writer.last_lines().len(), 2);
        assert!(it.writer.begun[0].text.capacity() < 4 * PIECE_BYTES);
    }

    #[test]
    fn an_unfinished_line_is_written_at_the_end() {
        let mut it = fixture();
        it.writer.take(Stream::Stderr, b"Segmentation f");
        assert!(it.records().is_empty());
        it.writer.finish();
        it.writer.finish();
        assert_eq!(it.records(), [(Stream::Stderr, true, "Segmentation f".to_string())]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut it = fixture();
        for number in 0..50 {
            it.writer.take(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        let expected: Vec<String> = (30..50).map(|number: i32| number.to_string()).collect();
        assert_eq!(it.writer.last_lines(), expected);
    }

    #[test]
    fn a_busy_output_gives_the_caller_a_turn() {
        let mut it = fixture();
        let zero = File::open("/dev/zero").expect("an output without end");
        assert_eq!(it.writer.drain(Stream::Stdout, zero.as_fd()).expect("read"), Drained::Open);
    }

    #[test]
    fn a_disk_that_fills_up_ends_the_file_with_a_whole_record() {
        // In a mount namespace of this thread's own, so that the small disk is gone when the thread is.
        let test = std::thread::spawn(|| {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("this test needs root");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
            let folder = tempfile::tempdir().expect("a folder");
            mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=16k"))
                .expect("tmpfs");
            let path = folder.path().join("1.log");
            let mut it = Fixture { writer: LogWriter::open(&path).expect("a log"), path, _folder: folder };

            let line = format!("{}\n", "x".repeat(99));
            let in_all = 200;
            it.writer.take(Stream::Stdout, line.repeat(in_all).as_bytes());
            let written = it.records().len();
            assert!(written > 50 && written < in_all, "{written}");
            assert_eq!(it.writer.dropped, (in_all - written) as u64);

            it.writer.file.set_len(0).expect("room again");
            it.writer.take(Stream::Stdout, b"after\n");
            let texts: Vec<String> = it.records().into_iter().map(|record| record.2).collect();
            assert!(texts[0].starts_with(&format!("opsrun: {} lines", in_all - written)), "{}", texts[0]);
            assert_eq!(texts[1], "after");
            nix::mount::umount2(it._folder.path(), nix::mount::MntFlags::MNT_DETACH).expect("umount");
        });
        test.join().expect("the test");
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_told() {
        let mut it = fixture();
        it.writer.take(Stream::Stdout, b"before\n");
        let good = std::mem::replace(
            &mut it.writer.file,
            File::options().write(true).open("/dev/full").expect("full"),
        );
        let (read, write_end) = pipe();
        write(&write_end, b"lost\nlost too\n");
        assert_eq!(it.writer.drain(Stream::Stdout, read.as_fd()).expect("no error"), Drained::Open);
        it.writer.take(Stream::Stdout, b"lost as well\n");
        it.writer.file = good;
        it.writer.take(Stream::Stdout, b"after\n");

        let texts: Vec<String> = it.records().into_iter().map(|record| record.2).collect();
        assert_eq!(texts.len(), 3);
        assert_eq!([&texts[0], &texts[2]], ["before", "after"]);
        assert!(texts[1].starts_with("opsrun: 3 lines of output were lost: No space left"), "{}", texts[1]);
    }
}
