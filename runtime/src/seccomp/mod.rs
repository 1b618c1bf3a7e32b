//! Compiles the seccomp profile of a bundle into the program the kernel runs, and loads it.
//! It knows nothing of where a profile comes from, nor of containers.
//!
//! ```text
//! profile (config.json, linux.seccomp) ── rules ──▶ verdict per number and call convention ── program ──▶ classic BPF
//!                                          abi: name → number
//! ```
//!
//! It is done without libseccomp: a static binary cannot link Debian's, and a filter that is compiled before the
//! container exists and is the same for the service, its probes and `exec` needs no library inside the container.
//! What a profile means is what it means under runc, which has libseccomp between itself and the kernel; where the
//! two have rules of their own, these are followed:
//!
//! - A rule whose action is the profile's default says nothing.
//! - A rule without conditions beats those with conditions, wherever it stands; of two such, the first one counts.
//! - Conditions on different arguments must all hold. As soon as two of them are on the same argument, each condition
//!   of that rule is a rule of its own (runc kept this for profiles older than the AND).
//! - Among rules with conditions the first that holds counts. (libseccomp sorts them in a way that is only defined
//!   while their actions agree; profiles in use keep to that.)
//! - A name that no kernel known here has is skipped, so that a newer profile works.
//! - On a 32-bit call convention only the low half of an argument is compared.
//! - A number above all that the profile names gives `ENOSYS` rather than the default action, unless the default lets
//!   calls through: such a call is newer than the profile, and a C library that tries it first (`clone3`,
//!   `faccessat2`, `fchmodat2`) falls back to the old one on `ENOSYS`, but fails on `EPERM`.
//! - A call convention that the profile does not list ends the calling thread, as libseccomp's "bad architecture" does.

mod abi;
pub(crate) mod kept;
mod program;
mod rules;
#[cfg(test)]
mod tests;

use std::io;

use nix::libc;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use crate::error::Error;

/// A filter that is ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    program: Vec<program::Instruction>,
    flags: u32,
}

impl Filter {
    /// Compiles `linux.seccomp` of a bundle (OCI runtime specification, config-linux, "Seccomp").
    ///
    /// # Errors
    /// [`Error::Seccomp`] for what cannot be enforced as written: `SCMP_ACT_NOTIFY` and what belongs to it, an error
    /// number or argument index out of range, a program beyond what the kernel takes.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, Error> {
        let cases = rules::cases(profile)?;
        Ok(Self { program: program::assemble(&cases)?, flags: flags(profile)? })
    }

    /// Puts the filter on the calling thread and on all it starts from now on; it can never be taken off.
    ///
    /// Call it last, right before execve(2): all that comes after it must be allowed by the profile. The thread needs
    /// `no_new_privs` or `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// As [`crate::os::seccomp_load`].
    pub fn load(&self) -> io::Result<()> {
        let program: Vec<libc::sock_filter> = self
            .program
            .iter()
            .map(|it| libc::sock_filter { code: it.code, jt: it.jump_true, jf: it.jump_false, k: it.value })
            .collect();
        crate::os::seccomp_load(&program, self.flags)
    }
}

/// The flags of seccomp(2). None given means `SPEC_ALLOW`, as with runc: without it a kernel before 5.16 switches
/// speculative store bypass off for the whole service, which slows it down by several percent.
fn flags(profile: &LinuxSeccomp) -> Result<u32, Error> {
    let Some(flags) = profile.flags() else { return Ok(bit(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)) };
    flags.iter().try_fold(0, |sum, flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(sum | bit(libc::SECCOMP_FILTER_FLAG_LOG)),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
            Ok(sum | bit(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW))
        }
        // The filter is loaded by the only thread of the process, so this one asks for nothing.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(sum),
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => Err(refused(
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV belongs to SCMP_ACT_NOTIFY, which is not supported",
        )),
    })
}

/// The constants are of the C type that libc chose; the system call takes an unsigned int.
fn bit(flag: libc::c_ulong) -> u32 {
    u32::try_from(flag).expect("OK because the flags are the lowest six bits")
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Seccomp { reason: reason.into() }
}
