//! Frees a service whose record cannot be read: the file is set aside, what may run of the service is ended, and then it
//! is one that is down. It does not know why the file is as it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::adopt::clear_container;
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::history::{End, History};
use crate::keep::Kept;
use crate::lock::{Lock, Tried};
use crate::record;

/// Who holds the lock for so long is a supervisor with a record of its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sets a corrupt record aside, and ends what runs of any generation, since nobody can say any more which one serves.
/// Where the file is now; `None` when the record can be read, or there is none.
///
/// # Errors
/// [`Error::Busy`] when the service has a supervisor, which knows better; [`Error::RecordNewer`], [`Error::Io`].
pub fn set_corrupt_record_aside(folders: &ServiceFolders) -> Result<Option<PathBuf>, Error> {
    if !record::is_corrupt(folders)? {
        return Ok(None);
    }
    let failed = |doing| move |error: std::io::Error| Error::Io { doing, source: error };
    let began = Instant::now();
    let _lock = loop {
        match Lock::try_hold(&folders.lock()).map_err(failed("lock the service"))? {
            Tried::Held(lock) => break lock,
            // A supervisor that its keeper has just started cannot read the record either, and ends.
            Tried::By(_) if began.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 100),
            Tried::By(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
        }
    };
    // First: were the record gone and this cut short, nobody would know that something may run.
    let history = History::of(folders);
    for entry in history.read()?.entries {
        clear_container(folders, entry.generation, None)?;
        if entry.serves() {
            history.ended(entry.generation, End::RecordCorrupt)?;
        }
    }
    if let Some(mut kept) = Kept::of_keeper(folders, None) {
        // It would start a supervisor for ever.
        kept.bye();
    }
    record::set_aside(folders)
}
