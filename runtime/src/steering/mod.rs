//! Which generation of a service gets the connections to its ports: the sockets that listen for it, put into one group a
//! port when the service binds them, and the program of that group. It knows no container and no life cycle.
//!
//! ```text
//! a program in the container: bind(2) ── filter ──▶ notified ──▶ adopt: the program's own socket, given the service's
//!   uid and SO_REUSEPORT, is bound here and the call answered; the program never knows
//! connections ──▶ group's program ──▶ clients: the active generation's socket    the supervisor's own: the other's
//! ```
//!
//! The sockets stay the program's: the same open files, with all that it set on them. The supervisor keeps duplicates, so
//! that it can steer, and so that those who connect while a service that crashed is started again wait for it.
//!
//! Whatever is bound otherwise (by another system call, by a process that entered, by a stranger) is not touched, and
//! cannot join: members of a group have one owner, which is a uid that nobody else has.

#[cfg(test)]
mod abuse_tests;
mod again;
mod alike;
mod drain;
pub(crate) mod filter;
pub(crate) mod gate;
mod group;
pub(crate) mod guard;
mod handed;
pub(crate) mod kept;
mod key;
pub(crate) mod notified;
mod pending;
pub(crate) mod self_test;
pub(crate) mod sockets;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};

pub(crate) use self::again::Side;
use self::alike::set_alike;
pub(crate) use self::drain::{Drain, Looked};
use self::group::Routes;
pub(crate) use self::group::{PROBE_MARK, SERVING_MARK};
use self::handed::Unopened;
pub(crate) use self::handed::differs;
use self::key::Key;
use self::notified::{Bind, Heard, Notified};
use self::pending::Pending;
use crate::crash_point;

/// The first of the uids that sockets get; systemd's table of uids has this range as unused (UIDS-GIDS.md).
pub const UID_FIRST: u32 = 0x7000_0000;
/// The bits that all of them have in common.
pub const UID_MASK: u32 = 0xf000_0000;
/// How many connections may wait at a generation that is about to get all of them: a queue of five loses a burst for a
/// second, until the clients' TCP tries again.
const QUEUE_LEAST: u32 = 128;

/// The listeners of a service's ports.
#[derive(Debug)]
pub(crate) struct Steering {
    uid: Uid,
    active: u32,
    canary: u32,
    held: Vec<Held>,
    /// What a supervisor that is no more held, as long as it is not clear whose it is.
    left: Vec<OwnedFd>,
    /// What programs that are not started yet are to listen with.
    unopened: Vec<Unopened>,
    /// The inodes of those that were asked to be kept.
    kept: Vec<u64>,
    pending: Pending,
}

/// A duplicate of a socket that a generation has bound to one of its ports.
#[derive(Debug)]
struct Held {
    generation: u32,
    key: Key,
    socket: OwnedFd,
    inode: u64,
    /// Its place in the group, from listen(2) on.
    index: Option<u32>,
    /// Whether it was bound by itself, and is in no group.
    foreign: bool,
}

/// Who binds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binder<'a> {
    /// Its generation.
    pub(crate) generation: u32,
    /// The ports of its that are steered.
    pub(crate) ports: &'a [u16],
    /// The cgroup that its processes are in.
    pub(crate) cgroup: &'a Path,
}

/// What a generation that gets no new connections has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// Connections.
    pub(crate) connections: usize,
    /// Those of them on which nothing waits to be answered.
    pub(crate) idle: usize,
}

/// What became of a bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It is none of the service's ports, and was let through.
    NotOurs,
    /// The socket is bound to a port of the service, and in its group.
    Adopted,
    /// It was answered with an error, as the kernel would have, or was over before.
    Not,
    /// It waits still: a socket there would take connections that are the active generation's. Why.
    Collides(String),
}

impl Steering {
    /// The ports of the service of this name below this root.
    pub(crate) fn new(run_folder: &Path) -> Self {
        let (uid, pending) = (Uid::from_raw(uid_of(run_folder)), Pending::of(run_folder));
        Self {
            uid,
            active: 0,
            canary: 0,
            held: Vec::new(),
            left: Vec::new(),
            unopened: Vec::new(),
            kept: Vec::new(),
            pending,
        }
    }

    /// What there is to hear of a generation. Until it is answered, the next supervisor finds it if this one dies.
    pub(crate) fn hear(&mut self, notified: &Notified, generation: u32) -> io::Result<Heard> {
        self.pending.hear(notified, generation)
    }

    /// What was heard is answered, or whoever asked waits on for another reason.
    pub(crate) fn answered(&mut self) {
        self.pending.forget();
    }

    /// The call that a supervisor before has died over, to be answered as if it had been heard only now.
    pub(crate) fn unanswered(&mut self, notified: &Notified, generation: u32) -> Option<Bind> {
        let left = self.pending.left(generation)?;
        if notified.waits(&left) {
            return Some(left);
        }
        self.pending.forget();
        None
    }

    /// Answers a call.
    pub(crate) fn answer(&mut self, notified: &Notified, bind: &Bind, by: Binder<'_>) -> Bound {
        let Some((socket, address, key)) = asked(bind, by) else {
            if let Some(address) =
                self.active_other_than(by.generation).and_then(|_| takes_datagrams(bind, by))
            {
                return Bound::Collides(format!("it takes datagrams on {address}, which cannot be steered"));
            }
            notified.let_through(bind);
            return Bound::NotOurs;
        };
        if !notified.waits(bind) {
            return Bound::Not;
        }
        crash_point::here();
        self.join(notified, bind, by, (socket, address, key))
    }

    /// The generation that clients reach, if that is another one and there is one.
    fn active_other_than(&self, generation: u32) -> Option<u32> {
        Some(self.active).filter(|active| *active != 0 && *active != generation)
    }

    /// Puts a socket into its group, where it can be; doing it once more does no harm.
    fn join(
        &mut self,
        notified: &Notified,
        bind: &Bind,
        by: Binder<'_>,
        (socket, address, key): (OwnedFd, SocketAddr, Key),
    ) -> Bound {
        self.look();
        if let Some(bound) = self.again(notified, bind, by, socket.as_fd(), key) {
            return bound;
        }
        if let Some(reason) = self.collision(by.generation, &key) {
            return Bound::Collides(reason);
        }
        let adopted = self.adopt(socket, address, key, by.generation);
        crash_point::here();
        notified.answer(bind, adopted);
        if adopted.is_ok() { Bound::Adopted } else { Bound::Not }
    }

    /// A key that this very generation has bound before: the same socket, whose answer was lost; a second one, which the
    /// kernel would refuse, or which takes its share of the connections; or the first one is closed.
    fn again(
        &mut self,
        notified: &Notified,
        bind: &Bind,
        by: Binder<'_>,
        socket: BorrowedFd<'_>,
        key: Key,
    ) -> Option<Bound> {
        let inode = inode_of(socket).ok()?;
        let at = self.held.iter().position(|it| it.generation == by.generation && it.key.overlaps(&key))?;
        let held = self.held.get(at)?;
        if held.inode == inode {
            notified.answer(bind, Ok(()));
            return Some(Bound::Adopted);
        }
        let open = sockets::open_in(by.cgroup).is_ok_and(|open| open.contains(&held.inode));
        if open && held.key == key && sockopt::socket_reuseport(socket).unwrap_or(false) {
            // One socket for each generation, so that an index is a generation: its workers share the queue.
            return Some(match notified.answer_with(bind, held.socket.as_fd()) {
                Ok(()) => Bound::Adopted,
                Err(_) => Bound::Not,
            });
        }
        if open {
            notified.answer(bind, Err(Errno::ADDRINUSE));
            return Some(Bound::Not);
        }
        // Who waits at the socket of a generation that crashed is served by the same program, started again. Not so where
        // the program has other ties to its new socket already.
        if held.index.is_some() && held.key == key && !has_ties(bind, inode) {
            set_alike(held.socket.as_fd(), socket);
            return Some(match notified.answer_with(bind, held.socket.as_fd()) {
                Ok(()) => Bound::Adopted,
                Err(_) => Bound::Not,
            });
        }
        self.leave(at);
        None
    }

    /// Why a socket of this key would take connections that are another generation's.
    fn collision(&self, generation: u32, key: &Key) -> Option<String> {
        let others = || self.held.iter().filter(|it| it.generation != generation && it.key.overlaps(key));
        if let Some(other) = others().find(|it| it.key != *key) {
            return Some(format!("it listens on {key}, and the one that serves on {}", other.key));
        }
        if let Some(waits) = others().find(|it| it.index.is_none()) {
            return Some(format!("the one that serves does not listen on {} now", waits.key));
        }
        // Where whoever joins is sent the supervisor's own connections alone, from its listen(2) on.
        let other = others().next()?;
        let refused = self.attach(&other.key).err()?;
        Some(format!("the listeners on {} cannot be steered: {refused}", other.key))
    }

    fn adopt(
        &mut self,
        socket: OwnedFd,
        address: SocketAddr,
        key: Key,
        generation: u32,
    ) -> Result<(), Errno> {
        let first = !self.held.iter().any(|it| it.key == key);
        let inode = inode_of(socket.as_fd())?;
        if !self.has_bound(socket.as_fd(), address.port()) {
            self.bind(&socket, address)?;
        }
        self.held.push(Held { generation, key, socket, inode, index: None, foreign: false });
        if first {
            // OK to ignore: alone it gets every connection anyway. Others join only when attaching works.
            let _ = self.attach(&key);
        }
        Ok(())
    }

    /// Whether a supervisor, this one or one that died before it could say so, has bound a socket to this port.
    fn has_bound(&self, socket: BorrowedFd<'_>, port: u16) -> bool {
        let own = rustix::fs::fstat(socket).is_ok_and(|found| found.st_uid == self.uid.as_raw());
        let name = rustix::net::getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
        own && name.is_some_and(|name| name.port() == port)
    }

    fn bind(&self, socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
        let shared = sockopt::socket_reuseport(socket)?;
        // OK to ignore: without it the sockets of two generations are as good as of two users, and do not share.
        let _ = rustix::fs::fchown(socket, Some(self.uid), None::<Gid>);
        sockopt::set_socket_reuseport(socket, true)?;
        // What is left of connections that ended must not stand in the way: that is what it means on a listener.
        sockopt::set_socket_reuseaddr(socket, true)?;
        rustix::net::bind(socket, &address).inspect_err(|_| {
            let _ = sockopt::set_socket_reuseport(socket, shared);
        })
    }

    /// Finds out which sockets listen by now.
    pub(crate) fn look(&mut self) {
        for at in 0..self.held.len() {
            let Some(held) = self.held.get(at) else { continue };
            if held.index.is_none() && sockopt::socket_acceptconn(&held.socket).unwrap_or(false) {
                let key = held.key;
                let index = self.members(&key);
                if let Some(held) = self.held.get_mut(at) {
                    held.index = Some(index);
                }
            }
        }
    }

    fn members(&self, key: &Key) -> u32 {
        let count = self.held.iter().filter(|it| it.key == *key && it.index.is_some()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Closes a socket whose program is gone: it leaves its group, and the last member takes its place there.
    fn leave(&mut self, at: usize) {
        let gone = self.held.remove(at);
        let last = self.members(&gone.key);
        if let Some(index) = gone.index {
            let moved = self.held.iter_mut().find(|it| it.key == gone.key && it.index == Some(last));
            if let Some(moved) = moved {
                moved.index = Some(index);
            }
        }
        // At once, also where a process that is just being started has yet to close what it got from this one.
        let _ = rustix::net::shutdown(&gone.socket, rustix::net::Shutdown::Both);
        drop(gone.socket);
        let _ = self.attach(&gone.key);
    }

    /// All connections of clients are this generation's from now on, and the supervisor's own the other's.
    pub(crate) fn turn_to(&mut self, generation: u32) -> io::Result<()> {
        self.look();
        (self.active, self.canary) = (generation, 0);
        self.attach_all()
    }

    /// This share of clients' connections, in millionths, is the other generation's from now on.
    pub(crate) fn share(&mut self, share: u32) -> io::Result<()> {
        self.look();
        self.canary = share;
        self.attach_all()
    }

    fn attach_all(&self) -> io::Result<()> {
        let mut keys: Vec<Key> = Vec::new();
        for held in &self.held {
            if !keys.contains(&held.key) {
                keys.push(held.key);
            }
        }
        keys.iter().try_for_each(|key| self.attach(key))
    }

    /// Gives a key's group the program that follows from who is in it.
    fn attach(&self, key: &Key) -> io::Result<()> {
        let of_key = || self.held.iter().filter(|it| it.key == *key && !it.foreign);
        let index = |it: &Held| if it.generation == self.active { None } else { it.index };
        let members = self.members(key);
        let routes = Routes {
            clients: of_key().find(|it| it.generation == self.active).and_then(|it| it.index).unwrap_or(0),
            probes: of_key().find_map(index).unwrap_or(members),
            canary: self.canary,
        };
        let through = of_key().find(|it| it.index.is_some()).or_else(|| of_key().next());
        through.map_or(Ok(()), |it| group::attach(it.socket.as_fd(), routes))
    }

    /// Closes the sockets of a generation whose processes are gone.
    pub(crate) fn forget(&mut self, generation: u32) {
        self.look();
        self.unopened.retain(|it| it.generation != generation);
        while let Some(at) = self.held.iter().position(|it| it.generation == generation) {
            self.leave(at);
        }
    }

    /// The generation that clients are sent to.
    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    /// Whether a generation listens on a port.
    pub(crate) fn listens(&mut self, generation: u32, port: u16) -> bool {
        self.look();
        self.of(generation).any(|it| it.key.port == port && it.index.is_some())
    }

    /// Whether another generation listens beside this one.
    pub(crate) fn is_shared(&self, generation: u32) -> bool {
        self.held.iter().any(|it| it.generation != generation)
    }

    /// Closes the duplicates of a generation that goes on listening by itself. To be called only where no other listens.
    pub(crate) fn release(&mut self, generation: u32) {
        self.held.retain(|it| it.generation != generation);
    }

    /// The first key that one generation listens on and the other does not.
    pub(crate) fn missing(&mut self, candidate: u32, active: u32) -> Option<String> {
        self.look();
        let listens = |generation, key: &Key| {
            self.held.iter().any(|it| it.generation == generation && it.key == *key && it.index.is_some())
        };
        let missing = self
            .held
            .iter()
            .find(|it| it.generation == active && it.index.is_some() && !listens(candidate, &it.key))?;
        Some(missing.key.to_string())
    }

    /// Whether a generation listens on each of these ports with sockets that are steered, and nobody else does there.
    pub(crate) fn owns(&mut self, generation: u32, ports: &[u16]) -> io::Result<Result<(), String>> {
        self.look();
        for port in ports {
            let ours: HashSet<u64> =
                self.of(generation).filter(|it| !it.foreign).map(|it| it.inode).collect();
            let listening = sockets::listeners(*port)?;
            if listening.is_empty() {
                return Ok(Err(format!("nothing listens on port {port}")));
            }
            if let Some(stranger) = listening.iter().find(|socket| !ours.contains(&socket.inode)) {
                return Ok(Err(not_ours(stranger)));
            }
        }
        Ok(Ok(()))
    }

    /// Makes room in the queues of a generation that is about to get all connections.
    pub(crate) fn widen(&self, generation: u32) -> io::Result<()> {
        for held in self.of(generation).filter(|it| it.index.is_some()) {
            let queue = sockets::listeners(held.key.port)?.into_iter().find(|it| it.inode == held.inode);
            if queue.is_some_and(|socket| socket.queue_max < QUEUE_LEAST) {
                rustix::net::listen(&held.socket, i32::try_from(QUEUE_LEAST).unwrap_or(i32::MAX))?;
            }
        }
        Ok(())
    }

    /// The connections to a generation's sockets that are half open. They stay its own when clients are sent elsewhere.
    pub(crate) fn half_open(&self, generation: u32) -> io::Result<HashSet<SocketAddr>> {
        let mut found = HashSet::new();
        for port in self.ports(generation) {
            found.extend(sockets::half_open(port)?);
        }
        Ok(found)
    }

    /// Which connections a generation has not done with: those that wait to be accepted, of the half-open ones those in
    /// `half_open`, and of those in `open`, which its processes have, the connections.
    pub(crate) fn remaining(
        &self,
        generation: u32,
        open: &HashSet<u64>,
        half_open: &HashSet<SocketAddr>,
    ) -> io::Result<Remaining> {
        let mut found = Remaining { connections: self.queued(generation)?, idle: 0 };
        for port in self.ports(generation) {
            if !half_open.is_empty() {
                found.connections += sockets::half_open(port)?.intersection(half_open).count();
            }
            for socket in sockets::connections(port)?.iter().filter(|it| open.contains(&it.inode)) {
                found.connections += 1;
                found.idle += usize::from(socket.idle);
            }
        }
        Ok(found)
    }

    /// Whether no process of a generation, which have these sockets open, is left that could accept a connection.
    pub(crate) fn is_deserted(&self, generation: u32, open: &HashSet<u64>) -> bool {
        !self.of(generation).any(|it| open.contains(&it.inode))
    }

    /// How many connections wait at a generation to be accepted.
    pub(crate) fn queued(&self, generation: u32) -> io::Result<usize> {
        let listening: HashSet<u64> = self.of(generation).map(|it| it.inode).collect();
        let mut count = 0;
        for port in self.ports(generation) {
            let queues = sockets::listeners(port)?;
            let queues = queues.iter().filter(|socket| listening.contains(&socket.inode));
            count += queues.map(|socket| socket.queue as usize).sum::<usize>();
        }
        Ok(count)
    }

    fn of(&self, generation: u32) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |it| it.generation == generation)
    }

    fn ports(&self, generation: u32) -> HashSet<u16> {
        self.of(generation).map(|it| it.key.port).collect()
    }
}

/// Whether all that listens on these ports was opened under a supervisor's eyes; why not.
pub(crate) fn owned(run_folder: &Path, ports: &[u16]) -> io::Result<Result<(), String>> {
    let uid = uid_of(run_folder);
    for port in ports {
        let listening = sockets::listeners(*port)?;
        if listening.is_empty() {
            return Ok(Err(format!("nothing listens on port {port}")));
        }
        if let Some(stranger) = listening.iter().find(|socket| socket.uid != uid) {
            return Ok(Err(not_ours(stranger)));
        }
    }
    Ok(Ok(()))
}

fn not_ours(listener: &sockets::Socket) -> String {
    format!("the listener on {} was not opened under opsrun's eyes", listener.local)
}

/// The uid that the listening sockets of a service have, by its run folder.
fn uid_of(run_folder: &Path) -> u32 {
    use std::os::unix::ffi::OsStrExt;
    // FNV-1a: short, and the same in every version of this program.
    let hash = run_folder
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    UID_FIRST | (hash & !UID_MASK)
}

fn inode_of(socket: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

fn is_tcp(socket: BorrowedFd<'_>) -> bool {
    is_internet(socket, SocketType::STREAM)
        && sockopt::socket_protocol(socket).is_ok_and(|protocol| protocol == Some(ipproto::TCP))
}

fn is_internet(socket: BorrowedFd<'_>, wanted: SocketType) -> bool {
    sockopt::socket_domain(socket)
        .is_ok_and(|family| [AddressFamily::INET, AddressFamily::INET6].contains(&family))
        && sockopt::socket_type(socket).is_ok_and(|kind| kind == wanted)
}

/// Where a call asks for the datagrams of one of the binder's ports. Of two sockets that share such a port by `SO_REUSEPORT`
/// each gets some (socket(7)), proven or not.
fn takes_datagrams(bind: &Bind, by: Binder<'_>) -> Option<SocketAddr> {
    bind.socket().ok().filter(|socket| is_internet(socket.as_fd(), SocketType::DGRAM))?;
    bind.address().filter(|address| by.ports.contains(&address.port()))
}

/// The socket, address and key of a call that is a bind of one of the binder's ports, and would be one.
fn asked(bind: &Bind, by: Binder<'_>) -> Option<(OwnedFd, SocketAddr, Key)> {
    let socket = bind.socket().ok().filter(|socket| is_tcp(socket.as_fd()))?;
    let address = bind.address().filter(|address| by.ports.contains(&address.port()))?;
    let key = Key::of(socket.as_fd(), address).ok()?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // A mismatch is an error that the kernel has the right number for.
    let fits = sockopt::socket_domain(&socket).is_ok_and(|domain| domain == family);
    (fits && bind.may_bind(address.port())).then_some((socket, address, key))
}

/// Whether the program has the socket twice, or waits on it already: another in its place would not get all of it.
fn has_ties(bind: &Bind, inode: u64) -> bool {
    let Ok(process) = bind.process() else { return true };
    let copies = sockets::descriptors(process).iter().filter(|(_, it)| *it == inode).count();
    copies != 1 || is_waited_for(process, bind.descriptor)
}

/// Whether an epoll instance of a process has this descriptor of its (proc_pid_fdinfo(5), `tfd`).
fn is_waited_for(process: i32, descriptor: i32) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fdinfo")) else { return true };
    entries.flatten().any(|entry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let targets = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let mut numbers = targets.filter_map(|rest| rest.split_whitespace().next()?.parse::<i32>().ok());
        numbers.any(|number| number == descriptor)
    })
}
