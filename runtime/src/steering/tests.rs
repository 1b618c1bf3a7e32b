//! Two generations on one port, each a process of this test program that binds as any server does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt as options};
use rustix::net::{SocketAddrAny, SocketAddrV4, bind, connect, listen, socket};

use super::gate::{Gate, Waiting};
use super::notified::Heard;
use super::*;
use crate::channel::Channel;

/// What a server is told to do, in the environment of the test program that becomes one.
const ROLE: &str = "OPSRUN_TEST_SERVER";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A server in a cgroup of its own.
pub(super) struct Server {
    child: Child,
    pub(super) notified: Notified,
    cgroup: PathBuf,
    generation: u32,
}

impl Server {
    /// A server that answers each connection with `word`, which begins with how it binds.
    pub(super) fn start(generation: u32, word: &str, address: &str) -> Self {
        let (near, far) = Channel::pair().expect("a channel");
        let child = Command::new("/proc/self/exe")
            .args(["--exact", "steering::tests::a_server", "--nocapture"])
            .env(ROLE, format!("{word} {address}"))
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .spawn()
            .expect("a server");
        let mut listener = crate::channel::receive_descriptors(near.as_fd()).expect("its binds");
        let notified = Notified::by(listener.pop().expect("a descriptor"));
        let cgroup = PathBuf::from(format!("/opsrun-test-{}-{generation}", child.id()));
        let hierarchy = crate::cgroup::Hierarchy::open().expect("cgroup v2");
        let there = hierarchy.at(&cgroup);
        there.make().expect("a cgroup");
        there.write("cgroup.procs", &child.id().to_string()).expect("moved");
        Self { child, notified, cgroup, generation }
    }

    /// Waits for its next bind of a port and has it answered.
    pub(super) fn binds(&self, steering: &mut Steering, ports: &[u16]) -> Bound {
        self.at_a_bind(ports, |bind, by| match steering.answer(&self.notified, &bind, by) {
            Bound::NotOurs => None,
            bound => Some(bound),
        })
    }

    /// Waits for its bind of a port, and leaves it unanswered.
    fn waits(&self, ports: &[u16]) -> Waiting {
        self.at_a_bind(ports, |bind, by| Waiting::of(&self.notified, bind, by))
    }

    /// Waits for the next bind of which something comes.
    fn at_a_bind<T>(&self, ports: &[u16], mut comes_of: impl FnMut(Bind, Binder<'_>) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "it does not bind");
            let Heard::Bind(bind) = self.notified.hear().expect("heard") else {
                std::thread::yield_now();
                continue;
            };
            let by = Binder { generation: self.generation, ports, cgroup: &self.cgroup };
            if let Some(found) = comes_of(bind, by) {
                return found;
            }
        }
    }

    pub(super) fn side(&self) -> Side<'_> {
        Side { generation: self.generation, cgroup: &self.cgroup }
    }

    /// Its calls that have waited are answered.
    fn is_let_in(&self, steering: &mut Steering, gate: &mut Gate, ports: &[u16]) {
        for waiting in std::mem::take(&mut gate.waiting) {
            let by = Binder { generation: self.generation, ports, cgroup: &self.cgroup };
            assert_eq!(steering.answer(&self.notified, &waiting.bind, by), Bound::Adopted);
        }
    }

    pub(super) fn listens(&self, steering: &mut Steering) {
        until("it listens", || {
            steering.look();
            steering.of(self.generation).any(|it| it.index.is_some())
        });
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        let _ = crate::cgroup::Hierarchy::open().and_then(|hierarchy| hierarchy.at(&self.cgroup).clear());
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Not a test of its own: what the servers of the other tests run.
#[test]
fn a_server() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut words = role.split(' ');
    let (word, address) = (words.next().expect("a word"), words.next().expect("an address"));
    let channel = UnixStream::from(rustix::io::dup(rustix::stdio::stdin()).expect("stdin"));
    let listener = filter::load().expect("the filter: needs root");
    Channel::of(channel.into()).send(&"binds", &[listener.as_fd()]).expect("sent");
    drop(listener);
    abuse_tests::misbehave(word, address);
    // A bind that is nobody's business, as a resolver makes it.
    drop(std::net::UdpSocket::bind("127.0.0.1:0").expect("UDP is let through"));
    let listener = TcpListener::bind(address).expect("bound");
    if word.starts_with("twice") {
        assert!(TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
    }
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { continue };
        let _ = connection.write_all(word.as_bytes());
    }
}

/// What is answered on a connection of a client's, or of the supervisor's own.
pub(super) fn asked(port: u16, marked: bool) -> String {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    if marked {
        setsockopt(&client, options::Mark, &PROBE_MARK).expect("SO_MARK: needs root");
    }
    connect(&client, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port)).expect("connected");
    let mut client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port()
}

pub(super) fn steering() -> Steering {
    let mut steering = Steering::new(Path::new("/run/opsrun-test"));
    steering.active = 1;
    steering
}

#[test]
fn clients_stay_with_the_active_generation_until_they_are_turned_over() {
    let (mut steering, port) = (steering(), free_port());
    let address = format!("127.0.0.1:{port}");
    let mut old = Server::start(1, "old", &address);
    assert_eq!(old.binds(&mut steering, &[port]), Bound::Adopted);
    old.listens(&mut steering);
    assert_eq!((asked(port, false), asked(port, true)), ("old".into(), "old".into()));

    let new = Server::start(2, "new", &address);
    assert_eq!(new.binds(&mut steering, &[port]), Bound::Adopted);
    new.listens(&mut steering);
    assert_eq!(steering.missing(2, 1), None);
    for _ in 0..20 {
        assert_eq!((asked(port, false), asked(port, true)), ("old".into(), "new".into()));
    }
    steering.turn_to(2).expect("turned");
    assert_eq!((asked(port, false), asked(port, true)), ("new".into(), "old".into()));
    steering.turn_to(1).expect("turned back");
    assert_eq!((asked(port, false), asked(port, true)), ("old".into(), "new".into()));
    steering.turn_to(2).expect("turned");
    let open = sockets::open_in(&old.cgroup).expect("looked");
    assert_eq!(steering.remaining(1, &open, &HashSet::new()).expect("counted"), Remaining::default());
    old.end();
    steering.forget(1);
    for _ in 0..20 {
        assert_eq!(asked(port, false), "new");
    }
}

#[test]
fn nobody_else_can_join_and_a_second_bind_is_refused_as_ever() {
    let (mut steering, port) = (steering(), free_port());
    let server = Server::start(1, "twice", &format!("127.0.0.1:{port}"));
    assert_eq!(server.binds(&mut steering, &[port]), Bound::Adopted);
    assert_eq!(server.binds(&mut steering, &[port]), Bound::Not);
    server.listens(&mut steering);
    assert_eq!(asked(port, false), "twice");
    let stranger = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_reuseport(&stranger, true).expect("SO_REUSEPORT");
    let taken = bind(&stranger, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port));
    assert_eq!(taken, Err(Errno::ADDRINUSE), "even root does not get into the group");
}

#[test]
fn a_candidate_that_would_take_clients_is_not_answered() {
    let (mut steering, port) = (steering(), free_port());
    let old = Server::start(1, "old", &format!("0.0.0.0:{port}"));
    assert_eq!(old.binds(&mut steering, &[port]), Bound::Adopted);
    old.listens(&mut steering);
    for address in ["127.0.0.1", "[::]"] {
        let new = Server::start(2, "new", &format!("{address}:{port}"));
        let Bound::Collides(reason) = new.binds(&mut steering, &[port]) else { panic!("{address}") };
        assert!(reason.contains(address) && reason.contains("0.0.0.0"), "{reason}");
        assert_eq!((asked(port, false), asked(port, true)), ("old".into(), "old".into()));
    }
}

#[test]
fn who_connects_after_a_crash_waits_for_the_restart() {
    let (mut steering, port) = (steering(), free_port());
    let address = format!("127.0.0.1:{port}");
    let mut first = Server::start(1, "first", &address);
    assert_eq!(first.binds(&mut steering, &[port]), Bound::Adopted);
    first.listens(&mut steering);
    first.end();
    let client = std::thread::spawn(move || asked(port, false));
    until("the client waits", || {
        sockets::listeners(port).expect("asked").iter().any(|socket| socket.queue == 1)
    });
    let looked = Drain::of(&steering, 1).look(&steering, Some(&first.cgroup));
    assert_eq!(
        looked,
        Looked { left: Remaining { connections: 1, idle: 0 }, done: true },
        "nobody could accept it"
    );
    let again = Server::start(1, "again", &address);
    assert_eq!(again.binds(&mut steering, &[port]), Bound::Adopted);
    assert_eq!(client.join().expect("the client"), "again");
}

#[test]
fn who_connects_between_two_generations_waits_for_the_one_that_is_let_in() {
    let (mut steering, port) = (steering(), free_port());
    let address = format!("127.0.0.1:{port}");
    for round in 0..2 {
        let (mut old, mut new) = (Server::start(1, "old", &address), None);
        // The second round is with a listener that nobody has heard of.
        assert_eq!(old.binds(&mut steering, &[port]), Bound::Adopted);
        old.listens(&mut steering);
        if round == 1 {
            steering.release(1);
        }
        let new = new.insert(Server::start(2, "new", &address));
        let mut gate = Gate { waiting: vec![new.waits(&[port])], ..Gate::default() };
        steering.keep_for(old.side(), &gate, &[port]).expect("kept");
        old.end();
        let client = std::thread::spawn(move || asked(port, false));
        until("the client waits", || {
            sockets::listeners(port).expect("asked").iter().any(|socket| socket.queue == 1)
        });
        steering.pass_on(&mut gate, 1, 2);
        new.is_let_in(&mut steering, &mut gate, &[port]);
        assert_eq!(client.join().expect("the client"), "new");
        assert!(steering.close_unused(&mut gate, new.side()), "nobody was refused");
        // It fails after all: the old one is started again, onto the same listener.
        steering.pass_back(&mut gate, 2, 1);
        new.end();
        steering.forget(2);
        if round == 0 {
            let client = std::thread::spawn(move || asked(port, false));
            until("the client waits", || {
                sockets::listeners(port).expect("asked").iter().any(|socket| socket.queue == 1)
            });
            let again = Server::start(1, "again", &address);
            assert_eq!(again.binds(&mut steering, &[port]), Bound::Adopted);
            assert_eq!(client.join().expect("the client"), "again");
        }
        steering.forget(1);
    }
}

#[test]
fn nobody_waits_at_a_listener_that_the_next_one_cannot_take() {
    let (mut steering, port) = (steering(), free_port());
    let mut old = Server::start(1, "old", &format!("127.0.0.1:{port}"));
    assert_eq!(old.binds(&mut steering, &[port]), Bound::Adopted);
    old.listens(&mut steering);
    let new = Server::start(2, "new", &format!("0.0.0.0:{port}"));
    let mut gate = Gate { waiting: vec![new.waits(&[port])], ..Gate::default() };
    steering.keep_for(old.side(), &gate, &[port]).expect("kept");
    assert_eq!(asked(port, false), "old", "it serves until it ends");
    old.end();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody waits in vain");
    steering.pass_on(&mut gate, 1, 2);
    new.is_let_in(&mut steering, &mut gate, &[port]);
    new.listens(&mut steering);
    assert_eq!(asked(port, false), "new");
    assert!(!steering.close_unused(&mut gate, new.side()), "they were refused");
}

#[test]
fn a_short_queue_is_widened_and_a_strangers_listener_is_seen() {
    let mut steering = steering();
    let own = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bind(&own, &address).expect("bound");
    listen(&own, 5).expect("listens");
    let bound = rustix::net::getsockname(&own).expect("its address");
    let bound = SocketAddrAny::try_into(bound).unwrap_or(address);
    let key = Key::of(own.as_fd(), bound).expect("its key");
    let inode = inode_of(own.as_fd()).expect("its number");
    assert!(steering.owns(1, &[bound.port()]).expect("asked").is_err(), "a stranger's");
    steering.held.push(Held { generation: 1, key, socket: own, inode, index: None, foreign: false });
    assert_eq!(steering.owns(1, &[bound.port()]).expect("asked"), Ok(()));
    steering.widen(1).expect("widened");
    assert_eq!(sockets::listeners(bound.port()).expect("asked")[0].queue_max, QUEUE_LEAST);
}
