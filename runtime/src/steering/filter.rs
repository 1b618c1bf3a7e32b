//! The seccomp filter by which a supervisor hears of a service's bind(2) before it happens.
//! It knows nothing of security profiles: beside them it can only notify, and whatever a profile forbids stays forbidden,
//! since the kernel takes the strictest answer of all filters (seccomp(2)).
//!
//! Netlink sockets are bound too, at each look-up of a name for one; their addresses have a length of their own, by which
//! the filter lets them through without anybody being woken. Calls of another convention than the native one (`socketcall` of
//! 32-bit programs, x32) are let through unseen: what they bind is then no listener of the supervisor's.

use std::io;
use std::os::fd::OwnedFd;

use nix::libc;

use crate::os;

/// Offsets in `struct seccomp_data` (include/uapi/linux/seccomp.h).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// The low half of the third argument: both architectures are little-endian.
const ADDRESS_LENGTH_AT: u32 = 16 + 2 * 8;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;

/// The length of a `struct sockaddr_nl`; no address of IPv4 or IPv6 has it.
const NETLINK_ADDRESS_BYTES: u32 = 12;

/// Has the binds of this thread, and of all it starts from now on, notified; the descriptor to receive them from.
///
/// The thread needs `no_new_privs` or `CAP_SYS_ADMIN`. A call that has been received is interrupted by deadly signals only
/// where the kernel knows that (Linux 5.19): otherwise a program with a timer might never get through its bind.
///
/// # Errors
/// As [`os::seccomp_load_listening`].
pub(crate) fn load() -> io::Result<OwnedFd> {
    match load_as(true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load_as(false),
        other => other,
    }
}

/// The same, with or without what keeps other signals from interrupting.
pub(crate) fn load_as(uninterrupted: bool) -> io::Result<OwnedFd> {
    let bit =
        |flag: libc::c_ulong| u32::try_from(flag).expect("OK because the flags are the lowest six bits");
    let wait = if uninterrupted { bit(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) } else { 0 };
    os::seccomp_load_listening(&program(), bit(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) | wait)
}

fn program() -> [libc::sock_filter; 8] {
    let bind = u32::try_from(libc::SYS_bind).expect("OK because numbers of system calls are small");
    [
        load_word(ARCHITECTURE_AT),
        unless_equal(NATIVE, 5),
        load_word(NUMBER_AT),
        unless_equal(bind, 3),
        load_word(ADDRESS_LENGTH_AT),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, NETLINK_ADDRESS_BYTES),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn load_word(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

/// Leaves out so many instructions when the accumulator is something else.
fn unless_equal(value: u32, leave_out: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, leave_out, value)
}

fn instruction(code: u32, jump_true: u8, jump_false: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k: value }
}
