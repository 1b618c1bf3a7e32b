//! Writes images of the store as an archive that docker, podman and skopeo read: with the same configuration, byte for
//! byte, and layers with the same diff ids. Does not know how a tar is made again from a layer's folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::records::LayerRecord;
use super::{Image, Layer, Progress, Store, disk};
use crate::archive::{Fault, Outgoing, Target};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::layer::frame::{self, Replay};
use crate::layer::gzip::Gzip;
use crate::reference::Reference;

/// In which form to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveFormat {
    /// An OCI layout as an archive; with a `manifest.json` for Docker, which has no other list of images.
    Oci {
        /// Layers by gzip; otherwise plain.
        compressed: bool,
    },
    /// docker-archive: plain layers, as `docker save` writes them.
    Docker,
}

/// The media types of an OCI image: image-spec, media-types.md.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The name of an image in an index: image-spec, annotations.md; podman and skopeo take a whole name.
const NAME: &str = "org.opencontainers.image.ref.name";

impl Store {
    /// Saves images as an archive, which is there wholly or not at all. An image has the names it is asked for by;
    /// one asked for by its id has none. The tar of each layer is made again and must have its diff id.
    ///
    /// # Errors
    /// [`Error::NoFrame`], [`Error::StoreCorrupt`], [`Error::StoreMissing`], what [`Store::find`] has, and I/O errors.
    pub fn save(
        &self,
        references: &[Reference],
        format: SaveFormat,
        target: &Target,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Image>> {
        // Nothing of it is removed meanwhile.
        let _held = self.hold_telling(progress)?;
        let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
        for reference in references {
            let image = self.find(reference)?;
            let names = asked_names(&image, reference);
            match images.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, known)) => known.extend(names),
                None => images.push((image, names)),
            }
        }
        for (_, names) in &mut images {
            names.sort();
            names.dedup();
        }
        let layers = self.distinct_layers(&images)?;
        let mut out = Outgoing::begin(target, disk::open_folder(&self.tmp_folder())?)?;
        let mut blobs = BTreeMap::new();
        for (index, (layer, record)) in layers.iter().enumerate() {
            let tar_bytes = record.frame.map(|frame| frame.tar_bytes);
            progress.layer_began(index, layers.len(), &layer.diff_id, tar_bytes);
            blobs.insert(layer.diff_id, self.save_layer(layer, record, format, &mut out, progress)?);
            progress.layer_done(&layer.diff_id);
        }
        self.save_lists(&images, format, &blobs, &mut out)?;
        progress.syncing();
        out.finish()?;
        Ok(images.into_iter().map(|(image, _)| image).collect())
    }

    /// The images' layers, each once, all of which can be saved.
    fn distinct_layers(&self, images: &[(Image, Vec<Reference>)]) -> Result<Vec<(Layer, LayerRecord)>> {
        let mut layers: Vec<(Layer, LayerRecord)> = Vec::new();
        for (image, _) in images {
            for layer in &image.layers {
                if layers.iter().any(|(known, _)| known == layer) {
                    continue;
                }
                let folder = self.layer_folder(layer.diff_id);
                let record = LayerRecord::read(&folder)?;
                let record =
                    record.ok_or_else(|| Error::StoreMissing { path: folder.join(LayerRecord::FILE) })?;
                if record.frame.is_none() {
                    return Err(Error::NoFrame { image: image.title(), layer: layer.diff_id });
                }
                layers.push((*layer, record));
            }
        }
        Ok(layers)
    }

    /// Adds a layer to the archive.
    fn save_layer(
        &self,
        layer: &Layer,
        record: &LayerRecord,
        format: SaveFormat,
        out: &mut Outgoing,
        progress: &mut dyn Progress,
    ) -> Result<Blob> {
        let folder = self.layer_folder(layer.diff_id);
        let path = folder.join(LayerRecord::FRAME);
        let frame = match File::open(&path) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::StoreMissing { path });
            }
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        };
        let corrupt = |reason: String| Error::StoreCorrupt { path: folder.clone(), reason };
        if record.frame.map(|frame| frame.digest) != disk::digest_of(&path)? {
            let reason = "its digest is not the one in layer.json".to_owned();
            return Err(Error::StoreCorrupt { path, reason });
        }
        let root = disk::open_folder(&folder.join("root"))?;
        let replay = |into: &mut dyn Write| {
            let mut tar = Hashing::new(Told { into, progress });
            frame::replay(frame, &root, &mut tar).map_err(|error| match error {
                Replay::Written(error) => Fault::Written(error),
                Replay::Frame(error) => Fault::Other(Error::io(format!("read {}", path.display()), error)),
                Replay::File { path, source } if source.raw_os_error() == Some(EIO) => {
                    Fault::Other(Error::io(format!("read {path:?} of {}", layer.diff_id), source))
                }
                Replay::File { path, source } => Fault::Other(corrupt(format!("{path:?}: {source}"))),
            })?;
            match tar.finish().0 {
                found if found == layer.diff_id => Ok(()),
                _ => Err(Fault::Other(corrupt("its files are not those that were unpacked".to_owned()))),
            }
        };
        let is_compressed = matches!(format, SaveFormat::Oci { compressed: true });
        let name = |digest: Digest| match format {
            SaveFormat::Oci { .. } => blob_name(digest),
            SaveFormat::Docker => format!("{}.tar", digest.hex()),
        };
        let (digest, bytes) = match is_compressed {
            false => out.add_written(replay, name)?,
            true => out.add_written(
                |into| {
                    let mut gzip = Gzip::new(into).map_err(Fault::Written)?;
                    replay(&mut gzip)?;
                    gzip.finish().map(|_| ()).map_err(Fault::Written)
                },
                name,
            )?,
        };
        Ok(Blob { digest, bytes, name: name(digest) })
    }

    /// Adds all but the layers.
    fn save_lists(
        &self,
        images: &[(Image, Vec<Reference>)],
        format: SaveFormat,
        blobs: &BTreeMap<Digest, Blob>,
        out: &mut Outgoing,
    ) -> Result<()> {
        let (mut for_docker, mut manifests) = (Vec::new(), Vec::new());
        for (image, names) in images {
            let configuration = self.raw_configuration(image)?;
            let layers: Vec<&Blob> = image.layers.iter().map(|layer| &blobs[&layer.diff_id]).collect();
            let path = match format {
                SaveFormat::Oci { .. } => blob_name(image.id),
                SaveFormat::Docker => format!("{}.json", image.id.hex()),
            };
            out.add(&path, &configuration)?;
            let written: Vec<String> = names.iter().map(Reference::written).collect();
            for_docker.push(json!({
                "Config": path,
                "RepoTags": if written.is_empty() { Value::Null } else { json!(written) },
                "Layers": layers.iter().map(|layer| &layer.name).collect::<Vec<_>>(),
            }));
            let SaveFormat::Oci { compressed } = format else { continue };
            let media_type = if compressed { LAYER_GZIP } else { LAYER_PLAIN };
            let layers: Vec<Value> =
                layers.iter().map(|layer| descriptor(media_type, layer.digest, layer.bytes)).collect();
            let manifest = json_bytes(&json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(CONFIGURATION, image.id, configuration.len() as u64),
                "layers": layers,
            }));
            let digest = Digest::of(&manifest);
            out.add(&blob_name(digest), &manifest)?;
            let listed = descriptor(MANIFEST, digest, manifest.len() as u64);
            match written.is_empty() {
                true => manifests.push(listed),
                false => manifests.extend(written.iter().map(|name| {
                    let mut named = listed.clone();
                    named["annotations"] = json!({ NAME: name });
                    named
                })),
            }
        }
        if let SaveFormat::Oci { .. } = format {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            out.add("index.json", &json_bytes(&index))?;
            out.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        out.add("manifest.json", &json_bytes(&json!(for_docker)))
    }
}

/// A layer in the archive.
struct Blob {
    digest: Digest,
    bytes: u64,
    name: String,
}

/// Those of an image's names that a reference means.
fn asked_names(image: &Image, reference: &Reference) -> Vec<Reference> {
    let is_meant = |name: &&Reference| {
        name.name == reference.name && reference.tag.as_ref().is_none_or(|tag| name.tag.as_ref() == Some(tag))
    };
    image.names.iter().filter(is_meant).cloned().collect()
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn descriptor(media_type: &str, digest: Digest, bytes: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes })
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The number of the error of a disk that is broken, which is no fault of the store's.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Tells how much has been written.
struct Told<'a> {
    into: &'a mut dyn Write,
    progress: &'a mut dyn Progress,
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.into.write(bytes)?;
        self.progress.advanced(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
