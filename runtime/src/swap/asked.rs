//! What is asked of a supervisor that is to swap, and what it tells of how far it is.
//! It knows nothing of how a swap goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::Way;
use crate::share::Share;

/// How long a generation may take with the connections that it has when new ones go elsewhere, when nothing else is said.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The candidate: its bundle is ready at [`generation`](crate::folders::ServiceFolders::generation).
    pub generation: u32,
    /// How long it is watched, once it serves, before the old generation is given up, milliseconds.
    pub soak_ms: u64,
    /// How long a generation may take to end what connections it has when new ones go elsewhere, milliseconds, when not
    /// [`DRAIN`].
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// How long it may take until it is healthy, milliseconds, when not as its definition says.
    pub start_timeout_ms: Option<u64>,
    /// Whether the old generation is to be stopped first, also where another way would do.
    #[serde(default)]
    pub stop_first: bool,
    /// The share of connections that goes to it first. Where there can be none, nothing is done.
    #[serde(default)]
    pub canary: Option<Canary>,
}

/// What a generation had left when it was not waited for any longer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Connections that were open, or waited to be accepted.
    pub connections: usize,
    /// Those of them on which nothing was asked that had not been answered: on which the last word was the server's.
    pub idle: usize,
    /// For how long new ones had gone elsewhere by then, milliseconds.
    pub after_ms: u64,
    /// The signal that it is asked to end by, when its main process has nothing that handles it.
    #[serde(default)]
    pub unhandled: Option<String>,
}

/// A share of clients' new connections that goes to a healthy candidate before all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Of the connections.
    #[serde(rename = "share_ppm")]
    pub share: Share,
    /// For so long, milliseconds.
    pub for_ms: u64,
}

/// How far it is, for who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It goes this way, or goes on this way.
    Way {
        /// Which.
        way: Way,
        /// Why, as in "…, since …".
        reason: String,
    },
    /// The candidate's container exists.
    Made,
    /// The old generation is asked to end: from here on nothing serves.
    StoppingOld,
    /// The candidate was started.
    Proving,
    /// The candidate is healthy, and gets a share of the connections first.
    Sharing(Canary),
    /// The candidate is healthy and serves; it is watched for a while.
    Soaking {
        /// For so long nothing served, milliseconds; 0 when the old one served until the candidate did.
        gap_ms: u64,
        /// Whether those who connected meanwhile have waited; else they were refused.
        #[serde(default)]
        waited: bool,
        /// The soak, milliseconds.
        soak_ms: u64,
    },
    /// The old generation is asked to end, with what it has left; the candidate serves.
    Retiring(Left),
    /// The candidate has failed, and the old generation serves: new connections go there.
    Withdrawing,
    /// The candidate has failed and is killed, with what it has left.
    Cut(Left),
    /// The candidate has failed, and the old generation is started again.
    Returning,
}
