//! A loaded image is the image: compared with what umoci makes of the same archive, file by file.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Host, done, image};

/// Everything that can be seen of a file; its content as a hash by the kernel-independent way of reading it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
    device: u64,
    links: u64,
    /// Which other names are the same file: the first of them in order.
    same_as: PathBuf,
    target: Option<PathBuf>,
    content: Option<u64>,
    attributes: Vec<(OsString, Vec<u8>)>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        let found = std::fs::symlink_metadata(&path).expect("look at it");
        if found.is_dir() {
            paths
                .extend(std::fs::read_dir(&path).expect("read it").map(|entry| entry.expect("entry").path()));
        }
        all.push((path, found));
    }
    all.sort_by(|one, two| one.0.cmp(&two.0));
    for (path, found) in all {
        let name = path.strip_prefix(root).expect("below the root").to_owned();
        let kind = found.file_type();
        let same_as = first_names.entry((found.dev(), found.ino())).or_insert_with(|| name.clone()).clone();
        let device = kind.is_block_device() || kind.is_char_device();
        let entry = Seen {
            mode: found.mode(),
            uid: found.uid(),
            gid: found.gid(),
            modified: (found.mtime(), found.mtime_nsec()),
            device: if device { found.rdev() } else { 0 },
            links: if kind.is_dir() { 0 } else { found.nlink() },
            same_as: if kind.is_dir() { PathBuf::new() } else { same_as },
            target: kind.is_symlink().then(|| std::fs::read_link(&path).expect("its target")),
            content: kind.is_file().then(|| hash(&path)),
            attributes: attributes(&path),
        };
        seen.insert(name, entry);
    }
    seen
}

fn hash(path: &Path) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&std::fs::read(path).expect("read it"));
    hasher.finish()
}

/// All extended attributes but those of overlayfs, which are how a layer says what an archive says by whiteouts.
fn attributes(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("list");
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("read it");
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    found.sort();
    found
}

/// The loaded image's layers, the top one first.
fn layers(host: &Host, name: &str) -> Vec<PathBuf> {
    let inspected = host.opsrun(["inspect", "--type", "image", name]).succeeds().json();
    let layers = inspected["image"]["layers"].as_array().unwrap_or_else(|| panic!("layers: {inspected}"));
    let folder = |layer: &serde_json::Value| {
        let digest = layer["diff_id"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        host.path("var/lib/opsrun/store/layers/sha256").join(digest).join("root")
    };
    layers.iter().rev().map(folder).collect()
}

/// Mounts the layers and compares; in a mount namespace of its own, for which the test program is run once more.
fn compare_with_umoci(archive: &str, name: &str) {
    if let Some(pair) = std::env::var_os("OPSRUN_TEST_COMPARE") {
        let pair: Vec<PathBuf> = std::env::split_paths(&pair).collect();
        let (ours, theirs) = (look(&pair[0]), look(&pair[1]));
        assert!(theirs.len() > 10, "only {} files", theirs.len());
        let mut different = Vec::new();
        for name in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
            if ours.get(name) != theirs.get(name) {
                different.push(format!(
                    "{}:\n  {:?}\n  {:?}",
                    name.display(),
                    ours.get(name),
                    theirs.get(name)
                ));
            }
        }
        let total = different.len();
        different.truncate(20);
        assert!(different.is_empty(), "{total} differ, ours first:\n{}", different.join("\n"));
        println!("{} files are equal", ours.len());
        return;
    }
    let host = Host::new();
    host.load(archive);
    let theirs = host.path("umoci");
    let layout = host.path("layout");
    let script = format!(
        "set -e; mkdir {0}; tar -xf {1} -C {0}; sed -i 's/\"org.opencontainers.image.ref.name\":\"[^\"]*\"/\"org.opencontainers.image.ref.name\":\"it\"/' {0}/index.json; umoci unpack --image {0}:it {2}",
        layout.display(),
        image(archive).display(),
        theirs.display()
    );
    let mut unpack = Command::new("sh");
    unpack.args(["-c", &script]);
    done(unpack).succeeds();

    let merged = host.path("merged");
    std::fs::create_dir(&merged).expect("a folder");
    let lower: Vec<_> = layers(&host, name).iter().map(|path| path.display().to_string()).collect();
    let mount = format!(
        "mount --make-rprivate / && mount -t overlay overlay -o lowerdir={} {} && exec \"$@\"",
        lower.join(":"),
        merged.display()
    );
    let test = std::thread::current().name().expect("the test's name").to_owned();
    let mut again = Command::new("unshare");
    again.args(["--mount", "sh", "-c", &mount, "sh"]).arg(std::env::current_exe().expect("this program"));
    again.args(["--exact", &test, "--nocapture"]);
    again.env("OPSRUN_TEST_COMPARE", std::env::join_paths([&merged, &theirs.join("rootfs")]).expect("paths"));
    let done = done(again);
    done.succeeds();
    assert!(done.stdout.contains("files are equal"), "{done}");
}

#[test]
fn the_small_images_files_are_those_that_umoci_unpacks() {
    compare_with_umoci("busybox-1.tar", "busybox:1");
}

#[test]
fn keystones_files_are_those_that_umoci_unpacks() {
    compare_with_umoci("keystone-zed.tar", "keystone:zed");
}

#[test]
fn a_second_load_unpacks_nothing_again_and_what_is_removed_is_gone() {
    let host = Host::new();
    let first = host.load("busybox-1.tar");
    assert!(first.stderr.contains("layers were unpacked"), "{first}");
    let second = host.load("busybox-1.tar");
    assert!(!second.stderr.contains("layers were unpacked"), "{second}");
    host.opsrun(["rmi", "busybox:1"]).succeeds();
    let layers = host.path("var/lib/opsrun/store/layers/sha256");
    assert_eq!(std::fs::read_dir(layers).map_or(0, Iterator::count), 0);
    assert_eq!(host.opsrun(["images", "-q"]).succeeds().stdout, "");
}

#[test]
fn an_archive_is_loaded_from_standard_input_from_a_folder_and_under_a_name_of_ones_own() {
    let host = Host::new();
    let archive = image("busybox-1.tar");
    let bytes = std::fs::read(&archive).expect("the archive");
    host.opsrun_reading(["load", "--tag", "piped:2", "-"], &bytes).succeeds();
    let layout = host.path("layout");
    std::fs::create_dir(&layout).expect("a folder");
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&archive).arg("-C").arg(&layout);
    done(unpack).succeeds();
    host.opsrun(["load", layout.to_str().expect("path")]).succeeds();
    let images = host.opsrun(["images"]).succeeds().stdout.clone();
    assert!(images.contains("piped") && images.contains("busybox"), "{images}");
    assert_eq!(host.opsrun(["run", "piped:2", "cat", "/www/index.html"]).succeeds().stdout, "up\n");
}
