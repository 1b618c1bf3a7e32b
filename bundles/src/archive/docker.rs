//! docker-archive: `manifest.json`, a list of images, each with the paths of its configuration and its layers.
//! Does not read layers. Written by `docker save`, `podman save`, `skopeo copy`; described in moby's `image/spec/v1.2.md`.
//!
//! The paths differ: `ID/layer.tar` by Docker before release 25, `blobs/sha256/HEX` since then, `HEX.tar` by podman.

use serde::Deserialize;

use super::files::Files;
use super::platform::Platform;
use super::{Blob, Found, FoundLayer, configuration_for, layer_title};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// The list of images.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// All images of the archive; each must be for the platform.
pub(super) fn find(files: &Files, platform: &Platform) -> Result<Vec<Found>> {
    let range = files.open(MANIFEST)?.ok_or_else(|| files.missing(MANIFEST))?;
    let document = files.read_document(range, MANIFEST)?;
    let items: Vec<Item> =
        serde_json::from_slice(&document).map_err(|source| files.not_understood(MANIFEST, source))?;
    items.into_iter().map(|item| image(files, item, platform)).collect()
}

fn image(files: &Files, item: Item, platform: &Platform) -> Result<Found> {
    let title = format!("the configuration {:?}", item.config);
    let range = files.open(&item.config)?.ok_or_else(|| files.missing(&title))?;
    let raw_configuration = match digest_in(&item.config) {
        Some(expected) => files.read_verified(range, expected, &title)?,
        None => files.read_document(range, &title)?,
    };
    let id = Digest::of(&raw_configuration);
    let (_, diff_ids) = configuration_for(files.origin(), &raw_configuration, id, platform)?;
    let paths = item.layers.unwrap_or_default();
    if paths.len() != diff_ids.len() {
        return Err(Error::Damaged {
            origin: files.origin().to_owned(),
            reason: format!("it lists {} layers for an image of {}", paths.len(), diff_ids.len()),
        });
    }
    let mut layers = Vec::with_capacity(paths.len());
    for (index, (path, diff_id)) in paths.iter().zip(diff_ids).enumerate() {
        let title = layer_title(index, format_args!("{path:?}"));
        let blob = Blob::Range(files.open(path)?.ok_or_else(|| files.missing(&title))?);
        // Other paths hold the hash of something else, or of what the diff id is for anyway.
        let digest = path.starts_with("blobs/").then(|| digest_in(path)).flatten();
        layers.push(FoundLayer { title, diff_id, digest, compression: None, blob });
    }
    let mut names = Vec::new();
    for name in item.repo_tags.unwrap_or_default() {
        names.push(name.parse::<Reference>()?.with_tag_or("latest"));
    }
    Ok(Found { names, bare_tag: None, id, manifest: None, raw_configuration, layers })
}

/// The digest in `HEX.json`, `sha256:HEX` or `blobs/sha256/HEX`.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    Digest::from_hex(name.strip_prefix("sha256:").unwrap_or(name))
}
