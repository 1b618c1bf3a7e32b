//! `run`: one command in a container of its own, in the foreground, with the service's folders when the image is one's.
//! It does not know how a container is made.

use bundles::account;
use bundles::bundle::{self, BundleRequest};
use bundles::reference::Reference;
use bundles::rootfs::RootView;
use bundles::store::Store;
use runtime::foreground;

use crate::arguments::Run;
use crate::catalogue;
use crate::commands::exec::attachment;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::one_shot::OneShot;
use crate::own_folders::{OwnFolders, binds_of, is_empty};
use crate::prepare::{Said, one_shot_request};
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::release::{self, Release};
use crate::service_name::ServiceName;
use crate::wishes::Wishes;

/// Runs the command and ends as it does; the container is gone afterwards.
///
/// # Errors
/// Any; nothing of the container is left then.
pub(crate) fn run(layout: &Layout, arguments: Run) -> Result<Exit, Error> {
    let store = Store::open(&layout.store())?;
    // Until the one-shot's place says that the image is in use.
    let held = store.hold_telling(&mut LayerBar::new())?;
    let image = store.find(&arguments.image)?;
    let release = release::of_image(&store, &image, &arguments.image)?;
    let service = image.names.iter().chain([&arguments.image]).find_map(|name| service_of(layout, name));
    let said = match &service {
        Some(service) => Said::about(layout, service)?,
        None => Said::nothing(),
    };
    let one_shot = OneShot::take(layout, arguments.name.as_ref(), &release.image_id)?;
    drop(held);
    prepare(layout, &arguments, &release, service.as_ref(), &said, &one_shot)?;
    let status = foreground::run(&foreground::Request {
        bundle: one_shot.bundle(),
        run_folder: one_shot.run_folder(),
        init: said.both.init.unwrap_or(true),
        attachment: attachment(&arguments.session),
    })?;
    Ok(Exit::of_command(status))
}

fn prepare(
    layout: &Layout,
    arguments: &Run,
    release: &Release,
    service: Option<&ServiceName>,
    said: &Said,
    one_shot: &OneShot,
) -> Result<(), Error> {
    let wishes = Wishes::from(arguments.more.clone());
    let volumes = said.volumes(&wishes);
    let view = release.image.view()?;
    let mut binds = match service {
        Some(service) => own_binds(layout, service, release, &view, said, &volumes)?,
        None => Vec::new(),
    };
    binds.extend(binds_of(&volumes));
    let user = arguments.session.user.clone().or(said.both.user.clone());
    // An empty one takes the image's away, as Docker has it.
    let entrypoint = arguments.entrypoint.as_ref().map(|program| match program.is_empty() {
        true => Vec::new(),
        false => vec![program.clone()],
    });
    let request = BundleRequest {
        arguments: if arguments.command.is_empty() { None } else { Some(arguments.command.clone()) },
        entrypoint,
        user,
        working_directory: arguments.session.workdir.clone(),
        mounts: binds,
        terminal: arguments.session.tty,
        ..one_shot_request(release.image.clone(), one_shot, said, &wishes)?
    };
    bundle::prepare(&request, &view)?;
    Ok(())
}

/// The service's own folders, the configuration itself among them.
fn own_binds(
    layout: &Layout,
    service: &ServiceName,
    release: &Release,
    view: &RootView,
    said: &Said,
    volumes: &[crate::mounts::Volume],
) -> Result<Vec<bundle::Mount>, Error> {
    let facts = release.image.facts()?;
    let account = account::resolve(view, said.both.user.as_deref().or(facts.user.as_deref()))?;
    let own = OwnFolders::of(layout, service, view, &facts, (&said.own, &said.listed), volumes)?;
    own.make_missing(view, &account)?;
    if let Some(configuration) = own.configuration()
        && is_empty(&configuration.host)?
    {
        print::warning(&sentence::image_configuration(service.as_str(), &configuration.host));
    }
    own.for_run()
}

/// The service that an image of this name belongs to: one of the catalogue, or one that this host has.
fn service_of(layout: &Layout, name: &Reference) -> Option<ServiceName> {
    let service: ServiceName = name.name.rsplit('/').next()?.parse().ok()?;
    let is_here = layout.settings(&service).exists() || layout.own(&service).configuration().exists();
    (catalogue::knows(&service) || is_here).then_some(service)
}
