//! What a supervisor holds of one generation: its life, its container as far as there is one, its output and its probes.
//! It knows neither the record nor whether another generation runs beside it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::allowance::Allowance;
use super::{exit_status, now_unix_ms};
use crate::channel::{Purpose, Request};
use crate::container::{self, Made, Making};
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::health::Prober;
use crate::host_files;
use crate::lifecycle::{Event, Life};
use crate::log::{Drained, Journal, LogWriter, Staging, Stream};
use crate::memory::MemoryWatch;
use crate::os;
use crate::record::{self, Exit, Process, Record};
use crate::steering::notified::Notified;
use crate::stop_signal;
use crate::systemd;

/// Ended children whose purpose is not known yet.
const STRAYS_MAX: usize = 16;

/// Whoever is to reap what has ended does so in this time, or its status stays unknown.
const REAPED_WITHIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A generation and its container.
pub(super) struct Running {
    pub life: Life,
    pub definition: Definition,
    pub cgroup: PathBuf,
    /// Whether its limits leave room for more than the container in there.
    roomy: bool,
    pub bundle: PathBuf,
    pub prober: Prober,
    /// Whether it stands still for somebody.
    pub frozen: bool,
    /// Where its binds are heard of, while its container runs.
    pub notified: Option<Notified>,
    /// How much of this process's time they may take.
    pub binds: Allowance,
    /// Whether that is so only now.
    pub heard_anew: bool,
    /// Why they are not.
    pub unheard: Option<Failure>,
    /// Since when it is not healthy any more, on the supervisor's clock.
    pub silent_since: Option<u64>,
    /// Whether those who connect meanwhile are refused.
    pub refusing: bool,
    pub log: LogWriter,
    pub making: Option<Making>,
    pub pid: Option<Pid>,
    pub memory: Option<MemoryWatch>,
    /// The end of a container whose parent was a supervisor that died.
    pub adopted: Option<OwnedFd>,
    pub output: Vec<(Stream, OwnedFd)>,
    /// When the life cycle wants to be woken, on the supervisor's clock.
    pub deadline: Option<u64>,
    /// What is known of it, as a record has it.
    pub record: Record,
    /// Ended children that may turn out to be its probe.
    strays: VecDeque<(Pid, i32)>,
}

/// What the loop waits for on behalf of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Making,
    Adopted,
    Probe,
    Memory,
    Bind,
    Output(usize),
}

impl Running {
    /// Reads a generation's bundle; nothing of it runs yet.
    pub fn prepare(folders: &ServiceFolders, generation: u32) -> Result<Self, Error> {
        Self::prepare_with(folders, generation, None)
    }

    /// The same of one that runs, whose output was being written by way of `staging`.
    pub fn prepare_with(
        folders: &ServiceFolders,
        generation: u32,
        staging: Option<Staging>,
    ) -> Result<Self, Error> {
        let bundle = folders.generation(generation);
        let spec = container::read_spec(&bundle)?;
        let definition = Definition::of(&spec)?;
        host_files::copy(&folders.host_files())
            .map_err(|error| Error::Io { doing: "copy the host's resolv.conf and hosts", source: error })?;
        let journal = folders
            .is_of_host()
            .then(|| Journal::open(&definition.service, &definition.release, definition.generation));
        let output = folders.output(generation);
        let log = match staging.and_then(|it| LogWriter::resume(&output, definition.log, it).ok()) {
            Some(log) => log,
            None => LogWriter::open(&output, definition.log)?,
        };
        let log = log.with_journal(journal.flatten());
        let life = Life::new(definition.clone());
        let cgroup = container::cgroup_of(&spec).to_owned();
        Ok(Self {
            prober: Prober::new(definition.health.clone(), &bundle, &folders.run, &cgroup),
            record: first_record(&definition, &life),
            life,
            definition,
            cgroup,
            roomy: container::is_roomy(&spec),
            bundle,
            log,
            frozen: false,
            making: None,
            pid: None,
            notified: None,
            binds: Allowance::new(Instant::now()),
            heard_anew: false,
            unheard: None,
            silent_since: None,
            refusing: false,
            memory: None,
            adopted: None,
            output: Vec::new(),
            deadline: None,
            strays: VecDeque::new(),
        })
    }

    pub fn generation(&self) -> u32 {
        self.definition.generation
    }

    /// When those who wait for its restart are to be refused, on the supervisor's clock.
    pub fn refuses_at(&self) -> Option<u64> {
        let since = self.silent_since.filter(|_| !self.refusing)?;
        Some(since.saturating_add(self.definition.health.start_timeout_ms))
    }

    /// When its binds are heard of again, after too many.
    pub fn hears_again_at(&self) -> Option<Instant> {
        self.notified.as_ref().and_then(|_| self.binds.waits_until(Instant::now()))
    }

    pub fn awaited(&self) -> Vec<(Part, BorrowedFd<'_>, PollFlags)> {
        // Room for what a service that runs has, in one piece.
        let mut awaited = Vec::with_capacity(8);
        if let Some(making) = &self.making {
            awaited.push((Part::Making, making.as_fd(), PollFlags::IN));
        }
        if let Some(pidfd) = &self.adopted {
            awaited.push((Part::Adopted, pidfd.as_fd(), PollFlags::IN));
        }
        if let Some((fd, flags)) = self.prober.waits_for() {
            awaited.push((Part::Probe, fd, flags));
        }
        let hears = self.binds.waits_until(Instant::now()).is_none();
        if let Some(notified) = self.notified.as_ref().filter(|_| hears) {
            awaited.push((Part::Bind, notified.as_fd(), PollFlags::IN));
        }
        if let Some(memory) = &self.memory {
            awaited.push((Part::Memory, memory.as_fd(), PollFlags::PRI));
        }
        for (index, (_, pipe)) in self.output.iter().enumerate() {
            awaited.push((Part::Output(index), pipe.as_fd(), PollFlags::IN));
        }
        awaited
    }

    /// Begins to make the container, in a scope of systemd's of this name when there is one. Its program gets these listeners.
    pub fn make(
        &mut self,
        folders: &ServiceFolders,
        scope: Option<&str>,
        listeners: &[OwnedFd],
    ) -> Result<(), Error> {
        if let Some(scope) = scope {
            self.cgroup = systemd::scoped(&container::id_of(&self.cgroup), scope);
            self.prober.moved_to(&self.cgroup);
        }
        let failed = |error| Error::Io { doing: "prepare the container's output", source: error };
        // What is left of an attempt that a crash cut short.
        container::clear(&folders.run, &self.cgroup)?;
        self.frozen = false;
        let null = std::fs::File::open("/dev/null").map_err(failed)?;
        let (out, out_far) = pipe().map_err(failed)?;
        let (err, err_far) = pipe().map_err(failed)?;
        let request = Request::Create {
            bundle: self.bundle.clone(),
            run: folders.run.clone(),
            cgroup: self.cgroup.clone(),
            roomy: self.roomy,
            init: self.definition.init,
            purpose: Purpose::Service,
            notified: !self.definition.ports.is_empty(),
        };
        let mut descriptors = vec![null.as_fd(), out_far.as_fd(), err_far.as_fd()];
        descriptors.extend(listeners.iter().map(AsFd::as_fd));
        self.making = Some(Making::begin_with(&request, &descriptors)?);
        self.log.forget_lines();
        self.output = vec![(Stream::Stdout, out), (Stream::Stderr, err)];
        Ok(())
    }

    /// What the throw-away process has to say.
    pub fn continue_making(&mut self) -> Option<Event> {
        match self.making.as_mut()?.next() {
            Some(Made::Created { pid, unenforced, .. }) => {
                self.pid = Some(pid);
                self.record.unenforced = unenforced;
                self.memory = MemoryWatch::begin(&self.cgroup);
                let outputs = self.output.iter().filter_map(|(_, pipe)| inode(pipe)).collect();
                self.record.process = Process::of(pid, &self.cgroup, outputs).ok();
                self.record.started_at_ms = Some(now_unix_ms());
                Some(Event::Created)
            }
            Some(Made::Notified(notified)) => {
                self.notified = Some(notified);
                self.heard_anew = true;
                None
            }
            Some(Made::NotNotified(why)) => {
                self.unheard = Some(why);
                None
            }
            Some(Made::Executed) => {
                self.making = None;
                Some(Event::Executed)
            }
            Some(Made::Failed(error)) => {
                self.making = None;
                Some(Event::NotMade(Failure::of(&error)))
            }
            None => {
                self.making = None;
                None
            }
        }
    }

    /// Lets the container that was made execute its program.
    pub fn go(&mut self) -> Result<(), Error> {
        self.making.as_mut().map_or(Ok(()), Making::go)
    }

    /// Sends the stop signal; why it could not be sent.
    pub fn signal(&self) -> Result<(), Failure> {
        let Some(pid) = self.pid else { return Ok(()) };
        let name = &self.definition.stop.signal;
        let number = stop_signal::number(name).unwrap_or(nix::libc::SIGTERM);
        os::send_signal(pid, number).map_err(|error| {
            Failure::new(error.to_string()).within(format!("could not send {name} to process {pid}"))
        })
    }

    /// The signal that it is asked to end by, when its main program has nothing that handles it.
    pub fn unhandled_stop(&self) -> Option<String> {
        let pid = self.pid?.as_raw();
        let unhandled = stop_signal::is_handled(pid, &self.definition).is_ok_and(|handled| !handled);
        unhandled.then(|| self.definition.stop.signal.clone())
    }

    /// Kills all of the container; why it could not be killed.
    pub fn kill(&self) -> Result<(), Failure> {
        if let Some(pid) = self.pid {
            // Process 1 takes its whole pid namespace along (pid_namespaces(7)).
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        crate::cgroup::Hierarchy::open()
            .and_then(|hierarchy| hierarchy.at(&self.cgroup).kill())
            .map_err(|error| Failure::new(error.to_string()).within("could not kill the container's cgroup"))
    }

    /// Leaves nothing of the container: the throw-away process first, so that it makes no more of it.
    pub fn clear(&mut self, folders: &ServiceFolders) -> Result<(), Error> {
        self.prober.cancel();
        if let Some(making) = self.making.take() {
            making.give_up();
        }
        self.memory = None;
        self.notified = None;
        let cleared = container::clear(&folders.run, &self.cgroup);
        if let Some(pid) = self.pid.take() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            if let Some(status) = waitpid(pid, None).ok().and_then(exit_status) {
                self.record.last_exit = Some(Exit { at_ms: now_unix_ms(), status: status.1 });
            }
        }
        self.adopted = None;
        self.record.process = None;
        self.record.started_at_ms = None;
        for (stream, pipe) in self.output.drain(..) {
            let _ = self.log.drain_rest(stream, pipe.as_fd());
        }
        self.log.finish();
        cleared
    }

    pub fn drain(&mut self, index: usize) {
        let Some((stream, pipe)) = self.output.get(index) else { return };
        match self.log.drain(*stream, pipe.as_fd()) {
            Ok(Drained::Open) => {}
            // All writers have closed it, or it cannot be read: nothing more will come.
            Ok(Drained::Ended) | Err(_) => {
                self.output.remove(index);
            }
        }
    }

    pub fn probe_after(&mut self, milliseconds: u64) {
        // Only children that end from now on can be this probe.
        self.strays.clear();
        self.prober.probe_after(milliseconds, Instant::now());
    }

    pub fn turn_probe(&mut self, ready: bool) -> Option<Event> {
        let mut verdict = self.prober.turn(ready, Instant::now());
        // A check that ended before it was reported to exist.
        if verdict.is_none() {
            verdict = self.strays.iter().find_map(|(pid, status)| self.prober.child_ended(*pid, *status));
        }
        verdict.map(Event::Probed)
    }

    /// A child of the supervisor has ended that is not the container; what follows when it was a probe.
    pub fn other_child_ended(&mut self, pid: Pid, status: i32) -> Option<Event> {
        if let Some(verdict) = self.prober.child_ended(pid, status) {
            return Some(Event::Probed(verdict));
        }
        if self.strays.len() == STRAYS_MAX {
            self.strays.pop_front();
        }
        self.strays.push_back((pid, status));
        None
    }

    /// The container's process 1, a child of the supervisor, has ended.
    pub fn ended(&mut self, status: i32) -> Event {
        self.pid = None;
        self.record.last_exit = Some(Exit { at_ms: now_unix_ms(), status });
        if self.making.take().is_none() {
            return Event::Exited(status);
        }
        let early = format!("its process 1 ended with status {status} before it was started");
        Event::NotMade(Failure::new(early))
    }

    /// The same of a container whose parent is dead.
    pub fn adopted_ended(&mut self) -> Event {
        let status = self.adopted.take().and_then(|pidfd| self.status_of_adopted(&pidfd));
        self.ended(status.unwrap_or(record::STATUS_UNSEEN))
    }

    /// How it has ended, where the kernel tells who is not its parent: as long as its parent has not reaped it, or for as
    /// long as its pidfd is open, since Linux 6.15.
    fn status_of_adopted(&self, pidfd: &OwnedFd) -> Option<i32> {
        if let Some(status) = self.record.process.as_ref().and_then(Process::status_of_zombie) {
            return Some(status);
        }
        // It hangs up when it has been reaped.
        let mut reaped = [PollFd::new(pidfd, PollFlags::empty())];
        let _ = rustix::event::poll(&mut reaped, Some(&REAPED_WITHIN));
        os::pidfd_exit_status(pidfd.as_fd()).ok().flatten().map(container::shell_status)
    }

    /// Whether the kernel has killed something of the container for want of memory.
    pub fn look_at_memory(&mut self) -> Option<Event> {
        match self.memory.as_mut()?.killed() {
            Ok(Some((count, sentence))) => {
                self.record.oom_kills = self.record.oom_kills.saturating_add(count);
                self.log.remark(&format!("opsrun: {sentence}"));
                Some(Event::OutOfMemory { processes: count, message: sentence })
            }
            Ok(None) => None,
            // The cgroup is gone. Waited for, it would be ready for ever.
            Err(_) => {
                self.memory = None;
                None
            }
        }
    }

    /// What is known of it gets how it does now.
    pub fn renew_record(&mut self) {
        let record = &mut self.record;
        if record.state != self.life.state() {
            record.changed_at_ms = now_unix_ms();
        }
        record.state = self.life.state();
        record.health = self.life.health();
        record.wanted = self.life.wanted();
        record.restarts = self.life.restarts();
        if record.last_failure.as_ref() != self.life.last_failure() {
            record.last_failure = self.life.last_failure().cloned();
        }
    }
}

/// A pipe whose near end never makes the loop wait.
fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&near, true)?;
    Ok((near, far))
}

pub(super) fn inode(pipe: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(pipe).ok().map(|found| found.st_ino)
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
        swap: None,
        last_exit: None,
        last_failure: None,
    }
}
