//! What happens when the disk is full, and where files that have no name cannot be made.

use std::fs;
use std::path::Path;
use std::slice;
use std::thread;

use bundles::archive::Source;
use bundles::store::{LoadOptions, Store};
use bundles::{Error, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::fixture::{Item, Place, archive_of, docker_files, gzip, layout_of, listing, tar_of};

/// Runs something in a thread that has its own mounts, which nobody else sees and which end with it.
pub fn with_own_mounts<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

/// Loads into a store on a file system of so many bytes and files; what is in the store before and after.
fn load_into(room: &str, archive: &Path, folder: &Path) -> (Result<()>, Vec<String>, Vec<String>) {
    with_own_mounts(|| {
        mount(Some("store"), folder, Some("tmpfs"), MsFlags::empty(), Some(room)).unwrap();
        let store = Store::open(&folder.join("store")).unwrap();
        let names = || listing(folder).into_keys().collect();
        let before = names();
        let result = store.load(&Source::of(archive).unwrap(), &LoadOptions::default(), &mut ());
        (result.map(|_| ()), before, names())
    })
}

fn check_full(room: &str, archive: &[u8]) {
    let place = Place::new();
    let (path, folder) = (place.path("archive.tar"), place.path("small"));
    fs::create_dir(&folder).unwrap();
    fs::write(&path, archive).unwrap();
    let (result, before, after) = load_into(room, &path, &folder);
    assert!(matches!(result, Err(Error::DiskFull { .. })), "{result:?}");
    assert_eq!(before, after, "something stayed behind");
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let big = tar_of([Item::file("small", "x"), Item::file("big", vec![9; 3 << 20])]);
    let archive = archive_of(&docker_files(&[(&["test:1"], slice::from_ref(&big))]));
    check_full("size=1m", &archive);
    check_full("size=1m", &archive_of(&layout_of("test:1", &[big])));
    // While an archive that is compressed as a whole is being kept.
    check_full("size=1m", &gzip(&archive));
    let files = (0..500).map(|number| Item::file(format!("file{number}"), ""));
    let many = archive_of(&docker_files(&[(&["test:1"], &[tar_of(files)])]));
    check_full("size=50m,nr_inodes=100", &many);
    let folders = (0..500).map(|number| Item::folder(format!("folder{number}/")));
    let many = archive_of(&docker_files(&[(&["test:1"], &[tar_of(folders)])]));
    check_full("size=50m,nr_inodes=100", &many);
}

/// At whatever point the room ends, the load is whole or has left nothing.
#[test]
fn a_disk_that_is_full_at_any_point() {
    let layers: Vec<Vec<u8>> =
        (0..3_u8).map(|number| tar_of([Item::file(format!("f{number}"), vec![number; 9000])])).collect();
    let place = Place::new();
    let (path, folder) = (place.path("archive.tar"), place.path("small"));
    fs::create_dir(&folder).unwrap();
    fs::write(&path, archive_of(&docker_files(&[(&["test:1"], &layers)]))).unwrap();
    let (mut full, mut whole) = (0, 0);
    for inodes in 12..50 {
        let room = format!("size=10m,nr_inodes={inodes}");
        match load_into(&room, &path, &folder) {
            (Ok(()), ..) => whole += 1,
            (Err(Error::DiskFull { .. }), before, after) => {
                full += 1;
                assert_eq!(before, after, "{room}");
            }
            (Err(error), ..) => panic!("{room}: {error:?}"),
        }
    }
    assert!(full > 10 && whole > 3, "{full} {whole}");
}

#[test]
fn a_file_system_that_can_only_be_read() {
    let place = Place::new();
    fs::write(place.path("archive.tar"), archive_of(&docker_files(&[(&["a:1"], &[tar_of([])])]))).unwrap();
    let result = with_own_mounts(|| {
        let (none, folder) = (None::<&str>, place.path("store"));
        mount(Some(&folder), &folder, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &folder, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
            .unwrap();
        let store = Store::open(&folder).unwrap();
        assert!(store.images().unwrap().is_empty(), "looking is possible");
        store.load(&Source::of(place.path("archive.tar")).unwrap(), &LoadOptions::default(), &mut ())
    });
    match result {
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem),
        other => panic!("{other:?}"),
    }
}
