//! Whether the host has what the new generation needs: its ports, memory, and room on the disk.
//! How much that is, is measured at the generation that runs; it starts nothing to find out.

use std::path::{Path, PathBuf};

use runtime::record::Way;
use runtime::{host, port, stats};

use super::{Finding, Proposal, Verdict};
use crate::error::Error;
use crate::print::amount::bytes;

/// What a generation takes beside its copy of the configuration, before it writes anything.
const BUNDLE_BYTES: u64 = 1024 * 1024;
/// And so many files and folders.
const BUNDLE_INODES: u64 = 256;
/// So many entries of a folder are counted; with more than these the rest is left out.
const ENTRIES_MAX: usize = 200_000;

/// That nobody else listens on its ports. The service itself does, and lets go.
pub(super) fn ports(proposal: &Proposal<'_>) -> Vec<Finding> {
    let name = "port";
    let ports = &proposal.definition.ports;
    if ports.is_empty() {
        return Vec::new();
    }
    let strangers = match port::strangers(&proposal.layout.service(proposal.service), ports) {
        Ok(strangers) => strangers,
        Err(error) => return vec![Finding::error(name, &error.into())],
    };
    if strangers.is_empty() {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        return vec![Finding::ok(name, format!("nobody else listens on {}", ports.join(", ")))];
    }
    let refusal = |(port, listener): (u16, port::Listener)| {
        let finding = Finding::new(name, Verdict::Refused, format!("port {port} is held by {listener}"));
        match listener.pid {
            Some(pid) => finding
                .hint(format!("ps -fp {pid} shows what it is; stop it, or give one of the two another port")),
            None => finding.hint("stop it, or give one of the two another port"),
        }
    };
    strangers.into_iter().map(refusal).collect()
}

/// That what runs ends what it has begun when it is asked to end.
pub(super) fn stop_signal(proposal: &Proposal<'_>) -> Option<Finding> {
    let name = "stop signal";
    let definition = &proposal.old.as_ref()?.definition;
    let signal = &definition.stop.signal;
    let process = proposal.before.process.as_ref().filter(|_| !definition.ports.is_empty())?.pid;
    // One that ends in this moment has no connections.
    Some(match runtime::stop_signal::is_handled(process, definition).ok()? {
        true => Finding::ok(name, format!("what runs handles {signal}")),
        false => Finding::new(
            name,
            Verdict::Warning,
            format!("what runs does not handle {signal}: connections that it has left then are cut off"),
        )
        .hint("a longer --drain gives them more time; stop.signal in its settings says another signal"),
    })
}

/// That there is memory for it.
pub(super) fn memory(proposal: &Proposal<'_>) -> Finding {
    let cgroup = proposal.before.process.as_ref().map(|process| PathBuf::from(&process.cgroup));
    let used = cgroup.as_deref().and_then(stats::anonymous_bytes);
    let peak = cgroup.as_deref().and_then(stats::look).and_then(|usage| usage.memory_peak_bytes);
    let Some((available, swap)) = host::memory_free_bytes() else {
        return Finding::ok("memory", "this host does not say how much is free");
    };
    Memory {
        overlap: proposal.way().0 != Way::StopFirst,
        used,
        peak,
        limit: proposal.limits.get("memory.max").and_then(|value| value.parse().ok()),
        available,
        swap,
    }
    .judge(proposal.service.as_str(), &proposal.before.release)
}

/// Bytes.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Whether both are alive at the same time. Otherwise the new one waits, not yet executed, until the old one is gone.
    overlap: bool,
    /// What the old one's processes have for themselves.
    used: Option<u64>,
    /// The most it ever had, files in the page cache included.
    peak: Option<u64>,
    /// The most the new one may have.
    limit: Option<u64>,
    available: u64,
    swap: u64,
}

impl Memory {
    /// Refused is only what surely cannot fit: beside the old one, something of its size that there is no room for.
    fn judge(self, service: &str, old: &str) -> Finding {
        let name = "memory";
        let free = format!("{} free", bytes(self.available));
        let Some(used) = self.used else {
            return Finding::ok(name, format!("how much it needs is not known; {free}"));
        };
        let hint = format!("opsrun stats {service} shows what it uses");
        if let Some(limit) = self.limit.filter(|limit| *limit < used) {
            let detail = format!("it may use {}, and {old} uses {} now", bytes(limit), bytes(used));
            let hint = format!("{hint}; raise limits.memory, or it is killed for want of memory");
            return Finding::new(name, Verdict::Warning, detail).hint(hint);
        }
        let needed = self.limit.map_or(used, |limit| limit.min(used));
        let room = self.available.saturating_add(if self.overlap { 0 } else { used });
        if needed > room.saturating_add(self.swap) {
            let detail =
                format!("beside {old}, which uses {}, there is no room for another: {free}", bytes(used));
            return Finding::new(name, Verdict::Refused, detail).hint(hint);
        }
        let peak = self.limit.map_or(self.peak, |limit| self.peak.map(|peak| peak.min(limit)));
        if let Some(peak) = peak.filter(|peak| *peak > room) {
            let detail =
                format!("{old} has used up to {}, and there is room for {}", bytes(peak), bytes(room));
            return Finding::new(name, Verdict::Warning, detail).hint(hint);
        }
        let beside = if self.overlap { ", beside it" } else { "" };
        Finding::ok(name, format!("as much as {old} uses is needed, {}{beside}; {free}", bytes(needed)))
    }
}

/// That there is room on the disk.
pub(super) fn disk(proposal: &Proposal<'_>) -> Finding {
    let folder = proposal.layout.service(proposal.service).generations();
    let name = "disk";
    let free = match rustix::fs::statvfs(&folder) {
        Ok(found) => Room {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            // Some file systems have no fixed number of them, and say 0 of 0 (statvfs(3)).
            inodes: if found.f_files == 0 { u64::MAX } else { found.f_favail },
        },
        Err(error) => {
            let error = Error::io(format!("look at {}", folder.display()), error.into());
            return Finding::error(name, &error);
        }
    };
    let configuration =
        proposal.own.configuration().map(|mount| measure(proposal.own.source(mount))).unwrap_or_default();
    let needed = Room {
        bytes: configuration.bytes.saturating_add(BUNDLE_BYTES),
        inodes: configuration.inodes.saturating_add(BUNDLE_INODES),
    };
    let generation = proposal.layout.service(proposal.service).generation(proposal.before.generation);
    judge_disk(&folder, free, needed, measure(&generation.join("upper")), &proposal.before.release)
}

/// An amount of what a file system holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Room {
    bytes: u64,
    inodes: u64,
}

fn judge_disk(folder: &Path, free: Room, needed: Room, written: Room, old: &str) -> Finding {
    let name = "disk";
    let folder = folder.display();
    let hint = format!("df -h {folder}; df -i {folder}; opsrun prune removes images that nothing needs");
    if free.bytes < needed.bytes || free.inodes < needed.inodes {
        let detail = format!(
            "a generation takes {} and {} files in {folder}, and {} and {} are free",
            bytes(needed.bytes),
            needed.inodes,
            bytes(free.bytes),
            free.inodes
        );
        return Finding::new(name, Verdict::Refused, detail).hint(hint);
    }
    let more = free.bytes - needed.bytes < written.bytes || free.inodes - needed.inodes < written.inodes;
    if more {
        let detail = format!(
            "{old} has written {} in its container, and {} are free in {folder}",
            bytes(written.bytes),
            bytes(free.bytes)
        );
        return Finding::new(name, Verdict::Warning, detail).hint(hint);
    }
    Finding::ok(
        name,
        format!("{} are needed in {folder}, {} are free", bytes(needed.bytes), bytes(free.bytes)),
    )
}

/// How much a folder takes.
fn measure(folder: &Path) -> Room {
    use std::os::unix::fs::MetadataExt;
    let mut room = Room::default();
    let mut waiting = vec![folder.to_owned()];
    let mut counted = 0;
    while let Some(path) = waiting.pop() {
        counted += 1;
        if counted > ENTRIES_MAX {
            break;
        }
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            waiting.extend(fs_err::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        room.inodes += 1;
        // In units of 512 bytes, whatever the file system's own unit is (stat(2)).
        room.bytes = room.bytes.saturating_add(metadata.blocks().saturating_mul(512));
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn memory() -> Memory {
        Memory {
            overlap: true,
            used: Some(200 * MIB),
            peak: None,
            limit: None,
            available: 1000 * MIB,
            swap: 0,
        }
    }

    fn verdict(memory: Memory) -> Verdict {
        memory.judge("keystone", "zed").verdict
    }

    #[test]
    fn memory_is_refused_only_where_it_surely_cannot_fit() {
        assert_eq!(verdict(memory()), Verdict::Ok);
        assert_eq!(verdict(Memory { used: None, available: 0, ..memory() }), Verdict::Ok);
        let short = Memory { available: 100 * MIB, ..memory() };
        assert_eq!(verdict(short), Verdict::Refused);
        // There is swap space, or a limit below; or the old one goes first and leaves its memory.
        assert_eq!(verdict(Memory { swap: 150 * MIB, ..short }), Verdict::Ok);
        assert_eq!(verdict(Memory { overlap: false, ..short }), Verdict::Ok);
        assert_eq!(verdict(Memory { limit: Some(150 * MIB), ..memory() }), Verdict::Warning);
        assert_eq!(verdict(Memory { peak: Some(2000 * MIB), ..memory() }), Verdict::Warning);
        assert_eq!(
            verdict(Memory { peak: Some(2000 * MIB), limit: Some(500 * MIB), ..memory() }),
            Verdict::Ok
        );
    }

    #[test]
    fn disk_is_refused_for_want_of_bytes_and_of_inodes() {
        let room = |bytes, inodes| Room { bytes, inodes };
        let judge = |free, needed, written| judge_disk(Path::new("/x"), free, needed, written, "zed").verdict;
        assert_eq!(judge(room(100, 10), room(100, 10), room(0, 0)), Verdict::Ok);
        assert_eq!(judge(room(99, 10), room(100, 10), room(0, 0)), Verdict::Refused);
        assert_eq!(judge(room(100, 9), room(100, 10), room(0, 0)), Verdict::Refused);
        assert_eq!(judge(room(150, 20), room(100, 10), room(60, 0)), Verdict::Warning);
        assert_eq!(judge(room(150, 20), room(100, 10), room(0, 11)), Verdict::Warning);
    }

    #[test]
    fn a_folder_is_measured_whole() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("a")).unwrap();
        fs_err::write(folder.path().join("a/b"), vec![1; 100_000]).unwrap();
        let room = measure(folder.path());
        assert!(room.inodes == 3 && room.bytes >= 100_000, "{room:?}");
        assert_eq!(measure(&folder.path().join("none")), Room::default());
    }
}
