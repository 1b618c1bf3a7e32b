//! Where an image's bytes are: documents and layers by their digests, whether in an archive or in a registry.
//! Does not know what documents say.

use std::io::{self, Read};
use std::sync::Arc;

use super::files::FileRange;
use crate::digest::Digest;
use crate::error::Result;

/// What a document is; a registry keeps manifests and configurations at different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// A manifest or an index.
    Manifest,
    /// An image's configuration.
    Configuration,
}

/// A place with blobs.
pub(crate) trait Blobs {
    /// What messages call the whole.
    fn origin(&self) -> &str;

    /// A JSON document, whose digest and length are the given ones. `title` is what messages call it.
    fn document(&self, kind: Document, digest: Digest, bytes: u64, title: &str) -> Result<Vec<u8>>;

    /// A layer, which is not read yet.
    fn layer(&self, digest: Digest, bytes: u64, title: &str) -> Result<Blob>;
}

/// A blob that can be read, from its beginning, as often as one likes, by several at once.
#[derive(Clone)]
pub(crate) enum Blob {
    /// A part of a file.
    Range(FileRange),
    /// What comes from elsewhere.
    Remote(Arc<dyn Remote>),
}

/// A blob that comes from elsewhere.
pub(crate) trait Remote: Send + Sync {
    /// Its length, as its descriptor says. What is read is as long or ends with an error.
    fn bytes(&self) -> u64;

    /// Begins to read it. An error on the way can be an `Arc` of this room's [`Error`](crate::Error).
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
}

impl Blob {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Range(range) => range.len(),
            Self::Remote(remote) => remote.bytes(),
        }
    }

    /// Reads it from its beginning.
    pub(crate) fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Range(range) => Ok(Box::new(range.clone())),
            Self::Remote(remote) => remote.open(),
        }
    }
}
