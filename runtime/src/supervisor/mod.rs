//! The supervisor of one service: one thread, one loop that waits for whatever comes first, turns it into an event of
//! the life cycle and performs the actions that follow. It knows no image and no command line.
//!
//! ```text
//!   signals (children that ended, SIGTERM) ─┐
//!   control socket and its clients ─────────┤             ┌─▶ container made, let go, signalled, killed, cleared
//!   the throw-away process's reports ───────┼─▶ event ─▶ life cycle ─▶ actions ─▶ record replaced, clients told
//!   the probe under way ────────────────────┤             └─▶ probe begun, deadline set
//!   deadlines ──────────────────────────────┘
//!   stdout and stderr of the service ─────────▶ log, with no event
//! ```
//!
//! A failing disk or system call never ends the loop while the service runs: it is told as an event.

mod actions;
mod adopt;
mod past;
mod telling;
mod update;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use crate::container::{self, Making};
use crate::control::{self, Answer, Command, Conversation};
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::events::{By, EventFile, Kind};
use crate::folders::ServiceFolders;
use crate::health::Prober;
use crate::history::{End, Person};
use crate::host_files::HostFiles;
use crate::lifecycle::{Action, Event, Life};
use crate::lock::{Lock, Tried};
use crate::log::{Drained, Journal, LogWriter, Stream};
use crate::memory::MemoryWatch;
use crate::os;
use crate::record::{self, Exit, Record};
use crate::systemd::{self, Stage, Unit};
pub(crate) use telling::entry;
use telling::{Askers, Origin, Step};

/// Clients at once; one more is turned away.
const CLIENTS_MAX: usize = 32;
/// Ended children whose purpose is not known yet.
const STRAYS_MAX: usize = 16;

/// Runs the hidden command `supervise`: the first client is its standard input.
///
/// Returns the exit status: 0 when the service was stopped, 1 when it could not be supervised or is left alone.
#[must_use]
pub fn run(folders: &ServiceFolders) -> i32 {
    let Ok(mut first) = take_first_client() else { return 1 };
    match Supervisor::begin(folders, None) {
        Ok(Begun::Supervisor(mut supervisor)) => {
            supervisor.clients.push(first);
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

/// Runs the hidden command `supervise --unit`: this process is the service's unit of systemd's. It starts what a command
/// that waits for it names, and otherwise what the record says.
///
/// Returns the exit status, as [`run`].
///
/// # Errors
/// [`Error::Busy`], [`Error::NotRunning`] when the service was never started, [`Error::Io`].
pub fn run_unit(folders: &ServiceFolders) -> Result<i32, Error> {
    let failed = |error| Error::Io { doing: "begin to supervise", source: error };
    let unit = Unit::of_this_process();
    settle().map_err(failed)?;
    let mut supervisor = match Supervisor::begin(folders, Some(unit))? {
        Begun::Supervisor(supervisor) => supervisor,
        Begun::Busy(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
    };
    match control::connect(&folders.next()) {
        Ok(stream) => {
            stream.set_nonblocking(true).map_err(failed)?;
            supervisor.cleared |= clear_leftovers(folders)?;
            supervisor.clients.push(Conversation::new(stream));
        }
        // Nobody waits, or the one who did is gone.
        Err(_) => supervisor.take_up(By::Systemd {})?,
    }
    Ok(supervisor.supervise())
}

/// Removes what is left of a service whose supervisor is gone for good, as systemd wants it.
///
/// # Errors
/// [`Error::Busy`] when it has one, [`Error::Io`].
pub fn clear(folders: &ServiceFolders) -> Result<(), Error> {
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
    let cleared = clear_leftovers(folders)?;
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

fn take_first_client() -> std::io::Result<Conversation> {
    // A login that ends takes its session along; a supervisor must not be part of it.
    let _ = nix::unistd::setsid();
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    settle()?;
    let stream = UnixStream::from(stdin);
    stream.set_nonblocking(true)?;
    Ok(Conversation::new(stream))
}

/// Nothing of who started this process shows in what it starts.
fn settle() -> std::io::Result<()> {
    os::close_on_exec_from(3);
    std::env::set_current_dir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

enum Begun {
    Supervisor(Box<Supervisor>),
    Busy(i32),
}

/// What the supervisor holds of the generation it runs.
struct Running {
    life: Life,
    definition: Definition,
    cgroup: PathBuf,
    bundle: PathBuf,
    prober: Prober,
    log: LogWriter,
    host_files: Option<HostFiles>,
    making: Option<Making>,
    pid: Option<Pid>,
    memory: Option<MemoryWatch>,
    /// The end of a container whose parent was a supervisor that died.
    adopted: Option<OwnedFd>,
    output: Vec<(Stream, OwnedFd)>,
    record: Record,
    /// The record as it is on disk, once it was written.
    written: Option<Record>,
    /// What the record said before: a start in vain changes nothing.
    before: Option<Record>,
}

struct Supervisor {
    folders: ServiceFolders,
    lock: Option<Lock>,
    listener: Option<UnixListener>,
    signals: SignalFd,
    clients: Vec<Conversation>,
    running: Option<Running>,
    events: VecDeque<Event>,
    deadline: Option<u64>,
    strays: VecDeque<(Pid, i32)>,
    began: Instant,
    ended: Option<i32>,
    /// What is to be said of the generation's end once it was asked to end.
    ending: Option<End>,
    /// When this process is a unit of systemd's.
    unit: Option<Unit>,
    /// Scopes that were made.
    scopes: u32,
    event_file: EventFile,
    askers: Askers,
    /// Whether a supervisor that died had left something.
    cleared: bool,
}

/// What the loop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Making,
    Adopted,
    Probe,
    HostFiles,
    Memory,
    Output(usize),
}

impl Supervisor {
    fn begin(folders: &ServiceFolders, unit: Option<Unit>) -> Result<Begun, Error> {
        let failed = |doing| move |error: std::io::Error| Error::Io { doing, source: error };
        for folder in [&folders.state, &folders.log] {
            fs_err::create_dir_all(folder).map_err(failed("make the service's folders"))?;
        }
        make_private_folder(&folders.run).map_err(failed("make the service's folders"))?;
        let lock = match Lock::try_hold(&folders.lock()).map_err(failed("lock the service"))? {
            Tried::Held(lock) => lock,
            Tried::By(holder) => return Ok(Begun::Busy(holder)),
        };
        let left_alone = unit.is_some() && adopt::adoptable(folders)?.is_some();
        let cleared = !left_alone && clear_leftovers(folders)?;
        let listener = control::listen(&folders.control()).map_err(failed("make the supervisor's socket"))?;
        let mut wanted = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            wanted.add(signal);
        }
        let blocked = wanted.thread_block().map_err(std::io::Error::from);
        blocked.map_err(failed("block signals"))?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed("receive signals")(error.into()))?;
        Ok(Begun::Supervisor(Box::new(Self {
            folders: folders.clone(),
            lock: Some(lock),
            listener: Some(listener),
            signals,
            clients: Vec::new(),
            running: None,
            events: VecDeque::new(),
            deadline: None,
            strays: VecDeque::new(),
            began: Instant::now(),
            ended: None,
            ending: None,
            unit,
            scopes: 0,
            event_file: EventFile::of(folders),
            askers: Askers { start: By::Opsrun {}, stop: By::Opsrun {} },
            cleared,
        })))
    }

    fn supervise(&mut self) -> i32 {
        telling::tell_of_panics(&self.folders);
        loop {
            while let Some(event) = self.events.pop_front() {
                self.happen(event);
            }
            self.tell_unit();
            if let Some(status) = self.ended {
                return status;
            }
            if self.running.is_none() && self.clients.is_empty() {
                // Whoever started this supervisor went away before it said what for.
                return 1;
            }
            for source in self.wait() {
                self.serve(source);
            }
            self.turn_probe(false);
            if self.deadline.is_some_and(|at| self.now() >= at) {
                self.deadline = None;
                self.events.push_back(Event::Deadline);
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until something is ready or a time has come; what is ready.
    fn wait(&self) -> Vec<Source> {
        let awaited = self.awaited();
        let mut fds: Vec<_> =
            awaited.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.sleeps_at_most().map(|time| {
            rustix::time::Timespec::try_from(time).expect("OK because no deadline is centuries away")
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            // Nothing is ready then; the signal itself is read from its descriptor.
            Err(_) => return Vec::new(),
        }
        let ready = awaited.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((source, ..), _)| *source).collect()
    }

    fn awaited(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut awaited = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if let Some(listener) = &self.listener {
            awaited.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        for (index, client) in self.clients.iter().enumerate() {
            awaited.push((Source::Client(index), client.stream.as_fd(), PollFlags::IN));
        }
        let Some(running) = &self.running else { return awaited };
        if let Some(making) = &running.making {
            awaited.push((Source::Making, making.as_fd(), PollFlags::IN));
        }
        if let Some(pidfd) = &running.adopted {
            awaited.push((Source::Adopted, pidfd.as_fd(), PollFlags::IN));
        }
        if let Some((fd, flags)) = running.prober.waits_for() {
            awaited.push((Source::Probe, fd, flags));
        }
        if let Some(memory) = &running.memory {
            awaited.push((Source::Memory, memory.as_fd(), PollFlags::PRI));
        }
        if let Some(files) = &running.host_files {
            awaited.push((Source::HostFiles, files.as_fd(), PollFlags::IN));
        }
        for (index, (_, pipe)) in running.output.iter().enumerate() {
            awaited.push((Source::Output(index), pipe.as_fd(), PollFlags::IN));
        }
        awaited
    }

    fn sleeps_at_most(&self) -> Option<Duration> {
        let deadline =
            self.deadline.map(|at| Duration::from_millis(at.saturating_sub(self.now()).saturating_add(1)));
        let probe = self.running.as_ref().and_then(|running| running.prober.wakes_at());
        let probe = probe.map(|at| at.saturating_duration_since(Instant::now()));
        let unit = self.unit.as_ref().and_then(Unit::wakes_at);
        let unit = unit.map(|at| at.saturating_duration_since(Instant::now()));
        [deadline, probe, unit].into_iter().flatten().min()
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Listener => self.accept(),
            Source::Client(index) => self.listen_to(index),
            Source::Making => self.continue_making(),
            Source::Adopted => self.adopted_ended(),
            Source::Memory => self.look_at_memory(),
            Source::Probe => self.turn_probe(true),
            Source::HostFiles => {
                let files = self.running.as_ref().and_then(|running| running.host_files.as_ref());
                if let Some(Err(error)) = files.map(HostFiles::refresh) {
                    let failure = Failure::new(error.to_string());
                    self.trouble(&failure.within("could not follow the host's resolv.conf and hosts"));
                }
            }
            Source::Output(index) => self.drain(index),
        }
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            self.clients.push(Conversation::new(stream));
        }
    }

    fn listen_to(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        match client.hear::<Command>() {
            Ok(Some(command)) => self.obey(&command, index),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // A client that left, or that does not speak this protocol.
            Ok(None) | Err(_) => {
                self.clients.remove(index);
            }
        }
    }

    fn obey(&mut self, command: &Command, index: usize) {
        let by = self.clients.get(index).map_or(By::Opsrun {}, |client| By::peer(&client.stream));
        let refusal = match (command, &self.running) {
            (Command::Start { generation }, None) => match self.prepare(*generation) {
                Ok(running) => {
                    self.begin_to_run(running, Event::Start, by);
                    None
                }
                Err(error) => {
                    self.ended = Some(1);
                    Some(Answer::Refused(Failure::of(&error)))
                }
            },
            (Command::Resume, None) => match self.take_up(by) {
                Ok(()) => None,
                Err(error) => {
                    self.ended = Some(1);
                    Some(Answer::Refused(Failure::of(&error)))
                }
            },
            (Command::Start { .. } | Command::Resume, Some(running)) => {
                Some(Answer::AlreadyRunning { release: running.definition.release.clone() })
            }
            (Command::Stop, Some(_)) => {
                let person = self.clients.get(index).and_then(|client| Person::at_other_end(&client.stream));
                self.ending = Some(End::Stopped { person });
                self.askers.stop = by;
                self.events.push_back(Event::Stop);
                None
            }
            (Command::Stop, None) => Some(Answer::Stopped),
            (Command::Update { limits, annotations }, _) => Some(match self.update(limits, annotations) {
                Ok(limits) => {
                    let changed = limits.keys().cloned().collect();
                    if !limits.is_empty() {
                        self.tell_by(Kind::Updated { limits }, by);
                    }
                    Answer::Updated { changed }
                }
                Err(error) => Answer::Refused(Failure::of(&error)),
            }),
        };
        if let (Some(answer), Some(client)) = (refusal, self.clients.get_mut(index)) {
            let _ = client.say(&answer);
        }
    }

    fn prepare(&self, generation: u32) -> Result<Running, Error> {
        let bundle = self.folders.generation(generation);
        let spec = container::read_spec(&bundle)?;
        let definition = Definition::of(&spec)?;
        let before = Record::read(&self.folders)?;
        let host_files = HostFiles::follow(&self.folders.host_files())
            .map_err(|error| Error::Io { doing: "copy the host's resolv.conf and hosts", source: error })?;
        let journal = self
            .folders
            .is_of_host()
            .then(|| Journal::open(&definition.service, &definition.release, definition.generation));
        let log = LogWriter::open(&self.folders.output(generation))?.with_journal(journal.flatten());
        let life = Life::new(definition.clone());
        let cgroup = container::cgroup_of(&spec).to_owned();
        Ok(Running {
            prober: Prober::new(definition.health.clone(), &bundle, &self.folders.run, &cgroup),
            record: first_record(&definition, &life),
            life,
            definition,
            cgroup,
            bundle,
            log,
            host_files: Some(host_files),
            making: None,
            pid: None,
            memory: None,
            adopted: None,
            output: Vec::new(),
            written: None,
            before,
        })
    }

    /// From here on there is a service to keep up.
    fn begin_to_run(&mut self, running: Running, event: Event, by: By) {
        self.running = Some(running);
        self.askers.start = by;
        let process = i32::try_from(std::process::id()).unwrap_or(0);
        self.tell(Kind::Supervised { process, cleared: self.cleared }, Origin::Start);
        self.events.push_back(event);
    }

    /// One step of the life cycle. What happened is written down before anything is done about it, and that nothing runs
    /// any more once that is so.
    fn happen(&mut self, event: Event) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        let (life, actions) = running.life.clone().step(event.clone(), now);
        let before = std::mem::replace(&mut running.life, life);
        let process = running.pid.map_or(0, Pid::as_raw);
        let step =
            Step { before: &before, event: &event, after: &running.life, actions: &actions, now, process };
        let (last, first): (Vec<_>, Vec<_>) =
            step.events().into_iter().partition(|(kind, _)| matches!(kind, Kind::Stopped { .. }));
        for (kind, origin) in first {
            self.tell(kind, origin);
        }
        let mut last = last.into_iter();
        for action in actions {
            if matches!(action, Action::Report(_) | Action::End) {
                last.by_ref().for_each(|(kind, origin)| self.tell(kind, origin));
            }
            self.act(action);
        }
        self.write_record();
    }

    fn drain(&mut self, index: usize) {
        let Some(running) = &mut self.running else { return };
        let Some((stream, pipe)) = running.output.get(index) else { return };
        match running.log.drain(*stream, pipe.as_fd()) {
            Ok(Drained::Open) => {}
            // All writers have closed it, or it cannot be read: nothing more will come.
            Ok(Drained::Ended) | Err(_) => {
                running.output.remove(index);
            }
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) => {}
                Ok(_) => {
                    self.askers.stop = self.who_signals(&signal);
                    let asked = self.asked_to_end();
                    let halted = asked == Event::Halt;
                    self.ending = Some(if halted { End::HostDown } else { End::Stopped { person: None } });
                    self.events.push_back(asked);
                }
                Err(_) => {}
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            let Some((pid, status)) = exit_status(status) else {
                if status == WaitStatus::StillAlive {
                    break;
                }
                continue;
            };
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: Pid, status: i32) {
        // What the throw-away process has to say of this child comes first. It has nothing to say, and would wait for
        // ever, before it was let go.
        while self.running.as_ref().is_some_and(|running| {
            running.pid == Some(pid) && running.making.as_ref().is_some_and(Making::went)
        }) {
            self.continue_making();
        }
        if self.running.as_ref().is_some_and(|running| running.pid == Some(pid)) {
            // Why it ended comes before that it did.
            self.look_at_memory();
        }
        let Some(running) = &mut self.running else { return };
        if running.pid == Some(pid) {
            running.pid = None;
            running.record.last_exit = Some(Exit { at_ms: now_unix_ms(), status });
            if running.making.take().is_some() {
                let early =
                    Failure::new(format!("its process 1 ended with status {status} before it was started"));
                self.events.push_back(Event::NotMade(early));
            } else {
                self.events.push_back(Event::Exited(status));
            }
        } else if let Some(verdict) = running.prober.child_ended(pid, status) {
            self.events.push_back(Event::Probed(verdict));
        } else {
            if self.strays.len() == STRAYS_MAX {
                self.strays.pop_front();
            }
            self.strays.push_back((pid, status));
        }
    }

    /// Whether the kernel has killed something of the container for want of memory.
    fn look_at_memory(&mut self) {
        let Some(running) = &mut self.running else { return };
        match running.memory.as_mut().map(MemoryWatch::killed) {
            Some(Ok(Some((count, sentence)))) => {
                running.record.oom_kills = running.record.oom_kills.saturating_add(count);
                running.log.remark(&format!("opsrun: {sentence}"));
                self.tell(Kind::Oom { processes: count, message: sentence.clone() }, Origin::Own);
                self.events.push_back(Event::OutOfMemory(sentence));
            }
            Some(Ok(None)) | None => {}
            // The cgroup is gone. Waited for, it would be ready for ever.
            Some(Err(_)) => running.memory = None,
        }
    }

    fn turn_probe(&mut self, ready: bool) {
        let Some(running) = &mut self.running else { return };
        let mut verdict = running.prober.turn(ready, Instant::now());
        // A check that ended before it was reported to exist.
        if verdict.is_none() {
            verdict = self.strays.iter().find_map(|(pid, status)| running.prober.child_ended(*pid, *status));
        }
        if let Some(verdict) = verdict {
            self.events.push_back(Event::Probed(verdict));
        }
    }

    /// systemd's own process sends it when it stops the unit.
    fn who_signals(&self, signal: &nix::libc::signalfd_siginfo) -> By {
        match (&self.unit, signal.ssi_pid) {
            (Some(_), 1) => By::Systemd {},
            (_, process) => By::process(process.cast_signed(), signal.ssi_uid),
        }
    }

    /// What a signal to end means. It is nobody's wish that the service be down when the whole host goes down; without
    /// systemd that is the only one who sends it.
    fn asked_to_end(&self) -> Event {
        match &self.unit {
            Some(_) if !systemd::is_stopping() => Event::Stop,
            _ => Event::Halt,
        }
    }

    fn tell_unit(&mut self) {
        let Some(unit) = &mut self.unit else { return };
        let Some(running) = &self.running else { return };
        let state = running.life.state();
        let stage = match state {
            record::State::Running => Stage::Up,
            record::State::Starting | record::State::BackingOff => Stage::Starting,
            record::State::Stopping | record::State::Stopped | record::State::CrashLoop => Stage::Stopping,
        };
        let mut status =
            format!("{} {}: {}", running.definition.service, running.definition.release, state.text());
        if state == record::State::Running {
            status = format!("{status}, {}", running.life.health().text());
        }
        if let (false, Some(failure)) = (state == record::State::Running, running.life.last_failure()) {
            status = format!("{status}; {failure}");
        }
        unit.tell(stage, &status);
    }
}

/// Kills and removes what a supervisor that died left behind; whether it lived.
fn clear_leftovers(folders: &ServiceFolders) -> Result<bool, Error> {
    let Some(mut record) = Record::read(folders)? else { return Ok(false) };
    let Some(process) = record.process.take() else { return Ok(false) };
    let alive = process.is_alive();
    let cgroup = PathBuf::from(&process.cgroup);
    container::clear(&folders.run, &cgroup)?;
    past::note_lost(folders, record.generation, &process)?;
    record.state = record::State::Stopped;
    record.health = record::Health::Unknown;
    record.started_at_ms = None;
    record.changed_at_ms = now_unix_ms();
    record.write(folders)?;
    Ok(alive)
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

fn first_record(definition: &Definition, life: &Life) -> Record {
    Record {
        version: record::VERSION,
        service: definition.service.clone(),
        release: definition.release.clone(),
        image: definition.image.clone(),
        image_id: definition.image_id.clone(),
        generation: definition.generation,
        ports: definition.ports.clone(),
        wanted: life.wanted(),
        state: life.state(),
        health: life.health(),
        process: None,
        started_at_ms: None,
        changed_at_ms: now_unix_ms(),
        restarts: 0,
        oom_kills: 0,
        unenforced: Vec::new(),
        last_exit: None,
        last_failure: None,
    }
}

fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A child that has ended, and its status as a shell gives it.
fn exit_status(status: WaitStatus) -> Option<(Pid, i32)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32)),
        _ => None,
    }
}
