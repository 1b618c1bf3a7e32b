//! Probes a service, one probe at a time, without ever waiting: the supervisor's loop tells it when something is ready.
//! It knows what a probe says, not what follows from it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::channel::Request;
use crate::container::{Made, Making};
use crate::definition::{HealthCheck, Probe};
use crate::enter;
use crate::steering::{PROBE_MARK, SERVING_MARK, sockets};

/// An answer's status line and headers are never longer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// More headers than this and the answer is none.
const HEADERS_MAX: usize = 100;

/// From this time between two probes on they keep a beat that all supervisors of the host share, see [`on_the_beat`].
const BEAT_FROM: Duration = Duration::from_secs(1);
/// No beat is longer.
const BEAT_MAX: Duration = Duration::from_secs(1);

/// How often it is looked who has got a probe's connection.
const PROOF_INTERVAL: Duration = Duration::from_millis(5);

/// How often in a row it may belong to a stranger.
const STRANGE_MAX: u32 = 3;

/// What a probe said; why not, if not well.
pub(crate) type Verdict = Result<(), String>;

/// The prober of one service.
#[derive(Debug)]
pub(crate) struct Prober {
    check: HealthCheck,
    bundle: PathBuf,
    run: PathBuf,
    cgroup: PathBuf,
    to: To,
    attempt: Attempt,
}

/// Whom a probe reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Whoever gets the connections to the port.
    Whoever,
    /// The generation that serves, also where a share of the connections to the port goes elsewhere.
    Serving,
    /// The container, past the generation that serves: it counts only what it answers itself, and the connection has the mark
    /// by which it is told from clients'.
    Itself,
    /// The same, and it does not listen yet: another would get the connection.
    Nobody,
}

impl To {
    /// What its connections are told by from clients'.
    fn mark(self) -> Option<u32> {
        match self {
            Self::Whoever | Self::Nobody => None,
            Self::Serving => Some(SERVING_MARK),
            Self::Itself => Some(PROBE_MARK),
        }
    }
}

#[derive(Debug)]
enum Attempt {
    None,
    Due(Instant),
    Connecting {
        socket: OwnedFd,
        until: Instant,
    },
    /// Who has got the connection is found out before the rest of the question is sent: after the answer it is closed.
    Proving {
        socket: OwnedFd,
        rest: String,
        strange: u32,
        next: Instant,
        until: Instant,
    },
    Reading {
        socket: OwnedFd,
        answer: Vec<u8>,
        until: Instant,
    },
    Entering {
        making: Making,
        until: Instant,
    },
    Inside {
        pid: Pid,
        until: Instant,
    },
}

impl Prober {
    /// A prober of the container of a bundle, with its run folder and cgroup.
    pub(crate) fn new(check: HealthCheck, bundle: &Path, run: &Path, cgroup: &Path) -> Self {
        Self {
            check,
            bundle: bundle.to_owned(),
            run: run.to_owned(),
            cgroup: cgroup.to_owned(),
            to: To::Whoever,
            attempt: Attempt::None,
        }
    }

    /// Whom the next probe is to reach.
    pub(crate) fn steer(&mut self, to: To) {
        self.to = to;
    }

    /// Another container, in another cgroup, is to be probed from now on.
    pub(crate) fn moved_to(&mut self, cgroup: &Path) {
        cgroup.clone_into(&mut self.cgroup);
    }

    /// Probes once after so many milliseconds; on the beat, where they are many.
    pub(crate) fn probe_after(&mut self, milliseconds: u64, now: Instant) {
        let extra = match self.check.probe {
            Probe::Runs { for_ms } => for_ms,
            _ => 0,
        };
        let after = Duration::from_millis(milliseconds.saturating_add(extra));
        let boot = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        self.attempt = Attempt::Due(now + on_the_beat(boot, after));
    }

    /// Gives up the probe that is under way or due.
    pub(crate) fn cancel(&mut self) {
        match std::mem::replace(&mut self.attempt, Attempt::None) {
            Attempt::Inside { pid, .. } => {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            // Left alone it could make the container's cgroup anew when that has been removed.
            Attempt::Entering { making, .. } => making.give_up(),
            _ => {}
        }
    }

    /// What to wait for.
    pub(crate) fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.attempt {
            Attempt::Connecting { socket, .. } => Some((socket.as_fd(), PollFlags::OUT)),
            Attempt::Reading { socket, .. } => Some((socket.as_fd(), PollFlags::IN)),
            Attempt::Entering { making, .. } => Some((making.as_fd(), PollFlags::IN)),
            _ => None,
        }
    }

    /// When to call [`Prober::turn`] at the latest.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        match &self.attempt {
            Attempt::None => None,
            Attempt::Due(at) => Some(*at),
            Attempt::Proving { next, until, .. } => Some(*next.min(until)),
            Attempt::Connecting { until, .. }
            | Attempt::Reading { until, .. }
            | Attempt::Entering { until, .. }
            | Attempt::Inside { until, .. } => Some(*until),
        }
    }

    /// Goes on as far as it can without waiting; `ready` says whether what it waits for has come.
    pub(crate) fn turn(&mut self, ready: bool, now: Instant) -> Option<Verdict> {
        match std::mem::replace(&mut self.attempt, Attempt::None) {
            Attempt::Due(at) if now >= at => self.begin(now),
            Attempt::Connecting { socket, until } if ready => self.connected(socket, until, now),
            Attempt::Proving { until, .. } if now >= until => {
                Some(Err("its connection was not accepted by the new container".to_owned()))
            }
            Attempt::Proving { socket, rest, strange, next, until } if now >= next => {
                self.prove(socket, rest, strange, until, now)
            }
            Attempt::Reading { socket, answer, until } if ready => self.read(socket, answer, until),
            Attempt::Entering { making, until } if ready => self.entered(making, until),
            Attempt::Inside { pid, until } if now >= until => {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                Some(Err(self.late()))
            }
            Attempt::Connecting { until, .. } | Attempt::Reading { until, .. } if now >= until => {
                Some(Err(self.late()))
            }
            Attempt::Entering { making, until } if now >= until => {
                making.give_up();
                Some(Err(self.late()))
            }
            unchanged => {
                self.attempt = unchanged;
                None
            }
        }
    }

    /// Probes once and waits for the verdict: for a process that has nothing else to wait for.
    pub(crate) fn probe_and_wait(&mut self) -> io::Result<Verdict> {
        self.probe_after(0, Instant::now());
        loop {
            let now = Instant::now();
            let child = match self.attempt {
                Attempt::Inside { pid, .. } => Some(pid),
                _ => None,
            };
            let ended = child.map(pidfd_of).transpose()?;
            let awaited = match &ended {
                Some(pidfd) => Some((pidfd.as_fd(), PollFlags::IN)),
                None => self.waits_for(),
            };
            let wait = self.wakes_at().map(|at| at.saturating_duration_since(now));
            let wait =
                wait.map(|wait| Timespec::try_from(wait).expect("OK because a probe takes no centuries"));
            let ready = match awaited {
                Some((fd, flags)) => {
                    rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, flags)], wait.as_ref())? > 0
                }
                None => {
                    rustix::event::poll(&mut [], wait.as_ref())?;
                    false
                }
            };
            if let (Some(child), true) = (child, ready) {
                let status = waitpid(child, None)?;
                let status = match status {
                    WaitStatus::Exited(_, code) => code,
                    WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
                    _ => continue,
                };
                if let Some(verdict) = self.child_ended(child, status) {
                    return Ok(verdict);
                }
            } else if let Some(verdict) = self.turn(ready, Instant::now()) {
                return Ok(verdict);
            }
        }
    }

    /// A child of the supervisor has ended; the verdict when it was the probe.
    pub(crate) fn child_ended(&mut self, child: Pid, status: i32) -> Option<Verdict> {
        match self.attempt {
            Attempt::Inside { pid, .. } if pid == child => {
                self.attempt = Attempt::None;
                Some(if status == 0 {
                    Ok(())
                } else {
                    Err(format!("the health check command ended with status {status}"))
                })
            }
            _ => None,
        }
    }

    fn begin(&mut self, now: Instant) -> Option<Verdict> {
        let until = now + Duration::from_millis(self.check.timeout_ms);
        match &self.check.probe {
            Probe::Runs { .. } => Some(Ok(())),
            Probe::Tcp { .. } | Probe::Http { .. } if self.to == To::Nobody => {
                Some(Err("it has not bound its port".to_owned()))
            }
            Probe::Tcp { address, port } | Probe::Http { address, port, .. } => {
                match connect(address, *port, self.to.mark()) {
                    Ok(socket) => self.connecting(socket, until),
                    Err(error) => Some(Err(format!("{address} port {port}: {error}"))),
                }
            }
            Probe::Command { arguments } => match self.enter(arguments.clone()) {
                Ok(making) => {
                    self.attempt = Attempt::Entering { making, until };
                    None
                }
                Err(error) => Some(Err(crate::Failure::of(&error).to_string())),
            },
        }
    }

    /// The check runs as confined as the service: its user, its capabilities, its filter.
    fn enter(&self, arguments: Vec<String>) -> Result<Making, crate::Error> {
        let process = crate::container::read_process(&self.bundle)?;
        let process = enter::process_like_the_service(process, arguments, &[]);
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| crate::Error::Io { doing: "open /dev/null", source: error })?;
        let request = Request::Enter {
            bundle: self.bundle.clone(),
            run: self.run.clone(),
            cgroup: self.cgroup.clone(),
            process: Box::new(process),
        };
        Making::begin(&request, [null.as_fd(), null.as_fd(), null.as_fd()])
    }

    fn entered(&mut self, mut making: Making, until: Instant) -> Option<Verdict> {
        match making.next() {
            Some(Made::Created { pid, .. }) => {
                // Whether the program could be executed shows in its status: 126 and 127 are no success.
                self.attempt = Attempt::Inside { pid, until };
                None
            }
            Some(Made::Failed(error)) => Some(Err(crate::Failure::of(&error).to_string())),
            Some(_) | None => Some(Err("the health check command did not start".to_owned())),
        }
    }

    /// Within a host a connection stands, or is refused, when connect(2) returns, although it says EINPROGRESS to who does not
    /// wait: a question for which nothing has to be found out first is then taken at once, and nothing has to be waited for.
    fn connecting(&mut self, socket: OwnedFd, until: Instant) -> Option<Verdict> {
        if self.to != To::Itself && matches!(self.check.probe, Probe::Http { .. }) {
            let (first, rest) = self.question();
            let question = first + &rest;
            match rustix::net::send(&socket, question.as_bytes(), rustix::net::SendFlags::NOSIGNAL) {
                // It does not stand yet (tcp_sendmsg_locked of the kernel's net/ipv4/tcp.c).
                Err(rustix::io::Errno::AGAIN) => {}
                sent => return self.asked(socket, sent.map(|sent| sent == question.len()), until),
            }
        }
        self.attempt = Attempt::Connecting { socket, until };
        None
    }

    fn connected(&mut self, socket: OwnedFd, until: Instant, now: Instant) -> Option<Verdict> {
        match rustix::net::sockopt::socket_error(&socket) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => return Some(Err(self.at(&io::Error::from(error)))),
        }
        let (first, rest) = self.question();
        if self.to != To::Itself {
            return self.ask(socket, &format!("{first}{rest}"), until);
        }
        // A server may accept a connection only when something has come (tcp(7), TCP_DEFER_ACCEPT).
        match rustix::net::send(&socket, first.as_bytes(), rustix::net::SendFlags::NOSIGNAL) {
            Ok(_) => self.prove(socket, rest, 0, until, now),
            Err(error) => Some(Err(self.at(&io::Error::from(error)))),
        }
    }

    /// What a server is asked, in two parts of which the first is no question yet; both empty where nothing is.
    fn question(&self) -> (String, String) {
        let Probe::Http { address, port, path } = &self.check.probe else { return Default::default() };
        let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        let rest = format!(
            "{path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: opsrun\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        // Less than a line, since a server may answer one that it does not like at once.
        ("GET ".to_owned(), rest)
    }

    /// Goes on when a process of the container has the other end of the connection.
    fn prove(
        &mut self,
        socket: OwnedFd,
        rest: String,
        mut strange: u32,
        until: Instant,
        now: Instant,
    ) -> Option<Verdict> {
        match self.far_end(&socket) {
            Ok(FarEnd::Own) => return self.ask(socket, &rest, until),
            Ok(FarEnd::Nobodys) => {}
            // It may be on its way from one process of the container to another.
            Ok(FarEnd::Strangers) if strange < STRANGE_MAX => strange += 1,
            Ok(FarEnd::Strangers) => return Some(Err("another one has accepted its connection".to_owned())),
            Err(error) => return Some(Err(self.at(&error))),
        }
        self.attempt = Attempt::Proving { socket, rest, strange, next: now + PROOF_INTERVAL, until };
        None
    }

    fn far_end(&self, socket: &OwnedFd) -> io::Result<FarEnd> {
        let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
        let remote = rustix::net::getpeername(socket)?.ok_or(io::ErrorKind::NotConnected)?;
        let remote = SocketAddr::try_from(remote)?;
        Ok(match sockets::far_end(local, remote)? {
            Some(end) if end.inode == 0 => FarEnd::Nobodys,
            Some(end) if sockets::open_in(&self.cgroup)?.contains(&end.inode) => FarEnd::Own,
            Some(_) => FarEnd::Strangers,
            // A server that waits for a word before it accepts, and is not going to be told one: the mark has to do.
            None if matches!(self.check.probe, Probe::Tcp { .. })
                && sockets::half_open(remote.port())?.contains(&local) =>
            {
                FarEnd::Own
            }
            None => FarEnd::Nobodys,
        })
    }

    fn ask(&mut self, socket: OwnedFd, question: &str, until: Instant) -> Option<Verdict> {
        if !matches!(self.check.probe, Probe::Http { .. }) {
            return Some(Ok(()));
        }
        let sent = rustix::net::send(&socket, question.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
        self.asked(socket, sent.map(|sent| sent == question.len()), until)
    }

    /// The question was sent, whole or not: a fresh socket's buffer takes one of this size, so no partial write has to be gone
    /// on with.
    fn asked(
        &mut self,
        socket: OwnedFd,
        whole: Result<bool, rustix::io::Errno>,
        until: Instant,
    ) -> Option<Verdict> {
        match whole {
            Ok(true) => {
                self.attempt = Attempt::Reading { socket, answer: Vec::new(), until };
                None
            }
            Ok(false) => Some(Err("the request could not be sent whole".to_owned())),
            Err(error) => Some(Err(self.at(&io::Error::from(error)))),
        }
    }

    fn read(&mut self, socket: OwnedFd, mut answer: Vec<u8>, until: Instant) -> Option<Verdict> {
        let mut piece = [0; 4096];
        match rustix::io::read(&socket, &mut piece) {
            Ok(0) => return Some(Err("the connection was closed without an answer".to_owned())),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Some(Err(self.at(&io::Error::from(error)))),
        }
        if let Some(verdict) = judge(&answer) {
            return Some(verdict);
        }
        self.attempt = Attempt::Reading { socket, answer, until };
        None
    }

    fn at(&self, error: &io::Error) -> String {
        match &self.check.probe {
            Probe::Tcp { address, port } => format!("{address} port {port}: {error}"),
            Probe::Http { address, port, path } => format!("http://{address}:{port}{path}: {error}"),
            _ => error.to_string(),
        }
    }

    fn late(&self) -> String {
        let seconds = Duration::from_millis(self.check.timeout_ms).as_secs_f64();
        let what = match &self.check.probe {
            Probe::Http { address, port, path } => format!("http://{address}:{port}{path}"),
            Probe::Tcp { address, port } => format!("{address} port {port}"),
            Probe::Command { .. } => "the health check command".to_owned(),
            Probe::Runs { .. } => "the service".to_owned(),
        };
        format!("{what}: no answer within {seconds} s")
    }
}

/// When to probe, `boot` being the time since the host's boot: `after`, moved by at most a twentieth of it to the nearest
/// multiple of its tenth (or of [`BEAT_MAX`]) since boot. Supervisors have the same beats, so those of many services wake up
/// together, a tenth of them at a time: a probe costs a third less where those of others come right before it, presumably since
/// code is in the processor's caches then. While a service starts it is probed at shorter times, of which none is moved.
fn on_the_beat(boot: Duration, after: Duration) -> Duration {
    if after < BEAT_FROM {
        return after;
    }
    let beat = (after / 10).min(BEAT_MAX).as_nanos();
    let past = (boot + after).as_nanos() % beat;
    let nanoseconds = |time: u128| Duration::from_nanos(u64::try_from(time).unwrap_or(0));
    if past < beat.div_ceil(2) { after - nanoseconds(past) } else { after + nanoseconds(beat - past) }
}

/// Whose the other end of a connection is.
enum FarEnd {
    Own,
    Nobodys,
    Strangers,
}

fn pidfd_of(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

fn connect(address: &str, port: u16, mark: Option<u32>) -> io::Result<OwnedFd> {
    let address: IpAddr =
        address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark)?;
    }
    match rustix::net::connect(&socket, &SocketAddr::new(address, port)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// What an answer says, once its head is complete: below 400 is well (a service that redirects or offers choices
/// serves; RFC 9110, section 15).
fn judge(answer: &[u8]) -> Option<Verdict> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(_)) => {
            let code = response.code.unwrap_or(0);
            Some(if (100..400).contains(&code) {
                Ok(())
            } else {
                Err(format!("answered {code} {}", response.reason.unwrap_or("")).trim_end().to_owned())
            })
        }
        Ok(httparse::Status::Partial) if answer.len() < ANSWER_BYTES_MAX => None,
        Ok(httparse::Status::Partial) => Some(Err("the head of the answer has no end".to_owned())),
        Err(_) => Some(Err("the answer is not HTTP".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_status() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.1 300 Multiple Choices\r\nA: b\r\n\r\n", Some(Ok(()))),
            (
                "HTTP/1.0 503 Service Unavailable\r\n\r\n",
                Some(Err("answered 503 Service Unavailable".into())),
            ),
            ("HTTP/1.1 500\r\n\r\n", Some(Err("answered 500".into()))),
            ("HTTP/1.1 200 OK\r\nHalf: a he", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", Some(Err("the answer is not HTTP".into()))),
        ] {
            assert_eq!(judge(answer.as_bytes()), expected, "{answer:?}");
        }
    }

    #[test]
    fn long_times_between_probes_end_on_the_beat_and_short_ones_when_they_end() {
        let ms = Duration::from_millis;
        for (boot, after, expected) in [
            (70_000, 0, 0),
            (70_040, 250, 250),
            (70_040, 999, 999),
            // The beat of a second is a tenth of it, and the next one is as far away as is asked for from then on.
            (70_040, 1_000, 960),
            (71_000, 1_000, 1_000),
            (70_060, 1_000, 1_040),
            (70_140, 3_000, 3_060),
            (70_400, 10_000, 9_600),
            (70_600, 60_000, 60_400),
        ] {
            assert_eq!(on_the_beat(ms(boot), ms(after)), ms(expected), "{after} ms at {boot}");
        }
    }

    fn verdict_of(probe: Probe) -> Verdict {
        let check =
            HealthCheck { probe, interval_ms: 1000, timeout_ms: 300, retries: 1, start_timeout_ms: 1000 };
        let nowhere = Path::new("/nowhere");
        Prober::new(check, nowhere, nowhere, nowhere).probe_and_wait().expect("poll")
    }

    #[test]
    fn a_listener_is_well_and_none_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let probe = Probe::Tcp { address: "127.0.0.1".into(), port };
        assert_eq!(verdict_of(probe.clone()), Ok(()));
        drop(listener);
        let refused = verdict_of(probe).expect_err("refused");
        assert!(refused.contains("Connection refused"), "{refused}");
        let probe = Probe::Http { address: "127.0.0.1".into(), port, path: "/".into() };
        let refused = verdict_of(probe).expect_err("refused");
        assert!(refused.starts_with(&format!("http://127.0.0.1:{port}/: Connection refused")), "{refused}");
    }

    #[test]
    fn a_server_that_accepts_and_never_answers_is_late() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let probe = Probe::Http { address: "127.0.0.1".into(), port, path: "/".into() };
        let late = verdict_of(probe).expect_err("late");
        assert_eq!(late, format!("http://127.0.0.1:{port}/: no answer within 0.3 s"));
    }
}
