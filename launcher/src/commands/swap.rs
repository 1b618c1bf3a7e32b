//! `swap`: puts another release in place of the one that runs, and goes back by itself when it is not as good.
//! It does not know how the supervisor does it, and believes no outcome that it has not seen.

use std::time::Duration;

use bundles::store::Store;
use runtime::client::{self, SwapRequest};
use runtime::folders::ServiceFolders;
use runtime::history::{Cause, Kind};
use runtime::record::Record;
use runtime::{status, systemd};

use crate::arguments::Swap;
use crate::commands::look;
use crate::commands::start::keep;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::{self, Candidate};
use crate::layout::Layout;
use crate::prepare::{self, Said};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::release::{self, Wanted};
use crate::service_name::ServiceName;
use crate::time_span::TimeSpan;

/// How long a swap may take and is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long the new generation is watched before the old one is given up.
    pub soak: TimeSpan,
    /// How long it may take until it is healthy, when not as its rules say.
    pub timeout: Option<TimeSpan>,
}

/// Swaps a service.
///
/// # Errors
/// [`Error::WentBack`] when the old generation serves, [`Error::NeitherServes`] when it does not; any other: nothing has
/// changed.
pub(crate) fn swap(layout: &Layout, arguments: Swap) -> Result<Exit, Error> {
    let service = arguments.service;
    let before = running(layout, &service)?;
    let said = Said::about(layout, &service)?;
    let store = Store::open(&layout.store())?;
    // Until the record says that the image is in use.
    let _held = store.hold_telling(&mut LayerBar::new())?;
    let wanted = Wanted { typed: Some(&arguments.release), last: None };
    let release = release::find(&store, &service, said.both.image.as_deref(), wanted)?;
    let wishes = generation::wishes(&layout.service(&service), before.generation);
    let candidate = prepare::generation(layout, &service, &release, &said, &wishes)?;
    if candidate.is_like(before.generation)? {
        print::note(&sentence::nothing_to_swap(service.as_str(), &before.release, before.generation));
        return Ok(Exit::Done);
    }
    candidate.note(Kind::Run, Cause::Swap, None)?;
    replace(
        layout,
        &service,
        &before,
        candidate,
        Patience { soak: arguments.soak, timeout: arguments.timeout },
    )
}

/// The record of a service that runs and is supervised, or is from now on.
///
/// # Errors
/// [`Error::NoService`]; [`runtime::Error::NotRunning`].
pub(crate) fn running(layout: &Layout, service: &ServiceName) -> Result<Record, Error> {
    let (folders, status) = look(layout, service)?;
    if status.supervisor.is_some() {
        return Ok(status.record);
    }
    if !status.alive {
        return Err(runtime::Error::NotRunning { service: service.to_string() }.into());
    }
    // It lost its supervisor, and a swap needs one.
    supervise_again(&folders)?;
    Ok(look(layout, service)?.1.record)
}

/// Puts a prepared generation in place of the one that runs. It is kept when it serves and removed when it does not.
///
/// # Errors
/// As [`swap`].
pub(crate) fn replace(
    layout: &Layout,
    service: &ServiceName,
    before: &Record,
    candidate: Candidate,
    patience: Patience,
) -> Result<Exit, Error> {
    let folders = layout.service(service);
    let number = candidate.number();
    let wanted = candidate.release();
    let request = SwapRequest {
        generation: number,
        soak: Duration::from_millis(patience.soak.ms),
        start_timeout: patience.timeout.map(|timeout| Duration::from_millis(timeout.ms)),
    };
    let neither = |source: Error, back: Error| Error::NeitherServes {
        service: service.to_string(),
        wanted: wanted.clone(),
        before: before.release.clone(),
        source: Box::new(source),
        back: Box::new(back),
    };
    let mut on = |step| {
        if let Some(text) = sentence::swap_step(service.as_str(), &wanted, &before.release, step) {
            print::note(&text);
        }
    };
    let failure = match client::swap(&folders, &request, &mut on) {
        Ok(swapped) => {
            keep(candidate);
            print::note(&sentence::swapped(service.as_str(), &wanted, number, &swapped));
            return Ok(seen_to_serve(&folders));
        }
        Err(runtime::Error::CandidateFailed { service, source, output, gap, back: Some(back) }) => {
            let source = runtime::Error::CandidateFailed { service, source, output, gap, back: None };
            let back = runtime::Error::Supervisor { service: folders.name().to_owned(), source: back };
            return Err(neither(source.into(), back.into()));
        }
        Err(error @ runtime::Error::CandidateFailed { .. }) => error,
        Err(error @ (runtime::Error::SupervisorGone { .. } | runtime::Error::SwapCancelled { .. })) => {
            // The record tells which side the swap went to.
            let back = supervise_again(&folders);
            if Record::read(&folders)?.is_some_and(|record| record.generation == number) {
                keep(candidate);
                print::warning(&error.to_string());
                back?;
                print::note(&sentence::taken_over(service.as_str(), &wanted, number));
                return Ok(seen_to_serve(&folders));
            }
            if let Err(back) = back {
                return Err(neither(error.into(), back));
            }
            error
        }
        Err(error) => return Err(error.into()),
    };
    match status::probe(&folders) {
        Ok(Ok(())) => Err(Error::WentBack {
            service: service.to_string(),
            wanted: wanted.clone(),
            serves: before.release.clone(),
            generation: before.generation,
            source: Box::new(failure.into()),
        }),
        Ok(Err(reason)) => {
            let back = runtime::Error::Supervisor {
                service: service.to_string(),
                source: runtime::Failure::new(reason),
            };
            Err(neither(failure.into(), back.into()))
        }
        Err(back) => Err(neither(failure.into(), back.into())),
    }
}

/// Has a service supervised whose supervisor died; systemd does that by itself.
fn supervise_again(folders: &ServiceFolders) -> Result<(), Error> {
    if systemd::keeps(folders) {
        return Ok(systemd::systemctl("start", folders.name())?);
    }
    match client::resume(folders) {
        // Another command was faster.
        Ok(_) | Err(runtime::Error::AlreadyRunning { .. } | runtime::Error::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What was reported is looked at once more, from outside the supervisor.
fn seen_to_serve(folders: &ServiceFolders) -> Exit {
    let reason = match status::probe(folders) {
        Ok(Ok(())) => return Exit::Done,
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    print::warning(&sentence::not_seen_to_serve(folders.name(), &reason));
    Exit::NeitherServes
}
