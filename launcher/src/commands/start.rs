//! `start`: prepares a generation of a service, hands it to a supervisor and waits until it is healthy.
//! It does not know how a container is made.

use bundles::reference::Reference;
use bundles::store::{Held, Store};
use runtime::Failure;
use runtime::client::{self, Started};
use runtime::folders::ServiceFolders;
use runtime::history::{Cause, End, History, Kind};
use runtime::record::{Record, State};
use runtime::systemd;

use crate::arguments::{BoundsTyped, PullWhen, Start};
use crate::commands::{pull, set_corrupt_record_aside};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::Candidate;
use crate::layout::Layout;
use crate::prepare::{self, Said};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::registries;
use crate::release::{self, Asker, Release, Wanted};
use crate::service_name::ServiceName;
use crate::wishes::Wishes;

/// Starts a service.
///
/// # Errors
/// Any; nothing of the service runs then that did not run before.
pub(crate) fn start(layout: &Layout, arguments: Start) -> Result<Exit, Error> {
    let service = arguments.service.service;
    let folders = layout.service(&service);
    refuse_if_running(&folders, &service)?;
    let last = last_release(&folders)?;
    let said = Said::about(layout, &service)?;
    let store = Store::open(&layout.store())?;
    let wanted =
        Wanted { typed: arguments.service.release.as_deref(), last: last.as_deref(), by: Asker::Start };
    let (release, _held) = release_for(layout, &store, &service, &said, wanted, arguments.pull)?;
    set_corrupt_record_aside(&folders)?;
    new_generation(layout, &service, &release, &said, &arguments.more.into(), Cause::Start)
}

/// The release that was started last: by the record, and by the history of a service that has none, or one that cannot
/// be read.
fn last_release(folders: &ServiceFolders) -> Result<Option<String>, Error> {
    match Record::read(folders) {
        Ok(Some(record)) => return Ok(Some(record.release)),
        Ok(None) | Err(runtime::Error::RecordCorrupt { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let past = History::of(folders).read()?;
    let served = past.before(0).and_then(|number| past.entry(number)?.made.clone());
    Ok(served.map(|made| made.release))
}

/// The release to start, pulled where that is wanted, and what keeps it from being removed until the record says that
/// it is in use.
fn release_for(
    layout: &Layout,
    store: &Store,
    service: &ServiceName,
    said: &Said,
    wanted: Wanted<'_>,
    pull: PullWhen,
) -> Result<(Release, Held), Error> {
    let image_name = said.both.image.as_deref();
    let said = registries::read(&layout.registries())?;
    let (bounds, registries) = (said.bounds(BoundsTyped::default()), said.registries());
    let tag = wanted.typed.or(wanted.last);
    let text = [image_name.unwrap_or(service.as_str()), tag.unwrap_or("latest")].join(":");
    let reference: Reference = text.parse()?;
    let held = store.hold_telling(&mut LayerBar::new())?;
    if pull != PullWhen::Always {
        match release::find(store, service, image_name, wanted) {
            Ok(release) => return Ok((release, held)),
            Err(Error::NoImage { .. } | Error::NoRelease { .. }) if pull == PullWhen::Missing => {}
            Err(Error::NoImage { service, image, .. }) => {
                // Only where it is known from where.
                let pull = registries.full_name(&reference).is_ok().then(|| reference.to_string());
                return Err(Error::NoImage { service, image, pull });
            }
            Err(error) => return Err(error),
        }
    }
    drop(held);
    let image = pull::fetch(store, &registries, &reference, None, bounds)?;
    let held = store.hold_telling(&mut LayerBar::new())?;
    Ok((release::of_image(store, &image, &registries.full_name(&reference)?)?, held))
}

/// Starts a release in a new generation and says so.
///
/// # Errors
/// As [`start`].
pub(crate) fn new_generation(
    layout: &Layout,
    service: &ServiceName,
    release: &Release,
    said: &Said,
    wishes: &Wishes,
    by: Cause,
) -> Result<Exit, Error> {
    let candidate = prepare::generation(layout, service, release, said, wishes, None)?;
    candidate.note(Kind::Run, by, None)?;
    print::note(&healthy(service, &serve(layout, service, candidate)?));
    Ok(Exit::Done)
}

/// Starts a prepared generation; it is kept when it is healthy and removed when it is not.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn serve(layout: &Layout, service: &ServiceName, candidate: Candidate) -> Result<Started, Error> {
    let started = begin(layout, service, candidate.number())?;
    keep(candidate);
    Ok(started)
}

/// Has a supervisor start a generation.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn begin(layout: &Layout, service: &ServiceName, generation: u32) -> Result<Started, Error> {
    if layout.is_host() && systemd::is_running() && !systemd::is_installed() {
        print::warning(sentence::NO_UNIT);
    }
    let folders = layout.service(service);
    client::start(&folders, generation).map_err(|error| {
        // What the supervisor saw it has noted already; what came before it, nobody has.
        let end = End::NeverHealthy { reason: Failure::of(&error) };
        if let Err(error) = History::of(&folders).ended(generation, end) {
            print::warning(&error.to_string());
        }
        error.into()
    })
}

/// Keeps a generation that serves.
pub(crate) fn keep(candidate: Candidate) {
    if let Err(error) = candidate.keep() {
        // The service is up, so the command has done what it was asked for.
        print::warning(&format!("{error}"));
    }
}

/// What is said of a service that is healthy.
pub(crate) fn healthy(service: &ServiceName, started: &Started) -> String {
    let took_ms = u64::try_from(started.took.as_millis()).unwrap_or(u64::MAX);
    sentence::healthy(service.as_str(), &started.release, started.generation, started.pid, took_ms)
}

/// Before anything is prepared: the runtime refuses as well, but only after all the copying.
fn refuse_if_running(folders: &ServiceFolders, service: &ServiceName) -> Result<(), Error> {
    let status = match runtime::status::look(folders) {
        // What may run of it is ended before it is started.
        Err(runtime::Error::RecordCorrupt { .. }) => return Ok(()),
        status => status?,
    };
    let Some(status) = status else { return Ok(()) };
    let up = matches!(status.record.state, State::Running | State::BackingOff);
    // One that lost its supervisor serves all the same.
    if status.alive || status.supervisor.is_some() && up {
        let release = status.record.release;
        return Err(runtime::Error::AlreadyRunning { service: service.to_string(), release }.into());
    }
    Ok(())
}
