//! Reads files of a few hundred bytes with as few system calls as they need: `ps` reads three of every service's.
//! It knows nothing of what is in them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// More than any file has that is read here, unless somebody spoiled it.
const EXPECTED_BYTES: usize = 4096;

/// Hands all of a file to `use_it`, whatever its size. It is one that is never written to but replaced, or that the kernel makes
/// up and that is shorter than a page, such as `/proc/PID/stat`: then what one read gives is all, if there was room for more.
///
/// # Errors
/// Those of open(2) and read(2), with the path.
pub(crate) fn read<T>(path: &Path, use_it: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    let mut buffer = [0; EXPECTED_BYTES];
    match opened(path).and_then(|file| read_into(file, &mut buffer)) {
        Ok(length) if length < buffer.len() => Ok(use_it(&buffer[..length])),
        // This one reads on, and says of which path an error is.
        _ => Ok(use_it(&fs_err::read(path)?)),
    }
}

/// All of an open one, as text. One that the kernel makes up in several pieces, such as `cgroup.procs`, is none of these.
///
/// # Errors
/// Those of read(2), and when it is no text.
pub(crate) fn read_text(file: OwnedFd) -> io::Result<String> {
    let mut buffer = [0; EXPECTED_BYTES];
    let length = read_into(&file, &mut buffer)?;
    let mut text = buffer[..length].to_vec();
    if length == buffer.len() {
        File::from(file).read_to_end(&mut text)?;
    }
    String::from_utf8(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// The same of an open one, of which it may be that only the beginning is there.
///
/// # Errors
/// Those of read(2).
pub(crate) fn read_beginning<T>(file: impl AsFd, use_it: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    let mut buffer = [0; EXPECTED_BYTES];
    let length = read_into(file, &mut buffer)?;
    Ok(use_it(&buffer[..length]))
}

/// Opens it for reading.
///
/// # Errors
/// Those of open(2).
pub(crate) fn opened(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_into(file: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_file_is_read_whatever_its_size() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        for bytes in [0, 1, EXPECTED_BYTES - 1, EXPECTED_BYTES, 10 * EXPECTED_BYTES + 1] {
            let content: Vec<u8> = (0..=255).cycle().take(bytes).collect();
            fs_err::write(&path, &content).expect("write");
            assert!(read(&path, <[u8]>::to_vec).expect("read") == content, "{bytes} bytes");
            let text = "0123456789\n".repeat(bytes / 11);
            fs_err::write(&path, &text).expect("write");
            assert!(read_text(opened(&path).expect("open")).expect("read") == text, "{bytes} bytes");
        }
    }

    #[test]
    fn a_missing_file_is_told_from_others_and_named() {
        let folder = tempfile::tempdir().expect("folder");
        let missing = read(&folder.path().join("none"), |_| ()).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(missing.to_string().contains("none"), "{missing}");
    }
}
