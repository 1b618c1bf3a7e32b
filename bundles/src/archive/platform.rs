//! Which machine an image is for.
//! Does not choose among images; it says how well one fits.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::ImageConfiguration;

use crate::error::Error;

/// An operating system, a processor architecture in Go's words, and its variant: `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`; mostly absent.
    pub variant: Option<String>,
}

impl Platform {
    /// The machine on which this runs.
    pub fn host() -> Self {
        let architecture = std::env::consts::ARCH;
        Self { os: "linux".to_owned(), architecture: in_go(architecture).to_owned(), variant: None }
    }

    pub(crate) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_owned);
        Self { os: os.to_owned(), architecture: in_go(architecture).to_owned(), variant }
    }

    pub(crate) fn of_descriptor(platform: &oci_spec::image::Platform) -> Self {
        let architecture = platform.architecture().to_string();
        Self::new(&platform.os().to_string(), &architecture, platform.variant().as_deref())
    }

    pub(crate) fn of_configuration(configuration: &ImageConfiguration) -> Self {
        let architecture = configuration.architecture().to_string();
        Self::new(&configuration.os().to_string(), &architecture, configuration.variant().as_deref())
    }

    /// How well a machine that wants `self` is served by an image for `offered`: 0 is best, none not at all.
    pub(crate) fn rank(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if let Some(wanted) = &self.variant {
            let offered = offered.variant.as_deref().unwrap_or(self.plain_variant());
            return (wanted == offered).then_some(0);
        }
        // Without a wish only what every such machine can run; v2 and later of amd64 are for newer ones.
        match offered.variant.as_deref() {
            None => Some(0),
            Some(variant) if variant == self.plain_variant() => Some(1),
            Some("v6") if self.architecture == "arm" => Some(2),
            Some("v5") if self.architecture == "arm" => Some(3),
            Some(_) => None,
        }
    }

    /// The variant that is meant when none is said.
    fn plain_variant(&self) -> &'static str {
        match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => "",
        }
    }
}

/// Go's word for an architecture that is given in Rust's or uname's.
fn in_go(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self::new(os, architecture, None))
            }
            [os, architecture, variant] if parts.iter().all(|part| !part.is_empty()) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(Error::InvalidPlatform { text: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_whom() {
        for (wanted, offered, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/x86_64", Some(0)),
            ("linux/amd64", "linux/amd64/v1", Some(1)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64/v3", Some(0)),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/arm64", "linux/arm64/v8", Some(1)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm", "linux/arm/v6", Some(2)),
            ("linux/amd64", "unknown/unknown", None),
        ] {
            let (wanted, offered): (Platform, Platform) = (wanted.parse().unwrap(), offered.parse().unwrap());
            assert_eq!(wanted.rank(&offered), rank, "{wanted} {offered}");
        }
    }

    #[test]
    fn what_is_no_platform() {
        for text in ["", "linux", "linux/", "/amd64", "linux/amd64/", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap().to_string(), "linux/arm64/v8");
    }
}
