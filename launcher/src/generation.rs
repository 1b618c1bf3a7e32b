//! The numbered folders of a service: one is taken, filled, and removed again when its start comes to nothing.
//! It knows folders and numbers; what a bundle consists of is others' business.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runtime::client::is_supervised;
use runtime::definition::Definition;
use runtime::folders::ServiceFolders;
use serde::Deserialize;

use crate::error::Error;
use crate::limits::{self, Limits};
use crate::wishes::{self, Wishes};

/// So many generations of a service are kept, the newest ones: enough to go back to.
pub(crate) const KEPT: usize = 5;

/// A generation that was taken and is not proven yet: dropping it removes it.
#[derive(Debug)]
pub(crate) struct Candidate {
    folders: ServiceFolders,
    number: u32,
    keep: bool,
}

impl Candidate {
    /// Takes the next number of a service. Making the folder is what takes it, so two commands never get the same.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn take(folders: &ServiceFolders) -> Result<Self, Error> {
        let failed = |error| Error::io("make a generation of the service", error);
        fs_err::create_dir_all(folders.generations()).map_err(failed)?;
        let mut number = numbers(folders)?.last().copied().unwrap_or(0);
        loop {
            number += 1;
            let folder = folders.generation(number);
            match fs_err::create_dir(&folder) {
                Ok(()) => {
                    let taken = Self { folders: folders.clone(), number, keep: false };
                    // It is going to hold a copy of the configuration, and with it passwords.
                    fs_err::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(failed)?;
                    return Ok(taken);
                }
                // Another command took it in between.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Its number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folders.generation(self.number)
    }

    /// Where its copy of the configuration belongs.
    pub(crate) fn configuration(&self) -> PathBuf {
        configuration(&self.folder())
    }

    /// It serves: it stays, and the oldest ones go.
    ///
    /// # Errors
    /// [`Error::Io`] when an old one cannot be removed; this one stays all the same.
    pub(crate) fn keep(mut self) -> Result<(), Error> {
        self.keep = true;
        let mut numbers = numbers(&self.folders)?;
        numbers.truncate(numbers.len().saturating_sub(KEPT));
        for old in numbers {
            fs_err::remove_dir_all(self.folders.generation(old))
                .map_err(|error| Error::io("remove an old generation", error))?;
        }
        Ok(())
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // An error is on its way already, and it is the one that matters; a left-over is pruned by a later start.
        let _ = fs_err::remove_dir_all(self.folder());
        // Of a service that has never been up nothing is left. Each call fails when there is something in the folder.
        let _ = fs_err::remove_dir(self.folders.generations());
        if fs_err::remove_dir(&self.folders.state).is_ok() && !is_supervised(&self.folders) {
            let _ = fs_err::remove_dir_all(&self.folders.run);
        }
    }
}

/// Where a generation has its copy of the configuration.
pub(crate) fn configuration(generation: &Path) -> PathBuf {
    generation.join("conf")
}

/// What a generation was made with.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// Its rules.
    pub definition: Definition,
    /// What was wished for beside them.
    pub wishes: Wishes,
    /// Its limits as they were said, by settings and flags.
    pub said_limits: Limits,
    /// Its limits, by file of the cgroup.
    pub limits: BTreeMap<String, String>,
    /// The whole `config.json`.
    pub specification: serde_json::Value,
}

/// What the generation in a folder was made with; `None` when the folder, or what is needed of it, is gone.
pub(crate) fn read(generation: &Path) -> Option<Made> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: BTreeMap<String, String>,
    }
    let text = fs_err::read(generation.join("config.json")).ok()?;
    let specification: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let annotated = Annotated::deserialize(&specification).ok()?;
    let definition = annotated.annotations.get(runtime::definition::ANNOTATION)?;
    let wishes = annotated.annotations.get(wishes::ANNOTATION).and_then(|text| Wishes::from_annotation(text));
    let said_limits =
        annotated.annotations.get(limits::ANNOTATION).and_then(|text| Limits::from_annotation(text));
    let limits = specification.pointer("/linux/resources/unified");
    let limits = limits.and_then(|unified| BTreeMap::deserialize(unified).ok());
    Some(Made {
        definition: serde_json::from_str(definition).ok()?,
        wishes: wishes.unwrap_or_default(),
        said_limits: said_limits.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        specification,
    })
}

/// The ids of the images of all generations that a service keeps. One that cannot be read cannot be started either.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn images(folders: &ServiceFolders) -> Result<Vec<String>, Error> {
    if !folders.generations().exists() {
        return Ok(Vec::new());
    }
    let made = numbers(folders)?.into_iter().filter_map(|number| read(&folders.generation(number)));
    Ok(made.map(|made| made.definition.image_id).collect())
}

/// The numbers that are taken, ascending.
fn numbers(folders: &ServiceFolders) -> Result<Vec<u32>, Error> {
    let failed = |error| Error::io("list the generations of the service", error);
    let mut numbers = Vec::new();
    for entry in fs_err::read_dir(folders.generations()).map_err(failed)? {
        if let Some(number) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path) -> ServiceFolders {
        ServiceFolders { state: root.join("services/x"), run: root.join("run"), log: root.join("log") }
    }

    #[test]
    fn numbers_rise_and_are_not_used_twice() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        let first = Candidate::take(&folders).unwrap();
        let second = Candidate::take(&folders).unwrap();
        assert_eq!((first.number(), second.number()), (1, 2));
        second.keep().unwrap();
        drop(first);
        assert_eq!(Candidate::take(&folders).unwrap().number(), 3);
        assert_eq!(numbers(&folders).unwrap(), [2]);
    }

    #[test]
    fn a_failed_first_start_leaves_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        let candidate = Candidate::take(&folders).unwrap();
        fs_err::create_dir(candidate.configuration()).unwrap();
        fs_err::write(candidate.configuration().join("a"), "").unwrap();
        drop(candidate);
        assert!(!folders.state.exists());
        assert!(folders.state.parent().unwrap().exists());
    }

    #[test]
    fn only_the_newest_are_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        for _ in 0..7 {
            Candidate::take(&folders).unwrap().keep().unwrap();
        }
        assert_eq!(numbers(&folders).unwrap(), [3, 4, 5, 6, 7]);
    }
}
