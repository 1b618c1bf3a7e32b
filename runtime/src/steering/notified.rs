//! A bind(2) that waits for its answer: who makes it, on which socket, of which address.
//! It knows nothing of ports and generations.
//!
//! What the program passed is read once and used as read: what the program, or another thread of it, writes there afterwards
//! changes nothing any more (seccomp_unotify(2) has the warnings). What it learns about a process by number counts only when
//! the call still waits afterwards. Nothing here is a security decision: a call that is let through is made by the kernel
//! with the program's own rights.
//!
//! Memory that stalls whoever reads it (userfaultfd(2), FUSE) takes rights that a service has only when its operator gives them
//! by name. It is read by a thread, which is left to it after a time; beside that one there is no other, and the calls of such
//! a service are let through.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::Timespec;

use crate::os;

/// Bytes of a `struct sockaddr_in` and of the part of `struct sockaddr_in6` that every caller gives (RFC 2133).
const IPV4_BYTES: usize = 16;
const IPV6_BYTES: usize = 24;
/// Bytes of a `struct sockaddr_in6`.
const ADDRESS_BYTES_MAX: usize = 28;
/// `PIDFD_THREAD` of linux/pidfd.h (6.9): a thread whose process's first thread has ended.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
/// The number of `CAP_NET_BIND_SERVICE`.
const BIND_LOW_PORTS: u32 = 10;

/// Memory that takes longer to be read stalls.
const READ_WITHIN: Duration = Duration::from_secs(1);
const READER_STACK_BYTES: usize = 64 * 1024;

/// Where a supervisor hears of the binds of a container.
#[derive(Debug)]
pub(crate) struct Notified {
    listener: OwnedFd,
}

/// A call that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bind {
    id: u64,
    thread: i32,
    /// The socket, as the program numbers it.
    pub(crate) descriptor: i32,
    address_at: usize,
    address_bytes: usize,
}

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A call.
    Bind(Bind),
    /// Nothing, or what there was is over already.
    Nothing,
    /// No process is left that could make one.
    End,
}

impl Notified {
    /// What is received by this descriptor.
    pub(crate) fn by(listener: OwnedFd) -> Self {
        Self { listener }
    }

    /// What there is to hear. It does not wait.
    pub(crate) fn hear(&self) -> io::Result<Heard> {
        self.hear_by(os::seccomp_receive)
    }

    /// The same, received by `receive`.
    pub(super) fn hear_by(
        &self,
        receive: impl FnOnce(BorrowedFd<'_>) -> io::Result<libc::seccomp_notif>,
    ) -> io::Result<Heard> {
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let flags = ready[0].revents();
        if !flags.contains(PollFlags::IN) {
            return Ok(if flags.is_empty() { Heard::Nothing } else { Heard::End });
        }
        let call = match receive(self.listener.as_fd()) {
            Ok(call) => call,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                return Ok(Heard::Nothing);
            }
            Err(error) => return Err(error),
        };
        Ok(Heard::Bind(Bind::of(&call)))
    }

    /// Whether a call still waits.
    pub(crate) fn waits(&self, bind: &Bind) -> bool {
        os::seccomp_waits(self.listener.as_fd(), bind.id)
    }

    /// Has the kernel make the call as if nobody had looked.
    pub(crate) fn let_through(&self, bind: &Bind) {
        // OK to ignore, here and below: who made the call is gone.
        let _ = os::seccomp_answer(self.listener.as_fd(), bind.id, 0, true);
    }

    /// Ends the call: done, or failed with this error.
    pub(crate) fn answer(&self, bind: &Bind, result: Result<(), rustix::io::Errno>) {
        let error = result.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        let _ = os::seccomp_answer(self.listener.as_fd(), bind.id, error, false);
    }

    /// Puts another socket in place of the one that is to be bound, and says that it is done.
    pub(crate) fn answer_with(&self, bind: &Bind, socket: BorrowedFd<'_>) -> io::Result<()> {
        let close_on_exec = closes_on_exec(bind.thread, bind.descriptor);
        os::seccomp_inject(self.listener.as_fd(), bind.id, socket, bind.descriptor, close_on_exec)?;
        self.answer(bind, Ok(()));
        Ok(())
    }
}

impl AsFd for Notified {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Bind {
    /// The call that a notification tells of.
    pub(super) fn of(call: &libc::seccomp_notif) -> Self {
        let [descriptor, address_at, address_bytes, ..] = call.data.args;
        Self {
            id: call.id,
            thread: call.pid.cast_signed(),
            // The kernel looks at the low halves of what are ints in C.
            descriptor: (descriptor as u32).cast_signed(),
            address_at: usize::try_from(address_at).unwrap_or(0),
            address_bytes: usize::try_from(address_bytes as u32).unwrap_or(0),
        }
    }

    /// The socket itself: the same open file as the program's (pidfd_getfd(2)).
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        if self.descriptor < 0 {
            // rustix takes it for an error of its caller's.
            return Err(rustix::io::Errno::BADF.into());
        }
        let get = |number: i32, flags| {
            let pid = rustix::process::Pid::from_raw(number).ok_or(io::ErrorKind::NotFound)?;
            let pidfd = pidfd_open(pid, flags)?;
            Ok(pidfd_getfd(&pidfd, self.descriptor, PidfdGetfdFlags::empty())?)
        };
        match self.process().and_then(|process| get(process, PidfdFlags::empty())) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => get(self.thread, THREAD),
            other => other,
        }
    }

    /// The process whose thread makes the call.
    pub(crate) fn process(&self) -> io::Result<i32> {
        Ok(self.status()?.tgid)
    }

    /// Whether the thread may bind this port: low ones take a capability (ip(7), `ip_unprivileged_port_start`). The
    /// supervisor binds in its place and has that capability; the program gains nothing by it.
    pub(crate) fn may_bind(&self, port: u16) -> bool {
        let first = fs_err::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
        port >= first || self.status().is_ok_and(|status| status.capeff & (1 << BIND_LOW_PORTS) != 0)
    }

    fn status(&self) -> io::Result<procfs::process::Status> {
        let thread = procfs::process::Process::new(self.thread);
        thread.and_then(|thread| thread.status()).map_err(io::Error::other)
    }

    /// The address; `None` for one that is not of IPv4 or IPv6, or cannot be read: the kernel has the right error for that.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        if self.address_bytes < IPV4_BYTES { None } else { parse(&self.bytes().ok()?) }
    }

    /// What the program has passed as the address.
    pub(crate) fn bytes(&self) -> io::Result<Vec<u8>> {
        static STALLED: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);
        let mut stalled = STALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if stalled.as_ref().is_some_and(|reader| !reader.is_finished()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (bind, (say, hear)) = (*self, mpsc::channel());
        let reader = Builder::new().stack_size(READER_STACK_BYTES).spawn(move || {
            // OK to ignore: nobody waits for it any more.
            let _ = say.send(bind.read());
        })?;
        hear.recv_timeout(READ_WITHIN).unwrap_or_else(|_| {
            *stalled = Some(reader);
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.address_bytes.min(ADDRESS_BYTES_MAX)];
        let remote = [RemoteIoVec { base: self.address_at, len: bytes.len() }];
        let read = process_vm_readv(Pid::from_raw(self.thread), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
        if read == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A `struct sockaddr_in` or `struct sockaddr_in6` (ip(7), ipv6(7)).
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]);
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    let four = |at: usize| bytes.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    match i32::from(family) {
        libc::AF_INET if bytes.len() >= IPV4_BYTES => {
            Some(SocketAddrV4::new(Ipv4Addr::from(four(4)?), port).into())
        }
        libc::AF_INET6 if bytes.len() >= IPV6_BYTES => {
            let address = <[u8; 16]>::try_from(bytes.get(8..24)?).ok()?;
            let scope = four(24).map_or(0, u32::from_ne_bytes);
            let flow = u32::from_ne_bytes(four(4)?);
            Some(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope).into())
        }
        _ => None,
    }
}

/// Whether a descriptor of a process is closed on exec (proc_pid_fdinfo(5)).
fn closes_on_exec(process: i32, descriptor: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{process}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let four = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&four), Some("127.0.0.1:8080".parse().expect("an address")));
        assert_eq!(parse(&four[..15]), None);
        let mut six = [0; 28];
        (six[0], six[3], six[23]) = (10, 80, 1);
        assert_eq!(parse(&six), Some("[::1]:80".parse().expect("an address")));
        assert_eq!(parse(&six[..24]), Some("[::1]:80".parse().expect("an address")));
        assert_eq!(parse(&six[..23]), None);
        assert_eq!(parse(&[1; 28]), None, "a path");
    }
}
