//! `prune`: removes the images and layers that nothing needs any more.
//! It does not know how layers are shared.

use bundles::store::Store;

use crate::arguments::Prune;
use crate::error::Error;
use crate::exit::Exit;
use crate::image_users;
use crate::layout::Layout;
use crate::listing::{self, Layer, VERSION};
use crate::print::amount::{bytes, short_id};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence, table::table};

const HEADER: [&str; 3] = ["KIND", "ID", "SIZE"];

/// Removes them, or only lists them.
///
/// # Errors
/// [`Error::Bundles`], and those of [`image_users::needed`]; nothing is removed then.
pub(crate) fn prune(layout: &Layout, arguments: &Prune) -> Result<Exit, Error> {
    let store = Store::open(&layout.store())?;
    let dry_run = arguments.dry_run;
    // Asked while the store lets nobody begin to use an image, so the answer stays true until all is removed.
    let unneeded = store.prune(dry_run, || image_users::needed(layout), &mut LayerBar::new())?;
    let (images, layers) = (&unneeded.images, &unneeded.layers);
    if arguments.form.json {
        let layer = |layer: &bundles::store::Layer| Layer {
            diff_id: layer.diff_id.to_string(),
            size_bytes: layer.bytes,
        };
        print::json(&listing::Pruned {
            version: VERSION,
            dry_run,
            images: images.iter().map(ToString::to_string).collect(),
            layers: layers.iter().map(layer).collect(),
            size_bytes: unneeded.bytes(),
        })?;
        return Ok(Exit::Done);
    }
    let row = |kind: &str, id: String, size: String| vec![kind.to_owned(), short_id(&id).to_owned(), size];
    let mut rows: Vec<_> = images.iter().map(|id| row("image", id.to_string(), "-".to_owned())).collect();
    rows.extend(layers.iter().map(|layer| row("layer", layer.diff_id.to_string(), bytes(layer.bytes))));
    if !rows.is_empty() {
        print::data(&table(&HEADER, rows))?;
    }
    print::note(&sentence::pruned(images.len(), layers.len(), unneeded.bytes(), dry_run));
    Ok(Exit::Done)
}
