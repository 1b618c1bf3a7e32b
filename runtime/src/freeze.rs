//! Has a service's container held still, so that its files can be read as of one moment.
//! It does not do so itself: the supervisor does, which lets it go on also when this process is killed.
//!
//! A container is its cgroup here (cgroup-v2.rst, cgroup.freeze: Linux 5.2, without any controller).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::Hierarchy;
use crate::control::{self, Answer, Command, Conversation};
use crate::error::Error;
use crate::folders::ServiceFolders;

/// How long processes may take to stand still; one that waits for a disk does so in between.
const FREEZE_WAIT: Duration = Duration::from_secs(10);

/// What came of the wish to hold a container still.
#[derive(Debug)]
pub enum Freeze {
    /// It stands still.
    Done(Frozen),
    /// It has just ended, and is as still as can be.
    Down,
    /// This host cannot do that.
    Unknown,
    /// The service has no supervisor.
    Unsupervised,
}

/// A container that stands still until this is dropped, or this process ends in whatever way.
#[derive(Debug)]
#[must_use = "the container goes on when this is dropped"]
pub struct Frozen {
    supervisor: Conversation,
    cgroup: PathBuf,
}

impl Frozen {
    /// Has the container of a generation held still.
    ///
    /// # Errors
    /// [`Error::Io`] when it does not come to stand still, and it goes on then; [`Error::Supervisor`],
    /// [`Error::SupervisorGone`].
    pub fn of(folders: &ServiceFolders, generation: u32) -> Result<Freeze, Error> {
        let failed = |source| Error::Io { doing: "hold the container still", source };
        let service = || folders.name().to_owned();
        let Ok(stream) = control::connect(&folders.control()) else { return Ok(Freeze::Unsupervised) };
        let mut supervisor = Conversation::new(stream);
        supervisor.say(&Command::Freeze { generation }).map_err(failed)?;
        match supervisor.hear::<Answer>().map_err(failed)? {
            Some(Answer::Freezing { cgroup }) => {
                // From here on dropping it lets the container go on.
                let frozen = Self { supervisor, cgroup };
                frozen.wait().map_err(failed)?;
                Ok(Freeze::Done(frozen))
            }
            Some(Answer::Stopped) => Ok(Freeze::Down),
            Some(Answer::CannotFreeze) => Ok(Freeze::Unknown),
            Some(Answer::Refused(source)) => Err(Error::Supervisor { service: service(), source }),
            _ => Err(Error::SupervisorGone { service: service() }),
        }
    }

    fn wait(&self) -> io::Result<()> {
        let hierarchy = Hierarchy::open()?;
        let cgroup = hierarchy.at(&self.cgroup);
        let deadline = Instant::now() + FREEZE_WAIT;
        loop {
            // POLLPRI is raised on it when "frozen" changes; it must have been read before that.
            let events = cgroup.file("cgroup.events")?;
            let text = io::read_to_string(&events)?;
            if text.lines().any(|line| line == "frozen 1") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "its processes do not come to stand still",
                ));
            }
            let mut wait = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)];
            let limit = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
            // OK to fail: then it is looked at again.
            let _ = rustix::event::poll(&mut wait, Some(&limit));
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let asked = self.supervisor.say(&Command::Thaw).and_then(|()| self.supervisor.hear::<Answer>());
        if !matches!(asked, Ok(Some(Answer::Thawed))) {
            // Its supervisor has died: nobody else is left to do it. OK to fail: the cgroup is gone then, and what stood
            // still with it.
            let _ = thaw(&self.cgroup);
        }
    }
}

fn thaw(cgroup: &Path) -> io::Result<()> {
    Hierarchy::open()?.at(cgroup).write("cgroup.freeze", "0")
}
