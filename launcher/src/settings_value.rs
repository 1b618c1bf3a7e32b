//! The kinds of values in a settings file, each checked where it is read, so that an error knows its line.
//! They know nothing of what they are for.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};

/// A TCP port other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(u16);

impl Port {
    /// Its number.
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Port;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a port from 1 to 65535")
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Port, E> {
                match u16::try_from(number) {
                    Ok(port) if port > 0 => Ok(Port(port)),
                    _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_i64(Form)
    }
}

/// An IP address and a TCP port other than 0, as systemd's `ListenStream=` has them: `127.0.0.1:5000`, `[::]:5000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address and port.
    pub(crate) fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for ListenAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let address: SocketAddr = text.parse().map_err(|_| ())?;
        if address.port() == 0 { Err(()) } else { Ok(Self(address)) }
    }
}

/// An absolute path inside a container, other than `/` and without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContainerPath(PathBuf);

impl ContainerPath {
    /// The path.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for ContainerPath {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let path = Path::new(text);
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let good = path.is_absolute() && plain && path.file_name().is_some() && !text.contains('\0');
        // Collected again, so that no doubled or trailing slash is left.
        if good { Ok(Self(path.components().collect())) } else { Err(()) }
    }
}

/// An entry of the configuration folder: a relative path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(PathBuf);

impl Entry {
    /// The path, relative to the folder.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Entry {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let path = Path::new(text);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if plain && !text.is_empty() && !text.contains('\0') {
            Ok(Self(path.components().collect()))
        } else {
            Err(())
        }
    }
}

/// Path and query of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlPath(String);

impl UrlPath {
    /// The text, beginning with `/`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UrlPath {
    type Err = ();

    /// Only what can stand in a request line as it is: a space or line break would be another request.
    fn from_str(text: &str) -> Result<Self, ()> {
        let good = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// The name of a signal: `SIGTERM`; `TERM` and `15` are understood as well, as Docker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignalName(String);

impl SignalName {
    /// The name, with `SIG`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SignalName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        use nix::sys::signal::Signal;
        if let Ok(number) = text.parse::<i32>() {
            return Signal::try_from(number).map(|signal| Self(signal.as_str().to_owned())).map_err(|_| ());
        }
        let upper = text.to_ascii_uppercase();
        let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        Signal::from_str(&name).map(|signal| Self(signal.as_str().to_owned())).map_err(|_| ())
    }
}

/// Which system calls the container may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeccompChoice {
    /// Docker's default profile.
    Default,
    /// All of them.
    Unconfined,
    /// A profile in Docker's form.
    Profile(PathBuf),
}

impl FromStr for SeccompChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "default" => Ok(Self::Default),
            "unconfined" => Ok(Self::Unconfined),
            path if path.starts_with('/') => Ok(Self::Profile(PathBuf::from(path))),
            _ => Err(()),
        }
    }
}

/// Reads a value from a TOML string by [`FromStr`]; `form` says what is expected when it is not one.
macro_rules! read_from_text {
    ($type:ty, $form:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Form;
                impl Visitor<'_> for Form {
                    type Value = $type;
                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($form)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Form)
            }
        }
    };
}

read_from_text!(ContainerPath, "an absolute path other than / and without ..");
read_from_text!(ListenAddress, "an IP address and port such as \"127.0.0.1:5000\" or \"[::]:5000\"");
read_from_text!(Entry, "a path relative to the configuration folder, without ..");
read_from_text!(UrlPath, "a path such as \"/healthcheck\"");
read_from_text!(SignalName, "the name of a signal such as \"SIGTERM\"");
read_from_text!(SeccompChoice, "\"default\", \"unconfined\" or the absolute path of a profile");
read_from_text!(crate::mounts::Volume, "HOST:CONTAINER or HOST:CONTAINER:ro, both absolute paths without ..");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for text in ["SIGTERM", "TERM", "sigterm", "15"] {
            assert_eq!(text.parse::<SignalName>().unwrap().as_str(), "SIGTERM", "{text}");
        }
        for text in ["", "SIG", "0", "-1", "SIGNOPE", "99"] {
            assert!(text.parse::<SignalName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_path_has_one_spelling() {
        assert_eq!("/data//db/".parse::<ContainerPath>().unwrap().as_path(), Path::new("/data/db"));
        for text in ["", "/", "data", "/a/../b", "/..", "./a", "/a\0"] {
            assert!(text.parse::<ContainerPath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_request_line_cannot_be_broken_out_of() {
        assert!("/v3?a=b%20c".parse::<UrlPath>().is_ok());
        for text in ["", "v3", "/a b", "/a\r\nHost: x", "/é"] {
            assert!(text.parse::<UrlPath>().is_err(), "{text:?}");
        }
    }
}
