//! The images of this host, unpacked and ready to be run, each layer once.
//! Knows neither archives' formats nor services; who uses an image it is told.
//!
//! ```text
//! version                         1, for the program that comes later
//! lock                            flock(2), exclusive while something changes; holds the pid of who did so last
//! readers                         flock(2), shared while somebody builds on layers, exclusive while some are removed
//! tags.json                       name:tag → image, replaced whole
//! images/sha256/HEX/config.json   the image's configuration, byte for byte; HEX is its digest, Docker's IMAGE ID
//!                   image.json    its manifest's digest, its layers, when it was loaded or what it was committed from
//! layers/sha256/HEX/root/         a layer as overlayfs takes it; HEX is its diff id, the digest of the plain tar
//!                   layer.json    its size, and the digests of:
//!                   files.gz      each of its files with all that is known of it, by which `check` tells what has changed
//!                   frame.gz      what its tar has beside the contents of files, by which `save` makes it again
//! tmp/                            what is being made or removed; emptied by whoever gets the lock
//! tmp/stage-PID-N/                what is being pulled, which needs no lock until it is all here: left while it is flocked
//! ```
//! Images and layers are made in `tmp`, brought to disk together, and renamed to where they belong; after that they
//! never change. So a reader needs no lock to see only whole ones. The folder is closed to all but root, since
//! layers hold setuid programs that no user of the host may reach.

use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use crate::archive::{Platform, parse_configuration};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

mod check;
mod commit;
mod disk;
mod load;
mod lock;
mod prune;
mod records;
mod remove;
mod save;
mod stage;
mod unpack;

pub use crate::layer::bounds::{Bounds, Excess};
pub use check::{Broken, Checked, Difference, FILES_NAMED_MAX, Repair, Subject};
pub use commit::{Changes, CommitOptions, Committed};
#[cfg(fuzzing)]
pub(crate) use disk::empty;
pub use lock::Held;
pub use prune::Unneeded;
use records::{ImageRecord, LayerRecord, Tags};
pub use remove::Removed;
pub use save::SaveFormat;

/// The version of all that is described above.
const VERSION: u32 = 1;
/// Docker shows 12 digits of an id; fewer than this many are rather a name.
const ID_DIGITS_MIN: usize = 4;

/// A store of images.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration, which Docker shows as IMAGE ID.
    pub id: Digest,
    /// The digest of its manifest, where the archive had one.
    pub manifest: Option<Digest>,
    /// Its names with their tags, sorted. None when another image has got its only name since.
    pub names: Vec<Reference>,
    /// What it says about how it wants to be run.
    pub configuration: ImageConfiguration,
    /// Its layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// When it was loaded first, in milliseconds since 1970.
    pub loaded_at_ms: u64,
    /// What it was made of here, if it was not loaded.
    pub committed: Option<Committed>,
}

impl Image {
    /// The length of all files in its layers, in bytes. Layers that it shares with other images are counted too.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes))
    }

    /// What messages call it: its first name, or else its id.
    pub fn title(&self) -> String {
        self.names.first().map_or_else(|| self.id.to_string(), Reference::to_string)
    }
}

/// A layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its plain tar.
    pub diff_id: Digest,
    /// The length of its files in bytes.
    pub bytes: u64,
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The name to give instead of those in the archive, which must then hold one image only; `latest` if without tag.
    pub tag: Option<Reference>,
    /// The platform for which to load; the host's if not given.
    pub platform: Option<Platform>,
    /// How much may come out of the layers.
    pub bounds: Bounds,
}

/// Hears how far a load is, in the thread that loads. Several layers can be unpacked at once: the next one can begin
/// before another is done. All methods do nothing unless defined.
pub trait Progress {
    /// Another process is changing the store; this one waits for it. `pid` is the other's, as far as it is known.
    fn waiting(&mut self, pid: Option<u32>) {
        let _ = pid;
    }

    /// A layer is going to be unpacked: the `index`th of `count`, of `bytes_compressed` in the archive.
    fn layer_began(&mut self, index: usize, count: usize, diff_id: &Digest, bytes_compressed: Option<u64>) {
        let _ = (index, count, diff_id, bytes_compressed);
    }

    /// So many bytes more of a layer's `bytes_compressed` have gone through.
    fn layer_advanced(&mut self, diff_id: &Digest, bytes: u64) {
        let _ = diff_id;
        self.advanced(bytes);
    }

    /// So many bytes more have gone through, of whatever is looked through.
    fn advanced(&mut self, bytes: u64) {
        let _ = bytes;
    }

    /// The layer is unpacked.
    fn layer_done(&mut self, diff_id: &Digest) {
        let _ = diff_id;
    }

    /// A layer is in the store already.
    fn layer_present(&mut self, index: usize, count: usize, diff_id: &Digest) {
        let _ = (index, count, diff_id);
    }

    /// All is unpacked and is now being written to disk.
    fn syncing(&mut self) {}
}

/// Hears nothing.
impl Progress for () {}

impl Store {
    /// Opens the store in a folder, making it if there is none.
    ///
    /// # Errors
    /// [`Error::StoreNewer`], [`Error::StoreCorrupt`], [`Error::StoreMissing`], and I/O errors.
    pub fn open(folder: &Path) -> Result<Self> {
        let store = Self { folder: folder.to_owned() };
        match disk::read(&store.version_file())? {
            Some(version) => store.check_version(&version)?,
            None => store.create()?,
        }
        Ok(store)
    }

    /// All images, sorted by name; those without one come last.
    ///
    /// # Errors
    /// [`Error::StoreCorrupt`], [`Error::StoreMissing`], and I/O errors.
    pub fn images(&self) -> Result<Vec<Image>> {
        let tags = self.tags()?;
        let mut images = Vec::new();
        for id in disk::digests_in(&self.images_folder())? {
            images.extend(self.image_of(id, &tags)?);
        }
        images.sort_by_cached_key(|image| (image.names.is_empty(), image.names.first().cloned(), image.id));
        Ok(images)
    }

    /// The image that a reference means: by its name and tag; by the end of its name, if that is one image's alone; by its name alone, if there is a release `latest` or
    /// only one; by the digest of its configuration or manifest; or by the beginning of its id, at least 4 digits.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::AmbiguousImage`], and what [`Store::images`] has.
    pub fn find(&self, reference: &Reference) -> Result<Image> {
        let tags = self.tags()?;
        let reference = &tags.spelled_out(reference);
        let id = self.meant(reference, &tags)?;
        // Gone if somebody has just removed it.
        self.image_of(id, &tags)?.ok_or_else(|| no_image(reference, &tags))
    }

    /// An image's configuration, byte for byte: it may have keys that [`ImageConfiguration`] does not know, such as
    /// Docker's `Healthcheck`.
    ///
    /// # Errors
    /// [`Error::StoreCorrupt`], [`Error::StoreMissing`], and I/O errors.
    pub fn raw_configuration(&self, image: &Image) -> Result<Vec<u8>> {
        let path = self.image_folder(image.id).join("config.json");
        let raw = disk::read(&path)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
        if Digest::of(&raw) != image.id {
            return Err(Error::StoreCorrupt {
                path,
                reason: "its digest is not the one of its folder".to_owned(),
            });
        }
        Ok(raw)
    }

    /// The folders of an image's layers, absolute if the store's is, the **top** one first, as overlayfs wants them.
    pub fn layer_folders(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().rev().map(|layer| self.layer_folder(layer.diff_id).join("root")).collect()
    }

    /// Keeps layers from being removed until the result is dropped. To be held by who builds on an image until it is
    /// on record that the image is in use. Waits while somebody is removing.
    ///
    /// # Errors
    /// I/O errors.
    pub fn hold(&self) -> Result<Held> {
        self.hold_telling(&mut ())
    }

    /// As [`Store::hold`], telling for whom it waits.
    ///
    /// # Errors
    /// As [`Store::hold`].
    pub fn hold_telling(&self, progress: &mut dyn Progress) -> Result<Held> {
        lock::hold_shared(&self.readers_file(), progress)
    }

    fn image_of(&self, id: Digest, tags: &Tags) -> Result<Option<Image>> {
        let folder = self.image_folder(id);
        let Some(record) = ImageRecord::read(&folder)? else {
            return match folder.exists() {
                true => Err(Error::StoreMissing { path: folder.join(ImageRecord::FILE) }),
                false => Ok(None),
            };
        };
        let path = folder.join("config.json");
        let raw = disk::read(&path)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
        let configuration = parse_configuration(&raw)
            .map_err(|error| Error::StoreCorrupt { path, reason: error.to_string() })?;
        let mut layers = Vec::with_capacity(record.layers.len());
        for diff_id in record.layers {
            let folder = self.layer_folder(diff_id);
            let layer = LayerRecord::read(&folder)?;
            let layer = layer.ok_or_else(|| Error::StoreMissing { path: folder.join(LayerRecord::FILE) })?;
            layers.push(Layer { diff_id, bytes: layer.bytes });
        }
        let names = tags.names_of(id);
        let (manifest, loaded_at_ms, committed) = (record.manifest, record.loaded_at_ms, record.committed);
        Ok(Some(Image { id, manifest, names, configuration, layers, loaded_at_ms, committed }))
    }

    /// The id of the image that a reference means.
    fn meant(&self, reference: &Reference, tags: &Tags) -> Result<Digest> {
        if let Some(digest) = reference.digest {
            return self.by_digest(digest)?.ok_or_else(|| no_image(reference, tags));
        }
        let releases = tags.releases_of(&reference.name);
        let by_tag = |wanted: &str| releases.iter().find(|(tag, _)| tag == wanted).map(|(_, id)| *id);
        if let Some(tag) = &reference.tag {
            let is_id = reference.name == "sha256" && releases.is_empty();
            let found =
                by_tag(tag).map(Ok).or_else(|| is_id.then(|| self.by_beginning(tag, reference)).flatten());
            return found.unwrap_or_else(|| Err(no_image(reference, tags)));
        }
        if let Some(latest) = by_tag("latest") {
            return Ok(latest);
        }
        match releases.as_slice() {
            [(_, only)] => Ok(*only),
            [] => {
                let found = self.by_beginning(&reference.name, reference);
                found.unwrap_or_else(|| Err(no_image(reference, tags)))
            }
            several => Err(Error::AmbiguousImage {
                wanted: reference.to_string(),
                have: several.iter().map(|(tag, _)| format!("{}:{tag}", reference.name)).collect(),
            }),
        }
    }

    fn by_digest(&self, digest: Digest) -> Result<Option<Digest>> {
        for id in disk::digests_in(&self.images_folder())? {
            if id == digest {
                return Ok(Some(id));
            }
            let record = ImageRecord::read(&self.image_folder(id))?;
            if record.is_some_and(|record| record.manifest == Some(digest)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The image whose id begins so; nothing if this cannot be meant as an id or no image has such a one.
    fn by_beginning(&self, digits: &str, reference: &Reference) -> Option<Result<Digest>> {
        let is_hex = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || digits.len() < ID_DIGITS_MIN {
            return None;
        }
        let mut fitting = match disk::digests_in(&self.images_folder()) {
            Ok(ids) => ids,
            Err(error) => return Some(Err(error)),
        };
        fitting.retain(|id| id.hex().starts_with(digits));
        match fitting.as_slice() {
            [] => None,
            [only] => Some(Ok(*only)),
            several => Some(Err(Error::AmbiguousImage {
                wanted: reference.to_string(),
                have: several.iter().map(Digest::to_string).collect(),
            })),
        }
    }

    fn check_version(&self, text: &[u8]) -> Result<()> {
        let path = self.version_file();
        let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u32>().ok());
        match number {
            Some(found) if found > VERSION => {
                Err(Error::StoreNewer { path: self.folder.clone(), found, known: VERSION })
            }
            Some(found) if found == VERSION => Ok(()),
            _ => Err(Error::StoreCorrupt { path, reason: "it is not the number of a version".to_owned() }),
        }
    }

    /// Makes the store. The version comes last, since it says that the rest is there.
    fn create(&self) -> Result<()> {
        disk::create_folder(&self.folder, 0o700)?;
        let _changing = lock::change(&self.lock_file(), &mut ())?;
        if let Some(version) = disk::read(&self.version_file())? {
            // Another process was faster.
            return self.check_version(&version);
        }
        if self.layers_folder().exists() && !disk::digests_in(&self.layers_folder())?.is_empty() {
            return Err(Error::StoreMissing { path: self.version_file() });
        }
        for folder in [self.images_folder(), self.layers_folder(), self.tmp_folder()] {
            disk::create_folder(&folder, 0o755)?;
        }
        disk::replace(&self.version_file(), format!("{VERSION}\n").as_bytes())
    }

    fn tags(&self) -> Result<Tags> {
        Tags::read(&self.folder)
    }

    fn version_file(&self) -> PathBuf {
        self.folder.join("version")
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join("lock")
    }

    fn readers_file(&self) -> PathBuf {
        self.folder.join("readers")
    }

    fn tmp_folder(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    fn images_folder(&self) -> PathBuf {
        self.folder.join("images/sha256")
    }

    fn layers_folder(&self) -> PathBuf {
        self.folder.join("layers/sha256")
    }

    fn image_folder(&self, id: Digest) -> PathBuf {
        self.images_folder().join(id.hex())
    }

    fn layer_folder(&self, diff_id: Digest) -> PathBuf {
        self.layers_folder().join(diff_id.hex())
    }
}

fn no_image(reference: &Reference, tags: &Tags) -> Error {
    let have = tags.releases_of(&reference.name).into_iter().map(|(tag, _)| tag).collect();
    Error::NoImage { wanted: reference.to_string(), have }
}
