//! From a service and an image to a generation that is ready to be started: everything slow and fallible is here.
//! It starts nothing; when it fails, nothing it made is left but folders of the service that were missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bundles::account;
use bundles::bundle::{self, BundleRequest, ImageFacts, Seccomp, Unpacked};
use runtime::crash_point;
use runtime::definition::{ANNOTATION, Definition};
use runtime::limits::ALLOW_UNENFORCED;

use crate::catalogue;
use crate::definition::{Subject, decide};
use crate::error::Error;
use crate::generation::Candidate;
use crate::layout::Layout;
use crate::limits::{self, Host, Limits};
use crate::mounts::Volume;
use crate::one_shot::OneShot;
use crate::own_folders::{OwnFolders, binds_of};
use crate::release::Release;
use crate::service_name::ServiceName;
use crate::settings::Settings;
use crate::settings_value::SeccompChoice;
use crate::wishes::{self, Wishes};

/// What is said about a service: by its operator, and by the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// `/etc/opsrun/NAME.toml`.
    pub own: Settings,
    /// The catalogue's entry.
    pub listed: Settings,
    /// The first over the second.
    pub both: Settings,
}

impl Said {
    /// What is said about an image that is no service's.
    pub(crate) fn nothing() -> Self {
        Self { own: Settings::default(), listed: Settings::default(), both: Settings::default() }
    }

    /// What is said about a service.
    ///
    /// # Errors
    /// [`Error::Settings`], [`Error::Io`].
    pub(crate) fn about(layout: &Layout, service: &ServiceName) -> Result<Self, Error> {
        let own = Settings::read(&layout.settings(service))?;
        let listed = catalogue::entry(service).unwrap_or_default();
        let both = own.clone().over(listed.clone());
        Ok(Self { own, listed, both })
    }

    /// What of the configuration is live: bound as it is on the host, and in no generation.
    pub(crate) fn live(&self) -> Vec<PathBuf> {
        let live = self.both.configuration.live.iter().flatten();
        live.map(|entry| entry.as_path().to_owned()).collect()
    }

    /// The settings' volumes and then those that were typed, which win.
    pub(crate) fn volumes(&self, wishes: &Wishes) -> Vec<Volume> {
        [self.both.volumes.clone(), wishes.volumes.clone()].concat()
    }

    /// The settings' limits, and those that were typed, which win.
    pub(crate) fn limits(&self, wishes: &Wishes) -> Limits {
        wishes.limits.clone().over(self.both.limits.clone())
    }

    /// The settings' variables and then those that were typed, which win.
    pub(crate) fn environment(&self, wishes: &Wishes) -> Vec<(String, String)> {
        self.both.environment.clone().into_iter().chain(wishes.environment.iter().cloned()).collect()
    }
}

/// Prepares the next generation of a service.
///
/// Its configuration is the service's own, or the one in the folder `configuration` when there is one.
///
/// The order is: look at everything that can be wrong first, then make what is missing, and take a number last.
///
/// # Errors
/// [`Error::NoConfiguration`], [`Error::Access`], [`Error::Rules`], and those of
/// [`bundle::prepare`].
pub(crate) fn generation(
    layout: &Layout,
    service: &ServiceName,
    release: &Release,
    said: &Said,
    wishes: &Wishes,
    configuration: Option<&Path>,
) -> Result<Candidate, Error> {
    let folders = layout.service(service);
    let image = &release.image;
    let facts = image.facts()?;
    let volumes = said.volumes(wishes);
    // Before anything is made: a limit that cannot be kept is known without.
    let limits = limits_in_files(&said.limits(wishes))?;
    let mut definition = definition(layout, service, release, said, &facts)?;
    let view = image.view()?;
    let account = account::resolve(&view, said.both.user.as_deref().or(facts.user.as_deref()))?;
    let own = OwnFolders::of(layout, service, &view, &facts, (&said.own, &said.listed), &volumes)?;
    let own = own.with_configuration(configuration)?;
    own.check_configuration()?;
    own.make_missing(&view, &account)?;
    own.check_access(&account)?;

    let candidate = Candidate::take(&folders, &said.both.generations)?;
    definition.generation = candidate.number();
    crash_point::here();
    own.copy_configuration(&candidate.configuration())?;
    crash_point::here();
    let id = Layout::container_id(service, candidate.number());
    let host = folders.host_files();
    let request = BundleRequest {
        arguments: said.both.command.clone(),
        entrypoint: said.both.entrypoint.clone(),
        mounts: [own.for_generation(&candidate.configuration()), binds_of(&volumes)].concat(),
        annotations: annotations(said, wishes, [(ANNOTATION, definition.to_annotation())]),
        limits,
        ..request(image.clone(), &candidate.folder(), layout.cgroup(&id), &host, said, wishes)?
    };
    bundle::prepare(&request, &view)?;
    Ok(candidate)
}

/// The limits as the container's cgroup gets them, after a look at whether this host can keep them.
///
/// # Errors
/// [`Error::Limits`]; [`runtime::Error::Limit`], unless they may be unenforced.
pub(crate) fn limits_in_files(said: &Limits) -> Result<BTreeMap<String, String>, Error> {
    let files = said.to_files(&Host::here())?;
    match runtime::limits::check(&files) {
        Err(runtime::Error::Limit { .. }) if said.may_be_unenforced() => {}
        checked => checked?,
    }
    Ok(files)
}

/// What a bundle says beside the specification: what it was made with.
fn annotations<const N: usize>(
    said: &Said,
    wishes: &Wishes,
    more: [(&str, String); N],
) -> BTreeMap<String, String> {
    let limits = said.limits(wishes);
    let mut annotations = BTreeMap::from([
        (wishes::ANNOTATION.to_owned(), wishes.to_annotation()),
        (limits::ANNOTATION.to_owned(), limits.to_annotation()),
    ]);
    if limits.may_be_unenforced() {
        annotations.insert(ALLOW_UNENFORCED.to_owned(), "true".to_owned());
    }
    annotations.extend(more.map(|(key, value)| (key.to_owned(), value)));
    annotations
}

/// The rules of the generation, which has no number yet.
///
/// # Errors
/// [`Error::Rules`].
pub(crate) fn definition(
    layout: &Layout,
    service: &ServiceName,
    release: &Release,
    said: &Said,
    facts: &ImageFacts,
) -> Result<Definition, Error> {
    let subject = Subject {
        service: service.to_string(),
        release: release.release.clone(),
        image: release.name.clone(),
        image_id: release.image_id.clone(),
        generation: 0,
    };
    decide(subject, &said.own, &said.listed, facts).map_err(|reason| Error::Rules {
        service: service.to_string(),
        settings: layout.settings(service),
        reason,
    })
}

/// What all one-shot containers of an image have in common.
///
/// # Errors
/// As [`request`] and [`limits_in_files`].
pub(crate) fn one_shot_request(
    image: Unpacked,
    place: &OneShot,
    said: &Said,
    wishes: &Wishes,
) -> Result<BundleRequest, Error> {
    Ok(BundleRequest {
        annotations: annotations(said, wishes, []),
        limits: limits_in_files(&said.limits(wishes))?,
        // After a power cut the next one-shot sweeps it away, whatever is left of it.
        fleeting: true,
        ..request(image, &place.bundle(), place.cgroup(), &place.host_files(), said, wishes)?
    })
}

/// What a service's generation and a one-shot container of its image have in common.
///
/// # Errors
/// [`Error::Io`] when there is no place for the copies of the host's files.
fn request(
    image: Unpacked,
    folder: &Path,
    cgroup: String,
    host_files: &Path,
    said: &Said,
    wishes: &Wishes,
) -> Result<BundleRequest, Error> {
    let settings = &said.both;
    Ok(BundleRequest {
        environment: said.environment(wishes),
        user: settings.user.clone(),
        host_files: places_for_host_files(host_files)?,
        dev_log: Path::new("/dev/log").exists(),
        read_only_root: settings.read_only.unwrap_or(false),
        no_new_privileges: settings.no_new_privileges.unwrap_or(true),
        seccomp: match &settings.seccomp {
            None | Some(SeccompChoice::Default) => Seccomp::Default,
            Some(SeccompChoice::Unconfined) => Seccomp::Unconfined,
            Some(SeccompChoice::Profile(path)) => Seccomp::Profile(path.clone()),
        },
        capabilities_add: settings.capabilities_add.clone(),
        capabilities_drop: settings.capabilities_drop.clone(),
        ..BundleRequest::of(image, folder, cgroup)
    })
}

/// The container's resolv.conf and hosts, and where it sees them. Whoever runs the bundle fills them and keeps them equal
/// to the host's; a bundle can only mount what is there, so here they are made, empty.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn places_for_host_files(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let failed = |error| Error::io("make a place for the container's host files", error);
    fs_err::create_dir_all(folder).map_err(failed)?;
    let mut places = Vec::new();
    for name in ["resolv.conf", "hosts"] {
        let place = runtime::folders::host_file(folder, name);
        // Never emptied: another generation's container may be looking at it.
        fs_err::OpenOptions::new().create(true).append(true).open(&place).map_err(failed)?;
        places.push((place, Path::new("/etc").join(name)));
    }
    Ok(places)
}
