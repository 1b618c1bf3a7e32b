//! The program of a port's `SO_REUSEPORT` group: which of the sockets that listen on the port gets a new connection.
//! It knows indexes, not generations.
//!
//! A socket's index is the order of its listen(2) (not bind(2)); when one leaves, the last one takes its place. The program
//! belongs to the group and is replaced at once, for all connections from then on. An index beyond the members falls
//! back to a hash over all of them, so a program that is not yet told of a change is never a black hole.

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;

use crate::os;

/// The mark on connections that are the supervisor's own (socket(7), `SO_MARK`: it takes `CAP_NET_ADMIN` to set it, and it
/// never leaves the host).
pub(crate) const PROBE_MARK: u32 = 0x0b5d_0001;
/// The mark on those of them that go where clients' go, all of them, also while a share of clients' goes elsewhere.
pub(crate) const SERVING_MARK: u32 = 0x0b5d_0002;

/// Where connections go, as indexes into the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Routes {
    /// Clients'.
    pub(crate) clients: u32,
    /// The supervisor's own, told by [`PROBE_MARK`].
    pub(crate) probes: u32,
    /// Of the clients' this share, in millionths, goes where the supervisor's own go.
    pub(crate) canary: u32,
}

/// Where extensions of the classic filter are (linux/filter.h, `SKF_AD_OFF`).
const EXTENSIONS: i32 = -0x1000;

/// Has the group that this listening socket is in follow `routes` from now on.
///
/// A socket that is bound and does not listen yet must be the first of its group: attaching to a later one makes its
/// listen(2) fail.
///
/// # Errors
/// As [`os::attach_reuseport_program`].
pub(crate) fn attach(listener: BorrowedFd<'_>, routes: Routes) -> io::Result<()> {
    os::attach_reuseport_program(listener, &program(routes))
}

fn program(routes: Routes) -> Vec<libc::sock_filter> {
    let plain = |code: u32, value: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value };
    let load = |extension: i32| {
        plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (EXTENSIONS + extension).cast_unsigned())
    };
    let give = |index| plain(libc::BPF_RET | libc::BPF_K, index);
    let compare = |comparison: u32, value: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16,
        jt,
        jf,
        k: value,
    };
    let mut program =
        vec![load(libc::SKF_AD_MARK), compare(libc::BPF_JEQ, PROBE_MARK, 0, 1), give(routes.probes)];
    if routes.canary > 0 {
        program.extend([compare(libc::BPF_JEQ, SERVING_MARK, 0, 1), give(routes.clients)]);
        let below = u64::from(routes.canary) * (1 << 32) / 1_000_000;
        let below = u32::try_from(below).unwrap_or(u32::MAX);
        program.extend([load(libc::SKF_AD_RANDOM), compare(libc::BPF_JGE, below, 1, 0), give(routes.probes)]);
    }
    program.push(give(routes.clients));
    program
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};
    use rustix::net::{
        AddressFamily, SocketAddrV4, SocketType, bind, connect, listen, socket, sockopt as it,
    };

    use super::*;

    fn member(port: u16) -> TcpListener {
        let member = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        it::set_socket_reuseport(&member, true).expect("SO_REUSEPORT");
        bind(&member, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port)).expect("bound");
        listen(&member, 512).expect("listens");
        let member = TcpListener::from(member);
        member.set_nonblocking(true).expect("nonblocking");
        member
    }

    fn connected(port: u16, marked: bool) -> TcpStream {
        connected_as(port, marked.then_some(PROBE_MARK))
    }

    fn connected_as(port: u16, mark: Option<u32>) -> TcpStream {
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        if let Some(mark) = mark {
            setsockopt(&client, sockopt::Mark, &mark).expect("SO_MARK: needs root");
        }
        connect(&client, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port)).expect("connected");
        client.into()
    }

    fn accepted(member: &TcpListener) -> usize {
        std::iter::from_fn(|| member.accept().ok()).count()
    }

    #[test]
    fn clients_go_to_one_member_and_probes_to_the_other() {
        let first = member(0);
        let port = first.local_addr().expect("address").port();
        attach(first.as_fd(), Routes { clients: 0, probes: 1, canary: 0 }).expect("attached");
        let second = member(port);
        let _all: Vec<_> = (0..40).map(|number| connected(port, number % 4 == 0)).collect();
        assert_eq!((accepted(&first), accepted(&second)), (30, 10));
        attach(second.as_fd(), Routes { clients: 1, probes: 0, canary: 0 }).expect("attached");
        let _all: Vec<_> = (0..40).map(|number| connected(port, number % 4 == 0)).collect();
        assert_eq!((accepted(&first), accepted(&second)), (10, 30));
    }

    #[test]
    fn an_index_beyond_the_members_is_no_black_hole() {
        let only = member(0);
        let port = only.local_addr().expect("address").port();
        attach(only.as_fd(), Routes { clients: 7, probes: 9, canary: 0 }).expect("attached");
        let _all: Vec<_> = (0..10).map(|number| connected(port, number % 2 == 0)).collect();
        assert_eq!(accepted(&only), 10);
    }

    #[test]
    fn a_share_of_the_clients_goes_where_probes_go() {
        let first = member(0);
        let port = first.local_addr().expect("address").port();
        let second = member(port);
        attach(first.as_fd(), Routes { clients: 0, probes: 1, canary: 250_000 }).expect("attached");
        let _all: Vec<_> = (0..400).map(|_| connected(port, false)).collect();
        let share = accepted(&second);
        // Six standard deviations.
        assert!((48..=152).contains(&share), "{share} of 400");
        assert_eq!(accepted(&first), 400 - share);
        // The supervisor's own go where they are to, each of them.
        let mark = |number: u32| if number.is_multiple_of(4) { PROBE_MARK } else { SERVING_MARK };
        let _all: Vec<_> = (0..200).map(|number| connected_as(port, Some(mark(number)))).collect();
        assert_eq!((accepted(&first), accepted(&second)), (150, 50));
    }
}
