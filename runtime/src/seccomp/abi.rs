//! Call conventions: which there are on a machine, how the kernel tells them apart, and the numbers of their calls.
//! It knows nothing of profiles beyond the names of architectures.

use std::str::FromStr;

use oci_spec::runtime::Arch;

/// The bit that tells an x32 call from an x86_64 one (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A call convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    /// 32-bit pointers with the registers of x86_64; the same architecture for the kernel, see [`X32_BIT`].
    X32,
    X86,
    Aarch64,
    Arm,
}

/// The call convention of this program.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Abi = Abi::X86_64;
/// The call convention of this program.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Abi = Abi::Aarch64;

/// Calls that x32 has under numbers of its own, because they pass structures with pointers or times
/// (arch/x86/entry/syscalls/syscall_64.tbl, "x32" from 512).
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls of x86_64 that x32 does not have (the same table, "64").
const X32_LACKS: [&str; 14] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
    "map_shadow_stack",
    "uretprobe",
    "uprobe",
];

/// Calls that only the kernel of ARM has, far above the table (`__ARM_NR_BASE`).
const ARM_PRIVATE: [(&str, u32); 5] = [
    ("breakpoint", 0x000f_0001),
    ("cacheflush", 0x000f_0002),
    ("usr26", 0x000f_0003),
    ("usr32", 0x000f_0004),
    ("set_tls", 0x000f_0005),
];

/// What is behind x86's `socketcall`, by its first argument (include/uapi/linux/net.h).
const SOCKETCALL: [(&str, u32); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// What is behind x86's `ipc`, by its first argument (include/uapi/linux/ipc.h).
const IPC: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

impl Abi {
    /// The convention a profile means; `None` for one that no machine this program runs on has.
    pub(super) fn of(architecture: Arch) -> Option<Self> {
        match architecture {
            Arch::ScmpArchNative => Some(NATIVE),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// The kernel's word for it: `arch` of `struct seccomp_data` (include/uapi/linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether only the low half of an argument means something.
    pub(super) fn is_32_bit(self) -> bool {
        matches!(self, Self::X32 | Self::X86 | Self::Arm)
    }

    /// The number of a call; `None` when there is no such call.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok().map(|it| it as u32),
            Self::X32 => x32_number(name).map(|it| it | X32_BIT),
            // A word of Rust's, which the table cannot hold.
            Self::X86 if name == "break" => Some(17),
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|it| it as u32),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok().map(|it| it as u32),
            Self::Arm => {
                syscalls::arm::Sysno::from_str(name).ok().map(|it| it as u32).or_else(|| arm_private(name))
            }
        }
    }

    /// Whether the number lies outside the table that grows with each kernel, so that it says nothing about how new a
    /// profile is.
    pub(super) fn is_private(self, number: u32) -> bool {
        self == Self::Arm && ARM_PRIVATE.iter().any(|it| it.1 == number)
    }

    /// The old call that does the same on x86 when its first argument is the second number: a profile that judges
    /// `socket` and not `socketcall` would otherwise judge one of two doors.
    pub(super) fn behind(self, name: &str) -> Option<(u32, u32)> {
        if self != Self::X86 {
            return None;
        }
        let within = |list: &[(&str, u32)], outer: &str| {
            let inner = list.iter().find(|it| it.0 == name)?.1;
            Some((self.number(outer)?, inner))
        };
        within(&SOCKETCALL, "socketcall").or_else(|| within(&IPC, "ipc"))
    }
}

fn x32_number(name: &str) -> Option<u32> {
    if let Some(own) = X32_OWN.iter().find(|it| it.0 == name) {
        return Some(own.1);
    }
    if X32_LACKS.contains(&name) {
        return None;
    }
    Abi::X86_64.number(name)
}

fn arm_private(name: &str) -> Option<u32> {
    ARM_PRIVATE.iter().find(|it| it.0 == name).map(|it| it.1)
}
