//! Gives a process that goes on without executing a program a command line that says what it is.
//! It knows nothing of what the process does.
//!
//! ps(1) shows the memory in which execve(2) put the arguments, and a process may write to that as to any other of its
//! own: no right is needed, which the process has given up by then, and nothing else changes.

use procfs::process::Process;

use crate::os;

/// Where this process's command line is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title {
    start: usize,
    bytes: usize,
}

impl Title {
    /// `None` when the kernel does not say. To be asked while /proc is the host's; it holds for copies of this process.
    pub(crate) fn of_this_process() -> Option<Self> {
        let stat = Process::myself().and_then(|process| process.stat()).ok()?;
        let (start, end) = (usize::try_from(stat.arg_start?).ok()?, usize::try_from(stat.arg_end?).ok()?);
        let bytes = end.checked_sub(start).filter(|bytes| start > 0 && *bytes > 0)?;
        Some(Self { start, bytes })
    }

    /// Shows these words from now on, as far as they fit where the old ones were.
    ///
    /// To be called where this process has one thread and never reads its arguments again.
    pub(crate) fn show(self, words: &[&str]) {
        let mut text = words.join("\0").into_bytes();
        // The last byte stays zero: otherwise the kernel takes what follows, the environment, for a part of it.
        text.resize(self.bytes - 1, 0);
        text.push(0);
        os::overwrite_arguments(self.start, &text);
    }
}
