//! What became of each generation of a service: when it was made, by whom, when it served, how it ended.
//! It knows nothing of what a generation consists of, and outlives its folder.
//!
//! It is a file to which one line is added for each event, so that nothing that is written already can be lost by a crash;
//! a line that was torn by one is left out when it is read. Commands and the supervisor both add to it: each what it is
//! the first to know. Every note can be made again: what the history says already is not said twice.
//!
//! ```text
//!   made ──▶ serves ──▶ ended: stopped, replaced, taken back, …     a generation may serve more than once
//!        └─▶ ended: never healthy
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::crash_point;
use crate::error::{Error, Failure};
use crate::events::By;
use crate::folders::ServiceFolders;
use crate::replace::replace_private_file;

/// The version written; a line of a higher one is refused when read.
pub const VERSION: u32 = 1;

/// Of one generation so many of its last events are kept.
const EVENTS_MAX: usize = 20;

/// Who adds a line waits no longer than this for who is shortening the file: a stopped process must stop nobody.
const PATIENCE: Duration = Duration::from_millis(200);

/// The history of a service.
#[derive(Debug, Clone)]
pub struct History {
    path: PathBuf,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// User id.
    pub uid: u32,
    /// The user's name, when the host knows it.
    pub user: Option<String>,
    /// Who became that user by sudo(8). It comes from the environment, so it is a hint and no proof.
    pub sudo_user: Option<String>,
}

/// What made a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// `start`.
    Start,
    /// `restart`.
    Restart,
    /// `swap`.
    Swap,
    /// `rollback`.
    Rollback,
}

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To be run.
    Run,
    /// To keep a configuration that was edited since the active generation began and is to be replaced. It is not to run.
    Kept,
}

/// How a generation came into being.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What for.
    pub kind: Kind,
    /// By which command.
    pub by: Cause,
    /// By whom.
    pub person: Person,
    /// Its release.
    pub release: String,
    /// Name and tag of its image.
    pub image: String,
    /// Id of its image, `sha256:…`.
    pub image_id: String,
    /// The generation it was made from: by a rollback, or the one whose configuration had been edited.
    pub from: Option<u32>,
}

/// How a generation ceased to serve, or why it never did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum End {
    /// It was stopped as asked for.
    Stopped {
        /// By whom; `None` when that is not known, as with systemd.
        person: Option<Person>,
    },
    /// Another generation serves in its place.
    Replaced {
        /// Its number.
        by: u32,
    },
    /// It was started in vain.
    NeverHealthy {
        /// Why.
        reason: Failure,
    },
    /// It had become healthy in a swap, and then the one before it was brought back.
    WentBack {
        /// Why.
        reason: Failure,
    },
    /// It ended by itself and its policy wants no restart.
    ByItself {
        /// Status of its process 1 as a shell gives it; `None` when it was not seen.
        status: Option<i32>,
    },
    /// It failed too often in a row.
    CrashLoop {
        /// Why.
        reason: Failure,
    },
    /// The host went down.
    HostDown,
    /// Its supervisor was lost, and what still ran was cleared away.
    SupervisorLost,
    /// The service's record could not be read any more, and what still ran was cleared away.
    RecordCorrupt,
}

/// Something that happened to a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Made(Made),
    Serves,
    Ended(End),
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    version: u32,
    at_ms: u64,
    generation: u32,
    event: Event,
}

/// What is known of the past.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Each generation, by its number.
    pub entries: Vec<Entry>,
    /// Lines that are none: torn by a crash, or damaged.
    pub damaged: usize,
}

/// What became of a generation. Times are milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub generation: u32,
    /// How it came into being; `None` when it is older than the history.
    pub made: Option<Made>,
    /// When.
    pub made_at_ms: Option<u64>,
    /// Each time it served or was to serve, the last one last.
    pub runs: Vec<Run>,
}

/// One time that a generation served, or was started in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// When it was healthy; `None` when it never was.
    pub began_at_ms: Option<u64>,
    /// When and how it ended; `None` while it serves, and when nobody was there to see it end.
    pub ended: Option<(u64, End)>,
}

impl Person {
    /// Whoever runs this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::of(&By::this_process()).expect("OK because a process has a user")
    }

    /// The person that something goes back to; `None` when it is nobody, or not known.
    pub(crate) fn of(by: &By) -> Option<Self> {
        let By::Operator { uid, user, sudo_user, .. } = by else { return None };
        let sudo_user = sudo_user.clone().filter(|name| !name.is_empty());
        Some(Self { uid: *uid, user: user.clone(), sudo_user })
    }
}

impl History {
    /// The history of a service, whether there is one yet or not.
    #[must_use]
    pub fn of(folders: &ServiceFolders) -> Self {
        Self { path: folders.history() }
    }

    /// Notes that a generation was made. Of older generations those beyond the newest `entries_max` are forgotten.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::HistoryNewer`].
    pub fn made(&self, generation: u32, made: Made, entries_max: usize) -> Result<(), Error> {
        self.add(generation, Event::Made(made))?;
        self.shorten(entries_max)
    }

    /// Notes that a generation serves from now on, unless it does already.
    ///
    /// # Errors
    /// As [`History::made`].
    pub fn serves(&self, generation: u32) -> Result<(), Error> {
        match self.read()?.entry(generation).is_some_and(Entry::serves) {
            true => Ok(()),
            false => self.add(generation, Event::Serves),
        }
    }

    /// Notes that a generation serves no more, or never did, unless that is known already.
    ///
    /// # Errors
    /// As [`History::made`].
    pub fn ended(&self, generation: u32, end: End) -> Result<(), Error> {
        let past = self.read()?;
        let last = past.entry(generation).and_then(|entry| entry.runs.last());
        match says_something(last, &end) {
            true => self.add(generation, Event::Ended(end)),
            false => Ok(()),
        }
    }

    /// Reads all of it; an empty one when there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::HistoryNewer`].
    pub fn read(&self) -> Result<Past, Error> {
        let (lines, damaged) = self.lines()?;
        Ok(Past::of(lines, damaged))
    }

    /// Whether a generation's last run got as far as to serve: what was only started in vain so far, whoever started it was told
    /// of.
    pub(crate) fn has_served(&self, generation: u32) -> Result<bool, Error> {
        let past = self.read()?;
        let last = past.entry(generation).and_then(|entry| entry.runs.last());
        Ok(last.is_some_and(|run| run.began_at_ms.is_some()))
    }

    fn lines(&self) -> Result<(Vec<Line>, usize), Error> {
        let text = match fs_err::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let (mut lines, mut damaged) = (Vec::new(), 0);
        for text in text.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            match serde_json::from_slice::<VersionOnly>(text) {
                Ok(VersionOnly { version }) if version > VERSION => {
                    return Err(Error::HistoryNewer {
                        path: self.path.clone(),
                        found: version,
                        known: VERSION,
                    });
                }
                _ => {}
            }
            match serde_json::from_slice(text) {
                Ok(line) => lines.push(line),
                Err(_) => damaged += 1,
            }
        }
        Ok((lines, damaged))
    }

    fn add(&self, generation: u32, event: Event) -> Result<(), Error> {
        let _turn = self.turn(FlockOperation::NonBlockingLockShared)?;
        let mut options = fs_err::OpenOptions::new();
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.read(true).append(true).create(true).open(&self.path).map_err(failed)?;
        let mut text = line_of(&Line { version: VERSION, at_ms: now_ms(), generation, event });
        if is_torn(&mut file).map_err(failed)? {
            text.insert(0, b'\n');
        }
        crash_point::here();
        // One call, which the kernel lets no other line come into (write(2), O_APPEND).
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(failed)
    }

    /// Forgets the oldest generations, but none that a rollback needs, and of the others the oldest events.
    fn shorten(&self, entries_max: usize) -> Result<(), Error> {
        let _turn = self.turn(FlockOperation::NonBlockingLockExclusive)?;
        let (lines, _) = self.lines()?;
        let numbers: BTreeSet<u32> = lines.iter().map(|line| line.generation).collect();
        let mut kept: BTreeSet<u32> = numbers.iter().rev().take(entries_max.max(1)).copied().collect();
        kept.extend(Past::of(lines.iter().cloned(), 0).needed());
        let mut events: BTreeMap<u32, usize> = BTreeMap::new();
        for line in &lines {
            *events.entry(line.generation).or_default() += 1;
        }
        if kept == numbers && events.values().all(|count| *count <= 2 * EVENTS_MAX) {
            return Ok(());
        }
        let mut text = Vec::new();
        for line in lines.iter().filter(|line| kept.contains(&line.generation)) {
            let left = events.entry(line.generation).or_default();
            if *left <= EVENTS_MAX || matches!(line.event, Event::Made(_)) {
                text.extend(line_of(line));
            }
            *left = left.saturating_sub(1);
        }
        replace_private_file(&self.path, &text).map_err(failed)
    }

    /// Whoever adds a line and whoever replaces the file must not do so at once: the line would be lost.
    fn turn(&self, operation: FlockOperation) -> Result<Option<fs_err::File>, Error> {
        let folder = self.path.parent().unwrap_or(std::path::Path::new("."));
        let folder = fs_err::File::open(folder).map_err(failed)?;
        let began = Instant::now();
        while let Err(errno) = rustix::fs::flock(&folder, operation) {
            if errno != rustix::io::Errno::WOULDBLOCK && errno != rustix::io::Errno::INTR {
                return Err(failed(errno.into()));
            }
            if began.elapsed() >= PATIENCE {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Some(folder))
    }
}

impl Past {
    fn of(lines: impl IntoIterator<Item = Line>, damaged: usize) -> Self {
        let mut entries: BTreeMap<u32, Entry> = BTreeMap::new();
        for line in lines {
            let number = line.generation;
            let entry = entries.entry(number).or_insert_with(|| Entry::unknown(number));
            entry.happen(line.at_ms, line.event);
        }
        Self { entries: entries.into_values().collect(), damaged }
    }

    /// What must not be forgotten, however many starts in vain there were since: what served last, what served before that,
    /// and the configuration that was kept last.
    fn needed(&self) -> impl Iterator<Item = u32> {
        let last = self.before(0);
        let before = last.and_then(|last| self.before(last));
        [last, before, self.last_kept()].into_iter().flatten()
    }

    /// The generation in which a configuration was kept last.
    #[must_use]
    pub fn last_kept(&self) -> Option<u32> {
        let is_kept = |entry: &&Entry| entry.made.as_ref().is_some_and(|made| made.kind == Kind::Kept);
        self.entries.iter().rev().find(is_kept).map(|entry| entry.generation)
    }

    /// What became of a generation.
    #[must_use]
    pub fn entry(&self, generation: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.generation == generation)
    }

    /// The largest number that was ever used.
    #[must_use]
    pub fn last_number(&self) -> u32 {
        self.entries.last().map_or(0, |entry| entry.generation)
    }

    /// The generation that served last before `active` did; one that was taken back did not.
    #[must_use]
    pub fn before(&self, active: u32) -> Option<u32> {
        let stood = |run: &&Run| !matches!(run.ended, Some((_, End::WentBack { .. })));
        let began = |entry: &Entry| entry.runs.iter().filter(stood).filter_map(|run| run.began_at_ms).max();
        let others = self.entries.iter().filter(|entry| entry.generation != active);
        let served = others.filter_map(|entry| Some((began(entry)?, entry.generation)));
        served.max().map(|(_, number)| number)
    }
}

impl Entry {
    fn unknown(generation: u32) -> Self {
        Self { generation, made: None, made_at_ms: None, runs: Vec::new() }
    }

    /// Whether it serves, as far as the history knows.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.runs.last().is_some_and(|run| run.ended.is_none())
    }

    fn happen(&mut self, at_ms: u64, event: Event) {
        match event {
            Event::Made(made) => {
                self.made = Some(made);
                self.made_at_ms = Some(at_ms);
            }
            Event::Serves if self.serves() => {}
            Event::Serves => self.runs.push(Run { began_at_ms: Some(at_ms), ended: None }),
            Event::Ended(end) => {
                if !says_something(self.runs.last(), &end) {
                    return;
                }
                match self.runs.last_mut() {
                    Some(run) if run.ended.is_none() || overrules(&end) => {
                        // When it ended is what was first known; how, what is known best.
                        let at_ms = run.ended.as_ref().map_or(at_ms, |(at_ms, _)| *at_ms);
                        run.ended = Some((at_ms, end));
                    }
                    _ => self.runs.push(Run { began_at_ms: None, ended: Some((at_ms, end)) }),
                }
            }
        }
    }
}

/// Whether an end adds to what is known of the last run.
fn says_something(last: Option<&Run>, end: &End) -> bool {
    let in_vain = matches!(end, End::NeverHealthy { .. });
    match last {
        None => in_vain,
        Some(Run { ended: None, .. }) => true,
        Some(Run { began_at_ms, ended: Some((_, known)) }) => {
            (in_vain && began_at_ms.is_some()) || (overrules(end) && known != end)
        }
    }
}

/// A generation is stopped first and replaced then, or found to be worse than the one before.
fn overrules(end: &End) -> bool {
    matches!(end, End::Replaced { .. } | End::WentBack { .. })
}

fn line_of(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("OK because a line has only string keys");
    text.push(b'\n');
    text
}

/// Whether the last line has no end: whoever wrote it was interrupted.
fn is_torn(file: &mut fs_err::File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

fn failed(source: std::io::Error) -> Error {
    Error::Io { doing: "keep the service's history", source }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
