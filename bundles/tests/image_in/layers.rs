//! What becomes of a layer's entries: attributes, kinds, holes, whiteouts, and the folders that archives leave out.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::fixture::{Item, Place, tar_of};

const CAPABILITY: &[u8] = b"\x01\x00\x00\x02\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
/// user::rwx, user:1000:r-x, group::r-x, mask::r-x, other::--- as the kernel stores it.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

#[test]
fn owners_modes_times_and_attributes() {
    let listing = Place::new()
        .unpack([
            Item::folder("./").mode(0o711).owner(3, 4).mtime(100),
            Item::folder("etc/").mode(0o2775).owner(10, 20).mtime(200),
            Item::file("etc/setuid", "x").mode(0o6755).owner(1000, 1001).pax("mtime", "300.123456789"),
            Item::file("etc/capable", "x").owner(7, 7).pax("SCHILY.xattr.security.capability", CAPABILITY),
            Item::file("etc/unreadable", "").mode(0),
            Item::symlink("etc/link", "/nowhere").owner(5, 6).mtime(400),
            Item::new(b'6', "etc/pipe").mode(0o620).owner(8, 9).mtime(500),
            Item::new(b'3', "etc/null").device(1, 3).mode(0o666).owner(0, 5),
            Item::new(b'4', "etc/disk").device(253, 300).mode(0o660),
            Item::file("etc/early", "").pax("mtime", "-1.5"),
        ])
        .unwrap();
    let root = &listing[""];
    assert_eq!((root.mode, root.owner, root.modified), (0o711, (3, 4), (100, 0)));
    let folder = &listing["etc"];
    assert_eq!((folder.mode, folder.owner, folder.modified), (0o2775, (10, 20), (200, 0)));
    let setuid = &listing["etc/setuid"];
    assert_eq!((setuid.mode, setuid.owner, setuid.modified), (0o6755, (1000, 1001), (300, 123_456_789)));
    assert_eq!(listing["etc/capable"].xattrs["security.capability"], CAPABILITY);
    assert_eq!((listing["etc/capable"].owner, listing["etc/unreadable"].mode), ((7, 7), 0));
    assert_eq!(listing["etc/unreadable"].owner, (0, 0), "the folder's setgid bit does not give its group");
    let link = &listing["etc/link"];
    assert_eq!((link.content.as_str(), link.owner, link.modified), ("/nowhere", (5, 6), (400, 0)));
    let pipe = &listing["etc/pipe"];
    assert_eq!((pipe.kind.as_str(), pipe.mode, pipe.owner, pipe.modified), ("fifo", 0o620, (8, 9), (500, 0)));
    let null = &listing["etc/null"];
    assert_eq!(null.content, rustix::fs::makedev(1, 3).to_string());
    assert_eq!((null.kind.as_str(), null.mode, null.owner), ("character device", 0o666, (0, 5)));
    assert_eq!(listing["etc/disk"].content, rustix::fs::makedev(253, 300).to_string());
    assert_eq!(listing["etc/early"].modified, (-2, 500_000_000));
}

#[test]
fn attributes_that_are_kept_and_that_are_not() {
    let listing = Place::new()
        .unpack([
            Item::file("file", "")
                .pax("SCHILY.xattr.user.note", "a\nb\0c")
                .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
                .pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")
                .pax("SCHILY.xattr.security.selinux", "system_u:object_r:etc_t:s0"),
            Item::folder("folder/")
                .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
                .pax("SCHILY.xattr.user.a", "b"),
            Item::symlink("link", "file").pax("SCHILY.xattr.trusted.note", "on the link itself"),
            Item::new(b'6', "pipe").pax("SCHILY.xattr.trusted.note", "on the pipe"),
        ])
        .unwrap();
    let xattrs =
        |name: &str| -> Vec<(String, Vec<u8>)> { listing[name].xattrs.clone().into_iter().collect() };
    assert_eq!(xattrs("file"), [("user.note".to_owned(), b"a\nb\0c".to_vec())]);
    assert_eq!(xattrs("folder"), [("user.a".to_owned(), b"b".to_vec())]);
    assert_eq!(xattrs("link"), [("trusted.note".to_owned(), b"on the link itself".to_vec())]);
    assert_eq!(xattrs("pipe"), [("trusted.note".to_owned(), b"on the pipe".to_vec())]);
}

#[test]
fn a_default_acl_is_not_inherited_while_unpacking() {
    let listing = Place::new()
        .unpack([
            Item::folder("folder/")
                .mode(0o750)
                .mtime(700)
                .pax("SCHILY.xattr.system.posix_acl_default", ACL)
                .pax("SCHILY.xattr.system.posix_acl_access", ACL),
            Item::file("folder/file", "").mode(0o640),
            Item::folder("folder/below/"),
        ])
        .unwrap();
    assert_eq!(listing["folder"].xattrs["system.posix_acl_default"], ACL);
    assert_eq!(listing["folder"].xattrs["system.posix_acl_access"], ACL);
    assert_eq!((listing["folder"].mode, listing["folder"].modified), (0o750, (700, 0)));
    assert!(listing["folder/file"].xattrs.is_empty() && listing["folder/below"].xattrs.is_empty());
    assert_eq!((listing["folder/file"].mode, listing["folder/below"].mode), (0o640, 0o755));
}

#[test]
fn folders_keep_their_times_when_filled_late() {
    let listing = Place::new()
        .unpack([
            Item::folder("a/").mtime(100),
            Item::folder("a/b/").mtime(200),
            Item::file("a/b/file", ""),
            Item::hard_link("a/hard", "a/b/file"),
            Item::symlink("a/b/link", "x"),
        ])
        .unwrap();
    assert_eq!((listing["a"].modified.0, listing["a/b"].modified.0), (100, 200));
}

#[test]
fn hard_links_are_one_file() {
    let listing = Place::new()
        .unpack([
            Item::file("a", "same").owner(5, 5).mode(0o4711),
            Item::hard_link("b", "/a"),
            Item::hard_link("folder/c", "./b"),
            Item::hard_link("a", "a"),
            Item::symlink("link", "a"),
            Item::hard_link("link2", "link"),
        ])
        .unwrap();
    assert_eq!(listing["b"].same_as.as_deref(), Some("a"));
    assert_eq!(listing["folder/c"].same_as.as_deref(), Some("a"));
    assert_eq!(
        (listing["a"].content.as_str(), listing["a"].mode, listing["a"].owner),
        ("same", 0o4711, (5, 5))
    );
    assert_eq!(
        (listing["link2"].kind.as_str(), listing["link2"].same_as.as_deref()),
        ("symlink", Some("link"))
    );
}

/// A file of 16 MiB with data at three places, in every format that tars have for it.
#[test]
fn holes_stay_holes() {
    const SIZE: u64 = 16 << 20;
    let data = [vec![b'a'; 4096], vec![b'b'; 4096], vec![b'c'; 10]].concat();
    let map = [(0, 4096), (8 << 20, 4096), (12 << 20, 10)];
    let numbers: Vec<String> =
        map.iter().flat_map(|(at, bytes)| [at.to_string(), bytes.to_string()]).collect();
    let mut version_1 = format!("3\n{}\n", numbers.join("\n")).into_bytes();
    version_1.resize(512, 0);
    version_1.extend_from_slice(&data);
    let size = SIZE.to_string();
    let mut version_0 =
        Item::file("zero", &data).pax("GNU.sparse.size", &size).pax("GNU.sparse.numblocks", "3");
    for pair in numbers.chunks(2) {
        version_0 = version_0.pax("GNU.sparse.offset", &pair[0]).pax("GNU.sparse.numbytes", &pair[1]);
    }
    let place = Place::new();
    let layer = tar_of([
        version_0.mtime(42),
        Item::file("GNUSparseFile.0/one", &data)
            .pax("GNU.sparse.size", &size)
            .pax("GNU.sparse.name", "one")
            .pax("GNU.sparse.map", numbers.join(",")),
        Item::file("GNUSparseFile.0/two", &version_1)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "two")
            .pax("GNU.sparse.realsize", &size),
        Item::file("all-hole", "").pax("GNU.sparse.size", "1000000").pax("GNU.sparse.map", "1000000,0"),
    ]);
    let image = place.load_layers(&[layer]).unwrap();
    let folder = &place.store.layer_folders(&image)[0];
    let mut expected = vec![0; SIZE as usize];
    for ((at, bytes), from) in map.iter().zip([0, 4096, 8192]) {
        expected[*at..at + bytes].copy_from_slice(&data[from..from + bytes]);
    }
    for name in ["zero", "one", "two"] {
        assert!(fs::read(folder.join(name)).unwrap() == expected, "{name}");
        let blocks = folder.join(name).metadata().unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{name} takes {blocks} blocks");
    }
    assert_eq!(folder.join("zero").metadata().unwrap().mtime(), 42);
    assert_eq!(folder.join("all-hole").metadata().unwrap().len(), 1_000_000);
    assert_eq!(image.layers[0].bytes, 3 * SIZE + 1_000_000);
}

#[test]
fn whiteouts_become_the_kernels() {
    let listing = Place::new()
        .unpack([
            Item::file(".wh.top", ""),
            Item::folder("etc/"),
            Item::file("etc/.wh.gone", ""),
            Item::file("etc/.wh.gone", ""),
            Item::folder("opaque/").mode(0o700),
            Item::file("opaque/.wh..wh..opq", ""),
            Item::file("opaque/new", "n"),
            Item::file("implied/.wh..wh..opq", ""),
            Item::folder(".wh..wh.plnk/"),
            Item::file(".wh..wh.aufs", ""),
        ])
        .unwrap();
    for name in ["top", "etc/gone"] {
        assert_eq!((listing[name].kind.as_str(), listing[name].content.as_str()), ("character device", "0"));
    }
    for name in ["opaque", "implied"] {
        assert_eq!(listing[name].xattrs["trusted.overlay.opaque"], b"y");
    }
    assert_eq!((listing["opaque"].mode, listing["opaque/new"].content.as_str()), (0o700, "n"));
    assert!(!listing.keys().any(|name| name.contains(".wh.")));
}

/// A whiteout is for what the layers below have; it must not hit what this layer brings, in whatever order they come.
#[test]
fn whiteouts_and_new_things_of_one_name() {
    let listing = Place::new()
        .unpack([
            Item::file(".wh.first", ""),
            Item::folder("first/").mtime(5),
            Item::file("first/file", "1"),
            Item::folder("second/").mtime(5),
            Item::file("second/file", "2"),
            Item::file(".wh.second", ""),
            Item::file(".wh.third", ""),
            Item::file("third/file", "3"),
            Item::file(".wh.fourth", ""),
            Item::file("fourth", "4"),
            Item::file("fifth", "5"),
            Item::file(".wh.fifth", ""),
            Item::symlink("sixth", "first"),
            Item::file(".wh.sixth", ""),
        ])
        .unwrap();
    for (name, content) in [("first", "1"), ("second", "2"), ("third", "3")] {
        assert_eq!(listing[name].xattrs["trusted.overlay.opaque"], b"y", "{name}");
        assert_eq!(listing[&format!("{name}/file")].content, content);
    }
    assert_eq!((listing["fourth"].content.as_str(), listing["fifth"].content.as_str()), ("4", "5"));
    assert_eq!(listing["sixth"].kind, "symlink");
}

#[test]
fn later_entries_take_the_place_of_earlier_ones() {
    let listing = Place::new()
        .unpack([
            Item::file("a", "first"),
            Item::file("a", "second"),
            Item::folder("b/"),
            Item::file("b/inside", ""),
            Item::file("b", "a file now"),
            Item::file("c", "a file first"),
            Item::folder("c/").mode(0o700),
            Item::folder("d/").mode(0o700).mtime(1),
            Item::folder("d/stays/").mtime(3),
            Item::folder("d/").mode(0o711).mtime(2),
            Item::folder("e/"),
            Item::folder("e/stays/").mtime(7),
            Item::symlink("e", "d"),
            Item::symlink("f", "d"),
            Item::folder("f/"),
        ])
        .unwrap();
    assert_eq!((listing["a"].content.as_str(), listing["b"].content.as_str()), ("second", "a file now"));
    assert_eq!((listing["c"].kind.as_str(), listing["c"].mode), ("folder", 0o700));
    assert_eq!((listing["d"].mode, listing["d"].modified), (0o711, (2, 0)));
    assert_eq!(listing["d/stays"].modified, (3, 0), "e/stays had gone when its time could be set");
    assert_eq!((listing["e"].kind.as_str(), listing["f"].kind.as_str()), ("symlink", "folder"));
}

#[test]
fn folders_that_are_left_out() {
    let listing = Place::new().unpack([Item::file("a/b/c", "x"), Item::folder("a/").mode(0o750)]).unwrap();
    assert_eq!((listing["a"].mode, listing["a/b"].mode, listing["a/b"].owner), (0o750, 0o755, (0, 0)));
    assert_eq!((listing[""].mode, listing[""].owner, listing[""].modified), (0o755, (0, 0), (0, 0)));
    assert_eq!(listing["a/b"].modified, (0, 0), "the same wherever it is unpacked");
}

#[test]
fn every_spelling_of_a_path() {
    let long = "n".repeat(200);
    let listing = Place::new()
        .unpack([
            Item::folder("/"),
            Item::file("./a", ""),
            Item::file("/b", ""),
            Item::folder("c//"),
            Item::file(".//c/./d", ""),
            Item::new(0, "e/"),
            Item::file(format!("f/{long}/{long}"), ""),
            Item::file("\u{fc}ml\u{e4}ut", ""),
            Item::file(b"\xff\xfe", ""),
            Item::new(b'7', "contiguous"),
        ])
        .unwrap();
    let names: Vec<&str> = listing.keys().map(String::as_str).collect();
    let long = format!("f/{long}/{long}");
    let expected =
        ["", "a", "b", "c", "c/d", "contiguous", "e", "f", &long[..202], &long, "ümläut", "\u{fffd}\u{fffd}"];
    assert_eq!(names, expected);
}

#[test]
fn an_empty_layer() {
    let place = Place::new();
    assert_eq!(place.unpack([]).unwrap().len(), 1);
    let image = place.load_layers(&[vec![]]).unwrap();
    assert_eq!(image.layers[0].bytes, 0);
}
