//! OCI image layouts, as folders or in an archive: `oci-layout`, `index.json`, `blobs/sha256/HEX`.
//! Does not read layers. image-spec: image-layout.md, image-index.md, manifest.md; also Docker's schema 2 in one.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, OciLayout};

use super::files::Files;
use super::platform::Platform;
use super::{
    Blobs, Document, Found, FoundLayer, configuration_for, layer_title, not_understood, parse_configuration,
};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::compression::Compression;
use crate::reference::{Reference, is_tag};

/// Marks a layout.
pub(super) const LAYOUT: &str = "oci-layout";
/// The list of images.
pub(super) const INDEX: &str = "index.json";

/// The media types of manifests: OCI's, and Docker's schema 2.
pub(crate) const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// The media types of lists of manifests.
pub(crate) const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

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
    let mut walk = Walk { blobs: files, budget: MANIFESTS_MAX, unsupported: None };
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
        let is_named = !group.names.is_empty() || group.bare_tag.is_some();
        match choose(files, &group.candidates, platform, is_named) {
            Ok(found) => found.into_iter().for_each(|mut found| {
                found.names.clone_from(&group.names);
                found.bare_tag.clone_from(&group.bare_tag);
                merge(&mut images, found);
            }),
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

/// The image for the platform that one manifest, or one index of several, describes.
pub(crate) fn describe(
    blobs: &dyn Blobs,
    media_type: &str,
    digest: Digest,
    bytes: u64,
    platform: &Platform,
) -> Result<Found> {
    let mut walk = Walk { blobs, budget: MANIFESTS_MAX, unsupported: None };
    let mut candidates = Vec::new();
    walk.collect_as(media_type, Candidate { digest, bytes, platform: None }, 0, &mut candidates)?;
    let unsupported = walk.unsupported;
    match choose(blobs, &candidates, platform, true)?.pop() {
        Some(found) => Ok(found),
        None => Err(unsupported.unwrap_or_else(|| {
            let reason = "its index lists no images".to_owned();
            Error::NotAnImage { origin: blobs.origin().to_owned(), reason }
        })),
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
    blobs: &'a dyn Blobs,
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
        let platform = descriptor.platform().as_ref().map(Platform::of_descriptor);
        let candidate = Candidate {
            digest: descriptor.digest().to_string().parse()?,
            bytes: descriptor.size(),
            platform,
        };
        self.collect_as(descriptor.media_type().as_ref(), candidate, depth, into)
    }

    /// Collects what is a manifest, or the manifests below what is an index, by its media type.
    fn collect_as(
        &mut self,
        media_type: &str,
        candidate: Candidate,
        depth: usize,
        into: &mut Vec<Candidate>,
    ) -> Result<()> {
        if MANIFESTS.contains(&media_type) {
            into.push(candidate);
        } else if INDEXES.contains(&media_type) {
            if depth == DEPTH_MAX {
                return Err(self.too_much("its indexes are nested too deeply"));
            }
            let index = self.index(candidate.digest, candidate.bytes)?;
            index.manifests().iter().try_for_each(|below| self.collect(below, depth + 1, into))?;
        } else {
            let (blob, media_type) = (candidate.digest.to_string(), media_type.to_owned());
            self.unsupported = Some(Error::UnsupportedMediaType { blob, media_type });
        }
        Ok(())
    }

    fn index(&self, digest: Digest, bytes: u64) -> Result<ImageIndex> {
        let title = format!("the index {digest}");
        let document = self.blobs.document(Document::Manifest, digest, bytes, &title)?;
        serde_json::from_slice(&document)
            .map_err(|source| not_understood(self.blobs.origin(), &title, source))
    }

    fn too_much(&self, reason: &str) -> Error {
        Error::NotAnImage { origin: self.blobs.origin().to_owned(), reason: reason.to_owned() }
    }
}

/// BuildKit puts provenance beside the images of an index, as manifests for an unknown platform.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotations: Option<&HashMap<String, String>> = descriptor.annotations().as_ref();
    annotations.is_some_and(|all| {
        all.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    })
}

/// Takes from candidates what fits the platform best. Several that fit equally well are several images if they have
/// no name; of a name's the first counts, as the specification has it.
fn choose(
    blobs: &dyn Blobs,
    candidates: &[Candidate],
    wanted: &Platform,
    is_named: bool,
) -> Result<Vec<Found>> {
    let mut fitting: Vec<(usize, &Candidate)> = Vec::new();
    let mut have = Vec::new();
    for candidate in candidates {
        let platform = match &candidate.platform {
            Some(platform) => platform.clone(),
            None => platform_of(blobs, candidate)?,
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
        let origin = blobs.origin().to_owned();
        return Err(Error::OtherPlatform { origin, wanted: wanted.to_string(), have });
    };
    let chosen = fitting.iter().filter(|(rank, _)| *rank == best).take(if is_named { 1 } else { usize::MAX });
    chosen.map(|(_, candidate)| image(blobs, candidate, wanted)).collect()
}

/// The platform of a manifest that is listed without one: what its configuration says.
fn platform_of(blobs: &dyn Blobs, candidate: &Candidate) -> Result<Platform> {
    let (_, raw, id) = documents(blobs, candidate)?;
    let configuration = parse_configuration(&raw);
    let document = format!("the configuration {id}");
    let configuration = configuration.map_err(|source| not_understood(blobs.origin(), &document, source))?;
    Ok(Platform::of_configuration(&configuration))
}

/// A manifest, its configuration, and the latter's digest.
fn documents(blobs: &dyn Blobs, candidate: &Candidate) -> Result<(ImageManifest, Vec<u8>, Digest)> {
    let title = format!("the manifest {}", candidate.digest);
    let document = blobs.document(Document::Manifest, candidate.digest, candidate.bytes, &title)?;
    let manifest: ImageManifest =
        serde_json::from_slice(&document).map_err(|source| not_understood(blobs.origin(), &title, source))?;
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
    let raw = blobs.document(Document::Configuration, id, descriptor.size(), &title)?;
    Ok((manifest, raw, id))
}

fn image(blobs: &dyn Blobs, candidate: &Candidate, platform: &Platform) -> Result<Found> {
    let (manifest, raw_configuration, id) = documents(blobs, candidate)?;
    let (_, diff_ids) = configuration_for(blobs.origin(), &raw_configuration, id, platform)?;
    if manifest.layers().len() != diff_ids.len() {
        return Err(Error::Damaged {
            origin: blobs.origin().to_owned(),
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
        let blob = blobs.layer(digest, descriptor.size(), &title)?;
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
