//! Takes names, images and layers out of the store.
//! Does not know who uses an image; the caller does.

use super::records::{ImageRecord, LayerRecord};
use super::{Progress, Store, disk, lock, stage};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// What a removal took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The image that was meant.
    pub image: Digest,
    /// The names that it lost.
    pub untagged: Vec<Reference>,
    /// Whether the image itself is gone; it stays while it has another name.
    pub is_gone: bool,
    /// How many layers went with it, those that no other image needs.
    pub layers: usize,
    /// The length of the files in these layers, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Takes a name away, and with its last name the image and the layers that no other image needs. By an id all of
    /// its names go. `in_use` tells for an image who uses it; such a one keeps its last name.
    ///
    /// # Errors
    /// [`Error::ImageInUse`], and those of [`Store::find`].
    pub fn remove(
        &self,
        reference: &Reference,
        in_use: &dyn Fn(&Digest) -> Option<String>,
    ) -> Result<Removed> {
        self.remove_telling(reference, in_use, &mut ())
    }

    /// As [`Store::remove`], telling for whom it waits.
    ///
    /// # Errors
    /// As [`Store::remove`].
    pub fn remove_telling(
        &self,
        reference: &Reference,
        in_use: &dyn Fn(&Digest) -> Option<String>,
        progress: &mut dyn Progress,
    ) -> Result<Removed> {
        let changing = lock::change(&self.lock_file(), progress)?;
        stage::clear(&self.tmp_folder())?;
        // Until nobody is about to use an image without having recorded it.
        let alone = lock::hold_alone(&self.readers_file(), progress)?;
        let mut tags = self.tags()?;
        let reference = &tags.spelled_out(reference);
        let image = self.meant(reference, &tags)?;
        let names = tags.names_of(image);
        let untagged = match reference.digest {
            None if !reference.name.is_empty() => names_meant(reference, &names),
            _ => names.clone(),
        };
        let is_gone = untagged.len() == names.len();
        if is_gone && let Some(by) = in_use(&image) {
            return Err(Error::ImageInUse { image: reference.to_string(), by });
        }
        // Found out before anything changes, since it can fail.
        let unneeded = if is_gone { self.layers_without(image)? } else { Vec::new() };
        untagged.iter().for_each(|name| tags.remove(name));
        tags.replace(&self.folder)?;
        let (layers, bytes) = if is_gone { self.discard(image, &unneeded)? } else { (0, 0) };
        drop(alone);
        // The slow part; what is in there is out of the store already, and if this ends early the next one goes on.
        stage::clear(&self.tmp_folder())?;
        drop(changing);
        Ok(Removed { image, untagged, is_gone, layers, bytes })
    }

    /// The layers that nobody needs but this image, and how many bytes they have.
    fn layers_without(&self, image: Digest) -> Result<Vec<(Digest, u64)>> {
        let mut needed = stage::relied_on(&self.tmp_folder())?;
        for id in disk::digests_in(&self.images_folder())?.into_iter().filter(|id| *id != image) {
            let folder = self.image_folder(id);
            let record = ImageRecord::read(&folder)?;
            let record =
                record.ok_or_else(|| Error::StoreMissing { path: folder.join(ImageRecord::FILE) })?;
            needed.extend(record.layers);
        }
        let layers = disk::digests_in(&self.layers_folder())?;
        let unneeded = layers.into_iter().filter(|layer| !needed.contains(layer));
        unneeded
            .map(|layer| {
                // A damaged one is to go as well.
                let record = LayerRecord::read(&self.layer_folder(layer)).ok().flatten();
                Ok((layer, record.map_or(0, |record| record.bytes)))
            })
            .collect()
    }

    /// Moves an image and layers out of the store, to be removed.
    fn discard(&self, image: Digest, layers: &[(Digest, u64)]) -> Result<(usize, u64)> {
        let tmp = self.tmp_folder();
        disk::rename(&self.image_folder(image), &tmp.join(format!("image-{}", image.hex())))?;
        disk::sync_folder(&self.images_folder())?;
        let mut bytes = 0;
        for (layer, layer_bytes) in layers {
            disk::rename(&self.layer_folder(*layer), &tmp.join(format!("layer-{}", layer.hex())))?;
            bytes = layer_bytes.saturating_add(bytes);
        }
        disk::sync_folder(&self.layers_folder())?;
        Ok((layers.len(), bytes))
    }
}

/// Which of an image's names a reference without a digest means; all, if it is the beginning of the image's id.
fn names_meant(reference: &Reference, names: &[Reference]) -> Vec<Reference> {
    let of_name: Vec<&Reference> = names.iter().filter(|name| name.name == reference.name).collect();
    let meant =
        |tag: &str| of_name.iter().find(|name| name.tag.as_deref() == Some(tag)).map(|name| (*name).clone());
    let by_tag = meant(reference.tag.as_deref().unwrap_or("latest"));
    match (by_tag, of_name.as_slice()) {
        (Some(name), _) => vec![name],
        (None, [only]) => vec![(*only).clone()],
        _ => names.to_vec(),
    }
}
