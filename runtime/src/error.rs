//! What can go wrong in this room: a variant is an operation and its subject.
//! The text never repeats its source; the chain is printed once, by the launcher.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed while doing something.
    #[error("could not {doing}")]
    Io {
        /// What was being done, as in "could not …".
        doing: &'static str,
        /// Why not; it names the path where there is one.
        source: io::Error,
    },
    /// A bundle's definition is missing or wrong.
    #[error("the bundle has no usable definition: {reason}")]
    Definition {
        /// What is wrong with it.
        reason: String,
    },
    /// A bundle's `config.json` cannot be read.
    #[error("the bundle {path} cannot be read")]
    Bundle {
        /// The bundle's folder.
        path: PathBuf,
        /// Why.
        source: oci_spec::OciSpecError,
    },
    /// The kernel has no overlayfs.
    #[error("this kernel has no overlayfs")]
    NoOverlay,
    /// A seccomp profile cannot be enforced.
    #[error("the seccomp profile cannot be enforced: {reason}")]
    Seccomp {
        /// What stands in the way.
        reason: String,
    },
    /// A limit cannot be kept.
    #[error("could not set the limit {file} = {value}")]
    Limit {
        /// The file of the cgroup it is written to.
        file: String,
        /// What was to be written.
        value: String,
        /// The controller that file belongs to.
        controller: String,
        /// Why not.
        source: Failure,
    },
    /// No cgroup can be made.
    #[error("the cgroup file system is mounted read-only")]
    CgroupsReadOnly,
    /// A terminal was asked for where there is none.
    #[error("standard input is not a terminal")]
    NoTerminal,
    /// A record is there but is no record.
    #[error("the record {path} is corrupt")]
    RecordCorrupt {
        /// The record.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// A record was written by a newer opsrun.
    #[error("the record {path} is of version {found}; this opsrun reads up to {known}")]
    RecordNewer {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// A history was written by a newer opsrun.
    #[error("the history {path} is of version {found}; this opsrun reads up to {known}")]
    HistoryNewer {
        /// The history.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// A generation has no output.
    #[error("there is no output of generation {generation} of {service}")]
    NoOutput {
        /// The service.
        service: String,
        /// The generation that was asked for.
        generation: u32,
        /// Those that have output.
        have: Vec<u32>,
    },
    /// The service is up already.
    #[error("{service} is already running {release}")]
    AlreadyRunning {
        /// The service.
        service: String,
        /// What it runs.
        release: String,
    },
    /// The service is not up.
    #[error("{service} is not running")]
    NotRunning {
        /// The service.
        service: String,
    },
    /// Another opsrun command or supervisor holds the service.
    #[error("{service} is busy: another opsrun command (process {holder}) is at work on it")]
    Busy {
        /// The service.
        service: String,
        /// The process that holds its lock; 0 when unknown.
        holder: i32,
    },
    /// Somebody waits until it is healthy.
    #[error("{service} is being started")]
    BeingStarted {
        /// The service.
        service: String,
    },
    /// Another generation is about to take the place of the one that runs.
    #[error("{service} is being swapped to {release}")]
    Swapping {
        /// The service.
        service: String,
        /// The release of the candidate.
        release: String,
    },
    /// No share of the connections can be sent to a candidate first, and that was asked for.
    #[error("no share of the connections to {service} can go to another generation first")]
    NoCanary {
        /// The service.
        service: String,
        /// Why not.
        source: Failure,
    },
    /// A port the service needs has a listener already.
    #[error("port {port} is taken by {holder}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Process that listens, as "name (process N)" or "a process outside this pid namespace".
        holder: String,
    },
    /// The service was started and did not become healthy. Nothing of it runs any more.
    #[error("{service} did not become healthy")]
    StartFailed {
        /// The service.
        service: String,
        /// Why.
        source: Failure,
        /// Its last lines of output.
        output: Vec<String>,
    },
    /// A generation that was to take another's place did not become healthy, or did not stay so.
    #[error("the candidate for {service} came to nothing")]
    CandidateFailed {
        /// The service.
        service: String,
        /// Why.
        source: Failure,
        /// Its last lines of output.
        output: Vec<String>,
        /// For so long nothing served.
        gap: std::time::Duration,
        /// Why the old generation does not serve either; it does when there is no reason.
        back: Option<Failure>,
    },
    /// The service was asked to end in the middle of a swap.
    #[error("{service} was asked to end in the middle of the swap")]
    SwapCancelled {
        /// The service.
        service: String,
    },
    /// The container could not be made or entered.
    #[error("could not {doing}")]
    Container {
        /// What was being done: "create the container", "run … in the container".
        doing: String,
        /// Why not.
        source: Failure,
    },
    /// The program could not be executed inside the container.
    #[error("cannot execute {program} in the container")]
    Execute {
        /// The program.
        program: String,
        /// Whether it does not exist (exit status 127) rather than cannot be run (126).
        missing: bool,
        /// Why not.
        source: Failure,
    },
    /// Another process gave an error instead of an answer.
    #[error("the supervisor of {service} failed")]
    Supervisor {
        /// The service.
        service: String,
        /// What it said.
        source: Failure,
    },
    /// The limits of what runs could not be changed, and are as before.
    #[error("the limits of {service} are as before")]
    NotUpdated {
        /// The service.
        service: String,
        /// Why.
        source: Failure,
    },
    /// systemd could not do something with a unit.
    #[error("systemd could not {verb} {unit}")]
    Systemd {
        /// What systemctl(1) was asked for.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// What it said.
        source: Failure,
    },
    /// The supervisor went away while it was being talked to.
    #[error("the supervisor of {service} ended before it answered")]
    SupervisorGone {
        /// The service.
        service: String,
    },
}

/// An error that crossed a process boundary or was written down: its causes as a list, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Each cause as one sentence without a full stop; never empty.
    pub causes: Vec<String>,
}

impl Failure {
    /// A failure with one cause.
    pub fn new(cause: impl Into<String>) -> Self {
        Self { causes: vec![cause.into()] }
    }

    /// The chain of an error.
    #[must_use]
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            // OK to compare texts: a source that says what its outer error said adds nothing for a reader.
            let text = error.to_string();
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            next = error.source();
        }
        Self { causes }
    }

    /// The same failure as the cause of `outer`.
    #[must_use]
    pub fn within(mut self, outer: impl Into<String>) -> Self {
        self.causes.insert(0, outer.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.causes.join(": "))
    }
}

impl std::error::Error for Failure {}
