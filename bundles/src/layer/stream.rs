//! Moves a layer's bytes from its blob to whoever unpacks it: one thread reads, hashes and decompresses, the other
//! hashes what came out and uses it. Memory is bounded by the parts that are on the way.
//! Does not know what the bytes are.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::compression::{self, Compression};
use crate::digest::{Digest, Hasher, Hashing};
use crate::store::Progress;
use crate::tape::Skip;

/// Large enough that handing over costs nothing, small enough to stay in the processor's cache.
const PART_BYTES: usize = 256 << 10;
/// How many parts wait; the two sides rarely go equally fast.
const PARTS_MAX: usize = 8;

/// What is known of a layer once it has gone through.
pub(super) struct Verdict {
    /// The digest of the blob, or why it could not be read.
    pub(super) blob: io::Result<Digest>,
    /// Why it could not be decompressed to its end, and what it is compressed with.
    pub(super) undecodable: Option<(&'static str, io::Error)>,
    /// The digest of what came out.
    pub(super) diff_id: Digest,
}

/// Some uncompressed bytes, and how many bytes of the blob they took.
struct Part {
    bytes: Vec<u8>,
    blob_bytes: u64,
}

/// The uncompressed bytes, for the one that unpacks them.
pub(super) struct Stream<'a> {
    parts: Receiver<Part>,
    used: SyncSender<Vec<u8>>,
    part: Vec<u8>,
    at: usize,
    hasher: Hasher,
    progress: &'a mut dyn Progress,
}

/// Runs a blob through `consume`, and then the rest that it left. If `consume` says that going on is of no use
/// ([`Hopeless`]), the rest is left. The blob has `whole` bytes.
pub(super) fn run<T, E: Hopeless>(
    blob: impl Read + Send,
    whole: u64,
    compression: Compression,
    progress: &mut dyn Progress,
    consume: impl FnOnce(&mut Stream) -> Result<T, E>,
) -> (Result<T, E>, Verdict) {
    let (parts_in, parts) = sync_channel(PARTS_MAX);
    let (used, used_out) = sync_channel(PARTS_MAX);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(blob, whole, compression, parts_in, used_out, &stop));
        let mut stream = Stream { parts, used, part: Vec::new(), at: 0, hasher: Hasher::default(), progress };
        let outcome = consume(&mut stream);
        if outcome.as_ref().is_err_and(Hopeless::is_hopeless) {
            stop.store(true, Ordering::Relaxed);
        } else {
            while stream.next_part() {}
        }
        let diff_id = stream.finish();
        let (blob, undecodable) = match producer.join() {
            Ok(produced) => produced,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // What is not compressed has been hashed once, here.
        let blob = blob.map(|digest| digest.unwrap_or(diff_id));
        (outcome, Verdict { blob, undecodable, diff_id })
    })
}

/// Tells errors after which the digests don't matter any more.
pub(super) trait Hopeless {
    fn is_hopeless(&self) -> bool;
}

/// The digest of the blob unless it is the uncompressed one's, and why it could not be decompressed.
type Produced = (io::Result<Option<Digest>>, Option<(&'static str, io::Error)>);

fn produce(
    blob: impl Read + Send,
    whole: u64,
    compression: Compression,
    parts: SyncSender<Part>,
    used: Receiver<Vec<u8>>,
    stop: &AtomicBool,
) -> Produced {
    // The decoder holds the source, so a counter between them tells how far that has come. A cell would do, but the
    // decoder may be sent to other threads.
    let counted = AtomicU64::new(0);
    let left = || whole.saturating_sub(counted.load(Ordering::Relaxed));
    if compression == Compression::Plain {
        // What is not compressed is hashed by the other side anyway.
        let mut counting = Counting { inner: blob, counted: &counted };
        return (pump(&mut counting, whole, left, &parts, &used).map(|()| None), None);
    }
    let mut source = BufReader::with_capacity(PART_BYTES, Hashing::new(blob));
    let result = {
        let counting = Counting { inner: &mut source, counted: &counted };
        let mut decoder = compression::reader(counting, compression);
        pump(&mut decoder, whole, left, &parts, &used)
    };
    drop(parts);
    // Whatever is wrong with its content, whether the blob is the right one at all says more.
    let mut rest = vec![0; PART_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match source.read(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return (Err(error), None),
        }
    }
    let (digest, _) = source.into_inner().finish();
    (Ok(Some(digest)), result.err().map(|error| (compression.name(), error)))
}

/// Sends all of a source on, in parts, until nobody takes them any more. `left` tells how much of the blob is left,
/// which was `left_before` at first.
fn pump<S: Read>(
    source: &mut S,
    mut left_before: u64,
    left: impl Fn() -> u64,
    parts: &SyncSender<Part>,
    used: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let mut bytes = used.try_recv().unwrap_or_default();
        bytes.resize(PART_BYTES, 0);
        let mut filled = 0;
        let mut end = Ok(false);
        while filled < PART_BYTES {
            match source.read(&mut bytes[filled..]) {
                Ok(0) => {
                    end = Ok(true);
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        bytes.truncate(filled);
        let left_now = left();
        let part = Part { bytes, blob_bytes: left_before - left_now };
        left_before = left_now;
        // Nobody takes it: the other side has had enough.
        if parts.send(part).is_err() || end? {
            return Ok(());
        }
    }
}

/// Counts what a decoder takes.
struct Counting<'a, S> {
    inner: S,
    counted: &'a AtomicU64,
}

impl<S: Read> Read for Counting<'_, S> {
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

impl Stream<'_> {
    /// Gets the next part; false at the end.
    fn next_part(&mut self) -> bool {
        // OK to lose it: the other side makes a new one.
        let _ = self.used.try_send(std::mem::take(&mut self.part));
        self.at = 0;
        let Ok(part) = self.parts.recv() else { return false };
        self.hasher.take(&part.bytes);
        self.progress.advanced(part.blob_bytes);
        self.part = part.bytes;
        true
    }

    /// Lets go of the other side, so that it stops, and gives the digest of what came through.
    fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.part.len() && self.next_part() {}
        Ok(&self.part[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Skip for Stream<'_> {}
