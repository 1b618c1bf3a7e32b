//! What a supervisor and its keeper say to each other: a packet is a word, a name, and at most one descriptor.
//! It knows neither who keeps anything nor what for.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg,
    sendmsg, socket_with, socketpair,
};

use crate::control::short_path;

/// A name is never longer.
pub(super) const NAME_BYTES_MAX: usize = 63;
/// So much is kept at once: what systemd keeps for a unit too (`FileDescriptorStoreMax=`).
pub(super) const KEPT_MAX: usize = 64;

/// The first byte of a packet. A keeper may be of another version than the supervisor it talks to: words are added, never
/// changed, and what is not known is passed over.
pub(super) mod word {
    /// Supervisor: keep the descriptor that comes with this, in place of the one of that name.
    pub(crate) const KEEP: u8 = b'+';
    /// Supervisor: close the one of that name.
    pub(crate) const FORGET: u8 = b'-';
    /// Supervisor: from now on I am the one; hand over all there is.
    pub(crate) const HAND_OVER: u8 = b'?';
    /// Supervisor: the program in the file that comes with this is mine; execute it.
    pub(crate) const BECOME: u8 = b'^';
    /// Supervisor: the service is down as it should be; end.
    pub(crate) const BYE: u8 = b'.';
    /// Keeper: one of those asked for.
    pub(crate) const ITEM: u8 = b'=';
    /// Keeper: that was the last one.
    pub(crate) const LAST: u8 = b'!';
}

/// What came in a packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub word: u8,
    pub name: String,
    pub descriptor: Option<OwnedFd>,
}

pub(super) fn send(
    socket: impl AsFd,
    word: u8,
    name: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let descriptors: &[BorrowedFd<'_>] = descriptor.as_slice();
    if !descriptors.is_empty() && !attached.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let text = [IoSlice::new(std::slice::from_ref(&word)), IoSlice::new(name.as_bytes())];
    loop {
        match sendmsg(&socket, &text, &mut attached, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Waits for a packet; `None` at the end.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut text = [0; NAME_BYTES_MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut into = [IoSliceMut::new(&mut text)];
        match recvmsg(&socket, &mut into, &mut attached, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptor = None;
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last().or(descriptor);
        }
    }
    let Some((word, name)) = text[..received.bytes].split_first() else { return Ok(None) };
    Ok(Some(Packet { word: *word, name: String::from_utf8_lossy(name).into_owned(), descriptor }))
}

pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Listens at a path, at which nobody listens any more: what is left there is removed.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = short_path(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(short)?)?;
    listen(&socket, 4)?;
    Ok(socket)
}

/// Connects to who listens at a path.
pub(super) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let (_folder, short) = short_path(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(short)?)?;
    Ok(socket)
}
