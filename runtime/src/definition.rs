//! What a generation of a service promises: which release it is, how it is proven healthy, restarted and stopped.
//! It knows neither images nor the host's folders.
//!
//! A definition travels inside the bundle's `config.json` as one annotation, so that a generation carries its own
//! rules with it and a crash restart applies exactly those it was proven with.

use std::net::SocketAddr;
use std::time::Duration;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::log::Rotation;

/// The annotation of `config.json` that holds the [`Definition`] as JSON.
pub const ANNOTATION: &str = "org.opsrun.definition";

/// The version written; a higher one is refused when read.
pub const VERSION: u32 = 1;

/// So many listeners can be handed to a program.
pub const LISTENERS_MAX: usize = 16;

/// The rules of one generation of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Format of this value, [`VERSION`].
    pub version: u32,
    /// The service's name, as in `opsrun ps`.
    pub service: String,
    /// The release: the image's tag.
    pub release: String,
    /// The image's name and tag, for people.
    pub image: String,
    /// The image's id: the digest of its configuration, `sha256:…`.
    pub image_id: String,
    /// Number of this generation, from 1.
    pub generation: u32,
    /// TCP ports the service listens on, on the host's network.
    pub ports: Vec<u16>,
    /// Where it listens with sockets that its program gets when it is started (sd_listen_fds(3)), in this order, and that it
    /// does not bind itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen_stream: Vec<SocketAddr>,
    /// How the service is proven healthy.
    pub health: HealthCheck,
    /// When it is started again after it ended by itself.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: Stop,
    /// Whether two generations of it must never run at the same time, as with a database, whose files have one owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_first: bool,
    /// Whether opsrun's own init is process 1 of the container.
    pub init: bool,
    /// How much of its output is kept; what an older opsrun wrote has the default.
    #[serde(default)]
    pub log: Rotation,
}

/// How a service is proven healthy. All times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What a probe does.
    pub probe: Probe,
    /// From the end of one probe to the start of the next; from a second on to a twentieth of it.
    pub interval_ms: u64,
    /// A probe that takes longer has failed.
    pub timeout_ms: u64,
    /// Failed probes in a row after which a healthy service is unhealthy.
    pub retries: u32,
    /// How long a start may take until the first success; then the start has failed.
    pub start_timeout_ms: u64,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// The service has been running for this long.
    Runs {
        /// Milliseconds the main process must have been running.
        for_ms: u64,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// IP address to connect to.
        address: String,
        /// TCP port.
        port: u16,
    },
    /// `GET path` is answered with a status below 400.
    Http {
        /// IP address to connect to.
        address: String,
        /// TCP port.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
    },
    /// A command inside the container, as confined as the service, ends with status 0.
    Command {
        /// Program and arguments.
        arguments: Vec<String>,
    },
}

/// When a service is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Which ends are followed by a restart.
    pub policy: RestartPolicy,
    /// Wait before the first restart, milliseconds; doubled for each that follows.
    pub backoff_first_ms: u64,
    /// The wait never grows beyond this, milliseconds.
    pub backoff_max_ms: u64,
    /// Failures in a row after which the service is said to crash-loop and is left alone.
    pub crash_loop_failures: u32,
    /// A run at least this long, milliseconds, ends the row of failures.
    pub stable_after_ms: u64,
}

/// Which ends of a service are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Every end.
    Always,
    /// An end with a status other than 0, or by a signal.
    OnFailure,
    /// None.
    No,
}

/// How a service is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Name of the signal, `SIGTERM`.
    pub signal: String,
    /// How long it may take until it is killed, milliseconds.
    pub grace_ms: u64,
}

impl Definition {
    /// Reads the definition out of a bundle's configuration.
    ///
    /// # Errors
    /// [`Error::Definition`] when the annotation is missing, is not JSON of this form, or is of a newer version.
    pub fn of(spec: &Spec) -> Result<Self, Error> {
        let text =
            spec.annotations().as_ref().and_then(|annotations| annotations.get(ANNOTATION)).ok_or_else(
                || Error::Definition { reason: format!("the annotation {ANNOTATION} is missing") },
            )?;
        let definition: Self =
            serde_json::from_str(text).map_err(|error| Error::Definition { reason: error.to_string() })?;
        if definition.version > VERSION {
            return Err(Error::Definition {
                reason: format!("it is of version {}, this opsrun reads up to {VERSION}", definition.version),
            });
        }
        Ok(definition)
    }

    /// The text for the annotation [`ANNOTATION`].
    #[must_use]
    pub fn to_annotation(&self) -> String {
        serde_json::to_string(self).expect("OK because a definition has only string keys")
    }
}

impl Stop {
    /// How long the service may take to end.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}
