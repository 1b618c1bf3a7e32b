//! The part of a bundle's configuration that only Linux has: namespaces, control group, devices, hidden paths, seccomp.
//! It does not put any of it into effect.

use std::collections::HashMap;

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder,
};

use crate::bundle::{BundleRequest, Seccomp};
use crate::error::Result;
use crate::seccomp::{self, Surroundings};

/// Docker's (`oci/defaults.go` of Moby): what they show or do is the host's.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Docker's.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The host's network and host name are used, so there is neither a network nor a UTS namespace.
const NAMESPACES: [LinuxNamespaceType; 3] =
    [LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc, LinuxNamespaceType::Mount];

pub(super) fn describe(request: &BundleRequest, capabilities: Option<&LinuxCapabilities>) -> Result<Linux> {
    // OK, here and below, because every field of these builders has a default.
    let mut resources = LinuxResourcesBuilder::default().devices(devices());
    if !request.limits.is_empty() {
        resources = resources.unified(request.limits.clone().into_iter().collect::<HashMap<_, _>>());
    }
    let resources = resources.build().expect("resources");
    let linux = LinuxBuilder::default()
        .namespaces(NAMESPACES.map(namespace).to_vec())
        .cgroups_path(&request.cgroup)
        .resources(resources)
        .masked_paths(MASKED.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec());
    let bounding = capabilities.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    let linux = match &request.seccomp {
        Seccomp::Unconfined => linux,
        Seccomp::Default => linux.seccomp(seccomp::docker_default(&Surroundings::here(bounding)?)),
        Seccomp::Profile(path) => linux.seccomp(seccomp::read_profile(path, &Surroundings::here(bounding)?)?),
    };
    Ok(linux.build().expect("a Linux part"))
}

fn namespace(typ: LinuxNamespaceType) -> LinuxNamespace {
    LinuxNamespaceBuilder::default().typ(typ).build().expect("a namespace")
}

/// Nothing but what every container needs: any node may be made, but only these opened (Docker's and runc's list).
fn devices() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let allow = |typ, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(typ).access(access);
        if let Some(major) = major {
            rule = rule.major(major);
        }
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build().expect("a device rule")
    };
    let deny_all =
        LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().expect("a device rule");
    let mut rules = vec![deny_all, allow(C, None, None, "m"), allow(B, None, None, "m")];
    // null, zero, full, random, urandom; tty, console, ptmx
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(allow(C, Some(major), Some(minor), "rwm"));
    }
    // Terminals.
    rules.push(allow(C, Some(136), None, "rwm"));
    rules
}
