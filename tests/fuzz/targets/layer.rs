//! Any bytes as a layer: nothing outside of its folder is touched, and what was unpacked can be removed.
//!
//! The first byte says whether the checksums of the rest, a tar, are mended first; else it may be compressed too.
#![no_main]

use std::fs::{self, DirEntry};
use std::path::Path;
use std::sync::OnceLock;

use bundles::digest::Digest;
use libfuzzer_sys::fuzz_target;
use place::{Place, assert_not_outside, file_of, mend_checksums, open};

static PLACE: OnceLock<Place> = OnceLock::new();

fuzz_target!(
    init: {
        PLACE.get_or_init(Place::new);
    },
    |input: &[u8]| {
        let place = PLACE.get().unwrap();
        let Some((mode, bytes)) = input.split_first() else { return };
        let mut bytes = bytes.to_vec();
        if mode % 2 == 0 {
            mend_checksums(&mut bytes);
        }
        let (new, trash) = (place.folder("new"), place.folder("trash"));
        let (blob, frame) = (file_of(&bytes), file_of(&[]));
        let unpacked = bundles::fuzzing::unpack(blob, Digest::of(&bytes), open(&new), open(&trash), &frame);
        match unpacked {
            Ok(()) => check(&new),
            Err(error) => assert_not_outside(&error),
        }
        place.remove(&new);
        place.remove(&trash);
        place.check();
    }
);

/// An overlay's marks are made by whiteouts only.
fn check(folder: &Path) {
    let mut left: Vec<DirEntry> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    // A layer can nest more deeply than a path can say; those are left out.
    while let Some(entry) = left.pop() {
        let path = entry.path();
        if path.as_os_str().len() > 4000 {
            continue;
        }
        let mut names = [0; 8 << 10];
        let count = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
        for name in names[..count].split(|&byte| byte == 0) {
            // Those of users are none: an overlay takes them for marks only when it is mounted so, and none is here.
            let is_mark = name.starts_with(b"trusted.overlay.");
            assert!(!is_mark || name == b"trusted.overlay.opaque", "{path:?} has {}", name.escape_ascii());
        }
        if entry.file_type().unwrap().is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(Result::unwrap));
        }
    }
}
