//! The services opsrun knows by name: ports, health checks, folders, signals, read from `catalogue.toml`.
//! It knows neither what is loaded nor what the operator changed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::service_name::ServiceName;
use crate::settings::{Settings, parse_toml};

/// The catalogue that is compiled in.
const TEXT: &str = include_str!("catalogue.toml");

/// An entry as it stands in the file.
#[derive(Debug, Deserialize)]
struct Listed {
    /// Other names for the same entry.
    #[serde(default)]
    also: Vec<String>,
    /// What is known.
    #[serde(flatten)]
    settings: toml::Table,
}

/// What the catalogue says about a service; `None` when it does not know the name.
pub(crate) fn entry(name: &ServiceName) -> Option<Settings> {
    // To read all of it takes longer than making a container.
    let quoted = format!("\"{name}\"");
    let text = parts().find(|part| {
        part.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(']'))
            || part.lines().any(|line| line.starts_with("also") && line.contains(&quoted))
    })?;
    read(&format!("[{text}"))
        .into_iter()
        .find(|(names, _)| names.iter().any(|known| known == name.as_str()))
        .map(|(_, settings)| settings)
}

/// Whether the catalogue knows a name.
pub(crate) fn knows(name: &ServiceName) -> bool {
    entry(name).is_some()
}

/// The text of each entry, from behind the bracket that it begins with to the next one's.
fn parts() -> impl Iterator<Item = &'static str> {
    TEXT.split("\n[").skip(1)
}

/// Every entry in the text with all of its names, the main one first.
fn read(text: &str) -> Vec<(Vec<String>, Settings)> {
    let path = Path::new("catalogue.toml");
    let listed: BTreeMap<String, Listed> =
        parse_toml(text, path).expect("OK because a test reads the compiled-in catalogue");
    listed
        .into_iter()
        .map(|(name, listed)| {
            // Two steps, because serde cannot both flatten and refuse unknown keys.
            let settings = Settings::deserialize(listed.settings)
                .unwrap_or_else(|error| panic!("a test reads every entry, yet {name} is wrong: {error}"));
            ([vec![name], listed.also].concat(), settings)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::Check;

    #[test]
    fn every_name_is_a_service_name_and_stands_once() {
        let mut seen = BTreeSet::new();
        for name in read(TEXT).into_iter().flat_map(|(names, _)| names) {
            assert!(name.parse::<ServiceName>().is_ok(), "{name}");
            assert!(seen.insert(name.clone()), "{name} stands twice");
        }
    }

    #[test]
    fn the_services_of_a_controller_are_known() {
        for name in [
            "keystone",
            "glance",
            "nova",
            "nova-metadata",
            "placement",
            "cinder",
            "neutron",
            "heat",
            "heat-cfn",
            "barbican",
            "octavia",
            "designate",
            "horizon",
            "mariadb",
            "rabbitmq",
            "memcached",
            "haproxy",
            "nova-conductor",
            "nova-scheduler",
            "cinder-scheduler",
            "cinder-volume",
            "neutron-rpc-server",
            "heat-engine",
            "nova-api",
            "glance-api",
        ] {
            assert!(knows(&name.parse().unwrap()), "{name}");
        }
        assert!(!knows(&"swift".parse().unwrap()));
    }

    #[test]
    fn an_entry_read_alone_is_the_one_in_the_whole() {
        for (names, listed) in read(TEXT) {
            for name in names {
                assert_eq!(
                    format!("{:?}", entry(&name.parse().unwrap())),
                    format!("{:?}", Some(&listed)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn every_entry_makes_sense_by_itself() {
        let mut ports = BTreeMap::new();
        for (names, entry) in read(TEXT) {
            let name = &names[0];
            let check = entry.health.check.unwrap_or_else(|| panic!("{name} has no health check"));
            let has_port = entry.ports.as_ref().is_some_and(|ports| !ports.is_empty());
            match check {
                Check::Http => {
                    assert!(has_port && entry.health.path.is_some(), "{name} needs a port and a path")
                }
                Check::Tcp => assert!(has_port, "{name} needs a port"),
                Check::Runs => assert!(!has_port, "{name} has a port, so it can be probed"),
                Check::Command | Check::Image => {
                    panic!("{name}: the catalogue cannot know an image's programs")
                }
            }
            for port in entry.ports.iter().flatten() {
                if let Some(other) = ports.insert(port.number(), name.clone()) {
                    panic!("{name} and {other} share port {}", port.number());
                }
            }
            assert_eq!(
                entry.configuration.required.is_some(),
                entry.folders.conf.is_some(),
                "{name}: a configuration folder and its file are named together"
            );
            assert!(
                entry.image.is_none() && entry.environment.is_empty() && entry.volumes.is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn keystones_keys_are_live() {
        let entry = entry(&"keystone".parse().unwrap()).unwrap();
        let live: Vec<_> =
            entry.configuration.live.unwrap().iter().map(|key| key.as_path().to_owned()).collect();
        assert_eq!(live, [Path::new("fernet-keys"), Path::new("credential-keys")]);
    }
}
