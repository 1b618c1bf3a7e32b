//! Moves a layer's bytes from its blob to whoever unpacks it: one thread reads, hashes and decompresses, the caller uses
//! what came out, and another thread hashes that. Does not know what the bytes are.
//!
//! The bytes travel in a fixed number of parts that go round and round, so memory is bounded and nothing is copied:
//! filled by the first thread, read by the caller, hashed by the last one, and filled again.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::bounds::{Counting, Meter};
use super::compression::{self, Compression};
use crate::digest::{Digest, Hasher, Hashing};
use crate::tape::Skip;

/// Large enough that handing over costs nothing, small enough to stay in the processor's cache.
const PART_BYTES: usize = 256 << 10;
/// How many parts there are; the sides rarely go equally fast.
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
    used: Sender<Vec<u8>>,
    part: Vec<u8>,
    at: usize,
    advanced: &'a mut dyn FnMut(u64),
}

/// Runs a blob through `consume`, and then the rest that it left. If `consume` says that going on is of no use
/// ([`Hopeless`]), the rest is left. `advanced` hears how many bytes more of the blob have gone through.
pub(super) fn run<T, E: Hopeless>(
    blob: impl Read + Send,
    compression: Compression,
    meter: &Meter,
    advanced: &mut dyn FnMut(u64),
    consume: impl FnOnce(&mut Stream) -> Result<T, E>,
) -> (Result<T, E>, Verdict) {
    // Not bounded by themselves: there are only so many parts.
    let (parts_in, parts) = channel();
    let (used, used_out) = channel();
    let (free_in, free) = channel();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let producer =
            scope.spawn(|| produce(blob, compression, meter, parts_in, Free { parts: free, made: 0 }, &stop));
        let hashing = scope.spawn(|| hash(used_out, free_in));
        let mut stream = Stream { parts, used, part: Vec::new(), at: 0, advanced };
        let outcome = consume(&mut stream);
        if outcome.as_ref().is_err_and(Hopeless::is_hopeless) {
            stop.store(true, Ordering::Relaxed);
        } else {
            while stream.next_part() {}
        }
        // Lets go of both sides, so that they end.
        drop(stream);
        let diff_id = joined(hashing);
        let (blob, undecodable) = joined(producer);
        // What is not compressed has been hashed once.
        let blob = blob.map(|digest| digest.unwrap_or(diff_id));
        (outcome, Verdict { blob, undecodable, diff_id })
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Tells errors after which the digests don't matter any more.
pub(super) trait Hopeless {
    fn is_hopeless(&self) -> bool;
}

/// The digest of all parts; gives each back.
fn hash(used: Receiver<Vec<u8>>, free: Sender<Vec<u8>>) -> Digest {
    let mut hasher = Hasher::default();
    for part in used {
        hasher.take(&part);
        // OK to fail: at the end nobody fills it any more.
        let _ = free.send(part);
    }
    hasher.finish()
}

/// The parts that can be filled.
struct Free {
    parts: Receiver<Vec<u8>>,
    made: usize,
}

impl Free {
    /// The next one; nothing when the other sides have had enough.
    fn next(&mut self) -> Option<Vec<u8>> {
        if let Ok(part) = self.parts.try_recv() {
            return Some(part);
        }
        if self.made < PARTS_MAX {
            self.made += 1;
            return Some(Vec::with_capacity(PART_BYTES));
        }
        self.parts.recv().ok()
    }
}

/// The digest of the blob unless it is the uncompressed one's, and why it could not be decompressed.
type Produced = (io::Result<Option<Digest>>, Option<(&'static str, io::Error)>);

fn produce(
    blob: impl Read + Send,
    compression: Compression,
    meter: &Meter,
    parts: Sender<Part>,
    mut free: Free,
    stop: &AtomicBool,
) -> Produced {
    // The decoder holds the source, so a counter between them tells how far that has come. A cell would do, but the
    // decoder may be sent to other threads.
    let counted = AtomicU64::new(0);
    if compression == Compression::Plain {
        let blob = BufReader::with_capacity(PART_BYTES, blob);
        let counting = Counting { inner: blob, counted: &counted };
        let result = pump(&mut meter.measure(counting, &counted), &counted, &parts, &mut free);
        return (result.map(|()| None), None);
    }
    let mut source = BufReader::with_capacity(PART_BYTES, Hashing::new(blob));
    let result = {
        let counting = Counting { inner: &mut source, counted: &counted };
        let decoder = compression::reader(counting, compression, meter.windows());
        pump(&mut meter.measure(decoder, &counted), &counted, &parts, &mut free)
    };
    drop(parts);
    // Whatever is wrong with its content, whether the blob is the right one at all says more.
    let mut rest = vec![0; PART_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match source.read(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (Err(error), None),
        }
    }
    let (digest, _) = source.into_inner().finish();
    (Ok(Some(digest)), result.err().map(|error| (compression.name(), error)))
}

/// Sends all of a source on, in parts, until nobody takes them any more. `counted` is how many bytes of the blob that
/// has taken so far.
fn pump(
    source: &mut impl Read,
    counted: &AtomicU64,
    parts: &Sender<Part>,
    free: &mut Free,
) -> io::Result<()> {
    let mut before = 0;
    loop {
        let Some(mut bytes) = free.next() else { return Ok(()) };
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
        let now = counted.load(Ordering::Relaxed);
        let part = Part { bytes, blob_bytes: now - before };
        before = now;
        // Nobody takes it: the other side has had enough.
        if parts.send(part).is_err() || end? {
            return Ok(());
        }
    }
}

impl Stream<'_> {
    /// Gets the next part; false at the end.
    fn next_part(&mut self) -> bool {
        let used = std::mem::take(&mut self.part);
        self.at = 0;
        if used.capacity() > 0 {
            // OK to fail: it only does if the other thread has panicked, and then joining it does too.
            let _ = self.used.send(used);
        }
        let Ok(part) = self.parts.recv() else { return false };
        (self.advanced)(part.blob_bytes);
        self.part = part.bytes;
        true
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
