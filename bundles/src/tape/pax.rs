//! pax extension headers: records `LENGTH KEY=VALUE\n`, where a value may hold any byte.
//! Does not read archives.

use super::header;
use super::sparse::{self, Segment};

const XATTR: &[u8] = b"SCHILY.xattr.";
/// Far more than the comment or the few defaults that are ever put there; they are gone through for every entry.
const GLOBAL_BYTES_MAX: usize = 64 << 10;

type Checked<T> = Result<T, &'static str>;

/// The records of pax headers, in their order, since sparse maps of version 0.0 repeat keys.
#[derive(Clone, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    pub(super) fn parse(mut data: &[u8]) -> Checked<Self> {
        const BROKEN: &str = "a pax header is malformed";
        let mut records = Vec::new();
        while !data.is_empty() {
            let space = data.iter().position(|&byte| byte == b' ').ok_or(BROKEN)?;
            let length = usize::try_from(decimal(&data[..space]).ok_or(BROKEN)?).map_err(|_| BROKEN)?;
            // At least the space, the equals sign and the newline are there.
            if length < space + 3 || length > data.len() {
                return Err(BROKEN);
            }
            let (record, rest) = data.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(BROKEN)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or(BROKEN)?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            data = rest;
        }
        Ok(Self(records))
    }

    /// Later records win over these.
    pub(super) fn override_with(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// As [`Records::override_with`], for what stays through the whole archive and so must not grow for ever.
    pub(super) fn override_for_good(&mut self, later: Self) -> Checked<()> {
        self.0.retain(|(key, _)| !later.0.iter().any(|(newer, _)| newer == key));
        self.0.extend(later.0);
        match self.0.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() {
            0..GLOBAL_BYTES_MAX => Ok(()),
            _ => Err("its global pax headers are larger than 64 KiB"),
        }
    }

    /// The latest value; an empty one takes an earlier one back, as POSIX has it.
    fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.0.iter().rev().find(|(name, _)| name == key.as_bytes())?.1.as_slice();
        Some(value).filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str) -> Checked<Option<i64>> {
        self.get(key)
            .map(|value| {
                let number = decimal(value).and_then(|number| i64::try_from(number).ok());
                number.ok_or("a pax header has something else where a number must be")
            })
            .transpose()
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        self.get("path")
    }

    pub(super) fn link_path(&self) -> Option<&[u8]> {
        self.get("linkpath")
    }

    pub(super) fn size(&self) -> Checked<Option<u64>> {
        self.number("size")?.map(header::size).transpose()
    }

    pub(super) fn uid(&self) -> Checked<Option<u32>> {
        self.number("uid")?.map(header::owner).transpose()
    }

    pub(super) fn gid(&self) -> Checked<Option<u32>> {
        self.number("gid")?.map(header::owner).transpose()
    }

    /// Seconds since 1970 and the nanoseconds after them; digits beyond those are cut off.
    pub(super) fn modified(&self) -> Checked<Option<(i64, u32)>> {
        const WRONG: &str = "its time in the pax header is not a number";
        let Some(value) = self.get("mtime") else { return Ok(None) };
        let (negative, value) = match value.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let point = value.iter().position(|&byte| byte == b'.').unwrap_or(value.len());
        let seconds = decimal(&value[..point]).and_then(|number| i64::try_from(number).ok()).ok_or(WRONG)?;
        let mut nanoseconds = 0_u32;
        let digits = value.get(point + 1..).unwrap_or_default();
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(WRONG);
        }
        for place in 0..9 {
            nanoseconds = nanoseconds * 10 + digits.get(place).map_or(0, |digit| u32::from(digit - b'0'));
        }
        Ok(Some(match (negative, nanoseconds) {
            (false, _) => (seconds, nanoseconds),
            (true, 0) => (-seconds, 0),
            (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
        }))
    }

    /// Extended attributes; of a repeated one the latest.
    pub(super) fn into_xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in self.0 {
            let Some(name) = key.strip_prefix(XATTR) else { continue };
            match xattrs.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = value,
                None => xattrs.push((name.to_vec(), value)),
            }
        }
        xattrs
    }

    /// The file's own name in the sparse formats 0.1 and 1.0, where `path` is one made up for tars that know neither.
    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.get("GNU.sparse.name")
    }

    /// Whether this is a sparse file of the format 1.0.
    pub(super) fn sparse_map_is_in_data(&self) -> bool {
        self.get("GNU.sparse.major") == Some(b"1") && self.get("GNU.sparse.minor") == Some(b"0")
    }

    /// The length of a sparse file of the format 1.0.
    pub(super) fn sparse_real_size(&self) -> Checked<u64> {
        let size = self.number("GNU.sparse.realsize")?.ok_or("a sparse file has no size")?;
        header::size(size)
    }

    /// The segments and the length of a sparse file of the formats 0.0 and 0.1.
    pub(super) fn sparse(&self) -> Checked<Option<(Vec<Segment>, u64)>> {
        let Some(size) = self.number("GNU.sparse.size")? else {
            return match self.get("GNU.sparse.major") {
                Some(_) => Err("it is a sparse file of an unknown format"),
                None => Ok(None),
            };
        };
        let numbers = match self.get("GNU.sparse.map") {
            Some(map) => map.split(|&byte| byte == b',').map(decimal).collect::<Option<Vec<u64>>>(),
            None => self.repeated_segments(),
        };
        let segments =
            numbers.and_then(|numbers| sparse::pairs(&numbers)).ok_or("its map of holes is malformed")?;
        Ok(Some((segments, header::size(size)?)))
    }

    fn repeated_segments(&self) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        for (key, value) in &self.0 {
            // Offsets and lengths have to alternate.
            match key.as_slice() {
                b"GNU.sparse.offset" if numbers.len() % 2 == 0 => numbers.push(decimal(value)?),
                b"GNU.sparse.numbytes" if numbers.len() % 2 == 1 => numbers.push(decimal(value)?),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => return None,
                _ => {}
            }
        }
        Some(numbers)
    }
}

/// A decimal number without sign or space.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
