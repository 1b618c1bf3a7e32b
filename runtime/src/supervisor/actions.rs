//! What a supervisor does when its life cycle says so: one function an action, each of which can be done again.
//! They know nothing of why.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{Running, Supervisor, exit_status, now_unix_ms};
use crate::channel::{Purpose, Request};
use crate::container::{self, Made, Making};
use crate::control::Answer;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::lifecycle::{Action, Event, Outcome};
use crate::log::Stream;
use crate::memory::MemoryWatch;
use crate::os;
use crate::record::{Exit, Process, State};
use crate::systemd;

impl Supervisor {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Make => self.make(),
            Action::Go => self.go(),
            Action::Signal => self.signal(),
            Action::Kill => self.kill(),
            Action::Clear => self.clear(),
            Action::Probe(after) => {
                // Only children that end from now on can be this probe.
                self.strays.clear();
                if let Some(running) = &mut self.running {
                    running.prober.probe_after(after, Instant::now());
                }
            }
            Action::NoProbe => {
                if let Some(running) = &mut self.running {
                    running.prober.cancel();
                }
            }
            Action::Deadline(at) => self.deadline = at,
            Action::Report(outcome) => self.report(outcome),
            Action::End => self.end(),
        }
    }

    fn make(&mut self) {
        let Some(running) = &mut self.running else { return };
        if self.folders.is_of_host() && systemd::is_running() {
            self.scopes += 1;
            let attempt = format!("{}-{}", std::process::id(), self.scopes);
            running.cgroup = systemd::scoped(&container::id_of(&running.cgroup), &attempt);
            running.prober.moved_to(&running.cgroup);
        }
        match begin_making(running, &self.folders) {
            Ok(making) => {
                running.making = Some(making);
                self.keep_output();
            }
            Err(error) => self.events.push_back(Event::NotMade(Failure::of(&error))),
        }
    }

    pub(super) fn continue_making(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(making) = &mut running.making else { return };
        let event = match making.next() {
            Some(Made::Created { pid, unenforced, .. }) => {
                running.pid = Some(pid);
                running.record.unenforced = unenforced;
                running.memory = MemoryWatch::begin(&running.cgroup);
                running.record.process = Process::of(pid, &running.cgroup).ok();
                running.record.started_at_ms = Some(now_unix_ms());
                Event::Created
            }
            Some(Made::Executed) => {
                running.making = None;
                Event::Executed
            }
            Some(Made::Failed(error)) => {
                running.making = None;
                Event::NotMade(Failure::of(&error))
            }
            None => {
                running.making = None;
                return;
            }
        };
        self.events.push_back(event);
    }

    /// The record is on disk, with the process in it, before the program runs.
    fn go(&mut self) {
        self.write_record();
        let Some(making) = self.running.as_mut().and_then(|running| running.making.as_mut()) else { return };
        if let Err(error) = making.go() {
            self.events.push_back(Event::NotMade(Failure::of(&error)));
        }
    }

    fn signal(&mut self) {
        let Some(running) = &self.running else { return };
        let Some(pid) = running.pid else { return };
        let name = &running.definition.stop.signal;
        let number = signal_number(name).unwrap_or(nix::libc::SIGTERM);
        if let Err(error) = os::send_signal(pid, number) {
            let what = format!("could not send {name} to process {pid}");
            self.trouble(&Failure::new(error.to_string()).within(what));
        }
    }

    fn kill(&mut self) {
        let Some(running) = &self.running else { return };
        if let Some(pid) = running.pid {
            // Process 1 takes its whole pid namespace along (pid_namespaces(7)).
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        let path = running.cgroup.clone();
        let killed = crate::cgroup::Hierarchy::open().and_then(|hierarchy| hierarchy.at(&path).kill());
        if let Err(error) = killed {
            self.trouble(&Failure::new(error.to_string()).within("could not kill the container's cgroup"));
        }
    }

    /// Leaves nothing of the container: the throw-away process first, so that it makes no more of it.
    fn clear(&mut self) {
        let Some(running) = &mut self.running else { return };
        if let Some(making) = running.making.take() {
            let _ = nix::sys::signal::kill(making.helper, Signal::SIGKILL);
            let _ = waitpid(making.helper, None);
        }
        running.memory = None;
        let cleared = container::clear(&self.folders.run, &running.cgroup);
        if let Some(pid) = running.pid.take() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            if let Some(status) = waitpid(pid, None).ok().and_then(exit_status) {
                running.record.last_exit = Some(Exit { at_ms: now_unix_ms(), status: status.1 });
            }
        }
        running.adopted = None;
        running.record.process = None;
        running.record.started_at_ms = None;
        for (stream, pipe) in running.output.drain(..) {
            let _ = running.log.drain(stream, pipe.as_fd());
        }
        running.log.finish();
        if let Err(error) = cleared {
            self.trouble(&Failure::of(&error));
        }
    }

    fn report(&mut self, outcome: Outcome) {
        let Some(running) = &self.running else { return };
        let answer = match outcome {
            Outcome::Healthy => Answer::Healthy { pid: running.pid.map_or(0, Pid::as_raw) },
            Outcome::StartFailed(failure) => {
                Answer::StartFailed { failure, output: running.log.last_lines() }
            }
            Outcome::Stopped => Answer::Stopped,
        };
        // The record first: what a client is told must be what it finds when it looks.
        self.write_record();
        match answer {
            Answer::Healthy { .. } => self.note_serving(),
            _ => self.note_end(),
        }
        if answer == Answer::Stopped {
            self.give_up_service();
        }
        // A client that no longer listens does not matter to the service.
        self.clients.retain_mut(|client| client.say(&answer).is_ok());
    }

    /// From here on another supervisor may take the service.
    fn give_up_service(&mut self) {
        if self.listener.take().is_some() {
            let _ = fs_err::remove_file(self.folders.control());
        }
        self.lock = None;
    }

    fn end(&mut self) {
        self.write_record();
        self.note_end();
        self.give_up_service();
        let stopped = self
            .running
            .as_ref()
            .is_none_or(|running| running.life.state() == State::Stopped && !running.life.start_failed());
        self.ended = Some(i32::from(!stopped));
    }

    /// Replaces the record when it says something new.
    pub(super) fn write_record(&mut self) {
        if self.lock.is_none() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        if running.life.start_failed() {
            let restored = match &running.before {
                Some(before) => before.write(&self.folders),
                None => remove_record(&self.folders),
            };
            if let Err(error) = restored {
                self.trouble(&Failure::of(&error));
            }
            return;
        }
        let mut next = running.record.clone();
        next.state = running.life.state();
        next.health = running.life.health();
        next.wanted = running.life.wanted();
        next.restarts = running.life.restarts();
        next.last_failure = running.life.last_failure().cloned();
        if next.state != running.record.state {
            next.changed_at_ms = now_unix_ms();
        }
        if running.written.as_ref() == Some(&next) {
            return;
        }
        running.record = next;
        match running.record.write(&self.folders) {
            Ok(()) => running.written = Some(running.record.clone()),
            Err(error) => self.trouble(&Failure::of(&error)),
        }
    }
}

fn begin_making(running: &mut Running, folders: &ServiceFolders) -> Result<Making, Error> {
    let failed = |error| Error::Io { doing: "prepare the container's output", source: error };
    // What is left of an attempt that a crash cut short.
    container::clear(&folders.run, &running.cgroup)?;
    let null = std::fs::File::open("/dev/null").map_err(failed)?;
    let (out, out_far) = pipe().map_err(failed)?;
    let (err, err_far) = pipe().map_err(failed)?;
    let request = Request::Create {
        bundle: running.bundle.clone(),
        run: folders.run.clone(),
        cgroup: running.cgroup.clone(),
        init: running.definition.init,
        purpose: Purpose::Service,
    };
    let making = Making::begin(&request, [null.as_fd(), out_far.as_fd(), err_far.as_fd()])?;
    running.log.forget_lines();
    running.output = vec![(Stream::Stdout, out), (Stream::Stderr, err)];
    Ok(making)
}

/// A pipe whose near end never makes the loop wait.
fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&near, true)?;
    Ok((near, far))
}

fn remove_record(folders: &ServiceFolders) -> Result<(), Error> {
    match fs_err::remove_file(folders.record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove a service's record", source: error })
        }
        _ => Ok(()),
    }
}

/// The number of a signal by its name; `SIGRTMIN+N` too, which systemd in a container is stopped with.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
        return offset.parse().ok().map(|offset: i32| nix::libc::SIGRTMIN() + offset);
    }
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}
