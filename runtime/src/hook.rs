//! A command in a container of its own, before or after something else is done: its output is heard, its time is limited, and
//! a signal to this process ends it. It knows nothing of what it is run for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::attend::stay;
use crate::channel::Request as Create;
use crate::container::Making;
use crate::error::Error;
use crate::{crash_point, one_shot, os};

/// What ends a command that a person has started.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// A hook that was passed a signal to end has so long before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// A folder of its own for what is gone afterwards, as for [`crate::foreground::Request`].
    pub run_folder: PathBuf,
    /// Whether opsrun's init is process 1.
    pub init: bool,
    /// It is killed when it takes longer.
    pub timeout: Duration,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status as a shell gives it.
    Status(i32),
    /// It took too long and was killed.
    TimedOut,
    /// This process was sent this signal, and the command was ended for it.
    Interrupted(Signal),
}

/// The signals that end a command, held back for as long as this lives, so that one that comes between two hooks is not
/// lost, and ends neither this process nor what it has to clear away.
#[derive(Debug)]
pub struct Signals {
    received: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Holds them back from now on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hold() -> Result<Self, Error> {
        let mut wanted = SigSet::empty();
        ENDING.iter().for_each(|signal| wanted.add(*signal));
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&wanted), Some(&mut before))
            .map_err(|error| failed(error.into()))?;
        let received = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        Ok(Self { received, before })
    }

    /// One that has come since.
    #[must_use]
    pub fn next(&self) -> Option<Signal> {
        let signal = self.received.read_signal().ok()??;
        Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // OK to ignore: the mask was this process's own before.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Runs it and waits; `heard` gets its output as it comes. Nothing of the container is left afterwards, nor when this process
/// is killed.
///
/// # Errors
/// [`Error::Container`], [`Error::Execute`].
pub fn run(request: &Request, signals: &Signals, heard: &mut dyn FnMut(&[u8])) -> Result<End, Error> {
    one_shot::run(&request.bundle, &request.run_folder, request.init, |create| {
        attend(create, request.timeout, signals, heard)
    })
}

fn attend(
    create: &Create,
    timeout: Duration,
    signals: &Signals,
    heard: &mut dyn FnMut(&[u8]),
) -> Result<End, Error> {
    let null = fs_err::File::open("/dev/null").map_err(failed)?;
    let (near, far) = io::pipe().map_err(failed)?;
    rustix::io::ioctl_fionbio(&near, true).map_err(|error| failed(error.into()))?;
    let making = Making::begin(create, [null.as_fd(), far.as_fd(), far.as_fd()])?;
    // Or its end would not be seen.
    drop(far);
    let mut watch =
        Watch { signals, output: Some(near), heard, kill_at: Instant::now() + timeout, why: None };
    let status = stay(making, create, |pid, _, ended| {
        crash_point::here();
        watch.until_ended(pid, ended);
        crash_point::here();
        Ok(())
    })?;
    watch.hear();
    Ok(watch.why.unwrap_or(End::Status(status)))
}

struct Watch<'a> {
    signals: &'a Signals,
    /// `None` when the command has closed it.
    output: Option<io::PipeReader>,
    heard: &'a mut dyn FnMut(&[u8]),
    kill_at: Instant,
    /// Why it was ended, when it was.
    why: Option<End>,
}

impl Watch<'_> {
    fn until_ended(&mut self, pid: Pid, ended: BorrowedFd<'_>) {
        loop {
            let left = self.kill_at.saturating_duration_since(Instant::now());
            let mut fds = vec![
                PollFd::new(&self.signals.received, PollFlags::IN),
                PollFd::from_borrowed_fd(ended, PollFlags::IN),
            ];
            fds.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            // An interruption only makes it look once more.
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            let is_over = !fds[1].revents().is_empty();
            self.hear();
            while let Some(signal) = self.signals.next() {
                if self.why.is_none() {
                    self.why = Some(End::Interrupted(signal));
                    self.kill_at = Instant::now() + GRACE;
                }
                // OK to ignore: it has ended, which is seen next.
                let _ = os::send_signal(pid, signal as i32);
            }
            if is_over {
                return;
            }
            if Instant::now() >= self.kill_at {
                self.why.get_or_insert(End::TimedOut);
                // The container's process 1: the kernel ends the others with it.
                let _ = os::send_signal(pid, Signal::SIGKILL as i32);
                self.kill_at = Instant::now() + GRACE;
            }
        }
    }

    /// What there is to be heard now.
    fn hear(&mut self) {
        let mut piece = [0; 16 * 1024];
        // More than a pipe holds, and an end for one that writes faster than it is heard: its time is limited too.
        for _ in 0..64 {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut piece) {
                Ok(0) => self.output = None,
                Ok(length) => (self.heard)(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io { doing: "run the hook", source }
}
