//! The system calls that neither `rustix` nor `nix` wraps: this crate's only unsafe code.
//! It does not know what the calls are for; each function does one call and nothing else.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// `BPF_PROG_TYPE_CGROUP_DEVICE` (include/uapi/linux/bpf.h).
const PROGRAM_TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside a program that systemd attached for a unit's `DevicePolicy=`.
const ATTACH_BESIDE_OTHERS: u32 = 2;

/// The part of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out as zero.
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Gives the kernel a program that judges access to devices (bpf(2), `BPF_PROG_LOAD`).
///
/// # Errors
/// `EPERM` without the right to, `EINVAL` or `EACCES` when the verifier refuses it, `ENOSYS` without bpf(2).
pub fn bpf_load_cgroup_device(instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    let count =
        u32::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let attributes = ProgramLoad {
        program_type: PROGRAM_TYPE_CGROUP_DEVICE,
        instruction_count: count,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the structure, and the instructions and the text it points at, outlive the call, which only reads them.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&attributes), size_of::<ProgramLoad>())
    };
    let descriptor = match RawFd::try_from(answer) {
        Ok(descriptor) if descriptor >= 0 => descriptor,
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches such a program to a cgroup v2 folder, beside what is there (bpf(2), `BPF_PROG_ATTACH`). It stays until the
/// cgroup is removed.
///
/// # Errors
/// `EBADF` when the folder is no cgroup v2, `EPERM` when a parent's program allows no other beside it.
pub fn bpf_attach_cgroup_device(program: &OwnedFd, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    let attributes = ProgramAttach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        flags: ATTACH_BESIDE_OTHERS,
    };
    // SAFETY: the structure outlives the call, which only reads it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            std::ptr::from_ref(&attributes),
            size_of::<ProgramAttach>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes duplicates of descriptors at the numbers from `first` on, which are open for the program that is executed next
/// (dup2(2)). Whatever had these numbers is closed: to be called where nothing is used any more that could have them.
///
/// # Errors
/// `EBADF` beyond the limit of descriptors.
pub fn duplicate_to(descriptors: &[OwnedFd], first: RawFd) -> io::Result<()> {
    for (descriptor, number) in descriptors.iter().zip(first..) {
        // SAFETY: the caller answers for it that nobody owns that number who goes on using it.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
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

/// `struct clone_args` as Linux 5.7 has it (include/uapi/linux/sched.h).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts a program in a cgroup v2, in which it is from its first moment: nothing is moved (clone3(2), `CLONE_INTO_CGROUP`,
/// Linux 5.7). Its standard input is `stdin`, its folder `/`, its environment empty; it is this process's child, and ends
/// with status 125 when it cannot be executed.
///
/// # Errors
/// `ENOSYS`, `E2BIG`, `EINVAL` or `EPERM` where the kernel, or a filter on this process, does not have it; `ENODEV`, `EBUSY`
/// or `EOPNOTSUPP` for a cgroup that is gone or may hold no process; as fork(2).
pub fn spawn_into(
    cgroup: BorrowedFd<'_>,
    program: &CStr,
    arguments: &[&CStr],
    stdin: BorrowedFd<'_>,
) -> io::Result<nix::unistd::Pid> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let list: Vec<*const libc::c_char> =
        arguments.iter().map(|argument| argument.as_ptr()).chain([std::ptr::null()]).collect();
    let environment = [std::ptr::null()];
    let stdin = stdin.as_raw_fd();
    let how = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM the child has memory of its own and goes on with a copy of this stack.
    let answer =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&how), size_of::<CloneArguments>()) };
    if answer == 0 {
        // Other threads may hold locks in the copied memory: from here on there are only system calls (signal-safety(7)), with
        // what was prepared before.
        // SAFETY: it changes descriptors that only this child has.
        let has_input = unsafe { libc::dup2(stdin, 0) } == 0;
        // SAFETY: the text is a constant that ends with a null.
        let is_there = unsafe { libc::chdir(c"/".as_ptr()) } == 0;
        if has_input && is_there {
            // SAFETY: the lists end with a null and, like the texts they point at, outlive the call.
            unsafe { libc::execve(program.as_ptr(), list.as_ptr(), environment.as_ptr()) };
        }
        exit(125);
    }
    match i32::try_from(answer) {
        Ok(pid) if pid > 0 => Ok(nix::unistd::Pid::from_raw(pid)),
        _ => Err(io::Error::last_os_error()),
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

/// Owns a descriptor that this process was started with.
///
/// To be called once for a number, and only for what whoever started this process says it has handed over.
pub fn take_inherited(number: u32) -> OwnedFd {
    let number = RawFd::try_from(number).unwrap_or(RawFd::MAX);
    // SAFETY: no other owner of it is in this process, which got it over execve(2).
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Marks every descriptor from `first` on as closed on exec (close_range(2), `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
pub fn close_on_exec_from(first: u32) {
    // SAFETY: it changes a flag of descriptors and no memory.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Gives every signal its default action (signal(7)): an ignored one stays ignored over execve(2).
pub fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this program. SIGKILL, SIGSTOP and those that the C library keeps
        // for itself are refused, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
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

/// Sends a signal to one thread of a process (tgkill(2)).
///
/// # Errors
/// `ESRCH` when there is no such thread.
#[cfg(test)]
pub fn send_signal_to_thread(pid: i32, thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: it touches no memory of this process.
    match unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// bind(2) with whatever a program might pass.
///
/// # Errors
/// As bind(2).
#[cfg(test)]
pub fn bind_anything(socket: i32, address: usize, bytes: usize) -> io::Result<()> {
    // SAFETY: the kernel reads what the address points at, if it can, and touches no memory of this process.
    match unsafe { libc::syscall(libc::SYS_bind, socket, address, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes over the command line that this process was started with (proc_pid_cmdline(5)).
///
/// To be called only with a range that `/proc/self/stat` gives as `arg_start` and `arg_end`, and only where this process
/// has one thread and does not read its arguments again.
pub fn overwrite_arguments(start: usize, text: &[u8]) {
    let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel has mapped these bytes, writable, for this process alone (execve(2)), and by the conditions above
    // nobody reads them meanwhile; the text cannot overlap them, as it was allocated by this program.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), area, text.len()) };
}

/// `struct pidfd_info` (include/uapi/linux/pidfd.h), as its first version had it.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How a process has ended, as wait(2) encodes it; `None` while it was not reaped yet (`PIDFD_GET_INFO`, Linux 6.15).
///
/// # Errors
/// `ENOTTY` or `EINVAL` on an older kernel.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info)
    const PIDFD_GET_INFO: u32 = 3 << 30 | (size_of::<PidfdInfo>() as u32) << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    let number = PIDFD_GET_INFO as libc::Ioctl;
    // SAFETY: the structure is as large as the request's number says, and outlives the call, which fills it.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), number, std::ptr::from_mut(&mut info)) };
    match answer {
        0 => Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)),
        // Still there: there is nothing to say yet.
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has this process sent SIGKILL when its parent ends (prctl(2), `PR_SET_PDEATHSIG`).
pub fn die_with_parent() {
    // SAFETY: it sets a number in the process's kernel state.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Takes that back.
pub fn outlive_parent() {
    // SAFETY: it sets a number in the process's kernel state.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
}

/// Has this process sent SIGIO whenever a file in a folder is changed, made, removed or renamed, for as long as the descriptor
/// is open (fcntl(2), `F_NOTIFY`). SIGIO must be blocked: it ends a process otherwise.
///
/// # Errors
/// `EINVAL` on a kernel without `CONFIG_DNOTIFY` or with `fs.dir-notify-enable=0`, `ENOTDIR`.
pub fn notify_of_changes(folder: BorrowedFd<'_>) -> io::Result<()> {
    // Of linux/fcntl.h.
    const F_NOTIFY: libc::c_int = 1026;
    const CHANGED_MADE_REMOVED_RENAMED: u32 = 0x2 | 0x4 | 0x8 | 0x10;
    const AGAIN_AND_AGAIN: u32 = 0x8000_0000;
    let what = libc::c_ulong::from(CHANGED_MADE_REMOVED_RENAMED | AGAIN_AND_AGAIN);
    // SAFETY: it touches no memory of this process.
    match unsafe { libc::fcntl(folder.as_raw_fd(), F_NOTIFY, what) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a seccomp filter on the calling thread and gives the descriptor by which its `SECCOMP_RET_USER_NOTIF` are received
/// (seccomp(2), `SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0; seccomp_unotify(2)). It is closed on exec.
///
/// # Errors
/// As [`seccomp_load`]; `EBUSY` when a filter that is loaded already has such a descriptor, `EINVAL` for a flag that the
/// kernel does not know.
pub fn seccomp_load_listening(program: &[libc::sock_filter], flags: u32) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let listening = u32::try_from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap_or(0);
    // SAFETY: as in `seccomp_load`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | listening,
            std::ptr::from_ref(&program),
        )
    };
    let descriptor = match RawFd::try_from(answer) {
        Ok(descriptor) if descriptor >= 0 => descriptor,
        _ => return Err(io::Error::last_os_error()),
    };
    // SAFETY: the kernel has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Receives one notification (seccomp_unotify(2), `SECCOMP_IOCTL_NOTIF_RECV`). It waits where none is pending: to be called
/// only when poll(2) says that one is.
///
/// # Errors
/// `ENOENT` when the call it tells of is over already, `EINTR`.
pub fn seccomp_receive(listener: BorrowedFd<'_>) -> io::Result<libc::seccomp_notif> {
    let mut notification = Call::default().notification;
    seccomp_receive_into(listener, std::ptr::from_mut(&mut notification))?;
    Ok(notification)
}

/// As [`seccomp_receive`], into a notification that is zeros.
fn seccomp_receive_into(listener: BorrowedFd<'_>, into: *mut libc::seccomp_notif) -> io::Result<()> {
    // SAFETY: the kernel writes one structure of this type, whose size is part of the request's number; `into` is that of one of
    // the callers here, which have it for as long as the call takes.
    match unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, into) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A notification, and whose it is. Any bytes are one.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Call {
    /// What is known of the rest.
    pub version: u32,
    /// The generation that calls.
    pub generation: u32,
    /// What the kernel tells.
    pub notification: libc::seccomp_notif,
}

impl Default for Call {
    fn default() -> Self {
        let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
        Self {
            version: 0,
            generation: 0,
            notification: libc::seccomp_notif { id: 0, pid: 0, flags: 0, data },
        }
    }
}

/// A [`Call`] in memory that is the beginning of a file: what is in it outlives this process.
#[derive(Debug)]
pub struct SharedCall {
    at: std::ptr::NonNull<Call>,
}

/// Has the beginning of a file for memory (mmap(2), `MAP_SHARED`). The file must be as long as a [`Call`] and stay so: what lies
/// beyond its end is no memory.
///
/// # Errors
/// `ENODEV` on a file system that cannot do it, `ENOMEM`.
pub fn map_call(file: BorrowedFd<'_>) -> io::Result<SharedCall> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses an address where nothing is; what is there is used by `SharedCall` alone.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), size_of::<Call>(), access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    std::ptr::NonNull::new(at.cast()).map(|at| SharedCall { at }).ok_or_else(|| io::ErrorKind::Other.into())
}

impl SharedCall {
    /// What is in it.
    #[must_use]
    pub fn get(&self) -> Call {
        // SAFETY: it is mapped until this is dropped, a page's beginning fits any type, and any bytes are a `Call`. Volatile,
        // since it is the kernel and other processes that write there, too.
        unsafe { self.at.as_ptr().read_volatile() }
    }

    /// Puts something else in it.
    pub fn set(&mut self, call: Call) {
        // SAFETY: as in `get`.
        unsafe { self.at.as_ptr().write_volatile(call) };
    }

    /// As [`seccomp_receive`], into this. The notification that is in it must be zeros.
    ///
    /// # Errors
    /// As [`seccomp_receive`].
    pub fn receive(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let into = self.at.as_ptr().wrapping_byte_add(std::mem::offset_of!(Call, notification));
        seccomp_receive_into(listener, into.cast())
    }
}

impl Drop for SharedCall {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing points there any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<Call>()) };
    }
}

/// Whether the call that a notification tells of still waits (`SECCOMP_IOCTL_NOTIF_ID_VALID`): what was learned about its
/// process by number is about that process if so.
pub fn seccomp_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number, which outlives the call.
    let answer = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&id))
    };
    answer == 0
}

/// Ends the call that a notification tells of, with `error` (positive; 0 for success), or lets the kernel do it
/// (`SECCOMP_IOCTL_NOTIF_SEND`; `SECCOMP_USER_NOTIF_FLAG_CONTINUE`, Linux 5.5).
///
/// # Errors
/// `ENOENT` when the call is over already.
pub fn seccomp_answer(listener: BorrowedFd<'_>, id: u64, error: i32, go_on: bool) -> io::Result<()> {
    let flags = if go_on { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE } else { 0 };
    let flags = u32::try_from(flags).unwrap_or(0);
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -error, flags };
    let from = std::ptr::from_ref(&answer);
    // SAFETY: the kernel reads one structure of this type, which outlives the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, from) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts `file` in place of the descriptor `number` of the process that a notification tells of
/// (`SECCOMP_IOCTL_NOTIF_ADDFD`, Linux 5.9).
///
/// # Errors
/// `ENOENT` when the call is over already.
pub fn seccomp_inject(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    number: i32,
    close_on_exec: bool,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or(0),
        srcfd: file.as_raw_fd().cast_unsigned(),
        newfd: number.cast_unsigned(),
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    let from = std::ptr::from_ref(&request);
    // SAFETY: the kernel reads one structure of this type, which outlives the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, from) } {
        answer if answer >= 0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings up the loopback interface of this process's network namespace (netdevice(7), `SIOCSIFFLAGS`).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` there.
pub fn bring_loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: the structure is numbers alone, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    let from = std::ptr::from_ref(&request);
    // SAFETY: the kernel reads one structure of this type, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, from) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of the longest value that [`socket_option`] reads: a `struct timeval`, a name of a congestion control.
const OPTION_BYTES_MAX: usize = 16;

/// The value of an option of a socket, as the kernel writes it (getsockopt(2)).
///
/// # Errors
/// As getsockopt(2).
pub fn socket_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; OPTION_BYTES_MAX];
    let mut length = libc::socklen_t::try_from(OPTION_BYTES_MAX).expect("OK because it is 16");
    let to = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which the vector has, and how many it wrote.
    let answer = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, to, &raw mut length) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(length as usize);
    Ok(value)
}

/// Gives an option of a socket a value (setsockopt(2)).
///
/// # Errors
/// As setsockopt(2).
pub fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length =
        libc::socklen_t::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel reads `length` bytes of the value.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_ATTACH_REUSEPORT_CBPF` of asm-generic/socket.h, the same number on every architecture that opsrun runs on.
const ATTACH_REUSEPORT_CBPF: libc::c_int = 51;

/// Gives the `SO_REUSEPORT` group of a socket the program that says which of its members gets a connection, in place of the
/// one before (socket(7), `SO_ATTACH_REUSEPORT_CBPF`, for TCP since Linux 4.6).
///
/// # Errors
/// `EINVAL` when the socket has no `SO_REUSEPORT` or the kernel refuses the program.
pub fn attach_reuseport_program(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("OK because it is 16");
    let from = std::ptr::from_ref(&program).cast();
    // SAFETY: the kernel reads the structure and the instructions it points at, all of which outlive the call.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, ATTACH_REUSEPORT_CBPF, from, size) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
