//! Any text as the name of an image: what is understood says the same when it is written and read again.
#![no_main]

use bundles::digest::Digest;
use bundles::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<bundles::archive::Platform>();
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    for written in [reference.to_string(), reference.written()] {
        let again: Reference =
            written.parse().unwrap_or_else(|error| panic!("{text:?} {written:?}: {error}"));
        assert_eq!(again, reference, "{text:?} {written:?}");
    }
    // It becomes part of paths, of JSON and of messages.
    let parts = [Some(&reference.name), reference.tag.as_ref()];
    for part in parts.into_iter().flatten() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:[]".contains(&byte);
        assert!(part.bytes().all(is_plain), "{part:?}");
        assert!(part.split('/').all(|part| part != ".." && part != "."), "{part:?}");
        assert!(!part.starts_with(['-', '/']), "{part:?}");
    }
});
