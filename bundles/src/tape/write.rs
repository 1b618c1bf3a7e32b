//! Writes what stands before an entry's data in a tar archive: ustar, with pax records for what that has no room for.
//! Does not write data, and knows nothing of the file system.

use super::Kind;
use super::header::BLOCK;

/// Eleven octal digits; the twelfth byte ends the field.
const SIZE_MAX: u64 = 0o777_7777_7777;
/// Seven octal digits.
const OWNER_MAX: u32 = 0o777_7777;
const NAME_BYTES_MAX: usize = 100;

/// What is to be said of an entry.
#[derive(Clone, Debug)]
pub(crate) struct Head<'a> {
    /// A folder's ends with a slash, as every tar writes it.
    pub(crate) name: &'a [u8],
    pub(crate) kind: &'a Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: (i64, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Head<'_> {
    /// A regular file of an archive of blobs, which looks the same whoever writes it and when.
    pub(crate) fn blob<'a>(name: &'a [u8], kind: &'a Kind) -> Head<'a> {
        Head { name, kind, mode: 0o644, uid: 0, gid: 0, modified: (0, 0), xattrs: &[] }
    }

    /// The blocks that stand before the data.
    pub(crate) fn blocks(&self) -> Vec<u8> {
        let mut blocks = Vec::with_capacity(BLOCK);
        let records = self.records();
        if !records.is_empty() {
            let is_too_long = self.name.len() > NAME_BYTES_MAX - b"PaxHeaders/".len();
            let shown = &self.name[..if is_too_long { 0 } else { self.name.len() }];
            let name = [b"PaxHeaders/", shown.strip_suffix(b"/").unwrap_or(shown)].concat();
            blocks.extend_from_slice(&Block::new(b'x', &name, records.len() as u64).finish());
            blocks.extend_from_slice(&records);
            pad(&mut blocks);
        }
        blocks.extend_from_slice(&self.block());
        blocks
    }

    fn size(&self) -> u64 {
        match self.kind {
            Kind::File { real_size, .. } => *real_size,
            _ => 0,
        }
    }

    fn link(&self) -> &[u8] {
        match self.kind {
            Kind::HardLink { target } | Kind::Symlink { target } => target,
            _ => b"",
        }
    }

    /// The pax records of all that the block has no room for.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let (seconds, nanoseconds) = self.modified;
        if nanoseconds != 0 || !is_plain_time(seconds) {
            record("mtime", time(seconds, nanoseconds).as_bytes(), &mut records);
        }
        if self.name.len() > NAME_BYTES_MAX {
            record("path", self.name, &mut records);
        }
        if self.link().len() > NAME_BYTES_MAX {
            record("linkpath", self.link(), &mut records);
        }
        for (key, owner) in [("uid", self.uid), ("gid", self.gid)] {
            if owner > OWNER_MAX {
                record(key, owner.to_string().as_bytes(), &mut records);
            }
        }
        for (name, value) in self.xattrs {
            let key = [b"SCHILY.xattr.".as_slice(), name].concat();
            record_of(&key, value, &mut records);
        }
        records
    }

    fn block(&self) -> [u8; BLOCK] {
        let kind = match self.kind {
            Kind::File { .. } => b'0',
            Kind::HardLink { .. } => b'1',
            Kind::Symlink { .. } => b'2',
            Kind::CharacterDevice { .. } => b'3',
            Kind::BlockDevice { .. } => b'4',
            Kind::Folder => b'5',
            Kind::Fifo => b'6',
        };
        let mut block = Block::new(kind, self.name, self.size());
        block.number(100, 8, u64::from(self.mode & 0o7777));
        block.number(108, 8, u64::from(self.uid.min(OWNER_MAX)));
        block.number(116, 8, u64::from(self.gid.min(OWNER_MAX)));
        let seconds = self.modified.0;
        block.number(136, 12, if is_plain_time(seconds) { seconds as u64 } else { 0 });
        block.text(157, self.link());
        if let Kind::CharacterDevice { major, minor } | Kind::BlockDevice { major, minor } = self.kind {
            // OK because Linux's have 12 and 20 bits.
            block.number(329, 8, u64::from(*major));
            block.number(337, 8, u64::from(*minor));
        }
        block.finish()
    }
}

/// Fills up the last block with zeros.
pub(crate) fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// How many zeros follow so many bytes of data.
pub(crate) fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK as u64) - bytes) as usize
}

/// The end of an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn is_plain_time(seconds: i64) -> bool {
    u64::try_from(seconds).is_ok_and(|seconds| seconds <= SIZE_MAX)
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        // The nanoseconds lead on from the second before.
        (seconds, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

fn record(key: &str, value: &[u8], into: &mut Vec<u8>) {
    record_of(key.as_bytes(), value, into);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record_of(key: &[u8], value: &[u8], into: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    into.extend_from_slice(format!("{length} ").as_bytes());
    into.extend_from_slice(key);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

/// A header block in the making.
struct Block([u8; BLOCK]);

impl Block {
    fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut block = Self([0; BLOCK]);
        block.text(0, name);
        block.number(100, 8, 0o644);
        block.number(108, 8, 0);
        block.number(116, 8, 0);
        match size {
            0..=SIZE_MAX => block.number(124, 12, size),
            // Binary, as GNU has it and everybody reads; a record would make the length of the head depend on it.
            _ => {
                block.0[124] = 0x80;
                block.0[128..136].copy_from_slice(&size.to_be_bytes());
            }
        }
        block.number(136, 12, 0);
        block.0[156] = kind;
        block.0[257..265].copy_from_slice(b"ustar\x0000");
        block.number(329, 8, 0);
        block.number(337, 8, 0);
        block
    }

    /// As much of it as there is room for; the whole is in a record then.
    fn text(&mut self, at: usize, text: &[u8]) {
        let length = text.len().min(NAME_BYTES_MAX);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    fn number(&mut self, at: usize, length: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = length - 1);
        self.0[at..at + length - 1].copy_from_slice(&digits.as_bytes()[..length - 1]);
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].copy_from_slice(b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Tape;
    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        let path = || proptest::collection::vec(1u8.., 1..300);
        prop_oneof![
            // As large as the reader believes.
            (0..i64::MAX as u64 >> 1).prop_map(|real_size| Kind::File { real_size, sparse: None }),
            path().prop_map(|target| Kind::HardLink { target }),
            path().prop_map(|target| Kind::Symlink { target }),
            (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::CharacterDevice { major, minor }),
            (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
            Just(Kind::Folder),
            Just(Kind::Fifo),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            name in proptest::collection::vec(1u8.., 1..300),
            kind in kind(),
            (mode, uid, gid) in (0u32..0o10000, 0..u32::MAX, 0..u32::MAX),
            modified in (-1i64 << 40..1 << 40, 0u32..1_000_000_000),
            xattrs in proptest::collection::btree_map("user\\.[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..40), 0..3),
        ) {
            let xattrs: Vec<_> = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let head = Head { name: &name, kind: &kind, mode, uid, gid, modified, xattrs: &xattrs };
            let blocks = head.blocks();
            prop_assert_eq!(blocks.len() % BLOCK, 0);
            let entry = Tape::new(blocks.as_slice()).next().unwrap().unwrap();
            prop_assert_eq!(entry.name, name);
            prop_assert_eq!(entry.kind, kind);
            prop_assert_eq!((entry.mode, entry.uid, entry.gid), (mode, uid, gid));
            prop_assert_eq!((entry.modified_s, entry.modified_ns), modified);
            prop_assert_eq!(entry.xattrs, xattrs);
        }
    }
}
