//! `commit`: makes an image of a service's container: its image, and what it has changed over it as one layer more.
//! It does not know how a layer is made.

use std::path::{Path, PathBuf};

use bundles::digest::Digest;
use bundles::reference::Reference;
use bundles::store::{CommitOptions, Store};
use runtime::freeze::{Freeze, Frozen};

use crate::arguments::Commit;
use crate::commands::{look, now_ms};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::amount::{short_id, timestamp};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};

/// Commits the active generation of a service, running or not.
///
/// # Errors
/// [`Error::NoService`], [`Error::NothingToCommit`], [`Error::Bundles`], [`Error::Runtime`]; nothing is left behind.
pub(crate) fn commit(layout: &Layout, arguments: Commit) -> Result<Exit, Error> {
    let service = &arguments.service;
    let (folders, status) = look(layout, service)?;
    let generation = folders.generation(status.record.generation);
    let nothing =
        || Error::NothingToCommit { service: service.to_string(), generation: status.record.generation };
    let mount_points = mount_points(&generation).ok_or_else(nothing)?;
    let upper = generation.join("upper");
    if !upper.is_dir() {
        return Err(nothing());
    }
    let store = Store::open(&layout.store())?;
    let image: Digest = status.record.image_id.parse()?;
    let image = store.find(&Reference::id(image))?;
    let frozen = match status.alive && arguments.pause {
        true => Some(Frozen::of(&folders, status.record.generation)?),
        false => None,
    };
    match frozen {
        Some(Freeze::Unknown) => print::warning(&sentence::not_paused(service.as_str())),
        Some(Freeze::Unsupervised) => print::warning(&sentence::not_paused_unsupervised(service.as_str())),
        Some(Freeze::Done(_) | Freeze::Down) | None => {}
    }
    let changes = store.changes(&image, &upper, &mount_points);
    // What comes now needs the container no more.
    drop(frozen);
    let changes = changes?;
    if changes.sockets > 0 {
        print::warning(&sentence::sockets_left_out(changes.sockets));
    }
    let entries = changes.entries;
    let options = CommitOptions {
        name: arguments.name,
        service: service.to_string(),
        created: timestamp(now_ms()),
        author: arguments.author,
        message: arguments.message,
    };
    let mut bar = LayerBar::new();
    let made = store.commit(&image, changes, &options, &mut bar)?;
    drop(bar);
    print::data(&made.id.to_string())?;
    let layer_bytes = made.layers.last().map_or(0, |layer| layer.bytes);
    print::note(&sentence::committed(
        service.as_str(),
        &made.title(),
        short_id(&made.id.to_string()),
        entries,
        layer_bytes,
    ));
    Ok(Exit::Done)
}

/// Where something is mounted in a generation's container; `None` when there is no such generation any more.
fn mount_points(generation: &Path) -> Option<Vec<PathBuf>> {
    let text = fs_err::read(generation.join("config.json")).ok()?;
    let specification: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let mounts = specification.get("mounts")?.as_array()?;
    Some(mounts.iter().filter_map(|mount| mount.get("destination")?.as_str().map(PathBuf::from)).collect())
}
