//! The store itself: what is removed and what stays, locks, and a store that is damaged or too new.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::channel;
use std::thread;

use bundles::Error;
use bundles::archive::Source;
use bundles::digest::Digest;
use bundles::reference::Reference;
use bundles::store::{LoadOptions, Progress, Store};

use crate::fixture::{Item, Place, archive_of, docker_files, tar_of};

fn layer(content: &str) -> Vec<u8> {
    tar_of([Item::file("content", content)])
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn load(place: &Place, names: &[&str], contents: &[&str]) -> Digest {
    let layers: Vec<Vec<u8>> = contents.iter().map(|content| layer(content)).collect();
    place.load(&archive_of(&docker_files(&[(names, &layers)]))).unwrap()[0].id
}

fn layers_in(place: &Place) -> usize {
    fs::read_dir(place.path("store/layers/sha256")).unwrap().count()
}

#[test]
fn layers_are_shared_and_unpacked_once() {
    let place = Place::new();
    load(&place, &["a:1"], &["base", "a"]);
    let base = place.path("store/layers/sha256").join(Digest::of(&layer("base")).hex()).join("root");
    let before = fs::metadata(&base).unwrap().modified().unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&base).unwrap());
    load(&place, &["b:1"], &["base", "b", "base"]);
    assert_eq!(layers_in(&place), 3);
    let after = fs::metadata(&base).unwrap();
    assert_eq!((after.modified().unwrap(), std::os::unix::fs::MetadataExt::ino(&after)), (before, inode));
}

#[test]
fn removal_takes_what_nobody_needs() {
    let place = Place::new();
    let a = load(&place, &["a:1", "a:2"], &["base", "a"]);
    let b = load(&place, &["b:1"], &["base", "bb"]);
    let nobody = |_: &Digest| None;
    let removed = place.store.remove(&reference("a:1"), &nobody).unwrap();
    assert_eq!((removed.image, removed.is_gone, removed.layers), (a, false, 0));
    assert_eq!(removed.untagged, [reference("a:1")]);
    let removed = place.store.remove(&reference("a:2"), &nobody).unwrap();
    assert_eq!((removed.is_gone, removed.layers, removed.bytes), (true, 1, 1));
    assert!(matches!(place.store.find(&Reference::id(a)), Err(Error::NoImage { .. })));
    assert_eq!(layers_in(&place), 2);
    let removed = place.store.remove(&Reference::id(b), &nobody).unwrap();
    assert_eq!((removed.is_gone, removed.layers, removed.bytes), (true, 2, 6));
    assert_eq!(removed.untagged, [reference("b:1")]);
    assert_eq!(layers_in(&place), 0);
    assert!(place.store.images().unwrap().is_empty());
    assert!(matches!(place.store.remove(&reference("b:1"), &nobody), Err(Error::NoImage { .. })));
}

#[test]
fn what_is_in_use_keeps_its_last_name() {
    let place = Place::new();
    let id = load(&place, &["a:1", "a:2"], &["a"]);
    let asked = RefCell::new(Vec::new());
    let used = |digest: &Digest| {
        asked.borrow_mut().push(*digest);
        Some("the service keystone".to_owned())
    };
    assert!(!place.store.remove(&reference("a:1"), &used).unwrap().is_gone);
    let before = place.listing();
    for text in ["a:2".to_owned(), id.to_string(), id.hex()[..8].to_owned()] {
        match place.store.remove(&reference(&text), &used) {
            Err(Error::ImageInUse { by, .. }) => assert_eq!(by, "the service keystone"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(*asked.borrow(), [id; 3]);
    assert_eq!(place.listing(), before);
}

#[test]
fn by_a_part_of_its_id_an_image_loses_all_names() {
    let place = Place::new();
    let id = load(&place, &["a:1", "a:2", "b:1"], &["a"]);
    let removed = place.store.remove(&reference(&id.hex()[..10]), &|_| None).unwrap();
    assert!(removed.is_gone);
    assert_eq!(removed.untagged.len(), 3);
}

#[test]
fn a_lone_release_can_be_removed_without_its_tag() {
    let place = Place::new();
    load(&place, &["a:1", "b:1"], &["a"]);
    let removed = place.store.remove(&reference("a"), &|_| None).unwrap();
    assert_eq!((removed.untagged, removed.is_gone), (vec![reference("a:1")], false));
}

#[test]
fn the_configuration_is_kept_byte_for_byte() {
    let place = Place::new();
    load(&place, &["a:1"], &["a"]);
    let image = place.store.find(&reference("a:1")).unwrap();
    let raw = place.store.raw_configuration(&image).unwrap();
    assert_eq!(Digest::of(&raw), image.id);
    let path = place.path("store/images/sha256").join(image.id.hex()).join("config.json");
    fs::write(&path, "{}").unwrap();
    assert!(
        matches!(place.store.raw_configuration(&image), Err(Error::StoreCorrupt { path: at, .. }) if at == path)
    );
}

#[test]
fn only_root_gets_in() {
    let place = Place::new();
    let mode = fs::metadata(place.path("store")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "layers hold setuid programs");
}

#[test]
fn damaged_missing_and_too_new_are_three_things() {
    let place = Place::new();
    load(&place, &["a:1"], &["a"]);
    let image = place.store.find(&reference("a:1")).unwrap();
    let folder = place.path("store");
    let image_folder = folder.join("images/sha256").join(image.id.hex());
    let layer_folder = folder.join("layers/sha256").join(image.layers[0].diff_id.hex());
    for path in [
        folder.join("tags.json"),
        image_folder.join("image.json"),
        image_folder.join("config.json"),
        layer_folder.join("layer.json"),
    ] {
        let content = fs::read(&path).unwrap();
        for broken in [&b""[..], b"{", b"null", b"{\"version\":0}", &content[..content.len() / 2]] {
            fs::write(&path, broken).unwrap();
            let result = place.store.images();
            assert!(
                matches!(result, Err(Error::StoreCorrupt { path: ref at, .. }) if *at == path),
                "{result:?}"
            );
        }
        if !path.ends_with("config.json") {
            fs::write(&path, r#"{"version": 2, "new": true}"#).unwrap();
            assert!(matches!(place.store.images(), Err(Error::StoreNewer { found: 2, known: 1, .. })));
        }
        if !path.ends_with("tags.json") {
            fs::remove_file(&path).unwrap();
            assert!(matches!(place.store.images(), Err(Error::StoreMissing { path: at }) if at == path));
        }
        fs::write(&path, content).unwrap();
        place.store.images().unwrap();
    }
    // A layer that is half there is not taken for one.
    fs::remove_file(layer_folder.join("layer.json")).unwrap();
    let archive = archive_of(&docker_files(&[(&["b:1"], &[layer("a")])]));
    assert!(matches!(place.load(&archive), Err(Error::StoreMissing { .. })));
}

#[test]
fn versions_of_the_store() {
    let place = Place::new();
    load(&place, &["a:1"], &["a"]);
    let folder = place.path("store");
    assert_eq!(fs::read_to_string(folder.join("version")).unwrap(), "1\n");
    fs::write(folder.join("version"), "2\n").unwrap();
    assert!(matches!(Store::open(&folder), Err(Error::StoreNewer { found: 2, known: 1, .. })));
    for broken in ["", "one", "0", "-1"] {
        fs::write(folder.join("version"), broken).unwrap();
        assert!(matches!(Store::open(&folder), Err(Error::StoreCorrupt { .. })), "{broken}");
    }
    fs::remove_file(folder.join("version")).unwrap();
    assert!(matches!(Store::open(&folder), Err(Error::StoreMissing { .. })));
    fs::write(folder.join("version"), "1\n").unwrap();
    assert_eq!(Store::open(&folder).unwrap().images().unwrap().len(), 1);
}

#[test]
fn an_interrupted_creation_is_taken_up() {
    let place = Place::new();
    let folder = place.path("store");
    fs::remove_file(folder.join("version")).unwrap();
    fs::remove_dir(folder.join("tmp")).unwrap();
    let store = Store::open(&folder).unwrap();
    assert!(store.images().unwrap().is_empty());
    load(&place, &["a:1"], &["a"]);
}

#[test]
fn leftovers_of_dead_processes_go() {
    let place = Place::new();
    let clean = place.listing();
    let left = place.path("store/tmp/load/layers/abc/root/etc");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("passwd"), "x").unwrap();
    fs::write(place.path("store/tmp/spool-1"), "x").unwrap();
    place.load(b"no image").unwrap_err();
    load(&place, &["a:1"], &["a"]);
    assert_eq!(fs::read_dir(place.path("store/tmp")).unwrap().count(), 0);
    place.store.remove(&reference("a:1"), &|_| None).unwrap();
    assert_eq!(place.listing(), Place::new().listing_with_tags());
    assert!(clean.len() < place.listing().len());
}

struct Waiting(std::sync::mpsc::Sender<Option<u32>>);

impl Progress for Waiting {
    fn waiting(&mut self, pid: Option<u32>) {
        self.0.send(pid).unwrap();
    }
}

#[test]
fn who_waits_says_for_whom() {
    let place = Place::new();
    fs::write(place.path("archive.tar"), archive_of(&docker_files(&[(&["a:1"], &[layer("a")])]))).unwrap();
    let other = fs::File::options().read(true).write(true).open(place.path("store/lock")).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fs::write(place.path("store/lock"), "4321\n").unwrap();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let source = Source::of(place.path("archive.tar")).unwrap();
        let store = &place.store;
        let load = scope.spawn(move || store.load(&source, &LoadOptions::default(), &mut Waiting(sender)));
        assert_eq!(receiver.recv().unwrap(), Some(4321));
        // Who only looks does not wait.
        assert!(store.images().unwrap().is_empty());
        drop(other);
        load.join().unwrap().unwrap();
    });
    let own = format!("{}\n", std::process::id());
    assert_eq!(fs::read_to_string(place.path("store/lock")).unwrap(), own);
}

#[test]
fn removal_waits_for_those_who_build_on_layers() {
    let place = Place::new();
    load(&place, &["a:1"], &["a"]);
    let held = place.store.hold().unwrap();
    let readers = fs::File::open(place.path("store/readers")).unwrap();
    let alone = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    assert_eq!(rustix::fs::flock(&readers, alone), Err(rustix::io::Errno::WOULDBLOCK));
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let remove = scope.spawn(|| {
            place.store.remove(&reference("a:1"), &|_| {
                sender.send(()).unwrap();
                None
            })
        });
        // Others may load and hold meanwhile, as long as the removal has not got that far.
        let second = place.store.hold().unwrap();
        assert!(receiver.try_recv().is_err(), "nothing is decided while layers are held");
        drop((held, second));
        receiver.recv().unwrap();
        assert!(remove.join().unwrap().unwrap().is_gone);
    });
}

/// Loads of the same and of other images at the same time, from threads, whose locks are as those of processes.
#[test]
fn loads_at_the_same_time() {
    let place = Place::new();
    let archives: Vec<_> = (0..6)
        .map(|number: u32| {
            let name = format!("a:{number}");
            let content = (number / 2).to_string();
            let layers = [layer("base"), layer(&content)];
            let path = place.path(&format!("archive{number}.tar"));
            fs::write(&path, archive_of(&docker_files(&[(&[name.as_str()], &layers)]))).unwrap();
            path
        })
        .collect();
    thread::scope(|scope| {
        for archive in &archives {
            scope.spawn(|| place.load_file(archive).unwrap());
        }
    });
    assert_eq!(place.store.images().unwrap().len(), 3);
    assert_eq!(layers_in(&place), 4);
    for number in 0..6 {
        place.store.find(&reference(&format!("a:{number}"))).unwrap();
    }
}
