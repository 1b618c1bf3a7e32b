//! Whether what runs in a container does anything about the signal that it is asked to end by.
//! What does not is ended by the kernel at once, with whatever it was about to answer.

use std::io;

use nix::libc;
use nix::sys::signal::Signal;

use crate::definition::Definition;

/// Whether the main program of the container with this process 1 handles its stop signal. One that blocks it waits for it
/// (sigwaitinfo(2), signalfd(2)).
///
/// # Errors
/// When it is gone.
pub fn is_handled(process_1: i32, definition: &Definition) -> io::Result<bool> {
    let main = if definition.init { first_child(process_1)? } else { process_1 };
    let status = std::fs::read_to_string(format!("/proc/{main}/status"))?;
    let signal = number(&definition.stop.signal).unwrap_or(libc::SIGTERM);
    Ok(handles(&status, signal))
}

fn handles(status: &str, signal: i32) -> bool {
    let has = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    };
    has("SigCgt:") || has("SigBlk:")
}

/// What opsrun's init has started; what it has inherited comes after that.
fn first_child(process: i32) -> io::Result<i32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    children.split(' ').next().and_then(|pid| pid.parse().ok()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The number of a signal by its name; `SIGRTMIN+N` too, which systemd in a container is stopped with.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
        return offset.parse().ok().map(|offset: i32| nix::libc::SIGRTMIN() + offset);
    }
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_caught_or_waited_for_is_handled_and_what_is_ignored_is_not() {
        let status = |caught: &str, blocked: &str| {
            format!("Name:\tx\nSigBlk:\t{blocked}\nSigIgn:\t0000000000004000\nSigCgt:\t{caught}\n")
        };
        let none = "0000000000000000";
        assert!(handles(&status("0000000000004000", none), libc::SIGTERM));
        assert!(handles(&status(none, "0000000000004000"), libc::SIGTERM));
        assert!(!handles(&status(none, none), libc::SIGTERM));
        assert!(!handles(&status("0000000000004000", none), libc::SIGINT));
    }

    #[test]
    fn signals_have_numbers() {
        assert_eq!((number("SIGTERM"), number("SIGNOPE")), (Some(libc::SIGTERM), None));
        assert_eq!(number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
    }
}
