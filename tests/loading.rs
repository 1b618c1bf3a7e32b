//! What loading costs, whatever the image: memory, and bytes read. Both are counted, never timed.
//!
//! Memory is what the kernel says of all that this program has started, so nothing large but opsrun is started in here.

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bundles::digest::{Digest, Hashing};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use support::program;

/// The promise is 64 MiB. An unoptimized program takes more: of its own code, and with the C library's ways of keeping what was
/// freed.
const MEMORY_KIB_MAX: i64 = if cfg!(debug_assertions) { 112 << 10 } else { 64 << 10 };
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An OCI layout with one image, in the making.
struct Layout {
    folder: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).expect("make the layout");
        Self { folder, layers: Vec::new(), diff_ids: Vec::new() }
    }

    /// Adds a layer whose tar `write` writes, entry by entry.
    fn layer(&mut self, write: impl FnOnce(&mut dyn Write)) {
        let path = self.folder.join("new");
        let mut out = BufWriter::new(Hashing::new(File::create(&path).expect("make a layer")));
        write(&mut out);
        out.write_all(&[0; 1024]).expect("write the end");
        out.flush().expect("write it");
        let Ok(out) = out.into_inner() else { panic!("write it") };
        let (digest, bytes) = out.finish();
        self.keep(&path, PLAIN, digest, bytes, digest);
    }

    fn keep(&mut self, path: &Path, media_type: &str, digest: Digest, bytes: u64, diff_id: Digest) {
        std::fs::rename(path, self.folder.join("blobs/sha256").join(digest.hex())).expect("name the blob");
        self.layers.push(json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes }));
        self.diff_ids.push(diff_id.to_string());
    }

    fn document(&self, value: &Value) -> Value {
        let text = value.to_string();
        let digest = Digest::of(text.as_bytes());
        std::fs::write(self.folder.join("blobs/sha256").join(digest.hex()), &text).expect("write a document");
        json!({ "digest": digest.to_string(), "size": text.len() })
    }

    fn finish(self) -> PathBuf {
        let mut config = self.document(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "config": { "Cmd": ["/bin/true"] }, "history": [],
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        }));
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let mut manifest = self.document(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": self.layers,
        }));
        manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        std::fs::write(self.folder.join("index.json"), index.to_string()).expect("write the index");
        std::fs::write(self.folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("write it");
        self.folder
    }
}

/// The header of an entry, with a longer name as GNU writes it.
fn entry(out: &mut dyn Write, kind: u8, name: &str, link: &str, bytes: u64) {
    for (kind, text) in [(b'L', name), (b'K', link)] {
        if text.len() > 100 {
            entry(out, kind, "././@LongLink", "", text.len() as u64);
            let padded = text.len().next_multiple_of(512);
            write!(out, "{text:\0<padded$}").expect("write a name");
        }
    }
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &name[..name.len().min(100)]);
    put(100, "0000755");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{bytes:011o}"));
    put(136, "13740000000");
    put(148, "        ");
    put(157, &link[..link.len().min(100)]);
    put(257, "ustar  ");
    block[156] = kind;
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&block).expect("write a header");
}

/// A root of its own, in memory where that is possible: much is written.
fn room() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("opsrun-test-").tempdir_in(folder).expect("a folder")
}

fn load(root: &Path, source: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.env("OPSRUN_ROOT", root).args(["load", "--tag", "test:1"]).args(more).arg(source);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Loads, and looks at the most memory that any load of this program has had.
fn load_in_bounds(root: &Path, source: &Path, more: &[&str]) {
    let status = load(root, source, more).status().expect("run opsrun");
    assert!(status.success(), "{status}");
    let most = getrusage(UsageWho::RUSAGE_CHILDREN).expect("what was used").max_rss();
    assert!(most < MEMORY_KIB_MAX, "{most} KiB");
    println!("{most} KiB");
}

/// What grows with the number of files, of their names, of hard links, of folders and of what is replaced.
#[test]
fn memory_is_bounded_whatever_the_number_of_files() {
    let room = room();
    let mut layout = Layout::new(room.path().join("layout"));
    layout.layer(|out| {
        for number in 0..200_000 {
            entry(out, b'0', &format!("{number:0>200}"), "", 0);
        }
    });
    layout.layer(|out| {
        let folder = "a folder whose name is of some length/".repeat(4);
        for number in 0..60_000 {
            let name = format!("{folder}{}/{number}", number / 1000);
            entry(out, b'0', &name, "", 1);
            out.write_all(&[b'x'; 512]).expect("write a file");
            entry(out, b'1', &format!("{name} linked"), &name, 0);
        }
        // Replaced, so that the tar can be given again only from what was thrown away.
        for number in 0..20_000 {
            entry(out, b'2', &format!("{folder}{}/{number} linked", number / 1000), "x", 0);
            entry(out, b'0', &format!("{folder}{}/{number}", number / 1000), "", 0);
        }
    });
    layout.layer(|out| {
        for number in 0..60_000 {
            entry(out, b'5', &format!("{}/{number:0>150}/", number / 100), "", 0);
        }
    });
    let layout = layout.finish();
    load_in_bounds(&room.path().join("root"), &layout, &[]);
}

/// Deeper than any path can name: through links.
#[test]
fn memory_is_bounded_however_deep_folders_are() {
    let room = room();
    let mut layout = Layout::new(room.path().join("layout"));
    let down = "d/".repeat(1000);
    layout.layer(|out| {
        entry(out, b'5', &down, "", 0);
        for number in 0..4 {
            let above = if number == 0 { String::new() } else { format!("{}/", number - 1) };
            entry(out, b'2', &number.to_string(), &format!("{above}{down}"), 0);
            entry(out, b'5', &format!("{number}/{down}"), "", 0);
        }
    });
    load_in_bounds(&room.path().join("root"), &layout.finish(), &[]);
}

/// Each layer wants as much memory as zstd may be given, and they are unpacked at once.
#[test]
fn memory_is_bounded_however_large_windows_are() {
    const BLOCK: usize = 128 << 10;
    const BLOCKS: usize = 400;
    let room = room();
    let mut layout = Layout::new(room.path().join("layout"));
    for number in 0..4 {
        let mut head = Vec::new();
        entry(&mut head, b'0', &format!("zeros {number}"), "", (BLOCK * BLOCKS) as u64 - 1024);
        let mut tar = Hashing::new(std::io::sink());
        tar.write_all(&head).expect("hash");
        (0..BLOCKS).for_each(|_| tar.write_all(&[0; BLOCK]).expect("hash"));
        let (diff_id, _) = tar.finish();
        // A frame with a window of 32 MiB: a block as it is, and then blocks of one byte many times (RFC 8878, 3.1.1).
        let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 15 << 3];
        let block = |kind: u32, bytes: usize, is_last: bool| {
            ((bytes as u32) << 3 | kind << 1 | u32::from(is_last)).to_le_bytes()[..3].to_vec()
        };
        packed.extend(block(0, head.len(), false));
        packed.extend(head);
        for at in 1..=BLOCKS {
            packed.extend(block(1, BLOCK, at == BLOCKS));
            packed.push(0);
        }
        let path = room.path().join("packed");
        std::fs::write(&path, &packed).expect("write a layer");
        layout.keep(&path, ZSTD, Digest::of(&packed), packed.len() as u64, diff_id);
    }
    load_in_bounds(&room.path().join("root"), &layout.finish(), &["--max-ratio", "1000000"]);
}

/// How many bytes a load has read, from wherever.
fn bytes_read(root: &Path, archive: &Path) -> u64 {
    let child = load(root, archive, &[]).spawn().expect("run opsrun");
    let id = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // It has ended but is not gone: its account is complete.
    waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("wait for opsrun");
    let account = std::fs::read_to_string(format!("/proc/{id}/io")).expect("its account");
    let mut child = child;
    assert!(child.wait().expect("wait for opsrun").success());
    let read = account.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("bytes read");
    read.parse().expect("a number")
}

#[test]
fn what_the_store_has_is_not_read_again() {
    const MIB: u64 = 1 << 20;
    let room = room();
    let archive = |name: &str, layers: &[(u8, u64)]| {
        let mut layout = Layout::new(room.path().join(name));
        for &(content, mib) in layers {
            layout.layer(|out| {
                entry(out, b'0', &format!("file {content}"), "", mib * MIB);
                (0..mib).for_each(|_| out.write_all(&[content; MIB as usize]).expect("write"));
            });
        }
        let (folder, archive) = (layout.finish(), room.path().join(format!("{name}.tar")));
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&folder).arg(".");
        assert!(tar.status().expect("run tar").success());
        archive
    };
    let (first, sibling) = (archive("first", &[(1, 40), (2, 3)]), archive("sibling", &[(1, 40), (3, 5)]));
    let root = room.path().join("root");
    let whole = bytes_read(&root, &first);
    assert!(whole >= 43 * MIB, "{whole}");
    // Headers, the manifest, the configuration, and the store's own records.
    let again = bytes_read(&root, &first);
    assert!(again < MIB, "{again}");
    let new = bytes_read(&root, &sibling);
    assert!((5 * MIB..6 * MIB).contains(&new), "{new}");
}
