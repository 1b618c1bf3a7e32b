//! A copied folder is the same in every respect, and appears whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use bundles::{Error, tree};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, Timespec, Timestamps, XattrFlags};

fn write(path: &Path, content: &str, mode: u32, owner: u32) {
    fs::write(path, content).unwrap();
    chown(path, Some(owner), Some(owner + 1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A file capability that allows CAP_NET_BIND_SERVICE (capabilities(7), VFS_CAP_REVISION_2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn sample(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    write(&root.join("keystone.conf"), "[DEFAULT]\n", 0o640, 64062);
    write(&root.join("deep/setuid"), "program", 0o4755, 0);
    write(&root.join("deep/er/capable"), "program", 0o755, 0);
    let attribute = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    attribute("deep/er/capable", "security.capability", &CAPABILITY);
    attribute("keystone.conf", "trusted.note", b"by hand\0and more");
    attribute("deep", "trusted.empty", b"");
    attribute("deep", "trusted.secret", b"x");
    fs::hard_link(root.join("keystone.conf"), root.join("deep/same.conf")).unwrap();
    symlink("/does/not/exist", root.join("dangling")).unwrap();
    symlink("keystone.conf", root.join("link")).unwrap();
    lchown(root.join("link"), Some(7), Some(8)).unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    for path in ["link", "pipe", "keystone.conf", "deep/er/capable", "deep/setuid", "deep/er", "deep", ""] {
        set_time(&root.join(path), 1_000_000_000 + path.len() as i64);
    }
    chown(root.join("deep"), Some(5), Some(6)).unwrap();
    fs::set_permissions(root.join("deep"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o750)).unwrap();
    chown(root, Some(64062), Some(64062)).unwrap();
}

/// All that there is to know of a tree, one line per entry, by a program that is not ours.
fn listing(root: &Path) -> String {
    let script = r#"cd "$1" && find . -printf '%p %y %m %U:%G %T@ %s %n %l\n' | sed '/ d /s/ [0-9]* [0-9]* $//' | sort
        && getfattr -R -h -d -m - -e hex . 2>/dev/null; find . -type f | sort | xargs sha256sum;
        find . -samefile keystone.conf | sort"#;
    let script = script.replace("\n        &&", " &&");
    let output = std::process::Command::new("sh").arg("-c").arg(script).arg("sh").arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn everything_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir(&from).unwrap();
    sample(&from);
    tree::copy(&from, &to).unwrap();
    assert_eq!(listing(&from), listing(&to));
    // Independently of what the machine's find and getfattr can do:
    assert_eq!(attribute(&to.join("deep/same.conf"), "trusted.note").unwrap(), b"by hand\0and more");
    assert_eq!(attribute(&to.join("deep"), "trusted.empty").unwrap(), b"");
    assert_eq!(attribute(&to.join("deep"), "trusted.secret").unwrap(), b"x");
    assert_eq!(attribute(&to.join("deep/er/capable"), "security.capability").unwrap(), CAPABILITY);
    let same = to.join("deep/same.conf").metadata().unwrap();
    assert_eq!(same.ino(), to.join("keystone.conf").metadata().unwrap().ino());
    assert_eq!((same.uid(), same.gid(), same.mode() & 0o7777), (64062, 64063, 0o640));
    assert_eq!(same.mtime_nsec(), 123_456_789);
    assert!(to.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(to.join("deep/setuid").metadata().unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/does/not/exist"));
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn an_empty_folder_is_replaced_and_a_full_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("a"), "new").unwrap();
    fs::create_dir(&to).unwrap();
    tree::copy(&from, &to).unwrap();
    assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "new");

    fs::write(from.join("a"), "newer").unwrap();
    assert!(matches!(tree::copy(&from, &to), Err(Error::NotEmpty { path }) if path == to));
    assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "new");

    let file = folder.path().join("file");
    File::create(&file).unwrap();
    assert!(matches!(tree::copy(&from, &file), Err(Error::NotEmpty { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_device_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("a"), "a").unwrap();
    let device = from.join("sub/disk");
    rustix::fs::mknodat(CWD, &device, FileType::BlockDevice, Mode::RUSR, rustix::fs::makedev(7, 200))
        .unwrap();
    assert!(matches!(tree::copy(&from, &to), Err(Error::DeviceInFolder { path }) if path == device));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_a_crash_left_is_removed_and_a_running_copy_is_not_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let aside = folder.path().join(".to.opsrun-copy");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("a"), "a").unwrap();
    fs::create_dir_all(aside.join("half")).unwrap();
    File::create(aside.join("half/file")).unwrap().write_all(b"half").unwrap();

    let running = File::open(&aside).unwrap();
    rustix::fs::flock(&running, FlockOperation::LockExclusive).unwrap();
    assert!(matches!(tree::copy(&from, &to), Err(Error::CopyUnderWay { .. })));
    assert!(aside.join("half/file").exists());

    drop(running);
    tree::copy(&from, &to).unwrap();
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert!(!aside.exists());
}

#[test]
fn folders_without_end_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    let mut deep = from.clone();
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    assert!(matches!(tree::copy(&from, &folder.path().join("to")), Err(Error::TooDeep { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = tree::copy(&folder.path().join("none"), &folder.path().join("to")).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    let (from, to) = (folder.path().join("from"), folder.path().join("no/parent"));
    fs::create_dir(&from).unwrap();
    assert!(matches!(tree::copy(&from, &to), Err(Error::Io { .. })));
}

/// A tree that is not like [`sample`] in every way in which it can be.
fn other(root: &Path) {
    sample(root);
    fs::write(root.join("keystone.conf"), "[DEFAULT]\ndebug = true\n").unwrap();
    fs::remove_file(root.join("deep/same.conf")).unwrap();
    fs::write(root.join("deep/same.conf"), "no link any more").unwrap();
    rustix::fs::setxattr(root.join("deep"), "trusted.more", b"x", XattrFlags::empty()).unwrap();
    fs::set_permissions(root.join("deep/setuid"), fs::Permissions::from_mode(0o644)).unwrap();
    // A file where a folder was, and a folder where a link was.
    fs::remove_dir_all(root.join("deep/er")).unwrap();
    fs::write(root.join("deep/er"), "no folder").unwrap();
    fs::remove_file(root.join("link")).unwrap();
    fs::create_dir_all(root.join("link/new/er")).unwrap();
    fs::write(root.join("link/new/er/file"), "new").unwrap();
    fs::remove_file(root.join("dangling")).unwrap();
    symlink("keystone.conf", root.join("dangling")).unwrap();
    fs::remove_file(root.join("pipe")).unwrap();
    // What a crash in the middle left.
    fs::write(root.join(".opsrun-new"), "half").unwrap();
    set_time(&root.join("deep"), 7);
}

#[test]
fn a_folder_is_made_equal_and_what_is_excepted_stays() {
    let folder = tempfile::tempdir().unwrap();
    let trees = ["from", "to", "keys", "there"].map(|name| folder.path().join(name));
    let [from, to, keys, there] = &trees;
    for root in &trees {
        fs::create_dir(root).unwrap();
    }
    sample(from);
    other(to);
    other(keys);
    tree::make_equal(from, to, &[]).unwrap();
    assert_eq!(listing(from), listing(to));
    // And there again: files become folders and the other way round.
    other(there);
    fs::remove_file(there.join(".opsrun-new")).unwrap();
    set_time(there, 9);
    tree::make_equal(there, to, &[]).unwrap();
    assert_eq!(listing(there), listing(to));
    // What is equal stays the very same file.
    let ino = || to.join("keystone.conf").metadata().unwrap().ino();
    let before = ino();
    tree::make_equal(there, to, &[]).unwrap();
    assert_eq!(ino(), before);

    let except = ["link/new/er".into(), "pipe".into()];
    fs::remove_file(from.join("link")).unwrap();
    tree::make_equal(from, keys, &except).unwrap();
    assert_eq!(fs::read_to_string(keys.join("link/new/er/file")).unwrap(), "new");
    assert!(!keys.join("pipe").exists());
    assert_eq!(fs::read_to_string(keys.join("keystone.conf")).unwrap(), "[DEFAULT]\n");
    // A file cannot take the place of a folder with keys in it.
    fs::write(from.join("link"), "").unwrap();
    let refused = tree::make_equal(from, keys, &except);
    assert!(matches!(refused, Err(Error::NotEmpty { path }) if path == keys.join("link")));
    assert_eq!(fs::read_to_string(keys.join("link/new/er/file")).unwrap(), "new");
}

#[test]
fn a_reader_sees_the_old_file_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let trees = ["one", "two", "to"].map(|name| folder.path().join(name));
    let contents = ["1".repeat(300_000), "2".repeat(200_000)];
    for (root, content) in trees.iter().zip(contents.iter().cycle()) {
        fs::create_dir(root).unwrap();
        fs::write(root.join("keystone.conf"), content).unwrap();
    }
    let file = trees[2].join("keystone.conf");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..60 {
                tree::make_equal(&trees[(round + 1) % 2], &trees[2], &[]).unwrap();
            }
        });
        while !writer.is_finished() {
            let read = fs::read_to_string(&file).unwrap();
            assert!(contents.contains(&read), "{} bytes of {:?}", read.len(), read.get(..1));
        }
    });
}
