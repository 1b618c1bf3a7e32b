//! Who listens on a TCP port of this network namespace.
//! Of a service it knows which processes are its own; which ports it has is said by who asks.

use std::fmt;
use std::io;
use std::path::PathBuf;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{ProcError, ProcResult};

use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::lock::Lock;
use crate::record::Record;
use crate::steering::sockets;

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
    let mut sockets = sockets(port)?;
    // One whose holder is seen says more.
    sockets.sort_by_key(|socket| socket.holders.is_empty());
    Ok(sockets.first().map(Socket::listener))
}

/// Who listens on one of the service's ports and is none of its own: neither in the container of a generation of it nor
/// its supervisor. Each socket is listed with its oldest holder.
///
/// # Errors
/// [`Error::Io`] when /proc cannot be read; those of [`Record::read`].
pub fn strangers(folders: &ServiceFolders, ports: &[u16]) -> Result<Vec<(u16, Listener)>, Error> {
    let failed = |error| Error::Io { doing: "look who listens on the service's port", source: error };
    let record = Record::read(folders)?;
    let other = record.as_ref().and_then(|record| record.swap.as_ref()?.process.as_ref());
    let active = record.as_ref().and_then(|record| record.process.as_ref());
    let cgroups: Vec<PathBuf> =
        active.into_iter().chain(other).map(|process| PathBuf::from(&process.cgroup)).collect();
    let supervisor = Lock::holder(&folders.lock()).map_err(failed)?;
    let is_own = |process: &Process| {
        Some(process.pid()) == supervisor
            || cgroup_of(process).is_some_and(|of| cgroups.iter().any(|own| of.starts_with(own)))
    };
    let mut found = Vec::new();
    for &port in ports {
        let sockets = sockets(port).map_err(failed)?;
        let strange = sockets.iter().filter(|socket| !socket.holders.iter().any(|(_, it)| is_own(it)));
        for listener in strange.map(Socket::listener) {
            // A server has a socket for each family.
            if !found.contains(&(port, listener.clone())) {
                found.push((port, listener));
            }
        }
    }
    Ok(found)
}

/// A listening socket, and who holds it, the oldest first.
struct Socket {
    inode: u64,
    /// With the time of its start.
    holders: Vec<(u64, Process)>,
}

impl Socket {
    fn listener(&self) -> Listener {
        match self.holders.first() {
            Some((_, process)) => {
                Listener { pid: Some(process.pid()), name: process.stat().ok().map(|stat| stat.comm) }
            }
            None => Listener { pid: None, name: None },
        }
    }
}

/// The sockets that listen on a port.
fn sockets(port: u16) -> io::Result<Vec<Socket>> {
    let inodes = listening_sockets(port).map_err(io::Error::other)?;
    let mut sockets: Vec<Socket> =
        inodes.into_iter().map(|inode| Socket { inode, holders: Vec::new() }).collect();
    if sockets.is_empty() {
        return Ok(sockets);
    }
    for process in all_processes().map_err(io::Error::other)? {
        // Processes end while they are looked at.
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        let Ok(descriptors) = process.fd() else { continue };
        let held: Vec<u64> = descriptors
            .flatten()
            .filter_map(|it| if let FDTarget::Socket(inode) = it.target { Some(inode) } else { None })
            .collect();
        for socket in sockets.iter_mut().filter(|socket| held.contains(&socket.inode)) {
            socket.holders.extend(Process::new(process.pid()).map(|process| (stat.starttime, process)));
        }
    }
    for socket in &mut sockets {
        socket.holders.sort_by_key(|(started, process)| (*started, process.pid()));
    }
    Ok(sockets)
}

/// The process's cgroup below the v2 hierarchy.
fn cgroup_of(process: &Process) -> Option<PathBuf> {
    let cgroups = process.cgroups().ok()?;
    cgroups.into_iter().find(|it| it.hierarchy == 0).map(|it| PathBuf::from(it.pathname))
}

/// The inodes of the sockets that listen on a port. The kernel is asked for those alone (sock_diag(7)): its tables in /proc
/// have every connection of the host, and are read where it has no such answer.
fn listening_sockets(port: u16) -> ProcResult<Vec<u64>> {
    match sockets::listeners(port) {
        Ok(found) => Ok(found.into_iter().map(|socket| socket.inode).collect()),
        Err(_) => listening_sockets_by_table(port),
    }
}

fn listening_sockets_by_table(port: u16) -> ProcResult<Vec<u64>> {
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
    fn the_kernel_and_its_tables_name_the_same_sockets() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = TcpListener::bind(address).expect("a listener");
            let port = socket.local_addr().expect("its address").port();
            let asked: Vec<u64> =
                sockets::listeners(port).expect("asked").into_iter().map(|socket| socket.inode).collect();
            assert_eq!(asked.len(), 1, "{address}");
            assert_eq!(asked, listening_sockets_by_table(port).expect("read"), "{address}");
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
