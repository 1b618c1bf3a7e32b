//! Descriptors that one program hands to the next one in the same process, or to a child, by inheritance: each under a name
//! in the environment. It knows nothing of what they are.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::os;

/// `PROCESS NAME=DESCRIPTOR …`: the process that hands over. Whoever else finds it in its environment is not meant.
pub(crate) const VARIABLE: &str = "OPSRUN_HANDED_OVER";

/// What `process` has handed to this one by name; `None` when it has not. To be asked once, before anything is opened.
pub(crate) fn by(process: u32) -> Option<Vec<(String, OwnedFd)>> {
    let text = std::env::var(VARIABLE).ok()?;
    let items = text.strip_prefix(&format!("{process} "))?.split(' ').filter_map(|item| {
        let (name, number) = item.split_once('=')?;
        Some((name.to_owned(), os::take_inherited(number.parse().ok()?)))
    });
    Some(items.collect())
}

/// Whether `process` has.
pub(crate) fn is_by(process: u32) -> bool {
    std::env::var(VARIABLE).is_ok_and(|text| text.starts_with(&format!("{process} ")))
}

/// Has what is executed next inherit these; the text for [`VARIABLE`]. Names have neither spaces nor `=`.
pub(crate) fn begin(handed: &[(&str, BorrowedFd<'_>)]) -> String {
    let mut text = format!("{} ", std::process::id());
    for (name, descriptor) in handed {
        stay_open(*descriptor, true);
        text.push_str(&format!("{name}={} ", descriptor.as_raw_fd()));
    }
    text
}

/// Has nothing that is executed from now on inherit them.
pub(crate) fn end(handed: &[(&str, BorrowedFd<'_>)]) {
    handed.iter().for_each(|(_, descriptor)| stay_open(*descriptor, false));
}

fn stay_open(descriptor: BorrowedFd<'_>, open: bool) {
    let Ok(mut flags) = fcntl_getfd(descriptor) else { return };
    flags.set(FdFlags::CLOEXEC, !open);
    // OK to fail: it cannot, for a descriptor that is open.
    let _ = fcntl_setfd(descriptor, flags);
}
