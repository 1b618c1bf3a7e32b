//! `load`: takes an image into the store, with a bar on a terminal.
//! It knows no archive's form.

use bundles::archive::Source;
use bundles::store::{LoadOptions, Store};

use crate::arguments::Load;
use crate::commands::images::Sharing;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{Loaded, VERSION};
use crate::print::amount::short_id;
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::registries;

/// Loads every image of an archive.
///
/// # Errors
/// [`Error::Bundles`]; nothing half-made is left in the store.
pub(crate) fn load(layout: &Layout, arguments: Load) -> Result<Exit, Error> {
    let source = Source::of(&arguments.source)?;
    let bounds = registries::read(&layout.registries())?.bounds(arguments.bounds);
    let store = Store::open(&layout.store())?;
    let options = LoadOptions { tag: arguments.tag, platform: None, bounds };
    let mut bar = LayerBar::new();
    let images = store.load(&source, &options, &mut bar)?;
    let unpacked = bar.unpacked;
    drop(bar);
    if arguments.form.json {
        let sharing = Sharing::of(&store.images()?);
        let images = images.iter().map(|image| sharing.describe(image)).collect();
        print::json(&Loaded { version: VERSION, images })?;
        return Ok(Exit::Done);
    }
    for image in &images {
        let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        print::note(&sentence::loaded(&names.join(", "), short_id(&image.id.to_string()), image.bytes()));
    }
    print::note(&sentence::layers_unpacked(unpacked));
    Ok(Exit::Done)
}
