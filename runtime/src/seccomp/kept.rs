//! Compiled filters as a file, so that who enters a container loads the very ones that its first process has, and compiles none.
//!
//! ```text
//! LAYOUT, number of filters, then for each: flags, count, count × (code: 16 bits, jump_true: 8, jump_false: 8, value: 32)
//! ```
//!
//! All numbers are of this machine's order: the file is one boot's. One that has another beginning is another version's, and says
//! nothing; one that begins right and does not end so is refused.

use std::io;
use std::path::Path;

use super::Filter;
use super::program::{Instruction, LENGTH_MAX};

/// What the file begins with; another one for another layout.
const LAYOUT: [u8; 4] = *b"BPF1";

/// Writes the filters to a file that nobody reads yet.
///
/// # Errors
/// Those of open(2) and write(2), with the path.
pub(crate) fn write(path: &Path, filters: &[Filter]) -> io::Result<()> {
    let count = |of: usize| u32::try_from(of).expect("OK because of LENGTH_MAX").to_ne_bytes();
    let mut bytes = LAYOUT.to_vec();
    bytes.extend(count(filters.len()));
    for Filter { program, flags } in filters {
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(count(program.len()));
        for it in program {
            bytes.extend(it.code.to_ne_bytes());
            bytes.extend([it.jump_true, it.jump_false]);
            bytes.extend(it.value.to_ne_bytes());
        }
    }
    fs_err::write(path, bytes)
}

/// The filters in the file; `None` where there is none that this version wrote.
///
/// # Errors
/// Those of open(2) and read(2), with the path; [`io::ErrorKind::InvalidData`] for a file that is not whole.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<Filter>>> {
    let bytes = match fs_err::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let Some(mut rest) = bytes.strip_prefix(&LAYOUT) else { return Ok(None) };
    let filters = all(&mut rest).filter(|_| rest.is_empty());
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is not whole", path.display()));
    filters.map(Some).ok_or_else(broken)
}

fn all(bytes: &mut &[u8]) -> Option<Vec<Filter>> {
    let count = u32::from_ne_bytes(take(bytes)?);
    (0..count).map(|_| next(bytes)).collect()
}

/// Takes the next filter off the bytes; `None` if they end within it.
fn next(bytes: &mut &[u8]) -> Option<Filter> {
    let flags = u32::from_ne_bytes(take(bytes)?);
    let count = usize::try_from(u32::from_ne_bytes(take(bytes)?)).ok()?;
    if count > LENGTH_MAX {
        return None;
    }
    let program: Option<Vec<Instruction>> = (0..count)
        .map(|_| {
            let code = u16::from_ne_bytes(take(bytes)?);
            let [jump_true, jump_false] = take(bytes)?;
            Some(Instruction { code, jump_true, jump_false, value: u32::from_ne_bytes(take(bytes)?) })
        })
        .collect();
    Some(Filter { program: program?, flags })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Vec<Filter> {
        let instruction = |value| Instruction { code: 6, jump_true: 1, jump_false: 255, value };
        let of = |count: u32, flags| Filter { program: (0..count).map(instruction).collect(), flags };
        vec![of(3, 0), of(700, 4)]
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("filters");
        write(&path, &filters()).expect("write");
        assert_eq!(read(&path).expect("read"), Some(filters()));
    }

    #[test]
    fn a_file_that_ends_too_early_or_too_late_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("filters");
        write(&path, &filters()).expect("write");
        let whole = fs_err::read(&path).expect("read");
        for length in LAYOUT.len()..whole.len() {
            fs_err::write(&path, &whole[..length]).expect("write");
            assert_eq!(read(&path).expect_err("cut off").kind(), io::ErrorKind::InvalidData, "{length}");
        }
        fs_err::write(&path, [whole.as_slice(), b"more"].concat()).expect("write");
        assert_eq!(read(&path).expect_err("more").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn no_file_and_another_versions_say_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("filters");
        assert_eq!(read(&path).expect("none"), None);
        fs_err::write(&path, b"BPF2 and more").expect("write");
        assert_eq!(read(&path).expect("another"), None);
    }
}
