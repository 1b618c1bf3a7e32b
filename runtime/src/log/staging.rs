//! Where a service's output is between its pipe and its file, so that a supervisor which is killed at any instruction
//! loses no byte of it and leaves none twice. It knows neither records nor files.
//!
//! What is read from a pipe is gone from it, and what is not in the file yet is lost with the reader. What is looked at
//! with tee(2), written, and only then taken out of the pipe comes twice when the reader dies in between, and nobody can
//! tell: the service goes on writing, so the pipe's length says nothing, and lines may be alike, so that comparing the
//! file's end with the pipe's beginning says nothing either. Hence two more descriptors that outlive the supervisor, as
//! the pipes do:
//!
//! - a second pipe, into which *moving* output by splice(2) is one step in the kernel, and which nobody else touches;
//! - a memory file, the *cursor*, whose first bytes are replaced by one write(2) within one page: wholly or not at all.
//!
//! ```text
//!   1 cursor: open (file and its length, time, what was begun of a line)    killed: nothing has happened
//!   2 splice: the service's pipe → the second pipe                          killed: done again from the second pipe
//!   3 tee, read: looked at, made into records
//!   4 records appended to the file                                          killed, even halfway: made again, being the
//!                                                                           same bytes, and only what is missing appended
//!   5 cursor: done (what is begun of a line now)                            killed: the second pipe is emptied
//!   6 the second pipe emptied
//! ```
//!
//! Each step is one system call, or touches nothing that stays. Everything that the records are made of is in the
//! cursor and in the second pipe, the time included, so 4 can be repeated to the byte. Both count only for who is handed
//! them: nobody keeps them for the next supervisor yet, which begins with new ones. If the machine goes down all of
//! this is gone with the service itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::{Errno, pread, pwrite};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice, tee};

use super::{PIECE_BYTES, Stream};

/// How much is moved at once: all that fits into a pipe, unless the service has made it larger.
pub(super) const MOVED_BYTES: usize = 64 * 1024;
/// Format of the cursor, in its first word.
const VERSION: u64 = 1;
/// Words of the cursor's head.
const WORDS: usize = 13;
/// Where the begun lines are: two places for each stream, used in turn.
const TEXTS_AT: u64 = 4096;

/// A line whose end has not come yet; never longer than a record's piece.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    /// What there is of it, beyond the pieces that are written.
    pub text: Vec<u8>,
    /// Whether a piece of this line was written before.
    pub continued: bool,
}

/// What is about to be appended to a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Intent {
    pub stream: Stream,
    /// Whether the line on this stream ends here although no line break came.
    pub ends: bool,
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// The file's inode, and how long it was before.
    pub inode: u64,
    pub length: u64,
    /// Records that could not be written before, and the error number why.
    pub dropped: u64,
    pub dropped_errno: i32,
}

/// The second pipe and the cursor of one generation.
#[derive(Debug)]
pub struct Staging {
    /// Both its ends.
    pipe: OwnedFd,
    cursor: OwnedFd,
    /// What is looked at comes through here.
    look: (OwnedFd, OwnedFd),
    null: File,
    intent: Intent,
    /// In which of its two places each stream's begun line is.
    places: [u64; 2],
    begun: [(usize, bool); 2],
}

impl Staging {
    /// An empty one.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        let (pipe, _) = pipe_with(PipeFlags::CLOEXEC)?;
        let cursor = memfd_create("opsrun-log-cursor", MemfdFlags::CLOEXEC)?;
        Self::of(&pipe, cursor)
    }

    /// The one that these descriptors belong to.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn of(pipe: &OwnedFd, cursor: OwnedFd) -> io::Result<Self> {
        // Opened for both reading and writing a pipe never blocks and never ends (fifo(7)).
        let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(Self {
            pipe: rustix::fs::open(path, flags, Mode::empty())?,
            cursor,
            look: pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
            null: File::options().write(true).open("/dev/null")?,
            intent: Intent::default(),
            places: [0; 2],
            begun: [(0, false); 2],
        })
    }

    /// What must outlive the supervisor.
    pub(super) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        [("staging", self.pipe.as_fd()), ("cursor", self.cursor.as_fd())]
    }

    /// Step 1, and again whenever the file became another one before anything was appended to it.
    pub(super) fn open(&mut self, intent: Intent) {
        self.intent = intent;
        self.write_head(true);
    }

    /// Step 2: how much was moved; 0 when all writers have closed the source.
    pub(super) fn fill(&self, source: BorrowedFd<'_>) -> Result<usize, Errno> {
        splice(source, None, &self.pipe, None, MOVED_BYTES, SpliceFlags::NONBLOCK)
    }

    /// Step 3: all that the second pipe holds.
    pub(super) fn look(&self, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        let length = self.held()?;
        if length == 0 {
            return Ok(());
        }
        let looked = tee(&self.pipe, &self.look.1, length, SpliceFlags::NONBLOCK)?;
        into.resize(looked, 0);
        let mut done = 0;
        while done < looked {
            done += rustix::io::read(&self.look.0, &mut into[done..])?;
        }
        Ok(())
    }

    /// Step 5: what was intended is done, and this is begun of a line of its stream now.
    pub(super) fn done(&mut self, begun: &Begun) {
        let stream = self.intent.stream as usize;
        if !begun.text.is_empty() || self.begun[stream].0 > 0 {
            // Beside the text that counts until the head is replaced.
            self.places[stream] ^= 1;
            // OK to ignore: without memory for it a kill loses this line, and nothing else would be better for waiting.
            let _ = pwrite(&self.cursor, &begun.text, self.text_at(stream));
        }
        self.begun[stream] = (begun.text.len(), begun.continued);
        self.write_head(false);
    }

    /// Step 6.
    pub(super) fn empty(&self) -> io::Result<()> {
        while self.held()? > 0 {
            splice(&self.pipe, None, &self.null, None, MOVED_BYTES, SpliceFlags::NONBLOCK)?;
        }
        Ok(())
    }

    /// After another process was killed: what is begun of each stream's line, and what is to be done again, from the
    /// second pipe.
    pub(super) fn recover(&mut self) -> io::Result<([Begun; 2], Option<Intent>)> {
        let mut head = [0; WORDS * 8];
        if pread(&self.cursor, &mut head[..], 0)? < head.len() {
            self.empty()?;
            return Ok(Default::default());
        }
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("OK because a chunk has 8 bytes"));
        }
        let [version, open, stream, ends, time, inode, length, dropped, errno, lengths @ ..] = words;
        if version != VERSION {
            return Err(unknown(version));
        }
        self.intent = Intent {
            stream: if stream == 0 { Stream::Stdout } else { Stream::Stderr },
            ends: ends == 1,
            time_ns: time.cast_signed(),
            inode,
            length,
            dropped,
            dropped_errno: i32::try_from(errno).unwrap_or(0),
        };
        let mut begun = <[Begun; 2]>::default();
        for (index, begun) in begun.iter_mut().enumerate() {
            let length = usize::try_from(lengths[index * 2] >> 1).unwrap_or(0).min(PIECE_BYTES);
            self.places[index] = lengths[index * 2] & 1;
            begun.continued = lengths[index * 2 + 1] == 1;
            self.begun[index] = (length, begun.continued);
            begun.text.resize(length, 0);
            let read = pread(&self.cursor, &mut begun.text[..], self.text_at(index))?;
            begun.text.truncate(read);
        }
        if open == 1 && (self.intent.ends || self.held()? > 0) {
            return Ok((begun, Some(self.intent.clone())));
        }
        self.empty()?;
        Ok((begun, None))
    }

    /// Whether its cursor is of a form that can be gone on with.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn is_known(&self) -> io::Result<()> {
        let mut version = [0; 8];
        let read = pread(&self.cursor, &mut version[..], 0)?;
        match u64::from_le_bytes(version) {
            found if read > 0 && found != VERSION => Err(unknown(found)),
            _ => Ok(()),
        }
    }

    fn held(&self) -> io::Result<usize> {
        Ok(usize::try_from(rustix::io::ioctl_fionread(&self.pipe)?).unwrap_or(usize::MAX))
    }

    fn text_at(&self, stream: usize) -> u64 {
        TEXTS_AT + (stream as u64 * 2 + self.places[stream]) * PIECE_BYTES as u64
    }

    fn write_head(&self, open: bool) {
        let Intent { stream, ends, time_ns, inode, length, dropped, dropped_errno } = self.intent;
        let mut words = [0; WORDS];
        words[..9].copy_from_slice(&[
            VERSION,
            u64::from(open),
            stream as u64,
            u64::from(ends),
            time_ns.cast_unsigned(),
            inode,
            length,
            dropped,
            u64::from(dropped_errno.unsigned_abs()),
        ]);
        for (index, (length, continued)) in self.begun.iter().enumerate() {
            words[9 + index * 2] = (*length as u64) << 1 | self.places[index];
            words[10 + index * 2] = u64::from(*continued);
        }
        let mut head = [0; WORDS * 8];
        for (bytes, word) in head.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        // OK to ignore: as above. A write within one page is not cut short by a signal (generic_perform_write).
        let _ = pwrite(&self.cursor, &head, 0);
    }
}

fn unknown(version: u64) -> io::Error {
    io::Error::other(format!("the cursor is of version {version}, known is {VERSION}"))
}
