//! The numbered folders of a service: one is taken, filled, and removed again when its start comes to nothing.
//! It knows folders, numbers and what the history says of them; what a bundle consists of is others' business.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runtime::client::is_supervised;
use runtime::crash_point;
use runtime::definition::Definition;
use runtime::folders::ServiceFolders;
use runtime::history::{self, Cause, History, Kind, Past, Person};
use runtime::record::Record;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::drift;
use crate::error::Error;
use crate::limits::{self, Limits};
use crate::service_name::ServiceName;
use crate::settings::Generations;
use crate::wishes::{self, Wishes};

/// So many generations of a service are kept when nothing else is said, the newest ones: enough to go back to.
const KEPT: usize = 5;

/// So many are in the history when nothing else is said.
const HISTORY: usize = 100;

/// The name of a folder that is being removed begins so. A generation is there whole or not at all.
const GONE: &str = ".gone-";

/// A generation that was taken and is not proven yet: dropping it removes it.
#[derive(Debug)]
pub(crate) struct Candidate {
    folders: ServiceFolders,
    number: u32,
    rules: Generations,
    keep: bool,
    /// Held as long as this process has it: one that nobody holds and that never served was left by a crash.
    _hold: fs_err::File,
}

impl Candidate {
    /// Takes the next number of a service: none is ever used twice, so a log, a line of the history and a person's memory
    /// mean one generation. Making the folder is what takes it, so two commands never get the same.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Runtime`] when the history cannot be read.
    pub(crate) fn take(folders: &ServiceFolders, rules: &Generations) -> Result<Self, Error> {
        let failed = |error| Error::io("make a generation of the service", error);
        fs_err::create_dir_all(folders.generations()).map_err(failed)?;
        let mut number = last_number(folders)?;
        crash_point::here();
        loop {
            number += 1;
            let folder = folders.generation(number);
            match fs_err::create_dir(&folder) {
                Ok(()) => {
                    let hold = fs_err::File::open(&folder).map_err(failed)?;
                    flock(&hold, FlockOperation::NonBlockingLockExclusive)
                        .map_err(|error| failed(error.into()))?;
                    let (folders, rules) = (folders.clone(), rules.clone());
                    let taken = Self { folders, number, rules, keep: false, _hold: hold };
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

    /// Notes in the history that it is made, now that it is, by `by` and perhaps from another generation. From here on its
    /// number is used, whatever becomes of it.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub(crate) fn note(&self, kind: Kind, by: Cause, from: Option<u32>) -> Result<(), Error> {
        let Some(Made { definition, .. }) = read(&self.folder()) else { return Ok(()) };
        let Definition { release, image, image_id, .. } = definition;
        let person = Person::of_this_process();
        let made = history::Made { kind, by, person, release, image, image_id, from };
        let entries_max = self.rules.history.map_or(HISTORY, NonZeroUsize::get);
        Ok(History::of(&self.folders).made(self.number, made, entries_max)?)
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

    /// The release it is to run.
    pub(crate) fn release(&self) -> String {
        read(&self.folder()).map(|made| made.definition.release).unwrap_or_default()
    }

    /// Whether it would run exactly what another generation runs: the same bundle and the same configuration.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn is_like(&self, other: u32) -> Result<bool, Error> {
        let folder = self.folders.generation(other);
        let (Some(this), Some(that)) = (self.bundle(self.number), self.bundle(other)) else {
            return Ok(false);
        };
        let copies = (self.configuration(), configuration(&folder));
        Ok(this == that && drift::changes(&copies.0, &copies.1, &[])?.is_empty())
    }

    /// A generation's `config.json` without what names the generation.
    fn bundle(&self, number: u32) -> Option<String> {
        let folder = self.folders.generation(number);
        let made = read(&folder)?;
        let id = made.specification.pointer("/linux/cgroupsPath")?.as_str()?.to_owned();
        let numberless = Definition { generation: 0, ..made.definition.clone() };
        let text = made.specification.to_string();
        let said = |definition: &Definition| serde_json::Value::from(definition.to_annotation()).to_string();
        let text = text.replace(&said(&made.definition), &said(&numberless));
        Some(text.replace(&folder.display().to_string(), "FOLDER").replace(&id, "CGROUP"))
    }

    /// It keeps a configuration and is not to run: it stays. The oldest ones go when the one that is to run stays, too, since
    /// until then one of them may be what it is made from.
    pub(crate) fn stay(mut self) {
        self.keep = true;
    }

    /// It serves: it stays, and the oldest ones go.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Runtime`] when an old one cannot be removed; this one stays all the same.
    pub(crate) fn keep(mut self) -> Result<(), Error> {
        self.keep = true;
        let past = History::of(&self.folders).read()?;
        let active = Record::read(&self.folders)?.map(|record| record.generation);
        // What must be there whatever its age: what serves, what served before it, and the configuration that was kept last.
        let before = active.and_then(|active| past.before(active));
        let needed: Vec<u32> = [active, before, past.last_kept()].into_iter().flatten().collect();
        self.remove_strays(&past, &needed)?;
        for old in unneeded(&numbers(&self.folders)?, &self.rules, self.number, &needed) {
            remove_unless_held(&self.folders, old)?;
        }
        remove_half_removed(&self.folders)?;
        // Of those in between, which never served, there is output as long as there is of an older one.
        let oldest = self::numbers(&self.folders)?.first().copied().unwrap_or(self.number);
        Ok(runtime::log::remove_before(&self.folders, oldest)?)
    }

    /// Removes what commands have left that were killed: older than this one, held by nobody, and never of any use.
    fn remove_strays(&self, past: &Past, needed: &[u32]) -> Result<(), Error> {
        let was_of_use = |number: &u32| {
            let entry = past.entry(*number);
            entry.is_some_and(|entry| {
                entry.runs.iter().any(|run| run.began_at_ms.is_some())
                    || entry.made.as_ref().is_some_and(|made| made.kind == Kind::Kept)
            })
        };
        for number in numbers(&self.folders)? {
            if number >= self.number || needed.contains(&number) || was_of_use(&number) {
                continue;
            }
            remove_unless_held(&self.folders, number)?;
        }
        Ok(())
    }
}

/// Those that are too old to be kept.
fn unneeded(numbers: &[u32], rules: &Generations, new: u32, needed: &[u32]) -> Vec<u32> {
    let keep = rules.keep.map_or(KEPT, NonZeroUsize::get);
    let old = &numbers[..numbers.len().saturating_sub(keep)];
    old.iter().copied().filter(|number| *number != new && !needed.contains(number)).collect()
}

/// Which generations would go if this new one came to serve in place of the one that does.
///
/// # Errors
/// [`Error::Io`], [`Error::Runtime`].
pub(crate) fn would_go(folders: &ServiceFolders, rules: &Generations, new: u32) -> Result<Vec<u32>, Error> {
    let mut numbers = numbers(folders)?;
    numbers.push(new);
    // What serves now will be what served before.
    let before = Record::read(folders)?.map(|record| record.generation);
    let kept = History::of(folders).read()?.last_kept();
    let needed: Vec<u32> = [before, kept].into_iter().flatten().collect();
    Ok(unneeded(&numbers, rules, new, &needed))
}

/// The number that the next generation gets, unless another command takes it before.
///
/// # Errors
/// [`Error::Io`], [`Error::Runtime`].
pub(crate) fn next_number(folders: &ServiceFolders) -> Result<u32, Error> {
    Ok(last_number(folders)? + 1)
}

/// Removes a generation that no command is about to use.
fn remove_unless_held(folders: &ServiceFolders, number: u32) -> Result<(), Error> {
    let Ok(folder) = fs_err::File::open(folders.generation(number)) else { return Ok(()) };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => remove(folders, number),
        Err(_) => Ok(()),
    }
}

/// Removes a generation. It is renamed first: a crash in between leaves none that is half there.
fn remove(folders: &ServiceFolders, number: u32) -> Result<(), Error> {
    let failed = |error| Error::io("remove an old generation", error);
    let gone = folders.generations().join(format!("{GONE}{number}"));
    crash_point::here();
    fs_err::rename(folders.generation(number), &gone).map_err(failed)?;
    crash_point::here();
    fs_err::remove_dir_all(&gone).map_err(failed)
}

fn remove_half_removed(folders: &ServiceFolders) -> Result<(), Error> {
    let failed = |error| Error::io("remove an old generation", error);
    for entry in fs_err::read_dir(folders.generations()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(GONE.as_bytes()) {
            fs_err::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // An error is on its way already, and it is the one that matters; a left-over is pruned by a later start.
        let _ = remove(&self.folders, self.number);
        // Of a service that has never been started nothing is left. Each call fails when there is something in the folder.
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

/// What was wished for with a generation; nothing when its folder is gone.
pub(crate) fn wishes(folders: &ServiceFolders, generation: u32) -> Wishes {
    read(&folders.generation(generation)).map_or_else(Wishes::default, |made| made.wishes)
}

/// What a generation of a service was made with.
///
/// # Errors
/// [`Error::NoGeneration`], [`Error::GenerationGone`], [`Error::Io`].
pub(crate) fn find(folders: &ServiceFolders, service: &ServiceName, generation: u32) -> Result<Made, Error> {
    if let Some(made) = read(&folders.generation(generation)) {
        return Ok(made);
    }
    let have = numbers(folders)?;
    let (service, was) = (service.to_string(), History::of(folders).read()?.entry(generation).is_some());
    Err(match was {
        true => Error::GenerationGone { service, generation, have },
        false => Error::NoGeneration { service, generation, have },
    })
}

/// The ids of the images of all generations that a service keeps. One that cannot be read cannot be started either.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn images(folders: &ServiceFolders) -> Result<Vec<String>, Error> {
    let made = numbers(folders)?.into_iter().filter_map(|number| read(&folders.generation(number)));
    Ok(made.map(|made| made.definition.image_id).collect())
}

/// The numbers of the generations that are there, ascending.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn numbers(folders: &ServiceFolders) -> Result<Vec<u32>, Error> {
    numbered(&folders.generations(), "")
}

/// The largest number that was ever used: by a generation that is there, one of which the history knows, or one whose
/// output is.
fn last_number(folders: &ServiceFolders) -> Result<u32, Error> {
    let there = numbers(folders)?.last().copied();
    let told = History::of(folders).read()?.last_number();
    let logged = numbered(&folders.log, ".log")?.last().copied();
    Ok([there, Some(told), logged].into_iter().flatten().max().unwrap_or(0))
}

/// The numbers that entries of a folder have as their names before `suffix`, ascending.
fn numbered(folder: &Path, suffix: &str) -> Result<Vec<u32>, Error> {
    let failed = |error| Error::io("list the generations of the service", error);
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse::<u32>().ok());
        numbers.extend(number);
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

    fn take(folders: &ServiceFolders) -> Candidate {
        Candidate::take(folders, &Generations::default()).unwrap()
    }

    /// A candidate that is as far as being noted.
    fn made(folders: &ServiceFolders, kind: Kind) -> Candidate {
        let candidate = take(folders);
        let made = history::Made {
            kind,
            by: Cause::Start,
            person: Person::of_this_process(),
            release: "zed".into(),
            image: "x:zed".into(),
            image_id: "sha256:0".into(),
            from: None,
        };
        History::of(folders).made(candidate.number(), made, 100).unwrap();
        candidate
    }

    #[test]
    fn numbers_rise_and_are_not_used_twice() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        let (first, second) = (take(&folders), take(&folders));
        assert_eq!((first.number(), second.number()), (1, 2));
        second.keep().unwrap();
        drop(first);
        // Of one that was made in vain the history knows; of one whose history is lost, its log.
        drop(made(&folders, Kind::Run));
        assert_eq!(take(&folders).number(), 4);
        fs_err::create_dir_all(&folders.log).unwrap();
        fs_err::write(folders.output(7), "").unwrap();
        assert_eq!(take(&folders).number(), 8);
        assert_eq!(numbers(&folders).unwrap(), [2]);
    }

    #[test]
    fn a_failed_first_start_leaves_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        let candidate = take(&folders);
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
        let serve = |rules: &Generations| {
            let mut candidate = made(&folders, Kind::Run);
            candidate.rules = rules.clone();
            History::of(&folders).serves(candidate.number()).unwrap();
            candidate.keep().unwrap();
        };
        for _ in 0..7 {
            serve(&Generations::default());
        }
        assert_eq!(numbers(&folders).unwrap(), [3, 4, 5, 6, 7]);
        let rules = Generations { keep: NonZeroUsize::new(2), history: None };
        // What a crash left of a removal.
        fs_err::create_dir_all(folders.generations().join(".gone-1/upper")).unwrap();
        serve(&rules);
        assert_eq!(numbers(&folders).unwrap(), [7, 8]);
        assert_eq!(fs_err::read_dir(folders.generations()).unwrap().count(), 2);
    }

    fn record(folders: &ServiceFolders, generation: u32) {
        let record = serde_json::json!({
            "version": 2, "service": "x", "release": "zed", "image": "x:zed", "image_id": "sha256:0",
            "generation": generation, "ports": [], "wanted": "up", "state": "running", "health": "healthy",
            "process": null, "started_at_ms": null, "changed_at_ms": 2, "restarts": 0,
            "last_exit": null, "last_failure": null
        });
        fs_err::write(folders.record(), record.to_string()).unwrap();
    }

    #[test]
    fn what_a_rollback_needs_is_kept_whatever_its_age() {
        let temporary = tempfile::tempdir().unwrap();
        let folders = folders(temporary.path());
        fs_err::create_dir_all(&folders.state).unwrap();
        let history = History::of(&folders);
        made(&folders, Kind::Run).keep().unwrap();
        history.serves(1).unwrap();
        record(&folders, 1);
        made(&folders, Kind::Kept).keep().unwrap();
        for _ in 0..7 {
            // Each is a start in vain whose folder is there, as after a crash.
            made(&folders, Kind::Run).stay();
        }
        let held = made(&folders, Kind::Run);
        let mut last = made(&folders, Kind::Run);
        last.rules.keep = NonZeroUsize::new(1);
        history.serves(last.number()).unwrap();
        record(&folders, last.number());
        last.keep().unwrap();
        // Another command is about to use the one that it holds.
        assert_eq!(numbers(&folders).unwrap(), [1, 2, 10, 11]);
        drop(held);
    }
}
