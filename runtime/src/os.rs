//! The system calls that neither `rustix` nor `nix` wraps: this crate's only unsafe code.
//! It does not know what the calls are for; each function does one call and nothing else.

use std::io;

use nix::libc;

/// Puts a seccomp filter on the calling thread, for good (seccomp(2), `SECCOMP_SET_MODE_FILTER`).
///
/// # Errors
/// `EACCES` without both `CAP_SYS_ADMIN` and `no_new_privs`, `EINVAL` for a program the kernel refuses,
/// `ESRCH` when `SECCOMP_FILTER_FLAG_TSYNC` could not reach another thread.
pub fn seccomp_load(program: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel only reads the program; the pointer is mutable because the C structure says so.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` and the instructions it points at outlive the call, which copies them; the call changes no
    // memory of this process.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    };
    match answer {
        0 => Ok(()),
        // With TSYNC the number of a thread that has another filter, rather than an error (seccomp(2)).
        1.. => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a copy of this process (fork(2)): the child's number in the parent, `None` in the child.
///
/// To be called only where this process has one thread, as in the throw-away process and what it clones: the child
/// goes on running Rust.
///
/// # Errors
/// `EAGAIN` at a limit of processes, `ENOMEM`.
pub fn fork() -> io::Result<Option<nix::unistd::Pid>> {
    // SAFETY: with one thread no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Ends this process at once, without running what the process it was cloned from registered for its exit (_exit(2)).
pub fn exit(status: i32) -> ! {
    // SAFETY: it never returns and touches no memory of this process.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9).
///
/// To be called only where no owner of such a descriptor is used again.
pub fn close_from(first: u32) {
    // SAFETY: the callers are about to end or to wait forever without using an owner of these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Marks every descriptor from `first` on as closed on exec (close_range(2), `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
pub fn close_on_exec_from(first: u32) {
    // SAFETY: it changes a flag of descriptors and no memory.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Gives SIGPIPE its default action back, which Rust's runtime takes away and execve(2) would pass on (signal(7)).
pub fn default_sigpipe() {
    // SAFETY: the default action runs no code of this program.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Waits for one of `signals`, which must be blocked, and takes it (sigwaitinfo(2)). Real-time signals included, which
/// `nix` has no names for.
///
/// # Errors
/// `EINTR` after a signal that is not in the set.
pub fn wait_signal(signals: &nix::sys::signal::SigSet) -> io::Result<i32> {
    let wanted: &libc::sigset_t = signals.as_ref();
    // SAFETY: the set is valid for the call, and no information is asked for besides the number.
    match unsafe { libc::sigwaitinfo(wanted, std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        signal => Ok(signal),
    }
}

/// Sends a signal by its number (kill(2)); `nix` refuses real-time signals.
///
/// # Errors
/// `ESRCH` when there is no such process, `EINVAL` for a number that is no signal.
pub fn send_signal(pid: nix::unistd::Pid, signal: i32) -> io::Result<()> {
    // SAFETY: it touches no memory of this process.
    match unsafe { libc::kill(pid.as_raw(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has this process sent SIGKILL when its parent ends (prctl(2), `PR_SET_PDEATHSIG`).
pub fn die_with_parent() {
    // SAFETY: it sets a number in the process's kernel state.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}
