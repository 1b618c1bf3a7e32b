//! What a command does to have a service started or stopped: it finds or starts the supervisor and talks to it.
//! It knows no container.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use crate::container;
use crate::control::{self, Answer, Command, Conversation};
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::lock::{Lock, Tried};
use crate::port;
use crate::record::{Record, State, Wanted};
use crate::supervisor;

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
    clear_if_unsupervised(folders)?;
    for port in &definition.ports {
        let found = port::listener(*port)
            .map_err(|error| Error::Io { doing: "look who listens on the service's port", source: error })?;
        if let Some(holder) = found {
            return Err(Error::PortTaken { port: *port, holder: holder.to_string() });
        }
    }
    let mut supervisor = spawn_supervisor(folders)?;
    let said = supervisor.say(&Command::Start { generation });
    said.map_err(|error| Error::Io { doing: "talk to the supervisor", source: error })?;
    match hear(&mut supervisor, folders)? {
        Answer::Healthy { pid } => {
            Ok(Started { generation, release: definition.release, pid, took: began.elapsed() })
        }
        other => Err(refusal(other, folders)),
    }
}

/// Stops the service and waits until nothing of it is left. One whose supervisor died is stopped as well.
///
/// # Errors
/// [`Error::NotRunning`], [`Error::Busy`].
pub fn stop(folders: &ServiceFolders) -> Result<Stopped, Error> {
    let began = Instant::now();
    let not_running = || Error::NotRunning { service: folders.name().to_owned() };
    let record = Record::read(folders)?.ok_or_else(not_running)?;
    let stopped = |began: Instant| Stopped { release: record.release.clone(), took: began.elapsed() };
    match control::connect(&folders.control()) {
        Ok(stream) => {
            let mut supervisor = Conversation::new(stream);
            let said = supervisor.say(&Command::Stop);
            said.map_err(|error| Error::Io { doing: "talk to the supervisor", source: error })?;
            match hear(&mut supervisor, folders)? {
                Answer::Stopped => Ok(stopped(began)),
                other => Err(refusal(other, folders)),
            }
        }
        Err(_) => {
            refuse_if_supervised(folders)?;
            if record.process.is_none() && record.state == State::Stopped {
                return Err(not_running());
            }
            clear_if_unsupervised(folders)?;
            note_stopped(folders)?;
            Ok(stopped(began))
        }
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

fn clear_if_unsupervised(folders: &ServiceFolders) -> Result<(), Error> {
    let tried = Lock::try_hold(&folders.lock())
        .map_err(|error| Error::Io { doing: "lock the service", source: error })?;
    match tried {
        Tried::Held(_lock) => supervisor::clear_leftovers(folders),
        Tried::By(holder) => Err(Error::Busy { service: folders.name().to_owned(), holder }),
    }
}

/// A service that nobody supervises is down from now on because a person says so.
fn note_stopped(folders: &ServiceFolders) -> Result<(), Error> {
    let Some(mut record) = Record::read(folders)? else { return Ok(()) };
    record.state = State::Stopped;
    record.wanted = Wanted::Down;
    record.write(folders)
}

/// Starts the supervisor in the background, with the other end of a socket as its first client: no moment to wait for
/// and no race for who connects.
fn spawn_supervisor(folders: &ServiceFolders) -> Result<Conversation, Error> {
    let failed = |error| Error::Io { doing: "start the supervisor", source: error };
    let (near, far) = UnixStream::pair().map_err(failed)?;
    fs_err::create_dir_all(&folders.log).map_err(failed)?;
    let log = fs_err::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folders.supervisor_log())
        .map_err(failed)?
        .into_parts()
        .0;
    Program::new("/proc/self/exe")
        .arg("supervise")
        .arg(folders.name())
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::from(log.try_clone().map_err(failed)?))
        .stderr(Stdio::from(log))
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
        Answer::Healthy { .. } | Answer::Stopped => Error::Supervisor {
            service,
            source: Failure::new("it answered something else than it was asked"),
        },
    }
}
