//! What a service does, as its record says it and as it is: a record is checked against the process table and the lock.
//! It needs no supervisor to be alive, and changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::container;
use crate::definition::{Definition, HealthCheck, Probe};
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::health::Prober;
use crate::history::History;
use crate::lock::Lock;
use crate::record::{Record, State, Wanted};

/// Between two looks whether a service is well after all.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What its supervisor wrote last.
    pub record: Record,
    /// The supervisor; `None` when there is none, 0 when its number is not known yet.
    pub supervisor: Option<i32>,
    /// Whether another file is by now where the supervisor's program was executed from; `None` when there is no supervisor, or
    /// that cannot be seen.
    pub replaced: Option<bool>,
    /// Whether the process in the record is alive.
    pub alive: bool,
}

/// Looks at a service; `None` when there is no record of it.
///
/// # Errors
/// Those of [`Record::read`].
pub fn look(folders: &ServiceFolders) -> Result<Option<Status>, Error> {
    // The lock first: a supervisor that ends in between leaves a record that says so.
    let supervisor = Lock::holder(&folders.lock())
        .map_err(|error| Error::Io { doing: "look at the service's lock", source: error })?;
    let Some(record) = Record::read(folders)? else { return Ok(None) };
    let alive = record.process.as_ref().is_some_and(crate::record::Process::is_alive);
    let replaced = supervisor.filter(|pid| *pid > 0).and_then(program_is_replaced);
    Ok(Some(Status { record, supervisor, replaced, alive }))
}

/// Whether a service was up in this same boot and has lost its supervisor. It need not have a process: one that had ended by
/// itself was waiting for its next start, or being started, and only its supervisor would have done so.
///
/// # Errors
/// When its history cannot be read.
pub fn is_lost(folders: &ServiceFolders, status: &Status) -> Result<bool, Error> {
    let record = &status.record;
    if status.supervisor.is_some() || record.wanted == Wanted::Down {
        return Ok(false);
    }
    match &record.process {
        Some(process) => Ok(process.is_of_this_boot()),
        None if !Lock::was_held(&folders.lock()) => Ok(false),
        None => match record.state {
            State::BackingOff => Ok(true),
            State::Starting => History::of(folders).has_served(record.generation),
            State::Running | State::Stopping | State::Stopped | State::CrashLoop => Ok(false),
        },
    }
}

/// Whether a process runs a program that is not the one at its path any more. A program that was removed and not replaced
/// is the newest there is.
fn program_is_replaced(pid: i32) -> Option<bool> {
    let runs = PathBuf::from(format!("/proc/{pid}/exe"));
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let program = file(&runs)?;
    // Mostly it is the very program that asks, which does so once and ends.
    static OWN: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    if *OWN.get_or_init(|| own_program(file)) == Some(program) {
        return Some(false);
    }
    let path = std::fs::read_link(&runs).ok()?.into_os_string().into_string().ok()?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
    Some(file(Path::new(path)).is_some_and(|there| there != program))
}

/// The program of this process, if it is still at its path.
fn own_program(file: impl Fn(&Path) -> Option<(u64, u64)>) -> Option<(u64, u64)> {
    let runs = Path::new("/proc/self/exe");
    let program = file(runs)?;
    (file(&std::fs::read_link(runs).ok()?)? == program).then_some(program)
}

/// The rules of the active generation.
///
/// # Errors
/// When its bundle cannot be read, or has none.
pub fn definition(folders: &ServiceFolders, record: &Record) -> Result<Definition, Error> {
    Definition::of(&container::read_spec(&folders.generation(record.generation))?)
}

/// Probes the active generation from outside its supervisor: what is said of it is seen, not believed. Why not, when it is
/// not well; as for its supervisor, that is only so when as many probes in a row have failed as its health check says: one may
/// be late where clients ask more than it can answer, or meet a worker that is not ready yet. A service that is being started
/// again has as long for that as for a start.
///
/// # Errors
/// [`Error::NotRunning`] when nothing of it runs; those of [`Record::read`] and when its bundle cannot be read.
pub fn probe(folders: &ServiceFolders) -> Result<Result<(), String>, Error> {
    let began = Instant::now();
    let mut tried = 0;
    loop {
        let record = Record::read(folders)?.ok_or_else(|| not_running(folders))?;
        let health = definition(folders, &record)?.health;
        let (retries, patience) = (health.retries, Duration::from_millis(health.start_timeout_ms));
        let verdict = probe_once(folders, &record, health);
        tried += 1;
        let may_become_well = match record.state {
            State::Running => tried < retries,
            State::Starting | State::BackingOff => began.elapsed() < patience,
            State::Stopping | State::Stopped | State::CrashLoop => false,
        };
        if matches!(verdict, Ok(Ok(()))) || !may_become_well {
            return verdict;
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

fn probe_once(
    folders: &ServiceFolders,
    record: &Record,
    health: HealthCheck,
) -> Result<Result<(), String>, Error> {
    let process = record.process.as_ref().filter(|process| process.is_alive());
    let process = process.ok_or_else(|| not_running(folders))?;
    if let Probe::Runs { .. } = health.probe {
        return Ok(Ok(()));
    }
    let bundle = folders.generation(record.generation);
    let mut prober = Prober::new(health, &bundle, &folders.run, Path::new(&process.cgroup));
    prober.probe_and_wait().map_err(|error| Error::Io { doing: "probe the service", source: error })
}

fn not_running(folders: &ServiceFolders) -> Error {
    Error::NotRunning { service: folders.name().to_owned() }
}
