//! The socket between a process that wants a container and the throw-away process that makes it.
//! It knows the messages, not what is done about them.
//!
//! It is a `SOCK_SEQPACKET` pair: a message is one packet, so that libcontainer's init, which holds the other end
//! too until it executes the program, can report without tearing what the helper process says. The packets carry
//! file descriptors (unix(7), `SCM_RIGHTS`): the container's stdio on the way in, its terminal on the way out.
//! End of file means that the helper process is gone and that the program was executed, or will never be.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::definition::LISTENERS_MAX;
use crate::error::Failure;

/// No message is longer; a longer one is an error of this program, not of its input: causes are cut to fit.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// No message carries more descriptors: stdin, stdout, stderr, and what the program is to listen with.
const DESCRIPTORS_MAX: usize = 3 + LISTENERS_MAX;

/// What the throw-away process is told: the request, and how it was started.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Errand<R = Request> {
    /// What is wanted.
    pub(crate) request: R,
    /// Whether it has been in the container's cgroup from its first moment.
    pub(crate) inside: bool,
}

/// What the throw-away process is asked for, with the container's stdin, stdout and stderr attached, and then its listeners.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make the container of a bundle; start it when [`Go`] comes.
    Create {
        /// The bundle's folder.
        bundle: PathBuf,
        /// The run folder: `containers/` holds libcontainer's state, `engine/` is an empty folder to mount over.
        run: PathBuf,
        /// Its cgroup, below the cgroup v2 hierarchy; the last part is the container's id.
        cgroup: PathBuf,
        /// Whether its limits leave room in that cgroup for the throw-away process.
        roomy: bool,
        /// Whether opsrun's init is process 1.
        init: bool,
        /// What the container is for.
        purpose: Purpose,
        /// Whether its binds are to be notified ([`Report::Notified`]).
        notified: bool,
    },
    /// Run one more process in a running container.
    Enter {
        /// The bundle's folder.
        bundle: PathBuf,
        /// The run folder: `containers/` holds libcontainer's state, `engine/` is an empty folder to mount over.
        run: PathBuf,
        /// The container's cgroup, as it was created with.
        cgroup: PathBuf,
        /// The process, complete: nothing is taken from the bundle but its seccomp profile.
        process: Box<Process>,
    },
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// A service: it outlives who asked for it, and its output pipes are given to its user.
    Service,
    /// One command in the foreground: it ends with who asked for it, and its output is a person's.
    OneShot,
}

/// Lets a created container go. End of file instead of it means: undo.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

/// What the throw-away process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The container, or the process in it, exists; a terminal's master is attached when one was asked for.
    Created {
        /// Its number on the host.
        pid: i32,
        /// The controllers whose limits this host does not keep.
        unenforced: Vec<String>,
    },
    /// Something libcontainer wrote to its log as an error; it names causes that its results do not.
    Cause(String),
    /// Its program's binds can be received by the attached descriptor.
    Notified,
    /// They cannot, and it goes on without.
    NotNotified(Failure),
    /// It could not be done; nothing is left of it.
    Failed(Failure),
    /// Everything was ready, and then the program could not be executed.
    CannotExecute {
        /// The program.
        program: String,
        /// The system's error number.
        errno: i32,
    },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Both ends, closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: near }, far))
    }

    /// The end that was handed over as a descriptor.
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// One more descriptor of the same end, closed on exec.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// The same for who is about to give the lower numbers to others.
    pub(crate) fn duplicate_from(&self, first: i32) -> io::Result<Self> {
        Ok(Self { socket: rustix::io::fcntl_dupfd_cloexec(&self.socket, first)? })
    }

    /// Whether nobody has the other end any more.
    pub(crate) fn is_deserted(&self) -> bool {
        let mut end = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut end, Some(&now)).is_ok_and(|ends| ends > 0)
    }

    /// Sends a message and duplicates of the descriptors.
    pub(crate) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !attached.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        sendmsg(&self.socket, &[IoSlice::new(&text)], &mut attached, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message; `None` at the end.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(bytes) = self.awaits()? else { return Ok(None) };
        let mut text = vec![0; bytes];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut attached = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut attached, RecvFlags::CMSG_CLOEXEC)?;
        let descriptors = descriptors_of(&mut attached);
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }

    /// Waits for a message, and how long it is; `None` at the end. Most are short, and memory that is as large as the longest
    /// would have to be zeroed for each, and stay with the supervisor.
    fn awaits(&self) -> io::Result<Option<usize>> {
        loop {
            // With MSG_TRUNC the length is that of the message, not of what there was room for (recv(2)).
            match recv(&self.socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => {}
                // A peer that died with unread data in its queue: the same to us as its end.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Ok((_, 0)) => return Ok(None),
                Ok((_, bytes)) if bytes > MESSAGE_BYTES_MAX => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
                }
                Ok((_, bytes)) => return Ok(Some(bytes)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Receives the descriptors that come with one message of any socket.
pub(crate) fn receive_descriptors(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut attached, RecvFlags::CMSG_CLOEXEC)?;
    Ok(descriptors_of(&mut attached))
}

fn descriptors_of(attached: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    descriptors
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_and_the_end_is_seen() {
        let (near, far) = Channel::pair().expect("pair");
        let far = Channel::of(far);
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        near.send(&Report::Created { pid: 7, unenforced: Vec::new() }, &[file.as_fd()]).expect("send");
        near.send(&Report::Cause("why".into()), &[]).expect("send");
        assert!(!far.is_deserted());
        drop(near);
        assert!(far.is_deserted());
        let (report, fds) = far.receive::<Report>().expect("receive").expect("first");
        assert!(matches!(report, Report::Created { pid: 7, .. }));
        assert_eq!(fds.len(), 1);
        let (report, fds) = far.receive::<Report>().expect("receive").expect("second");
        assert!(matches!(report, Report::Cause(why) if why == "why"));
        assert!(fds.is_empty());
        assert!(far.receive::<Report>().expect("receive").is_none());
    }
}
