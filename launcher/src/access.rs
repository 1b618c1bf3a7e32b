//! Whether a service's user can read its configuration and write its logs and data.
//! It knows owners, groups and mode bits; access control lists are left aside, so it only ever looks at what a mount
//! point itself and the files in it say.
//!
//! It is asked before anything runs, because a service that cannot read its file says so in its own words, late, and in
//! a log that it perhaps cannot write.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bundles::account::Account;

use crate::error::{Access, Error};

/// Whoever a service runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its name in the image.
    pub name: Option<String>,
}

impl From<&Account> for User {
    fn from(account: &Account) -> Self {
        Self {
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
            name: account.name.clone(),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{name} (uid {})", self.uid),
            None => write!(formatter, "uid {}", self.uid),
        }
    }
}

/// The first thing below `folder` that the user cannot do, for a folder mounted as a whole.
///
/// The folders above it on the host do not matter: a bind mount begins at `folder`.
///
/// # Errors
/// [`Error::Access`], [`Error::Io`].
pub(crate) fn check(
    service: &str,
    user: &User,
    folder: &Path,
    entry: Option<&Path>,
    access: Access,
) -> Result<(), Error> {
    // CAP_DAC_OVERRIDE is in the default list.
    if user.uid == 0 {
        return Ok(());
    }
    let wants_folder = if entry.is_none() { access } else { Access::Search };
    check_one(service, user, folder.to_owned(), wants_folder)?;
    let Some(entry) = entry else { return Ok(()) };
    let mut path = folder.to_owned();
    let mut parts = entry.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        check_one(service, user, path.clone(), if parts.peek().is_some() { Access::Search } else { access })?;
    }
    Ok(())
}

fn check_one(service: &str, user: &User, path: PathBuf, access: Access) -> Result<(), Error> {
    let metadata = match fs_err::metadata(&path) {
        Ok(metadata) => metadata,
        // A link may point to what exists only in the container.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("look at a service's folders", error)),
    };
    let needed = match (access, metadata.is_dir()) {
        (Access::Read, false) => 0o4,
        (Access::Read | Access::Search, _) => 0o5,
        (Access::Write, true) => 0o3,
        (Access::Write, false) => 0o2,
    };
    if permits(metadata.mode(), metadata.uid(), metadata.gid(), user, needed) {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777 | needed << 6;
    let service = service.to_owned();
    Err(Error::Access { service, path, access, uid: user.uid, gid: user.gid, user: user.name.clone(), mode })
}

/// Whether mode bits permit `needed` (4 read, 2 write, 1 search); the first class that fits decides (path_resolution(7)).
pub(crate) fn permits(mode: u32, owner: u32, group: u32, user: &User, needed: u32) -> bool {
    let class = if owner == user.uid {
        mode >> 6
    } else if group == user.gid || user.groups.contains(&group) {
        mode >> 3
    } else {
        mode
    };
    class & needed == needed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn user() -> User {
        User { uid: 42425, gid: 42425, groups: vec![42400], name: Some("keystone".into()) }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        for (mode, owner, group, needed, expected) in [
            (0o600, 42425, 0, 0o4, true),
            (0o600, 0, 0, 0o4, false),
            (0o640, 0, 42425, 0o4, true),
            (0o640, 0, 42400, 0o4, true),
            (0o644, 0, 0, 0o4, true),
            (0o750, 0, 42400, 0o5, true),
            (0o750, 0, 42400, 0o3, false),
            // The owner has fewer rights than everybody else, and that counts.
            (0o077, 42425, 0, 0o4, false),
            (0o707, 0, 42425, 0o4, false),
        ] {
            assert_eq!(
                permits(mode, owner, group, &user(), needed),
                expected,
                "{mode:o} {owner} {group} {needed}"
            );
        }
    }

    #[test]
    fn the_path_that_is_in_the_way_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let conf = temporary.path();
        let set =
            |path: &Path, mode| fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let file = conf.join("plugins/ml2.ini");
        fs_err::create_dir(conf.join("plugins")).unwrap();
        fs_err::write(&file, "").unwrap();
        set(conf, 0o755);
        set(&conf.join("plugins"), 0o755);
        set(&file, 0o640);
        let look = |access| check("neutron", &user(), conf, Some(Path::new("plugins/ml2.ini")), access);
        let blamed = |result: Result<(), Error>| match result {
            Err(Error::Access { path, uid, mode, .. }) => (path, uid, mode),
            other => panic!("{other:?}"),
        };
        assert_eq!(blamed(look(Access::Read)), (file.clone(), 42425, 0o640));
        set(&conf.join("plugins"), 0o700);
        assert_eq!(blamed(look(Access::Read)), (conf.join("plugins"), 42425, 0o700));
        set(&conf.join("plugins"), 0o755);
        set(&file, 0o644);
        look(Access::Read).unwrap();
        let root = User { uid: 0, gid: 0, groups: Vec::new(), name: None };
        set(&file, 0);
        check("neutron", &root, conf, Some(Path::new("plugins/ml2.ini")), Access::Read).unwrap();
        // A folder that only lacks its owner.
        assert!(matches!(check("neutron", &user(), conf, None, Access::Write), Err(Error::Access { .. })));
        if nix::unistd::geteuid().is_root() {
            chown(conf, Some(42425), Some(42425)).unwrap();
            check("neutron", &user(), conf, None, Access::Write).unwrap();
        }
    }
}
