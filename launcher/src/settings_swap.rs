//! What can be said about a swap in a service's file: its terms, hooks, and where there is no way back.
//! It knows neither containers nor releases; the hooks are run by `hooks.rs`.

use runtime::share::Share;
use runtime::swap::{Canary, DRAIN};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::time_span::TimeSpan;

/// Commands that are run around a swap, each in a container of its own of the new image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hooks {
    /// Before anything of the old generation is touched, one after another. One that fails stops the swap.
    pub pre_swap: Option<Vec<HookCommand>>,
    /// When the new generation serves and its soak is over.
    pub post_commit: Option<Vec<HookCommand>>,
    /// How long each may take.
    pub timeout: Option<TimeSpan>,
}

impl Hooks {
    /// How long a hook may take when nothing is said: a large database takes its time.
    const TIMEOUT: TimeSpan = TimeSpan { ms: 600_000 };

    /// These, with what they leave out taken from `under`.
    pub(crate) fn over(self, under: Self) -> Self {
        Self {
            pre_swap: self.pre_swap.or(under.pre_swap),
            post_commit: self.post_commit.or(under.post_commit),
            timeout: self.timeout.or(under.timeout),
        }
    }

    /// How long each may take.
    pub(crate) fn timeout(&self) -> TimeSpan {
        self.timeout.unwrap_or(Self::TIMEOUT)
    }
}

/// On which terms a swap is done, when nothing else is typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Terms {
    /// The share of new connections that goes to the new generation of a `swap` first.
    #[serde(deserialize_with = "read_share")]
    pub canary: Option<Share>,
    /// For how long.
    pub canary_for: Option<TimeSpan>,
    /// How long the old generation may take to end the connections that it has left.
    pub drain: Option<TimeSpan>,
    /// Whether the old generation is always stopped first, since two must never run at the same time.
    pub stop_first: Option<bool>,
}

impl Terms {
    const CANARY_FOR: TimeSpan = TimeSpan { ms: 60_000 };

    /// These, with what they leave out taken from `under`.
    pub(crate) fn over(self, under: Self) -> Self {
        Self {
            canary: self.canary.or(under.canary),
            canary_for: self.canary_for.or(under.canary_for),
            drain: self.drain.or(under.drain),
            stop_first: self.stop_first.or(under.stop_first),
        }
    }

    /// The share for the new generation of a `swap`; what is typed wins, and `0%` is none.
    pub(crate) fn canary(&self, typed: Option<Share>, typed_for: Option<TimeSpan>) -> Option<Canary> {
        let share = typed.or(self.canary).filter(|share| !share.is_none())?;
        let time = typed_for.or(self.canary_for).unwrap_or(Self::CANARY_FOR);
        Some(Canary { share, for_ms: time.ms })
    }

    /// How long the old generation may take; what is typed wins.
    pub(crate) fn drain_ms(&self, typed: Option<TimeSpan>) -> u64 {
        let default = || u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX);
        typed.or(self.drain).map_or_else(default, |time| time.ms)
    }
}

fn read_share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Share>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HookCommand(Vec<String>);

impl HookCommand {
    /// The program and its arguments.
    pub(crate) fn words(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HookCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        match words.first() {
            Some(program) if !program.is_empty() => Ok(Self(words)),
            _ => Err(D::Error::custom("a hook is a list with a program and its arguments")),
        }
    }
}

/// Where a service cannot go back any more once it is past it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointOfNoReturn {
    /// The last release before it.
    pub from: String,
    /// The first release behind it.
    pub to: String,
    /// Why there is no way back.
    pub reason: String,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Before the swap.
    PreSwap,
    /// After it.
    PostCommit,
}

impl When {
    /// As in "keystone epoxy is not put in place".
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::PreSwap => "is not put in place",
            Self::PostCommit => "serves, and yet not all is done",
        }
    }

    /// Its key in the settings.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::PreSwap => "pre_swap",
            Self::PostCommit => "post_commit",
        }
    }
}
