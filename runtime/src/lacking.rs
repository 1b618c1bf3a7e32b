//! Has this process, and all it starts, run as on a kernel that lacks something: the kernel itself says so, by a seccomp filter
//! of the tests'. In a release build there is none.
//!
//! `OPSRUN_TEST_LACKS=notification,group`: the names are in [`pretend`].

/// Has the calls fail that a test says this kernel lacks.
#[cfg(not(debug_assertions))]
pub fn pretend() {}

/// Has the calls fail that a test says this kernel lacks.
#[cfg(debug_assertions)]
pub fn pretend() {
    use nix::libc;
    /// linux/netlink.h.
    const NETLINK_SOCK_DIAG: u32 = 4;

    let Ok(wanted) = std::env::var("OPSRUN_TEST_LACKS") else { return };
    let plain = |code: u32, value: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value };
    let load = |at: u32| plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let jump = |kind: u32, value: u32| libc::sock_filter {
        code: (libc::BPF_JMP | kind | libc::BPF_K) as u16,
        jt: 0,
        jf: 3,
        k: value,
    };
    let (has_bit, is_equal) = (libc::BPF_JSET, libc::BPF_JEQ);
    let mut program = Vec::new();
    for name in wanted.split(',').filter(|name| !name.is_empty()) {
        // Call, the argument that is looked at, how and for what, and the error that an old kernel answers with.
        let (call, argument, kind, value, error) = match name {
            "notification" => (libc::SYS_seccomp, 1, has_bit, 1 << 3, libc::EINVAL),
            "uninterrupted" => (libc::SYS_seccomp, 1, has_bit, 1 << 5, libc::EINVAL),
            "memory" => (libc::SYS_process_vm_readv, 2, is_equal, 1, libc::ENOSYS),
            "descriptor" => (libc::SYS_pidfd_getfd, 2, is_equal, 0, libc::ENOSYS),
            "injection" => {
                (libc::SYS_ioctl, 1, is_equal, libc::SECCOMP_IOCTL_NOTIF_ADDFD as u32, libc::EINVAL)
            }
            "tables" => (libc::SYS_socket, 2, is_equal, NETLINK_SOCK_DIAG, libc::EPROTONOSUPPORT),
            "mark" => (libc::SYS_setsockopt, 2, is_equal, libc::SO_MARK.cast_unsigned(), libc::EPERM),
            "group" => (libc::SYS_setsockopt, 2, is_equal, 51, libc::ENOPROTOOPT),
            other => panic!("OPSRUN_TEST_LACKS: there is no {other}"),
        };
        let call = u32::try_from(call).expect("OK because numbers of system calls are small");
        program.extend([
            load(0),
            jump(is_equal, call),
            load(16 + 8 * argument),
            libc::sock_filter { jf: 1, ..jump(kind, value) },
            plain(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | error.cast_unsigned()),
        ]);
    }
    program.push(plain(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    crate::os::seccomp_load(&program, 0).expect("OK because a test runs as root");
}
