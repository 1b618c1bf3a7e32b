//! The maps of sparse files: which parts of a file the archive holds, the rest being holes.
//! Does not read archives. Formats: GNU tar manual, "Storing Sparse Files".

use super::header::{self, BLOCK, Header};
use super::pax::decimal;

/// More segments than any file that a tool has written; a bound on memory.
const SEGMENTS_MAX: usize = 1 << 20;
/// A 64-bit number in decimal.
const DIGITS_MAX: usize = 20;

type Checked<T> = Result<T, &'static str>;

/// A part of a file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Takes the segments in an old GNU header; whether more of them follow in further blocks.
pub(super) fn from_header(header: &Header, segments: &mut Vec<Segment>) -> Checked<bool> {
    old_segments(&header.block()[386..482], segments)?;
    Ok(header.block()[482] != 0)
}

/// Takes the segments in a block that follows an old GNU header; whether there are more blocks.
pub(super) fn from_extension(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> Checked<bool> {
    old_segments(&block[..504], segments)?;
    Ok(block[504] != 0)
}

fn old_segments(fields: &[u8], segments: &mut Vec<Segment>) -> Checked<()> {
    for field in fields.chunks_exact(24) {
        // Unused ones are empty.
        if field[0] == 0 || field[12] == 0 {
            break;
        }
        let offset = header::size(header::number(&field[..12])?)?;
        let bytes = header::size(header::number(&field[12..])?)?;
        segments.push(Segment { offset, bytes });
    }
    if segments.len() > SEGMENTS_MAX {
        return Err("it has too many holes");
    }
    Ok(())
}

/// Offsets and lengths that alternate.
pub(super) fn pairs(numbers: &[u64]) -> Option<Vec<Segment>> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|pair| Segment { offset: pair[0], bytes: pair[1] }).collect())
}

/// The numbers of a pax map of version 1.0, as they arrive block by block: their count in pairs, then the pairs.
#[derive(Default)]
pub(super) struct Numbers {
    count: Option<usize>,
    numbers: Vec<u64>,
    begun: Vec<u8>,
}

impl Numbers {
    pub(super) fn are_complete(&self) -> bool {
        self.count == Some(self.numbers.len())
    }

    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Checked<()> {
        const BROKEN: &str = "its map of holes is malformed";
        for &byte in block {
            if self.are_complete() {
                // The rest fills up the block.
                break;
            }
            if byte != b'\n' {
                self.begun.push(byte);
                if self.begun.len() > DIGITS_MAX {
                    return Err(BROKEN);
                }
                continue;
            }
            let number = decimal(&self.begun).ok_or(BROKEN)?;
            self.begun.clear();
            match self.count {
                Some(_) => self.numbers.push(number),
                None if number > SEGMENTS_MAX as u64 => return Err("it has too many holes"),
                None => self.count = Some(number as usize * 2),
            }
        }
        Ok(())
    }

    pub(super) fn into_segments(self) -> Vec<Segment> {
        pairs(&self.numbers).unwrap_or_default()
    }
}

/// Segments must ascend, not overlap, end within the file, and have together exactly the data that is there.
pub(super) fn check(segments: &[Segment], real_size: u64, data_bytes: u64) -> Checked<()> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err("its map of holes overlaps");
        }
        end = segment.offset.checked_add(segment.bytes).ok_or("its map of holes is out of range")?;
        // OK because the sum of what does not overlap is at most `end`.
        sum += segment.bytes;
    }
    if end > real_size {
        return Err("its map of holes goes beyond its end");
    }
    if sum != data_bytes {
        return Err("its map of holes and its data do not fit together");
    }
    Ok(())
}
