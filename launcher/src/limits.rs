//! The limits of a service as a person says them, by flags or in `[limits]` of its settings: Docker's names and spellings,
//! and the kernel's words where Docker has none. It turns them into files of cgroup v2; it writes none of those.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits_value::{Cpus, DeviceOps, DeviceRate, Pids, Size, Swap, Weight};

/// The annotation of a generation's `config.json` that holds the [`Limits`] it was made with, as JSON.
pub(crate) const ANNOTATION: &str = "org.opsrun.limits";

/// cpu.max is given per this many microseconds, as Docker does.
const PERIOD_US: u64 = 100_000;
/// Docker's: less is not enough to start a container in.
const MEMORY_MIN_BYTES: u64 = 6 * 1024 * 1024;

/// What a service may use. What is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Memory, at most: 512m, 1.5g; more is out of memory
    #[arg(short = 'm', long, value_name = "SIZE", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Memory from which on the service is slowed down and made to give some back
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<Size>,
    /// Memory that is taken away only when the host has no other
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<Size>,
    /// Memory and swap together; -1: all the swap there is. Twice --memory when absent
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<Swap>,
    /// Processors, at most: 0.5 is half the time of one
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Share of the processors when they are scarce, 2 to 262144; a service without has 1024
    #[arg(
        short = 'c',
        long,
        value_name = "SHARES",
        allow_hyphen_values = true,
        conflicts_with = "cpu_weight"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<Weight<2, 262_144>>,
    /// The same in the kernel's own measure, 1 to 10000; a service without has 100
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<Weight<1, 10_000>>,
    /// Processes and threads, at most; -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<Pids>,
    /// Share of the disks when they are busy, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<Weight<10, 1000>>,
    /// Bytes a second that are read from a device, at most: /dev/sda:10mb
    #[arg(long, value_name = "DEVICE:SIZE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes a second that are written to a device, at most
    #[arg(long, value_name = "DEVICE:SIZE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_bps: Vec<DeviceRate>,
    /// Reads a second from a device, at most: /dev/sda:1000
    #[arg(long, value_name = "DEVICE:NUMBER")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_iops: Vec<DeviceOps>,
    /// Writes a second to a device, at most
    #[arg(long, value_name = "DEVICE:NUMBER")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_iops: Vec<DeviceOps>,
    /// Out of memory, kill all of the service and not one process of it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_group: Option<bool>,
    /// Go without the limits that this host cannot enforce
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_unenforced: Option<bool>,
}

/// What limits are measured against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    /// Processors.
    pub cpus: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Whether its kernel can swap.
    pub swaps: bool,
    /// Numbers of a block device.
    pub device: fn(&Path) -> std::io::Result<(u32, u32)>,
}

impl Host {
    /// The host this runs on.
    pub(crate) fn here() -> Self {
        // Not those that this process may run on, but those that there are; as Docker does.
        let counted = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let info = rustix::system::sysinfo();
        #[allow(clippy::useless_conversion, reason = "it is a u32 on other processors")]
        let (total, unit) = (u64::from(info.totalram), u64::from(info.mem_unit));
        Self {
            cpus: counted.and_then(|count| u64::try_from(count).ok()).unwrap_or(1).max(1),
            memory_bytes: total.saturating_mul(unit),
            swaps: Path::new("/proc/swaps").exists(),
            device: block_device,
        }
    }
}

impl Limits {
    /// These, with what they leave out taken from `under`.
    pub(crate) fn over(self, under: Self) -> Self {
        let list = |over: Vec<DeviceRate>, under: Vec<DeviceRate>| if over.is_empty() { under } else { over };
        let count = |over: Vec<DeviceOps>, under: Vec<DeviceOps>| if over.is_empty() { under } else { over };
        // Two measures of one thing: whoever says one takes the other back.
        let weighs = self.cpu_shares.is_some() || self.cpu_weight.is_some();
        Self {
            memory: self.memory.or(under.memory),
            memory_high: self.memory_high.or(under.memory_high),
            memory_reservation: self.memory_reservation.or(under.memory_reservation),
            memory_swap: self.memory_swap.or(under.memory_swap),
            cpus: self.cpus.or(under.cpus),
            cpu_shares: if weighs { self.cpu_shares } else { under.cpu_shares },
            cpu_weight: if weighs { self.cpu_weight } else { under.cpu_weight },
            pids_limit: self.pids_limit.or(under.pids_limit),
            blkio_weight: self.blkio_weight.or(under.blkio_weight),
            device_read_bps: list(self.device_read_bps, under.device_read_bps),
            device_write_bps: list(self.device_write_bps, under.device_write_bps),
            device_read_iops: count(self.device_read_iops, under.device_read_iops),
            device_write_iops: count(self.device_write_iops, under.device_write_iops),
            oom_group: self.oom_group.or(under.oom_group),
            allow_unenforced: self.allow_unenforced.or(under.allow_unenforced),
        }
    }

    /// Whether limits may be left out that the host cannot enforce.
    pub(crate) fn may_be_unenforced(&self) -> bool {
        self.allow_unenforced == Some(true)
    }

    /// What is written to which file of the container's cgroup.
    ///
    /// # Errors
    /// [`Error::Limits`] when they contradict each other or the host has not so much.
    pub(crate) fn to_files(&self, host: &Host) -> Result<BTreeMap<String, String>, Error> {
        let mut files = BTreeMap::new();
        let mut put = |file: &str, value: String| files.insert(file.to_owned(), value);
        self.check_memory(host)?;
        if let Some(memory) = self.memory {
            put("memory.max", memory.bytes().to_string());
        }
        if let Some(high) = self.memory_high {
            put("memory.high", high.bytes().to_string());
        }
        if let Some(low) = self.memory_reservation {
            put("memory.low", low.bytes().to_string());
        }
        if let Some(swap) = self.swap(host)? {
            put("memory.swap.max", swap);
        }
        if let Some(oom_group) = self.oom_group {
            put("memory.oom.group", u8::from(oom_group).to_string());
        }
        if let Some(cpus) = self.cpus {
            if cpus.hundred_thousandths() > host.cpus * PERIOD_US {
                let have =
                    if host.cpus == 1 { "1 processor".into() } else { format!("{} processors", host.cpus) };
                return Err(wrong("cpus", &cpus, format!("this host has {have}")));
            }
            put("cpu.max", format!("{} {PERIOD_US}", cpus.hundred_thousandths()));
        }
        match (self.cpu_shares, self.cpu_weight) {
            (Some(shares), Some(_)) => {
                return Err(wrong(
                    "cpu_shares",
                    &shares,
                    "cpu_weight says the same in another measure".into(),
                ));
            }
            // The kernel's own formula for shares (kubernetes KEP-2254), which runc has as well.
            (Some(shares), None) => {
                put("cpu.weight", (1 + (shares.number() - 2) * 9_999 / 262_142).to_string());
            }
            (None, Some(weight)) => {
                put("cpu.weight", weight.number().to_string());
            }
            (None, None) => {}
        }
        if let Some(pids) = self.pids_limit {
            put("pids.max", pids.text());
        }
        if let Some(weight) = self.blkio_weight {
            // As runc maps 10…1000 of cgroup v1 to 1…10000.
            put("io.weight", format!("default {}", 1 + (weight.number() - 10) * 9_999 / 990));
        }
        if let Some(io) = self.io_max(host)? {
            put("io.max", io);
        }
        Ok(files)
    }

    fn check_memory(&self, host: &Host) -> Result<(), Error> {
        let sizes = [
            ("memory", self.memory),
            ("memory_high", self.memory_high),
            ("memory_reservation", self.memory_reservation),
        ];
        for (name, size) in sizes {
            let Some(size) = size else { continue };
            if size.bytes() > host.memory_bytes {
                let have = runtime::limits::size_text(host.memory_bytes);
                return Err(wrong(name, &size, format!("this host has {have} of memory")));
            }
            if name != "memory_reservation" && size.bytes() < MEMORY_MIN_BYTES {
                return Err(wrong(name, &size, "no service starts with less than 6 MiB".into()));
            }
            if self.memory.is_some_and(|memory| size.bytes() > memory.bytes()) {
                return Err(wrong(name, &size, "it is more than `memory`, which is never exceeded".into()));
            }
        }
        Ok(())
    }

    /// Docker's `memory-swap` is both together, the kernel's file is swap alone.
    fn swap(&self, host: &Host) -> Result<Option<String>, Error> {
        match (self.memory_swap, self.memory) {
            // Where nothing is said, as much swap as memory, as Docker does; a kernel that cannot swap needs no limit.
            (None, Some(memory)) if host.swaps => Ok(Some(memory.bytes().to_string())),
            (None, _) => Ok(None),
            (Some(Swap::Unlimited), _) => Ok(Some("max".to_owned())),
            (Some(swap @ Swap::Together(_)), None) => Err(wrong(
                "memory_swap",
                &swap,
                "it is memory and swap together, so it needs `memory`".into(),
            )),
            (Some(swap @ Swap::Together(both)), Some(memory)) => {
                match both.bytes().checked_sub(memory.bytes()) {
                    Some(swap) => Ok(Some(swap.to_string())),
                    None => Err(wrong(
                        "memory_swap",
                        &swap,
                        format!("it is memory and swap together, and `memory` alone is {memory}"),
                    )),
                }
            }
        }
    }

    fn io_max(&self, host: &Host) -> Result<Option<String>, Error> {
        let rates = [
            ("device_read_bps", "rbps", &self.device_read_bps),
            ("device_write_bps", "wbps", &self.device_write_bps),
        ];
        let counts = [
            ("device_read_iops", "riops", &self.device_read_iops),
            ("device_write_iops", "wiops", &self.device_write_iops),
        ];
        let mut said: Vec<(&str, &str, &PathBuf, u64)> = Vec::new();
        for (name, key, list) in rates {
            said.extend(list.iter().map(|it| (name, key, &it.device, it.rate.bytes())));
        }
        for (name, key, list) in counts {
            said.extend(list.iter().map(|it| (name, key, &it.device, it.rate)));
        }
        let mut lines: BTreeMap<(u32, u32), BTreeMap<&str, u64>> = BTreeMap::new();
        for (name, key, path, rate) in said {
            let numbers = (host.device)(path)
                .map_err(|error| wrong(name, &path.display(), format!("it is no block device: {error}")))?;
            lines.entry(numbers).or_default().insert(key, rate);
        }
        let line = |((major, minor), rates): (&(u32, u32), &BTreeMap<&str, u64>)| {
            let rates: Vec<String> = rates.iter().map(|(key, rate)| format!("{key}={rate}")).collect();
            format!("{major}:{minor} {}", rates.join(" "))
        };
        let lines: Vec<String> = lines.iter().map(line).collect();
        Ok(if lines.is_empty() { None } else { Some(lines.join("\n")) })
    }

    /// The text for the annotation.
    pub(crate) fn to_annotation(&self) -> String {
        serde_json::to_string(self).expect("OK because limits have only string keys")
    }

    /// What the annotation says; none when it is not one of ours.
    pub(crate) fn from_annotation(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

fn wrong(name: &str, value: &dyn std::fmt::Display, reason: String) -> Error {
    Error::Limits { name: name.to_owned(), value: value.to_string(), reason }
}

fn block_device(path: &Path) -> std::io::Result<(u32, u32)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = std::fs::metadata(path)?;
    if !found.file_type().is_block_device() {
        return Err(std::io::Error::from_raw_os_error(nix::libc::ENOTBLK));
    }
    Ok((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        limits: Limits,
    }

    const HOST: Host = Host {
        cpus: 2,
        memory_bytes: 4 << 30,
        swaps: true,
        device: |path| match path.to_str() {
            Some("/dev/sda") => Ok((8, 0)),
            Some("/dev/sdb") => Ok((8, 16)),
            _ => Err(std::io::Error::from_raw_os_error(nix::libc::ENOENT)),
        },
    };

    fn files(line: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let typed = Typed::try_parse_from(words).map_err(|error| error.to_string())?;
        let files = typed.limits.to_files(&HOST).map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|(file, value)| format!("{file}={value}")).collect())
    }

    #[test]
    fn dockers_flags_become_the_kernels_files() {
        for (line, wanted) in [
            ("", vec![]),
            ("--memory 512m", vec!["memory.max=536870912", "memory.swap.max=536870912"]),
            ("-m 1g --memory-swap 1g", vec!["memory.max=1073741824", "memory.swap.max=0"]),
            ("-m 512m --memory-swap 2g", vec!["memory.max=536870912", "memory.swap.max=1610612736"]),
            ("-m 512m --memory-swap -1", vec!["memory.max=536870912", "memory.swap.max=max"]),
            (
                "--memory-high 300m --memory-reservation 100m",
                vec!["memory.high=314572800", "memory.low=104857600"],
            ),
            ("--cpus 0.2", vec!["cpu.max=20000 100000"]),
            ("--cpus 2", vec!["cpu.max=200000 100000"]),
            ("--cpu-shares 1024", vec!["cpu.weight=39"]),
            ("-c 2", vec!["cpu.weight=1"]),
            ("-c 262144", vec!["cpu.weight=10000"]),
            ("--cpu-weight 50", vec!["cpu.weight=50"]),
            ("--pids-limit 100", vec!["pids.max=100"]),
            ("--pids-limit -1", vec!["pids.max=max"]),
            ("--blkio-weight 10", vec!["io.weight=default 1"]),
            ("--blkio-weight 1000", vec!["io.weight=default 10000"]),
            (
                "--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:50 --device-write-bps /dev/sdb:1k",
                vec!["io.max=8:0 rbps=1048576 wiops=50\n8:16 wbps=1024"],
            ),
            ("--oom-group", vec!["memory.oom.group=1"]),
            ("--oom-group=false", vec!["memory.oom.group=0"]),
        ] {
            assert_eq!(files(line), Ok(wanted.into_iter().map(str::to_owned).collect()), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        for (line, reason) in [
            ("--memory 0", "more than 0"),
            ("--memory -5m", "no size"),
            ("--memory 512q", "no size"),
            ("--memory 9999999999999999999g", "too large"),
            ("--memory 5g", "this host has 4 GiB of memory"),
            ("--memory 1m", "6 MiB"),
            ("--memory-high 1g --memory 512m", "more than `memory`"),
            ("--memory-reservation 1g --memory 512m", "more than `memory`"),
            ("--memory-swap 1g", "needs `memory`"),
            ("--memory 1g --memory-swap 512m", "`memory` alone is 1 GiB"),
            ("--memory-swap 0", "more than 0"),
            ("--memory-swap -2", "no size"),
            ("--cpus 3", "this host has 2 processors"),
            ("--cpus 0", "at least 0.01"),
            ("--cpus -1", "no number"),
            ("--cpus 1e9", "no number"),
            ("--cpus nan", "no number"),
            ("--cpus 99999999999999999999", "too large"),
            ("--cpu-shares 1", "from 2 to 262144"),
            ("--cpu-shares 100 --cpu-weight 100", "cannot be used with"),
            ("--cpu-weight 0", "from 1 to 10000"),
            ("--pids-limit 0", "at least 1"),
            ("--pids-limit -2", "at least 1"),
            ("--pids-limit 9999999", "at most 4194304"),
            ("--blkio-weight 9", "from 10 to 1000"),
            ("--device-read-bps sda:1m", "DEVICE:SIZE"),
            ("--device-read-bps /dev/sda", "DEVICE:SIZE"),
            ("--device-read-bps /dev/sda:0", "more than 0"),
            ("--device-read-bps /dev/none:1m", "no block device"),
            ("--device-read-iops /dev/sda:-1", "DEVICE:NUMBER"),
            ("--oom-group=perhaps", "true"),
        ] {
            let error = files(line).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn limits_come_back_as_they_were_and_the_last_word_wins() {
        let of =
            |line: &str| Typed::try_parse_from(std::iter::once("x").chain(line.split(' '))).unwrap().limits;
        let all = of("-m 512m --memory-high 400m --memory-swap -1 --cpus 0.25 -c 512 --pids-limit -1 \
            --device-read-bps /dev/sda:1m --device-write-iops /dev/sda:5 --oom-group --allow-unenforced");
        assert_eq!(Limits::from_annotation(&all.to_annotation()), Some(all.clone()));
        assert_eq!(all.clone().over(Limits::default()), all);
        assert_eq!(Limits::default().over(all.clone()), all);
        let changed = of("--memory 1g --cpu-weight 7").over(all.clone());
        assert_eq!(
            changed,
            Limits {
                memory: of("-m 1g").memory,
                cpu_weight: of("--cpu-weight 7").cpu_weight,
                cpu_shares: None,
                ..all
            }
        );
        assert_eq!(Limits::from_annotation("{\"new\": 1}"), None);
    }
}
