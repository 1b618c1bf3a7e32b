//! Which folder of the host is seen where in a service's container.
//! Pure: it knows paths, and never looks at a file system.
//!
//! | the image has | the host keeps it in |
//! |---|---|
//! | `VOLUME /etc/X` | `/opt/NAME/conf` |
//! | `VOLUME /var/log/X` | `/opt/NAME/log` |
//! | `VOLUME /var/lib/X` | `/opt/NAME/lib` |
//! | any other, `VOLUME /data/db` | `/opt/NAME/volumes/data/db` |
//!
//! There is one configuration, one log and one data folder. When an image has two of a kind, the one that the
//! catalogue or the service's file names wins, then the one that is called like the service, then the first by name;
//! the others are treated as any other volume.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::layout::OwnFolders;
use crate::service_name::ServiceName;
use crate::settings::Folders;
use crate::settings_value::ContainerPath;

/// What a folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The configuration: a service sees its generation's copy.
    Configuration,
    /// The logs it writes itself.
    Logs,
    /// Its data.
    Data,
    /// Any other volume.
    Other,
}

/// One folder of a service, by convention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnMount {
    /// What it is for.
    pub kind: Kind,
    /// Where the container sees it.
    pub container: PathBuf,
    /// Where the host keeps it.
    pub host: PathBuf,
}

/// A bind mount that a person asked for: `HOST:CONTAINER` or `HOST:CONTAINER:ro`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Volume {
    /// Absolute path on the host.
    pub host: PathBuf,
    /// Absolute path in the container.
    pub container: ContainerPath,
    /// Whether the container cannot write to it.
    pub read_only: bool,
}

/// Why a text is no [`Volume`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVolume {
    /// There is no colon, or there are too many.
    #[error("it must be HOST:CONTAINER or HOST:CONTAINER:ro")]
    Form,
    /// The first part is no absolute path.
    #[error("{0:?} must be an absolute path on the host, without \"..\"; opsrun has no named volumes")]
    Host(String),
    /// The second part is no absolute path.
    #[error("{0:?} must be an absolute path in the container, other than / and without \"..\"")]
    Container(String),
    /// The third part is unknown.
    #[error("{0:?} is no option of a volume: \"ro\" and \"rw\" are")]
    Option(String),
}

/// The service's own folders for an image's volumes.
///
/// `volumes` are the image's, `named` what the catalogue and the service's file say.
pub(crate) fn by_convention(
    name: &ServiceName,
    volumes: &[ContainerPath],
    named: &Folders,
    own: &OwnFolders,
) -> Vec<OwnMount> {
    let configuration = choose(name, volumes, named.conf.as_ref(), Path::new("/etc"));
    let logs = choose(name, volumes, named.log.as_ref(), Path::new("/var/log"));
    let data = choose(name, volumes, named.lib.as_ref(), Path::new("/var/lib"));
    let mut mounts = Vec::new();
    let chosen = [
        (Kind::Configuration, configuration, own.configuration()),
        (Kind::Logs, logs, own.logs()),
        (Kind::Data, data, own.data()),
    ];
    for (kind, container, host) in chosen {
        if let Some(container) = container {
            mounts.push(OwnMount { kind, container: container.as_path().to_owned(), host });
        }
    }
    for volume in volumes {
        let container = volume.as_path();
        if mounts.iter().all(|mount| mount.container != container) {
            // A container path is absolute; joined as it is it would replace the folder it is joined to.
            let inside: PathBuf = container.components().skip(1).collect();
            mounts.push(OwnMount {
                kind: Kind::Other,
                container: container.to_owned(),
                host: own.volumes().join(inside),
            });
        }
    }
    mounts
}

/// The one folder directly below `parent` that is meant: the named one, else the one called like the service, else the
/// first by name.
fn choose<'a>(
    name: &ServiceName,
    volumes: &'a [ContainerPath],
    named: Option<&'a ContainerPath>,
    parent: &Path,
) -> Option<&'a ContainerPath> {
    let below = || volumes.iter().filter(|volume| volume.as_path().parent() == Some(parent));
    named
        .or_else(|| below().find(|volume| volume.as_path().ends_with(name.as_str())))
        .or_else(|| below().min())
}

impl FromStr for Volume {
    type Err = BadVolume;

    fn from_str(text: &str) -> Result<Self, BadVolume> {
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, read_only) = match parts[..] {
            [host, container] => (host, container, false),
            [host, container, "ro"] => (host, container, true),
            [host, container, "rw"] => (host, container, false),
            [_, _, option] => return Err(BadVolume::Option(option.to_owned())),
            _ => return Err(BadVolume::Form),
        };
        let host_path = Path::new(host);
        let plain =
            host_path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !host_path.is_absolute() || !plain || host.contains('\0') {
            return Err(BadVolume::Host(host.to_owned()));
        }
        let container = container.parse().map_err(|()| BadVolume::Container(container.to_owned()))?;
        Ok(Self { host: host_path.components().collect(), container, read_only })
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = if self.read_only { ":ro" } else { "" };
        write!(formatter, "{}:{}{option}", self.host.display(), self.container.as_path().display())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn convention(name: &str, volumes: &[&str], named: &Folders) -> Vec<(String, String)> {
        let volumes: Vec<ContainerPath> = volumes.iter().map(|volume| volume.parse().unwrap()).collect();
        let own = OwnFolders { home: PathBuf::from("/opt").join(name) };
        by_convention(&name.parse().unwrap(), &volumes, named, &own)
            .into_iter()
            .map(|mount| (mount.container.display().to_string(), mount.host.display().to_string()))
            .collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(one, two)| ((*one).to_owned(), (*two).to_owned())).collect()
    }

    #[test]
    fn the_three_folders_of_a_service() {
        assert_eq!(
            convention(
                "keystone",
                &["/etc/keystone", "/var/lib/keystone", "/var/log/keystone"],
                &Folders::default()
            ),
            pairs(&[
                ("/etc/keystone", "/opt/keystone/conf"),
                ("/var/log/keystone", "/opt/keystone/log"),
                ("/var/lib/keystone", "/opt/keystone/lib"),
            ])
        );
    }

    #[test]
    fn a_folder_with_another_name_than_the_service_counts_as_well() {
        assert_eq!(
            convention("db", &["/var/lib/mysql", "/etc/mysql"], &Folders::default()),
            pairs(&[("/etc/mysql", "/opt/db/conf"), ("/var/lib/mysql", "/opt/db/lib")])
        );
    }

    #[test]
    fn any_other_volume_is_kept_by_its_path() {
        assert_eq!(
            convention("mongo", &["/data/db", "/data/configdb", "/etc", "/var/lib/a/b"], &Folders::default()),
            pairs(&[
                ("/data/db", "/opt/mongo/volumes/data/db"),
                ("/data/configdb", "/opt/mongo/volumes/data/configdb"),
                ("/etc", "/opt/mongo/volumes/etc"),
                ("/var/lib/a/b", "/opt/mongo/volumes/var/lib/a/b"),
            ])
        );
    }

    #[test]
    fn of_two_data_folders_the_one_called_like_the_service_is_lib() {
        assert_eq!(
            convention("nova", &["/var/lib/libvirt", "/var/lib/nova"], &Folders::default()),
            pairs(&[
                ("/var/lib/nova", "/opt/nova/lib"),
                ("/var/lib/libvirt", "/opt/nova/volumes/var/lib/libvirt")
            ])
        );
        assert_eq!(
            convention("x", &["/var/lib/b", "/var/lib/a"], &Folders::default()),
            pairs(&[("/var/lib/a", "/opt/x/lib"), ("/var/lib/b", "/opt/x/volumes/var/lib/b")])
        );
    }

    #[test]
    fn what_the_catalogue_or_the_file_names_wins_even_when_the_image_lacks_it() {
        let named = Folders { lib: Some("/srv/images".parse().unwrap()), ..Folders::default() };
        assert_eq!(
            convention("glance", &["/var/lib/glance"], &named),
            pairs(&[
                ("/srv/images", "/opt/glance/lib"),
                ("/var/lib/glance", "/opt/glance/volumes/var/lib/glance")
            ])
        );
    }

    #[test]
    fn volumes_are_written_as_for_docker() {
        let volume: Volume = "/srv/pki/:/etc/pki:ro".parse().unwrap();
        assert_eq!(volume.to_string(), "/srv/pki:/etc/pki:ro");
        assert!(!"/a:/b:rw".parse::<Volume>().unwrap().read_only);
        for (bad, why) in [
            ("", BadVolume::Form),
            ("/a", BadVolume::Form),
            ("/a:/b:ro:z", BadVolume::Form),
            ("data:/b", BadVolume::Host("data".into())),
            ("/a/../b:/b", BadVolume::Host("/a/../b".into())),
            ("/a:b", BadVolume::Container("b".into())),
            ("/a:/", BadVolume::Container("/".into())),
            ("/a:/b/../c", BadVolume::Container("/b/../c".into())),
            ("/a:/b:rx", BadVolume::Option("rx".into())),
        ] {
            assert_eq!(bad.parse::<Volume>(), Err(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_volume_gets_one_place_below_the_services_own_folder(
            volumes in proptest::collection::btree_set("(/(etc|var|lib|log|data|a|x)){1,4}", 0..8)
        ) {
            let texts: Vec<&str> = volumes.iter().map(String::as_str).collect();
            let mounts = convention("x", &texts, &Folders::default());
            prop_assert_eq!(mounts.len(), volumes.len());
            let hosts: std::collections::BTreeSet<_> = mounts.iter().map(|(_, host)| host).collect();
            prop_assert_eq!(hosts.len(), mounts.len());
            prop_assert!(mounts.iter().all(|(_, host)| host.starts_with("/opt/x/") && !host.contains("..")));
        }
    }
}
