//! Every kind of archive gives the same image.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::slice;

use bundles::archive::Source;
use bundles::digest::Digest;
use bundles::store::{LoadOptions, Progress};
use bundles::{Error, Result};
use serde_json::json;

use crate::fixture::{
    Files, GZIP, Item, Layout, PLAIN, Place, ZSTD, archive_of, docker_files, gzip, layout_of, listing,
    tar_of, write_folder, zstd,
};

fn layers() -> Vec<Vec<u8>> {
    let first = tar_of([Item::folder("etc/"), Item::file("etc/one", "1"), Item::file("etc/two", "2")]);
    let second = tar_of([
        Item::folder("./"),
        Item::file("./etc/.wh.one", ""),
        Item::file("./big", vec![7; 1_000_000]),
    ]);
    vec![first, second]
}

/// Loads an archive and checks that it is the image of [`layers`].
fn check(place: &Place, archive: &[u8]) {
    let images = place.load(archive).unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(image.names, ["keystone:zed".parse().unwrap()]);
    let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(diff_ids, layers().iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>());
    assert_eq!(image.layers.iter().map(|layer| layer.bytes).collect::<Vec<_>>(), [2, 1_000_000]);
    let folders = place.store.layer_folders(image);
    let (top, bottom) = (listing(&folders[0]), listing(&folders[1]));
    assert_eq!(bottom["etc/two"].content, "2");
    assert_eq!((top["etc/one"].kind.as_str(), top["etc/one"].content.as_str()), ("character device", "0"));
    assert_eq!(fs::read(folders[0].join("big")).unwrap(), [7; 1_000_000]);
}

fn with_names(files: Files, of: impl Fn(&str) -> String) -> Files {
    files.into_iter().map(|(name, data)| (of(&name), data)).collect()
}

#[test]
fn docker_archive_of_podman() {
    check(&Place::new(), &archive_of(&docker_files(&[(&["localhost/keystone:zed"], &layers())])));
}

#[test]
fn docker_archive_of_docker_before_25() {
    let mut files = docker_files(&[(&["keystone:zed"], &layers())]);
    let mut manifest = String::from_utf8(files.remove("manifest.json").unwrap()).unwrap();
    for layer in layers() {
        let hex = Digest::of(&layer).hex();
        manifest = manifest.replace(&format!("{hex}.tar"), &format!("{}/layer.tar", &hex[..32]));
        let data = files.remove(&format!("{hex}.tar")).unwrap();
        files.insert(format!("{}/layer.tar", &hex[..32]), data);
    }
    files.insert("manifest.json".to_owned(), manifest.into_bytes());
    check(&Place::new(), &archive_of(&files));
}

#[test]
fn docker_archive_of_docker_25() {
    let mut layout = Layout::default();
    let layers: Vec<_> = layers().into_iter().map(|layer| (layer.clone(), layer, PLAIN)).collect();
    let mut image = layout.image("amd64", &layers);
    image["annotations"] = json!({
        "io.containerd.image.name": "docker.io/library/keystone:zed",
        "org.opencontainers.image.ref.name": "zed",
    });
    layout.list(image, None);
    let mut files = layout.finish();
    files.insert("manifest.json".to_owned(), b"[]".to_vec());
    check(&Place::new(), &archive_of(&files));
}

#[test]
fn docker_archive_with_links_between_layers() {
    let layer = tar_of([Item::file("a", "1")]);
    let files = docker_files(&[(&["keystone:zed"], slice::from_ref(&layer))]);
    let hex = Digest::of(&layer).hex();
    let manifest = String::from_utf8(files["manifest.json"].clone()).unwrap();
    let manifest = manifest.replace(&format!("{hex}.tar"), "abc/layer.tar");
    let mut items: Vec<Item> = files
        .iter()
        .filter(|(name, _)| *name != "manifest.json")
        .map(|(name, data)| Item::file(format!("./{name}"), data))
        .collect();
    items.push(Item::symlink("./abc/layer.tar", format!("../{hex}.tar")));
    items.push(Item::file("./manifest.json", manifest));
    Place::new().load(&tar_of(items)).unwrap();
}

#[test]
fn several_images_in_one() {
    let place = Place::new();
    let shared = layers();
    let other = vec![shared[0].clone(), tar_of([Item::file("other", "")])];
    let images: [(&[&str], &[Vec<u8>]); 2] =
        [(&["keystone:zed", "localhost/keystone:latest"], &shared), (&["glance:zed"], &other)];
    let loaded = place.load(&archive_of(&docker_files(&images))).unwrap();
    let names: Vec<Vec<String>> =
        loaded.iter().map(|image| image.names.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(names, [vec!["keystone:latest", "keystone:zed"], vec!["glance:zed"]]);
    assert_eq!(fs::read_dir(place.path("store/layers/sha256")).unwrap().count(), 3);
}

#[test]
fn oci_archive_and_folder() {
    let files = layout_of("localhost/keystone:zed", &layers());
    check(&Place::new(), &archive_of(&files));
    check(&Place::new(), &archive_of(&with_names(files.clone(), |name| format!("./{name}"))));
    let place = Place::new();
    write_folder(&place.path("layout"), &files);
    let images = place.load_file(&place.path("layout")).unwrap();
    assert_eq!(images[0].names, ["keystone:zed".parse().unwrap()]);
}

#[test]
fn every_compression() {
    let layers = layers();
    for (media_type, pack) in
        [(PLAIN, (|data: &[u8]| data.to_vec()) as fn(&[u8]) -> Vec<u8>), (GZIP, gzip), (ZSTD, zstd)]
    {
        let mut layout = Layout::default();
        let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), pack(layer), media_type)).collect();
        let image = layout.image("amd64", &layers);
        layout.list(image, Some("keystone:zed"));
        check(&Place::new(), &archive_of(&layout.finish()));
    }
}

#[test]
fn archives_compressed_as_a_whole() {
    let archive = archive_of(&docker_files(&[(&["keystone:zed"], &layers())]));
    check(&Place::new(), &gzip(&archive));
    check(&Place::new(), &zstd(&archive));
    let cut = gzip(&archive);
    let error = Place::new().refuse(&cut[..cut.len() / 2]);
    assert!(matches!(error, Error::Decompress { compression: "gzip", .. }), "{error:?}");
}

#[test]
fn an_index_of_several_platforms() {
    let layers = layers();
    let build = |nested: bool, named: bool| {
        let mut layout = Layout::default();
        let foreign = [tar_of([Item::file("foreign", "")])];
        let mut manifests = Vec::new();
        for (architecture, layers) in [("arm64", &foreign[..]), ("amd64", &layers), ("s390x", &foreign)] {
            let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), gzip(layer), GZIP)).collect();
            let mut image = layout.image(architecture, &layers);
            if named {
                image["platform"] = json!({ "os": "linux", "architecture": architecture });
            }
            manifests.push(image);
        }
        let mut attestation = manifests[0].clone();
        attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        manifests.push(attestation);
        if nested {
            let inner = layout.index(&manifests);
            let outer = layout.index(&[inner]);
            layout.list(outer, Some("keystone:zed"));
        } else {
            manifests.into_iter().for_each(|manifest| layout.list(manifest, None));
        }
        archive_of(&layout.finish())
    };
    check(&Place::new(), &build(true, true));
    check(&Place::new(), &build(true, false));
    let place = Place::new();
    fs::write(place.path("flat.tar"), build(false, true)).unwrap();
    let load = |platform: &str| -> Result<_> {
        let options = LoadOptions {
            tag: Some("keystone:zed".parse().unwrap()),
            platform: Some(platform.parse().unwrap()),
            ..LoadOptions::default()
        };
        place.store.load(&Source::of(place.path("flat.tar"))?, &options, &mut ())
    };
    assert_eq!(load("linux/amd64").unwrap()[0].layers.len(), 2);
    assert_eq!(load("linux/arm64").unwrap()[0].layers.len(), 1);
    match load("linux/riscv64") {
        Err(Error::OtherPlatform { wanted, have, .. }) => {
            assert_eq!(wanted, "linux/riscv64");
            assert_eq!(have, ["linux/amd64", "linux/arm64", "linux/s390x"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_foreign_image_is_refused() {
    let files = docker_files(&[(&["keystone:zed"], &layers())]);
    let place = Place::new();
    fs::write(place.path("archive.tar"), archive_of(&files)).unwrap();
    let options =
        LoadOptions { tag: None, platform: Some("linux/arm64".parse().unwrap()), ..LoadOptions::default() };
    let error = place.store.load(&Source::of(place.path("archive.tar")).unwrap(), &options, &mut ());
    assert!(matches!(error, Err(Error::OtherPlatform { have, .. }) if have == ["linux/amd64"]));
}

/// The test runs itself, because standard input is the process's.
#[test]
fn standard_input() {
    const FOLDER: &str = "IMAGE_IN_STANDARD_INPUT";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let store = bundles::store::Store::open(folder.as_ref()).unwrap();
        let images = store.load(&Source::of("-").unwrap(), &LoadOptions::default(), &mut ()).unwrap();
        assert_eq!(images[0].layers.len(), 2);
        return;
    }
    let place = Place::new();
    let archive = archive_of(&docker_files(&[(&["keystone:zed"], &layers())]));
    fs::write(place.path("archive.tar"), &archive).unwrap();
    let itself = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kinds::standard_input"]).env(FOLDER, place.path("store"));
        command.stdout(Stdio::null());
        command
    };
    let mut child = itself().stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(child.wait().unwrap().success());
    let image = place.store.find(&"keystone:zed".parse().unwrap()).unwrap();
    place.store.remove(&"keystone:zed".parse().unwrap(), &|_| None).unwrap();
    assert!(place.store.images().unwrap().is_empty());
    let file = fs::File::open(place.path("archive.tar")).unwrap();
    assert!(itself().stdin(file).status().unwrap().success());
    assert_eq!(place.store.find(&"keystone".parse().unwrap()).unwrap().id, image.id);
}

#[derive(Default)]
struct Heard(Vec<String>, u64);

impl Progress for Heard {
    fn layer_began(&mut self, index: usize, count: usize, _: &Digest, bytes: Option<u64>) {
        self.0.push(format!("began {index} of {count}"));
        self.1 += bytes.unwrap();
    }

    fn advanced(&mut self, bytes: u64) {
        self.1 -= bytes;
    }

    fn layer_done(&mut self, _: &Digest) {
        self.0.push("done".to_owned());
    }

    fn layer_present(&mut self, index: usize, count: usize, _: &Digest) {
        self.0.push(format!("present {index} of {count}"));
    }
}

#[test]
fn progress_tells_of_every_layer_and_byte() {
    let place = Place::new();
    let archive = place.path("archive.tar");
    fs::write(&archive, archive_of(&layout_of("keystone:zed", &layers()))).unwrap();
    let source = Source::of(&archive).unwrap();
    let mut heard = Heard::default();
    place.store.load(&source, &LoadOptions::default(), &mut heard).unwrap();
    // Both at once where there are processors for it.
    assert_eq!(heard.1, 0, "all of the blobs was told of");
    heard.0.sort();
    assert_eq!(heard.0, ["began 0 of 2", "began 1 of 2", "done", "done"]);
    let mut again = Heard::default();
    place.store.load(&source, &LoadOptions::default(), &mut again).unwrap();
    assert_eq!(again.0, ["present 0 of 2", "present 1 of 2"]);
}
