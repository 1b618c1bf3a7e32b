//! The call that is being answered, where it outlives this process: the kernel tells of a call once, and who made it would
//! wait for ever if this supervisor died before it has answered. It knows nothing of what is answered.
//!
//! The memory that the kernel tells into is a file's: what was heard is in it when the system call by which it is heard is
//! over, and there is no moment at which it is known to this process alone.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::notified::{Bind, Heard, Notified};
use crate::os::{self, Call, SharedCall};

/// The version of what is in the file; of a newer one nothing is taken.
const VERSION: u32 = 1;

/// Where a call is heard into.
#[derive(Debug)]
pub(super) struct Pending {
    /// Without it there is a moment at which this process must not die.
    memory: Option<SharedCall>,
}

impl Pending {
    /// In a service's run folder: a call does not outlive the host.
    pub(super) fn of(run_folder: &Path) -> Self {
        Self { memory: open(run_folder).ok() }
    }

    /// What there is to hear of a generation. It is left here until it is done with.
    pub(super) fn hear(&mut self, notified: &Notified, generation: u32) -> io::Result<Heard> {
        let Some(memory) = &mut self.memory else { return notified.hear() };
        notified.hear_by(|listener| {
            memory.set(Call { version: VERSION, generation, ..Call::default() });
            memory.receive(listener)?;
            Ok(memory.get().notification)
        })
    }

    /// To be called when it is answered.
    pub(super) fn forget(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.set(Call::default());
        }
    }

    /// The call of this generation's that a supervisor has died over. It may be answered by now, or of a container that is no
    /// more: that is seen from whether it still waits, since the kernel begins to count at a random number.
    pub(super) fn left(&self, generation: u32) -> Option<Bind> {
        let call = self.memory.as_ref()?.get();
        let is_its = (1..=VERSION).contains(&call.version) && call.generation == generation;
        is_its.then(|| Bind::of(&call.notification))
    }
}

fn open(run_folder: &Path) -> io::Result<SharedCall> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.options_mut().mode(0o600);
    let file = options.open(run_folder.join("heard"))?;
    let bytes = size_of::<Call>();
    if file.metadata()?.len() < bytes as u64 {
        // Written, it has its place on the file system: a page that there is none for would end this process.
        file.file().write_all_at(&vec![0; bytes], 0)?;
    }
    os::map_call(file.file().as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_there_for_whoever_opens_the_file_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut memory = open(folder.path()).expect("a file");
        let mut call = Call { version: VERSION, generation: 7, ..Call::default() };
        call.notification.id = 5;
        memory.set(call);
        let mut next = Pending::of(folder.path());
        assert!(next.left(6).is_none(), "another generation's");
        assert!(next.left(7).is_some());
        memory.set(Call { version: VERSION + 1, ..call });
        assert!(next.left(7).is_none(), "a newer version's");
        memory.set(call);
        next.forget();
        assert!(Pending::of(folder.path()).left(7).is_none(), "it is done with");
    }
}
