//! Recognises how bytes are compressed, and decompresses them.
//! Knows nothing of what they are.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How many first bytes tell the compression.
pub(crate) const MAGIC_BYTES: usize = 6;

/// What `zstd --ultra --long=27` needs; more would let a small file ask for much memory. RFC 8878 recommends 8 MiB
/// as the least to support.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// What messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Tells the compression by the first bytes; of one that is known but not supported, its name.
pub(crate) fn by_magic(first: &[u8]) -> Result<Compression, &'static str> {
    match first {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A frame to be skipped may come first: RFC 8878, 3.1.2.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Err("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
        _ => Ok(Compression::Plain),
    }
}

/// Decompresses a source to its end, over several gzip members or zstd frames.
pub(crate) fn reader<'a>(
    source: impl BufRead + Send + 'a,
    compression: Compression,
) -> Box<dyn Read + Send + 'a> {
    match compression {
        Compression::Plain => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(ZstdFrames::new(source)),
    }
}

/// All zstd frames of a source, one after the other.
struct ZstdFrames<S> {
    source: S,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<S: BufRead> ZstdFrames<S> {
    fn new(source: S) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        Self { source, decoder, in_frame: false }
    }

    /// Begins the next frame that has content; false at the end of the source.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn check_sum(&self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(expected), Some(found)) if expected != found => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

impl<S: BufRead> Read for ZstdFrames<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if self.decoder.is_finished() {
                self.check_sum()?;
                self.in_frame = false;
                continue;
            }
            let enough = BlockDecodingStrategy::UptoBytes(buffer.len());
            self.decoder.decode_blocks(&mut self.source, enough).map_err(io::Error::other)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        compress_to_vec(data, CompressionLevel::Fastest)
    }

    fn data() -> Vec<u8> {
        (0..700_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect()
    }

    fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut result = Vec::new();
        reader(bytes, by_magic(bytes).unwrap()).read_to_end(&mut result)?;
        Ok(result)
    }

    #[test]
    fn several_members_and_frames() {
        let data = data();
        let (first, second) = data.split_at(1_000_001);
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for packed in [
            data.clone(),
            gzip(&data),
            [gzip(first), gzip(b""), gzip(second)].concat(),
            zstd(&data),
            [skippable.clone(), zstd(first), skippable.clone(), zstd(b""), zstd(second), skippable].concat(),
        ] {
            assert!(decompress(&packed).unwrap() == data);
        }
    }

    #[test]
    fn truncated_and_damaged() {
        let data = data();
        for packed in [gzip(&data), zstd(&data)] {
            for length in [8, packed.len() / 2, packed.len() - 1] {
                assert!(decompress(&packed[..length]).is_err(), "{length} of {}", packed.len());
            }
            let mut flipped = packed.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x10;
            assert!(decompress(&flipped).map_or(true, |result| result != data));
            assert!(decompress(&[packed, b"rubbish".to_vec()].concat()).is_err());
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        assert_eq!(by_magic(b"\xfd7zXZ\0"), Err("xz"));
        assert_eq!(by_magic(b"BZh91A"), Err("bzip2"));
        assert_eq!(by_magic(b""), Ok(Compression::Plain));
    }
}
