//! What the tests are made of: layers, archives, a store in a temporary folder, and a listing of what became of them.
//! Writes tar headers itself where the `tar` crate refuses to write what hostile archives have.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bundles::archive::Source;
use bundles::digest::Digest;
use bundles::store::{Image, LoadOptions, Store};
use bundles::{Error, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

/// An entry of a layer.
#[derive(Clone)]
pub struct Item {
    pub kind: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    pub pax: Vec<(String, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Item {
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        Self {
            kind,
            name: name.as_ref().to_vec(),
            link: vec![],
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_600_000_000,
            device: (0, 0),
            pax: vec![],
            data: vec![],
        }
    }

    pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self { data: data.as_ref().to_vec(), ..Self::new(b'0', name) }
    }

    pub fn folder(name: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', name)
    }

    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'2', name) }
    }

    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'1', name) }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn mtime(self, mtime: u64) -> Self {
        Self { mtime, ..self }
    }

    pub fn device(self, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..self }
    }

    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    fn write(&self, tar: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let records: Vec<u8> = self.pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            Self { data: records, ..Self::new(b'x', "pax") }.write(tar);
        }
        for (kind, text) in [(b'L', &self.name), (b'K', &self.link)] {
            if text.len() > 100 {
                let data = [text.as_slice(), b"\0"].concat();
                Self { data, ..Self::new(kind, "././@LongLink") }.write(tar);
            }
        }
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        let copy = |from: &[u8], to: &mut [u8]| {
            let length = from.len().min(to.len());
            to[..length].copy_from_slice(&from[..length]);
        };
        copy(&self.name, &mut old.name);
        copy(&self.link, &mut old.linkname);
        header.set_entry_type(tar::EntryType::new(self.kind));
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_size(self.data.len() as u64);
        if matches!(self.kind, b'3' | b'4') {
            header.set_device_major(self.device.0).unwrap();
            header.set_device_minor(self.device.1).unwrap();
        }
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&self.data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// The tar of a layer, or of any archive.
pub fn tar_of(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    let mut tar = Vec::new();
    items.into_iter().for_each(|item| item.write(&mut tar));
    tar.resize(tar.len() + 1024, 0);
    tar
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The configuration of an image with these layers, which are plain tars.
pub fn configuration(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/bin/true"], "Env": null },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [],
    });
    serde_json::to_vec(&configuration).unwrap()
}

/// A file of an archive or a layout: its path and content.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn archive_of(files: &Files) -> Vec<u8> {
    tar_of(files.iter().map(|(name, data)| Item::file(name, data)))
}

/// A docker-archive as podman writes it, of several images: their names and layers.
pub fn docker_files(images: &[(&[&str], &[Vec<u8>])]) -> Files {
    let mut files = Files::new();
    let mut manifest = Vec::new();
    for (names, layers) in images {
        let configuration = configuration(layers, "amd64");
        let path = format!("{}.json", Digest::of(&configuration).hex());
        let paths: Vec<String> =
            layers.iter().map(|layer| format!("{}.tar", Digest::of(layer).hex())).collect();
        manifest.push(json!({ "Config": path, "RepoTags": names, "Layers": paths }));
        files.insert(path, configuration);
        files.extend(paths.into_iter().zip(layers.iter().cloned()));
    }
    files.insert("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap());
    files
}

/// An OCI layout in the making.
#[derive(Default)]
pub struct Layout {
    pub files: Files,
    pub manifests: Vec<Value>,
}

pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Layout {
    pub fn blob(&mut self, media_type: &str, data: &[u8]) -> Value {
        let digest = Digest::of(data);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), data.to_vec());
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": data.len() })
    }

    /// Adds an image's blobs, its layers being plain tars, their bytes in the layout, and their media types.
    pub fn image(&mut self, architecture: &str, layers: &[(Vec<u8>, Vec<u8>, &str)]) -> Value {
        let plain: Vec<Vec<u8>> = layers.iter().map(|(plain, ..)| plain.clone()).collect();
        let configuration = configuration(&plain, architecture);
        let config = self.blob("application/vnd.oci.image.config.v1+json", &configuration);
        let layers: Vec<Value> =
            layers.iter().map(|(_, packed, media_type)| self.blob(media_type, packed)).collect();
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.blob(MANIFEST, &serde_json::to_vec(&manifest).unwrap())
    }

    pub fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.blob(INDEX, &serde_json::to_vec(&index).unwrap())
    }

    /// Lists a manifest or an index, with a name as podman gives it.
    pub fn list(&mut self, mut descriptor: Value, name: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        self.manifests.push(descriptor);
    }

    pub fn finish(mut self) -> Files {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        self.files.insert("index.json".to_owned(), serde_json::to_vec(&index).unwrap());
        self.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        self.files
    }
}

/// A layout with one image of gzipped layers.
pub fn layout_of(name: &str, layers: &[Vec<u8>]) -> Files {
    let mut layout = Layout::default();
    let layers: Vec<_> = layers.iter().map(|layer| (layer.clone(), gzip(layer), GZIP)).collect();
    let image = layout.image("amd64", &layers);
    layout.list(image, Some(name));
    layout.finish()
}

pub fn write_folder(folder: &Path, files: &Files) {
    for (name, data) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }
}

/// A store in a temporary folder, and room for archives beside it.
pub struct Place {
    pub temporary: TempDir,
    pub store: Store,
}

impl Place {
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make devices and change owners: run them as root"
        );
        // In memory where possible: each load brings its file system to disk, also what others write there.
        let memory = Path::new("/dev/shm");
        let temporary = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self::in_folder(temporary.unwrap())
    }

    /// Another store, empty, below the same folder as an earlier one.
    pub fn beside(other: &Self) -> Self {
        Self::in_folder(tempfile::tempdir_in(other.temporary.path()).unwrap())
    }

    /// For what is too large to be in memory.
    pub fn on_disk() -> Self {
        Self::in_folder(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn in_folder(temporary: TempDir) -> Self {
        let store = Store::open(&temporary.path().join("store")).unwrap();
        Self { temporary, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    pub fn load_file(&self, path: &Path) -> Result<Vec<Image>> {
        let amd64 = LoadOptions {
            platform: Some("linux/amd64".parse().unwrap()),
            tag: None,
            ..LoadOptions::default()
        };
        self.store.load(&Source::of(path)?, &amd64, &mut ())
    }

    pub fn load(&self, archive: &[u8]) -> Result<Vec<Image>> {
        let path = self.path("archive.tar");
        fs::write(&path, archive).unwrap();
        self.load_file(&path)
    }

    /// Loads an image of these layers.
    pub fn load_layers(&self, layers: &[Vec<u8>]) -> Result<Image> {
        let images = self.load(&archive_of(&docker_files(&[(&["test:1"], layers)])))?;
        assert_eq!(images.len(), 1);
        Ok(images.into_iter().next().unwrap())
    }

    /// Loads an image of one layer; its listing.
    pub fn unpack(&self, items: impl IntoIterator<Item = Item>) -> Result<Listing> {
        let image = self.load_layers(&[tar_of(items)])?;
        Ok(listing(&self.store.layer_folders(&image)[0]))
    }

    /// What a load must fail with; it must also leave the store as it was.
    pub fn refuse(&self, archive: &[u8]) -> Error {
        let before = self.listing();
        let error = self.load(archive).expect_err("this must not be loaded");
        assert_eq!(self.listing(), before, "something stayed behind");
        error
    }

    /// The error of unpacking a layer.
    pub fn refuse_layer(&self, items: impl IntoIterator<Item = Item>) -> Error {
        let layer = tar_of(items);
        self.refuse(&archive_of(&docker_files(&[(&["test:1"], &[layer])])))
    }

    /// As [`Place::listing`], of a store that had names and has none any more.
    pub fn listing_with_tags(&self) -> Vec<String> {
        let tags = "{\n  \"version\": 1,\n  \"tags\": {}\n}\n";
        fs::write(self.path("store/tags.json"), tags).unwrap();
        fs::write(self.path("store/readers"), "").unwrap();
        self.listing()
    }

    /// All that is in the store, without times.
    pub fn listing(&self) -> Vec<String> {
        let listing = listing(&self.path("store"));
        listing.into_iter().map(|(path, thing)| format!("{path} {} {}", thing.kind, thing.content)).collect()
    }
}

/// All that can be said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub kind: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    /// A file's content in short, a link's target, a device's numbers.
    pub content: String,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first name, by alphabet, of the same file.
    pub same_as: Option<String>,
    inode: u64,
}

/// A folder's files by their path; the folder itself is "".
pub type Listing = BTreeMap<String, Thing>;

pub fn listing(folder: &Path) -> Listing {
    let mut listing = Listing::new();
    // Not recursive: some tests nest folders deeply.
    let mut left = vec![(folder.to_owned(), String::new())];
    while let Some((path, name)) = left.pop() {
        let thing = thing(&path);
        if thing.kind == "folder" {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap().file_name();
                let below = if name.is_empty() { String::new() } else { format!("{name}/") };
                left.push((path.join(&entry), format!("{below}{}", entry.to_string_lossy())));
            }
        }
        listing.insert(name, thing);
    }
    let mut first_names = BTreeMap::new();
    for (name, thing) in &mut listing {
        if thing.kind != "folder" {
            let first = first_names.entry(thing.inode).or_insert_with(|| name.clone());
            thing.same_as = (first != name).then(|| first.clone());
        }
        thing.inode = 0;
    }
    listing
}

fn thing(path: &Path) -> Thing {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let (word, content) = match kind {
        kind if kind.is_dir() => ("folder", String::new()),
        kind if kind.is_symlink() => ("symlink", fs::read_link(path).unwrap().display().to_string()),
        kind if kind.is_file() => ("file", short(&fs::read(path).unwrap())),
        kind if kind.is_char_device() => ("character device", metadata.rdev().to_string()),
        kind if kind.is_block_device() => ("block device", metadata.rdev().to_string()),
        kind if kind.is_fifo() => ("fifo", String::new()),
        kind => panic!("{} is {kind:?}", path.display()),
    };
    Thing {
        kind: word.to_owned(),
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        xattrs: xattrs(path),
        same_as: None,
        inode: metadata.ino(),
    }
}

/// A content itself if it is short, else its length and digest.
pub fn short(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if content.len() < 64 => text.to_owned(),
        _ => format!("{} bytes, {}", content.len(), Digest::of(content)),
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..count].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let count = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..count].to_vec())
        })
        .collect()
}
