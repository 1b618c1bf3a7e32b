//! OCI image layouts, as folders or in an archive: `oci-layout`, `index.json`, `blobs/sha256/HEX`.
//! Does not read layers. image-spec: image-layout.md, image-index.md, manifest.md; also Docker's schema 2 in one.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, OciLayout};

use super::files::Files;
use super::platform::Platform;
use super::{Found, FoundLayer, configuration_for, layer_title, parse_configuration};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::compression::Compression;
use crate::reference::{Reference, is_tag};

/// Marks a layout.
pub(super) const LAYOUT: &str = "oci-layout";
/// The list of images.
pub(super) const INDEX: &str = "index.json";

/// An index in an index in an index is more than any tool writes.
const DEPTH_MAX: usize = 4;
/// More manifests than an honest layout has; a bound on the work that nested indexes can cause.
const MANIFESTS_MAX: usize = 1000;

/// A manifest that can be an image's, by its descriptor.
struct Candidate {
    digest: Digest,
    bytes: u64,
    platform: Option<Platform>,
}

/// One name's manifests, for several platforms.
#[derive(Default)]
struct Group {
    names: Vec<Reference>,
    bare_tag: Option<String>,
    candidates: Vec<Candidate>,
}

/// The images of the layout for the platform. Manifests of one name, or of none, are one image for several platforms.
pub(super) fn find(files: &Files, platform: &Platform) -> Result<Vec<Found>> {
    check_version(files)?;
    let range = files.open(INDEX)?.ok_or_else(|| files.missing(INDEX))?;
    let document = files.read_document(range, INDEX)?;
    let index: ImageIndex =
        serde_json::from_slice(&document).map_err(|source| files.not_understood(INDEX, source))?;
    let mut groups: Vec<(String, Group)> = Vec::new();
    let mut walk = Walk { files, budget: MANIFESTS_MAX, unsupported: None };
    for descriptor in index.manifests() {
        let (key, names, bare_tag) = names_of(descriptor);
        let at = groups.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            groups.push((key, Group { names, bare_tag, ..Group::default() }));
            groups.len() - 1
        });
        walk.collect(descriptor, 0, &mut groups[at].1.candidates)?;
    }
    let mut images: Vec<Found> = Vec::new();
    let mut unsupported = walk.unsupported;
    for (_, group) in groups {
        match choose(files, group, platform) {
            Ok(found) => found.into_iter().for_each(|found| merge(&mut images, found)),
            // Signatures and other artifacts lie beside images.
            Err(error @ Error::UnsupportedMediaType { .. }) => unsupported = Some(error),
            Err(error) => return Err(error),
        }
    }
    match unsupported {
        Some(error) if images.is_empty() => Err(error),
        _ => Ok(images),
    }
}

fn check_version(files: &Files) -> Result<()> {
    let range = files.open(LAYOUT)?.ok_or_else(|| files.missing(LAYOUT))?;
    let document = files.read_document(range, LAYOUT)?;
    let layout: OciLayout =
        serde_json::from_slice(&document).map_err(|source| files.not_understood(LAYOUT, source))?;
    let version = layout.image_layout_version();
    if !version.starts_with("1.") {
        let reason = format!("it is an image layout of version {version}; 1.x is known");
        return Err(Error::NotAnImage { origin: files.origin().to_owned(), reason });
    }
    Ok(())
}

/// The same image under several names is one image with several names.
fn merge(images: &mut Vec<Found>, found: Found) {
    match images.iter_mut().find(|known| known.id == found.id && known.manifest == found.manifest) {
        Some(known) => {
            known.names.extend(found.names);
            known.bare_tag = known.bare_tag.take().or(found.bare_tag);
        }
        None => images.push(found),
    }
}

/// What an entry of `index.json` is called: containerd writes the whole name beside the tag; podman and skopeo put
/// into the annotation for the tag what the person typed, which is a whole name or a tag.
fn names_of(descriptor: &Descriptor) -> (String, Vec<Reference>, Option<String>) {
    let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
    let whole = annotation("io.containerd.image.name");
    let tag = annotation("org.opencontainers.image.ref.name");
    let key = [whole.as_deref(), tag.as_deref()].map(Option::unwrap_or_default).join("\n");
    let parse = |text: &String| text.parse::<Reference>().ok().map(|name| name.with_tag_or("latest"));
    let looks_whole = |text: &&String| text.contains(['/', ':']);
    let name = whole.as_ref().and_then(parse).or_else(|| tag.as_ref().filter(looks_whole).and_then(parse));
    let bare_tag = tag.filter(|tag| name.is_none() && is_tag(tag));
    (key, name.into_iter().collect(), bare_tag)
}

/// The way through the indexes.
struct Walk<'a> {
    files: &'a Files,
    /// How many more descriptors may be looked at.
    budget: usize,
    /// An entry that is neither manifest nor index; it matters only if there is no image beside it.
    unsupported: Option<Error>,
}

impl Walk<'_> {
    /// Collects the manifests below a descriptor, from nested indexes too.
    fn collect(&mut self, descriptor: &Descriptor, depth: usize, into: &mut Vec<Candidate>) -> Result<()> {
        self.budget =
            self.budget.checked_sub(1).ok_or_else(|| self.too_much("it lists too many manifests"))?;
        if is_attestation(descriptor) {
            return Ok(());
        }
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let media_type = descriptor.media_type().to_string();
        match media_type.as_str() {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => {
                let platform = descriptor.platform().as_ref().map(Platform::of_descriptor);
                into.push(Candidate { digest, bytes: descriptor.size(), platform });
            }
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                if depth == DEPTH_MAX {
                    return Err(self.too_much("its indexes are nested too deeply"));
                }
                let index = self.index(digest, descriptor.size())?;
                index.manifests().iter().try_for_each(|below| self.collect(below, depth + 1, into))?;
            }
            _ => {
                self.unsupported = Some(Error::UnsupportedMediaType { blob: digest.to_string(), media_type })
            }
        }
        Ok(())
    }

    fn index(&self, digest: Digest, bytes: u64) -> Result<ImageIndex> {
        let title = format!("the index {digest}");
        let blob = self.files.open_blob(digest, bytes, &title)?;
        let document = self.files.read_verified(blob, digest, &title)?;
        serde_json::from_slice(&document).map_err(|source| self.files.not_understood(&title, source))
    }

    fn too_much(&self, reason: &str) -> Error {
        Error::NotAnImage { origin: self.files.origin().to_owned(), reason: reason.to_owned() }
    }
}

/// BuildKit puts provenance beside the images of an index, as manifests for an unknown platform.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotations: Option<&HashMap<String, String>> = descriptor.annotations().as_ref();
    annotations.is_some_and(|all| {
        all.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    })
}

/// Takes from a group what fits the platform best. Several that fit equally well are several images if they have no
/// name; of a name's the first counts, as the specification has it.
fn choose(files: &Files, group: Group, wanted: &Platform) -> Result<Vec<Found>> {
    let mut fitting: Vec<(usize, &Candidate)> = Vec::new();
    let mut have = Vec::new();
    for candidate in &group.candidates {
        let platform = match &candidate.platform {
            Some(platform) => platform.clone(),
            None => platform_of(files, candidate)?,
        };
        match wanted.rank(&platform) {
            Some(rank) => fitting.push((rank, candidate)),
            None => have.push(platform.to_string()),
        }
    }
    let Some(best) = fitting.iter().map(|(rank, _)| *rank).min() else {
        if have.is_empty() {
            return Ok(Vec::new());
        }
        have.sort();
        have.dedup();
        let origin = files.origin().to_owned();
        return Err(Error::OtherPlatform { origin, wanted: wanted.to_string(), have });
    };
    let is_named = !group.names.is_empty() || group.bare_tag.is_some();
    let chosen = fitting.iter().filter(|(rank, _)| *rank == best).take(if is_named { 1 } else { usize::MAX });
    chosen
        .map(|(_, candidate)| {
            let mut found = image(files, candidate, wanted)?;
            found.names.clone_from(&group.names);
            found.bare_tag.clone_from(&group.bare_tag);
            Ok(found)
        })
        .collect()
}

/// The platform of a manifest that is listed without one: what its configuration says.
fn platform_of(files: &Files, candidate: &Candidate) -> Result<Platform> {
    let (_, raw, id) = documents(files, candidate)?;
    let configuration = parse_configuration(&raw);
    let document = format!("the configuration {id}");
    let configuration = configuration.map_err(|source| files.not_understood(&document, source))?;
    Ok(Platform::of_configuration(&configuration))
}

/// A manifest, its configuration, and the latter's digest.
fn documents(files: &Files, candidate: &Candidate) -> Result<(ImageManifest, Vec<u8>, Digest)> {
    let title = format!("the manifest {}", candidate.digest);
    let blob = files.open_blob(candidate.digest, candidate.bytes, &title)?;
    let document = files.read_verified(blob, candidate.digest, &title)?;
    let manifest: ImageManifest =
        serde_json::from_slice(&document).map_err(|source| files.not_understood(&title, source))?;
    let descriptor = manifest.config();
    let id: Digest = descriptor.digest().to_string().parse()?;
    let title = format!("the configuration {id}");
    let media_type = descriptor.media_type().to_string();
    if !matches!(
        media_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(Error::UnsupportedMediaType { blob: title, media_type });
    }
    let blob = files.open_blob(id, descriptor.size(), &title)?;
    let raw = files.read_verified(blob, id, &title)?;
    Ok((manifest, raw, id))
}

fn image(files: &Files, candidate: &Candidate, platform: &Platform) -> Result<Found> {
    let (manifest, raw_configuration, id) = documents(files, candidate)?;
    let (_, diff_ids) = configuration_for(files, &raw_configuration, id, platform)?;
    if manifest.layers().len() != diff_ids.len() {
        return Err(Error::Damaged {
            origin: files.origin().to_owned(),
            reason: format!(
                "its manifest lists {} layers for an image of {}",
                manifest.layers().len(),
                diff_ids.len()
            ),
        });
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (index, (descriptor, diff_id)) in manifest.layers().iter().zip(diff_ids).enumerate() {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let title = layer_title(index, digest);
        let media_type = descriptor.media_type().to_string();
        let Some(compression) = compression_of(&media_type) else {
            return Err(Error::UnsupportedMediaType { blob: title, media_type });
        };
        let blob = files.open_blob(digest, descriptor.size(), &title)?;
        layers.push(FoundLayer {
            title,
            diff_id,
            digest: Some(digest),
            compression: Some(compression),
            blob,
        });
    }
    let manifest = Some(candidate.digest);
    Ok(Found { names: Vec::new(), bare_tag: None, id, manifest, raw_configuration, layers })
}

/// image-spec, layer.md, and Docker's distribution, `manifest-v2-2.md`.
fn compression_of(media_type: &str) -> Option<Compression> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::Plain),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}
