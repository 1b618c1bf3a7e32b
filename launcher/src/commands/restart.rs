//! `restart`: the same image with the configuration as it is now, and back to what ran before when that fails.
//! It does not know how a container is made.

use bundles::reference::Reference;
use bundles::store::Store;
use runtime::client;
use runtime::history::{Cause, End, History, Kind};
use runtime::record::Record;

use crate::arguments::ServiceOnly;
use crate::commands::look;
use crate::commands::start::{healthy, new_generation, serve};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::prepare::{self, Said};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::release::{self, Release};

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
    candidate.note(Kind::Run, Cause::Restart, None)?;
    client::stop(&folders)?;
    let failure = match serve(layout, &service, candidate) {
        Ok(done) => {
            print::note(&healthy(&service, &done));
            History::of(&folders).ended(before.generation, End::Replaced { by: done.generation })?;
            return Ok(Exit::Done);
        }
        Err(error) => Box::new(error),
    };
    print::note(&sentence::going_back(service.as_str(), &before.release, before.generation));
    let (service, wanted) = (service.to_string(), release.release);
    match client::start(&folders, before.generation) {
        Ok(started) => Err(Error::WentBack {
            service,
            wanted,
            serves: started.release,
            generation: started.generation,
            source: failure,
        }),
        Err(back) => Err(Error::NeitherServes {
            service,
            wanted,
            before: before.release,
            source: failure,
            back: Box::new(back.into()),
        }),
    }
}

/// The very image that ran last, even when its name means another one by now: a restart is no upgrade.
fn same_image(store: &Store, record: &Record) -> Result<Release, Error> {
    let id: Reference = record.image_id.parse()?;
    let image = store.find(&id)?;
    let found = release::of_image(store, &image, &id)?;
    Ok(Release { release: record.release.clone(), name: record.image.clone(), ..found })
}
