//! How a supervisor begins, by whomever it is started, and how what one left behind is cleared away without one.
//! What it does from then on is another matter.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::clients::Client;
use super::reexec::HandedOver;
use super::telling::{self, Askers};
use super::{Supervisor, adopt, entry};
use crate::control::{self, Answer, Conversation};
use crate::error::{Error, Failure};
use crate::events::{By, EventFile, Kind};
use crate::folders::ServiceFolders;
use crate::handover;
use crate::host_files::{self, HostFiles};
use crate::keep::Kept;
use crate::lock::{Lock, Tried};
use crate::os;
use crate::record::{self, Record};
use crate::steering::Steering;
use crate::systemd::Unit;

/// Runs the hidden command `supervise`: the first client is its standard input.
///
/// Returns the exit status: 0 when the service was stopped, 1 when it could not be supervised or is left alone.
#[must_use]
pub fn run(folders: &ServiceFolders) -> i32 {
    let Ok(stream) = take_stdin().map(UnixStream::from) else { return 1 };
    if stream.set_nonblocking(true).is_err() {
        return 1;
    }
    let mut first = Conversation::new(stream);
    match Supervisor::begin(folders, None, None, || by_keeper(folders, None)) {
        Ok(Begun::Supervisor(mut supervisor)) => {
            supervisor.clients.push(Client::new(first));
            supervisor.supervise()
        }
        Ok(Begun::Busy(holder)) => {
            let _ = first.say(&Answer::Busy { holder });
            1
        }
        Err(error) => {
            let _ = first.say(&Answer::Refused(Failure::of(&error)));
            1
        }
    }
}

/// Runs the hidden command `supervise --again`: a supervisor died, and its keeper is at the other end of the standard
/// input.
///
/// Returns the exit status, as [`run`].
#[must_use]
pub fn run_again(folders: &ServiceFolders) -> i32 {
    // Before anything is opened.
    let handed = HandedOver::to_this_process();
    let Ok(stdin) = take_stdin() else { return 1 };
    let handed = handed.unwrap_or_else(|| HandedOver { link: Some(stdin), ..HandedOver::default() });
    let kept = || by_keeper(folders, handed.link);
    let begun = Supervisor::begin(folders, None, handed.lock, kept).and_then(|begun| match begun {
        Begun::Supervisor(mut supervisor) => supervisor.go_on().map(|()| supervisor.supervise()),
        Begun::Busy(_) => Ok(1),
    });
    begun.unwrap_or_else(|error| {
        let failure = Failure::of(&error).within("could not go on where a supervisor has died");
        telling::trouble_of(folders, &failure);
        1
    })
}

/// Runs the hidden command `supervise --unit`: this process is the service's unit of systemd's. It starts what a command
/// that waits for it names, and otherwise what the record says.
///
/// Returns the exit status, as [`run`].
///
/// # Errors
/// [`Error::Busy`], [`Error::NotRunning`] when the service was never started, [`Error::Io`].
pub fn run_unit(folders: &ServiceFolders) -> Result<i32, Error> {
    let failed = |error| Error::Io { doing: "begin to supervise", source: error };
    let handed = HandedOver::to_this_process().unwrap_or_default();
    let unit = Unit::of_this_process();
    let (store, mut held) = unit.store();
    held.extend(handed.kept);
    settle().map_err(failed)?;
    let kept = || Ok(Kept::by_systemd(store, held));
    let mut supervisor = match Supervisor::begin(folders, Some(unit), handed.lock, kept)? {
        Begun::Supervisor(supervisor) => supervisor,
        Begun::Busy(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
    };
    match control::connect(&folders.next()) {
        Ok(stream) => {
            stream.set_nonblocking(true).map_err(failed)?;
            supervisor.clients.push(Client::new(Conversation::new(stream)));
        }
        Err(_) if supervisor.is_to_stay_down()? => return supervisor.stay_down().map(|()| 0),
        // Nobody waits, or the one who did is gone.
        Err(_) => supervisor.take_up(By::Systemd {})?,
    }
    Ok(supervisor.supervise())
}

/// Whether this process was a supervisor before it executed this program.
#[must_use]
pub fn is_reexecuted() -> bool {
    handover::is_by(std::process::id())
}

/// Whether a supervisor would have something that lives to go on with.
pub(crate) fn lives(folders: &ServiceFolders) -> Result<bool, Error> {
    adopt::adoptable(folders).map(|process| process.is_some())
}

/// Removes what is left of a service whose supervisor is gone for good, as systemd wants it. What lives ends as it should.
///
/// # Errors
/// [`Error::Busy`] when it has one, [`Error::Io`].
pub fn clear(folders: &ServiceFolders) -> Result<(), Error> {
    if lives(folders)? {
        let kept = || Ok(Kept::by_nobody(Vec::new()));
        if let Begun::Supervisor(mut supervisor) = Supervisor::begin(folders, None, None, kept)?
            && supervisor.take_up_to_end()?
        {
            let _ = supervisor.supervise();
        }
    }
    clear_by(folders, By::Systemd {}, false)
}

/// The same for somebody, who may want it down from now on.
pub(crate) fn clear_by(folders: &ServiceFolders, by: By, wanted_down: bool) -> Result<(), Error> {
    let tried = Lock::try_hold(&folders.lock())
        .map_err(|error| Error::Io { doing: "lock the service", source: error })?;
    let _lock = match tried {
        Tried::Held(lock) => lock,
        Tried::By(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
    };
    let mut kept = Kept::of_keeper(folders, None);
    adopt::settle_swap(folders)?;
    let cleared = adopt::clear_leftovers(folders, kept.as_mut())?;
    if let Some(kept) = &mut kept {
        kept.bye();
    }
    let Some(mut record) = Record::read(folders)? else { return Ok(()) };
    if wanted_down {
        record.state = record::State::Stopped;
        record.wanted = record::Wanted::Down;
        record.write(folders)?;
    }
    if cleared || wanted_down {
        EventFile::of(folders).append(&entry(&record, Kind::Stopped { status: None }, by));
    }
    Ok(())
}

/// The socket that this process was started with in place of a standard input.
fn take_stdin() -> std::io::Result<OwnedFd> {
    // A login that ends takes its session along; a supervisor must not be part of it.
    let _ = nix::unistd::setsid();
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    settle()?;
    Ok(stdin)
}

/// Nothing of who started this process shows in what it starts.
fn settle() -> std::io::Result<()> {
    os::close_on_exec_from(3);
    std::env::set_current_dir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

fn by_keeper(folders: &ServiceFolders, link: Option<OwnedFd>) -> Result<Kept, Error> {
    Kept::by_keeper(folders, link).map_err(|error| Error::Io { doing: "start the keeper", source: error })
}

enum Begun {
    Supervisor(Box<Supervisor>),
    Busy(i32),
}

impl Supervisor {
    /// Holds the service, by the lock that the program before has handed over, and what is kept.
    fn begin(
        folders: &ServiceFolders,
        unit: Option<Unit>,
        lock: Option<Lock>,
        kept: impl FnOnce() -> Result<Kept, Error>,
    ) -> Result<Begun, Error> {
        let failed = |doing| move |error: std::io::Error| Error::Io { doing, source: error };
        for folder in [&folders.state, &folders.log] {
            fs_err::create_dir_all(folder).map_err(failed("make the service's folders"))?;
        }
        make_private_folder(&folders.run).map_err(failed("make the service's folders"))?;
        let lock = match lock {
            Some(lock) => lock,
            None => match Lock::try_hold(&folders.lock()).map_err(failed("lock the service"))? {
                Tried::Held(lock) => lock,
                Tried::By(holder) => return Ok(Begun::Busy(holder)),
            },
        };
        let mut kept = kept()?;
        let mut steering = Steering::new(&folders.run);
        adopt::inherit_listeners(&kept, &mut steering);
        adopt::settle_swap_of(folders, &mut steering)?;
        let found = Record::read(folders)?.map(|record| record.state);
        let lives = adopt::adoptable(folders)?.is_some();
        let cleared = !lives && adopt::clear_leftovers(folders, Some(&mut kept))?;
        let listener = control::listen(&folders.control()).map_err(failed("make the supervisor's socket"))?;
        let mut wanted = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, host_files::CHANGED] {
            wanted.add(signal);
        }
        let blocked = wanted.thread_block().map_err(std::io::Error::from);
        blocked.map_err(failed("block signals"))?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed("receive signals")(error.into()))?;
        let host_files =
            HostFiles::follow(folders.host_files()).map_err(failed("follow the host's files"))?;
        Ok(Begun::Supervisor(Box::new(Self {
            folders: folders.clone(),
            lock: Some(lock),
            listener: Some(listener),
            signals,
            clients: Vec::new(),
            active: None,
            other: None,
            events: VecDeque::new(),
            swap: None,
            host_files,
            steering,
            written: None,
            before: None,
            began: Instant::now(),
            ended: None,
            ending: None,
            unit,
            kept,
            found,
            scopes: 0,
            event_file: EventFile::of(folders),
            askers: Askers { start: By::Opsrun {}, stop: By::Opsrun {} },
            cleared,
        })))
    }
}

pub(crate) fn make_private_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = folder.parent() {
        fs_err::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
