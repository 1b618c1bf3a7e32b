//! The 512 bytes before each entry of a tar archive.
//! Knows nothing of extension headers.

/// Archives consist of blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// Sizes stay below this, so that sums of a few never overflow; the kernel's own limit is the same.
const SIZE_MAX: i64 = i64::MAX - (1 << 20);

/// A header whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
}

/// What can be wrong with a header.
type Checked<T> = Result<T, &'static str>;

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> Checked<Self> {
        let header = Self { block };
        let expected = header.number(148, 8).map_err(|_| "there is no tar header where one must be")?;
        // Counted with the checksum's own field as spaces; some old tars added up signed bytes.
        let unsigned: i64 = header.summed().map(i64::from).sum();
        let signed: i64 = header.summed().map(|byte| i64::from(byte as i8)).sum();
        if expected != unsigned && expected != signed {
            return Err("there is no tar header where one must be");
        }
        Ok(header)
    }

    fn summed(&self) -> impl Iterator<Item = u8> {
        self.block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
    }

    pub(super) fn kind(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU's magic is "ustar  \0"; it has other fields where ustar has the prefix. Star's prefix is shorter.
        let prefix = match &self.block[257..263] {
            b"ustar\0" if &self.block[508..512] == b"tar\0" => self.text(345, 131),
            b"ustar\0" => self.text(345, 155),
            _ => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    /// Without the type bits that some writers put in.
    pub(super) fn mode(&self) -> Checked<u32> {
        Ok((self.number(100, 8).map_err(|_| "its mode is not a number")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Checked<u32> {
        owner(self.number(108, 8).map_err(|_| "its uid is not a number")?)
    }

    pub(super) fn gid(&self) -> Checked<u32> {
        owner(self.number(116, 8).map_err(|_| "its gid is not a number")?)
    }

    pub(super) fn size(&self) -> Checked<u64> {
        size(self.number(124, 12).map_err(|_| "its size is not a number")?)
    }

    pub(super) fn modified_s(&self) -> Checked<i64> {
        self.number(136, 12).map_err(|_| "its time is not a number")
    }

    pub(super) fn device_major(&self) -> Checked<u32> {
        self.device(329)
    }

    pub(super) fn device_minor(&self) -> Checked<u32> {
        self.device(337)
    }

    fn device(&self, at: usize) -> Checked<u32> {
        let number = self.number(at, 8).map_err(|_| "its device is not a number")?;
        u32::try_from(number).map_err(|_| "its device number is out of range")
    }

    /// The length of an old GNU sparse file, its holes included.
    pub(super) fn real_size(&self) -> Checked<u64> {
        size(self.number(483, 12).map_err(|_| "its size is not a number")?)
    }

    pub(super) fn block(&self) -> &[u8; BLOCK] {
        &self.block
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.block[at..at + length];
        &field[..field.iter().position(|&byte| byte == 0).unwrap_or(length)]
    }

    fn number(&self, at: usize, length: usize) -> Checked<i64> {
        number(&self.block[at..at + length])
    }
}

/// A number in a header: octal text, or, where the first bit is set, binary (GNU's "base-256").
pub(super) fn number(field: &[u8]) -> Checked<i64> {
    if field[0] & 0x80 != 0 {
        // The second bit is the sign. What does not fit into 64 bits is no number that means anything.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let mut value = i128::from(first as i8);
        for &byte in &field[1..] {
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| "a number is out of range");
    }
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_filler(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_filler).unwrap_or(digits.len())];
    let mut value = 0_i64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err("a number has other characters than digits");
        }
        // OK because a field has at most 12 digits of 3 bits.
        value = value << 3 | i64::from(digit - b'0');
    }
    Ok(value)
}

/// A size that the kernel could have.
pub(super) fn size(number: i64) -> Checked<u64> {
    if number > SIZE_MAX {
        return Err("its size is out of range");
    }
    u64::try_from(number).map_err(|_| "its size is negative")
}

/// The highest number means "leave it" to chown(2), so it can be nobody's.
pub(super) fn owner(number: i64) -> Checked<u32> {
    match u32::try_from(number) {
        Ok(owner) if owner != u32::MAX => Ok(owner),
        _ => Err("its owner is out of range"),
    }
}
