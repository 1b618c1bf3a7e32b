//! The corpus of hostile images: for each what comes of it, and that a tree outside the store is as it was before.
//!
//! A case is refused with an error that says why, and leaves nothing behind; or it is harmless, and then what is in the layer
//! is said. After each a good image is loaded into the same store.

use std::error::Error as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bundles::Error;
use serde_json::json;

use crate::fixture::{
    Files, GZIP, Item, Layout, PLAIN, Place, ZSTD, archive_of, docker_files, gzip, layout_of, listing,
    tar_of, zstd,
};

/// A hostile image.
pub struct Case {
    name: String,
    pub archive: Vec<u8>,
    expected: Expected,
}

/// What must come of it.
pub enum Expected {
    /// An error with this text somewhere in its chain.
    Refused(&'static str),
    /// Its top layer has these: `path kind content`; and not those behind a `!`.
    Harmless(Vec<String>),
}

use Expected::{Harmless, Refused};

fn case(name: &str, archive: Vec<u8>, expected: Expected) -> Case {
    Case { name: name.to_owned(), archive, expected }
}

/// An image of one layer with these entries.
fn entries(name: &str, items: impl IntoIterator<Item = Item>, expected: Expected) -> Case {
    case(name, image(&[tar_of(items)]), expected)
}

fn image(layers: &[Vec<u8>]) -> Vec<u8> {
    archive_of(&docker_files(&[(&["hostile:1"], layers)]))
}

fn holds<const N: usize>(what: [&str; N]) -> Expected {
    Harmless(what.map(str::to_owned).to_vec())
}

/// What must not change: files, links and folders of several owners and modes beside the store.
fn make_canary(folder: &Path) {
    for sub in ["etc", "etc/deep/er", "empty"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    fs::write(folder.join("etc/passwd"), "root:x:0:0\n").unwrap();
    fs::write(folder.join("etc/deep/er/file"), "down here").unwrap();
    fs::set_permissions(folder.join("etc/passwd"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(folder.join("etc/deep"), Some(7), Some(8)).unwrap();
    symlink("etc/passwd", folder.join("link")).unwrap();
    fs::hard_link(folder.join("etc/passwd"), folder.join("second name")).unwrap();
}

/// The text of an error and of all that caused it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn nothing_hostile_gets_out_and_nothing_half_made_stays() {
    let place = Place::new();
    let canary = place.path("canary");
    make_canary(&canary);
    let before = listing(&canary);
    let outside = canary.to_str().unwrap().to_owned();
    let cases = cases(&outside);
    assert!(cases.len() >= 80, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for Case { name, archive, expected } in &cases {
        // A store of its own: what one case leaves must not be another's excuse.
        let store = Place::beside(&place);
        let clean = store.listing();
        match (store.load(archive), expected) {
            (Err(error), Refused(text)) => {
                if !chain(&error).contains(text) {
                    wrong.push(format!("{name}: expected «{text}», got: {}", chain(&error)));
                }
                if store.listing() != clean {
                    wrong.push(format!("{name}: something stayed behind"));
                }
            }
            (Ok(images), Harmless(expected)) => {
                let layers = store.store.layer_folders(&images[0]);
                let found = listing(layers.first().unwrap());
                for line in expected {
                    let shown =
                        |path: &str| found.get(path).map(|it| format!("{path} {} {}", it.kind, it.content));
                    let well = match line.strip_prefix('!') {
                        Some(path) => !found.contains_key(path),
                        None => {
                            shown(line.split(' ').next().unwrap()).is_some_and(|it| it.trim_end() == line)
                        }
                    };
                    if !well {
                        wrong.push(format!("{name}: not so: {line}; there are {:?}", found.keys()));
                    }
                }
            }
            (Ok(_), Refused(text)) => wrong.push(format!("{name}: was loaded, expected «{text}»")),
            (Err(error), Harmless(_)) => wrong.push(format!("{name}: was refused: {}", chain(&error))),
        }
        if listing(&canary) != before {
            wrong.push(format!("{name}: THE CANARY IS NOT WHAT IT WAS"));
        }
        if let Err(error) = store.load_layers(&[tar_of([Item::file("good", "image")])]) {
            wrong.push(format!("{name}: no good image can be loaded after it: {}", chain(&error)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// All of them; `outside` is a folder with the canary, which those that know where they want to go write to.
pub fn cases(outside: &str) -> Vec<Case> {
    [
        paths(outside),
        planted_links(outside),
        hard_links(outside),
        names(),
        kinds(),
        whiteouts(),
        collisions(),
        attributes(),
        records(),
        streams(),
        documents(),
        descriptors(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn paths(outside: &str) -> Vec<Case> {
    let absolute = format!("{outside}/etc/passwd");
    let inside = format!("{} file mine", &absolute[1..]);
    vec![
        entries("parent", [Item::file("../canary/etc/passwd", "mine")], Refused("..")),
        entries("parent in the middle", [Item::file("a/../../canary/etc/passwd", "mine")], Refused("..")),
        entries("parent at the end", [Item::folder("a/..")], Refused("..")),
        entries("only the parent", [Item::folder("..")], Refused("..")),
        entries("parent of the root", [Item::file("/../etc/passwd", "mine")], Refused("..")),
        entries(
            "many parents",
            [Item::file(format!("{}etc/passwd", "../".repeat(60)), "mine")],
            Refused(".."),
        ),
        entries("absolute", [Item::file(&absolute, "mine")], Harmless(vec![inside.clone()])),
        entries(
            "absolute, many slashes",
            [Item::file(format!("///{absolute}"), "mine")],
            Harmless(vec![inside]),
        ),
        entries("dots and slashes", [Item::file("././/a/././/b", "mine")], holds(["a/b file mine"])),
        entries("the root as a file", [Item::file("/", "mine")], Refused("root folder")),
        entries("the root as a link", [Item::symlink(".", outside)], Refused("root folder")),
        entries("no name", [Item::file("", "mine")], Refused("it has no name")),
    ]
}

/// The last component of a path, and each before it, as a link that an earlier entry or layer made.
fn planted_links(outside: &str) -> Vec<Case> {
    let up = format!("{}{outside}", "../".repeat(40));
    let file = format!("{outside}/etc/passwd");
    let mut cases = vec![
        entries(
            "the last component is a link",
            [Item::symlink("passwd", &file), Item::file("passwd", "mine").mode(0o777).owner(1, 1)],
            holds(["passwd file mine"]),
        ),
        entries(
            "a folder over a link to a folder",
            [Item::symlink("etc", format!("{outside}/etc")), Item::folder("etc/").mode(0o777).owner(9, 9)],
            Harmless(vec![]),
        ),
        entries(
            "a device over a link",
            [Item::symlink("passwd", &file), Item::new(b'3', "passwd").device(1, 3)],
            holds(["passwd character device 259"]),
        ),
        entries(
            "attributes over a link",
            [Item::symlink("passwd", &file), Item::symlink("passwd", &file).pax("SCHILY.xattr.user.x", "y")],
            Refused("extended attribute"),
        ),
        entries(
            "magic link",
            [Item::symlink("l", "/proc/self/root"), Item::file(format!("l{file}"), "mine")],
            Refused("open its folder"),
        ),
        entries(
            "loop",
            [Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/x", "")],
            Refused("os error 40"),
        ),
        entries(
            "a folder that becomes a link",
            [
                Item::folder("etc/"),
                Item::file("etc/one", "1"),
                Item::symlink("etc", outside),
                Item::file("etc/two", "2"),
            ],
            Refused("os error 2"),
        ),
        case(
            "a link of an earlier layer, written through",
            image(&[
                tar_of([Item::symlink("etc", format!("{outside}/etc"))]),
                tar_of([Item::file("etc/passwd", "mine")]),
            ]),
            holds(["etc/passwd file mine"]),
        ),
        case(
            "a link of an earlier layer, whited out through",
            image(&[
                tar_of([Item::symlink("etc", format!("{outside}/etc"))]),
                tar_of([Item::file("etc/.wh.passwd", ""), Item::file("etc/.wh..wh..opq", "")]),
            ]),
            Harmless(vec![]),
        ),
    ];
    for (kind, target) in [("absolute", outside), ("upwards", up.as_str())] {
        let through = |entry: Item| [Item::symlink("way", target), entry];
        cases.extend([
            entries(
                &format!("{kind}: a file"),
                through(Item::file("way/etc/passwd", "mine")),
                Refused("os error 2"),
            ),
            entries(
                &format!("{kind}: a whiteout"),
                through(Item::file("way/etc/.wh.passwd", "")),
                Refused("os error 2"),
            ),
            entries(
                &format!("{kind}: an opaque marker"),
                through(Item::file("way/etc/.wh..wh..opq", "")),
                Refused("os error 2"),
            ),
            entries(
                &format!("{kind}: a hard link to it"),
                through(Item::hard_link("hard", "way/etc/passwd")),
                Refused("is not in the layer"),
            ),
            entries(
                &format!("{kind}: a link"),
                through(Item::symlink("way/etc/passwd", "x")),
                Refused("os error 2"),
            ),
        ]);
    }
    cases
}

fn hard_links(outside: &str) -> Vec<Case> {
    let refused = |name: &str, target: String| {
        let why = if target.is_empty() {
            "it has no name"
        } else if target.contains("..") {
            "there is a .. in its path"
        } else {
            "is not in the layer"
        };
        entries(name, [Item::hard_link("hard", target)], Refused(why))
    };
    vec![
        refused("hard link upwards", "../canary/etc/passwd".into()),
        refused("hard link, absolute", format!("{outside}/etc/passwd")),
        refused("hard link to the root", "/".into()),
        refused("hard link to itself", "hard".into()),
        refused("hard link to nothing", String::new()),
        refused("hard link to the host's", "/etc/passwd".into()),
        entries(
            "hard link to a folder",
            [Item::folder("a/"), Item::hard_link("hard", "a")],
            Refused("os error 1"),
        ),
        entries(
            "hard link to a link, then written",
            [
                Item::symlink("l", format!("{outside}/etc/passwd")),
                Item::hard_link("hard", "l"),
                Item::file("hard", "mine"),
            ],
            holds(["hard file mine"]),
        ),
    ]
}

fn names() -> Vec<Case> {
    vec![
        entries("a newline", [Item::file("a\nb", "x")], Harmless(vec![])),
        entries("0xff", [Item::file(b"a\xff\xfe", "x")], Harmless(vec![])),
        entries("a control sequence", [Item::file("\x1b[2J", "x")], Harmless(vec![])),
        entries("NUL by a record", [Item::file("x", "").pax("path", "a\0b")], Refused("a NUL in its name")),
        entries(
            "a NUL in a link's target",
            [Item::symlink("x", "y").pax("linkpath", "a\0b")],
            Refused("its target is no path"),
        ),
        entries("a long name", [Item::file("n".repeat(256), "")], Refused("os error 36")),
        entries("the longest name", [Item::file("n".repeat(255), "")], Harmless(vec![])),
        entries("a long path", [Item::file("d/".repeat(2100), "")], Refused("os error 36")),
        entries("a long target", [Item::symlink("l", "t".repeat(5000))], Refused("os error 36")),
    ]
}

fn kinds() -> Vec<Case> {
    vec![
        entries(
            "the memory's device",
            [Item::new(b'3', "mem").device(1, 1)],
            holds(["mem character device 257"]),
        ),
        entries("a disk's device", [Item::new(b'4', "sda").device(8, 0)], holds(["sda block device 2048"])),
        entries("a pipe", [Item::new(b'6', "pipe")], holds(["pipe fifo"])),
        entries("a setuid file of root's", [Item::file("su", "x").mode(0o6755)], holds(["su file x"])),
        entries("a device that is a whiteout", [Item::new(b'3', "gone").device(0, 0)], Refused("whiteout")),
        entries("a kind of another tar", [Item::new(b'M', "volume")], Refused("'M' is not known")),
        entries("a contiguous file", [Item { kind: b'7', ..Item::file("c", "x") }], holds(["c file x"])),
        entries("an unknown kind", [Item::new(b'Z', "what")], Refused("'Z' is not known")),
    ]
}

fn whiteouts() -> Vec<Case> {
    let mut cases: Vec<Case> =
        [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh...", ".wh..wh.x", ".wh..wh..plnk"]
            .into_iter()
            .map(|name| entries(&format!("whiteout {name}"), [Item::file(name, "")], Refused("whiteout")))
            .collect();
    cases.extend([
        entries("below a whiteout", [Item::file(".wh.a/b", "")], Refused("whiteouts")),
        entries("an opaque root", [Item::file(".wh..wh..opq", "")], Harmless(vec![])),
        entries(
            "opaque everywhere",
            [
                Item::file("a/.wh..wh..opq", ""),
                Item::file("a/.wh..wh..opq", ""),
                Item::file("a/b/c/.wh..wh..opq", ""),
            ],
            holds(["a/b/c folder"]),
        ),
        entries(
            "a whiteout of what is beside it",
            [Item::file("a", "x"), Item::file(".wh.a", "")],
            Harmless(vec![]),
        ),
        entries("a whiteout that is a folder", [Item::folder(".wh.a/")], Harmless(vec![])),
    ]);
    cases
}

fn collisions() -> Vec<Case> {
    vec![
        entries("below a file", [Item::file("a", ""), Item::file("a/b", "")], Refused("os error 20")),
        entries("below a pipe", [Item::new(b'6', "a"), Item::file("a/b", "")], Refused("os error 20")),
        entries(
            "a file, then a folder",
            [Item::file("a", "x"), Item::folder("a/"), Item::file("a/b", "y")],
            holds(["a/b file y"]),
        ),
        entries(
            "a folder, then a file",
            [Item::folder("a/"), Item::file("a/b", "y"), Item::file("a", "x")],
            holds(["a file x", "!a/b"]),
        ),
        entries("the same file twice", [Item::file("a", "1"), Item::file("a", "2")], holds(["a file 2"])),
        entries(
            "a file over its own hard link",
            [Item::file("a", "1"), Item::hard_link("b", "a"), Item::file("a", "2")],
            holds(["a file 2", "b file 1"]),
        ),
        entries(
            "every kind in one place",
            [
                Item::file("a", "1"),
                Item::symlink("a", "x"),
                Item::new(b'6', "a"),
                Item::folder("a/"),
                Item::new(b'3', "a").device(1, 3),
            ],
            holds(["a character device 259"]),
        ),
    ]
}

fn attributes() -> Vec<Case> {
    let with = |key: &str, value: &str, expected| {
        entries(
            &format!("attribute {key}"),
            [Item::folder("d/").pax(&format!("SCHILY.xattr.{key}"), value)],
            expected,
        )
    };
    vec![
        with("trusted.overlay.opaque", "y", Harmless(vec![])),
        with("trusted.overlay.redirect", "/etc", Harmless(vec![])),
        with("user.overlay.opaque", "y", Harmless(vec![])),
        with("trusted.x", "y", Harmless(vec![])),
        with("security.selinux", "x", Harmless(vec![])),
        with("security.ima", "x", Harmless(vec![])),
        with("system.posix_acl_access", "rubbish", Refused("extended attribute")),
        with("nonsense.x", "y", Refused("extended attribute")),
        with("user.", "y", Refused("extended attribute")),
        with(&format!("user.{}", "n".repeat(300)), "y", Refused("extended attribute")),
    ]
}

fn records() -> Vec<Case> {
    let sized = |key: &str, value: &str, why| {
        entries(&format!("{key} = {value}"), [Item::file("a", "x").pax(key, value)], Refused(why))
    };
    let mut cut = tar_of([Item::file("a", vec![1; 5000])]);
    cut.truncate(2048);
    let mut lying = tar_of([Item::file("a", "x")]);
    lying[124..136].copy_from_slice(b"77777777777\0");
    vec![
        sized("size", "99999999999999", "is truncated"),
        sized("size", "-1", "where a number must be"),
        sized("size", "nonsense", "where a number must be"),
        sized("uid", "4294967295", "owner is out of range"),
        sized("uid", "-1", "where a number must be"),
        sized("gid", "99999999999999999999", "where a number must be"),
        entries("a time before time", [Item::file("a", "x").pax("mtime", "-1.5")], holds(["a file x"])),
        sized("mtime", "nonsense", "not a number"),
        entries(
            "a record that lies about its length",
            [Item { data: b"99 path=x\n".to_vec(), ..Item::new(b'x', "pax") }, Item::file("a", "")],
            Refused("pax header is malformed"),
        ),
        entries(
            "a record without an end",
            [Item { data: b"10 path=xyz".to_vec(), ..Item::new(b'x', "pax") }, Item::file("a", "")],
            Refused("pax header is malformed"),
        ),
        entries(
            "a huge record",
            [Item { data: vec![b'x'; 3 << 20], ..Item::new(b'x', "pax") }, Item::file("a", "")],
            Refused("larger than 1 MiB"),
        ),
        entries(
            "a huge long name",
            [Item { data: vec![b'x'; 3 << 20], ..Item::new(b'L', "././@LongLink") }, Item::file("a", "")],
            Refused("larger than 1 MiB"),
        ),
        entries(
            "a sparse map that overlaps",
            [Item::file("a", "xy").pax("GNU.sparse.size", "4").pax("GNU.sparse.map", "0,2,1,2")],
            Refused("holes overlaps"),
        ),
        entries(
            "a sparse map beyond the file",
            [Item::file("a", "xy").pax("GNU.sparse.size", "1").pax("GNU.sparse.map", "0,2")],
            Refused("beyond its end"),
        ),
        entries(
            "a sparse map of more than there is",
            [Item::file("a", "xy")
                .pax("GNU.sparse.size", "9223372036854775807")
                .pax("GNU.sparse.map", "0,9")],
            Refused("size is out of range"),
        ),
        case("a layer cut short", image(&[cut]), Refused("is truncated")),
        case("a checksum that is wrong", image(&[lying]), Refused("no tar header")),
        case("a layer that is no tar", image(&[vec![b'x'; 4096]]), Refused("no tar header")),
    ]
}

/// An image of one layer, in a layout, whose blob is these bytes.
fn packed(media_type: &str, plain: &[u8], bytes: Vec<u8>) -> Vec<u8> {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &[(plain.to_vec(), bytes, media_type)]);
    layout.list(image, Some("hostile:1"));
    archive_of(&layout.finish())
}

/// As small as gzip can make it: a thousandth, of zeros.
fn tightly(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn streams() -> Vec<Case> {
    let plain = tar_of([Item::file("a", "x")]);
    let (first, second) = plain.split_at(512);
    let bomb = tar_of([Item::file("zeros", vec![0; 80 << 20])]);
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    vec![
        case(
            "gzip with rubbish behind",
            packed(GZIP, &plain, [gzip(&plain), b"rubbish".to_vec()].concat()),
            Refused("cannot be decompressed (gzip)"),
        ),
        case(
            "gzip of several members",
            packed(GZIP, &plain, [gzip(first), gzip(second)].concat()),
            holds(["a file x"]),
        ),
        case(
            "gzip cut short",
            packed(GZIP, &plain, half(gzip(&plain))),
            Refused("cannot be decompressed (gzip)"),
        ),
        case(
            "zstd cut short",
            packed(ZSTD, &plain, half(zstd(&plain))),
            Refused("cannot be decompressed (zstd)"),
        ),
        case(
            "zstd with rubbish behind",
            packed(ZSTD, &plain, [zstd(&plain), b"rubbish".to_vec()].concat()),
            Refused("cannot be decompressed (zstd)"),
        ),
        case(
            "zstd of several frames",
            packed(ZSTD, &plain, [zstd(first), zstd(second)].concat()),
            holds(["a file x"]),
        ),
        case("gzip that says it is plain", packed(PLAIN, &plain, gzip(&plain)), Refused("should be plain")),
        case("zstd that says it is gzip", packed(GZIP, &plain, zstd(&plain)), Refused("should be gzip")),
        case("a gzip bomb", packed(GZIP, &bomb, tightly(&bomb)), Refused("times as many")),
        case("a zstd bomb", packed(ZSTD, &bomb, zstd(&bomb)), Refused("times as many")),
        case(
            "a bomb of a whole archive",
            tightly(&image(std::slice::from_ref(&bomb))),
            Refused("times as many"),
        ),
        case("an empty gzip", packed(GZIP, &plain, Vec::new()), Refused("should be gzip")),
    ]
}

fn with_document(files: &Files, name: &str, text: Vec<u8>) -> Vec<u8> {
    let mut files = files.clone();
    files.insert(name.to_owned(), text);
    archive_of(&files)
}

fn documents() -> Vec<Case> {
    let layer = tar_of([Item::file("a", "x")]);
    let docker = docker_files(&[(&["hostile:1"], std::slice::from_ref(&layer))]);
    let config =
        docker.keys().find(|name| name.ends_with(".json") && *name != "manifest.json").unwrap().clone();
    let layer_path = docker.keys().find(|name| name.ends_with(".tar")).unwrap().clone();
    let manifest = |config: &str, layers: serde_json::Value| {
        serde_json::to_vec(&json!([{ "Config": config, "RepoTags": ["hostile:1"], "Layers": layers }]))
            .unwrap()
    };
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    let twice = format!(r#"[{{"Config":"{config}","Config":"../../etc/passwd","RepoTags":[],"Layers":[]}}]"#);
    let many: Vec<Vec<u8>> = (0..3000).map(|_| layer.clone()).collect();
    let many = archive_of(&docker_files(&[(&["hostile:1"], &many)]));
    vec![
        case(
            "a manifest that names the host's",
            with_document(&docker, "manifest.json", manifest("../../etc/passwd", json!([]))),
            Refused("is missing from"),
        ),
        case(
            "a layer that is the host's",
            with_document(&docker, "manifest.json", manifest(&config, json!(["/etc/passwd"]))),
            Refused("is missing from"),
        ),
        case(
            "more layers than diff ids",
            with_document(&docker, "manifest.json", manifest(&config, json!(vec!["x.tar"; 5]))),
            Refused("lists 5 layers for an image of 1"),
        ),
        case("thousands of layers", many, Refused("it has 3000 layers, and no more than 500 can be mounted")),
        case(
            "a document that is deep",
            with_document(&docker, "manifest.json", deep),
            Refused("cannot be understood"),
        ),
        case(
            "a document that is huge",
            with_document(&docker, "manifest.json", vec![b' '; 80 << 20]),
            Refused("larger than 4 MiB"),
        ),
        case(
            "a key twice",
            with_document(&docker, "manifest.json", twice.into_bytes()),
            Refused("duplicate field"),
        ),
        case(
            "a document that is none",
            with_document(&docker, "manifest.json", b"\xff\xfe{".to_vec()),
            Refused("cannot be understood"),
        ),
        case(
            "a document that is a link",
            tar_of([Item::symlink("manifest.json", "/etc/passwd")]),
            Refused("neither manifest.json"),
        ),
        case(
            "names that are none",
            with_document(
                &docker,
                "manifest.json",
                serde_json::to_vec(
                    &json!([{ "Config": config, "RepoTags": ["../../x:1"], "Layers": [layer_path] }]),
                )
                .unwrap(),
            ),
            Refused("is not the name of an image"),
        ),
    ]
}

fn descriptors() -> Vec<Case> {
    let layer = tar_of([Item::file("a", "x")]);
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut layout = Layout::default();
        let mut image = layout.image("amd64", &[(layer.clone(), gzip(&layer), GZIP)]);
        change(&mut image);
        layout.list(image, Some("hostile:1"));
        archive_of(&layout.finish())
    };
    let zeros = format!("sha256:{}", "0".repeat(64));
    // Under a digest that it cannot have: no index can hold its own.
    let to_itself = |size: usize| {
        let index = "application/vnd.oci.image.index.v1+json";
        let descriptor = json!({ "mediaType": index, "digest": zeros.clone(), "size": size });
        serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": index, "manifests": [descriptor] }))
            .unwrap()
    };
    let mut itself = layout_of("hostile:1", std::slice::from_ref(&layer));
    let size = to_itself(100).len();
    itself.insert("index.json".to_owned(), to_itself(size));
    itself.insert(format!("blobs/sha256/{}", "0".repeat(64)), to_itself(size));
    vec![
        case(
            "a digest that does not match",
            changed(&|it| it["digest"] = json!(zeros.clone())),
            Refused("is missing from"),
        ),
        case(
            "a digest that climbs",
            changed(&|it| it["digest"] = json!("sha256:../../../etc/passwd")),
            Refused("cannot be understood"),
        ),
        case(
            "a digest of another kind",
            changed(&|it| it["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            Refused("is not a sha256 digest"),
        ),
        case(
            "a size that lies, less",
            changed(&|it| it["size"] = json!(1)),
            Refused("its descriptor says 1"),
        ),
        case(
            "a size that lies, more",
            changed(&|it| it["size"] = json!(1_u64 << 40)),
            Refused("its descriptor says 1099511627776"),
        ),
        case("a size below nothing", changed(&|it| it["size"] = json!(-1)), Refused("cannot be understood")),
        case(
            "a media type that contradicts",
            changed(&|it| it["mediaType"] = json!("application/vnd.oci.image.index.v1+json")),
            Refused("missing field"),
        ),
        case("an index that points at itself", archive_of(&itself), Refused("is corrupt")),
    ]
}
