//! `rmi`: removes images that no service needs.
//! It does not know how layers are shared.

use std::cell::RefCell;

use bundles::digest::Digest;
use bundles::reference::Reference;
use bundles::store::Store;
use runtime::record::Record;

use crate::arguments::Rmi;
use crate::commands::services;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::one_shot;
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};

/// Removes images, each by itself: one that cannot be removed does not keep the others.
///
/// # Errors
/// The only error there was, or [`Error::Some`] after each was said.
pub(crate) fn rmi(layout: &Layout, arguments: &Rmi) -> Result<Exit, Error> {
    let store = Store::open(&layout.store())?;
    let mut failed = 0;
    for reference in &arguments.images {
        match remove(layout, &store, reference) {
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

fn remove(layout: &Layout, store: &Store, reference: &Reference) -> Result<(), Error> {
    // Asked while the store lets nobody else begin to use an image, so the answer stays true until it is removed.
    let unknown = RefCell::new(None);
    let in_use = |id: &Digest| match user_of(layout, &id.to_string()) {
        Ok(user) => user,
        Err(error) => {
            unknown.replace(Some(error));
            Some("a service whose record cannot be read".to_owned())
        }
    };
    let removed = store.remove_telling(reference, &in_use, &mut LayerBar::new());
    if let Some(error) = unknown.take() {
        return Err(error);
    }
    let removed = removed?;
    if removed.is_gone {
        print::note(&sentence::removed_image(&reference.to_string(), removed.layers, removed.bytes));
    } else {
        let still = store.find(&Reference::id(removed.image))?.title();
        print::note(&sentence::untagged(&reference.to_string(), &still));
    }
    Ok(())
}

/// Who uses an image: a service by its record or by a generation it can go back to, or a one-shot container.
fn user_of(layout: &Layout, image_id: &str) -> Result<Option<String>, Error> {
    for service in services(layout)? {
        let folders = layout.service(&service);
        let record = Record::read(&folders)?;
        if record.is_some_and(|record| record.image_id == image_id) {
            return Ok(Some(service.to_string()));
        }
        if generation::images(&folders)?.iter().any(|kept| kept == image_id) {
            return Ok(Some(sentence::past_generation(service.as_str())));
        }
    }
    Ok(one_shot::user_of(layout, image_id)?.map(|id| sentence::one_shot(&id)))
}
