//! `rmi`: removes images that no service needs.
//! It does not know how layers are shared.

use std::collections::BTreeMap;

use bundles::digest::Digest;
use bundles::reference::Reference;
use bundles::store::{Removed, Store};
use runtime::record::Record;

use crate::arguments::Rmi;
use crate::commands::services;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::{self, sentence};

/// Removes images, each by itself: one that cannot be removed does not keep the others.
///
/// # Errors
/// The only error there was, or [`Error::Some`] after each was said.
pub(crate) fn rmi(layout: &Layout, arguments: &Rmi) -> Result<Exit, Error> {
    let store = Store::open(&layout.store())?;
    let users = users(layout)?;
    let in_use = |id: &Digest| users.get(&id.to_string()).cloned();
    let mut failed = 0;
    for reference in &arguments.images {
        let outcome = store.remove(reference, &in_use).map_err(Error::from);
        match outcome.and_then(|removed| say(&store, reference, &removed)) {
            Ok(()) => {}
            Err(error) if arguments.images.len() == 1 => return Err(error),
            Err(error) => {
                print::failure(&error);
                failed += 1;
            }
        }
    }
    if failed > 0 { Err(Error::Some { failed, asked: arguments.images.len() }) } else { Ok(Exit::Done) }
}

fn say(store: &Store, reference: &Reference, removed: &Removed) -> Result<(), Error> {
    if removed.is_gone {
        print::note(&sentence::removed_image(&reference.to_string(), removed.layers, removed.bytes));
        return Ok(());
    }
    let still = store.find(&Reference::id(removed.image))?.title();
    print::note(&sentence::untagged(&reference.to_string(), &still));
    Ok(())
}

/// Which service uses which image, by the records. A record that cannot be read could be of any image, so it stops the
/// removal.
fn users(layout: &Layout) -> Result<BTreeMap<String, String>, Error> {
    let mut users = BTreeMap::new();
    for service in services(layout)? {
        let folders = layout.service(&service);
        if let Some(record) = Record::read(&folders)? {
            users.insert(record.image_id, service.to_string());
        }
    }
    Ok(users)
}
