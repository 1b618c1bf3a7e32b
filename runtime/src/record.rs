//! The record of a service: the one truth about what runs, written by its supervisor, read by everyone.
//! It knows nothing of how a container is made.
//!
//! It is replaced whole (written aside, synced, renamed, the folder synced), so a reader sees the old one or the new
//! one, and a crash at any line leaves one of the two. A missing record is `None`; a record that cannot be read as
//! one is [`Error::RecordCorrupt`]: the two are never confused, and such a file is set aside before another is written.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::replace::replace_file;
use crate::share::Share;
use crate::small_file;

/// The version written; a higher one is refused when read.
///
/// 2: `oom_kills` and `unenforced`, which version 1 lacks. 3: `swap`. 4: a process's `outputs`; a swap's way can be steered.
pub const VERSION: u32 = 4;

/// What is known of a service. Times are milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format of this record, [`VERSION`].
    pub version: u32,
    /// The service's name.
    pub service: String,
    /// Release of the active generation.
    pub release: String,
    /// Name and tag of its image.
    pub image: String,
    /// Id of its image, `sha256:…`.
    pub image_id: String,
    /// Number of the active generation: its bundle is `generations/N`.
    pub generation: u32,
    /// Ports the active generation listens on.
    pub ports: Vec<u16>,
    /// Whether a person wants it up.
    pub wanted: Wanted,
    /// What it does now.
    pub state: State,
    /// What the probes say.
    pub health: Health,
    /// The container's process 1, while there is one.
    pub process: Option<Process>,
    /// When the running container was started.
    pub started_at_ms: Option<u64>,
    /// When [`Record::state`] was last changed.
    pub changed_at_ms: u64,
    /// Restarts of the active generation after it ended by itself.
    pub restarts: u32,
    /// Processes of the active generation that the kernel killed for want of memory; apart from restarts, since a
    /// service may live on without one of its workers.
    #[serde(default)]
    pub oom_kills: u32,
    /// Controllers, such as `memory`, whose limits this host does not keep although they were asked for.
    #[serde(default)]
    pub unenforced: Vec<String>,
    /// The other generation, while one takes another's place.
    #[serde(default)]
    pub swap: Option<Swapping>,
    /// How the last container of this generation ended.
    pub last_exit: Option<Exit>,
    /// The last thing that went wrong, as a chain of causes, outermost first.
    pub last_failure: Option<Failure>,
}

/// A swap under way. The record is about the old generation until the candidate is healthy, and about the candidate from
/// then on: one replacement of the record turns it round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swapping {
    /// How it is done.
    pub way: Way,
    /// What the other generation is.
    pub other: Other,
    /// Its number.
    pub generation: u32,
    /// Its release.
    pub release: String,
    /// Its process 1, while there is one.
    pub process: Option<Process>,
    /// When the swap began.
    pub began_at_ms: u64,
    /// What the candidate gets of clients' new connections, while it gets a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// A share of clients' new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Of the connections.
    #[serde(rename = "share_ppm")]
    pub share: Share,
    /// When the candidate gets all, if it stays healthy until then.
    pub until_ms: u64,
}

/// What the generation is that a record is not about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Other {
    /// It is being tried, and not proven.
    Candidate,
    /// It served before, and is kept until the new one has stood its soak.
    Previous,
}

/// How one generation takes another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The candidate is made and parked, the old one stopped, the candidate started: for any server.
    StopFirst,
    /// The candidate is started, and waits with taking its port until the old one has ended, whose queue it takes over.
    Gated,
    /// Both run at the same time: for a service without a port.
    SideBySide,
    /// Both run at the same time and listen on the same ports; who connects is sent to one of them.
    Steered,
}

impl Way {
    /// As people read it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::Gated => "gated",
            Self::SideBySide => "side by side",
            Self::Steered => "steered",
        }
    }
}

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// `start`.
    Up,
    /// `stop`.
    Down,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its container is being made, or runs and was not healthy yet.
    Starting,
    /// Its container runs and was healthy once.
    Running,
    /// It ended by itself and waits for its restart.
    BackingOff,
    /// It was asked to end.
    Stopping,
    /// It is down, as asked for, or because its policy says so.
    Stopped,
    /// It failed too often in a row and is left alone.
    CrashLoop,
}

/// What the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe has succeeded yet, or nothing runs.
    Unknown,
    /// The last probe succeeded, or fewer failed in a row than it takes.
    Healthy,
    /// So many probes failed in a row.
    Unhealthy,
}

impl State {
    /// As the record has it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::CrashLoop => "crash loop",
        }
    }
}

impl Health {
    /// As the record has it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A process, told apart from one that has got its number since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to its start (proc_pid_stat(5)).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`: the numbers above mean nothing in another boot.
    pub boot_id: String,
    /// Its cgroup, as a path below the cgroup v2 mount.
    pub cgroup: String,
    /// Inodes of the pipes that are its standard output and error: how to know them again in `/proc/PID/fd`.
    #[serde(default)]
    pub outputs: Vec<u64>,
}

/// The status of a process that was no child of who saw it end.
pub(crate) const STATUS_UNSEEN: i32 = -1;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// When.
    pub at_ms: u64,
    /// Status of its process 1 as a shell gives it: 128 + N when ended by signal N.
    pub status: i32,
}

impl Record {
    /// The release that a swap which is under way is to.
    #[must_use]
    pub fn swapped_to(&self) -> Option<&str> {
        self.swap.as_ref().map(|swap| match swap.other {
            Other::Candidate => swap.release.as_str(),
            Other::Previous => self.release.as_str(),
        })
    }

    /// Reads the record of a service; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::RecordCorrupt`], [`Error::RecordNewer`].
    pub fn read(folders: &ServiceFolders) -> Result<Option<Self>, Error> {
        let path = folders.record();
        match small_file::read(&path, |text| Self::parse(text, &path)) {
            Ok(record) => record.map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Io { doing: "read a service's record", source: error }),
        }
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let corrupt =
            |error: serde_json::Error| Error::RecordCorrupt { path: path.to_owned(), source: error };
        let newer = |found| Error::RecordNewer { path: path.to_owned(), found, known: VERSION };
        match serde_json::from_slice::<Self>(text) {
            Ok(record) if record.version > VERSION => Err(newer(record.version)),
            Ok(record) => Ok(Self { version: VERSION, ..record }),
            // What a newer opsrun wrote need not be understood to be told from what is spoiled.
            Err(error) => match serde_json::from_slice(text) {
                Ok(VersionOnly { version }) if version > VERSION => Err(newer(version)),
                _ => Err(corrupt(error)),
            },
        }
    }

    /// Replaces the record of a service on disk.
    ///
    /// # Errors
    /// [`Error::Io`]; the old record is then still there, whole.
    pub fn write(&self, folders: &ServiceFolders) -> Result<(), Error> {
        // Whatever it was that spoiled it, somebody may want to look at it.
        if is_corrupt(folders)? {
            set_aside(folders)?;
        }
        let text = serde_json::to_vec_pretty(self).expect("OK because a record has only string keys");
        replace_file(&folders.record(), &text)
            .map_err(|error| Error::Io { doing: "write a service's record", source: error })
    }
}

/// Whether there is a record that cannot be read as one.
pub(crate) fn is_corrupt(folders: &ServiceFolders) -> Result<bool, Error> {
    match Record::read(folders) {
        Ok(_) => Ok(false),
        Err(Error::RecordCorrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Gives the record another name, which no other has had: where it is now; `None` when there is none.
pub(crate) fn set_aside(folders: &ServiceFolders) -> Result<Option<PathBuf>, Error> {
    let failed = |error| Error::Io { doing: "set a corrupt record aside", source: error };
    let record = folders.record();
    let aside = (1..).map(|number| record.with_extension(format!("corrupt-{number}")));
    let aside = aside.into_iter().find(|aside| aside.symlink_metadata().is_err()).unwrap_or_default();
    match fs_err::rename(&record, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it, before there were limits.
    const FIRST_VERSION: &str = r#"{
        "version": 1, "service": "keystone", "release": "zed", "image": "keystone:zed", "image_id": "sha256:0",
        "generation": 3, "ports": [5000], "wanted": "up", "state": "running", "health": "healthy",
        "process": { "pid": 4711, "start_ticks": 99, "boot_id": "b", "cgroup": "/opsrun/keystone-g3" },
        "started_at_ms": 1, "changed_at_ms": 2, "restarts": 4,
        "last_exit": { "at_ms": 1, "status": 137 }, "last_failure": { "causes": ["it was ended by SIGKILL"] }
    }"#;

    #[test]
    fn what_an_older_opsrun_wrote_is_read_and_written_back_in_the_version_of_today() {
        let root = tempfile::tempdir().expect("folder");
        let at = |name: &str| root.path().join(name).join("keystone");
        let folders = ServiceFolders { state: at("state"), run: at("run"), log: at("log") };
        fs_err::create_dir_all(&folders.state).expect("folder");
        fs_err::write(folders.record(), FIRST_VERSION).expect("the old record");
        let record = Record::read(&folders).expect("read").expect("a record");
        assert_eq!((record.version, record.generation, record.restarts), (VERSION, 3, 4));
        assert_eq!(record.oom_kills, 0);
        record.write(&folders).expect("write");
        assert_eq!(Record::read(&folders).expect("read"), Some(record));
    }

    #[test]
    fn missing_corrupt_and_newer_are_three_things() {
        let root = tempfile::tempdir().expect("folder");
        let at = |name: &str| root.path().join(name).join("keystone");
        let folders = ServiceFolders { state: at("state"), run: at("run"), log: at("log") };
        fs_err::create_dir_all(&folders.state).expect("folder");
        assert_eq!(Record::read(&folders).expect("read"), None);
        fs_err::write(folders.record(), &FIRST_VERSION[..40]).expect("half a record");
        assert!(matches!(Record::read(&folders), Err(Error::RecordCorrupt { .. })));
        fs_err::write(folders.record(), r#"{ "version": 99, "unknown": true }"#).expect("a newer record");
        assert!(matches!(Record::read(&folders), Err(Error::RecordNewer { found: 99, .. })));
    }
}
