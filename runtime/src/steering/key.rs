//! Where a socket listens, as the kernel tells one group of listeners from another.
//! It touches no socket but to ask one for its options.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use rustix::net::sockopt;

use super::sockets::Socket;

/// Sockets of the same key can share a port; sockets whose keys only overlap take connections from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    address: IpAddr,
    /// The TCP port.
    pub(crate) port: u16,
    /// Of a wildcard of IPv6: whether it leaves IPv4 to others.
    v6_only: bool,
}

impl Key {
    /// The key that this socket has when it is bound to this address.
    pub(crate) fn of(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<Self> {
        let v6_only = address.is_ipv6() && sockopt::ipv6_v6only(socket)?;
        Ok(Self { address: address.ip(), port: address.port(), v6_only })
    }

    /// The key of a socket that listens already.
    pub(crate) fn of_listener(socket: &Socket) -> Self {
        Self { address: socket.local.ip(), port: socket.local.port(), v6_only: socket.v6_only }
    }

    /// Whether a connection could go to a socket of either.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        if self.port != other.port {
            return false;
        }
        let (one, two) = (self.address.to_canonical(), other.address.to_canonical());
        if one.is_ipv4() == two.is_ipv4() {
            return one == two || one.is_unspecified() || two.is_unspecified();
        }
        let both_families =
            |key: &Self| key.address.is_ipv6() && key.address.is_unspecified() && !key.v6_only;
        both_families(self) || both_families(other)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.address, self.port);
        let only = if self.v6_only && self.address.is_unspecified() { " (IPv6 only)" } else { "" };
        write!(formatter, "{address}{only}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, v6_only: bool) -> Key {
        let address: SocketAddr = text.parse().expect("an address");
        Key { address: address.ip(), port: address.port(), v6_only }
    }

    #[test]
    fn keys_overlap_when_a_connection_could_go_to_either() {
        for (one, two, overlap) in [
            (key("0.0.0.0:80", false), key("127.0.0.1:80", false), true),
            (key("127.0.0.2:80", false), key("127.0.0.1:80", false), false),
            (key("127.0.0.1:80", false), key("127.0.0.1:81", false), false),
            (key("[::]:80", false), key("127.0.0.1:80", false), true),
            (key("[::]:80", true), key("0.0.0.0:80", false), false),
            (key("[::]:80", true), key("[::1]:80", true), true),
            (key("[::1]:80", false), key("0.0.0.0:80", false), false),
            (key("[::ffff:127.0.0.1]:80", false), key("127.0.0.1:80", false), true),
        ] {
            assert_eq!((one.overlaps(&two), two.overlaps(&one)), (overlap, overlap), "{one} {two}");
        }
    }
}
