//! Shares a bounded amount of memory among all that decompress at once. zstd has the compressor choose how much of the past
//! the decompressor must hold, so several layers at once could otherwise ask for any amount.
//! Does not know what is decompressed.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What zstd up to level 19 needs is 8 MiB (RFC 8878 recommends that much as the least to support), and what `--ultra -20`
/// and the encoders of Go need at their best is 32 MiB.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
/// All together.
const WINDOWS_BYTES_MAX: u64 = 32 << 20;

/// The memory that is shared.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    taken: Mutex<u64>,
    given_back: Condvar,
}

impl Windows {
    /// Waits until there is room for a window.
    pub(super) fn take(&self, window: u64) -> io::Result<Window<'_>> {
        if window > WINDOW_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "it needs {} MiB of memory, and no more than {} are given: compress it without --long, and without \
                     levels above 20",
                    window >> 20,
                    WINDOW_BYTES_MAX >> 20
                ),
            ));
        }
        // As the decoder rounds.
        let bytes = window.next_power_of_two();
        let mut taken = self.lock();
        while *taken + bytes > WINDOWS_BYTES_MAX {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Ok(Window { windows: self, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for a window, until it is dropped.
pub(super) struct Window<'a> {
    windows: &'a Windows,
    bytes: u64,
}

impl Window<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        *self.windows.lock() -= self.bytes;
        self.windows.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_it() {
        let windows = Windows::default();
        let first = windows.take(WINDOW_BYTES_MAX / 2 + 1).unwrap();
        assert_eq!(*windows.lock(), WINDOW_BYTES_MAX, "rounded up");
        let (told, heard) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let second = windows.take(8 << 20).unwrap();
                told.send(*windows.lock()).unwrap();
                drop(second);
            });
            assert!(heard.try_recv().is_err());
            drop(first);
            assert_eq!(heard.recv().unwrap(), 8 << 20);
        });
        assert_eq!(*windows.lock(), 0);
        assert!(windows.take(WINDOW_BYTES_MAX + 1).is_err());
    }
}
