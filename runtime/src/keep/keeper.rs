//! The keeper of a service on a host without systemd: a very small process that holds duplicates of what must outlive a
//! supervisor, hands them to the next one, and starts that when the last one died. It knows nothing of what it holds.
//!
//! It was started by a supervisor, and is no child of it: it has made a copy of itself, which stays. Its standard input is
//! a socket that listens in the service's run folder, its standard output the connection to that supervisor.
//!
//! ```text
//!   the connection ends without a word ──▶ wait ──▶ another supervisor, with a connection as its standard input
//!   somebody connects and asks for all ──▶ that is the supervisor from now on (it has the service's lock)
//!   another program than this one's file is ──▶ this process executes it, and hands all that it holds to it
//!   "bye" ──▶ the end
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_acceptconn, socket_peercred};
use rustix::net::{SocketFlags, accept_with};

use super::wire::{self, KEPT_MAX, word};
use crate::{handover, os};

/// So long after the death of a supervisor comes the next one; twice as long each time they die soon.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// At most.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Whoever has lived so long has not died soon.
const LIVED_WELL: Duration = Duration::from_secs(1);
/// Nobody may keep this process from everybody else for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Guests at once; one more is turned away.
const GUESTS_MAX: usize = 8;
/// So often it is looked whether a child has ended that says nothing any more.
const REAP_EVERY: Duration = Duration::from_secs(1);

/// Runs the hidden command `keep`, for a service; `None` when this process was not started by a supervisor.
///
/// To be called first of all: every page that is not touched before is memory that each service does not cost.
#[must_use]
pub fn run(service: &str) -> Option<i32> {
    if !socket_acceptconn(rustix::stdio::stdin()).unwrap_or(false) {
        return None;
    }
    Some(i32::from(begin(service).is_err()))
}

fn begin(service: &str) -> io::Result<()> {
    // Before anything is opened: what the program before this one held, in the same process.
    let handed = handover::by(std::process::id());
    let follows = handed.is_some();
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let link = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    os::close_on_exec_from(3);
    if !follows {
        if os::fork()?.is_some() {
            return Ok(());
        }
        let _ = nix::unistd::setsid();
    }
    ignore_signals()?;
    let mut start = || start_supervisor(service);
    let mut keeper = Keeper::new(service, listener, link);
    if let Some(held) = handed {
        (keeper.held, keeper.others_children) = (held, true);
    }
    keeper.keep(&mut start)
}

/// Whoever ends all that runs on a host ends the supervisors; those say what becomes of this process.
fn ignore_signals() -> io::Result<()> {
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ignored.add(signal);
    }
    Ok(ignored.thread_set_mask()?)
}

/// A supervisor's connection, and the process when it is a child of this one.
type Started = (OwnedFd, Option<Child>);

fn start_supervisor(service: &str) -> io::Result<Started> {
    let (near, far) = wire::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0("opsrun")
        .args(["supervise", "--again", service])
        .env_remove(crate::crash_point::VARIABLE)
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((near, Some(child)))
}

/// What it holds, and for whom.
pub(super) struct Keeper {
    service: String,
    listener: OwnedFd,
    /// To the supervisor.
    link: Option<OwnedFd>,
    since: Instant,
    /// Those who have connected, and are not the supervisor, or not yet.
    guests: Vec<OwnedFd>,
    held: Vec<(String, OwnedFd)>,
    child: Option<Child>,
    /// Whether the program before this one may have started a supervisor, which is this process's child, too.
    others_children: bool,
    wait: Duration,
    /// When the next supervisor is started.
    next_at: Option<Instant>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Keeper {
    pub(super) fn new(service: &str, listener: OwnedFd, link: OwnedFd) -> Self {
        let _ = set_socket_timeout(&link, Timeout::Send, Some(PATIENCE));
        Self {
            service: service.to_owned(),
            listener,
            link: Some(link),
            since: Instant::now(),
            guests: Vec::new(),
            held: Vec::new(),
            child: None,
            others_children: false,
            wait: WAIT_FIRST,
            next_at: None,
        }
    }

    /// Keeps until a supervisor says that it is over.
    pub(super) fn keep(&mut self, start: &mut dyn FnMut() -> io::Result<Started>) -> io::Result<()> {
        loop {
            let (linked, visited, greeted) = self.wait()?;
            // All that a supervisor which died has said is heard before who comes in its place.
            if linked {
                if self.hear() == Then::End {
                    return Ok(());
                }
                continue;
            }
            if let Some(guest) = greeted
                && self.hear_guest(guest) == Then::End
            {
                return Ok(());
            }
            if visited {
                self.welcome();
            }
            self.reap();
            if self.next_at.is_some_and(|at| Instant::now() >= at) {
                self.next_at = None;
                match start() {
                    Ok((link, child)) => {
                        self.become_of(link);
                        self.child = child;
                    }
                    Err(_) => self.lost(),
                }
            }
        }
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
        while self.others_children {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) => {}
                Err(_) => self.others_children = false,
            }
        }
    }

    /// Waits until the link, the listener or a guest has something, or it is time for something.
    fn wait(&self) -> io::Result<(bool, bool, Option<usize>)> {
        let now = Instant::now();
        let next = self.next_at.map(|at| at.saturating_duration_since(now));
        let children = self.child.is_some() || self.others_children;
        let reap = children.then_some(REAP_EVERY).filter(|_| self.next_at.is_some());
        let timeout = next.into_iter().chain(reap).min().map(|time| {
            let time = time + Duration::from_millis(1);
            rustix::time::Timespec::try_from(time).expect("OK because no wait is centuries long")
        });
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.guests.iter().chain(&self.link).map(|socket| PollFd::new(socket, PollFlags::IN)));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false, None)),
            polled => polled?,
        };
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let visited = ready.next().unwrap_or(false);
        let greeted = ready.by_ref().take(self.guests.len()).position(|ready| ready);
        // The link is the last one, and was passed over when a guest before it was found.
        let linked = self.link.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
        Ok((linked, visited, greeted))
    }

    /// What the supervisor says.
    fn hear(&mut self) -> Then {
        let Some(link) = &self.link else { return Then::GoOn };
        let Ok(Some(packet)) = wire::receive(link) else {
            self.lost();
            return Then::GoOn;
        };
        match (packet.word, packet.descriptor) {
            (word::KEEP, Some(descriptor)) => {
                self.held.retain(|(name, _)| *name != packet.name);
                if self.held.len() < KEPT_MAX {
                    self.held.push((packet.name, descriptor));
                }
            }
            (word::FORGET, _) => self.held.retain(|(name, _)| *name != packet.name),
            (word::HAND_OVER, _) => self.hand_over(),
            (word::BECOME, Some(program)) => self.become_program(&program),
            (word::BYE, _) => return Then::End,
            _ => {}
        }
        Then::GoOn
    }

    fn hand_over(&mut self) {
        let Some(link) = &self.link else { return };
        let mut items = self.held.iter();
        let sent = items
            .try_for_each(|(name, fd)| wire::send(link, word::ITEM, name, Some(fd.as_fd())))
            .and_then(|()| wire::send(link, word::LAST, "", None));
        if sent.is_err() {
            self.lost();
        }
    }

    /// Executes the supervisor's program in place of this one, unless it is the same. Should that not be able to go on, the
    /// supervisor starts another keeper, with all there is.
    fn become_program(&self, program: &OwnedFd) {
        let (Some(link), Ok(wanted)) = (&self.link, rustix::fs::fstat(program)) else { return };
        let own = rustix::fs::stat("/proc/self/exe");
        if own.is_ok_and(|own| (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino)) {
            return;
        }
        let (Ok(listener), Ok(link)) = (self.listener.try_clone(), link.try_clone()) else { return };
        let handed: Vec<_> = self.held.iter().map(|(name, held)| (name.as_str(), held.as_fd())).collect();
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0("opsrun").args(["keep", &self.service]);
        command.env(handover::VARIABLE, handover::begin(&handed));
        // OK to ignore: it goes on as what it is.
        let _ = command.stdin(listener).stdout(link).exec();
        handover::end(&handed);
        let _ = ignore_signals();
        if let Ok(null) = File::open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
        }
    }

    /// Somebody has connected: only who this process is may.
    fn welcome(&mut self) {
        let Ok(guest) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        let own = rustix::process::geteuid();
        if socket_peercred(&guest).is_ok_and(|peer| peer.uid.as_raw() == own.as_raw())
            && self.guests.len() < GUESTS_MAX
        {
            self.guests.push(guest);
        }
    }

    fn hear_guest(&mut self, index: usize) -> Then {
        let guest = self.guests.swap_remove(index);
        match wire::receive(&guest) {
            Ok(Some(packet)) if packet.word == word::HAND_OVER => {
                self.become_of(guest);
                self.hand_over();
                Then::GoOn
            }
            Ok(Some(packet)) if packet.word == word::BYE => Then::End,
            // Who only wanted to know whether somebody is here.
            _ => Then::GoOn,
        }
    }

    fn become_of(&mut self, link: OwnedFd) {
        let _ = set_socket_timeout(&link, Timeout::Send, Some(PATIENCE));
        self.link = Some(link);
        self.since = Instant::now();
        self.next_at = None;
    }

    /// The supervisor died.
    fn lost(&mut self) {
        let lived = if self.link.take().is_some() { self.since.elapsed() } else { Duration::ZERO };
        self.wait = if lived >= LIVED_WELL { WAIT_FIRST } else { self.wait };
        self.next_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(WAIT_MAX);
    }
}
