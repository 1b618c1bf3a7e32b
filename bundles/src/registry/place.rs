//! Where images are: a registry and perhaps a part of it, and which one a reference means.
//! Speaks to nobody.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::Registries;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Docker's own registry, and the host that serves it.
const DOCKER: [&str; 2] = ["docker.io", "index.docker.io"];
const DOCKER_HOST: &str = "registry-1.docker.io";

/// A registry, and perhaps the beginning of the names in it: `registry.example:5000/openstack`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The registry with its port: `registry.example:5000`.
    pub host: String,
    /// The beginning of the names: `openstack`.
    pub prefix: Option<String>,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::InvalidReference { text: text.to_owned(), reason: "it is not a registry's name" };
        // Any name behind it shows whether it can be the beginning of a name.
        let whole: Reference = format!("{text}/x").parse().map_err(|_| wrong())?;
        let registry = whole.registry().filter(|registry| text.starts_with(registry)).ok_or_else(wrong)?;
        if whole.tag.is_some() || whole.digest.is_some() {
            return Err(wrong());
        }
        let prefix = text[registry.len()..].strip_prefix('/').map(str::to_owned);
        Ok(Self { host: registry.to_owned(), prefix })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.prefix.iter().try_for_each(|prefix| write!(f, "/{prefix}"))
    }
}

/// A repository: all releases of one image in one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// What messages and settings call the registry.
    pub(super) registry: String,
    pub(super) name: String,
}

impl Repository {
    /// The host that is connected to.
    pub(super) fn host(&self) -> &str {
        if DOCKER.contains(&self.registry.as_str()) { DOCKER_HOST } else { &self.registry }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// A reference with the registry that it means.
pub(crate) struct Located {
    /// The name that the image gets.
    pub(crate) reference: Reference,
    /// Where it can be had; the registry itself comes last, after its mirrors.
    pub(super) repositories: Vec<Repository>,
}

impl Registries {
    /// Finds out which registry a reference means.
    ///
    /// # Errors
    /// [`Error::NoRegistry`].
    pub(crate) fn locate(&self, reference: &Reference) -> Result<Located> {
        let none = || Error::NoRegistry { wanted: reference.to_string() };
        if reference.name.is_empty() {
            return Err(none());
        }
        let reference = match (reference.registry(), &self.default) {
            (Some(_), _) => reference.clone(),
            (None, Some(default)) => format!("{default}/{}", reference.written()).parse()?,
            (None, None) => return Err(none()),
        }
        .with_tag_or("latest");
        let registry = reference.registry().ok_or_else(none)?.to_owned();
        let mut name = reference.repository().to_owned();
        if DOCKER.contains(&registry.as_str()) && !name.contains('/') {
            name = format!("library/{name}");
        }
        let mirrors = self.hosts.get(&registry).map_or(&[][..], |host| &host.mirrors);
        let mut repositories: Vec<Repository> = mirrors
            .iter()
            .map(|mirror| Repository {
                registry: mirror.host.clone(),
                name: match &mirror.prefix {
                    Some(prefix) => format!("{prefix}/{name}"),
                    None => name.clone(),
                },
            })
            .collect();
        repositories.push(Repository { registry, name });
        Ok(Located { reference, repositories })
    }

    /// The reference with its registry, as [`Store::pull`](crate::store::Store::pull) would name the image.
    ///
    /// # Errors
    /// [`Error::NoRegistry`].
    pub fn full_name(&self, reference: &Reference) -> Result<Reference> {
        Ok(self.locate(reference)?.reference)
    }
}

/// Whether a host, perhaps with a port, is this one.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name == "[::1]" || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// By which keys an auth file can name a repository's credentials, the most special first: podman knows parts of
/// names too, and Docker calls its own registry by an old address.
pub(super) fn credential_keys(repository: &Repository) -> Vec<String> {
    let whole = repository.to_string();
    let mut keys: Vec<String> =
        whole.match_indices('/').rev().map(|(at, _)| whole[..at].to_owned()).collect();
    keys.insert(0, whole);
    if DOCKER.contains(&repository.registry.as_str()) {
        keys.extend(["https://index.docker.io/v1/".to_owned()]);
        keys.extend(DOCKER.map(str::to_owned));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Host;

    fn registries(default: Option<&str>) -> Registries {
        Registries { default: default.map(|text| text.parse().unwrap()), ..Registries::default() }
    }

    #[test]
    fn what_is_a_place() {
        for (text, host, prefix) in [
            ("registry.example", "registry.example", None),
            ("localhost:5000/a/b", "localhost:5000", Some("a/b")),
            ("docker.io/kolla", "docker.io", Some("kolla")),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.host.as_str(), place.prefix.as_deref()), (host, prefix));
            assert_eq!(place.to_string(), text);
        }
        for text in
            ["", "keystone", "a/b", "registry.example/", "registry.example:x", "https://a.b", "a.b/c:d"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn which_registry_is_meant() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (default, typed, full, repository) in [
            (
                None,
                "r.example:5000/a/keystone:zed",
                "r.example:5000/a/keystone:zed",
                "r.example:5000/a/keystone",
            ),
            (None, "r.example/keystone", "r.example/keystone:latest", "r.example/keystone"),
            (Some("r.example/os"), "keystone:zed", "r.example/os/keystone:zed", "r.example/os/keystone"),
            (Some("r.example/os"), "q.example/k:1", "q.example/k:1", "q.example/k"),
            (None, "docker.io/debian:12", "debian:12", "docker.io/library/debian"),
            (Some("docker.io"), "kolla/keystone:1", "kolla/keystone:1", "docker.io/kolla/keystone"),
        ] {
            let located = registries(default).locate(&typed.parse().unwrap()).unwrap();
            assert_eq!(located.reference.to_string(), full);
            assert_eq!(located.repositories[0].to_string(), repository);
        }
        let by_digest = registries(None).locate(&format!("r.example/a@{digest}").parse().unwrap()).unwrap();
        assert_eq!(by_digest.reference.tag, None);
        for typed in ["keystone:zed", "kolla/keystone", &digest] {
            let refused = registries(None).locate(&typed.parse().unwrap());
            assert!(matches!(refused, Err(Error::NoRegistry { .. })), "{typed}");
        }
    }

    #[test]
    fn mirrors_come_first() {
        let mut registries = registries(None);
        let mirrors = vec!["m.example".parse().unwrap(), "cache.example/r".parse().unwrap()];
        registries.hosts.insert("r.example".into(), Host { mirrors, ..Host::default() });
        let located = registries.locate(&"r.example/a/b:1".parse().unwrap()).unwrap();
        let all: Vec<String> = located.repositories.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["m.example/a/b", "cache.example/r/a/b", "r.example/a/b"]);
        assert_eq!(located.reference.to_string(), "r.example/a/b:1");
    }

    #[test]
    fn the_most_special_credentials_come_first() {
        let repository = Repository { registry: "r.example:5000".into(), name: "a/b".into() };
        assert_eq!(
            credential_keys(&repository),
            ["r.example:5000/a/b", "r.example:5000/a", "r.example:5000"]
        );
        let docker = Repository { registry: "docker.io".into(), name: "library/debian".into() };
        assert!(credential_keys(&docker).contains(&"https://index.docker.io/v1/".to_owned()));
    }

    #[test]
    fn this_host() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:5000", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "127.0.0.1.example:5000", "registry", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
