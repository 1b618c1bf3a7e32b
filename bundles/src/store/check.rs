//! Holds all that is in the store against what was written down when it was put there, and takes out what is broken.
//! Does not know what runs; who repairs says which images nobody may touch.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::records::{ImageRecord, LayerRecord, Tags};
use super::{Progress, Store, disk, lock, stage};
use crate::archive::parse_configuration;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::inventory::{self, Content, Inventory, Seen};

/// So many files of a layer are named; who changes one usually changes many.
pub const FILES_NAMED_MAX: usize = 20;

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many images there are.
    pub images: usize,
    /// How many layers there are.
    pub layers: usize,
    /// How many files were compared.
    pub files: u64,
    /// How many bytes were read for that.
    pub bytes: u64,
    /// What is broken.
    pub broken: Vec<Broken>,
}

/// Something that is not as it was put into the store.
#[derive(Debug)]
pub struct Broken {
    /// What.
    pub subject: Subject,
    /// What is wrong with the whole of it, if something is.
    pub reason: Option<String>,
    /// Files that are wrong, at most [`FILES_NAMED_MAX`].
    pub files: Vec<(Difference, String)>,
    /// How many more there are.
    pub files_unnamed: u64,
    /// The images that cannot be relied on for this, as messages call them.
    pub images: Vec<String>,
    /// What a repair did about it.
    pub repair: Repair,
}

/// What can be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The list of names, or one name in it.
    Names,
    /// An image's records.
    Image(Digest),
    /// A layer: its records or its files.
    Layer(Digest),
    /// Something that opsrun did not put there.
    Stranger(OsString),
}

/// How a file differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is another one, in these respects.
    Changed(Vec<&'static str>),
    /// It is gone.
    Missing,
    /// It was not there.
    Extra,
    /// It cannot be read any more.
    Unreadable(String),
}

/// What became of something broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It was not asked for.
    None,
    /// It is out of the store; what is lost is brought back by loading the images again.
    Removed,
    /// This uses it, so it was left.
    InUse(String),
}

impl Store {
    /// Checks everything in the store, changing nothing. Nobody can remove anything meanwhile.
    ///
    /// # Errors
    /// Only what keeps it from checking; what it finds is in the result.
    pub fn check(&self, progress: &mut dyn Progress) -> Result<Checked> {
        let _held = self.hold_telling(progress)?;
        self.look_through(progress)
    }

    /// Checks as [`Store::check`] does, and takes out what is broken, with the images that need it. `running` gives the
    /// images that something runs from now, and what that is; these and their layers are left.
    ///
    /// # Errors
    /// As [`Store::check`], and those of `running`.
    pub fn repair<E: From<Error>>(
        &self,
        running: impl FnOnce() -> Result<BTreeMap<Digest, String>, E>,
        progress: &mut dyn Progress,
    ) -> Result<Checked, E> {
        let changing = lock::change(&self.lock_file(), progress)?;
        let mut checked = self.look_through(progress)?;
        if !checked.broken.is_empty() {
            let alone = lock::hold_alone(&self.readers_file(), progress)?;
            let running = running()?;
            self.take_out(&mut checked.broken, &running)?;
            drop(alone);
            stage::clear(&self.tmp_folder())?;
        }
        drop(changing);
        Ok(checked)
    }

    fn look_through(&self, progress: &mut dyn Progress) -> Result<Checked> {
        let mut checked = Checked::default();
        // Images first: one that is loaded meanwhile brings its layers before itself.
        let (images, strangers) = named_by_digest(&self.images_folder())?;
        checked.broken.extend(strangers);
        let (layers, strangers) = named_by_digest(&self.layers_folder())?;
        checked.broken.extend(strangers);
        (checked.images, checked.layers) = (images.len(), layers.len());
        let titles = self.check_names(&images, &mut checked.broken);
        let title = |id: Digest| titles.get(&id).cloned().unwrap_or_else(|| id.to_string());

        let mut needed_by: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for &id in &images {
            match self.check_image(id) {
                Ok(needed) => needed.into_iter().for_each(|layer| {
                    needed_by.entry(layer).or_default().push(title(id));
                }),
                Err(error) => {
                    checked.broken.push(Broken::whole(Subject::Image(id), chain(&error), vec![title(id)]));
                }
            }
        }
        for (index, &diff_id) in layers.iter().enumerate() {
            progress.layer_began(index, layers.len(), &diff_id, None);
            let images = needed_by.remove(&diff_id).unwrap_or_default();
            let mut broken = Broken { images, ..Broken::of(Subject::Layer(diff_id)) };
            if let Err(error) = self.check_layer(diff_id, &mut broken, &mut checked, progress) {
                broken.reason = Some(chain(&error));
            }
            if broken.reason.is_some() || !broken.files.is_empty() {
                checked.broken.push(broken);
            }
            progress.layer_done(&diff_id);
        }
        for (diff_id, images) in needed_by {
            let reason = "it is missing".to_owned();
            checked.broken.push(Broken::whole(Subject::Layer(diff_id), reason, images));
        }
        Ok(checked)
    }

    /// Whether an image and its layers are there, with records that make sense; the layers' files are not looked at. How many
    /// layers it has.
    ///
    /// # Errors
    /// [`Error::StoreMissing`] and [`Error::StoreCorrupt`], naming the file.
    pub fn look_at(&self, id: Digest) -> Result<usize> {
        let layers = self.check_image(id)?;
        for &layer in &layers {
            let folder = self.layer_folder(layer);
            let path = folder.join(LayerRecord::FILE);
            let record =
                LayerRecord::read(&folder)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
            if record.diff_id != layer {
                return Err(Error::StoreCorrupt {
                    path,
                    reason: "it is not the one of this layer".to_owned(),
                });
            }
            let root = folder.join("root");
            if !root.is_dir() {
                return Err(Error::StoreMissing { path: root });
            }
        }
        Ok(layers.len())
    }

    /// What messages call each image.
    fn check_names(&self, images: &[Digest], broken: &mut Vec<Broken>) -> BTreeMap<Digest, String> {
        let tags = match self.tags() {
            Ok(tags) => tags,
            Err(error) => {
                broken.push(Broken::whole(Subject::Names, chain(&error), Vec::new()));
                return BTreeMap::new();
            }
        };
        for (name, image) in tags.iter() {
            if !images.contains(&image) {
                let reason = format!("{name} means the image {image}, which is missing");
                broken.push(Broken::whole(Subject::Names, reason, vec![name.to_owned()]));
            }
        }
        let named = images.iter().filter_map(|&id| Some((id, tags.names_of(id).first()?.to_string())));
        named.collect()
    }

    /// The layers that an image needs.
    fn check_image(&self, id: Digest) -> Result<Vec<Digest>> {
        let folder = self.image_folder(id);
        let record = ImageRecord::read(&folder)?;
        let record = record.ok_or_else(|| Error::StoreMissing { path: folder.join(ImageRecord::FILE) })?;
        let path = folder.join("config.json");
        let raw = disk::read(&path)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
        let corrupt = |path, reason: &str| Error::StoreCorrupt { path, reason: reason.to_owned() };
        if Digest::of(&raw) != id {
            return Err(corrupt(path, "its digest is not the one of its folder"));
        }
        let configuration = parse_configuration(&raw)
            .map_err(|error| Error::StoreCorrupt { path, reason: error.to_string() })?;
        let diff_ids = configuration.rootfs().diff_ids().iter().map(|text| text.parse());
        if record.id != id || diff_ids.collect::<Result<Vec<Digest>>>()? != record.layers {
            return Err(corrupt(folder.join(ImageRecord::FILE), "it is not the one of this image"));
        }
        Ok(record.layers)
    }

    fn check_layer(
        &self,
        diff_id: Digest,
        broken: &mut Broken,
        checked: &mut Checked,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let folder = self.layer_folder(diff_id);
        let record = LayerRecord::read(&folder)?;
        let record = record.ok_or_else(|| Error::StoreMissing { path: folder.join(LayerRecord::FILE) })?;
        let path = folder.join(LayerRecord::FILES);
        let expected = record.files.filter(|_| record.diff_id == diff_id);
        let Some(expected) = expected else {
            let reason = "it does not say what files this layer has".to_owned();
            return Err(Error::StoreCorrupt { path: folder.join(LayerRecord::FILE), reason });
        };
        let list = disk::read(&path)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
        if Digest::of(&list) != expected {
            let reason = "its digest is not the one in layer.json".to_owned();
            return Err(Error::StoreCorrupt { path, reason });
        }
        drop(list);
        check_frame(&folder, record.frame.map(|frame| frame.digest))?;
        let unread = |error| Error::io(format!("read {}", path.display()), error);
        let mut inventory = File::open(&path).and_then(Inventory::open).map_err(unread)?;
        let mut recorded = inventory.next().map_err(unread)?;
        let (root, aside) =
            (disk::open_folder(&folder.join("root"))?, disk::open_folder(&self.tmp_folder())?);
        let walked = inventory::walk(root, aside, |place, mut found| {
            // Whatever comes before this one in the list was not met.
            while let Some(missing) = recorded.take_if(|it| it.order(&found).is_lt()) {
                broken.note(Difference::Missing, &missing);
                recorded = inventory.next()?;
            }
            let Some(expected) = recorded.take_if(|it| it.path == found.path) else {
                broken.note(Difference::Extra, &found);
                return Ok(());
            };
            recorded = inventory.next()?;
            checked.files += 1;
            // Of another length it is another one anyway.
            let is_read = found.is_file() && found.same_as.is_none() && found.bytes == expected.bytes;
            if is_read && expected.content.is_some() {
                let content = match expected.content {
                    Some(Content::Sparse(_)) => inventory::read_sparse(place),
                    _ => inventory::read_plain(place),
                };
                match content {
                    Ok(content) => found.content = Some(content),
                    Err(error) => {
                        broken.note(Difference::Unreadable(error.to_string()), &found);
                        return Ok(());
                    }
                }
                checked.bytes = checked.bytes.saturating_add(found.bytes);
                progress.advanced(found.bytes);
            }
            let differences = expected.differences(&found);
            if !differences.is_empty() {
                broken.note(Difference::Changed(differences), &found);
            }
            Ok(())
        });
        walked.map_err(|error| Error::io(format!("look through {}", folder.display()), error))?;
        while let Some(missing) = recorded {
            broken.note(Difference::Missing, &missing);
            recorded = inventory.next().map_err(unread)?;
        }
        Ok(())
    }

    /// Takes out what is broken, and what relies on it; names first, so that there is never a name without its image.
    fn take_out(&self, broken: &mut [Broken], running: &BTreeMap<Digest, String>) -> Result<()> {
        let out = self.what_goes(broken, running)?;
        let mut tags = match self.tags() {
            Ok(tags) => tags,
            // Of a list that makes no sense nothing can be kept.
            Err(_) => Tags::none(),
        };
        let kept: BTreeSet<Digest> = named_by_digest(&self.images_folder())?.0.into_iter().collect();
        tags.retain(|image| kept.contains(&image) && !out.contains(&Subject::Image(image)));
        tags.replace(&self.folder)?;
        let tmp = self.tmp_folder();
        let (images, layers) = (self.images_folder(), self.layers_folder());
        for subject in &out {
            match subject {
                Subject::Names => {}
                Subject::Image(id) => {
                    disk::rename(&self.image_folder(*id), &tmp.join(format!("image-{}", id.hex())))?;
                }
                // One that is missing is broken, too.
                Subject::Layer(id) if !self.layer_folder(*id).exists() => {}
                Subject::Layer(id) => {
                    disk::rename(&self.layer_folder(*id), &tmp.join(format!("layer-{}", id.hex())))?;
                }
                Subject::Stranger(name) => {
                    let there = [&images, &layers].map(|folder| folder.join(name));
                    for path in there.iter().filter(|path| path.symlink_metadata().is_ok()) {
                        let aside =
                            tmp.join(format!("stranger-{}", Digest::of(path.as_os_str().as_bytes()).hex()));
                        disk::rename(path, &aside)?;
                    }
                }
            }
        }
        disk::sync_folder(&images)?;
        disk::sync_folder(&layers)
    }

    /// All that is to be taken out; says of each broken thing whether it is.
    fn what_goes(&self, broken: &mut [Broken], running: &BTreeMap<Digest, String>) -> Result<Vec<Subject>> {
        // What runs, and from which layers; nothing if that is not known any more.
        let mut from: BTreeMap<Digest, String> = BTreeMap::new();
        let mut unknown = None;
        for (id, by) in running {
            match ImageRecord::read(&self.image_folder(*id)) {
                Ok(Some(record)) => from.extend(record.layers.into_iter().map(|layer| (layer, by.clone()))),
                _ => unknown = Some(by.clone()),
            }
        }
        let mut out = Vec::new();
        for it in &mut *broken {
            let user = match &it.subject {
                Subject::Layer(layer) => from.get(layer).or(unknown.as_ref()),
                Subject::Image(id) => running.get(id),
                Subject::Names | Subject::Stranger(_) => None,
            };
            match user {
                Some(user) => it.repair = Repair::InUse(user.clone()),
                None => {
                    it.repair = Repair::Removed;
                    out.push(it.subject.clone());
                }
            }
        }
        // An image without one of its layers is none.
        for id in named_by_digest(&self.images_folder())?.0 {
            let Ok(Some(record)) = ImageRecord::read(&self.image_folder(id)) else { continue };
            let loses = record.layers.iter().any(|layer| out.contains(&Subject::Layer(*layer)));
            if loses && !out.contains(&Subject::Image(id)) {
                out.push(Subject::Image(id));
            }
        }
        // If this ends early there is still no image without its layers.
        out.sort_by_key(|subject| matches!(subject, Subject::Layer(_)));
        Ok(out)
    }
}

impl Broken {
    fn of(subject: Subject) -> Self {
        let (files, images) = (Vec::new(), Vec::new());
        Self { subject, reason: None, files, files_unnamed: 0, images, repair: Repair::None }
    }

    fn whole(subject: Subject, reason: String, images: Vec<String>) -> Self {
        Self { reason: Some(reason), images, ..Self::of(subject) }
    }

    fn note(&mut self, difference: Difference, file: &Seen) {
        if self.files.len() == FILES_NAMED_MAX {
            self.files_unnamed += 1;
            return;
        }
        self.files.push((difference, format!("/{}", String::from_utf8_lossy(&file.path))));
    }
}

/// The frame must be the one that was written, unless the layer was unpacked before there were such.
fn check_frame(folder: &Path, expected: Option<Digest>) -> Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    let path = folder.join(LayerRecord::FRAME);
    let found = disk::digest_of(&path)?.ok_or_else(|| Error::StoreMissing { path: path.clone() })?;
    if found != expected {
        let reason = "its digest is not the one in layer.json".to_owned();
        return Err(Error::StoreCorrupt { path, reason });
    }
    Ok(())
}

/// What is called by a digest in a folder, and what is not.
fn named_by_digest(folder: &Path) -> Result<(Vec<Digest>, Vec<Broken>)> {
    let failed = |error| Error::io(format!("list {}", folder.display()), error);
    let (mut digests, mut strangers) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match name.to_str().and_then(Digest::from_hex) {
            Some(digest) => digests.push(digest),
            None => {
                let reason = format!("opsrun did not put it into {}", folder.display());
                strangers.push(Broken::whole(Subject::Stranger(name), reason, Vec::new()));
            }
        }
    }
    digests.sort_unstable();
    Ok((digests, strangers))
}

/// An error and its causes in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
