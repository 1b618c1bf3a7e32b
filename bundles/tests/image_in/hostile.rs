//! Layers made to do harm: nothing gets out of the layer's folder, and what is refused leaves nothing behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::slice;

use bundles::Error;
use bundles::archive::Source;
use bundles::store::{Bounds, Excess, LoadOptions};

use crate::fixture::{Item, Place, archive_of, docker_files, layout_of, listing, tar_of};

/// Refuses a layer because of one entry, and says which.
fn refused(items: impl IntoIterator<Item = Item>, name: &str) -> String {
    match Place::new().refuse_layer(items) {
        Error::Entry { layer, entry, reason } => {
            assert_eq!(entry, name);
            assert!(layer.starts_with("layer 1 ("), "{layer}");
            reason
        }
        Error::EntryRefused { entry, doing, source, .. } => {
            assert_eq!(entry, name);
            format!("{doing}: {source}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_that_lead_out() {
    for name in ["../out", "a/../../out", "..", "/..", "a/..", "./../x"] {
        assert!(refused([Item::file(name, "x")], name).contains(".."), "{name}");
    }
    for target in ["../out", "/../etc/passwd", "a/../../b"] {
        assert!(refused([Item::hard_link("link", target)], "link").contains(".."), "{target}");
    }
}

#[test]
fn files_that_follow_planted_symlinks_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("victim"), "untouched").unwrap();
    let before = listing(outside.path());
    let up = format!("{}{target}", "../".repeat(40));
    let inside = &target[1..];
    for link in [target, up.as_str()] {
        let listing = Place::new()
            .unpack([
                Item::folder(inside),
                Item::symlink("link", link),
                Item::file("link/new", "inside"),
                Item::folder("link/folder/"),
                Item::symlink("link/victim", "elsewhere"),
                Item::file("link/victim", "inside too"),
                Item::hard_link("hard", "link/new"),
                Item::file("link/.wh.gone", ""),
                Item::file("link/.wh..wh..opq", ""),
            ])
            .unwrap();
        assert_eq!(listing[&format!("{inside}/new")].content, "inside");
        assert_eq!(listing[&format!("{inside}/victim")].content, "inside too");
        assert_eq!(listing["link"].kind, "symlink");
    }
    assert_eq!(listing(outside.path()), before);
}

#[test]
fn a_file_does_not_follow_a_symlink_of_its_own_name() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let listing = Place::new()
        .unpack([
            Item::symlink("link", victim.to_str().unwrap()),
            Item::file("link", "mine").mode(0o777).owner(1, 1),
            Item::symlink("other", victim.to_str().unwrap()).mode(0o777).owner(1, 1).mtime(5),
        ])
        .unwrap();
    assert_eq!((listing["link"].kind.as_str(), listing["link"].content.as_str()), ("file", "mine"));
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    let metadata = fs::metadata(&victim).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o600));
}

/// What is outside cannot be had inside either, by a hard link through a symlink.
#[test]
fn hard_links_to_what_is_outside() {
    for target in ["/etc/passwd", "link/passwd", "missing", "folder/missing", "file/below", "loop/x", "gone"]
    {
        let items = [
            Item::symlink("link", "/etc"),
            Item::folder("folder/"),
            Item::file("file", ""),
            Item::symlink("loop", "loop"),
            Item::file(".wh.gone", ""),
            Item::hard_link("hard", target),
        ];
        assert!(refused(items, "hard").contains("is not in the layer"), "{target}");
    }
    refused([Item::folder("folder/"), Item::hard_link("hard", "folder")], "hard");
    refused([Item::hard_link("hard", "/")], "hard");
}

/// The link in /proc leads out of every root; the kernel is told not to follow such ones.
#[test]
fn magic_links_are_not_followed() {
    let name = "link/file";
    refused([Item::symlink("link", "/proc/self/root"), Item::file(name, "")], name);
    let name = "loop/file";
    refused([Item::symlink("loop", "loop"), Item::file(name, "")], name);
}

#[test]
fn a_symlink_that_takes_the_place_of_a_folder_in_use() {
    let outside = tempfile::tempdir().unwrap();
    let listing = Place::new()
        .unpack([
            Item::folder("a/"),
            Item::folder("a/b/"),
            Item::file("a/b/one", "1"),
            Item::folder("real/"),
            Item::symlink("a/b", "/real"),
            Item::file("a/b/two", "2"),
            Item::symlink("a", outside.path().to_str().unwrap()),
            Item::folder(&outside.path().to_str().unwrap()[1..]),
            Item::file("a/three", "3"),
        ])
        .unwrap();
    assert_eq!(listing["real/two"].content, "2");
    assert!(listing.keys().all(|name| !name.ends_with("one")));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_honoured() {
    assert!(refused([Item::new(b'3', "whiteout")], "whiteout").contains("whiteout"));
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", ".wh..wh.x"] {
        assert!(refused([Item::file(name, "")], name).contains("whiteout"), "{name}");
    }
    let name = ".wh.a/b";
    assert!(refused([Item::file(name, "")], name).contains("kept for whiteouts"));
    assert!(refused([Item::file("/", "x")], "/").contains("root folder"));
    assert!(refused([Item::symlink("./", "x")], "./").contains("root folder"));
    assert!(refused([Item::symlink("link", "")], "link").contains("target"));
    refused([Item::file("a", ""), Item::file("a/b", "")], "a/b");
    refused([Item::symlink("a", "missing"), Item::file("a/b", "")], "a/b");
    refused([Item::new(b'M', "a")], "a");
    refused([Item::file("x", "").pax("path", "a\0b")], "a\0b");
    refused([Item::file("a", "").pax("uid", "4294967295")], "a");
    for uid in [0x7000_0000, 0x7fff_ffff] {
        let items = [Item::file("a", "x").mode(0o4755).owner(uid, 0), Item::folder("a").owner(uid, 0)];
        for item in items {
            assert!(refused([item], "a").contains("listening sockets"), "{uid}");
        }
        let pax = Item::file("a", "x").pax("uid", uid.to_string());
        assert!(refused([pax], "a").contains("listening sockets"), "{uid}");
    }
    refused([Item::file("a", "").pax("SCHILY.xattr.nonsense.x", "y")], "a");
    let long = "n".repeat(256);
    refused([Item::file(&long, "")], &long);
    let deep = "d/".repeat(2100);
    refused([Item::file(&deep, "")], &deep);
    refused(
        [Item::file("a", "x").pax("GNU.sparse.size", "9223372036854775807").pax("GNU.sparse.map", "0,1")],
        "a",
    );
}

/// Deep folders cost descriptors when they are removed; this has more than a process may have open.
#[test]
fn deep_folders_are_removed_as_well() {
    let deep = "d/".repeat(1900);
    let mut items = vec![Item::file(format!("{deep}file"), "x"), Item::folder("wide/")];
    items.extend((0..300).map(|number| Item::file(format!("wide/{number}"), "")));
    let error = Place::new().refuse_layer(items.clone().into_iter().chain([Item::file("../x", "")]));
    assert!(matches!(error, Error::Entry { .. }), "{error:?}");
    // Also where a file takes their place, and where the image is removed.
    items.push(Item::file("d", "a file now"));
    items.push(Item::file(format!("e/{deep}file"), "x"));
    let place = Place::new();
    place.load_layers(&[tar_of(items)]).unwrap();
    place.store.remove(&"test:1".parse().unwrap(), &|_| None).unwrap();
    assert_eq!(place.listing(), Place::new().listing_with_tags());
}

/// Names in the archive itself lead nowhere but into the archive.
#[test]
fn archives_whose_documents_point_outside() {
    let layer = tar_of([Item::file("a", "")]);
    let files = docker_files(&[(&["test:1"], slice::from_ref(&layer))]);
    let manifest = br#"[{"Config":"../../../../etc/passwd","RepoTags":["test:1"],"Layers":[]}]"#;
    let mut outside = files.clone();
    outside.insert("manifest.json".to_owned(), manifest.to_vec());
    assert!(matches!(Place::new().refuse(&archive_of(&outside)), Error::BlobMissing { .. }));

    let circle = tar_of([Item::symlink("manifest.json", "other"), Item::symlink("other", "manifest.json")]);
    assert!(matches!(Place::new().refuse(&circle), Error::NotAnImage { .. }));

    let mut nested = layout_of("test:1", &[layer]);
    let index = String::from_utf8(nested["index.json"].clone()).unwrap();
    let digest = format!("sha256:{}/../../../etc/passwd", "0".repeat(64));
    let start = index.find("sha256:").unwrap();
    let index = format!("{}{digest}{}", &index[..start], &index[start + 71..]);
    nested.insert("index.json".to_owned(), index.into_bytes());
    let error = Place::new().refuse(&archive_of(&nested));
    assert!(matches!(error, Error::Document { .. } | Error::InvalidDigest { .. }), "{error:?}");
}

/// All layers of a load count together, and what was allowed is loaded.
#[test]
fn no_more_is_unpacked_than_is_allowed() {
    let place = Place::new();
    let layers: Vec<Vec<u8>> = ["a", "b"].map(|name| tar_of([Item::file(name, vec![7; 300_000])])).to_vec();
    let path = place.path("archive.tar");
    fs::write(&path, archive_of(&layout_of("test:1", &layers))).unwrap();
    let load = |unpacked_bytes| {
        let bounds = Bounds { unpacked_bytes, ..Bounds::default() };
        let platform = Some("linux/amd64".parse().unwrap());
        place.store.load(&Source::of(&path).unwrap(), &LoadOptions { tag: None, platform, bounds }, &mut ())
    };
    let clean = place.listing();
    let error = load(500_000).expect_err("too much");
    assert!(
        matches!(error, Error::TooLarge { source: Excess::Unpacked { bound: 500_000 }, .. }),
        "{error:?}"
    );
    assert_eq!(place.listing(), clean);
    load(700_000).unwrap();
}

/// Folders that an entry only implies count, links count, and all layers count together.
#[test]
fn no_more_files_are_made_than_is_allowed() {
    let place = Place::new();
    let layers = [
        tar_of([Item::file("a/b/c", ""), Item::symlink("l", "a"), Item::hard_link("h", "a/b/c")]),
        tar_of([Item::file(".wh.a", ""), Item::folder("f/"), Item::new(b'6', "pipe"), Item::folder("f/")]),
    ];
    let path = place.path("archive.tar");
    fs::write(&path, archive_of(&layout_of("test:1", &layers))).unwrap();
    let load = |files| {
        let bounds = Bounds { files, ..Bounds::default() };
        let platform = Some("linux/amd64".parse().unwrap());
        place.store.load(&Source::of(&path).unwrap(), &LoadOptions { tag: None, platform, bounds }, &mut ())
    };
    let clean = place.listing();
    let error = load(7).expect_err("too many");
    assert!(matches!(error, Error::TooLarge { source: Excess::Files { bound: 7 }, .. }), "{error:?}");
    assert_eq!(place.listing(), clean);
    load(8).unwrap();
}
