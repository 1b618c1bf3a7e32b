//! Archives that are damaged, incomplete, or none: each gets its own error, and leaves nothing behind.

use std::fs;
use std::slice;

use bundles::Error;
use bundles::archive::Source;
use bundles::digest::Digest;
use serde_json::json;

use crate::fixture::{
    Files, GZIP, Item, Layout, PLAIN, Place, ZSTD, archive_of, configuration, docker_files, gzip, layout_of,
    tar_of, write_folder, zstd,
};

fn layer() -> Vec<u8> {
    // Content that gzip cannot shrink to nothing.
    let noise: Vec<u8> =
        (0..12_000_u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    tar_of([Item::file("a", "1"), Item::file("noise", noise), Item::file("z", "end")])
}

/// A layout with one layer, of which the blob in it is another one than it should be.
fn with_blob(media_type: &str, plain: &[u8], digest_of: &[u8], content: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &[(plain.to_vec(), digest_of.to_vec(), media_type)]);
    layout.list(image, Some("test:1"));
    let path = format!("blobs/sha256/{}", Digest::of(digest_of).hex());
    layout.files.insert(path, content.to_vec());
    archive_of(&layout.finish())
}

#[test]
fn what_is_no_image() {
    let place = Place::new();
    let not_an_image = |archive: &[u8], expected: &str| match place.refuse(archive) {
        Error::NotAnImage { reason, .. } => assert!(reason.contains(expected), "{reason}"),
        other => panic!("{other:?}"),
    };
    not_an_image(b"", "empty");
    not_an_image(b"#!/bin/sh\n", "no tar archive");
    not_an_image(&[b'x'; 10_000], "no tar archive");
    not_an_image(&tar_of([Item::file("etc/passwd", "root")]), "neither manifest.json");
    not_an_image(&tar_of([]), "neither manifest.json");
    not_an_image(
        &archive_of(&Files::from([("manifest.json".to_owned(), b"[]".to_vec())])),
        "list of images is empty",
    );
    not_an_image(b"\xfd7zXZ\0 and so on", "xz");
    not_an_image(&gzip(b"no archive"), "no tar archive");
    let no_layers = docker_files(&[(&["test:1"], &[])]);
    not_an_image(&archive_of(&no_layers), "names no layers");
    let mut version_2 = layout_of("test:1", &[layer()]);
    version_2.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    not_an_image(&archive_of(&version_2), "version 2.0.0");
}

#[test]
fn what_is_not_there() {
    let place = Place::new();
    assert!(matches!(Source::of(place.path("missing")), Err(Error::NoSource { .. })));
    let gone = Source::File(place.path("missing"));
    let result = place.store.load(&gone, &Default::default(), &mut ());
    assert!(matches!(result, Err(Error::NoSource { .. })));
}

#[test]
fn folders_that_are_no_layouts() {
    let place = Place::new();
    let files = layout_of("test:1", &[layer()]);
    for missing in ["oci-layout", "index.json"] {
        let folder = place.path(&format!("without {missing}"));
        write_folder(&folder, &files);
        fs::remove_file(folder.join(missing)).unwrap();
        assert!(matches!(place.load_file(&folder), Err(Error::NotAnImage { .. })), "{missing}");
    }
    // A pipe must not make the program wait, nor a folder confuse it.
    let folder = place.path("with a pipe");
    write_folder(&folder, &files);
    fs::remove_file(folder.join("index.json")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("index.json"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    assert!(matches!(place.load_file(&folder), Err(Error::NotAnImage { .. })));
}

#[test]
fn truncated_everywhere() {
    let place = Place::new();
    for files in [docker_files(&[(&["test:1"], &[layer()])]), layout_of("test:1", &[layer()])] {
        let archive = archive_of(&files);
        let content = archive.len() - 1024;
        let mut lengths: Vec<usize> = (512..content).step_by(content / 37).collect();
        lengths.extend([513, 1023, 1024, content - 1, content - 512]);
        for length in lengths {
            let error = place.refuse(&archive[..length]);
            assert!(matches!(error, Error::Truncated { .. }), "{length} of {}: {error:?}", archive.len());
        }
        // All is there but the mark of the end; tar(1) and Docker are content with that as well.
        place.load(&archive[..content]).unwrap();
        place.store.remove(&"test:1".parse().unwrap(), &|_| None).unwrap();
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let layer = tar_of([Item::file("a", "1"), Item::file("b", vec![5; 3000])]);
    for files in [docker_files(&[(&["test:1"], slice::from_ref(&layer))]), layout_of("test:1", &[layer])] {
        let archive = archive_of(&files);
        let place = Place::new();
        let clean = place.listing();
        for at in (0..archive.len()).step_by(131) {
            let mut flipped = archive.clone();
            flipped[at] ^= 0x41;
            if place.load(&flipped).is_ok() {
                // It hit what means nothing (padding, times, owners of the outer archive) or only a name.
                for image in place.store.images().unwrap() {
                    for layer in &image.layers {
                        assert!(
                            files.values().any(
                                |data| Digest::of(data) == layer.diff_id || data.starts_with(b"\x1f\x8b")
                            )
                        );
                    }
                    place.store.remove(&image.names[0], &|_| None).unwrap();
                }
                assert_eq!(fs::read_dir(place.path("store/layers/sha256")).unwrap().count(), 0);
            } else if !place.path("store/tags.json").exists() {
                assert_eq!(place.listing(), clean, "byte {at}");
            }
            assert_eq!(fs::read_dir(place.path("store/tmp")).unwrap().count(), 0, "byte {at}");
        }
    }
}

#[test]
fn wrong_digests_say_which_and_what() {
    let layer = layer();
    let packed = gzip(&layer);
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 1;
    match Place::new().refuse(&with_blob(GZIP, &layer, &packed, &flipped)) {
        Error::WrongDigest { blob, expected, found } => {
            assert_eq!(blob, format!("layer 1 ({})", Digest::of(&packed)));
            assert_eq!((expected, found), (Digest::of(&packed), Digest::of(&flipped)));
        }
        other => panic!("{other:?}"),
    }
    let mut flipped = layer.clone();
    flipped[600] ^= 1;
    let error = Place::new().refuse(&with_blob(PLAIN, &layer, &layer, &flipped));
    assert!(matches!(error, Error::WrongDigest { .. }), "{error:?}");

    let error = Place::new().refuse(&with_blob(PLAIN, &layer, &layer, &layer[512..]));
    assert!(
        matches!(error, Error::WrongSize { expected, found, .. } if expected == found + 512),
        "{error:?}"
    );

    let files = layout_of("test:1", &[layer]);
    for (name, data) in
        files.iter().filter(|(name, data)| name.starts_with("blobs/") && data.starts_with(b"{"))
    {
        let mut damaged = files.clone();
        let mut content = data.clone();
        content[0] = b' ';
        damaged.insert(name.clone(), content);
        let error = Place::new().refuse(&archive_of(&damaged));
        assert!(matches!(error, Error::WrongDigest { .. }), "{error:?}");
    }
}

#[test]
fn the_configurations_name_is_its_digest() {
    let mut files = docker_files(&[(&["test:1"], &[layer()])]);
    let name = files.keys().find(|name| name.ends_with(".json") && *name != "manifest.json").unwrap().clone();
    files.get_mut(&name).unwrap().push(b' ');
    let error = Place::new().refuse(&archive_of(&files));
    assert!(matches!(error, Error::WrongDigest { .. }), "{error:?}");
}

#[test]
fn wrong_diff_ids() {
    let (layer, other) = (layer(), tar_of([Item::file("other", "")]));
    // A configuration that was made for another layer.
    let mut layout = Layout::default();
    let image = layout.image("amd64", &[(other.clone(), gzip(&layer), GZIP)]);
    layout.list(image, Some("test:1"));
    match Place::new().refuse(&archive_of(&layout.finish())) {
        Error::WrongDiffId { expected, found, .. } => {
            assert_eq!((expected, found), (Digest::of(&other), Digest::of(&layer)));
        }
        other => panic!("{other:?}"),
    }
    let mut files = docker_files(&[(&["test:1"], slice::from_ref(&layer))]);
    files.insert(format!("{}.tar", Digest::of(&layer).hex()), other);
    let error = Place::new().refuse(&archive_of(&files));
    assert!(matches!(error, Error::WrongDiffId { .. }), "{error:?}");
}

/// Bytes after the end of the tar belong to the layer's digest too.
#[test]
fn what_follows_the_end_of_a_layer_counts() {
    let layer = [layer(), vec![0; 9216], b"tail".to_vec()].concat();
    let place = Place::new();
    place.load(&with_blob(GZIP, &layer, &gzip(&layer), &gzip(&layer))).unwrap();
    let shorter = &layer[..layer.len() - 1];
    let mut layout = Layout::default();
    let image = layout.image("amd64", &[(layer.clone(), gzip(shorter), GZIP)]);
    layout.list(image, Some("test:1"));
    let error = Place::new().refuse(&archive_of(&layout.finish()));
    assert!(matches!(error, Error::WrongDiffId { .. }), "{error:?}");
}

#[test]
fn corrupt_compression_with_the_right_digest() {
    let layer = layer();
    for (media_type, packed, name) in [(GZIP, gzip(&layer), "gzip"), (ZSTD, zstd(&layer), "zstd")] {
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0xff;
        let cut = packed[..packed.len() - 5].to_vec();
        let tail = [packed.clone(), b"rubbish".to_vec()].concat();
        for broken in [cut, tail, flipped] {
            match Place::new().refuse(&with_blob(media_type, &layer, &broken, &broken)) {
                Error::Decompress { compression, layer, .. } => {
                    assert_eq!(compression, name);
                    assert!(layer.starts_with("layer 1"));
                }
                // zstd may not notice a flipped byte in what it copies.
                Error::WrongDiffId { .. } if name == "zstd" => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn the_compression_must_be_what_the_media_type_says() {
    let layer = layer();
    for (media_type, content, expected, found) in [
        (GZIP, layer.clone(), "gzip", "plain"),
        (PLAIN, gzip(&layer), "plain", "gzip"),
        (ZSTD, gzip(&layer), "zstd", "gzip"),
        (GZIP, b"\xfd7zXZ\0".to_vec(), "gzip", "xz"),
    ] {
        match Place::new().refuse(&with_blob(media_type, &layer, &content, &content)) {
            Error::WrongCompression { expected: by_type, found: by_magic, .. } => {
                assert_eq!((by_type, by_magic), (expected, found));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn media_types_that_are_not_supported() {
    let layer = layer();
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    let refuse = |archive: &[u8]| match Place::new().refuse(archive) {
        Error::UnsupportedMediaType { media_type, .. } => media_type,
        other => panic!("{other:?}"),
    };
    assert_eq!(refuse(&with_blob(encrypted, &layer, &layer, &layer)), encrypted);

    let chart = "application/vnd.cncf.helm.config.v1+json";
    let artifact = |layout: &mut Layout| {
        let config = layout.blob(chart, b"{}");
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] });
        layout.blob("application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest).unwrap())
    };
    let mut layout = Layout::default();
    let manifest = artifact(&mut layout);
    layout.list(manifest, Some("chart:1"));
    assert_eq!(refuse(&archive_of(&layout.finish())), chart);

    let mut layout = Layout::default();
    let other = layout.blob("application/x-other", b"{}");
    layout.list(other, Some("test:1"));
    assert_eq!(refuse(&archive_of(&layout.finish())), "application/x-other");

    // Beside an image such things are left alone.
    let mut layout = Layout::default();
    let manifest = artifact(&mut layout);
    layout.list(manifest, Some("chart:1"));
    let image = layout.image("amd64", &[(layer.clone(), layer, PLAIN)]);
    layout.list(image, Some("test:1"));
    assert_eq!(Place::new().load(&archive_of(&layout.finish())).unwrap().len(), 1);
}

#[test]
fn what_is_missing_is_named() {
    let layer = layer();
    let files = docker_files(&[(&["test:1"], slice::from_ref(&layer))]);
    let path = format!("{}.tar", Digest::of(&layer).hex());
    for name in files.keys().filter(|name| *name != "manifest.json") {
        let mut without = files.clone();
        without.remove(name);
        match Place::new().refuse(&archive_of(&without)) {
            Error::BlobMissing { blob, .. } => assert!(blob.contains(name.as_str()), "{blob}"),
            other => panic!("{other:?}"),
        }
    }
    let mut fewer = files.clone();
    let manifest =
        String::from_utf8(files["manifest.json"].clone()).unwrap().replace(&format!("\"{path}\""), "");
    fewer.insert("manifest.json".to_owned(), manifest.into_bytes());
    assert!(matches!(Place::new().refuse(&archive_of(&fewer)), Error::Damaged { .. }));
    let layout = layout_of("test:1", &[layer]);
    for name in layout.keys().filter(|name| name.starts_with("blobs/")) {
        let mut without = layout.clone();
        without.remove(name);
        assert!(matches!(Place::new().refuse(&archive_of(&without)), Error::BlobMissing { .. }), "{name}");
    }
}

#[test]
fn documents_that_make_no_sense() {
    for document in ["", "{", "{}", "null", "[{}]", "[1]", "\u{0}"] {
        let mut files = docker_files(&[(&["test:1"], &[layer()])]);
        files.insert("manifest.json".to_owned(), document.as_bytes().to_vec());
        let error = Place::new().refuse(&archive_of(&files));
        assert!(matches!(error, Error::Document { .. }), "{document}: {error:?}");
    }
    let mut layout = layout_of("test:1", &[layer()]);
    layout.insert("index.json".to_owned(), b"{}".to_vec());
    assert!(matches!(Place::new().refuse(&archive_of(&layout)), Error::Document { .. }));
    let text = String::from_utf8(configuration(&[layer()], "amd64")).unwrap();
    let broken = text.replace("sha256:", "sha512:").into_bytes();
    let path = format!("{}.json", Digest::of(&broken).hex());
    let manifest = json!([{ "Config": path, "RepoTags": ["test:1"], "Layers": ["a"] }]);
    let files = Files::from([
        (path, broken),
        ("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()),
        ("a".to_owned(), layer()),
    ]);
    assert!(matches!(Place::new().refuse(&archive_of(&files)), Error::InvalidDigest { .. }));
}

/// The first layer is good, the second is not: the first one must not stay either.
#[test]
fn a_bad_layer_takes_the_good_ones_with_it() {
    let (good, bad) = (layer(), tar_of([Item::file("../x", "")]));
    let error = Place::new().refuse(&archive_of(&docker_files(&[(&["test:1"], &[good, bad])])));
    assert!(matches!(error, Error::Entry { .. }), "{error:?}");
}
