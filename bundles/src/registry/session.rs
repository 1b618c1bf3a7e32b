//! Requests to one repository of a registry: with credentials where they belong, again where that helps.
//! Does not know what images are.
//!
//! Whom is told what: credentials go to the registry itself when it asks for them, and to the realm that it names,
//! never without TLS unless the operator said so or all of it is on this host. A redirect to another host, as to the
//! store behind a registry, gets no `Authorization` of any kind.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::uri::Authority;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::answer::{self, Trouble};
use super::challenge::{self, Challenge};
use super::credentials::{Credentials, Secret};
use super::place::Repository;
use super::{Conversation, Registries, trust};
use crate::error::{Error, Result};

/// A registry points to its store, and that perhaps to another one.
const REDIRECTS_MAX: usize = 5;
/// A token has a few KiB.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// How many tags a message names.
const TAGS_MAX: usize = 10;

/// What is asked for.
pub(super) struct Ask<'a> {
    /// Behind the repository's name: `manifests/zed`.
    pub(super) path: &'a str,
    /// The media types that are understood; anything if empty.
    pub(super) accept: &'a str,
    /// The first byte that is wanted.
    pub(super) from: u64,
}

/// A repository of a registry.
pub(super) struct Session {
    pub(super) repository: Repository,
    registries: Registries,
    pub(super) conversation: Conversation,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<String>>,
    agents: Mutex<HashMap<String, Agent>>,
    is_plain: bool,
    has_answered: AtomicBool,
    is_hurried: AtomicBool,
}

/// Attempts at one thing.
pub(super) struct Attempts {
    left: u32,
    backoff: Duration,
}

impl Session {
    pub(super) fn new(
        repository: Repository,
        registries: &Registries,
        conversation: &Conversation,
    ) -> Result<Self> {
        let is_plain = registries.is_plain(repository.host(), false);
        Ok(Self {
            credentials: registries.credentials.find(&repository)?,
            repository,
            registries: registries.clone(),
            conversation: conversation.clone(),
            authorization: Mutex::default(),
            agents: Mutex::default(),
            is_plain,
            has_answered: AtomicBool::new(false),
            is_hurried: AtomicBool::new(false),
        })
    }

    /// Whether one attempt has to do from now on, because there is somebody else to ask.
    pub(super) fn hurry(&self, is_hurried: bool) {
        self.is_hurried.store(is_hurried, Ordering::Relaxed);
    }

    /// What messages call the registry.
    pub(super) fn host(&self) -> &str {
        &self.repository.registry
    }

    pub(super) fn attempts(&self) -> Attempts {
        let patience = &self.registries.patience;
        let attempts = if self.is_hurried.load(Ordering::Relaxed) { 1 } else { patience.attempts };
        Attempts { left: attempts.max(1) - 1, backoff: patience.backoff_first }
    }

    /// A whole document, at most so long, and the media type that it is said to have.
    pub(super) fn document(&self, ask: &Ask, bytes_max: u64) -> Result<(Vec<u8>, HeaderMap)> {
        let mut attempts = self.attempts();
        loop {
            let result = self.once(ask).and_then(|response| {
                let headers = response.headers().clone();
                Ok((self.whole(self.host(), response, bytes_max)?, headers))
            });
            match result {
                Ok(document) => return Ok(document),
                Err(trouble) => self.again(&mut attempts, trouble)?,
            }
        }
    }

    /// Waits before another attempt, or gives up.
    pub(super) fn again(&self, attempts: &mut Attempts, trouble: Trouble) -> Result<()> {
        if self.conversation.is_stopped() {
            return Err(Error::Interrupted);
        }
        let (error, after) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Again(error, _) if attempts.left == 0 => return Err(error),
            Trouble::Again(error, after) => (error, after),
        };
        let patience = &self.registries.patience;
        if let (Some(after), Error::Answered { host, status, .. }) = (after, &error)
            && after > patience.backoff_max
        {
            return Err(Error::ComeLater { host: host.clone(), status: *status, seconds: after.as_secs() });
        }
        let wait = after.unwrap_or(attempts.backoff).min(patience.backoff_max);
        attempts.left -= 1;
        attempts.backoff = (attempts.backoff * 2).min(patience.backoff_max);
        self.conversation.say(&error, Some(wait));
        self.conversation.wait(wait)
    }

    /// One attempt at a request, with what belongs to it: a challenge and redirects.
    pub(super) fn once(&self, ask: &Ask) -> Result<Response<Body>, Trouble> {
        let scheme = if self.is_plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}/{}", self.repository.host(), self.repository.name, ask.path);
        let mut challenged = false;
        loop {
            let response = self.follow(&base, ask)?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                401 if !challenged => {
                    challenged = true;
                    self.meet(response.headers())?;
                }
                401 | 403 => return Err(self.denied(response).into()),
                _ => return Err(answer::status(self.host(), response)),
            }
        }
    }

    /// Sends a request, and goes where it is sent on to.
    fn follow(&self, base: &str, ask: &Ask) -> Result<Response<Body>, Trouble> {
        let mut uri = self.parsed(base)?;
        for hop in 0..=REDIRECTS_MAX {
            let agent = self.agent(&uri)?;
            let mut request = agent.get(&uri);
            if !ask.accept.is_empty() {
                request = request.header("accept", ask.accept);
            }
            if ask.from > 0 {
                request = request.header("range", format!("bytes={}-", ask.from));
            }
            // Whoever it is sent on to is somebody else, even the same host at another path.
            if let Some(authorization) = self.authorization().clone().filter(|_| hop == 0) {
                request = request.header("authorization", authorization);
            }
            let response = request.call().map_err(|error| self.failure(&uri, error))?;
            self.has_answered.store(true, Ordering::Relaxed);
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return match response.status().as_u16() {
                    401 | 403 if hop > 0 => Err(answer::status(&host_of(&uri), response)),
                    _ => Ok(response),
                };
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| self.nonsense("it sends on to nowhere"))?;
            uri = self.parsed(&resolved(&uri, location))?;
        }
        Err(self.nonsense("it sends on again and again").into())
    }

    /// Gets what the registry wants to see.
    fn meet(&self, headers: &HeaderMap) -> Result<(), Trouble> {
        let authorization = match challenge::of(headers) {
            Some(Challenge::Basic) => self.credentials.as_ref().and_then(|found| found.secret.basic()),
            Some(Challenge::Bearer { realm, service }) => {
                Some(format!("Bearer {}", self.token(&realm, service.as_deref())?))
            }
            None => None,
        };
        *self.authorization() = authorization;
        Ok(())
    }

    /// Gets a token that allows to pull from the repository and nothing else, whatever scope the challenge names.
    fn token(&self, realm: &str, service: Option<&str>) -> Result<String, Trouble> {
        let uri = self.parsed(realm)?;
        let agent = self.agent(&uri)?;
        let scope = format!("repository:{}:pull", self.repository.name);
        let sent = match self.credentials.as_ref().map(|found| &found.secret) {
            Some(Secret::Token(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service.unwrap_or_default()),
                    ("client_id", "opsrun"),
                    ("scope", &scope),
                    ("refresh_token", token),
                ];
                agent.post(&uri).send_form(form)
            }
            secret => {
                let mut request = agent.get(&uri).query("scope", &scope);
                if let Some(service) = service {
                    request = request.query("service", service);
                }
                if let Some(basic) = secret.and_then(Secret::basic) {
                    request = request.header("authorization", basic);
                }
                request.call()
            }
        };
        let response = sent.map_err(|error| self.failure(&uri, error))?;
        match response.status().as_u16() {
            200 => {}
            400 | 401 | 403 => return Err(self.denied(response).into()),
            // A realm has no reason to send anybody elsewhere.
            _ => return Err(answer::status(&host_of(&uri), response)),
        }
        let answer = self.whole(&host_of(&uri), response, TOKEN_BYTES_MAX)?;
        challenge::token(&answer).ok_or_else(|| self.nonsense("its realm gave no token").into())
    }

    fn denied(&self, mut response: Response<Body>) -> Error {
        Error::Denied {
            host: self.host().to_owned(),
            who: match &self.credentials {
                Some(found) => format!("the user of {}", found.from.display()),
                None => "everybody".to_owned(),
            },
            repository: self.repository.name.clone(),
            said: answer::said(&mut response),
            had_credentials: self.credentials.is_some(),
        }
    }

    /// What makes requests to the host of an address, if it may be spoken to in this way.
    fn agent(&self, uri: &Uri) -> Result<Agent> {
        let name = host_of(uri);
        let is_plain = uri.scheme_str() == Some("http");
        let is_own = name == self.repository.host();
        if is_plain && !self.registries.is_plain(&name, !is_own && !self.is_plain) {
            return Err(Error::WithoutTls { host: self.host().to_owned(), to: name });
        }
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let key = uri.scheme_str().unwrap_or_default().to_owned() + &name;
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let host = self.registries.hosts.get(&name).or_else(|| {
            // Docker's own is configured by the name that people type.
            self.registries.hosts.get(&self.repository.registry).filter(|_| is_own)
        });
        let agent = trust::agent(&name, host, is_plain, &self.registries.patience)?;
        self.conversation.watch(&agent);
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    fn parsed(&self, text: &str) -> Result<Uri> {
        let uri: Option<Uri> = text.parse().ok();
        let good = |uri: &Uri| {
            let authority = uri.authority().map_or("", Authority::as_str);
            matches!(uri.scheme_str(), Some("http" | "https"))
                && !authority.is_empty()
                && !authority.contains('@')
        };
        uri.filter(good).ok_or_else(|| {
            self.nonsense(&format!(
                "{:?} is no address to go to",
                answer::harmless(text.split('?').next().unwrap_or(""))
            ))
        })
    }

    /// The whole of an answer.
    fn whole(&self, host: &str, response: Response<Body>, bytes_max: u64) -> Result<Vec<u8>, Trouble> {
        let mut document = Vec::new();
        let mut reader = response.into_body().into_reader().take(bytes_max + 1);
        reader.read_to_end(&mut document).map_err(|error| self.broken(host, error))?;
        if document.len() as u64 > bytes_max {
            return Err(self.nonsense(&format!("it is longer than {bytes_max} bytes")).into());
        }
        Ok(document)
    }

    /// What went wrong in the middle of an answer.
    pub(super) fn broken(&self, host: &str, error: std::io::Error) -> Trouble {
        answer::failure(host, error.into(), &self.registries.patience, true)
    }

    fn failure(&self, uri: &Uri, error: ureq::Error) -> Trouble {
        let has_answered = self.has_answered.load(Ordering::Relaxed);
        answer::failure(&host_of(uri), error, &self.registries.patience, has_answered)
    }

    pub(super) fn nonsense(&self, reason: &str) -> Error {
        Error::Nonsense { host: self.host().to_owned(), reason: reason.to_owned() }
    }

    fn authorization(&self) -> MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for a tag or digest that is not there, with some tags that are, if the registry tells.
    pub(super) fn not_found(&self, wanted: &str) -> Error {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let ask = Ask { path: "tags/list?n=100", accept: "", from: 0 };
        let list =
            self.once(&ask).and_then(|response| self.whole(self.host(), response, TOKEN_BYTES_MAX)).ok();
        let tags =
            list.and_then(|list| serde_json::from_slice::<Tags>(&list).ok()).and_then(|list| list.tags);
        let mut have = tags.unwrap_or_default();
        have.retain(|tag| crate::reference::is_tag(tag));
        have.sort();
        have.reverse();
        have.truncate(TAGS_MAX);
        Error::NotInRegistry { host: self.host().to_owned(), wanted: wanted.to_owned(), have }
    }
}

impl Attempts {
    /// As many as at first: what was tried has come on.
    pub(super) fn refill(&mut self, session: &Session) {
        *self = session.attempts();
    }
}

fn host_of(uri: &Uri) -> String {
    uri.authority().map_or("", Authority::as_str).to_ascii_lowercase()
}

/// Where a redirect leads (RFC 3986, 5.3, as far as registries use it).
fn resolved(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or_default();
    if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", host_of(base))
    } else {
        location.to_owned()
    }
}

/// One repository's session, for several readers at once.
pub(super) type SharedSession = Arc<Session>;
