//! Signals, and children that have ended: whose they were, and what follows for that generation.
//! It knows no command.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Supervisor, exit_status};
use crate::container::Making;
use crate::error::Failure;
use crate::events::By;
use crate::history::End;
use crate::host_files;
use crate::lifecycle::Event;

impl Supervisor {
    /// systemd's own process sends it when it stops the unit.
    fn who_signals(&self, signal: &nix::libc::signalfd_siginfo) -> By {
        match (&self.unit, signal.ssi_pid) {
            (Some(_), 1) => By::Systemd {},
            (_, process) => By::process(process.cast_signed(), signal.ssi_uid),
        }
    }

    pub(super) fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) => {}
                Ok(host_files::CHANGED) => self.refresh_host_files(),
                Ok(_) => {
                    self.askers.stop = self.who_signals(&signal);
                    let asked = self.asked_to_end();
                    let halted = asked == Event::Halt;
                    self.ending = Some(if halted { End::HostDown } else { End::Stopped { person: None } });
                    self.end_by(asked);
                }
                Err(_) => {}
            }
        }
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

    fn refresh_host_files(&mut self) {
        if let Err(error) = self.host_files.refresh() {
            let failure = Failure::new(error.to_string());
            self.trouble(&failure.within("could not follow the host's resolv.conf and hosts"));
        }
    }

    fn child_ended(&mut self, pid: Pid, status: i32) {
        let mut events = Vec::new();
        for running in self.both_mut() {
            let generation = running.generation();
            // What the throw-away process has to say of this child comes first. It has nothing to say, and would wait for
            // ever, before it was let go.
            while running.pid == Some(pid) && running.making.as_ref().is_some_and(Making::went) {
                events.extend(running.continue_making().map(|event| (generation, event)));
            }
            if running.pid == Some(pid) {
                // Why it ended comes before that it did.
                events.extend(running.look_at_memory().map(|event| (generation, event)));
                events.push((generation, running.ended(status)));
            } else {
                let event = running.other_child_ended(pid, status);
                events.extend(event.map(|event| (generation, event)));
            }
        }
        self.events.extend(events);
    }
}
