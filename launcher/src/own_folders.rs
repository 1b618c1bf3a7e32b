//! A service's own folders on the host: which there are, that they exist, and that the service can use them.
//! It knows no bundle and starts nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use bundles::account::Account;
use bundles::bundle::{ImageFacts, Mount};
use bundles::rootfs::RootView;

use crate::access::{self, User};
use crate::configuration;
use crate::error::{Access, Error};
use crate::layout::Layout;
use crate::mounts::{Kind, OwnMount, Volume, by_convention};
use crate::service_name::ServiceName;
use crate::settings::{Folders, Settings};
use crate::settings_value::{ContainerPath, Entry};

/// The folders of a service that its container sees.
#[derive(Debug, Clone)]
pub(crate) struct OwnFolders {
    service: ServiceName,
    mounts: Vec<OwnMount>,
    required: Vec<Entry>,
    live: Vec<Entry>,
    /// The configuration that counts instead of the service's own.
    instead: Option<PathBuf>,
}

impl OwnFolders {
    /// The folders for an image: by convention, less those that `volumes` replace.
    ///
    /// The folders that the operator's file names (`own`) always count. Those that the catalogue names (`listed`)
    /// count when the image has them: it knows where a service usually keeps its things, not how every image is built.
    ///
    /// # Errors
    /// [`Error::Bundles`] when the image cannot be looked into.
    pub(crate) fn of(
        layout: &Layout,
        service: &ServiceName,
        view: &RootView,
        facts: &ImageFacts,
        (own, listed): (&Settings, &Settings),
        volumes: &[Volume],
    ) -> Result<Self, Error> {
        let declared: Vec<ContainerPath> =
            facts.volumes.iter().filter_map(|path| path.to_str()?.parse().ok()).collect();
        let in_image = |path: &Option<ContainerPath>| -> Result<Option<ContainerPath>, Error> {
            match path {
                Some(path) if declared.contains(path) || view.exists(path.as_path())? => {
                    Ok(Some(path.clone()))
                }
                _ => Ok(None),
            }
        };
        let named = Folders {
            conf: own.folders.conf.clone().or(in_image(&listed.folders.conf)?),
            log: own.folders.log.clone().or(in_image(&listed.folders.log)?),
            lib: own.folders.lib.clone().or(in_image(&listed.folders.lib)?),
        };
        let mut mounts = by_convention(service, &declared, &named, &layout.own(service));
        mounts.retain(|mount| volumes.iter().all(|volume| volume.container.as_path() != mount.container));
        let configuration = own.configuration.clone();
        Ok(Self {
            service: service.clone(),
            mounts,
            required: configuration.required.or(listed.configuration.required.clone()).unwrap_or_default(),
            live: configuration.live.or(listed.configuration.live.clone()).unwrap_or_default(),
            instead: None,
        })
    }

    /// The same, with the configuration in another folder when there is one; what is live stays where it is.
    ///
    /// # Errors
    /// [`Error::NotAFolder`]; [`Error::NoPlaceForConfiguration`] when the container sees none.
    pub(crate) fn with_configuration(self, folder: Option<&Path>) -> Result<Self, Error> {
        let Some(folder) = folder else { return Ok(self) };
        if !folder.is_dir() {
            return Err(Error::NotAFolder { path: folder.to_owned() });
        }
        if self.configuration().is_none() {
            return Err(Error::NoPlaceForConfiguration { service: self.service.to_string() });
        }
        Ok(Self { instead: Some(folder.to_owned()), ..self })
    }

    /// Where the configuration is that counts.
    pub(crate) fn source<'a>(&'a self, mount: &'a OwnMount) -> &'a Path {
        self.instead.as_deref().unwrap_or(&mount.host)
    }

    /// The configuration folder, when the container sees one.
    pub(crate) fn configuration(&self) -> Option<&OwnMount> {
        self.mounts.iter().find(|mount| mount.kind == Kind::Configuration)
    }

    /// The entries of the configuration that are bound live, relative to its folder.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Path> {
        self.live.iter().map(Entry::as_path)
    }

    /// That there is a configuration, with the files without which the service cannot start.
    ///
    /// # Errors
    /// [`Error::NoConfiguration`], [`Error::Io`].
    pub(crate) fn check_configuration(&self) -> Result<(), Error> {
        let Some(mount) = self.configuration() else { return Ok(()) };
        let host = self.source(mount);
        let missing = |others| {
            let absent =
                self.required.iter().map(|entry| host.join(entry.as_path())).find(|file| !is_there(file));
            let file = absent.unwrap_or_else(|| host.to_owned());
            // What was named is to be filled by who named it.
            let others = others || self.instead.is_some();
            Error::NoConfiguration { service: self.service.to_string(), file, others }
        };
        if is_empty(host)? {
            return Err(missing(false));
        }
        match self.required.iter().all(|entry| is_there(&host.join(entry.as_path()))) {
            true => Ok(()),
            false => Err(missing(true)),
        }
    }

    /// Makes the folders for logs, data and volumes that are not there, each with the owner and mode that the image's
    /// own folder has, so that whatever user the image drops to can write there.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Bundles`].
    pub(crate) fn make_missing(&self, view: &RootView, account: &Account) -> Result<(), Error> {
        let failed = |error| Error::io("make a folder of the service", error);
        for mount in self.mounts.iter().filter(|mount| mount.kind != Kind::Configuration) {
            if is_there(&mount.host) {
                continue;
            }
            if let Some(parent) = mount.host.parent() {
                fs_err::create_dir_all(parent).map_err(failed)?;
            }
            let (uid, gid, mode) = match view.metadata(&mount.container)? {
                Some(folder) => (folder.uid, folder.gid, folder.mode & 0o1777),
                None => (account.uid, account.gid, 0o755),
            };
            fs_err::create_dir(&mount.host).map_err(failed)?;
            chown(&mount.host, Some(uid), Some(gid)).map_err(failed)?;
            // After chown, and not by mkdir: the umask takes bits away.
            fs_err::set_permissions(&mount.host, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Ok(())
    }

    /// That the service's user can read its configuration and write the rest.
    ///
    /// # Errors
    /// [`Error::Access`], [`Error::Io`].
    pub(crate) fn check_access(&self, account: &Account) -> Result<(), Error> {
        self.problems(&User::from(account)).into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that keeps a user from reading the configuration and writing the rest: [`Error::Access`] and
    /// [`Error::Io`].
    pub(crate) fn problems(&self, user: &User) -> Vec<Error> {
        let mut problems = Vec::new();
        let mut check = |folder: &Path, entry: Option<&Path>, access| {
            problems.extend(access::check(self.service.as_str(), user, folder, entry, access).err());
        };
        for mount in &self.mounts {
            if mount.kind != Kind::Configuration {
                check(&mount.host, None, Access::Write);
                continue;
            }
            let source = self.source(mount);
            check(source, None, Access::Search);
            for entry in &self.required {
                check(source, Some(entry.as_path()), Access::Read);
            }
            for entry in &self.live {
                check(&mount.host, Some(entry.as_path()), Access::Search);
            }
        }
        // One folder is in the way of everything in it.
        let mut seen = BTreeSet::new();
        problems.retain(|problem| match problem {
            Error::Access { path, .. } => seen.insert(path.clone()),
            _ => true,
        });
        problems
    }

    /// What is bound live: the folders for data, logs and volumes, and the entries of the configuration that are. Whether
    /// the service writes there.
    pub(crate) fn live_folders(&self) -> Vec<(PathBuf, bool)> {
        let mut folders = Vec::new();
        for mount in &self.mounts {
            match mount.kind {
                Kind::Configuration => {
                    folders.extend(self.live().map(|entry| (mount.host.join(entry), false)))
                }
                _ => folders.push((mount.host.clone(), true)),
            }
        }
        folders
    }

    /// The bind mounts for a generation: its copy of the configuration, everything else live.
    pub(crate) fn for_generation(&self, copy: &Path) -> Vec<Mount> {
        let mut binds = Vec::new();
        for mount in &self.mounts {
            if mount.kind != Kind::Configuration {
                binds.push(bind(mount.host.clone(), &mount.container));
                continue;
            }
            binds.push(bind(copy.to_owned(), &mount.container));
            for entry in self.live().filter(|entry| is_there(&mount.host.join(entry))) {
                binds.push(bind(mount.host.join(entry), &mount.container.join(entry)));
            }
        }
        binds
    }

    /// The bind mounts for a one-shot container: everything live, and no configuration when the host has none.
    pub(crate) fn for_run(&self) -> Result<Vec<Mount>, Error> {
        let mut binds = Vec::new();
        for mount in &self.mounts {
            if mount.kind != Kind::Configuration || !is_empty(&mount.host)? {
                binds.push(bind(mount.host.clone(), &mount.container));
            }
        }
        Ok(binds)
    }

    /// Copies the configuration into a generation. Of what is live only the empty place to mount it on is kept.
    ///
    /// # Errors
    /// [`Error::Bundles`], [`Error::Io`].
    pub(crate) fn copy_configuration(&self, copy: &Path) -> Result<(), Error> {
        let Some(mount) = self.configuration() else { return Ok(()) };
        let live: Vec<PathBuf> = self.live().map(ToOwned::to_owned).collect();
        configuration::copy(self.source(mount), copy, &live, &mount.host)
    }
}

/// What `-v` and the settings ask for, as bind mounts.
pub(crate) fn binds_of(volumes: &[Volume]) -> Vec<Mount> {
    let one = |volume: &Volume| Mount {
        read_only: volume.read_only,
        ..bind(volume.host.clone(), volume.container.as_path())
    };
    volumes.iter().map(one).collect()
}

fn bind(source: PathBuf, container: &Path) -> Mount {
    Mount { source, destination: container.to_owned(), read_only: false }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether a folder is missing or has nothing in it.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn is_empty(folder: &Path) -> Result<bool, Error> {
    match fs_err::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("look at the service's configuration", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keystone(home: &Path) -> OwnFolders {
        let mount = |kind, container: &str, host: &str| OwnMount {
            kind,
            container: container.into(),
            host: home.join(host),
        };
        OwnFolders {
            service: "keystone".parse().unwrap(),
            mounts: vec![
                mount(Kind::Configuration, "/etc/keystone", "conf"),
                mount(Kind::Data, "/var/lib/keystone", "lib"),
            ],
            required: vec!["keystone.conf".parse().unwrap()],
            live: vec!["fernet-keys".parse().unwrap(), "credential-keys".parse().unwrap()],
            instead: None,
        }
    }

    #[test]
    fn the_missing_file_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let (home, folders) = (temporary.path(), keystone(temporary.path()));
        let expect = |expected_others| match folders.check_configuration() {
            Err(Error::NoConfiguration { file, others, .. }) => {
                assert_eq!((file, others), (home.join("conf/keystone.conf"), expected_others));
            }
            other => panic!("{other:?}"),
        };
        expect(false);
        fs_err::create_dir(home.join("conf")).unwrap();
        expect(false);
        fs_err::write(home.join("conf/logging.conf"), "").unwrap();
        expect(true);
        fs_err::write(home.join("conf/keystone.conf"), "").unwrap();
        folders.check_configuration().unwrap();
    }

    #[test]
    fn a_generation_sees_its_copy_but_the_keys_live() {
        let temporary = tempfile::tempdir().unwrap();
        let (home, folders) = (temporary.path(), keystone(temporary.path()));
        fs_err::create_dir_all(home.join("conf/fernet-keys/old")).unwrap();
        fs_err::write(home.join("conf/fernet-keys/0"), "secret").unwrap();
        fs_err::write(home.join("conf/keystone.conf"), "[token]").unwrap();
        let copy = home.join("copy");
        folders.copy_configuration(&copy).unwrap();
        assert_eq!(fs_err::read(copy.join("keystone.conf")).unwrap(), b"[token]");
        assert!(is_empty(&copy.join("fernet-keys")).unwrap() && copy.join("fernet-keys").is_dir());

        let binds: Vec<_> = folders
            .for_generation(&copy)
            .into_iter()
            .map(|bind| (bind.source, bind.destination.display().to_string()))
            .collect();
        assert_eq!(
            binds,
            [
                (copy, "/etc/keystone".to_owned()),
                (home.join("conf/fernet-keys"), "/etc/keystone/fernet-keys".to_owned()),
                (home.join("lib"), "/var/lib/keystone".to_owned()),
            ]
        );
    }

    #[test]
    fn a_one_shot_container_sees_the_configuration_itself_if_there_is_one() {
        let temporary = tempfile::tempdir().unwrap();
        let (home, folders) = (temporary.path(), keystone(temporary.path()));
        assert_eq!(folders.for_run().unwrap().len(), 1);
        fs_err::create_dir(home.join("conf")).unwrap();
        fs_err::write(home.join("conf/keystone.conf"), "").unwrap();
        assert_eq!(folders.for_run().unwrap()[0].source, home.join("conf"));
    }
}
