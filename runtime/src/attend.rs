//! Stays with a process in a container until it ends: its output is this process's, signals are passed on to it, and a
//! terminal is kept in step. It knows neither services nor what the process is for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use crate::channel::Request;
use crate::container::{Made, Making};
use crate::error::Error;
use crate::{os, terminal};

/// The signals that a person or a script sends to this process and means for the command.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// What the command's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Its input is this process's; nothing otherwise.
    pub interactive: bool,
    /// It gets a terminal, which is this process's own.
    pub terminal: bool,
}

/// Makes the process and stays until it ends; its exit status as a shell gives it.
///
/// # Errors
/// [`Error::Container`], [`Error::Execute`].
pub(crate) fn attend(request: &Request, attachment: Attachment) -> Result<i32, Error> {
    if attachment.terminal && !rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(Error::NoTerminal);
    }
    // Blocked before the process exists, so that none is lost in between.
    let signals = receive_signals().map_err(failed)?;
    let null = std::fs::File::open("/dev/null").map_err(failed)?;
    let stdin = if attachment.interactive { rustix::stdio::stdin() } else { null.as_fd() };
    let making = Making::begin(request, [stdin, rustix::stdio::stdout(), rustix::stdio::stderr()])?;
    stay(making, request, |pid, master, ended| match master {
        Some(master) => terminal::attach(master, attachment.interactive, ended).map_err(failed),
        None => {
            pass_signals_on(&signals, pid, ended);
            Ok(())
        }
    })
}

/// Lets what is being made go, and stays with it as `until_ended` does; its exit status as a shell gives it.
pub(crate) fn stay(
    mut making: Making,
    request: &Request,
    until_ended: impl FnOnce(Pid, Option<OwnedFd>, BorrowedFd<'_>) -> Result<(), Error>,
) -> Result<i32, Error> {
    let (pid, master) = match making.next() {
        Some(Made::Created { pid, terminal, .. }) => (pid, terminal),
        Some(Made::Failed(error)) => return Err(error),
        Some(Made::Executed | Made::Notified(_) | Made::NotNotified(_)) | None => {
            return Err(Error::NoTerminal);
        }
    };
    let ended = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid.as_raw()).expect("OK because a process has a number"),
        rustix::process::PidfdFlags::empty(),
    )
    .map_err(|error| failed(error.into()))?;
    let is_new = matches!(request, Request::Create { .. });
    if is_new {
        making.go()?;
    }
    until_ended(pid, master, ended.as_fd())?;
    let status = waitpid(pid, None).map_err(|error| failed(error.into()))?;
    // All that the throw-away process has to say is said before its mounts are taken down, for which the kernel waits long. In a
    // cgroup that is going to be removed it must not be; otherwise it is left to whoever reaps orphans.
    let failure = std::iter::from_fn(|| making.next()).find_map(|made| match made {
        Made::Failed(error) => Some(error),
        _ => None,
    });
    if is_new {
        let _ = waitpid(making.helper, None);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 125,
    })
}

fn failed(source: std::io::Error) -> Error {
    Error::Io { doing: "attend to the command", source }
}

fn receive_signals() -> std::io::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    for signal in PASSED_ON {
        wanted.add(signal);
    }
    wanted.thread_block()?;
    Ok(SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Until the process has ended.
fn pass_signals_on(signals: &SignalFd, pid: Pid, ended: BorrowedFd<'_>) {
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, None);
        let over = !fds[1].revents().is_empty();
        while let Ok(Some(signal)) = signals.read_signal() {
            // OK to ignore: it has ended, which is seen next.
            let _ = os::send_signal(pid, i32::try_from(signal.ssi_signo).unwrap_or(0));
        }
        if over {
            return;
        }
    }
}
