//! Finds what nobody needs any more, and removes it.
//! Does not know who needs an image; the caller does.

use std::collections::BTreeMap;

use super::records::{ImageRecord, LayerRecord};
use super::{Layer, Progress, Store, disk, lock, stage};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What is not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unneeded {
    /// Images that have no name, and that nobody uses.
    pub images: Vec<Digest>,
    /// Layers that no other image has.
    pub layers: Vec<Layer>,
}

impl Unneeded {
    /// The length of all files that are not needed, in bytes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes))
    }
}

impl Store {
    /// Removes the images that have no name and are not among those that `in_use` gives, and the layers that no image
    /// has then; with `dry_run` it only finds them. Also clears what commands that were killed have left.
    ///
    /// # Errors
    /// [`Error::StoreCorrupt`], [`Error::StoreMissing`], I/O errors, and those of `in_use`; nothing is removed then.
    pub fn prune<E: From<Error>>(
        &self,
        dry_run: bool,
        in_use: impl FnOnce() -> Result<BTreeMap<Digest, String>, E>,
        progress: &mut dyn Progress,
    ) -> Result<Unneeded, E> {
        if dry_run {
            // What is being loaded at this moment may be counted; only the removal itself has to be exact.
            return Ok(self.unneeded(&in_use()?)?);
        }
        let changing = lock::change(&self.lock_file(), progress)?;
        stage::clear(&self.tmp_folder())?;
        // Until nobody is about to use an image without having recorded it.
        let alone = lock::hold_alone(&self.readers_file(), progress)?;
        let unneeded = self.unneeded(&in_use()?)?;
        let tmp = self.tmp_folder();
        for id in &unneeded.images {
            disk::rename(&self.image_folder(*id), &tmp.join(format!("image-{}", id.hex())))?;
        }
        // Before the layers: after a power cut there must be no image without them.
        disk::sync_folder(&self.images_folder())?;
        for layer in &unneeded.layers {
            let name = format!("layer-{}", layer.diff_id.hex());
            disk::rename(&self.layer_folder(layer.diff_id), &tmp.join(name))?;
        }
        disk::sync_folder(&self.layers_folder())?;
        drop(alone);
        stage::clear(&tmp)?;
        drop(changing);
        Ok(unneeded)
    }

    fn unneeded(&self, in_use: &BTreeMap<Digest, String>) -> Result<Unneeded> {
        let tags = self.tags()?;
        let (mut images, mut needed) = (Vec::new(), stage::relied_on(&self.tmp_folder())?);
        for id in disk::digests_in(&self.images_folder())? {
            if tags.names_of(id).is_empty() && !in_use.contains_key(&id) {
                images.push(id);
                continue;
            }
            let folder = self.image_folder(id);
            let record = ImageRecord::read(&folder)?;
            let record =
                record.ok_or_else(|| Error::StoreMissing { path: folder.join(ImageRecord::FILE) })?;
            needed.extend(record.layers);
        }
        let layers = disk::digests_in(&self.layers_folder())?.into_iter();
        let layers = layers.filter(|layer| !needed.contains(layer)).map(|diff_id| {
            // A damaged one is to go as well.
            let record = LayerRecord::read(&self.layer_folder(diff_id)).ok().flatten();
            Layer { diff_id, bytes: record.map_or(0, |record| record.bytes) }
        });
        Ok(Unneeded { images, layers: layers.collect() })
    }
}
