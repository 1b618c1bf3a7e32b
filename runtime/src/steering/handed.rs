//! Listeners that are made here, and handed to the program when it is started (sd_listen_fds(3)): who knows how to ask for them
//! binds nothing, so that nothing need be heard of. It does not know how they get there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::key::Key;
use super::{Steering, sockets, uid_of};

/// As many connections as the host allows may wait (net.core.somaxconn), as systemd has it (systemd.socket(5), `Backlog=`).
const QUEUE: i32 = i32::MAX;

/// A socket that a program gets, and that does not listen yet.
#[derive(Debug)]
pub(super) struct Unopened {
    pub(super) generation: u32,
    address: SocketAddr,
    key: Key,
    socket: OwnedFd,
}

impl Steering {
    /// Duplicates of what a generation's program is to get for these addresses: what it listened with before it crashed, what
    /// the one before it listens with, if that makes way for it, and else sockets that listen from [`Steering::open`] on.
    pub(crate) fn sockets_for(
        &mut self,
        generation: u32,
        makes_way: Option<u32>,
        addresses: &[SocketAddr],
    ) -> io::Result<Vec<OwnedFd>> {
        self.unopened.retain(|it| it.generation != generation);
        addresses.iter().map(|address| self.socket_for(generation, makes_way, *address)).collect()
    }

    fn socket_for(
        &mut self,
        generation: u32,
        makes_way: Option<u32>,
        address: SocketAddr,
    ) -> io::Result<OwnedFd> {
        let (socket, key) = socket_of(address)?;
        let theirs = |held: u32| held == generation || makes_way == Some(held);
        if let Some(held) = self.held.iter().find(|it| theirs(it.generation) && it.key == key) {
            return held.socket.try_clone();
        }
        let duplicate = socket.try_clone()?;
        self.unopened.push(Unopened { generation, address, key, socket });
        Ok(duplicate)
    }

    /// Has the sockets that a generation's program was made with listen: it is about to be started.
    ///
    /// # Errors
    /// The address, and why it cannot be listened on.
    pub(crate) fn open(&mut self, generation: u32) -> Result<(), (SocketAddr, io::Error)> {
        let (own, others) =
            std::mem::take(&mut self.unopened).into_iter().partition(|it| it.generation == generation);
        self.unopened = others;
        let own: Vec<Unopened> = own;
        own.into_iter().try_for_each(|it| {
            let address = it.address;
            self.open_one(it).map_err(|error| (address, error))
        })
    }

    fn open_one(&mut self, it: Unopened) -> io::Result<()> {
        self.look();
        if let Some(reason) = self.collision(it.generation, &it.key) {
            return Err(io::Error::other(reason));
        }
        let listener = it.socket.try_clone()?;
        self.adopt(it.socket, it.address, it.key, it.generation)?;
        rustix::net::listen(&listener, QUEUE)?;
        self.look();
        Ok(())
    }

    /// Where a generation that gets its listeners for these addresses would take another's connections; `None` where it listens
    /// just where that does.
    pub(crate) fn differs(&self, other: u32, addresses: &[SocketAddr]) -> io::Result<Option<String>> {
        difference(&self.of(other).map(|it| it.key).collect::<Vec<_>>(), addresses)
    }
}

/// The same as it is seen from outside, by what listens for a service on these ports.
pub(crate) fn differs(
    run_folder: &Path,
    ports: &[u16],
    addresses: &[SocketAddr],
) -> io::Result<Option<String>> {
    let uid = uid_of(run_folder);
    let mut keys = Vec::new();
    for port in ports {
        let own = sockets::listeners(*port)?.into_iter().filter(|socket| socket.uid == uid);
        keys.extend(own.map(|socket| Key::of_listener(&socket)));
    }
    difference(&keys, addresses)
}

fn difference(there: &[Key], addresses: &[SocketAddr]) -> io::Result<Option<String>> {
    let mut keys = Vec::new();
    for address in addresses {
        keys.push(socket_of(*address)?.1);
    }
    if let Some(more) = keys.iter().find(|key| !there.contains(key)) {
        return Ok(Some(format!("it is to listen on {more}, where the one that serves does not")));
    }
    let less = there.iter().find(|key| !keys.contains(key));
    Ok(less.map(|key| format!("it is not to listen on {key}, where the one that serves does")))
}

/// A socket that could listen on an address, and the key that it would have.
fn socket_of(address: SocketAddr) -> io::Result<(OwnedFd, Key)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let key = Key::of(socket.as_fd(), address)?;
    Ok((socket, key))
}
