//! `swap`: another release in place of the one that runs, with the configuration and settings as they are now.
//! It prepares the new generation; how one takes another's place is in `replacement.rs`.

use bundles::store::Store;
use runtime::history::Cause;

use crate::arguments::Swap;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::hooks::Hooked;
use crate::layout::Layout;
use crate::plan;
use crate::preflight::{self, Proposal};
use crate::prepare::{self, Said};
use crate::print::progress::LayerBar;
use crate::put_back::PutBack;
use crate::release::{self, Asker, Wanted};
use crate::remake::Remake;
use crate::replacement::{self, Replacement};

/// Swaps a service.
///
/// # Errors
/// [`Error::WentBack`] when the old generation serves, [`Error::NeitherServes`] when it does not; any other: nothing has
/// changed.
pub(crate) fn swap(layout: &Layout, arguments: Swap) -> Result<Exit, Error> {
    let (service, terms) = (&arguments.service, &arguments.terms);
    let before = &replacement::before(layout, service, terms)?;
    let said = Said::about(layout, service)?;
    let store = Store::open(&layout.store())?;
    // Until the record says that the image is in use.
    let _held = store.hold_telling(&mut LayerBar::new())?;
    let wanted = Wanted { typed: Some(&arguments.release), last: None, by: Asker::Swap };
    let release = release::find(&store, service, said.both.image.as_deref(), wanted)?;
    let wishes = generation::wishes(&layout.service(service), before.generation);
    let configuration = arguments.config.as_deref();
    let mut proposal =
        Proposal::of_release((layout, service, &store), before, &release, &said, &wishes, terms)?;
    proposal.own = proposal.own.with_configuration(configuration)?;
    if terms.plan {
        return plan::show(&proposal, terms);
    }
    preflight::pass(&proposal)?;
    let candidate = prepare::generation(layout, service, &release, &said, &wishes, configuration)?;
    let remake = Remake { layout, service, store: &store, said: &said };
    let generation = candidate.number();
    let hooked = Hooked { layout, service, release: &release, said: &said, wishes: &wishes, generation };
    Replacement {
        layout,
        service,
        before,
        is_up: true,
        even_if_alike: false,
        candidate,
        by: Cause::Swap,
        from: None,
        put_back: configuration.map(|_| PutBack { remake, by: Cause::Swap }),
        terms,
        canary: proposal.canary,
        drain_ms: said.both.swap.drain_ms(terms.drain),
        hooked: Some(hooked),
    }
    .perform()
}
