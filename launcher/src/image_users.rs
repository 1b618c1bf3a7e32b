//! Which images are in use, and by whom.
//! It knows records and generations; what an image consists of is others' business.

use std::collections::BTreeMap;

use bundles::digest::Digest;
use runtime::record::Record;

use crate::commands::services;
use crate::error::Error;
use crate::generation;
use crate::layout::Layout;
use crate::one_shot;
use crate::print::sentence;

/// Every image that a service has in its record or in one of the generations it keeps, or that a command runs in.
///
/// # Errors
/// [`Error::Runtime`] when a record cannot be read, [`Error::Io`].
pub(crate) fn needed(layout: &Layout) -> Result<BTreeMap<Digest, String>, Error> {
    of_services(layout, false)
}

/// Every image of a service that is up, in whichever generation, or that a command runs in.
///
/// # Errors
/// As [`needed`].
pub(crate) fn running(layout: &Layout) -> Result<BTreeMap<Digest, String>, Error> {
    of_services(layout, true)
}

fn of_services(layout: &Layout, only_running: bool) -> Result<BTreeMap<Digest, String>, Error> {
    let mut users = BTreeMap::new();
    for service in services(layout)? {
        let folders = layout.service(&service);
        let is_up = match runtime::status::look(&folders)? {
            Some(status) => status.alive || status.supervisor.is_some(),
            None => false,
        };
        if only_running && !is_up {
            continue;
        }
        let mut ids = generation::images(&folders)?;
        ids.extend(Record::read(&folders)?.map(|record| record.image_id));
        users.extend(ids.iter().filter_map(|id| Some((id.parse().ok()?, service.to_string()))));
    }
    for (image, id) in one_shot::users(layout)? {
        users.extend(image.parse().ok().map(|image: Digest| (image, sentence::one_shot(&id))));
    }
    Ok(users)
}
