//! Compresses by gzip on all processors. The same bytes always give the same result, however many processors there are.
//! Knows nothing of what it compresses.
//!
//! The input is cut into pieces that are compressed on their own and joined into one deflate stream, as pigz does with
//! `--independent`: every reader of gzip understands it (RFC 1951, 3.2.4: a stored block of no bytes ends each piece on
//! a byte).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Large enough that beginning anew costs under one percent.
const PIECE_BYTES: usize = 1 << 20;
/// More are no faster than what is read.
const THREADS_MAX: usize = 8;
/// Deflate, no flags, no time, no extra flags, system unknown: RFC 1952, 2.3.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// What is written to it is compressed and written on.
pub(crate) struct Gzip<W> {
    out: W,
    piece: Vec<u8>,
    /// What the threads have been given, in its order.
    pending: VecDeque<Receiver<Vec<u8>>>,
    /// Gone when there is no more to give.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    crc: Crc,
}

struct Job {
    piece: Vec<u8>,
    is_last: bool,
    result: SyncSender<Vec<u8>>,
}

impl<W: Write> Gzip<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, Into::into).min(THREADS_MAX);
        let (jobs, taken) = sync_channel(count);
        let taken = Arc::new(Mutex::new(taken));
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let taken = Arc::clone(&taken);
            threads.push(thread::Builder::new().name("gzip".to_owned()).spawn(move || work(&taken))?);
        }
        out.write_all(&HEAD)?;
        let piece = Vec::with_capacity(PIECE_BYTES);
        Ok(Self { out, piece, pending: VecDeque::new(), jobs: Some(jobs), threads, crc: Crc::new() })
    }

    /// Writes what is left and the end, and gives back where it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.give(true)?;
        while !self.pending.is_empty() {
            self.take()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // Its length modulo 2^32, which is how both count.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.jobs = None;
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| broken())?;
        }
        Ok(self.out)
    }

    fn give(&mut self, is_last: bool) -> io::Result<()> {
        while self.pending.len() > 2 * self.threads.len() {
            self.take()?;
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let (result, compressed) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(broken)?;
        jobs.send(Job { piece, is_last, result }).map_err(|_| broken())?;
        self.pending.push_back(compressed);
        Ok(())
    }

    fn take(&mut self) -> io::Result<()> {
        let Some(next) = self.pending.pop_front() else { return Ok(()) };
        self.out.write_all(&next.recv().map_err(|_| broken())?)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE_BYTES {
            self.give(false)?;
        }
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.crc.update(&bytes[..count]);
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Does nothing: only the end makes it whole.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut compress = Compress::new(Compression::default(), false);
    loop {
        let job = match jobs.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_) => return,
        };
        let Ok(job) = job else { return };
        compress.reset();
        // OK to lose it: then nobody wants it any more.
        let _ = job.result.send(deflate(&mut compress, &job.piece, job.is_last));
    }
}

fn deflate(compress: &mut Compress, piece: &[u8], is_last: bool) -> Vec<u8> {
    let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(piece.len() / 2 + 1024);
    loop {
        let done = compress.total_in() as usize;
        // OK because it only fails on a state that cannot be here.
        let status = compress.compress_vec(&piece[done..], &mut out, flush).expect("deflate in order");
        let all_in = compress.total_in() as usize == piece.len();
        match status {
            Status::StreamEnd => return out,
            // With room to spare it has nothing more to say.
            _ if all_in && !is_last && out.len() < out.capacity() => return out,
            _ => out.reserve(64 << 10),
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_compressed_is_read_again_as_one_member() {
        let mut state = 1_u32;
        let mut noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        for (length, is_noise) in
            [(0, false), (1, false), (PIECE_BYTES, false), (PIECE_BYTES, true), (PIECE_BYTES * 5 + 7, true)]
        {
            let data: Vec<u8> = match is_noise {
                true => noise.by_ref().take(length).collect(),
                false => (0..length).map(|at| (at / 100) as u8).collect(),
            };
            let pack = || {
                let mut gzip = Gzip::new(Vec::new()).unwrap();
                for part in data.chunks(70_001) {
                    gzip.write_all(part).unwrap();
                }
                gzip.finish().unwrap()
            };
            let packed = pack();
            let mut unpacked = Vec::new();
            // Reads one member only.
            GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == data, "{length} bytes");
            assert!(packed == pack());
            assert!(is_noise || packed.len() < 30_000, "{} bytes", packed.len());
        }
    }
}
