//! Waits for changes of files, and for the end of whoever is shown them.
//! It does not know which files.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::Inotify;

/// Waits until something changed, or for a time; `false` when nobody reads this process's standard output any more, which
/// without a new line to write would never be noticed.
pub(crate) fn wait(watch: &Inotify, at_most: Option<Duration>) -> io::Result<bool> {
    let stdout = io::stdout();
    // No event asked for: errors and hang-ups are always told (poll(2)).
    let mut watched =
        [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let timeout = at_most.map_or(PollTimeout::NONE, |time| time.try_into().unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut watched, timeout) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    Ok(!watched[1].revents().is_some_and(|events| events.intersects(gone)))
}
