//! What has happened to a service, on disk: one line an event, appended by the supervisor, read by anyone at any time.
//! It knows neither why something happens nor how it is shown.
//!
//! `LOG/events.jsonl` is JSON, one object a line:
//!
//! ```json
//! {"version":1,"at":"2026-11-23T09:31:02.123Z","service":"keystone","release":"zed","generation":3,
//!  "event":"restarting","details":{"attempt":2,"backoff_ms":2000,"causes":["it exited with status 1"]},
//!  "by":{"who":"opsrun"}}
//! ```
//!
//! `at` is in UTC. `event` and `details` are a [`Kind`], `by` is a [`By`]. `release` and `generation` are null where none
//! is known. [`VERSION`] changes only when a key is renamed, removed or changes its meaning; keys and kinds are added
//! without that, so a reader must pass over what it does not know.
//!
//! The file never grows without end: at [`file::BYTES_MAX`] it becomes `events.jsonl.1`, and the one before is gone.
//! `opsrun rm` takes both along.

mod by;
mod file;
mod follow;
mod read;

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::record::Way;
use crate::share::Share;
use crate::swap::Left;
pub use by::By;
pub(crate) use file::EventFile;
pub use follow::follow;
pub use read::{Line, Lines, read};

/// The version written. Lines of a higher one are shown as far as they can be understood.
pub const VERSION: u32 = 1;

/// A longer cause is cut: what a service says may be part of one.
const CAUSE_CHARS_MAX: usize = 1000;
/// More causes are left out.
const CAUSES_MAX: usize = 12;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`VERSION`].
    pub version: u32,
    /// When: milliseconds since 1970-01-01T00:00:00Z; RFC 3339 in UTC in the file.
    #[serde(rename = "at", with = "rfc_3339")]
    pub at_ms: u64,
    /// The service.
    pub service: String,
    /// The release of the generation.
    pub release: Option<String>,
    /// The generation it happened to.
    pub generation: Option<u32>,
    /// What.
    #[serde(flatten)]
    pub kind: Kind,
    /// By whom.
    pub by: By,
}

/// What can happen. A new kind is a variant here, and words for it where it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "details", rename_all = "kebab-case")]
pub enum Kind {
    /// A supervisor has begun.
    Supervised {
        /// Its process.
        process: i32,
        /// Whether a supervisor that died had left something, which is removed now.
        cleared: bool,
    },
    /// A supervisor watches the container of one that died.
    Adopted {
        /// The container's process 1.
        process: i32,
    },
    /// Its container is being made.
    Starting {},
    /// Its program was executed.
    Started {
        /// The container's process 1.
        process: i32,
    },
    /// It was started in vain, and nothing of it is left; or it will be tried again, which is then told next.
    StartFailed {
        /// Why, outermost first.
        causes: Vec<String>,
    },
    /// Its health check succeeds, for the first time or again.
    Healthy {},
    /// Its health check failed so often in a row that it counts.
    Unhealthy {
        /// Why, outermost first.
        causes: Vec<String>,
    },
    /// It ended without having been asked to.
    Exited {
        /// Status of its process 1 as a shell gives it, 128 + N when ended by signal N; null when nobody saw it.
        status: Option<i32>,
        /// The name of that signal.
        signal: Option<String>,
    },
    /// The kernel killed something of it for want of memory.
    Oom {
        /// How many processes.
        processes: u32,
        /// Limit and peak, in words.
        message: String,
    },
    /// It will be started again.
    Restarting {
        /// The how manieth restart of this generation it will be, from 1.
        attempt: u32,
        /// After which time.
        backoff_ms: u64,
        /// Why, outermost first.
        causes: Vec<String>,
    },
    /// It failed too often in a row and is left alone.
    CrashLoop {
        /// How often.
        failures: u32,
        /// Why, outermost first.
        causes: Vec<String>,
    },
    /// This generation is tried in another one's place.
    SwapBegan {
        /// The generation that serves until then.
        from: u32,
        /// How it is done.
        way: Way,
    },
    /// This generation, which is tried, gets a share of clients' new connections.
    Canary {
        /// The generation that gets the others.
        from: u32,
        /// Of the connections, in millionths.
        share_ppm: Share,
        /// For how long.
        for_ms: u64,
    },
    /// This generation serves in another one's place, and has stood its soak.
    Swapped {
        /// The generation that served before.
        from: u32,
        /// For so long nothing served.
        gap_ms: u64,
        /// What that one had left when it was asked to end.
        #[serde(default)]
        left: Left,
    },
    /// Another generation was tried in place of this one, in vain; this one serves.
    WentBack {
        /// The one that was tried.
        from: u32,
        /// For so long nothing served.
        gap_ms: u64,
        /// Why in vain, outermost first.
        causes: Vec<String>,
    },
    /// Another generation was tried in place of this one, in vain, and this one does not serve either.
    NeitherServes {
        /// The one that was tried.
        candidate: u32,
        /// Why in vain, outermost first.
        causes: Vec<String>,
        /// Why this one does not serve, outermost first.
        back: Vec<String>,
    },
    /// The service was asked to end while another generation was tried in place of this one.
    SwapCancelled {
        /// The one that was tried.
        candidate: u32,
    },
    /// It was asked to end.
    Stopping {
        /// With this signal.
        signal: String,
        /// After this time it is killed.
        grace_ms: u64,
        /// Whether it is because the host goes down, and it is wanted up again afterwards.
        host_down: bool,
    },
    /// Nothing of it runs any more, as asked for, or because its policy says so.
    Stopped {
        /// Status of its process 1 as a shell gives it; null when nobody saw it.
        status: Option<i32>,
    },
    /// Its limits were changed.
    Updated {
        /// The files of its cgroup (cgroup v2) that have other values now.
        limits: BTreeMap<String, Changed>,
    },
    /// The supervisor could not do something and goes on.
    Trouble {
        /// What, and why, outermost first.
        causes: Vec<String>,
    },
}

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}

/// Causes as an event has them: not without end, and each on one line.
pub(crate) fn causes(causes: &[String]) -> Vec<String> {
    causes.iter().take(CAUSES_MAX).map(|cause| cause.chars().take(CAUSE_CHARS_MAX).collect()).collect()
}

/// The time in the file: all of the same length, so that lines sort as text.
mod rfc_3339 {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::timestamp(*at_ms))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::milliseconds(&text).ok_or_else(|| D::Error::custom("it is no time of RFC 3339"))
    }
}

fn timestamp(at_ms: u64) -> String {
    let time = i64::try_from(at_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn milliseconds(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn entry(at_ms: u64, kind: Kind) -> Entry {
        Entry {
            version: VERSION,
            at_ms,
            service: "keystone".into(),
            release: Some("zed".into()),
            generation: Some(3),
            kind,
            by: By::Opsrun {},
        }
    }

    #[test]
    fn the_form_of_a_line_does_not_change() {
        let causes = vec!["it exited with status 1".to_owned()];
        let line = entry(1_795_426_262_120, Kind::Restarting { attempt: 2, backoff_ms: 2000, causes });
        assert_eq!(
            serde_json::to_string(&line).expect("JSON"),
            r#"{"version":1,"at":"2026-11-23T09:31:02.120Z","service":"keystone","release":"zed","generation":3,"#
                .to_owned()
                + r#""event":"restarting","details":{"attempt":2,"backoff_ms":2000,"#
                + r#""causes":["it exited with status 1"]},"by":{"who":"opsrun"}}"#
        );
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let changed = Changed { before: "max".into(), after: "50".into() };
        for kind in [
            Kind::Supervised { process: 7, cleared: true },
            Kind::Starting {},
            Kind::Exited { status: None, signal: None },
            Kind::Stopping { signal: "SIGTERM".into(), grace_ms: 1, host_down: false },
            Kind::Updated { limits: [("pids.max".to_owned(), changed)].into() },
        ] {
            let written = entry(1_795_426_262_000, kind);
            let text = serde_json::to_string(&written).expect("JSON");
            assert_eq!(serde_json::from_str::<Entry>(&text).expect(&text), written);
        }
    }
}
