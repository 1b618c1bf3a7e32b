//! The store's own JSON files: which names there are, and what is known of images and layers.
//! Does not make or remove what they tell of.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::commit::Committed;
use super::disk;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::frame::Framed;
use crate::reference::Reference;

/// The version of each of these files.
const VERSION: u32 = 1;

/// What is known of an image beside its configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    version: u32,
    pub(super) id: Digest,
    pub(super) manifest: Option<Digest>,
    /// Diff ids, the bottom one first.
    pub(super) layers: Vec<Digest>,
    pub(super) loaded_at_ms: u64,
    /// What it was made of, if it was not loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<Committed>,
}

impl ImageRecord {
    pub(super) const FILE: &str = "image.json";

    pub(super) fn new(id: Digest, manifest: Option<Digest>, layers: Vec<Digest>, loaded_at_ms: u64) -> Self {
        Self { version: VERSION, id, manifest, layers, loaded_at_ms, committed: None }
    }

    /// The record in an image's folder; nothing if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        parse(&folder.join(Self::FILE))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        disk::write_new(&folder.join(Self::FILE), &json(self))
    }
}

/// What is known of a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    version: u32,
    pub(super) diff_id: Digest,
    /// The length of its files.
    pub(super) bytes: u64,
    entries: u64,
    /// The digest of the list of its files; none if it was unpacked before there were such lists.
    #[serde(default)]
    pub(super) files: Option<Digest>,
    /// Its frame; none if it was unpacked before there were such.
    #[serde(default)]
    pub(super) frame: Option<Framed>,
}

impl LayerRecord {
    pub(super) const FILE: &str = "layer.json";
    /// The list of the layer's files.
    pub(super) const FILES: &str = "files.gz";
    /// What the layer's tar has beside the contents of files.
    pub(super) const FRAME: &str = "frame.gz";

    pub(super) fn new(diff_id: Digest, bytes: u64, entries: u64, files: Digest, frame: Framed) -> Self {
        Self { version: VERSION, diff_id, bytes, entries, files: Some(files), frame: Some(frame) }
    }

    /// The record in a layer's folder; nothing if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        parse(&folder.join(Self::FILE))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        disk::write_new(&folder.join(Self::FILE), &json(self))
    }
}

/// Which image each name means.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tags {
    version: u32,
    tags: BTreeMap<String, Tag>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tag {
    image: Digest,
    /// The name with the registry that it came with: `localhost/keystone:zed`.
    written: String,
}

impl Tags {
    const FILE: &str = "tags.json";

    /// The names in a store; none if it has no list of them yet.
    pub(super) fn read(store: &Path) -> Result<Self> {
        let path = store.join(Self::FILE);
        let tags = parse::<Self>(&path)?.unwrap_or_else(Self::none);
        for (name, tag) in &tags.tags {
            let is_right = tag.written.parse().is_ok_and(|written: Reference| written.to_string() == *name);
            if !is_right {
                return Err(Error::StoreCorrupt {
                    path,
                    reason: format!("{name:?} is not the name of an image"),
                });
            }
        }
        Ok(tags)
    }

    /// Puts these in the place of the store's.
    pub(super) fn replace(&self, store: &Path) -> Result<()> {
        disk::replace(&store.join(Self::FILE), &json(self))
    }

    /// Writes these where [`Tags::commit`] finds them. What can fail for want of space fails here.
    pub(super) fn prepare(&self, folder: &Path) -> Result<()> {
        disk::write_new(&folder.join(Self::FILE), &json(self))
    }

    /// Puts what has been prepared, and brought to disk, in the place of the store's. The folder is not synced.
    pub(super) fn commit(folder: &Path, store: &Path) -> Result<()> {
        disk::rename(&folder.join(Self::FILE), &store.join(Self::FILE))
    }

    /// No names at all.
    pub(super) fn none() -> Self {
        Self { version: VERSION, tags: BTreeMap::new() }
    }

    /// All names and what they mean.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.tags.iter().map(|(name, tag)| (name.as_str(), tag.image))
    }

    /// Takes the names of all other images away.
    pub(super) fn retain(&mut self, keep: impl Fn(Digest) -> bool) {
        self.tags.retain(|_, tag| keep(tag.image));
    }

    pub(super) fn names_of(&self, image: Digest) -> Vec<Reference> {
        let of_image = self.tags.values().filter(|tag| tag.image == image);
        let mut names: Vec<Reference> = of_image.filter_map(|tag| tag.written.parse().ok()).collect();
        names.sort();
        names
    }

    /// The tags that a name has, sorted, and what they mean.
    pub(super) fn releases_of(&self, name: &str) -> Vec<(String, Digest)> {
        let split = self.tags.iter().filter_map(|(full, tag)| Some((full.rsplit_once(':')?, tag.image)));
        split.filter(|((of, _), _)| *of == name).map(|((_, tag), image)| (tag.to_owned(), image)).collect()
    }

    /// A name without its registry as the whole one, `r.example/os/keystone:zed` for `keystone:zed`, if nothing is
    /// called just so and only one name ends so.
    pub(super) fn spelled_out(&self, reference: &Reference) -> Reference {
        let (short, tag) = (&reference.name, reference.tag.as_deref());
        let is_whole = short.is_empty() || reference.digest.is_some() || !self.releases_of(short).is_empty();
        let ends = |name: &str| name.strip_suffix(short.as_str()).is_some_and(|rest| rest.ends_with('/'));
        let split = self.tags.keys().filter_map(|full| full.rsplit_once(':'));
        let fitting = split.filter(|(name, known)| ends(name) && tag.is_none_or(|tag| tag == *known));
        let mut names: Vec<&str> = fitting.map(|(name, _)| name).collect();
        names.dedup();
        match names[..] {
            [only] if !is_whole => match tag {
                Some(tag) => Reference::tagged(only, tag),
                None => only.parse(),
            }
            .unwrap_or_else(|_| reference.clone()),
            _ => reference.clone(),
        }
    }

    /// Lets a name mean an image from now on.
    pub(super) fn insert(&mut self, name: &Reference, image: Digest) {
        self.tags.insert(name.to_string(), Tag { image, written: name.written() });
    }

    pub(super) fn remove(&mut self, name: &Reference) {
        self.tags.remove(&name.to_string());
    }
}

/// OK because records have neither maps with other keys than text nor anything else that JSON lacks.
fn json(record: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(record).expect("records can be written as JSON");
    text.push(b'\n');
    text
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A record; nothing if the file is not there. Missing, newer and corrupt are three different things.
fn parse<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = disk::read(path)? else { return Ok(None) };
    let corrupt =
        |error: serde_json::Error| Error::StoreCorrupt { path: path.to_owned(), reason: error.to_string() };
    let found = serde_json::from_slice::<Versioned>(&text).map_err(corrupt)?.version;
    if found > VERSION {
        return Err(Error::StoreNewer { path: path.to_owned(), found, known: VERSION });
    }
    serde_json::from_slice(&text).map(Some).map_err(corrupt)
}
