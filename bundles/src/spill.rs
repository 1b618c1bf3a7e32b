//! Keeps in a nameless file what would be too much for memory: layers come from strangers, and can have millions of files.
//! Does not know what it keeps.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// So much is kept in memory before there is a file, bytes.
const RECORDS_BYTES_MAX: usize = 256 << 10;
const PAGE_BYTES: usize = 4096;
/// So many pages are kept in memory before there is a file: 2 MiB.
const PAGES_MAX: usize = 512;
/// The file is as long as the highest number wants, nearly all of it holes. No file system that numbers its files from
/// low to high comes near; those that do not are rare, and what they number is kept in memory.
const NUMBER_MAX: u64 = 1 << 40;

/// Records of any length, one after the other.
pub(crate) struct Records {
    folder: OwnedFd,
    file: Option<File>,
    /// How many bytes are in the file; whole records.
    in_file: u64,
    latest: Vec<u8>,
}

impl Records {
    /// Begins with none. Should they become many, a nameless file is made in `folder`.
    pub(crate) fn new(folder: impl AsFd) -> io::Result<Self> {
        let folder = folder.as_fd().try_clone_to_owned()?;
        Ok(Self { folder, file: None, in_file: 0, latest: Vec::new() })
    }

    /// Adds one, in parts; its place.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> io::Result<u64> {
        if self.latest.len() > RECORDS_BYTES_MAX {
            let file = made(&mut self.file, &self.folder)?;
            file.write_all_at(&self.latest, self.in_file)?;
            self.in_file += self.latest.len() as u64;
            self.latest.clear();
        }
        let place = self.in_file + self.latest.len() as u64;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let bytes = u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.latest.extend_from_slice(&bytes.to_le_bytes());
        parts.iter().for_each(|part| self.latest.extend_from_slice(part));
        Ok(place)
    }

    /// The one at a place.
    pub(crate) fn get(&self, place: u64) -> io::Result<Vec<u8>> {
        read_one(&mut Rest { records: self, at: place })?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// All of them, in their order.
    pub(crate) fn all(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        let mut from = BufReader::with_capacity(RECORDS_BYTES_MAX / 4, Rest { records: self, at: 0 });
        std::iter::from_fn(move || read_one(&mut from).transpose())
    }
}

fn read_one(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = [0; 4];
    match from.read_exact(&mut bytes) {
        Ok(()) => {}
        // Only whole ones are written.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut record = vec![0; u32::from_le_bytes(bytes) as usize];
    from.read_exact(&mut record)?;
    Ok(Some(record))
}

/// The bytes from a place on.
struct Rest<'a> {
    records: &'a Records,
    at: u64,
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let in_file = self.records.in_file;
        let count = match (&self.records.file, self.at.checked_sub(in_file)) {
            (_, Some(at)) => {
                let mut rest = self.records.latest.get(at as usize..).unwrap_or_default();
                rest.read(buffer)?
            }
            (Some(file), None) => {
                let most = buffer.len().min(usize::try_from(in_file - self.at).unwrap_or(usize::MAX));
                file.read_at(&mut buffer[..most], self.at)?
            }
            (None, None) => 0,
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// A value of `N` bytes for each of many numbers, which are best not far from one another: those of files. `N` is a power
/// of two. A value that is all zeros is none.
pub(crate) struct ByNumber<const N: usize> {
    folder: OwnedFd,
    file: Option<File>,
    pages: HashMap<u64, Box<Page>>,
    far: HashMap<u64, [u8; N]>,
}

struct Page {
    bytes: [u8; PAGE_BYTES],
    /// Whether the file has something else.
    changed: bool,
}

impl<const N: usize> ByNumber<N> {
    /// Begins with none. Should they become many, a nameless file is made in `folder`.
    pub(crate) fn new(folder: impl AsFd) -> io::Result<Self> {
        let folder = folder.as_fd().try_clone_to_owned()?;
        Ok(Self { folder, file: None, pages: HashMap::new(), far: HashMap::new() })
    }

    /// The value of a number.
    pub(crate) fn get(&mut self, number: u64) -> io::Result<Option<[u8; N]>> {
        if number >= NUMBER_MAX {
            return Ok(self.far.get(&number).copied());
        }
        let (page, at) = self.page(number)?;
        let mut value = [0; N];
        value.copy_from_slice(&page.bytes[at..at + N]);
        Ok(Some(value).filter(|value| value.iter().any(|&byte| byte != 0)))
    }

    /// Gives a number another value, or none.
    pub(crate) fn set(&mut self, number: u64, value: Option<[u8; N]>) -> io::Result<()> {
        if number >= NUMBER_MAX {
            match value {
                Some(value) => self.far.insert(number, value),
                None => self.far.remove(&number),
            };
            return Ok(());
        }
        let (page, at) = self.page(number)?;
        page.bytes[at..at + N].copy_from_slice(&value.unwrap_or([0; N]));
        page.changed = true;
        Ok(())
    }

    /// The page with a number's value, and where that is in it.
    fn page(&mut self, number: u64) -> io::Result<(&mut Page, usize)> {
        let in_page = (PAGE_BYTES / N) as u64;
        let (index, at) = (number / in_page, (number % in_page) as usize * N);
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&index) {
            self.put_away()?;
        }
        let page = match self.pages.entry(index) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                let mut page = Box::new(Page { bytes: [0; PAGE_BYTES], changed: false });
                if let Some(file) = &self.file {
                    read_page(file, &mut page.bytes, index * PAGE_BYTES as u64)?;
                }
                free.insert(page)
            }
        };
        Ok((page, at))
    }

    fn put_away(&mut self) -> io::Result<()> {
        let file = made(&mut self.file, &self.folder)?;
        for (index, page) in self.pages.drain().filter(|(_, page)| page.changed) {
            file.write_all_at(&page.bytes, index * PAGE_BYTES as u64)?;
        }
        Ok(())
    }
}

/// Pages are written as a whole, so what is behind the end has never been written.
fn read_page(file: &File, page: &mut [u8; PAGE_BYTES], at: u64) -> io::Result<()> {
    match file.read_exact_at(page, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            page.fill(0);
            Ok(())
        }
        other => other,
    }
}

fn made<'a>(file: &'a mut Option<File>, folder: &OwnedFd) -> io::Result<&'a mut File> {
    Ok(match file {
        Some(file) => file,
        None => file.insert(File::from(crate::archive::nameless(folder.as_fd())?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, OwnedFd) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = File::open(temporary.path()).unwrap().into();
        (temporary, folder)
    }

    #[test]
    fn records_come_back_from_memory_and_from_the_file() {
        let (temporary, folder) = folder();
        let mut records = Records::new(&folder).unwrap();
        let text = |number: u32| "x".repeat(number as usize % 100);
        let mut places = Vec::new();
        for number in 0..20_000_u32 {
            assert_eq!(records.file.is_some(), records.in_file > 0);
            places.push(records.push(&[&number.to_le_bytes(), text(number).as_bytes()]).unwrap());
        }
        assert!(records.in_file > 500_000 && !records.latest.is_empty());
        let expected = |number: u32| [&number.to_le_bytes()[..], text(number).as_bytes()].concat();
        let mut all = records.all();
        for (number, place) in (0..).zip(places) {
            assert_eq!(all.next().unwrap().unwrap(), expected(number));
            assert_eq!(records.get(place).unwrap(), expected(number));
        }
        assert!(all.next().is_none());
        drop(all);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "it has no name");
    }

    #[test]
    fn values_are_kept_for_numbers_near_and_far() {
        let (_temporary, folder) = folder();
        let mut values = ByNumber::<8>::new(&folder).unwrap();
        let numbers = (0..2_000_000_u64).step_by(511).chain([1 << 39, u64::MAX, u64::MAX - 1]);
        for number in numbers.clone() {
            assert_eq!(values.get(number).unwrap(), None);
            values.set(number, Some((number | 1).to_le_bytes())).unwrap();
        }
        assert!(values.file.is_some() && values.pages.len() <= PAGES_MAX);
        values.set(511, None).unwrap();
        values.set(u64::MAX, None).unwrap();
        for number in numbers {
            let expected = Some((number | 1).to_le_bytes()).filter(|_| !matches!(number, 511 | u64::MAX));
            assert_eq!(values.get(number).unwrap(), expected, "{number}");
        }
    }
}
