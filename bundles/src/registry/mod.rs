//! Gets images from registries: what the OCI distribution specification calls pulling.
//! Unpacks nothing and knows no store; it says where an image's blobs are, and reads them when asked.
//!
//! ```text
//! reference ─▶ place ─▶ session ─▶ manifest, configuration ─▶ archive::Found, as of an archive
//!                          │              layers ─▶ blob ─▶ the same unpacker in the same one pass
//!                          └─ credentials, challenge, trust
//! ```
//! **Why no crate for the whole of it.** Pulling is a handful of GETs. The crate that has them, oci-client, brings an
//! async runtime and cannot do what matters here: it tries nothing again and has no regard for `Retry-After`, and it
//! sends credentials to whatever realm a registry names, also without TLS. So the protocols come from well-kept
//! crates (HTTP from ureq, TLS from rustls with ring, challenges from http-auth, the specification's documents from
//! oci-spec), all of them blocking, and what is here is the policy between them: whom to trust with what, when to try
//! again, and how to go on with a blob that broke off. ring and not a provider in pure Rust, because those need
//! processors newer than the ones that virtual machines are often given; its price is a C compiler for the build.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;

use crate::error::{Error, Result};

mod answer;
mod blob;
mod challenge;
mod credentials;
mod image;
mod place;
mod session;
mod trust;

pub use credentials::AuthFiles;
pub(crate) use image::find;
pub use place::Place;

/// What is known of registries, and how patient one is with them.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Where images are whose names have no registry; without it such names are refused.
    pub default: Option<Place>,
    /// What is special about a registry, by its name with the port: `registry.example:5000`.
    pub hosts: BTreeMap<String, Host>,
    /// How long to wait for what, and how often to try.
    pub patience: Patience,
    /// Where credentials are looked for.
    pub credentials: AuthFiles,
}

/// What is special about a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether it is spoken to without TLS. Not said, only one on this host's loopback without a `ca` is.
    pub insecure: Option<bool>,
    /// Certificates of authorities in PEM, which alone are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// Other places with the same images, asked first, in this order.
    pub mirrors: Vec<Place>,
}

/// How long to wait for what, and how often to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub stall: Duration,
    /// How often a request is tried in all, at least once; what a blob has got so far is kept.
    pub attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub backoff_first: Duration,
    /// The longest wait between attempts. A registry that wants a longer one (`Retry-After`) is given up.
    pub backoff_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            attempts: 5,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// What a pull tells while it runs: an attempt that failed, and in how long the next one is made.
pub type Tell = dyn Fn(&Error, Option<Duration>) + Send + Sync;

/// One pull's way to be heard and to be stopped, from any thread.
#[derive(Clone, Default)]
pub struct Conversation {
    shared: Arc<Shared>,
    tell: Option<Arc<Tell>>,
}

#[derive(Default)]
struct Shared {
    stopped: Mutex<bool>,
    changed: Condvar,
    agents: Mutex<Vec<Agent>>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

impl Conversation {
    /// One that tells of failed attempts.
    pub fn telling(tell: impl Fn(&Error, Option<Duration>) + Send + Sync + 'static) -> Self {
        Self { shared: Arc::default(), tell: Some(Arc::new(tell)) }
    }

    /// Ends the pull: what waits for a registry stops waiting, and the pull ends with [`Error::Interrupted`].
    pub fn stop(&self) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
        let agents = std::mem::take(&mut *self.shared.agents.lock().unwrap_or_else(PoisonError::into_inner));
        agents.into_iter().for_each(Agent::shutdown);
    }

    /// Whether [`Conversation::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an agent's connections closed when the pull is stopped.
    fn watch(&self, agent: &Agent) {
        self.shared.agents.lock().unwrap_or_else(PoisonError::into_inner).push(agent.clone());
        if self.is_stopped() {
            agent.clone().shutdown();
        }
    }

    fn say(&self, error: &Error, next_in: Option<Duration>) {
        if let Some(tell) = &self.tell {
            tell(error, next_in);
        }
    }

    /// Waits, but not when the pull is stopped.
    fn wait(&self, span: Duration) -> Result<()> {
        let until = Instant::now() + span;
        let mut stopped = self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if *stopped {
                return Err(Error::Interrupted);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let woken = self.shared.changed.wait_timeout(stopped, left);
            (stopped, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Registries {
    /// Whether a host may be spoken to without TLS. The loopback may where nothing else is said; but what a
    /// registry elsewhere points to (`from_elsewhere`) is not this host's own.
    fn is_plain(&self, host: &str, from_elsewhere: bool) -> bool {
        match self.hosts.get(host) {
            Some(Host { insecure: Some(insecure), .. }) => *insecure,
            Some(Host { ca: Some(_), .. }) => false,
            _ => place::is_loopback(host) && !from_elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_spoken_to_without_tls() {
        let mut registries = Registries::default();
        registries.hosts.insert("10.0.0.1:5000".into(), Host { insecure: Some(true), ..Host::default() });
        registries.hosts.insert("127.0.0.1:1".into(), Host { ca: Some("/ca".into()), ..Host::default() });
        registries.hosts.insert("127.0.0.1:2".into(), Host { insecure: Some(false), ..Host::default() });
        for (host, here, elsewhere) in [
            ("registry.example", false, false),
            ("10.0.0.1:5000", true, true),
            ("10.0.0.1", false, false),
            ("127.0.0.1:5000", true, false),
            ("localhost", true, false),
            ("127.0.0.1:1", false, false),
            ("127.0.0.1:2", false, false),
        ] {
            assert_eq!(registries.is_plain(host, false), here, "{host}");
            assert_eq!(registries.is_plain(host, true), elsewhere, "{host}");
        }
    }

    #[test]
    fn a_wait_ends_when_it_is_stopped() {
        let conversation = Conversation::default();
        assert!(conversation.wait(Duration::from_millis(1)).is_ok());
        let other = conversation.clone();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(600)));
        conversation.stop();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Interrupted)));
    }
}
