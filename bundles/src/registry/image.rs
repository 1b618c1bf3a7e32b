//! Finds an image in a registry: its manifest, by way of an index or not, and its configuration.
//! Reads no layer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::blob::{Others, RemoteLayer};
use super::place::Located;
use super::session::{Ask, Session, SharedSession};
use super::{Conversation, Registries};
use crate::archive::{self, Blob, Blobs, Document, Found, INDEXES, MANIFESTS, Platform};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Registries allow 4 MiB (distribution-spec, "Pushing Manifests").
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// What Docker had before 2016.
const SCHEMA_ONE: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Finds an image, at its mirrors first. `known` gives configurations that are here already.
pub(crate) fn find(
    registries: &Registries,
    located: &Located,
    platform: &Platform,
    conversation: &Conversation,
    known: &dyn Fn(Digest) -> Option<Vec<u8>>,
) -> Result<Found> {
    let wanted = &located.reference;
    let wanted = match (&wanted.digest, &wanted.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    };
    let (own, mirrors) = located.repositories.split_last().ok_or(Error::Interrupted)?;
    for (at, mirror) in mirrors.iter().enumerate() {
        let others = Others::new(&located.repositories[at + 1..], registries, conversation);
        let found = Session::new(mirror.clone(), registries, conversation).and_then(|session| {
            let session = Arc::new(session);
            // One that is away costs one attempt and no more; one that has the image is relied on.
            session.hurry(true);
            let found = of_session(Arc::clone(&session), others, located, &wanted, platform, known);
            session.hurry(false);
            found
        });
        match found {
            Err(error) if !conversation.is_stopped() => conversation.say(&error, None),
            other => return other,
        }
    }
    let session = Session::new(own.clone(), registries, conversation)?;
    let others = Others::new(&[], registries, conversation);
    of_session(Arc::new(session), others, located, &wanted, platform, known)
}

fn of_session(
    session: SharedSession,
    others: Others,
    located: &Located,
    wanted: &str,
    platform: &Platform,
    known: &dyn Fn(Digest) -> Option<Vec<u8>>,
) -> Result<Found> {
    let origin = match located.reference.digest {
        Some(digest) => format!("{}@{digest}", session.repository),
        None => format!("{}:{wanted}", session.repository),
    };
    let image = RemoteImage { session, others: Arc::new(others), origin, kept: Mutex::default(), known };
    let (media_type, digest, bytes) = image.top(wanted, located.reference.digest)?;
    let mut found = archive::describe(&image, &media_type, digest, bytes, platform)?;
    // A digest is no name that an image could have.
    let mut name = located.reference.clone();
    name.digest = None;
    found.names = name.tag.is_some().then_some(name).into_iter().collect();
    Ok(found)
}

/// An image in a registry.
struct RemoteImage<'a> {
    session: SharedSession,
    others: Arc<Others>,
    origin: String,
    /// What was read already.
    kept: Mutex<HashMap<Digest, Vec<u8>>>,
    known: &'a dyn Fn(Digest) -> Option<Vec<u8>>,
}

/// What tells manifests from indexes where the header does not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl RemoteImage<'_> {
    /// The manifest or index that a tag or digest means: its media type, digest and length.
    fn top(&self, wanted: &str, expected: Option<Digest>) -> Result<(String, Digest, u64)> {
        let path = format!("manifests/{wanted}");
        let accept = [&MANIFESTS[..], &INDEXES[..]].concat().join(", ");
        let ask = Ask { path: &path, accept: &accept, from: 0 };
        let answered = self.session.document(&ask, DOCUMENT_BYTES_MAX);
        let (document, headers) = answered.map_err(|error| match error {
            Error::Answered { status: 404, .. } => self.session.not_found(&self.origin),
            other => other,
        })?;
        let found = Digest::of(&document);
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let said = header("content-type").map(|text| text.split(';').next().unwrap_or_default().trim());
        // Before the digest, which here is that of a part of it: what was signed.
        if said.is_some_and(|said| SCHEMA_ONE.contains(&said)) {
            return Err(Error::SchemaOne { origin: self.origin.clone() });
        }
        let told = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        if let Some(expected) = expected.or(told).filter(|expected| *expected != found) {
            let blob = format!("the manifest of {}", self.origin);
            return Err(Error::WrongDigest { blob, expected, found });
        }
        let media_type = self.media_type(&document, said)?;
        let bytes = document.len() as u64;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(found, document);
        Ok((media_type, found, bytes))
    }

    /// What a document is, by what the header and it itself say.
    fn media_type(&self, document: &[u8], header: Option<&str>) -> Result<String> {
        let title = format!("the manifest of {}", self.origin);
        let shape: Shape = serde_json::from_slice(document).map_err(|source| Error::Document {
            origin: self.session.host().to_owned(),
            document: title.clone(),
            source,
        })?;
        if shape.schema_version == Some(1) {
            return Err(Error::SchemaOne { origin: self.origin.clone() });
        }
        let header = header.filter(|header| !matches!(*header, "" | "application/json" | "text/plain"));
        match (header, shape.media_type) {
            (Some(header), Some(own)) if header != own => {
                let reason = format!("{title} is said to be {}, and says itself to be {}", header, own);
                Err(self.session.nonsense(&super::answer::harmless(&reason)))
            }
            (Some(said), _) => Ok(said.to_owned()),
            (None, Some(own)) => Ok(own),
            // image-spec: the key may be absent.
            (None, None) if shape.manifests.is_some() => Ok(INDEXES[0].to_owned()),
            (None, None) => Ok(MANIFESTS[0].to_owned()),
        }
    }
}

impl Blobs for RemoteImage<'_> {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn document(&self, kind: Document, digest: Digest, bytes: u64, title: &str) -> Result<Vec<u8>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let document = match kept.or_else(|| (self.known)(digest).filter(|_| kind == Document::Configuration))
        {
            Some(document) => document,
            None => self.get(kind, digest, title)?,
        };
        if document.len() as u64 != bytes {
            let found = document.len() as u64;
            return Err(Error::WrongSize { blob: title.to_owned(), expected: bytes, found });
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, document.clone());
        Ok(document)
    }

    fn layer(&self, digest: Digest, bytes: u64, title: &str) -> Result<Blob> {
        let (session, others) = (Arc::clone(&self.session), Arc::clone(&self.others));
        Ok(Blob::Remote(Arc::new(RemoteLayer { session, others, digest, bytes, title: title.to_owned() })))
    }
}

impl RemoteImage<'_> {
    fn get(&self, kind: Document, digest: Digest, title: &str) -> Result<Vec<u8>> {
        let (path, accept) = match kind {
            Document::Manifest => {
                (format!("manifests/{digest}"), [&MANIFESTS[..], &INDEXES[..]].concat().join(", "))
            }
            Document::Configuration => (format!("blobs/{digest}"), String::new()),
        };
        let ask = Ask { path: &path, accept: &accept, from: 0 };
        let answered = self.session.document(&ask, DOCUMENT_BYTES_MAX);
        let (document, _) = answered.map_err(|error| match error {
            Error::Answered { status: 404, .. } => {
                Error::BlobMissing { origin: self.origin.clone(), blob: title.to_owned() }
            }
            other => other,
        })?;
        match Digest::of(&document) {
            found if found == digest => Ok(document),
            found => Err(Error::WrongDigest { blob: title.to_owned(), expected: digest, found }),
        }
    }
}
