//! Notices that the kernel killed processes of a container for want of memory, and says so in words.
//! It knows no service, and nothing of what follows.
//!
//! The kernel counts in memory.events and raises POLLPRI on it with each change (cgroup-v2.rst). A cgroup without the
//! memory controller has no such file: there is nothing to notice then.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::cgroup::Hierarchy;
use crate::limits::{keyed, size_text};

/// The memory.events of a container.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    events: File,
    cgroup: PathBuf,
    kills: u64,
}

impl MemoryWatch {
    /// Begins to watch; what was counted before does not matter. `None` when the cgroup counts no memory.
    pub(crate) fn begin(cgroup: &Path) -> Option<Self> {
        let events = Hierarchy::open().ok()?.at(cgroup).file("memory.events").ok()?;
        let mut watch = Self { events, cgroup: cgroup.to_owned(), kills: 0 };
        // It must be read once before it can be waited for.
        watch.kills = watch.count().ok()?;
        Some(watch)
    }

    /// Processes that were killed since this was last asked, and the sentence about it; `None` when there were none.
    ///
    /// # Errors
    /// When the file cannot be read any more: the cgroup is gone.
    pub(crate) fn killed(&mut self) -> io::Result<Option<(u32, String)>> {
        let kills = self.count()?;
        let more = u32::try_from(kills.saturating_sub(self.kills)).unwrap_or(u32::MAX);
        self.kills = kills;
        Ok((more > 0).then(|| (more, self.sentence())))
    }

    fn count(&mut self) -> io::Result<u64> {
        self.events.rewind()?;
        let mut text = String::new();
        self.events.read_to_string(&mut text)?;
        Ok(keyed(&text, "oom_kill").unwrap_or(0))
    }

    fn sentence(&self) -> String {
        let number = |file: &str| -> Option<u64> {
            Hierarchy::open().ok()?.at(&self.cgroup).read(file).ok()?.trim().parse().ok()
        };
        sentence(number("memory.max"), number("memory.peak"))
    }
}

/// memory.peak came with Linux 5.19.
fn sentence(limit: Option<u64>, peak: Option<u64>) -> String {
    let limit = match limit {
        Some(limit) => format!("limit {}", size_text(limit)),
        None => "no limit of its own".to_owned(),
    };
    let peak = peak.map_or(String::new(), |peak| format!(", peak {}", size_text(peak)));
    format!("killed: out of memory, {limit}{peak}")
}

impl AsFd for MemoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_is_known() {
        let (limit, peak) = (Some(512 << 20), Some(500 << 20));
        assert_eq!(sentence(limit, peak), "killed: out of memory, limit 512 MiB, peak 500 MiB");
        assert_eq!(sentence(limit, None), "killed: out of memory, limit 512 MiB");
        assert_eq!(sentence(None, peak), "killed: out of memory, no limit of its own, peak 500 MiB");
    }
}
