//! Who listens on a TCP port of this network namespace.
//! It knows nothing of services and their ports.

use std::fmt;
use std::io;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{ProcError, ProcResult};

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its number; `None` when it is in a pid namespace that is not seen from here.
    pub pid: Option<i32>,
    /// Its name, as in `ps -e`.
    pub name: Option<String>,
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => write!(formatter, "{name} (process {pid})"),
            (Some(pid), None) => write!(formatter, "process {pid}"),
            (None, _) => formatter.write_str("a process outside this pid namespace"),
        }
    }
}

/// Who listens on `port`, on whichever address of IPv4 or IPv6. Of processes that share the socket it is the oldest,
/// which is the one a person started.
///
/// # Errors
/// When /proc cannot be read.
pub fn listener(port: u16) -> io::Result<Option<Listener>> {
    let sockets = listening_sockets(port).map_err(io::Error::other)?;
    if sockets.is_empty() {
        return Ok(None);
    }
    let mut oldest: Option<(u64, Process)> = None;
    for process in all_processes().map_err(io::Error::other)? {
        // Processes end while they are looked at.
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        let older = oldest.as_ref().is_none_or(|(started, _)| stat.starttime < *started);
        if older && holds(&process, &sockets) {
            oldest = Some((stat.starttime, process));
        }
    }
    Ok(Some(match oldest {
        Some((_, process)) => {
            Listener { pid: Some(process.pid()), name: process.stat().ok().map(|stat| stat.comm) }
        }
        None => Listener { pid: None, name: None },
    }))
}

/// The inodes of the sockets that listen on a port.
fn listening_sockets(port: u16) -> ProcResult<Vec<u64>> {
    let entries = procfs::net::tcp()?.into_iter().chain(without_ipv6(procfs::net::tcp6())?);
    let listening = |it: &TcpNetEntry| it.state == TcpState::Listen && it.local_address.port() == port;
    Ok(entries.filter(listening).map(|it| it.inode).collect())
}

/// A kernel without IPv6 has no table for it.
fn without_ipv6(entries: ProcResult<Vec<TcpNetEntry>>) -> ProcResult<Vec<TcpNetEntry>> {
    match entries {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        other => other,
    }
}

fn holds(process: &Process, sockets: &[u64]) -> bool {
    let Ok(descriptors) = process.fd() else { return false };
    descriptors.flatten().any(|it| matches!(it.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, getsockname, socket};

    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = TcpListener::bind(address).expect("a listener");
            let port = socket.local_addr().expect("its address").port();
            let found = listener(port).expect("looked").expect("found");
            let own = i32::try_from(std::process::id()).expect("a number");
            assert_eq!(found.pid, Some(own), "{address}");
            let comm = std::fs::read_to_string("/proc/self/comm").expect("its name");
            assert_eq!(found.to_string(), format!("{} (process {own})", comm.trim_end()));
        }
    }

    #[test]
    fn a_port_on_which_nobody_listens_is_free() {
        // Bound and not listening, so that nobody else can listen meanwhile.
        let held = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&held, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let address = SocketAddrV4::try_from(getsockname(&held).expect("its address")).expect("IPv4");
        assert_eq!(listener(address.port()).expect("looked"), None);
    }
}
