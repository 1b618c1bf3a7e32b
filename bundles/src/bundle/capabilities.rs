//! Which capabilities a container has: Docker's default ones, with what is added and dropped.
//! It does not know how they are given to a process.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::{Error, Result};

/// Docker's default ones (`oci/caps/defaults.go` of Moby).
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// All that Linux 5.9 and later have.
const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// A capability by its name, with or without `CAP_`, in any case.
pub(crate) fn capability(name: &str) -> Option<Capability> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    ALL.into_iter().find(|capability| capability.to_string() == name)
}

/// The sets of a process of this user. Who is not root has them in the bounding set only: that is what remains after
/// the program was executed, and what a set-user-id program can gain. None are inheritable or ambient, as with Docker
/// (CVE-2022-24769).
pub(super) fn sets(uid: u32, add: &[String], drop: &[String]) -> Result<LinuxCapabilities> {
    let bounding = bounding(add, drop)?;
    let held = if uid == 0 { bounding.clone() } else { HashSet::new() };
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(bounding)
        .permitted(held.clone())
        .effective(held)
        .inheritable(HashSet::new())
        .ambient(HashSet::new());
    // OK because every field of the builder has a default.
    Ok(sets.build().expect("capability sets"))
}

/// Docker's rules (`TweakCapabilities` of Moby): `ALL` added gives all but those dropped; `ALL` dropped leaves only
/// those added; else the default ones without those dropped, with those added.
fn bounding(add: &[String], drop: &[String]) -> Result<HashSet<Capability>> {
    let (all_added, added) = named(add)?;
    let (all_dropped, dropped) = named(drop)?;
    if all_added {
        return Ok(ALL.into_iter().filter(|capability| !dropped.contains(capability)).collect());
    }
    let mut set: HashSet<_> = if all_dropped {
        HashSet::new()
    } else {
        DEFAULT.into_iter().filter(|capability| !dropped.contains(capability)).collect()
    };
    set.extend(added);
    Ok(set)
}

fn named(names: &[String]) -> Result<(bool, HashSet<Capability>)> {
    let mut set = HashSet::new();
    let mut all = false;
    for name in names {
        if name.eq_ignore_ascii_case("ALL") {
            all = true;
        } else {
            set.insert(capability(name).ok_or_else(|| Error::UnknownCapability { name: name.clone() })?);
        }
    }
    Ok((all, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_name_is_understood_with_and_without_its_prefix() {
        for name in ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "Cap_Net_Admin"] {
            assert_eq!(capability(name), Some(Capability::NetAdmin), "{name}");
        }
        assert_eq!(capability("CAP_"), None);
        assert_eq!(capability("NETADMIN"), None);
    }

    #[test]
    fn the_list_of_all_is_complete() {
        let all: HashSet<_> = ALL.into_iter().collect();
        assert_eq!(all.len(), 41, "one is listed twice");
        for capability in DEFAULT {
            assert!(all.contains(&capability), "{capability}");
        }
    }

    #[test]
    fn adding_and_dropping_follow_docker() {
        let default: HashSet<_> = DEFAULT.into_iter().collect();
        assert_eq!(bounding(&[], &[]).unwrap(), default);
        let all = bounding(&names(&["all"]), &names(&["SYS_ADMIN"])).unwrap();
        assert_eq!(all.len(), 40);
        assert!(!all.contains(&Capability::SysAdmin));
        let few = bounding(&names(&["NET_ADMIN"]), &names(&["ALL"])).unwrap();
        assert_eq!(few, HashSet::from([Capability::NetAdmin]));
        let other = bounding(&names(&["NET_ADMIN"]), &names(&["MKNOD"])).unwrap();
        assert_eq!(other.len(), 14);
        assert!(other.contains(&Capability::NetAdmin) && !other.contains(&Capability::Mknod));
        assert!(matches!(
            bounding(&names(&["NET_ADMINS"]), &[]),
            Err(Error::UnknownCapability { name }) if name == "NET_ADMINS"
        ));
    }

    #[test]
    fn only_root_holds_them() {
        let root = sets(0, &[], &[]).unwrap();
        assert_eq!(root.effective().as_ref().unwrap().len(), 14);
        let other = sets(42, &[], &[]).unwrap();
        assert_eq!(other.bounding().as_ref().unwrap().len(), 14);
        assert!(other.effective().as_ref().unwrap().is_empty());
        assert!(other.permitted().as_ref().unwrap().is_empty());
        assert!(other.inheritable().as_ref().unwrap().is_empty());
        assert!(other.ambient().as_ref().unwrap().is_empty());
    }
}
