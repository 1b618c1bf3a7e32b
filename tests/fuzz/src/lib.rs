//! Where a target may let unpacked things come to be: a file system in memory in the only place that can be written to.
//! Knows nothing of what is tried there.
//!
//! ```text
//! /mnt/canary           a file, also by its absolute path
//!      store/canary/    a folder beside, with a file: where the hostile seeds want to go
//!      store/earlier/   a layer that is there already: canary, and links out of it
//!      store/new/       where the target writes
//!      store/trash/
//! ```

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{MemfdFlags, Mode, OFlags};

/// Every Debian has this folder, and a target covers it only for itself.
const ROOM: &str = "/mnt";

/// Bytes and files, beyond which the kernel refuses.
const SIZE: &str = "size=192m,nr_inodes=20000,mode=0755";

/// Takes the process into mounts of its own, in which nothing but the room and the working folder, to which the fuzzer
/// writes, can be written to. So what leads out of the room is an error that is told from others: EROFS.
pub fn enter() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).expect("fuzzing needs root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let work = std::env::current_dir().unwrap();
    mount(Some(&work), &work, none, MsFlags::MS_BIND, none).unwrap();
    // The working folder is the covered one until it is entered anew.
    std::env::set_current_dir(&work).unwrap();
    for point in mount_points() {
        if point != work && !point.starts_with("/proc") && !point.starts_with("/dev") {
            // OK to fail: some of the kernel's own cannot be changed, nor can what lies below another mount.
            let _ =
                mount(none, &point, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none);
        }
    }
    assert!(File::create("/var/canary").is_err(), "the host can be written to");
    mount(Some("room"), ROOM, Some("tmpfs"), MsFlags::MS_NODEV | MsFlags::MS_NOSUID, Some(SIZE)).unwrap();
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// The room, with what must stay as it is.
pub struct Place {
    before: Vec<String>,
}

impl Place {
    /// Enters and furnishes the room.
    #[allow(clippy::new_without_default, reason = "it changes the process")]
    pub fn new() -> Self {
        enter();
        for folder in ["store", "store/canary", "store/canary/etc", "store/earlier", "store/earlier/etc"] {
            fs::create_dir(Path::new(ROOM).join(folder)).unwrap();
        }
        for file in ["canary", "store/canary/etc/passwd", "store/earlier/etc/passwd", "store/earlier/canary"]
        {
            let path = Path::new(ROOM).join(file);
            fs::write(&path, format!("the content of {file}")).unwrap();
            chown(&path, Some(17), Some(18)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        for (link, target) in [("out", "../../canary"), ("absolute", "/mnt/canary"), ("root", "/")] {
            symlink(target, Path::new(ROOM).join("store/earlier").join(link)).unwrap();
        }
        Self { before: state() }
    }

    /// An empty folder in the room.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = Path::new(ROOM).join("store").join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A path in the room.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(ROOM).join("store").join(name)
    }

    /// Removes a folder, as the store does.
    pub fn remove(&self, folder: &Path) {
        bundles::fuzzing::empty(folder).expect("what was made can be removed");
        fs::remove_dir(folder).expect("it is empty now");
    }

    /// All but the target's own folders, which are removed by now, is as it was.
    pub fn check(&self) {
        assert_eq!(self.before, state(), "something outside was touched");
    }
}

/// All that can be seen of what is in the room, without access times.
fn state() -> Vec<String> {
    let mut state = Vec::new();
    let mut left = vec![PathBuf::from(ROOM)];
    while let Some(path) = left.pop() {
        let it = fs::symlink_metadata(&path).unwrap();
        let mut content = String::new();
        // The folders the target's own are made in get new times by that alone.
        let mut times = (it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec());
        if it.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            if path == Path::new("/mnt/store") {
                times = (0, 0, 0, 0);
            }
        } else if it.is_file() {
            content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        }
        let size = if it.is_file() { it.size() } else { 0 };
        state.push(format!(
            "{path:?} {:o} {}:{} {size} {times:?} {} {content:?}",
            it.mode(),
            it.uid(),
            it.gid(),
            it.ino()
        ));
    }
    state.sort();
    state
}

/// Whether the kernel refused to change what is not the room: then something was about to.
pub fn assert_not_outside(error: &(dyn std::error::Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            assert!(io.kind() != std::io::ErrorKind::ReadOnlyFilesystem, "it went for the host: {error:?}");
        }
        next = error.source();
    }
}

/// A file in memory, read from its beginning.
pub fn file_of(bytes: &[u8]) -> File {
    let mut file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Opens a folder.
pub fn open(folder: &Path) -> OwnedFd {
    rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Puts the right checksum into each header of a tar, so that a change to one is not just a wrong checksum.
pub fn mend_checksums(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        if block.iter().any(|&byte| byte != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let digits = block[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0_usize, |size, digit| size << 3 | usize::from(digit - b'0'));
        // Only what has data is followed by it.
        let has_data = matches!(block[156], b'0' | 0 | b'7' | b'S' | b'x' | b'g' | b'L' | b'K');
        at += 512 + if has_data { size.next_multiple_of(512) } else { 0 };
    }
}
