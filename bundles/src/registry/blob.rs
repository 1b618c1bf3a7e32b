//! Reads a layer from a registry; where it breaks off it is resumed, there or at the next place that has it, so that
//! whoever reads it does not notice.
//! Does not check its digest: the unpacker hashes what comes.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::BodyReader;

use super::answer::Trouble;
use super::place::Repository;
use super::session::{Ask, Attempts, Session, SharedSession};
use super::{Conversation, Registries};
use crate::archive::Remote;
use crate::digest::Digest;
use crate::error::Error;

/// After this many bytes without trouble all attempts are there again: large layers over bad lines come through, and
/// one who breaks off after each byte does not keep anybody for ever.
const CALM_BYTES: u64 = 16 << 20;

/// A layer in a registry.
pub(super) struct RemoteLayer {
    pub(super) session: SharedSession,
    pub(super) others: Arc<Others>,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) title: String,
}

impl Remote for RemoteLayer {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Resuming {
            attempts: self.session.attempts(),
            session: Arc::clone(&self.session),
            others: Arc::clone(&self.others),
            others_tried: 0,
            path: format!("blobs/{}", self.digest),
            title: self.title.clone(),
            bytes: self.bytes,
            at: 0,
            calm_from: 0,
            body: None,
            failed: None,
        }))
    }
}

/// The places that may have what one has lost, in this order. None is spoken to, nor its credentials looked for,
/// before it is its turn.
pub(super) struct Others {
    repositories: Vec<Repository>,
    registries: Registries,
    conversation: Conversation,
    sessions: Mutex<Vec<SharedSession>>,
}

impl Others {
    pub(super) fn new(
        repositories: &[Repository],
        registries: &Registries,
        conversation: &Conversation,
    ) -> Self {
        Self {
            repositories: repositories.to_vec(),
            registries: registries.clone(),
            conversation: conversation.clone(),
            sessions: Mutex::default(),
        }
    }

    /// The one at this place of the list; all before it must have been asked for.
    fn get(&self, at: usize) -> Result<Option<SharedSession>, Error> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(at) {
            return Ok(Some(Arc::clone(session)));
        }
        let Some(repository) = self.repositories.get(at) else { return Ok(None) };
        let session = Arc::new(Session::new(repository.clone(), &self.registries, &self.conversation)?);
        sessions.push(Arc::clone(&session));
        Ok(Some(session))
    }
}

/// A layer on its way.
struct Resuming {
    session: SharedSession,
    others: Arc<Others>,
    others_tried: usize,
    path: String,
    title: String,
    bytes: u64,
    /// How many bytes have been read.
    at: u64,
    /// Where the last trouble was.
    calm_from: u64,
    body: Option<BodyReader<'static>>,
    attempts: Attempts,
    /// Why it ended; said again to everybody who goes on reading.
    failed: Option<Arc<Error>>,
}

impl Read for Resuming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(io::Error::other(Arc::clone(error)));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        self.next(buffer).map_err(|error| {
            let error = Arc::new(error);
            self.failed = Some(Arc::clone(&error));
            self.body = None;
            io::Error::other(error)
        })
    }
}

impl Resuming {
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.attempt(buffer) {
                Ok(count) => return Ok(count),
                Err(trouble) => {
                    self.body = None;
                    if self.at - self.calm_from >= CALM_BYTES {
                        self.attempts.refill(&self.session);
                    }
                    self.calm_from = self.at;
                    if let Err(given_up) = self.session.again(&mut self.attempts, trouble) {
                        self.go_elsewhere(given_up)?;
                    }
                }
            }
        }
    }

    /// Goes on at the next place, if there is one.
    fn go_elsewhere(&mut self, given_up: Error) -> Result<(), Error> {
        if self.session.conversation.is_stopped() {
            return Err(given_up);
        }
        let Some(session) = self.others.get(self.others_tried)? else { return Err(given_up) };
        session.conversation.say(&given_up, None);
        self.others_tried += 1;
        self.attempts = session.attempts();
        self.session = session;
        Ok(())
    }

    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let body = match &mut self.body {
            Some(body) => body,
            None if self.at == self.bytes && self.at > 0 => return Ok(0),
            None => {
                let body = self.open()?;
                self.body.insert(body)
            }
        };
        let (session, at) = (&self.session, self.at);
        let count =
            body.read(buffer).map_err(|error| broke_off(session.broken(session.host(), error), at))?;
        let wrong_size = |found| Error::WrongSize { blob: self.title.clone(), expected: self.bytes, found };
        if count == 0 && self.at < self.bytes {
            let source = io::ErrorKind::UnexpectedEof.into();
            let host = self.session.host().to_owned();
            return Err(Trouble::Again(Error::BrokeOff { host, bytes: self.at, source }, None));
        }
        let at = self.at + count as u64;
        if at > self.bytes {
            return Err(wrong_size(at).into());
        }
        self.at = at;
        Ok(count)
    }

    /// Asks for what is left. Who does not know ranges sends all of it, and what is there already is passed over.
    fn open(&mut self) -> Result<BodyReader<'static>, Trouble> {
        let ask = Ask { path: &self.path, accept: "", from: self.at };
        let response = self.session.once(&ask).map_err(|trouble| match trouble {
            Trouble::Final(Error::Answered { status: 404, host, .. }) => {
                Error::NotInRegistry { host, wanted: self.title.clone(), have: Vec::new() }.into()
            }
            other => other,
        })?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_part = response.status().as_u16() == 206;
        if is_part
            && !text("content-range").is_some_and(|range| range.starts_with(&format!("bytes {}-", self.at)))
        {
            return Err(self.session.nonsense("it sends another part of a layer than was asked for").into());
        }
        let here = if is_part { self.at } else { 0 };
        if let Some(length) = text("content-length").and_then(|length| length.parse::<u64>().ok())
            && length.saturating_add(here) != self.bytes
        {
            let (blob, found) = (self.title.clone(), length.saturating_add(here));
            return Err(Error::WrongSize { blob, expected: self.bytes, found }.into());
        }
        let mut body = response.into_body().into_reader();
        let over = self.at - here;
        let passed = io::copy(&mut (&mut body).take(over), &mut io::sink());
        let passed =
            passed.map_err(|error| broke_off(self.session.broken(self.session.host(), error), here))?;
        if passed < over {
            let (host, source) = (self.session.host().to_owned(), io::ErrorKind::UnexpectedEof.into());
            return Err(Trouble::Again(Error::BrokeOff { host, bytes: passed, source }, None));
        }
        Ok(body)
    }
}

/// Whoever sent something could be reached.
fn broke_off(trouble: Trouble, bytes: u64) -> Trouble {
    match trouble {
        Trouble::Again(Error::Unreachable { host, source }, after) => {
            Trouble::Again(Error::BrokeOff { host, bytes, source }, after)
        }
        other => other,
    }
}
