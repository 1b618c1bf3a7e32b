//! Takes the images of an archive into the store: all of them, or on any error none, with nothing left behind.
//! Does not know what layers and archives look like inside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::commit::Committed;
use super::records::{ImageRecord, LayerRecord, Tags};
use super::stage::{self, Stage};
use super::unpack::{self, Job};
use super::{Bounds, Image, LoadOptions, Progress, Store, disk, lock};
use crate::archive::{self, Findings, Found, Platform, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;
#[cfg(not(fuzzing))]
use crate::registry::{self, Conversation, Registries};

impl Store {
    /// Loads all images of an archive, a layout folder or standard input, for one platform. Each blob's digest and
    /// each layer's diff id is checked. Waits while another process changes the store.
    ///
    /// # Errors
    /// Nearly all that [`Error`] has for archives, layers and the store; nothing is left behind then.
    pub fn load(
        &self,
        source: &Source,
        options: &LoadOptions,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Image>> {
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        // Standard input may be slow, so it is read before others have to wait.
        let tmp = self.tmp_folder();
        let findings = archive::find(source, &platform, disk::open_folder(&tmp)?, options.bounds)?;
        let names = names(&findings, options)?;
        self.take(&findings.images, &names, options.bounds, progress)
    }

    /// Pulls one image from a registry, for one platform. Everything is checked as when it comes from a file; a layer
    /// that is here already is not asked for. An image that is pulled by its digest alone gets no name.
    ///
    /// # Errors
    /// Those that [`Error`] has for registries, and those of [`Store::load`]; nothing is left behind then.
    #[cfg(not(fuzzing))]
    pub fn pull(
        &self,
        registries: &Registries,
        reference: &Reference,
        options: &LoadOptions,
        conversation: &Conversation,
        progress: &mut dyn Progress,
    ) -> Result<Image> {
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let located = registries.locate(reference)?;
        let known = |id: Digest| {
            let raw = disk::read(&self.image_folder(id).join("config.json")).ok().flatten()?;
            (Digest::of(&raw) == id).then_some(raw)
        };
        let stopped = |error| if conversation.is_stopped() { Error::Interrupted } else { error };
        let found = registry::find(registries, &located, &platform, conversation, &known).map_err(stopped)?;
        let names = match &options.tag {
            Some(tag) if tag.digest.is_some() => {
                let reason = "a digest cannot be given to an image";
                return Err(Error::InvalidReference { text: tag.to_string(), reason });
            }
            Some(tag) => vec![tag.clone().with_tag_or("latest")],
            None => found.names.clone(),
        };
        let stage = Stage::new(&self.tmp_folder())?;
        let result = self.take_slowly(&stage, &found, &names, options.bounds, progress);
        // Whatever became of it. OK to fail: as after a load.
        let _ = stage.remove();
        result.map_err(stopped)
    }

    /// Takes an image in that comes from afar: nobody has to wait until all of it is here. Nobody keeps the layers
    /// either that it shares with images in the store; one that was taken out meanwhile is got as well.
    fn take_slowly(
        &self,
        stage: &Stage,
        found: &Found,
        names: &[Reference],
        bounds: Bounds,
        progress: &mut dyn Progress,
    ) -> Result<Image> {
        stage.rely_on(found.layers.iter().map(|layer| layer.diff_id))?;
        let mut work = Work::new(self, stage.folder());
        let found = std::slice::from_ref(found);
        loop {
            work.unpack(found, bounds, progress)?;
            progress.syncing();
            disk::sync_all(stage.folder())?;
            let changing = lock::change(&self.lock_file(), progress)?;
            stage::clear(&self.tmp_folder())?;
            if work.lacks_any(found)? {
                continue;
            }
            work.put_in(found, &[names.to_vec()])?;
            let missing = || Error::StoreMissing { path: self.image_folder(found[0].id) };
            let image = self.image_of(found[0].id, &self.tags()?)?.ok_or_else(missing);
            // Not before it is looked at: who waits for the lock can be about to remove it.
            drop(changing);
            return image;
        }
    }

    /// Takes images in under their names.
    fn take(
        &self,
        found: &[Found],
        names: &[Vec<Reference>],
        bounds: Bounds,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Image>> {
        let tmp = self.tmp_folder();
        let changing = lock::change(&self.lock_file(), progress)?;
        stage::clear(&tmp)?;
        let mut work = Work::new(self, &tmp);
        let result = work.take_in(found, names, bounds, progress);
        // Whatever became of it. OK to fail: what is left there is nobody's, and the next who changes the store removes it.
        let _ = stage::clear(&tmp);
        result?;
        let tags = self.tags()?;
        let ids = found.iter().map(|found| found.id);
        let images = ids.map(|id| {
            let missing = || Error::StoreMissing { path: self.image_folder(id) };
            self.image_of(id, &tags)?.ok_or_else(missing)
        });
        let images = images.collect();
        // Not before they are looked at: who waits for the lock can be about to remove them.
        drop(changing);
        images
    }
}

/// The names that the images are to have.
fn names(findings: &Findings, options: &LoadOptions) -> Result<Vec<Vec<Reference>>> {
    let (origin, images) = (findings.origin.clone(), findings.images.len());
    if let Some(tag) = &options.tag {
        if images > 1 {
            return Err(Error::NameForSeveral { origin, images });
        }
        if tag.digest.is_some() {
            let reason = "a digest cannot be given to an image";
            return Err(Error::InvalidReference { text: tag.to_string(), reason });
        }
        return Ok(vec![vec![tag.clone().with_tag_or("latest")]]);
    }
    if let Some(unnamed) = findings.images.iter().find(|image| image.names.is_empty()) {
        return Err(Error::Unnamed { origin, tag: unnamed.bare_tag.clone(), images });
    }
    Ok(findings.images.iter().map(|image| image.names.clone()).collect())
}

/// What a load has made aside so far.
pub(super) struct Work<'a> {
    store: &'a Store,
    folder: PathBuf,
    layers: Vec<Digest>,
    images: Vec<Digest>,
    /// What the images are made of, if they do not come from an archive.
    pub(super) committed: Option<Committed>,
}

impl<'a> Work<'a> {
    /// In the folder `load` of another one.
    pub(super) fn new(store: &'a Store, folder: &Path) -> Self {
        let folder = folder.join("load");
        Self { store, folder, layers: vec![], images: vec![], committed: None }
    }

    pub(super) fn take_in(
        &mut self,
        found: &[Found],
        names: &[Vec<Reference>],
        bounds: Bounds,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.unpack(found, bounds, progress)?;
        progress.syncing();
        self.put_in(found, names)
    }

    /// Unpacks the layers that neither the store nor this has.
    fn unpack(&mut self, found: &[Found], bounds: Bounds, progress: &mut dyn Progress) -> Result<()> {
        for folder in [self.layers_folder(), self.images_folder(), self.folder.join("trash")] {
            disk::create_folder(&folder, 0o755)?;
        }
        let count = found.iter().map(|image| image.layers.len()).sum();
        let layers = found.iter().flat_map(|image| &image.layers);
        let mut jobs: Vec<Job> = Vec::new();
        for (index, layer) in layers.enumerate() {
            if self.layers.contains(&layer.diff_id) || self.is_present(layer.diff_id)? {
                progress.layer_present(index, count, &layer.diff_id);
                continue;
            }
            self.layers.push(layer.diff_id);
            jobs.push(Job { index, layer });
        }
        unpack::all(&jobs, count, &self.folder, bounds, progress)
    }

    /// Whether a layer is neither in the store nor here.
    fn lacks_any(&self, found: &[Found]) -> Result<bool> {
        for layer in found.iter().flat_map(|image| &image.layers) {
            if !self.layers.contains(&layer.diff_id) && !self.is_present(layer.diff_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts what was unpacked into the store, and the images under their names. The caller has the store's lock.
    fn put_in(&mut self, found: &[Found], names: &[Vec<Reference>]) -> Result<()> {
        // Who unpacked without the lock was not alone: the other's are as good.
        for layer in std::mem::take(&mut self.layers) {
            if !self.is_present(layer)? {
                self.layers.push(layer);
            }
        }
        let mut tags = self.store.tags()?;
        for (image, names) in found.iter().zip(names) {
            self.describe(image)?;
            names.iter().for_each(|name| tags.insert(name, image.id));
        }
        tags.prepare(&self.folder)?;
        disk::sync_all(&self.folder)?;
        self.put_in_place()
    }

    /// Writes down an image, unless that has been done.
    fn describe(&mut self, found: &Found) -> Result<()> {
        if self.images.contains(&found.id) || ImageRecord::read(&self.store.image_folder(found.id))?.is_some()
        {
            return Ok(());
        }
        let folder = self.images_folder().join(found.id.hex());
        disk::create_folder(&folder, 0o755)?;
        disk::write_new(&folder.join("config.json"), &found.raw_configuration)?;
        let layers = found.layers.iter().map(|layer| layer.diff_id).collect();
        let mut record = ImageRecord::new(found.id, found.manifest, layers, now_ms());
        record.committed.clone_from(&self.committed);
        record.write(&folder)?;
        self.images.push(found.id);
        Ok(())
    }

    /// Renames all to where it belongs: layers first, so that there is never an image without them, names last.
    fn put_in_place(&self) -> Result<()> {
        let mut moved = Vec::new();
        let result = self.rename_all(&mut moved);
        if result.is_err() {
            for (from, to) in moved.iter().rev() {
                // OK to fail: a layer or image that nobody calls by name is whole, and the next removal takes it away.
                let _ = disk::rename(to, from);
            }
            return result;
        }
        // The names are in their place and the image is loaded: taking it back now would leave a name without an image.
        disk::sync_folder(&self.store.folder)
    }

    fn rename_all(&self, moved: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
        let groups = [
            (self.layers_folder(), self.store.layers_folder(), &self.layers),
            (self.images_folder(), self.store.images_folder(), &self.images),
        ];
        for (from, to, digests) in groups {
            for digest in digests.iter().collect::<BTreeSet<_>>() {
                let (from, to) = (from.join(digest.hex()), to.join(digest.hex()));
                disk::rename(&from, &to)?;
                moved.push((from, to));
            }
            disk::sync_folder(&to)?;
        }
        Tags::commit(&self.folder, &self.store.folder)
    }

    fn is_present(&self, diff_id: Digest) -> Result<bool> {
        let folder = self.store.layer_folder(diff_id);
        match LayerRecord::read(&folder)? {
            Some(_) => Ok(true),
            None if folder.exists() => Err(Error::StoreMissing { path: folder.join(LayerRecord::FILE) }),
            None => Ok(false),
        }
    }

    fn layers_folder(&self) -> PathBuf {
        self.folder.join("layers")
    }

    fn images_folder(&self) -> PathBuf {
        self.folder.join("images")
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
