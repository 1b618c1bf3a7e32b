//! Makes a new image of one in the store and what a container has changed over it: one more layer.
//! Does not know which container, nor whether it runs.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::load::Work;
use super::{Bounds, Image, Progress, Store, disk, lock, stage};
use crate::archive::{self, Blob, FileRange, Found, FoundLayer};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::layer::changes;
use crate::layer::compression::Compression;
use crate::reference::Reference;
use crate::rootfs::RootView;

/// What a container has changed, as a layer.
#[derive(Debug)]
pub struct Changes {
    tar: File,
    diff_id: Digest,
    /// How many entries the layer has.
    pub entries: u64,
    /// How many sockets were left out, which no layer can hold.
    pub sockets: u64,
}

/// What a commit says of itself.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// The new image's name; `latest` if without tag.
    pub name: Reference,
    /// The service whose container it is.
    pub service: String,
    /// Now, by RFC 3339.
    pub created: String,
    /// Who made it.
    pub author: Option<String>,
    /// What for.
    pub message: Option<String>,
}

/// Where an image comes from that was not built but made of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The service whose container it was.
    pub service: String,
    /// The image that the container ran.
    pub image: Digest,
    /// What that was called.
    pub name: String,
}

impl Store {
    /// Reads what a container of the image has changed: `upper` is the folder that its writes go to. What was made in
    /// there only for something to be mounted on `mount_points` is no change.
    ///
    /// # Errors
    /// [`Error::NotForLayer`], [`Error::NoOverlay`], and I/O errors.
    pub fn changes(&self, image: &Image, upper: &Path, mount_points: &[PathBuf]) -> Result<Changes> {
        let base = RootView::open(self, image)?;
        let upper = disk::open_folder(upper)?;
        let kept = |error| Error::io("keep what the container has changed in the store", error);
        let tmp = disk::open_folder(&self.tmp_folder())?;
        let file = File::from(archive::nameless(tmp.as_fd()).map_err(kept)?);
        let mut out = BufWriter::with_capacity(256 << 10, Hashing::new(file.try_clone().map_err(kept)?));
        let written = changes::write(&upper, &base, mount_points, &tmp, &mut out)?;
        out.flush().map_err(kept)?;
        let (diff_id, _) = out.into_inner().map_err(|error| kept(error.into_error()))?.finish();
        Ok(Changes { tar: file, diff_id, entries: written.entries, sockets: written.sockets })
    }

    /// Takes an image into the store that consists of another one and the changes. Waits while another process changes
    /// the store.
    ///
    /// # Errors
    /// What [`Store::load`] has for layers and the store; nothing is left behind then.
    pub fn commit(
        &self,
        image: &Image,
        changes: Changes,
        options: &CommitOptions,
        progress: &mut dyn Progress,
    ) -> Result<Image> {
        if options.name.digest.is_some() {
            let reason = "a digest cannot be given to an image";
            return Err(Error::InvalidReference { text: options.name.to_string(), reason });
        }
        let name = options.name.clone().with_tag_or("latest");
        let raw = configuration(&self.raw_configuration(image)?, image, changes.diff_id, options)?;
        let id = Digest::of(&raw);
        let found = self.found(image, id, raw, changes)?;
        let changing = lock::change(&self.lock_file(), progress)?;
        let tmp = self.tmp_folder();
        stage::clear(&tmp)?;
        let committed = Committed { service: options.service.clone(), image: image.id, name: image.title() };
        // All of it must still be there, and stays while this holds the lock.
        let result = self.image_of(image.id, &self.tags()?).and_then(|there| match there {
            None => Err(Error::NoImage { wanted: image.title(), have: Vec::new() }),
            Some(_) => {
                let mut work = Work::new(self, &tmp);
                work.committed = Some(committed);
                work.take_in(&[found], &[vec![name]], Bounds::none(), progress)
            }
        });
        // OK to fail: as after a load.
        let _ = stage::clear(&tmp);
        result?;
        let missing = || Error::StoreMissing { path: self.image_folder(id) };
        let image = self.image_of(id, &self.tags()?)?.ok_or_else(missing);
        // Not before it is looked at: who waits for the lock can be about to remove it.
        drop(changing);
        image
    }

    /// The new image as if it had been found in an archive, in which only its last layer is.
    fn found(
        &self,
        image: &Image,
        id: Digest,
        raw_configuration: Vec<u8>,
        changes: Changes,
    ) -> Result<Found> {
        let kept = |error| Error::io("read what the container has changed", error);
        let mut tar = changes.tar;
        tar.rewind().map_err(kept)?;
        let whole = FileRange::rest_of(Arc::new(tar)).map_err(kept)?;
        let layer = |diff_id: Digest, blob: FileRange| FoundLayer {
            title: format!("the layer {diff_id}"),
            diff_id,
            digest: None,
            compression: Some(Compression::Plain),
            blob: Blob::Range(blob),
        };
        let mut layers: Vec<FoundLayer> =
            image.layers.iter().map(|below| layer(below.diff_id, whole.part(0, 0))).collect();
        layers.push(layer(changes.diff_id, whole));
        Ok(Found { names: Vec::new(), bare_tag: None, id, manifest: None, raw_configuration, layers })
    }
}

/// The image's configuration with one layer more. Keys that are not known here stay as they are.
fn configuration(raw: &[u8], image: &Image, diff_id: Digest, options: &CommitOptions) -> Result<Vec<u8>> {
    let corrupt = || Error::StoreCorrupt {
        path: PathBuf::from(format!("images/sha256/{}/config.json", image.id.hex())),
        reason: "it is no configuration of an image".to_owned(),
    };
    let mut all: Map<String, Value> = serde_json::from_slice(raw).map_err(|_| corrupt())?;
    let diff_ids = all.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"));
    let diff_ids = diff_ids.and_then(Value::as_array_mut).ok_or_else(corrupt)?;
    diff_ids.push(json!(diff_id.to_string()));
    let mut entry =
        json!({ "created": options.created, "created_by": format!("opsrun commit {}", options.service) });
    if let Some(author) = &options.author {
        entry["author"] = json!(author);
        all.insert("author".to_owned(), json!(author));
    }
    if let Some(message) = &options.message {
        entry["comment"] = json!(message);
    }
    all.insert("created".to_owned(), json!(options.created));
    match all.get_mut("history") {
        Some(Value::Array(history)) => history.push(entry),
        _ => drop(all.insert("history".to_owned(), json!([entry]))),
    }
    Ok(Value::Object(all).to_string().into_bytes())
}
