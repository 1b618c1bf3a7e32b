//! `rollback`: an earlier generation once more, with its image, limits, definition, environment and configuration.
//! It prepares the new generation; how one takes another's place is in `replacement.rs`.

use bundles::store::Store;
use runtime::history::{Cause, History};

use crate::arguments::Rollback;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::plan;
use crate::preflight::{self, Proposal};
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
    let (service, terms) = (&arguments.service, &arguments.terms);
    let (before, is_up) = replacement::before_or_given_up(layout, service, terms)?;
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
    let configuration = match arguments.keep_config {
        true => home.clone(),
        false => generation::configuration(&layout.service(service).generation(target)),
    };
    let made = generation::find(&layout.service(service), service, target)?;
    let image = remake.image(target, &made.definition)?;
    let from = (&made, &image, configuration.as_path());
    let proposal = Proposal::of_generation((layout, service, &store), &before, from, &said, terms)?;
    if terms.plan {
        return plan::show(&proposal, terms);
    }
    preflight::pass(&proposal)?;
    let candidate = remake.like(target, arguments.keep_config.then_some(home.as_path()))?;
    Replacement {
        layout,
        service,
        before: &before,
        is_up,
        even_if_alike: false,
        candidate,
        by: Cause::Rollback,
        from: Some(target),
        put_back: (!arguments.keep_config).then_some(PutBack { remake, by: Cause::Rollback }),
        terms,
        canary: proposal.canary,
        drain_ms: said.both.swap.drain_ms(terms.drain),
        hooked: None,
    }
    .perform()
}
