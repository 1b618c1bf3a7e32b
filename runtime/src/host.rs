//! What this host offers of what opsrun needs, found by trying rather than by guessing from names and versions.
//! It knows nothing of services, and changes nothing.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use caps::{CapSet, Capability};
use procfs::{Current, Meminfo};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, statfs, statvfs};
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde::Serialize;

use crate::abilities::{Abilities, Part};
use crate::cgroup;
use crate::devices;
use crate::host_files;
use crate::record::Way;

/// The oldest kernel on which all of opsrun works: libcontainer mounts with `mount_setattr(2)`.
const KERNEL_MIN: (u32, u32) = (5, 12);
/// From here on a cgroup can be killed at once (`cgroup.kill`).
const KERNEL_CGROUP_KILL: (u32, u32) = (5, 14);
/// Room for a handful of images: one of OpenStack's is about 1 GiB.
const DISK_FREE_MIN_MIB: u64 = 5 * 1024;
/// What a small API service needs to begin with.
const MEMORY_AVAILABLE_MIN_MIB: u64 = 512;
/// 2025-01-01T00:00:00Z, seconds. A clock before this was never set.
const TIME_MIN: u64 = 1_735_689_600;

/// Without these nothing can be unpacked, made or entered.
const CAPABILITIES: [Capability; 11] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
];

/// File systems that overlayfs refuses as its upper layer, or that lose owners (`f_type`, linux/magic.h).
const NO_UPPER: [(u32, &str); 5] = [
    (0x794c_7630, "overlayfs"),
    (0x6969, "NFS"),
    (0x4d44, "FAT"),
    (0x6573_5546, "FUSE"),
    (0xff53_4d42, "CIFS"),
];

/// Something about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is about: a word or two.
    pub name: &'static str,
    /// Whether it will do.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; `None` when nothing has to be done, or can be.
    pub hint: Option<String>,
}

/// Whether something about the host will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It will.
    Good,
    /// opsrun works, but something does less than it could.
    Limited,
    /// opsrun does not work without.
    Missing,
}

impl Fact {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { name, verdict, detail: detail.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Looks at everything. `folder` is where opsrun keeps its images and services, made or not; `run`, what is gone at a reboot.
#[must_use]
pub fn facts(folder: &Path, run: &Path) -> Vec<Fact> {
    let mut facts = facts_of_kernel(folder);
    facts.extend(swapping(&Abilities::test(run)));
    facts
}

fn facts_of_kernel(folder: &Path) -> Vec<Fact> {
    vec![
        privileges(),
        kernel(rustix::system::uname().release().to_str().unwrap_or("")),
        system_calls(),
        overlayfs(),
        cgroups(),
        seccomp(),
        device_rules(),
        resource_limits(),
        host_files(),
        disk(folder),
        memory(),
        time(),
        systemd(),
        syslog(),
    ]
}

/// Which way a service with ports is swapped, and all that the ways need: as it was tried just now.
fn swapping(abilities: &Abilities) -> Vec<Fact> {
    let name = "swap";
    let first = match abilities.best_for(Way::Steered, false) {
        (way, None) => Fact::new(name, Verdict::Good, format!("{}: no request is lost", way.text())),
        (way, Some(lacks)) => Fact::new(name, Verdict::Limited, format!("{}, since {lacks}", way.text()))
            .hint(match way {
                Way::Gated => "clients wait while one release ends and the next one takes its port",
                _ => "clients are refused while one release ends and the next one starts",
            }),
    };
    let parts = Part::ALL.into_iter().map(|part| match abilities.has(part) {
        Some(Ok(())) => Fact::new(part.name(), Verdict::Good, "works"),
        Some(Err(why)) => Fact::new(part.name(), Verdict::Limited, why).hint(part.needs()),
        // What to do about it is not known before what it needs is there.
        None => Fact::new(part.name(), Verdict::Limited, not_tried(abilities, part)),
    });
    [first].into_iter().chain(parts).collect()
}

/// Each is tried by way of others, mostly of those before it.
fn not_tried(abilities: &Abilities, part: Part) -> String {
    let lacks = |it: &Part| abilities.has(*it).is_some_and(|has| has.is_err());
    let before: Vec<Part> = Part::ALL.into_iter().take_while(|it| *it != part).filter(lacks).collect();
    match before.last().copied().or_else(|| Part::ALL.into_iter().find(lacks)) {
        Some(missing) => format!("not tried: that takes {}", missing.name()),
        None => "not tried".to_owned(),
    }
}

fn privileges() -> Fact {
    let name = "privileges";
    if !rustix::process::geteuid().is_root() {
        return Fact::new(name, Verdict::Missing, "not root").hint("run opsrun as root: sudo opsrun doctor");
    }
    let missing: Vec<String> =
        CAPABILITIES.into_iter().filter(|it| !has(*it)).map(|it| it.to_string()).collect();
    if missing.is_empty() {
        return Fact::new(name, Verdict::Good, "root");
    }
    Fact::new(name, Verdict::Missing, format!("root without {}", missing.join(", ")))
        .hint("run opsrun on the host itself, or in a container that is given these capabilities")
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// That this kernel is too old for any container, if it is.
pub(crate) fn too_old() -> Option<String> {
    let name = rustix::system::uname();
    let release = name.release().to_str().ok()?;
    let (major, minor) = KERNEL_MIN;
    let old = version(release)? < KERNEL_MIN;
    old.then(|| format!("Linux {release} is too old: opsrun needs Linux {major}.{minor} or later"))
}

fn kernel(release: &str) -> Fact {
    let name = "kernel";
    let detail = format!("Linux {release}");
    let Some(version) = version(release) else {
        return Fact::new(name, Verdict::Limited, format!("{detail}, whose version cannot be told"));
    };
    if version < KERNEL_MIN {
        let (major, minor) = KERNEL_MIN;
        return Fact::new(name, Verdict::Missing, detail)
            .hint(format!("opsrun needs Linux {major}.{minor} or later"));
    }
    if version < KERNEL_CGROUP_KILL {
        let (major, minor) = KERNEL_CGROUP_KILL;
        return Fact::new(
            name,
            Verdict::Limited,
            format!("{detail}: a container's processes are killed one by one"),
        )
        .hint(format!("Linux {major}.{minor} or later kills them at once"));
    }
    Fact::new(name, Verdict::Good, detail)
}

/// The first two numbers of a kernel's release, such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A new kernel may still refuse: opsrun itself may run under someone's seccomp filter.
fn system_calls() -> Fact {
    let name = "system calls";
    let root = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
    let tried = [
        ("openat2", root.err()),
        ("pidfd_open", pidfd_open(getpid(), PidfdFlags::empty()).err()),
        ("fsopen", fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).err()),
    ];
    let refused: Vec<String> =
        tried.iter().filter_map(|(call, error)| error.map(|error| format!("{call} ({error})"))).collect();
    if refused.is_empty() {
        let calls: Vec<&str> = tried.iter().map(|it| it.0).collect();
        return Fact::new(name, Verdict::Good, calls.join(", "));
    }
    Fact::new(name, Verdict::Missing, format!("refused: {}", refused.join(", ")))
        .hint("run opsrun as root, on the host itself and not inside a container that filters system calls")
}

/// Asking for it also loads its module, where the kernel has it as one.
fn overlayfs() -> Fact {
    let name = "overlayfs";
    match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Fact::new(name, Verdict::Good, "available"),
        Err(error) => Fact::new(name, Verdict::Missing, error.to_string())
            .hint("modprobe overlay; a kernel built without it cannot run containers"),
    }
}

fn cgroups() -> Fact {
    let controllers =
        |folder: &Path| fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let top = Path::new(cgroup::MOUNT);
    let beside = top.join("unified");
    if cgroup::is_v2(top) && cgroup::Hierarchy::open().is_ok_and(|found| found.is_read_only()) {
        return Fact::new("cgroups", Verdict::Missing, "mounted read-only: no container can be made")
            .hint("mount -o remount,rw /sys/fs/cgroup");
    }
    judge_cgroups(
        cgroup::is_v2(top).then(|| controllers(top)),
        cgroup::is_v2(&beside).then(|| controllers(&beside)),
    )
}

/// From the controllers of cgroup v2 where it is the only hierarchy, and where it stands beside v1.
fn judge_cgroups(alone: Option<String>, beside: Option<String>) -> Fact {
    let name = "cgroups";
    let boot = if runs_systemd() {
        "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
    } else {
        "have the host's init mount cgroup2 at /sys/fs/cgroup, and no hierarchy of v1"
    };
    if let Some(controllers) = alone {
        let has = |wanted: &&&str| controllers.split_whitespace().any(|it| it == **wanted);
        let lacks: Vec<&str> =
            ["cpu", "io", "memory", "pids"].iter().filter(|it| !has(it)).copied().collect();
        if lacks.is_empty() {
            return Fact::new(name, Verdict::Good, format!("v2 with {}", controllers.trim()));
        }
        return Fact::new(
            name,
            Verdict::Limited,
            format!("v2 without {}: such limits cannot be set", lacks.join(", ")),
        )
        .hint("see cgroup_disable= on the kernel's command line");
    }
    if beside.is_some() {
        return Fact::new(name, Verdict::Limited, "v1, with v2 beside it: limits cannot be set").hint(boot);
    }
    Fact::new(name, Verdict::Limited, "v1 only: limits cannot be set").hint(boot)
}

fn seccomp() -> Fact {
    let name = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|it| it == "errno") => {
            Fact::new(name, Verdict::Good, "filters are available")
        }
        _ => Fact::new(name, Verdict::Missing, "the kernel has no seccomp filters")
            .hint("use a kernel with CONFIG_SECCOMP_FILTER, as every distribution's is"),
    }
}

fn device_rules() -> Fact {
    let name = "device rules";
    match devices::are_enforceable() {
        Ok(()) => Fact::new(name, Verdict::Good, "by BPF"),
        Err(error) => {
            Fact::new(name, Verdict::Missing, format!("the kernel refuses the BPF program: {error}"))
                .hint("run opsrun as root, with a kernel that has CONFIG_CGROUP_BPF")
        }
    }
}

fn resource_limits() -> Fact {
    let name = "resource limits";
    if has(Capability::CAP_SYS_RESOURCE) {
        return Fact::new(name, Verdict::Good, "CAP_SYS_RESOURCE");
    }
    Fact::new(name, Verdict::Limited, "no CAP_SYS_RESOURCE: a service's limits can be lowered and not raised")
        .hint("run opsrun on the host itself, or in a container that is given this capability")
}

fn host_files() -> Fact {
    let name = "host files";
    match host_files::can_be_followed() {
        Ok(()) => Fact::new(name, Verdict::Good, "changes of /etc/resolv.conf and /etc/hosts reach services at once"),
        Err(error) => Fact::new(
            name,
            Verdict::Limited,
            format!("fcntl F_NOTIFY: {error}: a change of /etc/resolv.conf or /etc/hosts reaches a service at its next start"),
        )
        .hint("sysctl fs.dir-notify-enable=1; a kernel with CONFIG_DNOTIFY, as every distribution's is, has it"),
    }
}

fn disk(folder: &Path) -> Fact {
    let name = "disk";
    let existing = folder.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"));
    let (space, kind) = match (statvfs(existing), statfs(existing)) {
        (Ok(space), Ok(kind)) => (space, kind.f_type),
        (Err(error), _) | (_, Err(error)) => {
            return Fact::new(name, Verdict::Limited, format!("{}: {error}", existing.display()));
        }
    };
    let upper = NO_UPPER.iter().find(|it| u32::try_from(kind & 0xffff_ffff) == Ok(it.0));
    if let Some((_, kind)) = upper {
        return Fact::new(name, Verdict::Missing, format!("{} is on {kind}", existing.display()))
            .hint(format!("mount a local file system, such as ext4 or xfs, at {}", folder.display()));
    }
    let free_mib = space.f_bavail.saturating_mul(space.f_frsize) / 1024 / 1024;
    let detail = format!("{} free at {}", gib(free_mib), existing.display());
    if free_mib < DISK_FREE_MIN_MIB {
        return Fact::new(name, Verdict::Limited, detail)
            .hint("an image takes about 1 GiB; opsrun rmi removes images that are not used any more");
    }
    Fact::new(name, Verdict::Good, detail)
}

fn memory() -> Fact {
    let name = "memory";
    let mib = |bytes: u64| bytes / 1024 / 1024;
    let Ok(memory) = Meminfo::current() else {
        return Fact::new(name, Verdict::Limited, "/proc/meminfo cannot be read").hint("mount /proc");
    };
    let available = mib(memory.mem_available.unwrap_or(memory.mem_free));
    let detail = format!("{} available of {}", gib(available), gib(mib(memory.mem_total)));
    if available < MEMORY_AVAILABLE_MIN_MIB {
        return Fact::new(name, Verdict::Limited, detail).hint("a service may be killed for want of memory");
    }
    Fact::new(name, Verdict::Good, detail)
}

/// What is free to be used without harm, as the kernel reckons it (proc_meminfo(5), `MemAvailable`), and what is free of the
/// swap space, in bytes; `None` when /proc does not say.
#[must_use]
pub fn memory_free_bytes() -> Option<(u64, u64)> {
    let memory = Meminfo::current().ok()?;
    Some((memory.mem_available.unwrap_or(memory.mem_free), memory.swap_free))
}

fn gib(mib: u64) -> String {
    format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024)
}

/// Tokens and certificates are refused by the clock, and a wrong one is seldom the first thing a person suspects.
fn time() -> Fact {
    let name = "time";
    let now = chrono::Utc::now();
    let detail = now.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    if u64::try_from(now.timestamp()).is_ok_and(|seconds| seconds >= TIME_MIN) {
        return Fact::new(name, Verdict::Good, detail);
    }
    Fact::new(name, Verdict::Limited, detail)
        .hint("set the clock; tokens and certificates will not be valid before")
}

fn systemd() -> Fact {
    let name = "systemd";
    if runs_systemd() {
        return Fact::new(name, Verdict::Good, "runs this host");
    }
    Fact::new(
        name,
        Verdict::Limited,
        "does not run this host: services are started at boot by `opsrun boot` alone",
    )
    .hint("see that its init runs `opsrun boot` at its start, which starts what is enabled")
}

/// sd_booted(3).
fn runs_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn syslog() -> Fact {
    let name = "syslog";
    match fs::metadata("/dev/log") {
        Ok(metadata) if metadata.file_type().is_socket() => Fact::new(name, Verdict::Good, "/dev/log"),
        Ok(_) => Fact::new(name, Verdict::Limited, "/dev/log is no socket").hint(NO_SYSLOG),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Fact::new(name, Verdict::Limited, "there is no /dev/log").hint(NO_SYSLOG)
        }
        Err(error) => Fact::new(name, Verdict::Limited, format!("/dev/log: {error}")).hint(NO_SYSLOG),
    }
}

const NO_SYSLOG: &str = "services that log to syslog need systemd-journald or rsyslog on the host";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_that_is_not_good_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let facts = facts(&folder.path().join("not/made/yet"), folder.path());
        for fact in &facts {
            assert!(!fact.detail.is_empty(), "{fact:?}");
            let untried = fact.detail.starts_with("not tried");
            assert_eq!(fact.verdict == Verdict::Good || untried, fact.hint.is_none(), "{fact:?}");
            assert_eq!(facts.iter().filter(|it| it.name == fact.name).count(), 1, "{fact:?}");
        }
        let disk = facts.iter().find(|it| it.name == "disk").expect("a fact about the disk");
        assert!(disk.detail.ends_with(&folder.path().display().to_string()), "{disk:?}");
    }

    #[test]
    fn a_kernel_is_judged_by_its_version() {
        for (release, verdict) in [
            ("5.4.0-150-generic", Verdict::Missing),
            ("4.18.0-553.el8.x86_64", Verdict::Missing),
            ("5.10.0-28-amd64", Verdict::Missing),
            ("5.13.0-52-generic", Verdict::Limited),
            ("5.14.0-427.el9", Verdict::Good),
            ("6.1.0-18-amd64", Verdict::Good),
            ("10.0", Verdict::Good),
            ("trunk", Verdict::Limited),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn cgroups_are_judged_by_their_controllers() {
        let judge = |alone: Option<&str>, beside: Option<&str>| {
            let fact = judge_cgroups(alone.map(str::to_owned), beside.map(str::to_owned));
            (fact.verdict, fact.detail)
        };
        assert_eq!(judge(Some("cpuset cpu io memory pids\n"), None).0, Verdict::Good);
        let (verdict, detail) = judge(Some("cpuset cpu io pids"), None);
        assert_eq!(verdict, Verdict::Limited);
        assert!(detail.contains("without memory"), "{detail}");
        assert!(judge(None, Some("hugetlb")).1.contains("beside"));
        assert!(judge(None, None).1.contains("v1 only"));
    }
}
