//! Any bytes as an archive, from a file or through a pipe: what is found in it lies in it.
//!
//! The first byte says how they come; its second bit whether the rest is an archive, or the documents of an image
//! layout, with the byte 0xff between them, that are put into one with the digests that they must have.
#![no_main]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use bundles::archive::Source;
use bundles::digest::Digest;
use libfuzzer_sys::fuzz_target;
use place::{Place, assert_not_outside, file_of, mend_checksums, open};

static PLACE: OnceLock<Place> = OnceLock::new();

/// What a pipe is made to take at once, so that nobody has to write while it is read.
const PIPE_BYTES: usize = 1 << 20;

fuzz_target!(
    init: {
        PLACE.get_or_init(Place::new);
    },
    |input: &[u8]| {
        let place = PLACE.get().unwrap();
        let Some((mode, bytes)) = input.split_first() else { return };
        let bytes = match mode & 6 {
            0 => {
                let mut bytes = bytes.to_vec();
                mend_checksums(&mut bytes);
                bytes
            }
            2 => bytes.to_vec(),
            _ => layout(bytes),
        };
        let spool = place.folder("new");
        let found = if mode & 1 == 1 && bytes.len() < PIPE_BYTES {
            let (from, to) = rustix::pipe::pipe().unwrap();
            rustix::pipe::fcntl_setpipe_size(&to, PIPE_BYTES).unwrap();
            std::fs::File::from(to).write_all(&bytes).unwrap();
            rustix::stdio::dup2_stdin(from).unwrap();
            bundles::fuzzing::find(&Source::Stdin, open(&spool))
        } else {
            let file = file_of(&bytes);
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            bundles::fuzzing::find(&Source::File(path), open(&spool))
        };
        match found {
            Ok(images) => {
                assert!(!images.is_empty());
                for (_, layers) in images {
                    assert!(!layers.is_empty());
                    // What is compressed as a whole may have longer layers than itself.
                    let is_plain = !matches!(bytes[..2], [0x1f, 0x8b] | [0x28, 0xb5] | [0x50..=0x5f, 0x2a]);
                    assert!(!is_plain || layers.iter().all(|&length| length <= bytes.len() as u64));
                }
            }
            Err(error) => assert_not_outside(&error),
        }
        place.remove(&spool);
        place.check();
    }
);

/// An archive of an image layout. In each document `@0` to `@9` stands for the digest of an earlier one, `#0` to `#9`
/// for its length; the last document is `index.json`.
fn layout(input: &[u8]) -> Vec<u8> {
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for document in input.split(|&byte| byte == 0xff).take(10) {
        let mut blob = Vec::new();
        let mut rest = document;
        while let Some((&first, after)) = rest.split_first() {
            let earlier = after.first().and_then(|digit| blobs.get(usize::from(digit.wrapping_sub(b'0'))));
            rest = match (first, earlier) {
                (b'@', Some(earlier)) => {
                    blob.extend_from_slice(Digest::of(earlier).to_string().as_bytes());
                    &after[1..]
                }
                (b'#', Some(earlier)) => {
                    blob.extend_from_slice(earlier.len().to_string().as_bytes());
                    &after[1..]
                }
                _ => {
                    blob.push(first);
                    after
                }
            };
        }
        blobs.push(blob);
    }
    let mut tar = Vec::new();
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = blobs.pop().unwrap_or_default();
    add(&mut tar, "index.json", &index);
    for blob in blobs {
        add(&mut tar, &format!("blobs/sha256/{}", Digest::of(&blob).hex()), &blob);
    }
    tar.resize(tar.len() + 1024, 0);
    mend_checksums(&mut tar);
    tar
}

fn add(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let at = tar.len();
    tar.resize(at + 512, 0);
    tar[at..at + name.len()].copy_from_slice(name.as_bytes());
    tar[at + 124..at + 135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar[at + 156] = b'0';
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
