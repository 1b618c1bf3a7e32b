//! The TCP sockets of a port of this network namespace, as the kernel has them (sock_diag(7)), and which of them the
//! processes of a cgroup have open. It knows nothing of services.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::message::SockDiagMessage;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::cgroup::Hierarchy;

/// The kernel fills at most this much at a time (netlink(7)).
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// `TCPF_NEW_SYN_RECV` of net/tcp_states.h: a half-open connection has a state of its own inside the kernel.
const NEW_SYN_RECV: u32 = 1 << 12;

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Its own end.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Whether it listens.
    pub(crate) listens: bool,
    /// Connections that wait to be accepted, of one that listens.
    pub(crate) queue: u32,
    /// How many may, of one that listens.
    pub(crate) queue_max: u32,
    /// Whether it leaves IPv4 to others, of one of IPv6 that listens.
    pub(crate) v6_only: bool,
    /// Its owner.
    pub(crate) uid: u32,
    /// Its number; 0 when no process has it.
    pub(crate) inode: u64,
    /// Whether nothing waits to be answered on it: it has sent something since it last received something, if it ever has.
    /// Only of [`connections`].
    pub(crate) idle: bool,
}

/// Those that listen on a port, on whichever address.
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Socket>> {
    of_port(port, 0, StateFlags::LISTEN, ExtensionFlags::empty())
}

/// The far ends of connections to a port that are half open: they belong to the listener that they were begun at.
pub(crate) fn half_open(port: u16) -> io::Result<HashSet<SocketAddr>> {
    let states = StateFlags::SYN_RECV | StateFlags::from_bits_retain(NEW_SYN_RECV);
    let found = of_port(port, 0, states, ExtensionFlags::empty())?;
    Ok(found.into_iter().map(|socket| socket.remote).collect())
}

/// The port's ends of connections that are open, at least in one direction.
pub(crate) fn connections(port: u16) -> io::Result<Vec<Socket>> {
    of_port(port, 0, open(), ExtensionFlags::INFO)
}

/// The listening side's end of the connection whose other end is `local`, connected to `remote`.
pub(crate) fn far_end(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Socket>> {
    let found = of_port(remote.port(), local.port(), open(), ExtensionFlags::empty())?;
    Ok(found.into_iter().find(|socket| canonical(socket.remote.ip()) == canonical(local.ip())))
}

fn open() -> StateFlags {
    StateFlags::ESTABLISHED | StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2 | StateFlags::CLOSE_WAIT
}

/// An IPv4 address, also where a socket of IPv6 has it.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn of_port(
    port: u16,
    remote_port: u16,
    states: StateFlags,
    extensions: ExtensionFlags,
) -> io::Result<Vec<Socket>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        (id.source_port, id.destination_port) = (port, remote_port);
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id: id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut text = vec![0; message.buffer_len()];
        message.serialize(&mut text);
        rustix::net::send(&socket, &text, SendFlags::empty())?;
        receive(&socket, &mut found)?;
    }
    Ok(found)
}

fn receive(socket: &impl std::os::fd::AsFd, found: &mut Vec<Socket>) -> io::Result<()> {
    let mut text = vec![0; ANSWER_BYTES_MAX];
    let malformed = |error: netlink_packet_core::DecodeError| io::Error::other(error.to_string());
    loop {
        let (count, _) = rustix::net::recv(socket, &mut text[..], RecvFlags::empty())?;
        let mut rest = text.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(malformed)?;
            match message.payload {
                // A dump that fails, such as where the kernel has no tcp_diag, ends with the error (net/netlink/af_netlink.c).
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(Socket::of(&response));
                }
                _ => {}
            }
            // Each message begins at a multiple of four.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

impl Socket {
    fn of(response: &InetResponse) -> Self {
        let header = &response.header;
        let id = &header.socket_id;
        Self {
            local: SocketAddr::new(id.source_address, id.source_port),
            remote: SocketAddr::new(id.destination_address, id.destination_port),
            listens: header.state == TCP_LISTEN,
            queue: header.recv_queue,
            queue_max: header.send_queue,
            v6_only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
            uid: header.uid,
            inode: header.inode.into(),
            idle: header.recv_queue == 0 && response.nlas.iter().any(says_idle),
        }
    }
}

/// Whether a connection's `struct tcp_info` (linux/tcp.h, since Linux 4.6) has it that nothing was ever received on it, or that
/// something was sent after that. The times are as fine as the kernel's clock tick.
fn says_idle(attribute: &Nla) -> bool {
    const LAST_DATA_SENT: usize = 44;
    const LAST_DATA_RECEIVED: usize = 52;
    const SEGMENTS_RECEIVED: usize = 152;
    const SEGMENTS_SENT: usize = 156;
    let Nla::TcpInfo(text) = attribute else { return false };
    let number = |at: usize| Some(u32::from_ne_bytes(text.get(at..at + 4)?.try_into().ok()?));
    let [sent_ms_ago, received_ms_ago, received, sent] =
        [LAST_DATA_SENT, LAST_DATA_RECEIVED, SEGMENTS_RECEIVED, SEGMENTS_SENT].map(number);
    match (received, sent) {
        (Some(0), _) => true,
        (_, Some(0)) => false,
        _ => sent_ms_ago.is_some() && sent_ms_ago <= received_ms_ago,
    }
}

/// The inodes of all sockets that processes of a cgroup, or of one below it, have open.
pub(crate) fn open_in(cgroup: &Path) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for process in Hierarchy::open()?.at(cgroup).processes()? {
        // Processes end, and close descriptors, while they are looked at.
        inodes.extend(descriptors(process).into_iter().map(|(_, inode)| inode));
    }
    Ok(inodes)
}

/// The sockets that a process has open: descriptor and inode.
pub(crate) fn descriptors(process: i32) -> Vec<(i32, u64)> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return Vec::new() };
    let socket = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    };
    entries.flatten().filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, BorrowedFd};

    use super::*;

    fn inode(socket: BorrowedFd<'_>) -> u64 {
        rustix::fs::fstat(socket).expect("stat").st_ino
    }

    #[test]
    fn a_listener_its_queue_and_its_connections_are_seen() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let local = listener.local_addr().expect("address");
            let client = TcpStream::connect(local).expect("connected");
            let found = listeners(local.port()).expect("asked");
            let [it] = &found[..] else { panic!("{found:?}") };
            assert_eq!((it.local, it.queue, it.listens), (local, 1, true));
            assert_eq!(it.inode, inode(listener.as_fd()));
            let ours = client.local_addr().expect("address");
            let waiting = far_end(ours, local).expect("asked").expect("its other end");
            assert_eq!(waiting.inode, 0, "nobody has accepted it");
            let (accepted, _) = listener.accept().expect("accepted");
            let served = far_end(ours, local).expect("asked").expect("its other end");
            assert_eq!(served.inode, inode(accepted.as_fd()));
            let of_server = || connections(local.port()).expect("asked").pop().expect("a connection");
            assert_eq!(of_server(), Socket { idle: true, ..served });
            // Nothing was asked until then, something is, it is answered, and something is asked again.
            let (mut client, mut accepted) = (client, accepted);
            client.write_all(b"?").expect("asked");
            accepted.read_exact(&mut [0]).expect("read");
            assert!(!of_server().idle);
            accepted.write_all(b"!").expect("answered");
            assert!(of_server().idle);
            // The clock tick that tells the two apart.
            std::thread::sleep(std::time::Duration::from_millis(30));
            client.write_all(b"?").expect("asked");
            accepted.read_exact(&mut [0]).expect("read");
            assert!(!of_server().idle);
            assert_eq!(half_open(local.port()).expect("asked").len(), 0);
        }
    }

    #[test]
    fn a_connection_of_ipv4_to_a_listener_of_both_is_found() {
        let listener = TcpListener::bind("[::]:0").expect("a listener");
        let port = listener.local_addr().expect("address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let remote = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(far_end(client.local_addr().expect("address"), remote).expect("asked").is_some());
    }

    #[test]
    fn descriptors_of_a_process_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let own = i32::try_from(std::process::id()).expect("a number");
        let wanted = inode(listener.as_fd());
        assert!(descriptors(own).iter().any(|(_, inode)| *inode == wanted));
        drop(listener);
        assert!(!descriptors(own).iter().any(|(_, inode)| *inode == wanted));
    }
}
