//! Finds the images in what a person gives to `load`: an archive file, a layout folder, or standard input. Also puts an
//! archive where `save` is told to. Reads no layer and knows no store; it says where the layers' bytes are and what they
//! must be.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::bounds::Bounds;
use crate::layer::compression::{self, Compression};
use crate::reference::Reference;

mod blob;
mod docker;
mod files;
mod oci;
mod platform;
mod spool;
mod target;

pub(crate) use blob::{Blob, Blobs, Document, Remote};
pub(crate) use files::FileRange;
use files::Files;
pub(crate) use oci::{INDEXES, MANIFESTS, describe};
pub use platform::Platform;
pub(crate) use spool::nameless;
pub use target::Target;
pub(crate) use target::{Fault, Outgoing};

/// An image of more layers cannot be run: overlayfs takes no more (OVL_MAX_STACK in the kernel's fs/overlayfs/params.c).
const LAYERS_MAX: usize = 500;

/// What to load from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A docker-archive or an oci-archive, also compressed with gzip or zstd as a whole.
    File(PathBuf),
    /// An OCI image layout.
    Folder(PathBuf),
    /// An archive on standard input.
    Stdin,
}

impl Source {
    /// What an argument means: `-` is standard input, a folder a layout, anything else an archive.
    ///
    /// # Errors
    /// [`Error::NoSource`] if nothing is there.
    pub fn of(argument: impl AsRef<Path>) -> Result<Self> {
        let path = argument.as_ref();
        if path.as_os_str() == "-" {
            return Ok(Self::Stdin);
        }
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(path.to_owned())),
            Ok(_) => Ok(Self::File(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoSource { path: path.to_owned() })
            }
            Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
        }
    }

    /// What messages call it.
    fn origin(&self) -> String {
        match self {
            Self::File(path) | Self::Folder(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }
}

/// An image in an archive.
pub(crate) struct Found {
    /// The names that the archive gives it; those without a tag have got `latest`.
    pub(crate) names: Vec<Reference>,
    /// A tag without a name, as `skopeo copy … oci:FOLDER:TAG` leaves it.
    pub(crate) bare_tag: Option<String>,
    /// The digest of its configuration.
    pub(crate) id: Digest,
    /// The digest of its manifest, if the archive has one.
    pub(crate) manifest: Option<Digest>,
    /// Its configuration, byte for byte.
    pub(crate) raw_configuration: Vec<u8>,
    /// Its layers, the bottom one first.
    pub(crate) layers: Vec<FoundLayer>,
}

/// A layer in an archive.
pub(crate) struct FoundLayer {
    /// What messages call it.
    pub(crate) title: String,
    /// What its uncompressed content must have.
    pub(crate) diff_id: Digest,
    /// What its bytes in the archive must have, if the archive says so.
    pub(crate) digest: Option<Digest>,
    /// How its media type says that it is compressed.
    pub(crate) compression: Option<Compression>,
    pub(crate) blob: Blob,
}

/// The images of an archive, and what messages call the archive.
pub(crate) struct Findings {
    pub(crate) origin: String,
    pub(crate) images: Vec<Found>,
}

/// Opens an archive and finds its images for a platform. What has to be kept to be read again goes into a nameless
/// file in the folder `spool`.
pub(crate) fn find(
    source: &Source,
    platform: &Platform,
    spool: impl AsFd,
    bounds: Bounds,
) -> Result<Findings> {
    let origin = source.origin();
    let files = match source {
        Source::Folder(path) => Files::folder(path.clone(), origin.clone()),
        Source::File(path) => {
            let file = File::open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NoSource { path: path.clone() },
                _ => Error::io(format!("open {origin}"), error),
            })?;
            Files::archive(seekable(file, spool, &origin, bounds)?, origin.clone())?
        }
        Source::Stdin => {
            let stdin = io::stdin();
            let file = stdin.as_fd().try_clone_to_owned();
            let file = file.map_err(|error| Error::io("read standard input", error))?;
            Files::archive(seekable(file.into(), spool, &origin, bounds)?, origin.clone())?
        }
    };
    let images = if files.has(oci::INDEX)? && files.has(oci::LAYOUT)? {
        // Docker from release 25 on writes both kinds into one; this one has digests for everything.
        oci::find(&files, platform)?
    } else if files.has(docker::MANIFEST)? {
        docker::find(&files, platform)?
    } else {
        return Err(files.no_image());
    };
    if images.is_empty() {
        return Err(Error::NotAnImage { origin, reason: "its list of images is empty".to_owned() });
    }
    Ok(Findings { origin, images })
}

/// The archive as a file that can be read from anywhere: itself where it is a plain file, else a copy of it.
fn seekable(file: File, spool: impl AsFd, origin: &str, bounds: Bounds) -> Result<FileRange> {
    let failed = |error: io::Error| Error::io(format!("read {origin}"), error);
    let whole = if file.metadata().map_err(failed)?.is_file() {
        FileRange::rest_of(Arc::new(file)).map_err(failed)?
    } else {
        spool::keep(file, spool.as_fd(), origin, bounds)?
    };
    if whole.is_empty() {
        return Err(Error::NotAnImage { origin: origin.to_owned(), reason: "it is empty".to_owned() });
    }
    let mut first = [0; compression::MAGIC_BYTES];
    let there = whole.read_at_most(&mut first).map_err(failed)?;
    match compression::by_magic(&first[..there]) {
        Ok(Compression::Plain) => Ok(whole),
        Ok(packed) => spool::unpack(whole, packed, spool.as_fd(), origin, bounds),
        Err(other) => Err(Error::NotAnImage {
            origin: origin.to_owned(),
            reason: format!("it is compressed with {other}, which is not supported"),
        }),
    }
}

/// Understands an image's configuration.
pub(crate) fn parse_configuration(raw: &[u8]) -> Result<ImageConfiguration, serde_json::Error> {
    serde_json::from_slice(raw)
}

/// The configuration of an image in an archive, which must be for the platform.
fn configuration_for(
    origin: &str,
    raw: &[u8],
    id: Digest,
    wanted: &Platform,
) -> Result<(ImageConfiguration, Vec<Digest>)> {
    let document = format!("the configuration {id}");
    let configuration =
        parse_configuration(raw).map_err(|source| not_understood(origin, &document, source))?;
    let platform = Platform::of_configuration(&configuration);
    if wanted.rank(&platform).is_none() {
        return Err(Error::OtherPlatform {
            origin: origin.to_owned(),
            wanted: wanted.to_string(),
            have: vec![platform.to_string()],
        });
    }
    let diff_ids: Vec<Digest> =
        configuration.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<_>>()?;
    if diff_ids.is_empty() {
        let reason = format!("{document} names no layers");
        return Err(Error::NotAnImage { origin: origin.to_owned(), reason });
    }
    if diff_ids.len() > LAYERS_MAX {
        let reason =
            format!("it has {} layers, and no more than {LAYERS_MAX} can be mounted", diff_ids.len());
        return Err(Error::NotAnImage { origin: origin.to_owned(), reason });
    }
    Ok((configuration, diff_ids))
}

/// The error for a JSON document that makes no sense.
fn not_understood(origin: &str, document: &str, source: serde_json::Error) -> Error {
    Error::Document { origin: origin.to_owned(), document: document.to_owned(), source }
}

/// What messages call a layer: its number from the bottom, beginning with 1, and what it is known by.
fn layer_title(index: usize, known_by: impl std::fmt::Display) -> String {
    format!("layer {} ({known_by})", index + 1)
}
