//! What a service does, as its record says it and as it is: a record is checked against the process table and the lock.
//! It needs no supervisor to be alive, and changes nothing.

use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::lock::Lock;
use crate::record::Record;

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What its supervisor wrote last.
    pub record: Record,
    /// The supervisor; `None` when there is none, 0 when its number is not known yet.
    pub supervisor: Option<i32>,
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
    Ok(Some(Status { record, supervisor, alive }))
}
