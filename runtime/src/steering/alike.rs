//! What a program has set on a socket (socket(7), tcp(7), ip(7), ipv6(7)), given to the listener that takes the place of that
//! socket: another program, or the same one with other settings, may have used the listener before.

use std::os::fd::BorrowedFd;

use nix::libc;

use crate::os;

/// The options of a listener that a program can set before it binds, and that are not opsrun's own. Connections have most
/// of them from their listener.
const OPTIONS: [(libc::c_int, libc::c_int); 24] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
];

/// Gives a listener what is set on this socket.
pub(super) fn set_alike(listener: BorrowedFd<'_>, socket: BorrowedFd<'_>) {
    // OK to ignore, here and below: an option that the kernel or the family does not have cannot have been set.
    if let Ok(flags) = rustix::fs::fcntl_getfl(socket) {
        let _ = rustix::fs::fcntl_setfl(listener, flags);
    }
    for (level, name) in OPTIONS {
        let Ok(wanted) = os::socket_option(socket, level, name) else { continue };
        // Setting the size of a buffer, even to what it is, ends the kernel's own choice.
        if os::socket_option(listener, level, name).is_ok_and(|present| present == wanted) {
            continue;
        }
        let _ = os::set_socket_option(listener, level, name, &as_set(level, name, wanted));
    }
}

/// The kernel tells twice the size that was set of a buffer (socket(7)).
fn as_set(level: libc::c_int, name: libc::c_int, value: Vec<u8>) -> Vec<u8> {
    let buffer = level == libc::SOL_SOCKET && [libc::SO_RCVBUF, libc::SO_SNDBUF].contains(&name);
    match <[u8; 4]>::try_from(value.as_slice()) {
        Ok(bytes) if buffer => (i32::from_ne_bytes(bytes) / 2).to_ne_bytes().to_vec(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketType, listen, socket, sockopt};

    use super::*;

    const LINGER: (libc::c_int, libc::c_int) = (libc::SOL_SOCKET, libc::SO_LINGER);

    #[test]
    fn a_listener_gets_what_was_set_on_the_socket_in_whose_place_it_is() {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let member = || socket(family, SocketType::STREAM, None).expect("a socket");
            let (listener, other, untouched) = (member(), member(), member());
            listen(&listener, 5).expect("listens");
            sockopt::set_socket_keepalive(&other, true).expect("set");
            sockopt::set_socket_linger(&other, Some(Duration::from_secs(7))).expect("set");
            sockopt::set_socket_recv_buffer_size(&other, 70_000).expect("set");
            sockopt::set_tcp_keepidle(&other, Duration::from_secs(77)).expect("set");
            sockopt::set_tcp_nodelay(&other, true).expect("set");
            let set = |name, value: i32| {
                os::set_socket_option(other.as_fd(), libc::IPPROTO_TCP, name, &value.to_ne_bytes())
                    .expect("set");
            };
            set(libc::TCP_DEFER_ACCEPT, 9);
            set(libc::TCP_USER_TIMEOUT, 12_345);
            set(libc::TCP_FASTOPEN, 16);
            let options = |of: BorrowedFd<'_>| {
                OPTIONS.map(|(level, name)| os::socket_option(of, level, name).map_err(|error| error.kind()))
            };
            assert_ne!(options(listener.as_fd()), options(other.as_fd()));
            set_alike(listener.as_fd(), other.as_fd());
            assert_eq!(options(listener.as_fd()), options(other.as_fd()));
            // What the program before had set and this one has not is as it was at first.
            set_alike(listener.as_fd(), untouched.as_fd());
            assert_eq!(sockopt::socket_linger(&listener), Ok(None));
            // For how long it would, if it did, stays.
            let others =
                |of| options(of).into_iter().zip(OPTIONS).filter(|(_, it)| *it != LINGER).collect::<Vec<_>>();
            assert_eq!(others(listener.as_fd()), others(untouched.as_fd()));
        }
    }
}
