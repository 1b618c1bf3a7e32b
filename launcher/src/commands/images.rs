//! `images`: what is loaded.
//! It does not know how images are stored.

use std::collections::{BTreeMap, BTreeSet};

use bundles::digest::Digest;
use bundles::reference::Reference;
use bundles::store::{Image as Stored, Store};

use crate::arguments::Images;
use crate::commands::now_ms;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{self, CommittedFrom, Image, Layer, VERSION};
use crate::print::amount::{ago, bytes, short_id, timestamp};
use crate::print::{self, sentence, table::table};

const HEADER: [&str; 8] = ["NAME", "RELEASE", "IMAGE ID", "LOADED", "SIZE", "SHARED", "UNIQUE", "NOTE"];

/// Lists the images; each of its names has a row of its own.
///
/// # Errors
/// [`Error::Bundles`], [`Error::Output`].
pub(crate) fn images(layout: &Layout, arguments: &Images) -> Result<Exit, Error> {
    let mut stored = Store::open(&layout.store())?.images()?;
    let sharing = Sharing::of(&stored);
    if let Some(name) = &arguments.name {
        stored.retain(|image| image.names.iter().any(|known| fits(known, name)));
    }
    if arguments.form.json {
        print::json(&listing::Images {
            version: VERSION,
            images: stored.iter().map(|image| sharing.describe(image)).collect(),
        })?;
    } else if arguments.quiet {
        print::data(&stored.iter().map(|image| format!("{}\n", image.id)).collect::<String>())?;
    } else {
        print::data(&table(&HEADER, rows(&stored, &sharing, arguments.name.as_deref())))?;
    }
    Ok(Exit::Done)
}

/// Whether a name is the one that was typed: whole, its last part, or with the release.
fn fits(known: &Reference, typed: &str) -> bool {
    known.name == typed || known.to_string() == typed || known.name.rsplit('/').next() == Some(typed)
}

fn rows(stored: &[Stored], sharing: &Sharing, only: Option<&str>) -> Vec<Vec<String>> {
    let now_ms = now_ms();
    let mut rows = Vec::new();
    for image in stored {
        let id = image.id.to_string();
        let unique = sharing.unique_bytes(image);
        let note = image.committed.as_ref().map(|it| sentence::committed_from(&it.service, &it.name));
        let note = note.unwrap_or_default();
        let row = |name: &str, release: &str| {
            vec![
                name.to_owned(),
                release.to_owned(),
                short_id(&id).to_owned(),
                ago(image.loaded_at_ms, now_ms),
                bytes(image.bytes()),
                bytes(image.bytes() - unique),
                bytes(unique),
                note.clone(),
            ]
        };
        if image.names.is_empty() {
            rows.push(row("<none>", "<none>"));
        }
        for name in image.names.iter().filter(|name| only.is_none_or(|only| fits(name, only))) {
            rows.push(row(&name.name, name.tag.as_deref().unwrap_or("<none>")));
        }
    }
    rows.sort();
    rows
}

/// How many images have each layer.
pub(crate) struct Sharing(BTreeMap<Digest, usize>);

impl Sharing {
    /// The layers of all images that there are.
    pub(crate) fn of(all: &[Stored]) -> Self {
        let mut images = BTreeMap::new();
        for image in all {
            // An image may have one layer twice.
            for layer in image.layers.iter().map(|layer| layer.diff_id).collect::<BTreeSet<_>>() {
                *images.entry(layer).or_insert(0) += 1;
            }
        }
        Self(images)
    }

    /// What only this image takes.
    fn unique_bytes(&self, image: &Stored) -> u64 {
        let unique = image.layers.iter().filter(|layer| self.0.get(&layer.diff_id).is_none_or(|&n| n == 1));
        unique.fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes))
    }

    /// An image in the form in which it is listed.
    pub(crate) fn describe(&self, image: &Stored) -> Image {
        let unique_bytes = self.unique_bytes(image);
        Image {
            id: image.id.to_string(),
            manifest: image.manifest.as_ref().map(ToString::to_string),
            names: image.names.iter().map(ToString::to_string).collect(),
            created_at: image.configuration.created().clone(),
            loaded_at: timestamp(image.loaded_at_ms),
            committed_from: image.committed.as_ref().map(|it| CommittedFrom {
                service: it.service.clone(),
                image: it.image.to_string(),
                name: it.name.clone(),
            }),
            size_bytes: image.bytes(),
            shared_bytes: image.bytes() - unique_bytes,
            unique_bytes,
            layers: (image.layers.iter())
                .map(|layer| Layer { diff_id: layer.diff_id.to_string(), size_bytes: layer.bytes })
                .collect(),
        }
    }
}
