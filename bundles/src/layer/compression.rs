//! Recognises how bytes are compressed, and decompresses them.
//! Knows nothing of what they are.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::windows::{Window, Windows};

/// How many first bytes tell the compression.
pub(crate) const MAGIC_BYTES: usize = 6;

/// The magic number of a zstd frame, RFC 8878, 3.1.1.
const ZSTD_MAGIC: u32 = 0xfd2f_b528;

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
    windows: &'a Windows,
) -> Box<dyn Read + Send + 'a> {
    match compression {
        Compression::Plain => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(ZstdFrames { source, windows, decoder: None, in_frame: false }),
    }
}

/// All zstd frames of a source, one after the other.
struct ZstdFrames<'a, S> {
    source: S,
    windows: &'a Windows,
    /// The one for the latest frames, and what it may take of memory.
    decoder: Option<(FrameDecoder, Window<'a>)>,
    in_frame: bool,
}

impl<S: BufRead> ZstdFrames<'_, S> {
    /// Begins the next frame that has content; false at the end of the source.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut header = vec![0; 4];
            self.source.read_exact(&mut header)?;
            match u32::from_le_bytes([header[0], header[1], header[2], header[3]]) {
                ZSTD_MAGIC => {}
                // A frame to be skipped: RFC 8878, 3.1.2.
                0x184d_2a50..=0x184d_2a5f => {
                    let mut length = [0; 4];
                    self.source.read_exact(&mut length)?;
                    let length = u64::from(u32::from_le_bytes(length));
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    continue;
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "there is no zstd frame where one must be",
                    ));
                }
            }
            let window = self.header(&mut header)?;
            // Another decoder only for a larger window: one keeps what it has got.
            let mut decoder = match self.decoder.take() {
                Some((decoder, held)) if held.bytes() >= window => (decoder, held),
                before => {
                    drop(before);
                    (FrameDecoder::new(), self.windows.take(window)?)
                }
            };
            decoder.0.set_max_window_size(window);
            decoder.0.reset(header.as_slice()).map_err(io::Error::other)?;
            self.decoder = Some(decoder);
            return Ok(true);
        }
    }

    /// Reads what is left of a frame's header; the size of its window. RFC 8878, 3.1.1.1.
    fn header(&mut self, header: &mut Vec<u8>) -> io::Result<u64> {
        let mut descriptor = [0];
        self.source.read_exact(&mut descriptor)?;
        let [descriptor] = descriptor;
        let is_single_segment = descriptor & 0x20 != 0;
        let window_bytes = usize::from(!is_single_segment);
        let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size_bytes = match descriptor >> 6 {
            0 => usize::from(is_single_segment),
            power => 1 << power,
        };
        header.push(descriptor);
        let mut rest = [0; 13];
        let rest = &mut rest[..window_bytes + dictionary_bytes + size_bytes];
        self.source.read_exact(rest)?;
        header.extend_from_slice(rest);
        if !is_single_segment {
            let base = 1_u64 << (10 + (rest[0] >> 3));
            return Ok(base + base / 8 * u64::from(rest[0] & 7));
        }
        let mut size = [0; 8];
        size[..size_bytes].copy_from_slice(&rest[dictionary_bytes..]);
        let size = u64::from_le_bytes(size);
        Ok(if size_bytes == 2 { size + 256 } else { size })
    }

    fn check_sum(&self) -> io::Result<()> {
        let Some((decoder, _)) = &self.decoder else { return Ok(()) };
        match (decoder.get_checksum_from_data(), decoder.get_calculated_checksum()) {
            (Some(expected), Some(found)) if expected != found => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

impl<S: BufRead> Read for ZstdFrames<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            let Some((decoder, _)) = &mut self.decoder else { return Ok(0) };
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if decoder.is_finished() {
                self.check_sum()?;
                self.in_frame = false;
                continue;
            }
            // One at a time, which is at most 128 KiB: for more the decoder would double its memory.
            let one = BlockDecodingStrategy::UptoBlocks(1);
            decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
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
        reader(bytes, by_magic(bytes).unwrap(), &Windows::default()).read_to_end(&mut result)?;
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

    /// `zstd -19` needs 8 MiB, `--ultra -20` 32 MiB, and what needs more says so.
    #[test]
    fn windows_are_bounded() {
        let raw_block = |header: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd], header, &[0x09, 0, 0, b'x']].concat();
        // A window descriptor; then sizes in one and in eight bytes of frames that are their own window.
        for header in [&[0, 13 << 3][..], &[0, 15 << 3], &[0x20, 1], &[0xe0, 1, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decompress(&raw_block(header)).unwrap(), b"x", "{header:?}");
        }
        for header in [&[0, (15 << 3) + 1][..], &[0, 17 << 3], &[0, 0xff], &[0xe0, 0, 0, 0, 0, 1, 0, 0, 0]] {
            let error = decompress(&raw_block(header)).unwrap_err().to_string();
            assert!(error.contains("--long"), "{header:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        assert_eq!(by_magic(b"\xfd7zXZ\0"), Err("xz"));
        assert_eq!(by_magic(b"BZh91A"), Err("bzip2"));
        assert_eq!(by_magic(b""), Ok(Compression::Plain));
    }
}
