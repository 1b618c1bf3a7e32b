//! Reads files of a few hundred bytes with as few system calls as they need: `ps` reads three of every service's.
//! It knows nothing of what is in them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read as read_into};

/// Enough for what is read here to be there at once.
const EXPECTED_BYTES: usize = 2000;

/// All of a file, whatever its size.
///
/// # Errors
/// Those of open(2) and read(2), with the path.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let read = || {
        let file = opened(path)?;
        let mut content = Vec::with_capacity(EXPECTED_BYTES);
        while read_more(&file, &mut content)? {}
        Ok(content)
    };
    // This one says of which path.
    read().or_else(|_: io::Error| fs_err::read(path))
}

/// What one read gives of a file: all of one that the kernel makes up and that is short, such as `/proc/PID/stat`.
///
/// # Errors
/// Those of open(2) and read(2).
pub(crate) fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    read_open_at_once(opened(path)?)
}

/// The same of an open one.
///
/// # Errors
/// Those of read(2).
pub(crate) fn read_open_at_once(file: impl AsFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(EXPECTED_BYTES);
    read_more(file, &mut content)?;
    Ok(content)
}

/// Opens it for reading.
///
/// # Errors
/// Those of open(2).
pub(crate) fn opened(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether there was more.
fn read_more(file: impl AsFd, content: &mut Vec<u8>) -> io::Result<bool> {
    content.reserve(1);
    loop {
        match read_into(&file, spare_capacity(content)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_file_is_read_whatever_its_size() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        for bytes in [0, 1, EXPECTED_BYTES, 10 * EXPECTED_BYTES + 1] {
            let content: Vec<u8> = (0..=255).cycle().take(bytes).collect();
            fs_err::write(&path, &content).expect("write");
            assert!(read(&path).expect("read") == content, "{bytes} bytes");
        }
        let missing = read(&folder.path().join("none")).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
