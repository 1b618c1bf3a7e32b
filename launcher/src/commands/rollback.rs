//! `rollback`: an earlier generation once more, with its image, limits, definition, environment and configuration.
//! It prepares the new generation; how one takes another's place is in `replacement.rs`.

use bundles::store::Store;
use runtime::history::{Cause, History};

use crate::arguments::Rollback;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::prepare::Said;
use crate::print::progress::LayerBar;
use crate::put_back::PutBack;
use crate::remake::Remake;
use crate::replacement::{self, Replacement};

/// Rolls a service back, in a generation of its own that is a copy of the earlier one.
///
/// # Errors
/// [`Error::NothingBefore`], [`Error::NoGeneration`], [`Error::GenerationGone`], [`Error::ImageGone`],
/// [`Error::AlreadyActive`], and those of [`Replacement::perform`].
pub(crate) fn rollback(layout: &Layout, arguments: Rollback) -> Result<Exit, Error> {
    let service = &arguments.service;
    let (before, is_up) = replacement::running_or_given_up(layout, service)?;
    let active = before.generation;
    let target = match arguments.generation {
        Some(number) => number,
        None => History::of(&layout.service(service))
            .read()?
            .before(active)
            .ok_or_else(|| Error::NothingBefore { service: service.to_string(), active })?,
    };
    let said = Said::about(layout, service)?;
    let store = Store::open(&layout.store())?;
    // Until the record says that the image is in use.
    let _held = store.hold_telling(&mut LayerBar::new())?;
    let remake = Remake { layout, service, store: &store, said: &said };
    if target == active && is_up && !remake.has_changed(active)? {
        return Err(Error::AlreadyActive { service: service.to_string(), generation: active });
    }
    let home = remake.home();
    let candidate = remake.like(target, arguments.keep_config.then_some(home.as_path()))?;
    Replacement {
        layout,
        service,
        before: &before,
        is_up,
        candidate,
        by: Cause::Rollback,
        from: Some(target),
        put_back: (!arguments.keep_config).then_some(PutBack { remake, by: Cause::Rollback }),
        terms: &arguments.terms,
    }
    .perform()
}
