//! `config init`: gives a service the configuration that its image came with, for its operator to edit.
//! It never overwrites anything.

use bundles::store::Store;
use runtime::record::Record;

use crate::arguments::ConfigInit;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::own_folders::{OwnFolders, is_empty};
use crate::prepare::Said;
use crate::print::{self, sentence};
use crate::release::{self, Asker, Wanted};

/// Copies the image's own configuration to the service's folder.
///
/// # Errors
/// [`Error::ConfigurationNotEmpty`], [`Error::ImageWithoutConfiguration`], those of [`release::find`], and
/// [`Error::Bundles`], [`Error::Io`].
pub(crate) fn config_init(layout: &Layout, arguments: &ConfigInit) -> Result<Exit, Error> {
    let service = &arguments.service;
    let said = Said::about(layout, service)?;
    let store = Store::open(&layout.store())?;
    let last = Record::read(&layout.service(service))?.map(|record| record.release);
    let wanted = Wanted { typed: arguments.from.as_deref(), last: last.as_deref(), by: Asker::ConfigInit };
    let release = release::find(&store, service, said.both.image.as_deref(), wanted)?;

    let folder = layout.own(service).configuration();
    if !is_empty(&folder)? {
        return Err(Error::ConfigurationNotEmpty { folder });
    }
    let view = release.image.view()?;
    let own =
        OwnFolders::of(layout, service, &view, &release.image.facts()?, (&said.own, &said.listed), &[])?;
    let without = |inside| Error::ImageWithoutConfiguration {
        image: release.name.clone(),
        folder: inside,
        into: folder.clone(),
    };
    let inside = own.configuration().map(|mount| mount.container.clone()).ok_or_else(|| without(None))?;
    if !view.exists(&inside)? {
        return Err(without(Some(inside)));
    }
    if let Some(home) = folder.parent() {
        fs_err::create_dir_all(home).map_err(|error| Error::io("make the service's own folder", error))?;
    }
    view.copy_tree(&inside, &folder)?;
    if is_empty(&folder)? {
        return Err(without(Some(inside)));
    }
    print::note(&sentence::configured(&folder, &release.name, &inside));
    Ok(Exit::Done)
}
