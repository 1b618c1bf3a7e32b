//! Hooks: commands that an operator wants run around a swap, each in a container of its own of the new image.
//! It knows no database and no release; what a hook does is said in the service's file.
//!
//! A hook sees what the new generation sees: its copy of the configuration, the data, logs and keys, as the same user, with
//! the same limits, in the host's network. `pre_swap` is run before anything of the old generation is touched. What
//! `post_commit` asks for is written into the generation's folder before the swap begins, and crossed out command by
//! command; so it is not forgotten when the command that was to run it dies, but waits for the next swap to the same
//! release, and `status` says so. What was begun and not crossed out is run once more: a hook must bear that.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundles::account;
use bundles::bundle::{self, BundleRequest};
use runtime::crash_point;
use runtime::hook::{self, End, Signals};
use runtime::replace::replace_private_file;
use serde::{Deserialize, Serialize};

use crate::commands::now_ms;
use crate::error::{Error, HookFailed};
use crate::generation;
use crate::layout::Layout;
use crate::one_shot::OneShot;
use crate::own_folders::{OwnFolders, binds_of};
use crate::prepare::{Said, one_shot_request};
use crate::print::amount::{span, timestamp};
use crate::print::{self, sentence};
use crate::release::Release;
use crate::service_name::ServiceName;
use crate::settings_swap::When;
use crate::wishes::Wishes;

/// The file of a generation that says which hooks are still to be run.
const PENDING: &str = "hooks.json";
/// The file with the output of those that were.
const OUTPUT: &str = "hooks.log";
/// The version of [`PENDING`] that is written; a newer one is not touched.
const VERSION: u32 = 1;
/// No more than this of the output of one hook is kept.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Of these bytes the last lines are shown when it fails,
const LAST_BYTES_MAX: usize = 16 * 1024;
/// so many.
const LINES_SHOWN: usize = 40;

/// What is still to be run, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    version: u32,
    timeout_ms: u64,
    post_commit: Vec<Vec<String>>,
}

/// The generation that hooks are run for.
pub(crate) struct Hooked<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// Of which service.
    pub service: &'a ServiceName,
    /// Its release, and the image with it.
    pub release: &'a Release,
    /// What is said about the service.
    pub said: &'a Said,
    /// What was wished for beside that.
    pub wishes: &'a Wishes,
    /// Its number.
    pub generation: u32,
}

/// The commands of a generation that nobody has run yet.
pub(crate) fn pending(generation: &Path) -> Vec<Vec<String>> {
    read(generation).map(|pending| pending.post_commit).unwrap_or_default()
}

/// Where the output of a generation's hooks is.
pub(crate) fn output(generation: &Path) -> PathBuf {
    generation.join(OUTPUT)
}

fn read(generation: &Path) -> Option<Pending> {
    let text = fs_err::read(generation.join(PENDING)).ok()?;
    let pending: Pending = serde_json::from_slice(&text).ok()?;
    (pending.version <= VERSION).then_some(pending)
}

fn write(generation: &Path, pending: &Pending) -> Result<(), Error> {
    let text = serde_json::to_vec(pending).expect("OK because it has only string keys");
    replace_private_file(&generation.join(PENDING), &text)
        .map_err(|error| Error::io("write down which hooks are to be run", error))
}

impl Hooked<'_> {
    /// Writes down what is to be run after the swap, and runs what is to be run before it.
    ///
    /// # Errors
    /// [`Error::HookFailed`]; nothing but what hooks have done is changed then.
    pub(crate) fn before(&self) -> Result<(), Error> {
        let hooks = &self.said.both.hooks;
        let words = |commands: &Option<Vec<crate::settings_swap::HookCommand>>| {
            commands.iter().flatten().map(|command| command.words().to_vec()).collect::<Vec<_>>()
        };
        let timeout_ms = hooks.timeout().ms;
        let post_commit = words(&hooks.post_commit);
        if !post_commit.is_empty() {
            write(&self.folder(), &Pending { version: VERSION, timeout_ms, post_commit })?;
        }
        let commands = words(&hooks.pre_swap);
        if commands.is_empty() {
            return Ok(());
        }
        // Until the last of them has ended: a signal in between must not leave anything either.
        let signals = Signals::hold()?;
        for command in &commands {
            self.run(When::PreSwap, command, timeout_ms, &signals)?;
        }
        match (signals.next(), commands.last()) {
            (Some(signal), Some(last)) => {
                Err(Box::new(self.failed(When::PreSwap, last, told(End::Interrupted(signal), timeout_ms)))
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Runs what is still to be run, now that the generation serves. Whether there was anything.
    ///
    /// # Errors
    /// [`Error::HookFailed`]; what is left is run by the next swap to the same release.
    pub(crate) fn after(&self) -> Result<bool, Error> {
        let Some(mut pending) = read(&self.folder()) else { return Ok(false) };
        if pending.post_commit.is_empty() {
            return Ok(false);
        }
        let signals = Signals::hold()?;
        while !pending.post_commit.is_empty() {
            let command = pending.post_commit[0].clone();
            self.run(When::PostCommit, &command, pending.timeout_ms, &signals)?;
            pending.post_commit.remove(0);
            write(&self.folder(), &pending)?;
        }
        Ok(true)
    }

    fn folder(&self) -> PathBuf {
        self.layout.service(self.service).generation(self.generation)
    }

    fn failed(&self, when: When, command: &[String], how: String) -> HookFailed {
        HookFailed {
            service: self.service.to_string(),
            release: self.release.release.clone(),
            when,
            command: command.join(" "),
            how,
            output: Vec::new(),
            source: None,
        }
    }

    fn run(&self, when: When, command: &[String], timeout_ms: u64, signals: &Signals) -> Result<(), Error> {
        let service = self.service.as_str();
        print::note(&sentence::hook_runs(service, &self.release.release, when.key(), &command.join(" ")));
        let mut record = Record::default();
        let ended = self.run_heard(when, command, timeout_ms, signals, &mut record);
        let (how, source) = match ended {
            Ok(End::Status(0)) => return Ok(()),
            Ok(end) => (told(end, timeout_ms), None),
            Err(error) => ("could not be run".to_owned(), Some(Box::new(error))),
        };
        let failed = self.failed(when, command, how);
        Err(Box::new(HookFailed { output: record.last_lines(), source, ..failed }).into())
    }

    fn run_heard(
        &self,
        when: When,
        command: &[String],
        timeout_ms: u64,
        signals: &Signals,
        record: &mut Record,
    ) -> Result<End, Error> {
        crash_point::here();
        let one_shot = OneShot::take(self.layout, None, &self.release.image_id)?;
        self.prepare(command, &one_shot)?;
        let request = hook::Request {
            bundle: one_shot.bundle(),
            run_folder: one_shot.run_folder(),
            init: self.said.both.init.unwrap_or(true),
            timeout: Duration::from_millis(timeout_ms),
        };
        record.begin(&output(&self.folder()), when, command)?;
        crash_point::here();
        let ended = hook::run(&request, signals, &mut |bytes| record.hear(bytes));
        record.end(&match &ended {
            Ok(end) => told(*end, timeout_ms),
            Err(error) => format!("could not be run: {error}"),
        })?;
        Ok(ended?)
    }

    fn prepare(&self, command: &[String], one_shot: &OneShot) -> Result<(), Error> {
        let Self { layout, service, release, said, wishes, .. } = self;
        let (facts, view, volumes) = (release.image.facts()?, release.image.view()?, said.volumes(wishes));
        let account = account::resolve(&view, said.both.user.as_deref().or(facts.user.as_deref()))?;
        let own = OwnFolders::of(layout, service, &view, &facts, (&said.own, &said.listed), &volumes)?;
        own.make_missing(&view, &account)?;
        let configuration = generation::configuration(&self.folder());
        let request = BundleRequest {
            arguments: Some(command.to_vec()),
            // The command is the whole of it, whatever the image begins with.
            entrypoint: Some(Vec::new()),
            mounts: [own.for_generation(&configuration), binds_of(&volumes)].concat(),
            ..one_shot_request(release.image.clone(), one_shot, said, wishes)?
        };
        bundle::prepare(&request, &view)?;
        Ok(())
    }
}

/// How a hook ended, as in "its hook … ended with status 1".
fn told(end: End, timeout_ms: u64) -> String {
    match end {
        End::Status(status @ 129..) => format!("was ended by signal {}", status - 128),
        End::Status(status) => format!("ended with status {status}"),
        End::TimedOut => format!("took longer than {} and was killed", span(timeout_ms)),
        End::Interrupted(signal) => format!("was ended, since this command got {signal}"),
    }
}

/// What a hook says: all of it in the generation's folder, within bounds, and the last lines at hand.
#[derive(Debug, Default)]
struct Record {
    file: Option<fs_err::File>,
    written: usize,
    last: Vec<u8>,
}

impl Record {
    fn begin(&mut self, path: &Path, when: When, command: &[String]) -> Result<(), Error> {
        let mut options = fs_err::OpenOptions::new();
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.create(true).append(true).open(path).map_err(failed)?;
        let began = timestamp(now_ms());
        writeln!(file, "{began} {} $ {}", when.key(), command.join(" ")).map_err(failed)?;
        self.file = Some(file);
        Ok(())
    }

    fn hear(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.written);
        if let Some(file) = &mut self.file {
            // OK to ignore: a full disk is no reason to stop a hook in the middle.
            let _ = file.write_all(&bytes[..bytes.len().min(room)]);
        }
        self.written = self.written.saturating_add(bytes.len());
        self.last.extend(bytes);
        let surplus = self.last.len().saturating_sub(LAST_BYTES_MAX);
        self.last.drain(..surplus);
    }

    fn end(&mut self, how: &str) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let cut = if self.written > OUTPUT_BYTES_MAX { " (its output was cut)" } else { "" };
        let newline = if self.last.last().is_none_or(|last| *last == b'\n') { "" } else { "\n" };
        writeln!(file, "{newline}{} {how}{cut}", timestamp(now_ms())).map_err(failed)
    }

    fn last_lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.last);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("keep the output of the hook", error)
}
