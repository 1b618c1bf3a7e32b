//! Keeps what runs in containers out of the groups of listeners: who is in one is told by a uid, and root in a container could
//! give a socket of its own any uid. A seccomp filter beside the profile refuses uids of that range, and nothing else.
//!
//! Nor can it come by a setuid program: no image that has a file of such an owner is unpacked.
//!
//! A container without a profile is not kept from anything.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::{UID_FIRST, UID_MASK};
use crate::error::Error;
use crate::seccomp::Filter;

/// The calls by which a socket gets a uid, or a process whose sockets then have it, and which of their arguments are one. Those
/// with a number in their names are of 32-bit programs.
const CALLS: [(&str, &[usize]); 15] = [
    ("chown", &[1]),
    ("chown32", &[1]),
    ("lchown", &[1]),
    ("lchown32", &[1]),
    ("fchown", &[1]),
    ("fchown32", &[1]),
    ("fchownat", &[2]),
    ("setuid", &[0]),
    ("setuid32", &[0]),
    ("setfsuid", &[0]),
    ("setfsuid32", &[0]),
    ("setreuid", &[0, 1]),
    ("setreuid32", &[0, 1]),
    ("setresuid", &[0, 1, 2]),
    ("setresuid32", &[0, 1, 2]),
];

#[cfg(target_arch = "x86_64")]
const CONVENTIONS: [Arch; 3] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
#[cfg(target_arch = "aarch64")]
const CONVENTIONS: [Arch; 2] = [Arch::ScmpArchAarch64, Arch::ScmpArchArm];

/// Whether nobody in a container may be of this uid.
pub(crate) fn is_kept(uid: u32) -> bool {
    uid & UID_MASK == UID_FIRST
}

/// The filter, ready to be loaded beside that of the container's profile.
///
/// # Errors
/// None but of a mistake in this file.
pub(crate) fn filter() -> Result<Filter, Error> {
    let profile = profile().map_err(|error| Error::Seccomp { reason: error.to_string() })?;
    Filter::compile(&profile)
}

fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let pairs = CALLS.iter().flat_map(|(name, arguments)| arguments.iter().map(|index| (*name, *index)));
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(CONVENTIONS)
        .syscalls(pairs.map(|(name, index)| refused(name, index)).collect::<Result<Vec<_>, _>>()?)
        .build()
}

fn refused(name: &str, index: usize) -> Result<LinuxSyscall, OciSpecError> {
    let of_range = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(u64::from(UID_MASK))
        .value_two(u64::from(UID_FIRST))
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()?;
    LinuxSyscallBuilder::default()
        .names([name.to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(nix::libc::EPERM.cast_unsigned())
        .args([of_range])
        .build()
}
