//! Tries what the ways of a swap need of a host, with servers and clients of its own in a network of its own, so that a
//! service is not the first to find out. It knows no service, and nothing of it is left.
//!
//! It runs in a process of its own with one thread (`opsrun self-test`), which makes itself a network namespace and the
//! servers, and reports to who has started it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt as options};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrV4, SocketType, connect, socket};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::notified::{Bind, Heard, Notified};
use super::{Binder, Bound, PROBE_MARK, Steering, filter, sockets};
use crate::abilities::{Ability, Part};
use crate::channel::Channel;
use crate::os;

/// The port of the servers; nobody else has any in this network.
const PORT: u16 = 4242;
/// Anything that takes longer does not work; on a host that is busy with starting up it may take a while.
const PATIENCE: Duration = Duration::from_secs(15);
/// Anything that takes longer than this in all has hung.
const PATIENCE_IN_ALL: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// A connection is looked at so often.
const ROUNDS: usize = 8;

/// Has all of it tried in a process of its own.
///
/// # Errors
/// When that process cannot be started, or does not come to an end.
pub(crate) fn perform() -> io::Result<Vec<Ability>> {
    let (near, far) = Channel::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("opsrun")
        .env_clear()
        .arg("self-test")
        .current_dir("/")
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut ready = [PollFd::new(&near, PollFlags::IN)];
    let abilities = match poll(&mut ready, Some(&PATIENCE_IN_ALL)) {
        Ok(1..) => near.receive::<Vec<Ability>>(),
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    };
    // It has reported, or never will. Its servers end with it.
    let _ = child.kill();
    let _ = child.wait();
    abilities?.map(|(abilities, _)| abilities).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Runs the hidden command `self-test`: who wants to know is at the other end of the standard input.
///
/// Returns the exit status.
#[must_use]
pub(crate) fn run() -> i32 {
    os::close_on_exec_from(3);
    let Ok(stdin) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return 1 };
    let mut trial = Trial::default();
    if let Err((part, why)) = trial.all() {
        trial.lacks(part, why);
    }
    i32::from(Channel::of(stdin).send(&trial.tried, &[]).is_err())
}

/// What could not be done, and why.
type Lacking = (Part, String);

#[derive(Default)]
struct Trial {
    tried: Vec<Ability>,
}

impl Trial {
    fn has(&mut self, part: Part) {
        self.tried.push(Ability { part, obstacle: None });
    }

    fn lacks(&mut self, part: Part, why: impl ToString) {
        self.tried.push(Ability { part, obstacle: Some(why.to_string()) });
    }

    fn note(&mut self, part: Part, tried: Result<(), String>) {
        self.tried.push(Ability { part, obstacle: tried.err() });
    }

    /// One after the other, since each needs what comes before it; what is not reached is not known.
    fn all(&mut self) -> Result<(), Lacking> {
        own_network().map_err(lacking(Part::Network))?;
        self.has(Part::Network);
        let mut steering = Steering::new(Path::new("/run/opsrun-self-test"));
        steering.active = 1;
        let first = Server::start(b'a').map_err(|why| (Part::Notification, why))?;
        let bind = first.bind().map_err(|why| (Part::Notification, why))?;
        self.has(Part::Notification);
        self.note(Part::Uninterrupted, first.uninterrupted.clone());
        bind.bytes().map_err(lacking(Part::Memory))?;
        self.has(Part::Memory);
        bind.socket().map_err(lacking(Part::Descriptor))?;
        self.has(Part::Descriptor);
        first.is_adopted(&mut steering, &bind, 1).map_err(|why| (Part::Group, why))?;
        tables(&steering).map_err(|why| (Part::Tables, why))?;
        self.has(Part::Tables);
        let second = self.steer(&first, &mut steering);
        drop(second);
        steering.forget(2);
        self.replace(first, &mut steering);
        Ok(())
    }

    /// A second server beside the first: clients are sent to one, and marked probes to the other.
    fn steer(&mut self, first: &Server, steering: &mut Steering) -> Option<Server> {
        let joined = Server::start(b'b').and_then(|second| {
            let bind = second.bind()?;
            second.is_adopted(steering, &bind, 2)?;
            Ok(second)
        });
        let second = match joined {
            Ok(second) => second,
            Err(why) => {
                self.lacks(Part::Group, why);
                return None;
            }
        };
        if let Err(error) = client(true).map(drop) {
            self.lacks(Part::Mark, error);
            return Some(second);
        }
        let mut steered = || -> Result<(), String> {
            for (active, clients, probes) in [(1, first, &second), (2, &second, first)] {
                steering.turn_to(active).map_err(|error| error.to_string())?;
                for _ in 0..ROUNDS {
                    clients.answers(false)?;
                    probes.answers(true)?;
                }
            }
            steering.turn_to(1).map_err(|error| error.to_string())
        };
        match steered() {
            Ok(()) => {
                self.has(Part::Mark);
                self.has(Part::Group);
            }
            Err(why) => self.lacks(Part::Group, why),
        }
        Some(second)
    }

    /// A third server gets the listener of the first, which is gone.
    fn replace(&mut self, first: Server, steering: &mut Steering) {
        drop(first);
        let tried = Server::start(b'c').and_then(|third| {
            let bind = third.bind()?;
            let held = steering.of(1).next().ok_or("there is no listener")?;
            third.notified.answer_with(&bind, held.socket.as_fd()).map_err(|error| error.to_string())?;
            third.answers(false)
        });
        self.note(Part::Injection, tried);
    }
}

fn tables(steering: &Steering) -> Result<(), String> {
    let found = sockets::listeners(PORT).map_err(|error| error.to_string())?;
    let is_seen = steering.of(1).all(|it| found.iter().any(|socket| socket.inode == it.inode));
    if is_seen { Ok(()) } else { Err("a socket that listens is not in it".to_owned()) }
}

fn lacking(part: Part) -> impl Fn(io::Error) -> Lacking {
    move |error| (part, error.to_string())
}

fn own_network() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    os::bring_loopback_up()
}

/// What a server says of its filter.
#[derive(Serialize, Deserialize)]
enum Loaded {
    /// It is loaded; whether a call that was received is interrupted by deadly signals alone.
    Yes {
        uninterrupted: Result<(), String>,
    },
    No(String),
}

/// A process that binds as any server does, and answers each connection with its letter.
struct Server {
    pid: Pid,
    letter: u8,
    notified: Notified,
    uninterrupted: Result<(), String>,
}

impl Server {
    fn start(letter: u8) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (near, far) = Channel::pair().map_err(text)?;
        let Some(pid) = os::fork().map_err(text)? else {
            drop(near);
            os::die_with_parent();
            let _ = serve(far, letter);
            os::exit(1)
        };
        drop(far);
        let mut loaded = near.receive::<Loaded>().map_err(text);
        if let Ok(Some((Loaded::Yes { uninterrupted }, listener))) = &mut loaded
            && let Some(listener) = listener.pop()
        {
            let notified = Notified::by(listener);
            return Ok(Self { pid, letter, notified, uninterrupted: uninterrupted.clone() });
        }
        end(pid);
        Err(match loaded {
            Ok(Some((Loaded::No(why), _))) | Err(why) => why,
            Ok(_) => "the filter's descriptor does not arrive".to_owned(),
        })
    }

    /// Its bind, which waits.
    fn bind(&self) -> Result<Bind, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|error| error.to_string())?;
            let mut ready = [PollFd::new(&self.notified, PollFlags::IN)];
            if poll(&mut ready, Some(&left)).map_err(|error| error.to_string())? == 0 {
                return Err("a bind(2) was not notified".to_owned());
            }
            match self.notified.hear().map_err(|error| error.to_string())? {
                Heard::Bind(bind) => return Ok(bind),
                Heard::Nothing => {}
                Heard::End => return Err("the server has ended".to_owned()),
            }
        }
    }

    fn is_adopted(&self, steering: &mut Steering, bind: &Bind, generation: u32) -> Result<(), String> {
        // Nobody is in it: none of the listeners there are is taken for open elsewhere.
        let by = Binder { generation, ports: &[PORT], cgroup: Path::new("/opsrun-self-test") };
        match steering.answer(&self.notified, bind, by) {
            Bound::Adopted => {}
            Bound::Collides(why) => return Err(why),
            Bound::Not | Bound::NotOurs => return Err("a socket could not be bound for it".to_owned()),
        }
        let deadline = Instant::now() + PATIENCE;
        while !steering.listens(generation, PORT) {
            if Instant::now() > deadline {
                return Err("a socket that was bound for it does not listen".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether it is this one that a connection gets to, and that its end of it is seen to be its own.
    fn answers(&self, marked: bool) -> Result<(), String> {
        let whose = if marked { "a probe" } else { "a client" };
        let mut client = client(marked).map_err(|error| format!("{whose} could not connect: {error}"))?;
        let mut letter = [0];
        client.read_exact(&mut letter).map_err(|error| format!("{whose} got no answer: {error}"))?;
        if letter[0] != self.letter {
            return Err(format!("{whose} was sent to the other one of two sockets"));
        }
        let own = client.local_addr().map_err(|error| error.to_string())?;
        let far = sockets::far_end(own, SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        let far = far.map_err(|error| error.to_string())?.ok_or("a connection is not to be seen")?;
        let open = sockets::descriptors(self.pid.as_raw());
        match open.iter().any(|(_, inode)| *inode == far.inode) {
            true => Ok(()),
            false => Err("whose a connection is, is not to be seen".to_owned()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(self.pid);
    }
}

fn end(pid: Pid) {
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

fn serve(channel: OwnedFd, letter: u8) -> io::Result<()> {
    let channel = Channel::of(channel);
    let (listener, uninterrupted) = match filter::load_as(true) {
        Ok(listener) => (Ok(listener), Ok(())),
        Err(error) => (filter::load_as(false), Err(error.to_string())),
    };
    match listener {
        Ok(listener) => channel.send(&Loaded::Yes { uninterrupted }, &[listener.as_fd()])?,
        Err(error) => return channel.send(&Loaded::No(error.to_string()), &[]),
    }
    // This process must not keep what only another can answer.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        connection.write_all(&[letter])?;
        // It stays open for as long as it is looked at.
        let _ = connection.read(&mut [0]);
    }
    Ok(())
}

fn client(marked: bool) -> io::Result<TcpStream> {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if marked {
        setsockopt(&client, options::Mark, &PROBE_MARK)?;
    }
    connect(&client, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT))?;
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}
