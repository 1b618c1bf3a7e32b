//! What a command does to have a service started or stopped: it finds or starts the supervisor and talks to it.
//! It knows no container.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::container;
use crate::control::{self, Answer, Command, Conversation};
use crate::crash_point;
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::events::By;
use crate::folders::ServiceFolders;
use crate::history::{End, History, Person};
use crate::limits::Limits;
use crate::lock::Lock;
use crate::port;
use crate::record::{Record, State, Way};
use crate::swap::{Left, Request, Step};
use crate::{keep, supervisor, systemd};

/// A supervisor that is about to come is waited for so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// So often it is looked whether it has come.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// One thing is asked of no more supervisors in a row that die over it.
const SUPERVISORS_MAX: u32 = 5;

/// A service that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Number of its generation.
    pub generation: u32,
    /// Its release.
    pub release: String,
    /// Its process 1.
    pub pid: i32,
    /// From the command until it was healthy.
    pub took: Duration,
}

/// A service that was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The release that ran.
    pub release: String,
    /// From the command until nothing of it was left.
    pub took: Duration,
}

/// Starts the bundle of a generation, [`ServiceFolders::generation`], and waits until it is healthy.
///
/// # Errors
/// [`Error::AlreadyRunning`] and [`Error::Busy`], [`Error::PortTaken`], [`Error::StartFailed`]: nothing has changed
/// then, and nothing of the new generation runs.
pub fn start(folders: &ServiceFolders, generation: u32) -> Result<Started, Error> {
    let began = Instant::now();
    let definition = Definition::of(&container::read_spec(&folders.generation(generation))?)?;
    refuse_if_supervised(folders)?;
    // Of a supervisor that died; its service would hold the port.
    supervisor::clear_by(folders, By::this_process(), false)?;
    for port in &definition.ports {
        let found = port::listener(*port)
            .map_err(|error| Error::Io { doing: "look who listens on the service's port", source: error })?;
        if let Some(holder) = found {
            return Err(Error::PortTaken { port: *port, holder: holder.to_string() });
        }
    }
    let begin = Command::Start { generation };
    let answer = if systemd::keeps(folders) {
        start_unit(folders, &begin)
    } else {
        ask(&mut spawn_supervisor(folders)?, &begin, folders)
    };
    let answer = match answer {
        Err(Error::SupervisorGone { .. }) => start_without_supervisor(folders, generation)?,
        answer => answer?,
    };
    match answer {
        Answer::Healthy { pid } => {
            Ok(Started { generation, release: definition.release, pid, took: began.elapsed() })
        }
        other => Err(refusal(other, folders)),
    }
}

/// What has become of a start whose supervisor died: the next one goes on with it if it was healthy by then, and clears it
/// away if not.
fn start_without_supervisor(folders: &ServiceFolders, generation: u32) -> Result<Answer, Error> {
    let gone = || Error::SupervisorGone { service: folders.name().to_owned() };
    if let Some(mut supervisor) = supervisor_of(folders)? {
        let up = matches!(
            ask(&mut supervisor, &Command::Resume, folders),
            Ok(Answer::Healthy { .. } | Answer::AlreadyRunning { .. })
        );
        let record = Record::read(folders)?.filter(|record| up && record.generation == generation);
        if let Some(process) = record.and_then(|record| record.process) {
            return Ok(Answer::Healthy { pid: process.pid });
        }
    }
    // Whoever asked hears that it failed, so nobody wants it up any more.
    supervisor::clear_by(folders, By::this_process(), true)?;
    Err(gone())
}

/// Brings up again what the record says, and waits until it is healthy. On a failure the supervisor tries on.
///
/// # Errors
/// As [`start`].
pub fn resume(folders: &ServiceFolders) -> Result<Started, Error> {
    let began = Instant::now();
    let not_running = || Error::NotRunning { service: folders.name().to_owned() };
    Record::read(folders)?.ok_or_else(not_running)?;
    let was_supervised = is_supervised(folders);
    let answer = match ask_who_comes(folders, &Command::Resume)? {
        Some(answer) => answer,
        None => {
            refuse_if_supervised(folders)?;
            ask(&mut spawn_supervisor(folders)?, &Command::Resume, folders)?
        }
    };
    let record = Record::read(folders)?.ok_or_else(not_running)?;
    let went_on = !was_supervised && matches!(answer, Answer::AlreadyRunning { .. });
    let pid = record.process.as_ref().map(|process| process.pid).filter(|_| went_on);
    match pid.map_or(answer, |pid| Answer::Healthy { pid }) {
        Answer::Healthy { pid } => {
            Ok(Started { generation: record.generation, release: record.release, pid, took: began.elapsed() })
        }
        other => Err(refusal(other, folders)),
    }
}

/// Asks the service's supervisor, and when that dies over it the one that comes next; `None` when there is none.
fn ask_who_comes(folders: &ServiceFolders, command: &Command) -> Result<Option<Answer>, Error> {
    for _ in 0..SUPERVISORS_MAX {
        let Some(mut supervisor) = supervisor_of(folders)? else { return Ok(None) };
        match ask(&mut supervisor, command, folders) {
            Err(Error::SupervisorGone { .. }) => {}
            answer => return answer.map(Some),
        }
    }
    Err(Error::SupervisorGone { service: folders.name().to_owned() })
}

/// A conversation with the service's supervisor. One that is about to come is waited for, and one is started where
/// something lives that has none. `None` when there is none, and nothing for it to do.
fn supervisor_of(folders: &ServiceFolders) -> Result<Option<Conversation>, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = control::connect(&folders.control()) {
            return Ok(Some(Conversation::new(stream)));
        }
        let lives = supervisor::lives(folders)?;
        let by_systemd = systemd::keeps(folders);
        let coming = is_supervised(folders) || if by_systemd { lives } else { keep::is_there(folders) };
        let may_wait = Instant::now() < deadline;
        if coming && may_wait {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        if coming || by_systemd || !lives {
            return Ok(None);
        }
        let mut supervisor = spawn_supervisor(folders)?;
        match ask(&mut supervisor, &Command::Adopt, folders) {
            Ok(Answer::Healthy { .. }) => return Ok(Some(supervisor)),
            // Another command was faster.
            Ok(Answer::Busy { .. }) | Err(Error::SupervisorGone { .. }) if may_wait => {}
            Ok(other) => return Err(refusal(other, folders)),
            Err(error) => return Err(error),
        }
    }
}

fn ask(supervisor: &mut Conversation, command: &Command, folders: &ServiceFolders) -> Result<Answer, Error> {
    crash_point::here();
    match supervisor.say(command) {
        Ok(()) => hear(supervisor, folders),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Error::SupervisorGone { service: folders.name().to_owned() })
        }
        Err(error) => Err(Error::Io { doing: "talk to the supervisor", source: error }),
    }
}

/// Has systemd start the service's unit. The supervisor that comes connects to a socket which waits for it: so it is told
/// what to start, and its answer is as full as that of one in the background.
fn start_unit(folders: &ServiceFolders, begin: &Command) -> Result<Answer, Error> {
    let failed = |error| Error::Io { doing: "have systemd start the supervisor", source: error };
    supervisor::make_private_folder(&folders.run).map_err(failed)?;
    let place = folders.next();
    let listener = control::listen(&place).map_err(failed)?;
    let mut systemctl = systemd::begin_start(folders.name()).map_err(failed)?;
    let come = await_supervisor(&listener, &mut systemctl);
    drop(listener);
    let _ = fs_err::remove_file(&place);
    let Some(stream) = come.map_err(failed)? else {
        let done = systemctl.wait_with_output().map_err(failed)?;
        let (verb, unit) = ("start", systemd::unit(folders.name()));
        return Err(Error::Systemd { verb, unit, source: systemd::complaint(&done.stderr) });
    };
    stream.set_nonblocking(false).map_err(failed)?;
    let answer = ask(&mut Conversation::new(stream), begin, folders);
    // systemd has the last word on what the unit is; only then do both say the same of it.
    systemctl.wait_with_output().map_err(failed)?;
    if !matches!(answer, Ok(Answer::Healthy { .. })) {
        // Whoever asked hears why, and nothing has changed: the unit is as little failed as the service.
        let _ = systemd::systemctl("reset-failed", folders.name());
    }
    answer
}

/// Waits for the supervisor, or for the end of the command that starts it, whichever comes first.
fn await_supervisor(listener: &UnixListener, systemctl: &mut Child) -> io::Result<Option<UnixStream>> {
    let pid = rustix::process::Pid::from_child(systemctl);
    let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            polled => break polled.map(drop)?,
        }
    }
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stops the service and waits until nothing of it is left. One whose supervisor died is stopped as well.
///
/// # Errors
/// [`Error::NotRunning`], [`Error::Busy`].
pub fn stop(folders: &ServiceFolders) -> Result<Stopped, Error> {
    let began = Instant::now();
    let not_running = || Error::NotRunning { service: folders.name().to_owned() };
    let stopped = |record: Record| {
        if systemd::keeps(folders) {
            // Until the unit is down too. What systemd says of one that is down already does not matter.
            let _ = systemd::systemctl("stop", folders.name());
        }
        Stopped { release: record.release, took: began.elapsed() }
    };
    // A service whose first start is stopped has no record after that.
    let begun = Record::read(folders).ok().flatten();
    match ask_who_comes(folders, &Command::Stop)? {
        // Read again only now: a corrupt record is a good one again.
        Some(Answer::Stopped) => {
            return Ok(stopped(Record::read(folders)?.or(begun).ok_or_else(not_running)?));
        }
        Some(other) => return Err(refusal(other, folders)),
        None => {}
    }
    Record::read(folders)?.ok_or_else(not_running)?;
    if systemd::keeps(folders) {
        // It may be about to start a supervisor in place of one that died.
        systemd::systemctl("stop", folders.name())?;
    }
    refuse_if_supervised(folders)?;
    let record = Record::read(folders)?.ok_or_else(not_running)?;
    if record.process.is_none() && record.state == State::Stopped {
        clear(folders)?;
        return Err(not_running());
    }
    // First: that its supervisor was lost would not be why it ended.
    let person = Some(Person::of_this_process());
    History::of(folders).ended(record.generation, End::Stopped { person })?;
    supervisor::clear_by(folders, By::this_process(), true)?;
    let crash_looped = record.state == State::CrashLoop;
    let stopped = stopped(record);
    if crash_looped && systemd::keeps(folders) {
        // Or the unit of what is down as wanted would stay failed.
        let _ = systemd::systemctl("reset-failed", folders.name());
    }
    Ok(stopped)
}

/// Has the supervisor of a service go on as another program, without a restart of the service: its process.
///
/// # Errors
/// [`Error::NotRunning`] when it has no supervisor; [`Error::Supervisor`] when that cannot now, or has ended over it.
pub fn reexec(folders: &ServiceFolders, program: &Path) -> Result<i32, Error> {
    let service = || folders.name().to_owned();
    let mut supervisor = supervisor_of(folders)?.ok_or_else(|| Error::NotRunning { service: service() })?;
    match ask(&mut supervisor, &Command::Reexec { program: program.to_owned() }, folders) {
        // As it executed the program.
        Err(Error::SupervisorGone { .. }) => {}
        answer => return Err(refusal(answer?, folders)),
    }
    // It goes on when it can be talked to again.
    match ask_who_comes(folders, &Command::Resume)? {
        Some(Answer::AlreadyRunning { .. } | Answer::Healthy { .. }) => {}
        _ => return Err(Error::SupervisorGone { service: service() }),
    }
    let holder = Lock::holder(&folders.lock());
    let holder = holder.map_err(|error| Error::Io { doing: "look at the service's lock", source: error })?;
    let same = |pid: &i32| {
        let of = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        of(Path::new(&format!("/proc/{pid}/exe"))) == of(program)
    };
    holder.filter(same).ok_or_else(|| Error::Supervisor {
        service: service(),
        source: Failure::new(format!("{} could not go on; the program before does", program.display())),
    })
}

/// Removes what is left of a service that has no supervisor.
///
/// # Errors
/// [`Error::Busy`] when it has one, [`Error::Io`].
pub fn clear(folders: &ServiceFolders) -> Result<(), Error> {
    supervisor::clear_by(folders, By::this_process(), false)
}

/// Changes the limits of a running service without a restart: all of them, or none when one cannot be kept.
/// `annotations` go into the generation's bundle. The cgroup's files whose values are others now.
///
/// # Errors
/// [`Error::NotRunning`]; [`Error::NotUpdated`] with the reason.
pub fn update(
    folders: &ServiceFolders,
    limits: &Limits,
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<String>, Error> {
    let not_running = || Error::NotRunning { service: folders.name().to_owned() };
    let command = Command::Update { limits: limits.clone(), annotations: annotations.clone() };
    match ask_who_comes(folders, &command)?.ok_or_else(not_running)? {
        Answer::Updated { changed } => Ok(changed),
        Answer::Refused(source) => Err(Error::NotUpdated { service: folders.name().to_owned(), source }),
        other => Err(refusal(other, folders)),
    }
}

/// A generation that took another's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapped {
    /// Its process 1.
    pub pid: i32,
    /// For so long nothing served.
    pub gap: Duration,
    /// Whether those who connected meanwhile have waited; else they were refused.
    pub waited: bool,
    /// The way that it went in the end, and why.
    pub way: Option<(Way, String)>,
    /// What the old generation had left when it was asked to end.
    pub left: Left,
    /// From the command until the old generation was given up.
    pub took: Duration,
}

/// Puts a generation in place of the one that runs; `on` hears how far it is. The supervisor goes on with it even when
/// this process does not wait for the end.
///
/// # Errors
/// [`Error::CandidateFailed`] says whether the old generation serves again. [`Error::NotRunning`], [`Error::Swapping`] by
/// way of [`Error::Supervisor`]: nothing has changed. [`Error::SwapCancelled`], [`Error::SupervisorGone`]: look at the
/// record.
pub fn swap(folders: &ServiceFolders, request: Request, on: &mut dyn FnMut(Step)) -> Result<Swapped, Error> {
    let began = Instant::now();
    let service = folders.name().to_owned();
    let mut supervisor =
        supervisor_of(folders)?.ok_or_else(|| Error::NotRunning { service: service.clone() })?;
    let mut answer = ask(&mut supervisor, &Command::Swap(request), folders)?;
    loop {
        return match answer {
            Answer::Step(step) => {
                on(step);
                answer = hear(&mut supervisor, folders)?;
                continue;
            }
            Answer::Swapped { pid, gap_ms, waited, way, left } => {
                let gap = Duration::from_millis(gap_ms);
                Ok(Swapped { pid, gap, waited, way, left, took: began.elapsed() })
            }
            Answer::WentBack { failure, output, gap_ms } => {
                let gap = Duration::from_millis(gap_ms);
                Err(Error::CandidateFailed { service, source: failure, output, gap, back: None })
            }
            Answer::NeitherServes { failure, output, back } => {
                let gap = Duration::ZERO;
                Err(Error::CandidateFailed { service, source: failure, output, gap, back: Some(back) })
            }
            Answer::Cancelled => Err(Error::SwapCancelled { service }),
            other => Err(refusal(other, folders)),
        };
    }
}

/// Whether a living supervisor holds the service.
#[must_use]
pub fn is_supervised(folders: &ServiceFolders) -> bool {
    Lock::holder(&folders.lock()).is_ok_and(|holder| holder.is_some())
}

fn refuse_if_supervised(folders: &ServiceFolders) -> Result<(), Error> {
    let holder = Lock::holder(&folders.lock())
        .map_err(|error| Error::Io { doing: "look at the service's lock", source: error })?;
    let Some(holder) = holder else { return Ok(()) };
    let service = folders.name().to_owned();
    match Record::read(folders)? {
        Some(record) if matches!(record.state, State::Running | State::BackingOff) => {
            Err(Error::AlreadyRunning { service, release: record.release })
        }
        _ => Err(Error::Busy { service, holder }),
    }
}

/// Starts the supervisor in the background, with the other end of a socket as its first client: no moment to wait for
/// and no race for who connects.
fn spawn_supervisor(folders: &ServiceFolders) -> Result<Conversation, Error> {
    crash_point::here();
    let failed = |error| Error::Io { doing: "start the supervisor", source: error };
    let (near, far) = UnixStream::pair().map_err(failed)?;
    Program::new("/proc/self/exe")
        .arg0("opsrun")
        .arg("supervise")
        .arg(folders.name())
        .stdin(Stdio::from(OwnedFd::from(far)))
        // What it has to say are events; also that it panicked.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok(Conversation::new(near))
}

fn hear(supervisor: &mut Conversation, folders: &ServiceFolders) -> Result<Answer, Error> {
    match supervisor.hear::<Answer>() {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::SupervisorGone { service: folders.name().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(Error::SupervisorGone { service: folders.name().to_owned() })
        }
        Err(error) => Err(Error::Io { doing: "talk to the supervisor", source: error }),
    }
}

fn refusal(answer: Answer, folders: &ServiceFolders) -> Error {
    let service = folders.name().to_owned();
    match answer {
        Answer::StartFailed { failure, output } => Error::StartFailed { service, source: failure, output },
        Answer::Busy { holder } => Error::Busy { service, holder },
        Answer::AlreadyRunning { release } => Error::AlreadyRunning { service, release },
        Answer::Refused(failure) => Error::Supervisor { service, source: failure },
        _ => Error::Supervisor {
            service,
            source: Failure::new("it answered something else than it was asked"),
        },
    }
}
