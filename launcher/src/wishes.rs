//! What a person wished for when a service was started, kept with its generation so that `restart` knows it.
//! It knows nothing of what becomes of it.

use serde::{Deserialize, Serialize};

use crate::arguments::More;
use crate::limits::Limits;
use crate::mounts::Volume;

/// The annotation of a generation's `config.json` that holds the [`Wishes`] as JSON.
pub(crate) const ANNOTATION: &str = "org.opsrun.wishes";

/// The version written.
///
/// 2: limits, which version 1 lacks.
pub(crate) const VERSION: u32 = 2;

/// What was typed beside the service's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `-v`.
    pub volumes: Vec<Volume>,
    /// `-e`.
    pub environment: Vec<(String, String)>,
    /// `--memory` and so on; also what `update` changed since.
    pub limits: Limits,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    volumes: Vec<String>,
    environment: Vec<(String, String)>,
    #[serde(default)]
    limits: Limits,
}

impl From<More> for Wishes {
    fn from(more: More) -> Self {
        Self { volumes: more.volumes, environment: more.environment, limits: more.limits }
    }
}

impl Wishes {
    /// The text for the annotation.
    pub(crate) fn to_annotation(&self) -> String {
        let written = Written {
            version: VERSION,
            volumes: self.volumes.iter().map(ToString::to_string).collect(),
            environment: self.environment.clone(),
            limits: self.limits.clone(),
        };
        serde_json::to_string(&written).expect("OK because wishes have only string keys")
    }

    /// What the annotation says; `None` when it is of a newer version or none of ours.
    pub(crate) fn from_annotation(text: &str) -> Option<Self> {
        let written: Written = serde_json::from_str(text).ok()?;
        if written.version > VERSION {
            return None;
        }
        let volumes = written.volumes.iter().map(|volume| volume.parse().ok()).collect::<Option<_>>()?;
        Some(Self { volumes, environment: written.environment, limits: written.limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_come_back_as_they_were() {
        let wishes = Wishes {
            volumes: vec!["/srv/pki:/etc/pki:ro".parse().unwrap()],
            environment: vec![("A".into(), "b=\"c\"\n".into())],
            limits: Limits { memory: Some("512m".parse().unwrap()), ..Limits::default() },
        };
        assert_eq!(Wishes::from_annotation(&wishes.to_annotation()), Some(wishes));
        assert_eq!(Wishes::from_annotation("{\"version\":3,\"volumes\":[],\"environment\":[]}"), None);
        assert_eq!(Wishes::from_annotation("no JSON"), None);
        let old = "{\"version\":1,\"volumes\":[],\"environment\":[]}";
        assert_eq!(Wishes::from_annotation(old), Some(Wishes::default()));
    }
}
