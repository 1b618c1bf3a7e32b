//! What is mounted, and where an image must not lead it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bundles::Error;
use bundles::bundle::Mount;

use crate::image::{Image, words};

#[test]
fn a_program_may_lie_in_a_mount() {
    let image = Image::new();
    let tools = image.folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("run"), "x").unwrap();
    fs::set_permissions(tools.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |program: &str, destination: &str| {
        let mut request = image.request();
        request.arguments = Some(words(&[program]));
        request.mounts =
            vec![Mount { source: tools.clone(), destination: PathBuf::from(destination), read_only: true }];
        image.arguments(&request).map(|mut arguments| arguments.remove(0))
    };
    assert_eq!(run("/tools/run", "/tools").unwrap(), "/tools/run");
    assert_eq!(run("run", "/usr/local/bin").unwrap(), "/usr/local/bin/run");
    // What is mounted over is not seen.
    assert!(matches!(run("/usr/bin/sh", "/usr/bin"), Err(Error::NoEntrypoint { .. })));
    assert!(matches!(run("/tools", "/tools"), Err(Error::NotExecutable { .. })));
}

#[test]
fn a_working_folder_in_a_mount_is_the_mounts() {
    let image = Image::new();
    let mut request = image.request();
    request.working_directory = Some(PathBuf::from("/data/work"));
    request.mounts = vec![Mount {
        source: image.folder.path().to_owned(),
        destination: PathBuf::from("/data"),
        read_only: false,
    }];
    image.prepare(&request).unwrap();
    assert_eq!(fs::read_dir(image.bundle().join("upper")).unwrap().count(), 0);
}

#[test]
fn a_dangling_link_makes_room_for_what_is_mounted_there() {
    let image = Image::new();
    symlink("../run/systemd/resolve/stub-resolv.conf", image.layer(1).join("etc/resolv.conf")).unwrap();
    let file = image.folder.path().join("resolv.conf");
    fs::write(&file, "").unwrap();
    let mut request = image.request();
    request.host_files = vec![(file, PathBuf::from("/etc/resolv.conf"))];
    image.prepare(&request).unwrap();
    // A whiteout in the container's own layer.
    let whiteout = fs::symlink_metadata(image.bundle().join("upper/etc/resolv.conf")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
}

#[test]
fn mounts_are_checked() {
    let image = Image::new();
    let here = image.folder.path().to_owned();
    let mount = |source: &Path, destination: &str| {
        let mut request = image.request();
        request.mounts = vec![Mount {
            source: source.to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        }];
        image.prepare(&request).map(|_| fs::remove_dir_all(image.bundle()).unwrap())
    };
    for destination in ["relative", "/", "/proc", "/proc/sys", "/dev", "//sys/", "/a/../proc", "/./proc/."] {
        assert!(matches!(mount(&here, destination), Err(Error::Mount { .. })), "{destination}");
    }
    assert!(matches!(mount(Path::new("relative"), "/data"), Err(Error::Mount { .. })));
    let missing = here.join("missing");
    assert!(matches!(mount(&missing, "/data"), Err(Error::NoMountSource { path, .. }) if path == missing));
    for destination in ["/processes", "/dev/shm", "/sys/fs/cgroup", "/data"] {
        mount(&here, destination).unwrap();
    }
}

#[test]
fn links_in_the_image_lead_no_mount_astray() {
    let table = [
        ("proc", "data", "/data"),
        ("/../../proc/", "data", "/data"),
        ("/", "data", "/data/proc/sys"),
        ("/dev", "data", "/data"),
        ("/nowhere", "data", "/data/deeper"),
        ("/var", "dev", "/data"),
        ("/var", "proc", "/data"),
        ("/nowhere", "sys", "/data"),
    ];
    for (target, link, destination) in table {
        let image = Image::new();
        for folder in ["dev", "proc", "sys"].into_iter().filter(|folder| *folder != link) {
            fs::create_dir(image.layer(1).join(folder)).unwrap();
        }
        symlink(target, image.layer(0).join(link)).unwrap();
        let mut request = image.request();
        request.mounts = vec![Mount {
            source: image.folder.path().to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        }];
        let error = image.prepare(&request).unwrap_err();
        let expected =
            matches!((link, &error), ("data", Error::Mount { .. }) | (_, Error::NotAFolder { .. }));
        assert!(expected, "{link} -> {target}: {error:?}");
    }
}

#[test]
fn links_that_stay_inside_are_followed() {
    let image = Image::new();
    symlink("/var/lib/keystone", image.layer(0).join("data")).unwrap();
    let mut request = image.request();
    let destinations = ["/data", "/data/more/and/more", "/tmp/new"];
    request.mounts = destinations
        .map(|destination| Mount {
            source: image.folder.path().to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        })
        .to_vec();
    image.prepare(&request).unwrap();
    assert_eq!(fs::read_dir(image.bundle().join("upper")).unwrap().count(), 0);
}

#[test]
fn of_mounts_with_one_destination_the_last_counts() {
    let image = Image::new();
    let (one, two) = (image.folder.path().join("one"), image.folder.path().join("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let mount = |source: &Path, destination: &str| Mount {
        source: source.to_owned(),
        destination: PathBuf::from(destination),
        read_only: false,
    };
    let mut request = image.request();
    request.mounts = vec![mount(&one, "/data"), mount(&two, "/data/"), mount(&one, "/dev/shm")];
    image.prepare(&request).unwrap();
    let mounts = image.spec().mounts().clone().unwrap();
    let at = |path: &str| {
        let at: Vec<_> = mounts.iter().filter(|mount| mount.destination() == Path::new(path)).collect();
        assert_eq!(at.len(), 1, "{path}");
        at[0].source().clone().unwrap()
    };
    assert_eq!(at("/data"), two);
    assert_eq!(at("/dev/shm"), one);
}

#[test]
fn an_image_of_nothing_can_run_what_is_mounted() {
    let image = Image::new();
    let mut request = image.request();
    request.image.layers.clear();
    assert!(matches!(image.prepare(&request), Err(Error::NoEntrypoint { .. })));
    request.mounts =
        vec![Mount { source: image.layer(1), destination: PathBuf::from("/host"), read_only: true }];
    request.arguments = Some(words(&["/host/usr/bin/sh"]));
    image.prepare(&request).unwrap();
    assert!(image.bundle().join("lower/0").is_dir());
}
