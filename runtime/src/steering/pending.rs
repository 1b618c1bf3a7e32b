//! The bind that is being answered, on disk: the kernel tells of a call once, and who made it would wait for ever if this
//! supervisor died before it has answered. It knows nothing of what is answered.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::notified::Bind;

/// The version that is written; a newer one is left alone.
const VERSION: u32 = 1;

/// Where it is written down.
#[derive(Debug)]
pub(super) struct Pending {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Noted {
    version: u32,
    generation: u32,
    bind: Bind,
}

impl Pending {
    /// In a service's run folder: a call does not outlive the host.
    pub(super) fn of(run_folder: &Path) -> Self {
        Self { path: run_folder.join("bind") }
    }

    /// To be called before anything is done about a call. It takes no sync: it is of use for as long as the kernel lives.
    pub(super) fn note(&self, generation: u32, bind: &Bind) {
        let text = serde_json::to_vec(&Noted { version: VERSION, generation, bind: *bind })
            .expect("OK because it has only string keys");
        let aside = self.path.with_extension("new");
        // OK to ignore: without it there is a moment at which this process must not die.
        let _ = fs_err::write(&aside, text).and_then(|()| fs_err::rename(&aside, &self.path));
    }

    /// To be called when it is answered.
    pub(super) fn forget(&self) {
        let _ = fs_err::remove_file(&self.path);
    }

    /// The call of this generation's that a supervisor has died over. It may be answered by now, or of a container that is no
    /// more: that is seen from whether it still waits, since the kernel begins to count at a random number.
    pub(super) fn left(&self, generation: u32) -> Option<Bind> {
        let noted: Noted = serde_json::from_slice(&fs_err::read(&self.path).ok()?).ok()?;
        (noted.version <= VERSION && noted.generation == generation).then_some(noted.bind)
    }
}
