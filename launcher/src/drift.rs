//! How the configuration that the operator edits differs from the copy a generation runs with.
//! It knows folders only; what a difference means is for people to decide.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Error;

/// More differences than this are not looked for: nobody reads them.
pub(crate) const CHANGES_MAX: usize = 1000;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Change {
    /// What differs, relative to the folder.
    pub path: PathBuf,
    /// How.
    pub kind: ChangeKind,
}

/// How a file differs from the generation's copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeKind {
    /// It is new: the generation does not have it.
    Added,
    /// Its content, owner, mode or kind is another.
    Changed,
    /// It is gone: only the generation has it.
    Removed,
}

/// What has changed in `edited` since `copy` was made of it, sorted by path; `live` entries are left out.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn changes(edited: &Path, copy: &Path, live: &[PathBuf]) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = names(&edited.join(&folder))?;
        let there = names(&copy.join(&folder))?;
        for name in here.union(&there) {
            let path = folder.join(name);
            if live.contains(&path) || changes.len() >= CHANGES_MAX {
                continue;
            }
            let kind = match (here.contains(name), there.contains(name)) {
                (true, false) => Some(ChangeKind::Added),
                (false, _) => Some(ChangeKind::Removed),
                (true, true) => {
                    let (differ, is_folder) = compare(&edited.join(&path), &copy.join(&path))?;
                    if is_folder {
                        folders.push(path.clone());
                    }
                    differ.then_some(ChangeKind::Changed)
                }
            };
            if let Some(kind) = kind {
                changes.push(Change { path, kind });
            }
        }
    }
    changes.sort();
    Ok(changes)
}

/// The names in a folder; none when there is no such folder.
fn names(folder: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let failed = |error| Error::io("compare a service's configuration", error);
    match fs_err::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.file_name().into())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Whether two files differ, and whether both are folders.
fn compare(one: &Path, two: &Path) -> Result<(bool, bool), Error> {
    let failed = |error| Error::io("compare a service's configuration", error);
    let (a, b) =
        (fs_err::symlink_metadata(one).map_err(failed)?, fs_err::symlink_metadata(two).map_err(failed)?);
    let both_folders = a.is_dir() && b.is_dir();
    let facts = |metadata: &std::fs::Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    if facts(&a) != facts(&b) {
        return Ok((true, both_folders));
    }
    let differ = if a.is_file() {
        a.len() != b.len() || fs_err::read(one).map_err(failed)? != fs_err::read(two).map_err(failed)?
    } else if a.is_symlink() {
        fs_err::read_link(one).map_err(failed)? != fs_err::read_link(two).map_err(failed)?
    } else {
        false
    };
    Ok((differ, both_folders))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_kind_of_difference_is_found_and_keys_are_left_out() {
        let temporary = tempfile::tempdir().unwrap();
        let (edited, copy) = (temporary.path().join("conf"), temporary.path().join("copy"));
        for root in [&edited, &copy] {
            fs_err::create_dir_all(root.join("plugins/ml2")).unwrap();
            fs_err::create_dir_all(root.join("fernet-keys")).unwrap();
            fs_err::write(root.join("same"), "same").unwrap();
            fs_err::write(root.join("plugins/ml2/ml2.ini"), "one").unwrap();
            fs_err::write(root.join("mode"), "").unwrap();
        }
        assert_eq!(changes(&edited, &copy, &[]).unwrap(), []);

        fs_err::write(edited.join("plugins/ml2/ml2.ini"), "two").unwrap();
        fs_err::set_permissions(edited.join("mode"), std::fs::Permissions::from_mode(0o600)).unwrap();
        fs_err::write(edited.join("new"), "").unwrap();
        fs_err::write(edited.join("fernet-keys/0"), "").unwrap();
        fs_err::write(copy.join("gone"), "").unwrap();
        let found = changes(&edited, &copy, &["fernet-keys".into()]).unwrap();
        let change = |path: &str, kind| Change { path: path.into(), kind };
        assert_eq!(
            found,
            [
                change("gone", ChangeKind::Removed),
                change("mode", ChangeKind::Changed),
                change("new", ChangeKind::Added),
                change("plugins/ml2/ml2.ini", ChangeKind::Changed),
            ]
        );
    }

    #[test]
    fn a_folder_that_became_a_file_is_a_change() {
        let temporary = tempfile::tempdir().unwrap();
        let (edited, copy) = (temporary.path().join("conf"), temporary.path().join("copy"));
        fs_err::create_dir_all(copy.join("policy.d")).unwrap();
        fs_err::create_dir(&edited).unwrap();
        fs_err::write(edited.join("policy.d"), "").unwrap();
        assert_eq!(changes(&edited, &copy, &[]).unwrap()[0].kind, ChangeKind::Changed);
    }
}
