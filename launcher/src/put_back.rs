//! What becomes of the configuration that the operator edits when another generation serves: it is made equal to what runs.
//! It starts nothing, and loses nothing: what it replaces is a generation's, or becomes one first.

use runtime::history::Cause;

use crate::configuration;
use crate::error::Error;
use crate::generation;
use crate::print::{self, sentence};
use crate::remake::Remake;

/// Whose configuration is put back, and for which command.
pub(crate) struct PutBack<'a> {
    /// The service.
    pub remake: Remake<'a>,
    /// The command.
    pub by: Cause,
}

impl PutBack<'_> {
    /// Keeps what has been changed since `active` began, before anything else is done.
    ///
    /// # Errors
    /// As [`Remake::keep_changes`].
    pub(crate) fn keep(&self, active: u32) -> Result<(), Error> {
        self.remake.keep_changes(active, self.by).map(drop)
    }

    /// Whether the operator's configuration is another than that of `active`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn is_needed(&self, active: u32) -> Result<bool, Error> {
        self.remake.has_changed(active)
    }

    /// Makes the operator's configuration equal to that of `serving`, in whose place `before` was. The service is as it was asked
    /// for, so a failure is told and not more: until the next try it is shown as a change since the generation began.
    pub(crate) fn put(&self, before: u32, serving: u32) {
        if let Err(error) = self.try_to_put(before, serving) {
            let home = self.remake.home();
            print::warning(&sentence::not_put_back(&home, &error));
            print::hint(&format!(
                "opsrun diff {0} {serving} now; opsrun rollback {0} {serving}",
                self.remake.service
            ));
        }
    }

    fn try_to_put(&self, before: u32, serving: u32) -> Result<(), Error> {
        let folders = self.remake.layout.service(self.remake.service);
        let (home, copy) = (self.remake.home(), generation::configuration(&folders.generation(serving)));
        if !copy.is_dir() {
            return Ok(());
        }
        // Once more: it may have been edited while the new generation was proven.
        let kept = self.remake.keep_changes(before, self.by)?;
        let is_needed = self.is_needed(serving)?;
        // In any case: times are no difference to a person, and return all the same.
        configuration::put_back(&copy, &home, &self.remake.live(&[before, serving]))?;
        if is_needed {
            print::note(&sentence::put_back(&home, serving, kept));
        }
        Ok(())
    }
}
