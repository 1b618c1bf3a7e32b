//! What is saved is what was loaded: each layer's tar byte for byte, whatever is in it, and the configuration.

use std::fs;
use std::io::Read;
use std::path::Path;

use bundles::Error;
use bundles::archive::Target;
use bundles::digest::Digest;
use bundles::store::{Image, SaveFormat};

use crate::fixture::{Item, Place, archive_of, docker_files, tar_of};

const FORMATS: [SaveFormat; 3] =
    [SaveFormat::Oci { compressed: true }, SaveFormat::Oci { compressed: false }, SaveFormat::Docker];

fn save(place: &Place, name: &str, format: SaveFormat, into: &Path) -> Result<(), Error> {
    let target = Target::File(into.to_owned());
    place.store.save(&[name.parse().unwrap()], format, &target, &mut ()).map(|_| ())
}

fn ids(image: &Image) -> (Digest, Vec<Digest>) {
    (image.id, image.layers.iter().map(|layer| layer.diff_id).collect())
}

/// Saves and loads into another store, in each form.
fn there_and_back(place: &Place, image: &Image) {
    let raw = place.store.raw_configuration(image).unwrap();
    for format in FORMATS {
        let (one, two) = (place.path("saved.tar"), place.path("saved-again.tar"));
        save(place, &image.title(), format, &one).unwrap();
        let other = Place::new();
        let loaded = other.load_file(&one).unwrap().remove(0);
        assert_eq!(ids(&loaded), ids(image), "{format:?}");
        assert_eq!(loaded.names, image.names);
        assert!(other.store.raw_configuration(&loaded).unwrap() == raw);
        let original: Vec<_> =
            image.layers.iter().map(|layer| layer_file(place, layer.diff_id, "frame.gz")).collect();
        let again: Vec<_> =
            loaded.layers.iter().map(|layer| layer_file(&other, layer.diff_id, "frame.gz")).collect();
        assert!(original == again);
        // From another store, at another time: the same archive.
        save(&other, &image.title(), format, &two).unwrap();
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "{format:?} is not deterministic");
    }
}

fn layer_file(place: &Place, diff_id: Digest, name: &str) -> Vec<u8> {
    fs::read(place.path("store/layers/sha256").join(diff_id.hex()).join(name)).unwrap()
}

/// A file with holes as GNU tar writes it: each of these (offset, bytes), and its whole length.
fn with_holes(name: &str, segments: &[(u64, u64)], length: u64) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len());
    segments.iter().for_each(|(offset, bytes)| map.push_str(&format!("{offset}\n{bytes}\n")));
    let mut data = map.into_bytes();
    data.resize(data.len().next_multiple_of(512), 0);
    segments.iter().for_each(|(offset, bytes)| data.extend((0..*bytes).map(|at| (at + offset) as u8 | 1)));
    let item = Item::file(format!("GNUSparseFile.0/{name}"), data)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", name)
        .pax("GNU.sparse.realsize", length.to_string());
    let tar = tar_of([item]);
    tar[..tar.len() - 1024].to_vec()
}

#[test]
fn layers_of_all_kinds_come_out_as_they_went_in() {
    let place = Place::new();
    let long = "n".repeat(180);
    let first = tar_of([
        Item::folder("folder/").mode(0o1777),
        Item::file("folder/file", "content"),
        Item::file("./folder//odd", vec![7; 700_000]).mode(0o4755).owner(5, 6),
        Item::file(format!("folder/{long}"), "long").pax("SCHILY.xattr.user.note", b"a\nb".as_slice()),
        Item::hard_link("folder/second-name", "folder/file"),
        Item::symlink("way", "folder"),
        Item::file("way/through", "by a symlink"),
        Item { device: (1, 3), ..Item::new(b'3', "null") },
        Item::new(b'6', "pipe"),
        Item::file("empty", ""),
        Item::file("folder/.wh.hidden", "a whiteout with content"),
        Item::file("folder/.wh..wh..opq", ""),
        Item::file("..wh.not", "no whiteout").mtime(0o777_7777_7777),
    ]);
    let mut sparse = with_holes("holes", &[(4096, 300), (1 << 30, 1000), (5 << 30, 0)], 5 << 30);
    sparse.extend(tar_of([Item::file("after", "the holes")]));
    // Zeros behind the end as GNU tar leaves them, and then rubbish, which is the layer's all the same.
    let mut rubbish = tar_of([Item::file("only", "one")]);
    rubbish.extend([0; 10240]);
    rubbish.extend(b"rubbish behind the end");
    let no_end = tar_of([Item::file("x", "y")])[..1024].to_vec();
    // As umoci insert leaves it: without the rest of the last block either.
    let no_padding = tar_of([Item::file("z", "end")])[..512 + 3].to_vec();
    let image = place.load_layers(&[first, sparse, rubbish, no_end, no_padding, tar_of([])]).unwrap();
    there_and_back(&place, &image);
}

/// What a later entry replaces is in no file any more, and has to come out again all the same.
#[test]
fn what_the_same_layer_replaces_comes_out_too() {
    let place = Place::new();
    let image = place
        .load_layers(&[
            tar_of([
                Item::file("twice", vec![1; 100_000]),
                Item::file("twice", vec![2; 50]),
                Item::file("kept", "lives on under another name"),
                Item::hard_link("other-name", "kept"),
                Item::file("kept", "new"),
                Item::folder("tree"),
                Item::folder("tree/below"),
                Item::file("tree/below/file", "thrown away with its folder"),
                Item::file("tree", "now a file"),
                Item::folder("a"),
                Item::folder("b"),
                Item::file("a/file", "of a"),
                Item::file("b/file", "of b"),
                Item::symlink("way", "a"),
                Item::file("way/more", "by way of a"),
                Item::symlink("way", "b"),
                Item::file("way/more", "by way of b"),
                Item::file("gone", "to be a folder"),
                Item::folder("gone"),
                Item::file("gone/inside", "x"),
                Item::file(".wh.gone2", ""),
                Item::file("gone2", "in the place of a whiteout"),
                Item::file("link", "to be a symlink"),
                Item::symlink("link", "twice"),
            ]),
            tar_of([Item::file("twice", "a"), Item::file("twice", "a"), Item::file("twice", "a")]),
        ])
        .unwrap();
    there_and_back(&place, &image);
}

#[test]
fn several_images_share_their_layers_in_the_archive() {
    let place = Place::new();
    let shared = tar_of([Item::file("shared", vec![3; 1 << 20])]);
    let own = tar_of([Item::file("own", "1")]);
    let files = docker_files(&[
        (&["one:1", "one:2"], &[shared.clone(), shared.clone()]),
        (&["quay.io/two/two:1"], &[shared, own]),
    ]);
    let images = place.load(&archive_of(&files)).unwrap();
    for format in FORMATS {
        let into = place.path("saved.tar");
        let references = ["one:1", "quay.io/two/two", "one:2"].map(|name| name.parse().unwrap());
        place.store.save(&references, format, &Target::File(into.clone()), &mut ()).unwrap();
        assert!(
            fs::metadata(&into).unwrap().len() < 3 << 19,
            "{format:?}: the layer is there more than once"
        );
        let other = Place::new();
        let mut loaded = other.load_file(&into).unwrap();
        loaded.sort_by_key(|image| image.names.clone());
        assert_eq!(loaded.iter().map(ids).collect::<Vec<_>>(), images.iter().map(ids).collect::<Vec<_>>());
        assert_eq!(loaded[0].names.len(), 2);
    }
}

#[test]
fn an_image_that_is_named_by_its_id_is_saved_without_a_name() {
    let place = Place::new();
    let image = place.load_layers(&[tar_of([Item::file("a", "b")])]).unwrap();
    for format in FORMATS {
        save(&place, &image.id.to_string(), format, &place.path("saved.tar")).unwrap();
        let error = Place::new().load_file(&place.path("saved.tar")).unwrap_err();
        assert!(matches!(error, Error::Unnamed { .. }), "{error}");
    }
}

#[test]
fn what_is_damaged_is_not_saved_and_leaves_what_was_there() {
    for damage in ["content", "length", "missing", "frame", "frame missing", "older"] {
        let place = Place::new();
        let image = place.load_layers(&[tar_of([Item::file("file", "content")])]).unwrap();
        let folder = place.path("store/layers/sha256").join(image.layers[0].diff_id.hex());
        let (file, frame) = (folder.join("root/file"), folder.join("frame.gz"));
        match damage {
            "content" => fs::write(file, "CONTENT").unwrap(),
            "length" => fs::write(file, "cont").unwrap(),
            "missing" => fs::remove_file(file).unwrap(),
            "frame" => fs::write(frame, "x").unwrap(),
            "frame missing" => fs::remove_file(frame).unwrap(),
            _ => {
                let record = fs::read_to_string(folder.join("layer.json")).unwrap();
                let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
                record.as_object_mut().unwrap().remove("frame").unwrap();
                fs::write(folder.join("layer.json"), record.to_string()).unwrap();
            }
        }
        let into = place.path("out/saved.tar");
        fs::create_dir(place.path("out")).unwrap();
        fs::write(&into, "what was there").unwrap();
        for format in FORMATS {
            let error = save(&place, "test:1", format, &into).unwrap_err();
            let is_right = match damage {
                "frame missing" => matches!(error, Error::StoreMissing { .. }),
                "older" => matches!(error, Error::NoFrame { .. }),
                _ => matches!(error, Error::StoreCorrupt { .. }),
            };
            assert!(is_right, "{damage}: {error}");
        }
        assert_eq!(fs::read_to_string(&into).unwrap(), "what was there");
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "{damage}: something is left");
        // What an older opsrun did not keep is no damage.
        assert_eq!(place.store.check(&mut ()).unwrap().broken.is_empty(), damage == "older", "{damage}");
    }
}

#[test]
fn an_archive_goes_through_links_and_into_pipes() {
    let place = Place::new();
    let image = place.load_layers(&[tar_of([Item::file("a", vec![9; 300_000])])]).unwrap();
    let (file, link, pipe) = (place.path("file"), place.path("link"), place.path("pipe"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    save(&place, "test:1", SaveFormat::Docker, &link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let saved = fs::read(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let read = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut all = Vec::new();
            fs::File::open(pipe).unwrap().read_to_end(&mut all).unwrap();
            all
        }
    });
    save(&place, "test:1", SaveFormat::Docker, &pipe).unwrap();
    assert!(read.join().unwrap() == saved);
    assert_eq!(ids(&Place::new().load(&saved).unwrap()[0]), ids(&image));
    let error = save(&place, "test:1", SaveFormat::Docker, &place.path("nowhere/file")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = save(&place, "test:2", SaveFormat::Docker, &file).unwrap_err();
    assert!(matches!(error, Error::NoImage { .. }), "{error}");
}
