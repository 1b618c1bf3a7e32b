//! What a container uses, as the files of its cgroup say it. It needs no supervisor to be alive, and changes nothing.
//!
//! What the host does not count (no such controller, an older kernel) is `None`: never zero, and no error.

use std::path::Path;

use serde::Serialize;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::limits::keyed;

/// What a container uses. What the host does not count is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Processor time since its start, microseconds.
    pub cpu_us: Option<u64>,
    /// How often it had to wait because of `cpu.max`.
    pub cpu_throttled: Option<u64>,
    /// Memory, its files in the page cache included.
    pub memory_bytes: Option<u64>,
    /// The most it ever was (Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Its limit; `None` also when it has none.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Their limit; `None` also when there is none.
    pub pids_limit: Option<u64>,
    /// Read from disks since its start.
    pub io_read_bytes: Option<u64>,
    /// Written to disks since its start.
    pub io_written_bytes: Option<u64>,
    /// Hundredths of a percent of the last ten seconds in which some of it waited for a processor.
    pub cpu_pressure: Option<u64>,
    /// The same for memory.
    pub memory_pressure: Option<u64>,
    /// The same for disks.
    pub io_pressure: Option<u64>,
}

/// Looks at a container's cgroup, a path below the cgroup v2 mount; `None` when it is gone.
#[must_use]
pub fn look(cgroup: &Path) -> Option<Usage> {
    let hierarchy = Hierarchy::open().ok()?;
    let cgroup = hierarchy.at(cgroup);
    cgroup.read("cgroup.procs").ok()?;
    let counts = |controller: &str| {
        cgroup.read("cgroup.controllers").is_ok_and(|text| text.split_whitespace().any(|it| it == controller))
    };
    let number = |file: &str| cgroup.read(file).ok()?.trim().parse().ok();
    // The time is counted without the controller too (cgroup-v2.rst, cpu.stat).
    let cpu = cgroup.read("cpu.stat").unwrap_or_default();
    // Empty before the first operation: that is zero, where it is counted.
    let io = cgroup.read("io.stat").ok().filter(|_| counts("io"));
    Some(Usage {
        cpu_us: keyed(&cpu, "usage_usec"),
        cpu_throttled: keyed(&cpu, "nr_throttled"),
        memory_bytes: number("memory.current"),
        memory_peak_bytes: number("memory.peak"),
        memory_limit_bytes: number("memory.max"),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        io_read_bytes: io.as_deref().map(|text| summed(text, "rbytes=")),
        io_written_bytes: io.as_deref().map(|text| summed(text, "wbytes=")),
        cpu_pressure: pressure(&cgroup, "cpu.pressure"),
        memory_pressure: pressure(&cgroup, "memory.pressure"),
        io_pressure: pressure(&cgroup, "io.pressure"),
    })
}

/// The memory of a container's processes that is in no file, in bytes: what another one like it is going to need. Where
/// the host does not count it for the cgroup it is the sum over the processes; `None` when the cgroup is gone.
#[must_use]
pub fn anonymous_bytes(cgroup: &Path) -> Option<u64> {
    let hierarchy = Hierarchy::open().ok()?;
    let cgroup = hierarchy.at(cgroup);
    let processes = cgroup.read("cgroup.procs").ok()?;
    if let Some(counted) = cgroup.read("memory.stat").ok().and_then(|text| keyed(&text, "anon")) {
        return Some(counted);
    }
    let of_process = |pid: &str| {
        // proc_pid_smaps(5); of what processes share each is given its part.
        let text = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(processes.lines().filter_map(of_process).sum::<u64>() * 1024)
}

/// The sum over all devices of io.stat.
fn summed(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

fn pressure(cgroup: &Cgroup<'_>, file: &str) -> Option<u64> {
    some_of_ten_seconds(&cgroup.read(file).ok()?)
}

/// `some avg10=0.15 avg60=… `: two digits behind the point, always (Documentation/accounting/psi.rst).
fn some_of_ten_seconds(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    average.replace('.', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let io = "8:0 rbytes=4096 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0\n";
        assert_eq!((summed(io, "rbytes="), summed(io, "wbytes="), summed("", "rbytes=")), (4097, 1, 0));
        let text = "some avg10=12.05 avg60=0.00 avg300=0.00 total=7\nfull avg10=1.00 avg60=0.00\n";
        assert_eq!(some_of_ten_seconds(text), Some(1205));
        assert_eq!(some_of_ten_seconds(""), None);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_no_error() {
        assert_eq!(look(Path::new("/opsrun-no-such-cgroup/x-g1")), None);
    }
}
