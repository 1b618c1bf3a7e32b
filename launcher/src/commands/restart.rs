//! `restart`: the same image with the configuration as it is now, and back to what ran before when that fails. It is a swap
//! onto the same image, without a soak; how one generation takes another's place is in `replacement.rs`.

use bundles::reference::Reference;
use bundles::store::Store;
use runtime::history::Cause;
use runtime::record::Record;

use crate::arguments::{ServiceOnly, Terms};
use crate::commands::look;
use crate::commands::start::new_generation;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::prepare::{self, Said};
use crate::print::progress::LayerBar;
use crate::release::{self, Release};
use crate::replacement::{self, Replacement};

/// Restarts a service. Everything that can be wrong with the new generation before it runs is found while the old one
/// still serves.
///
/// # Errors
/// [`Error::WentBack`] when the old generation serves again, [`Error::NeitherServes`] when it does not either; any
/// other: nothing has changed.
pub(crate) fn restart(layout: &Layout, arguments: ServiceOnly) -> Result<Exit, Error> {
    let service = arguments.service;
    let (folders, status) = look(layout, &service)?;
    let before = status.record;
    let said = Said::about(layout, &service)?;
    let store = Store::open(&layout.store())?;
    let _held = store.hold_telling(&mut LayerBar::new())?;
    let release = same_image(&store, &before)?;
    let wishes = generation::wishes(&folders, before.generation);
    if !status.alive && status.supervisor.is_none() {
        return new_generation(layout, &service, &release, &said, &wishes, Cause::Restart);
    }

    let candidate = prepare::generation(layout, &service, &release, &said, &wishes, None)?;
    Replacement {
        layout,
        service: &service,
        before: &replacement::running(layout, &service)?,
        is_up: true,
        even_if_alike: true,
        candidate,
        by: Cause::Restart,
        from: None,
        put_back: None,
        terms: &Terms::WITHOUT_SOAK,
        canary: None,
        drain_ms: said.both.swap.drain_ms(Terms::WITHOUT_SOAK.drain),
        hooked: None,
    }
    .perform()
}

/// The very image that ran last, even when its name means another one by now: a restart is no upgrade.
fn same_image(store: &Store, record: &Record) -> Result<Release, Error> {
    let id: Reference = record.image_id.parse()?;
    let image = store.find(&id)?;
    let found = release::of_image(store, &image, &id)?;
    Ok(Release { release: record.release.clone(), name: record.image.clone(), ..found })
}
