//! What the operator says about images and registries: the form of `/etc/opsrun/opsrun.toml`.
//! It speaks to no registry.
//!
//! ```toml
//! default_registry = "registry.example:5000/openstack"   # where names without a registry are
//!
//! [registry."registry.example:5000"]
//! ca = "/etc/opsrun/registry-ca.pem"       # trusted instead of the system's authorities
//! mirrors = ["mirror.example/openstack"]   # asked first, in this order
//! insecure = false                         # true: spoken to without TLS, as otherwise only the loopback is
//!
//! [images]
//! max_unpacked = "100g"                    # no load unpacks more
//! max_ratio = 200                          # nor a layer of more than so many times its compressed size
//! max_files = 4000000                      # and makes no more files
//!
//! [pull]
//! connect_timeout = "10s"
//! stall_timeout = "30s"                    # how long a registry may send nothing
//! attempts = 5
//! backoff_first = "1s"                     # doubled before each further attempt
//! backoff_max = "1m"                       # who wants a longer wait by Retry-After is given up
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundles::registry::{AuthFiles, Host, Patience, Place, Registries};
use bundles::store::Bounds;
use serde::{Deserialize, Deserializer};

use crate::arguments::BoundsTyped;
use crate::error::Error;
use crate::limits_value::Size;
use crate::settings;
use crate::time_span::TimeSpan;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    #[serde(deserialize_with = "read_place")]
    default_registry: Option<Place>,
    registry: BTreeMap<String, One>,
    images: Images,
    pull: Pull,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Images {
    max_unpacked: Option<Size>,
    max_ratio: Option<NonZeroU64>,
    max_files: Option<NonZeroU64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct One {
    insecure: Option<bool>,
    ca: Option<PathBuf>,
    #[serde(deserialize_with = "read_places")]
    mirrors: Vec<Place>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pull {
    connect_timeout: Option<TimeSpan>,
    stall_timeout: Option<TimeSpan>,
    attempts: Option<u32>,
    backoff_first: Option<TimeSpan>,
    backoff_max: Option<TimeSpan>,
}

/// Reads the file; the defaults where there is none.
///
/// # Errors
/// [`Error::Settings`] naming the line, [`Error::Io`].
pub(crate) fn read(path: &Path) -> Result<File, Error> {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io("read what is said of registries", error)),
    };
    settings::parse_toml(&text, path)
}

impl File {
    /// How much may come out of images: what was typed over what the file says over the defaults.
    pub(crate) fn bounds(&self, typed: BoundsTyped) -> Bounds {
        let (said, usual) = (&self.images, Bounds::default());
        let unpacked_bytes = typed.max_unpacked.or(said.max_unpacked);
        Bounds {
            unpacked_bytes: unpacked_bytes.map_or(usual.unpacked_bytes, Size::bytes),
            ratio: typed.max_ratio.or(said.max_ratio).map_or(usual.ratio, NonZeroU64::get),
            files: typed.max_files.or(said.max_files).map_or(usual.files, NonZeroU64::get),
        }
    }

    /// The registries, how long one waits for them, and what they are told of who asks.
    pub(crate) fn registries(self) -> Registries {
        let usual = Patience::default();
        let span = |said: Option<TimeSpan>, usual: Duration| match said {
            Some(span) => Duration::from_millis(span.ms),
            None => usual,
        };
        let patience = Patience {
            connect: span(self.pull.connect_timeout, usual.connect),
            stall: span(self.pull.stall_timeout, usual.stall),
            attempts: self.pull.attempts.unwrap_or(usual.attempts),
            backoff_first: span(self.pull.backoff_first, usual.backoff_first),
            backoff_max: span(self.pull.backoff_max, usual.backoff_max),
        };
        let host = |one: One| Host { insecure: one.insecure, ca: one.ca, mirrors: one.mirrors };
        Registries {
            default: self.default_registry,
            hosts: self.registry.into_iter().map(|(name, one)| (name, host(one))).collect(),
            patience,
            credentials: AuthFiles::of_environment(),
        }
    }
}

fn place<E: serde::de::Error>(text: &str) -> Result<Place, E> {
    text.parse()
        .map_err(|_| E::custom(format!("{text:?} is no registry; one is written HOST:PORT or HOST/NAMES")))
}

fn read_place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Place>, D::Error> {
    place(&String::deserialize(deserializer)?).map(Some)
}

fn read_places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Place>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| place(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("opsrun.toml");
        fs_err::write(&path, text).unwrap();
        let read = read(&path).map(File::registries);
        read.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "…"))
    }

    #[test]
    fn every_key_is_understood() {
        let read = parse(
            "default_registry = \"r.example:5000/os\"\n[registry.\"r.example:5000\"]\ninsecure = true\nca = \"/ca.pem\"\n\
             mirrors = [\"m.example/os\"]\n[pull]\nconnect_timeout = \"1s\"\nstall_timeout = \"2s\"\nattempts = 3\n\
             backoff_first = \"10ms\"\nbackoff_max = \"5s\"\n",
        )
        .unwrap();
        assert_eq!(read.default.unwrap().to_string(), "r.example:5000/os");
        let host = &read.hosts["r.example:5000"];
        assert_eq!((host.insecure, host.ca.as_deref()), (Some(true), Some(Path::new("/ca.pem"))));
        assert_eq!(host.mirrors[0].to_string(), "m.example/os");
        assert_eq!((read.patience.stall.as_secs(), read.patience.attempts), (2, 3));
        assert_eq!(parse("").unwrap().patience, Patience::default());
    }

    #[test]
    fn what_is_wrong_names_the_line() {
        let mut shown = String::new();
        for text in [
            "default_registy = \"r.example\"\n",
            "default_registry = \"keystone\"\n",
            "[registry.\"r.example\"]\ninsecur = true\n",
            "[registry.\"r.example\"]\nmirrors = [\"https://m.example\"]\n",
            "[pull]\nstall_timeout = 30\n",
            "[pull]\nattempts = -1\n",
        ] {
            shown += &format!("{}\n", parse(text).expect_err(text));
        }
        insta::assert_snapshot!(shown);
    }
}
