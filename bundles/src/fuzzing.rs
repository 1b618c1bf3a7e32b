//! Doors for the fuzz targets in `tests/fuzz`, which feed parts of this room with anything; no other build has them.
//! Knows nothing that the parts do not.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::archive::{self, Blob, FileRange, FoundLayer, Platform, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::bounds::{Bounds, Meter};
use crate::{layer, store};

/// An image that was found: its id, and its layers' lengths.
pub type FoundImage = (Digest, Vec<u64>);

/// Finds the images of an archive, for one platform whatever the host is.
///
/// # Errors
/// All that loading has for archives.
pub fn find(source: &Source, spool: OwnedFd) -> Result<Vec<FoundImage>> {
    let platform: Platform = "linux/amd64".parse()?;
    let findings = archive::find(source, &platform, spool, Bounds::default())?;
    let lengths = |layers: &[FoundLayer]| layers.iter().map(|layer| layer.blob.len()).collect();
    Ok(findings.images.iter().map(|image| (image.id, lengths(&image.layers))).collect())
}

/// Unpacks a layer into a folder. `frame` is an empty file, open for reading and writing.
///
/// # Errors
/// All that loading has for layers.
pub fn unpack(blob: File, diff_id: Digest, into: OwnedFd, trash: OwnedFd, frame: &File) -> Result<()> {
    let blob = FileRange::rest_of(Arc::new(blob)).map_err(|error| Error::io("look at the layer", error))?;
    let blob = Blob::Range(blob);
    let layer = FoundLayer { title: "layer 1".to_owned(), diff_id, digest: None, compression: None, blob };
    layer::unpack(&layer, into, trash, frame, &Meter::new(Bounds::default()), &mut |_| ()).map(|_| ())
}

/// Removes all that is in a folder, as the store does.
///
/// # Errors
/// [`Error::Io`].
pub fn empty(folder: &Path) -> Result<()> {
    store::empty(folder)
}
