//! `inspect`: all that is known of a service or an image, as JSON.
//! It changes nothing.

use bundles::reference::Reference;
use bundles::store::Store;

use crate::arguments::{Inspect, InspectKind};
use crate::commands::images::Sharing;
use crate::commands::status::describe;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::listing::{InspectedImage, InspectedService, VERSION};
use crate::print;
use crate::service_name::ServiceName;

/// Shows a service; an image when there is no service of that name, or when only images are asked for.
///
/// # Errors
/// [`Error::NoService`], [`Error::Bundles`], [`Error::Runtime`].
pub(crate) fn inspect(layout: &Layout, arguments: &Inspect) -> Result<Exit, Error> {
    let subject = &arguments.subject;
    if arguments.kind != Some(InspectKind::Image) {
        // What is no service's name can only be an image's.
        if let Ok(name) = subject.parse::<ServiceName>()
            && let Some(status) = runtime::status::look(&layout.service(&name))?
        {
            let generation = layout.service(&name).generation(status.record.generation);
            print::json(&InspectedService {
                version: VERSION,
                status: describe(layout, &name, &status)?,
                specification: generation::read(&generation).map(|made| made.specification),
                record: status.record,
            })?;
            return Ok(Exit::Done);
        }
        if arguments.kind == Some(InspectKind::Service) {
            return Err(Error::NoService { service: subject.clone(), have: Vec::new() });
        }
    }
    let reference: Reference = subject.parse()?;
    let store = Store::open(&layout.store())?;
    let image = store.find(&reference)?;
    let raw = store.raw_configuration(&image)?;
    let configuration = serde_json::from_slice(&raw).map_err(|source| {
        let (origin, document) = (image.title(), "the image's configuration".to_owned());
        bundles::Error::Document { origin, document, source }
    })?;
    let image = Sharing::of(&store.images()?).describe(&image);
    print::json(&InspectedImage { version: VERSION, image, configuration })?;
    Ok(Exit::Done)
}
