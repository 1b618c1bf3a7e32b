//! The names a person types: of a service, and of a release of it.
//! It knows nothing of what exists under those names.
//!
//! A service's name becomes a folder's name in five places, a part of a cgroup's path and of a container's id. So it
//! is checked once, here, and a [`ServiceName`] that exists needs no further check anywhere.

use std::fmt;
use std::str::FromStr;

/// The longest name of a service, bytes.
pub(crate) const LENGTH_MAX: usize = 64;

/// The longest release, bytes: what the OCI distribution specification allows for a tag.
pub(crate) const RELEASE_LENGTH_MAX: usize = 128;

/// A name that is safe as a folder's name and as a part of a cgroup's path: `[a-z0-9][a-z0-9_.-]{0,63}`, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceName(String);

/// A service, and perhaps the release of it: `keystone`, `keystone:zed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRelease {
    /// The service.
    pub service: ServiceName,
    /// The release: an image's tag. `None` when it was left out.
    pub release: Option<String>,
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadName {
    /// Nothing was given.
    #[error("a service's name cannot be empty")]
    Empty,
    /// Longer than [`LENGTH_MAX`].
    #[error("a service's name has at most {LENGTH_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that is not allowed.
    #[error(
        "{character:?} cannot be in a service's name: small letters, digits, '_', '.' and '-' can, \
         the first being a letter or digit"
    )]
    Character {
        /// The character.
        character: char,
    },
    /// Two dots in a row.
    #[error("\"..\" cannot be in a service's name")]
    Dots,
    /// The part behind the colon is no tag.
    #[error(
        "{0:?} is no release: letters, digits, '_', '.' and '-' can be in one, at most {RELEASE_LENGTH_MAX}, \
         the first being a letter, digit or '_'"
    )]
    Release(String),
}

impl ServiceName {
    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        let first = text.chars().next().ok_or(BadName::Empty)?;
        if text.contains("..") {
            return Err(BadName::Dots);
        }
        if !plain(first) {
            return Err(BadName::Character { character: first });
        }
        if let Some(character) =
            text.chars().find(|&character| !plain(character) && !"_.-".contains(character))
        {
            return Err(BadName::Character { character });
        }
        if text.len() > LENGTH_MAX {
            return Err(BadName::TooLong(text.len()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> serde::Deserialize<'de> for ServiceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl FromStr for ServiceRelease {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (service, release) = match text.split_once(':') {
            Some((service, release)) => (service, Some(parse_release(release)?)),
            None => (text, None),
        };
        Ok(Self { service: service.parse()?, release })
    }
}

/// Checks that a text can be a release, that is an image's tag (OCI distribution specification 1.1, "Pulling manifests").
///
/// # Errors
/// [`BadName::Release`].
pub(crate) fn parse_release(text: &str) -> Result<String, BadName> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = text.bytes().next().is_some_and(word)
        && text.len() <= RELEASE_LENGTH_MAX
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if good { Ok(text.to_owned()) } else { Err(BadName::Release(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_people_use_are_names() {
        for good in ["keystone", "nova-api", "0", "heat_engine", "a.b", &"x".repeat(64)] {
            assert_eq!(good.parse::<ServiceName>().map(|name| name.0), Ok(good.to_owned()));
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        let character = |character| BadName::Character { character };
        for (bad, why) in [
            ("", BadName::Empty),
            ("..", BadName::Dots),
            ("../keystone", BadName::Dots),
            ("key..stone", BadName::Dots),
            (".hidden", character('.')),
            ("-v", character('-')),
            ("a/b", character('/')),
            ("/etc", character('/')),
            ("Keystone", character('K')),
            ("a\0", character('\0')),
            ("a\n", character('\n')),
            ("ключ", character('к')),
            (&"x".repeat(65), BadName::TooLong(65)),
        ] {
            assert_eq!(bad.parse::<ServiceName>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_release_follows_the_first_colon() {
        let both: ServiceRelease = "keystone:2024.1".parse().unwrap();
        assert_eq!((both.service.as_str(), both.release.as_deref()), ("keystone", Some("2024.1")));
        let alone: ServiceRelease = "keystone".parse().unwrap();
        assert_eq!(alone.release, None);
        for bad in ["keystone:", "keystone:../x", "keystone:a:b", "keystone:-x", ":zed"] {
            assert!(bad.parse::<ServiceRelease>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_accepted_name_is_one_plain_path_part(text in "[ -~\\PC]{0,70}") {
            if let Ok(name) = text.parse::<ServiceName>() {
                let path = std::path::Path::new(name.as_str());
                let parts: Vec<_> = path.components().collect();
                prop_assert_eq!(parts.len(), 1);
                prop_assert!(matches!(parts[0], std::path::Component::Normal(part) if part == name.as_str()));
                prop_assert!(name.as_str().len() <= LENGTH_MAX);
                prop_assert!(!name.as_str().contains(|character: char| character.is_control()));
            }
        }

        #[test]
        fn every_name_of_the_documented_form_is_accepted(text in "[a-z0-9][a-z0-9_-]{0,63}") {
            prop_assert!(text.parse::<ServiceName>().is_ok());
        }
    }
}
