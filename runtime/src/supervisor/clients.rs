//! Commands that talk to the supervisor: what they ask for, and who is told what.
//! It knows nothing of how it is done.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use super::running::Running;
use super::{Supervisor, now_unix_ms};
use crate::control::{Answer, Command, Conversation};
use crate::error::Failure;
use crate::events::{By, Kind};
use crate::history::{End, Person};
use crate::lifecycle::Event;
use crate::record::{Record, State};

/// Clients at once; one more is turned away.
const CLIENTS_MAX: usize = 32;

/// A command at the other end of the socket.
pub(super) struct Client {
    conversation: Conversation,
    waits_for: Option<Awaited>,
    /// The generation that stands still for it.
    pub freezes: Option<u32>,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Up,
    Down,
    Swap,
}

impl Client {
    pub fn new(conversation: Conversation) -> Self {
        Self { conversation, waits_for: None, freezes: None }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conversation.stream.as_fd()
    }
}

impl Supervisor {
    pub(super) fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            self.clients.push(Client::new(Conversation::new(stream)));
        }
    }

    pub(super) fn listen_to(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        match client.conversation.hear::<Command>() {
            Ok(Some(command)) => {
                let answer = self.obey(&command, index);
                if let (Some(answer), Some(client)) = (answer, self.clients.get_mut(index)) {
                    let _ = client.conversation.say(&answer);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // A client that left, or that does not speak this protocol.
            Ok(None) | Err(_) => {
                self.clients.remove(index);
                self.thaw();
            }
        }
    }

    /// Begins to do as told; the answer, when there is nothing to wait for.
    fn obey(&mut self, command: &Command, index: usize) -> Option<Answer> {
        let by =
            self.clients.get(index).map_or(By::Opsrun {}, |client| By::peer(&client.conversation.stream));
        match (command, &self.active) {
            (Command::Start { generation }, None) => {
                self.await_by(index, Awaited::Up);
                let begun = self.begin_start(*generation, by);
                self.refuse_and_end(begun)
            }
            (Command::Resume, None) => {
                self.await_by(index, Awaited::Up);
                let begun = self.take_up(by);
                self.refuse_and_end(begun)
            }
            (Command::Adopt, None) => {
                self.await_by(index, Awaited::Up);
                let begun = match super::adopt::adoptable(&self.folders) {
                    Ok(Some(_)) => self.take_up(by),
                    Ok(None) => Err(crate::Error::NotRunning { service: self.folders.name().to_owned() }),
                    Err(error) => Err(error),
                };
                self.refuse_and_end(begun)
            }
            (Command::Resume, Some(running))
                if running.life.state() != State::Running && self.swap.is_none() =>
            {
                self.await_by(index, Awaited::Up);
                None
            }
            (Command::Start { .. } | Command::Resume | Command::Adopt, Some(running)) => {
                Some(Answer::AlreadyRunning { release: running.definition.release.clone() })
            }
            (Command::Stop, Some(_)) => {
                self.await_by(index, Awaited::Down);
                self.ending = Some(End::Stopped { person: Person::of(&by) });
                self.askers.stop = by;
                self.end_by(Event::Stop);
                None
            }
            (Command::Stop, None) => Some(Answer::Stopped),
            (Command::Reexec { program }, _) => Some(Answer::Refused(Failure::of(&self.reexec(program)))),
            (Command::Swap(request), _) => {
                self.await_by(index, Awaited::Swap);
                let begun = self.begin_swap(request, by);
                begun.err().map(|error| Answer::Refused(Failure::of(&error)))
            }
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
            (Command::Freeze { generation }, _) => Some(self.freeze(index, *generation)),
            (Command::Thaw, _) => {
                if let Some(client) = self.clients.get_mut(index) {
                    client.freezes = None;
                }
                self.thaw();
                Some(Answer::Thawed)
            }
        }
    }

    fn begin_start(&mut self, generation: u32, by: By) -> Result<(), crate::Error> {
        self.cleared |= super::adopt::clear_leftovers(&self.folders, Some(&mut self.kept))?;
        self.before = Record::read(&self.folders)?;
        let mut running = Running::prepare(&self.folders, generation)?;
        running.record.changed_at_ms = now_unix_ms();
        self.begin_to_run(running, Event::Start, by);
        Ok(())
    }

    /// A supervisor that cannot begin is of no use.
    fn refuse_and_end(&mut self, begun: Result<(), crate::Error>) -> Option<Answer> {
        let error = begun.err()?;
        self.ended = Some(1);
        Some(Answer::Refused(Failure::of(&error)))
    }

    fn await_by(&mut self, index: usize, awaited: Awaited) {
        if let Some(client) = self.clients.get_mut(index) {
            client.waits_for = Some(awaited);
        }
    }

    /// Whether anybody waits for this.
    pub(super) fn is_awaited(&self, awaited: Awaited) -> bool {
        self.clients.iter().any(|client| client.waits_for == Some(awaited))
    }

    /// Says something to those who wait for it; one that no longer listens does not matter to the service.
    pub(super) fn answer(&mut self, awaited: Awaited, answer: &Answer) {
        self.clients.retain_mut(|client| {
            client.waits_for != Some(awaited) || client.conversation.say(answer).is_ok()
        });
    }
}
