//! Holds a container still, so that its files can be read as of one moment.
//! It knows no service; a container is its cgroup (cgroup-v2.rst, cgroup.freeze: Linux 5.2, without any controller).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::Error;

/// How long processes may take to stand still; one that waits for a disk does so in between.
const FREEZE_WAIT: Duration = Duration::from_secs(10);

/// A container that stands still until this is dropped.
#[derive(Debug)]
#[must_use = "the container goes on when this is dropped"]
pub struct Frozen {
    hierarchy: Hierarchy,
    cgroup: PathBuf,
    before: SigSet,
}

impl Frozen {
    /// Freezes a container; `None` when its host cannot, or the cgroup is gone. Until it goes on again this thread takes
    /// no signal to end: a service that stands still for ever would be worse than a Ctrl-C that waits a moment.
    ///
    /// # Errors
    /// [`Error::Io`] when it does not come to stand still; it goes on then.
    pub fn of(cgroup: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Io { doing: "hold the container still", source };
        let hierarchy = Hierarchy::open().map_err(failed)?;
        if hierarchy.at(cgroup).read("cgroup.freeze").is_err() {
            return Ok(None);
        }
        let mut ends = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE]
            .into_iter()
            .for_each(|signal| ends.add(signal));
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ends), Some(&mut before))
            .map_err(|error| failed(error.into()))?;
        // From here on dropping it lets the container go on.
        let frozen = Self { hierarchy, cgroup: cgroup.to_owned(), before };
        frozen.cgroup().write("cgroup.freeze", "1").map_err(failed)?;
        frozen.wait().map_err(failed)?;
        Ok(Some(frozen))
    }

    fn cgroup(&self) -> Cgroup<'_> {
        self.hierarchy.at(&self.cgroup)
    }

    fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_WAIT;
        loop {
            // POLLPRI is raised on it when "frozen" changes; it must have been read before that.
            let events = self.cgroup().file("cgroup.events")?;
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
        // OK to fail: the cgroup is gone, and with it what stood still.
        let _ = self.cgroup().write("cgroup.freeze", "0");
        // OK to fail: it cannot, with a mask that it gave itself.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
