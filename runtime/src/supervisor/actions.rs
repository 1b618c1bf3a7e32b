//! What a supervisor does when a generation's life cycle says so: one function an action, each of which can be done again.
//! They know nothing of why.

use nix::unistd::Pid;

use super::Supervisor;
use super::clients::Awaited;
use crate::control::Answer;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::lifecycle::{Action, Event, Outcome};
use crate::record::State;
use crate::systemd;

impl Supervisor {
    pub(super) fn act(&mut self, generation: u32, action: Action) {
        match action {
            Action::Make => self.make(generation),
            Action::Go => self.go(generation),
            Action::Report(outcome) => self.report(generation, outcome),
            Action::End => self.end_of(generation),
            Action::Signal => {
                self.release(generation);
                if let Some(Err(why)) = self.of(generation).map(|running| running.signal()) {
                    self.trouble(&why);
                }
            }
            Action::Kill => {
                if let Some(Err(why)) = self.of(generation).map(|running| running.kill()) {
                    self.trouble(&why);
                }
            }
            Action::Clear => {
                let folders = self.folders.clone();
                if let Some(Err(error)) = self.of(generation).map(|running| running.clear(&folders)) {
                    self.trouble(&Failure::of(&error));
                }
                self.forget_container(generation);
                self.keep_or_forget(generation);
            }
            Action::Probe(after) => {
                if let Some(running) = self.of(generation) {
                    running.probe_after(after);
                }
            }
            Action::NoProbe => {
                if let Some(running) = self.of(generation) {
                    running.prober.cancel();
                }
            }
            Action::Deadline(at) => {
                if let Some(running) = self.of(generation) {
                    running.deadline = at;
                }
            }
        }
    }

    fn make(&mut self, generation: u32) {
        let folders = self.folders.clone();
        let scope = (folders.is_of_host() && systemd::is_running()).then(|| {
            self.scopes += 1;
            format!("{}-{}", std::process::id(), self.scopes)
        });
        let listeners = self.listeners_for(generation);
        let Some(running) = self.of(generation) else { return };
        let made = listeners.and_then(|listeners| running.make(&folders, scope.as_deref(), &listeners));
        match made {
            Ok(()) => self.keep_output(generation),
            Err(error) => self.events.push_back((generation, Event::NotMade(Failure::of(&error)))),
        }
    }

    /// The record is on disk, with the process in it, before the program runs.
    fn go(&mut self, generation: u32) {
        if let Err((address, error)) = self.steering.open(generation) {
            let failure = Failure::new(error.to_string()).within(format!("could not listen on {address}"));
            return self.events.push_back((generation, Event::NotMade(failure)));
        }
        self.keep_listeners();
        self.keep_end(generation);
        // What the program will write to is there for the next supervisor, too.
        if let Err(error) = self.kept.settle() {
            let failure = Failure::new(error.to_string());
            self.trouble(
                &failure.within("systemd has not said that it keeps what is to outlive the supervisor"),
            );
        }
        self.write_record();
        if let Some(Err(error)) = self.of(generation).map(super::Running::go) {
            self.events.push_back((generation, Event::NotMade(Failure::of(&error))));
        }
    }

    fn report(&mut self, generation: u32, outcome: Outcome) {
        if let (Outcome::Healthy, Some(running)) = (&outcome, self.of(generation)) {
            (running.silent_since, running.refusing) = (None, false);
        }
        if self.is_of_swap(generation, &outcome) {
            return;
        }
        let Some(running) = self.of(generation) else { return };
        let (answer, awaited) = match outcome {
            Outcome::Parked => return,
            Outcome::Healthy => (Answer::Healthy { pid: running.pid.map_or(0, Pid::as_raw) }, Awaited::Up),
            Outcome::StartFailed(failure) => {
                (Answer::StartFailed { failure, output: running.log.last_lines() }, Awaited::Up)
            }
            Outcome::Stopped => (Answer::Stopped, Awaited::Down),
        };
        // The record first: what a client is told must be what it finds when it looks.
        self.write_record();
        match answer {
            Answer::Healthy { .. } => self.note_serving(generation),
            _ => self.note_end(generation),
        }
        if answer == Answer::Stopped {
            if !self.is_over() {
                return;
            }
            self.give_up_service();
        }
        self.answer(awaited, &answer);
    }

    /// Whether nothing of either generation will happen any more.
    fn is_over(&self) -> bool {
        self.both().all(|running| running.life.is_over())
    }

    /// From here on another supervisor may take the service.
    fn give_up_service(&mut self) {
        if self.listener.take().is_some() {
            let _ = fs_err::remove_file(self.folders.control());
        }
        self.kept.bye();
        self.lock = None;
    }

    /// A generation has come to its end. While a swap goes on, that is the swap's business.
    fn end_of(&mut self, generation: u32) {
        if self.swap.is_some() || self.of(generation).is_none() {
            return;
        }
        if self.is_over() {
            self.end();
        }
    }

    pub(super) fn end(&mut self) {
        self.write_record();
        // A start in vain was noted before it was reported; who was told must not wait for this process to end.
        let active = self.active.as_ref().filter(|running| !running.life.start_failed());
        if let Some(active) = active.map(super::Running::generation) {
            self.note_end(active);
        }
        self.give_up_service();
        // What was asked for before the other generation was down, too.
        self.answer(Awaited::Down, &Answer::Stopped);
        let stopped = self
            .active
            .as_ref()
            .is_none_or(|running| running.life.state() == State::Stopped && !running.life.start_failed());
        self.ended = Some(i32::from(!stopped));
    }

    /// Replaces the record when it says something new.
    pub(super) fn write_record(&mut self) {
        if self.lock.is_none() {
            return;
        }
        let Some(active) = &mut self.active else { return };
        if self.swap.is_none() && active.life.start_failed() {
            let restored = match &self.before {
                Some(before) => before.write(&self.folders),
                None => remove_record(&self.folders),
            };
            if let Err(error) = restored {
                self.trouble(&Failure::of(&error));
            }
            return;
        }
        active.renew_record();
        let swap = self.swap_on_record();
        let Some(active) = &mut self.active else { return };
        // Most often nothing is new, and nothing is copied to see that.
        let own = std::mem::replace(&mut active.record.swap, swap);
        let next = Some(&active.record).filter(|next| self.written.as_ref() != Some(next)).cloned();
        active.record.swap = own;
        let Some(next) = next else { return };
        match next.write(&self.folders) {
            Ok(()) => self.written = Some(next),
            Err(error) => self.trouble(&Failure::of(&error)),
        }
    }
}

fn remove_record(folders: &ServiceFolders) -> Result<(), Error> {
    match fs_err::remove_file(folders.record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove a service's record", source: error })
        }
        _ => Ok(()),
    }
}
