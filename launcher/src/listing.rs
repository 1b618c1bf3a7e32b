//! What is listed, in the form that `--json` promises: these types are its schema.
//! They know nothing of where the facts come from.
//!
//! Every document is an object with `version`, which changes only when a key is renamed, removed or changes its
//! meaning; keys may be added. Times are RFC 3339 in UTC; a key that ends in `_s`, `_ms` or `_bytes` is a number in that
//! unit; what is not known is null.

use std::path::PathBuf;

use runtime::definition::Definition;
use runtime::record::{Canary, Exit, Health, Other, Record, State, Swapping, Way};
use runtime::share::Share;
use runtime::status::Status;
use serde::Serialize;

use crate::drift::Change;
use crate::print::amount::timestamp;

/// Version of all documents.
pub(crate) const VERSION: u32 = 1;

/// `ps --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Services {
    /// [`VERSION`].
    pub version: u32,
    /// Each service that has a record, by name.
    pub services: Vec<ListedService>,
}

/// One service, and in what its configuration has been changed.
#[derive(Debug, Serialize)]
pub(crate) struct ListedService {
    /// What is known of it.
    #[serde(flatten)]
    pub service: Service,
    /// What has been changed in its configuration since its active generation began, by path; null when it has none, or when
    /// that cannot be told.
    pub drift: Option<Vec<Change>>,
    /// The way a swap would go now.
    #[serde(flatten)]
    pub swap: SwapOutlook,
}

/// The way a swap to a release like the one that runs would go now; null when nothing runs.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SwapOutlook {
    /// Which.
    pub swap_way: Option<Way>,
    /// Why.
    pub swap_way_reason: Option<String>,
}

/// One service.
#[derive(Debug, Serialize)]
pub(crate) struct Service {
    /// Its name.
    pub service: String,
    /// The release of its active generation.
    pub release: String,
    /// Name and tag of the image.
    pub image: String,
    /// Id of the image.
    pub image_id: String,
    /// Number of the active generation.
    pub generation: u32,
    /// What it does.
    pub state: ShownState,
    /// What the probes say.
    pub health: Health,
    /// Its process 1 on the host, when it runs.
    pub process: Option<i32>,
    /// Its supervisor's process, when there is one.
    pub supervisor: Option<i32>,
    /// Whether another program is installed by now than the one that its supervisor runs; null when there is none, or that
    /// cannot be seen.
    pub program_replaced: Option<bool>,
    /// When the running container was started.
    pub started_at: Option<String>,
    /// For how long it has been running.
    pub uptime_s: Option<u64>,
    /// Restarts of the active generation.
    pub restarts: u32,
    /// Processes that were killed because the service was out of memory; not counted as restarts.
    pub oom_kills: u32,
    /// Controllers whose limits this host does not keep although they were asked for.
    pub unenforced: Vec<String>,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// Whether it is started when the host starts.
    pub enabled: bool,
}

/// What a service does, as far as it can be seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShownState {
    /// Its container is being made, or was not healthy yet.
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
    /// Its container runs, and its supervisor is dead: nobody watches it.
    Unsupervised,
    /// It should be up, but neither container nor supervisor is there, after a reboot for example.
    Interrupted,
}

/// `status --json`.
#[derive(Debug, Serialize)]
pub(crate) struct ServiceStatus {
    /// [`VERSION`].
    pub version: u32,
    /// As in `ps`.
    #[serde(flatten)]
    pub service: Service,
    /// How its last container ended.
    pub last_exit: Option<LastExit>,
    /// What went wrong last, outermost cause first.
    pub last_failure: Option<Vec<String>>,
    /// Its limits, as the cgroup's files (cgroup v2).
    pub limits: std::collections::BTreeMap<String, String>,
    /// How it is proven healthy, restarted and stopped; null when its generation is gone.
    pub definition: Option<Definition>,
    /// The configuration.
    pub configuration: Option<Configuration>,
    /// The other generation, while one takes another's place.
    pub swap: Option<SwapUnderWay>,
    /// The way a swap would go now.
    #[serde(flatten)]
    pub outlook: SwapOutlook,
    /// Hooks of its active generation that have not been run to their end.
    pub pending_hooks: Vec<Vec<String>>,
    /// The file with the output of its active generation.
    pub output: PathBuf,
    /// Its settings file, whether it is there or not.
    pub settings: PathBuf,
}

/// The generation that a service has beside its active one.
#[derive(Debug, Serialize)]
pub(crate) struct SwapUnderWay {
    /// How one takes the other's place.
    pub way: Way,
    /// Whether it is tried, or is kept until the active one has stood its soak.
    pub other: Other,
    /// Its number.
    pub generation: u32,
    /// Its release.
    pub release: String,
    /// When the swap began.
    pub began_at: String,
    /// What it gets of clients' new connections, while it gets a share.
    pub canary: Option<CanaryUnderWay>,
}

/// A share of clients' new connections.
#[derive(Debug, Serialize)]
pub(crate) struct CanaryUnderWay {
    /// Of the connections, in millionths.
    pub share_ppm: Share,
    /// When it gets all, if it stays healthy until then.
    pub until: String,
}

impl From<&Swapping> for SwapUnderWay {
    fn from(swap: &Swapping) -> Self {
        let canary = swap.canary;
        Self {
            way: swap.way,
            other: swap.other,
            generation: swap.generation,
            release: swap.release.clone(),
            began_at: timestamp(swap.began_at_ms),
            canary: canary.map(|Canary { share, until_ms }| CanaryUnderWay {
                share_ppm: share,
                until: timestamp(until_ms),
            }),
        }
    }
}

/// How a container ended.
#[derive(Debug, Serialize)]
pub(crate) struct LastExit {
    /// When.
    pub at: String,
    /// Status of its process 1 as a shell gives it: 128 + N when ended by signal N.
    pub status: i32,
}

/// The configuration of a service.
#[derive(Debug, Serialize)]
pub(crate) struct Configuration {
    /// The folder that its operator edits.
    pub folder: PathBuf,
    /// The active generation's copy of it.
    pub copy: PathBuf,
    /// What differs: it counts from the next `restart` on.
    pub changes: Vec<Change>,
}

/// `diff --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Diff {
    /// [`VERSION`].
    pub version: u32,
    /// The service.
    pub service: String,
    /// What is compared.
    pub from: String,
    /// With what.
    pub to: String,
    /// What differs of image, definition, limits, environment and mounts.
    pub values: Vec<DifferentValue>,
    /// What differs of the configuration.
    pub files: Vec<DifferentFile>,
}

/// A value that differs; null where there is none. Secrets are hidden.
#[derive(Debug, Serialize)]
pub(crate) struct DifferentValue {
    /// What it is of, and its name.
    pub name: String,
    /// In the first.
    pub old: Option<String>,
    /// In the second.
    pub new: Option<String>,
}

/// A file that differs.
#[derive(Debug, Serialize)]
pub(crate) struct DifferentFile {
    /// Relative to the folder.
    pub path: PathBuf,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// In what its mode and owner differ.
    pub attributes: Option<String>,
    /// As a unified diff with secrets hidden; null when it is no text, or when its content is the same.
    pub diff: Option<String>,
}

/// `history --json`.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    /// [`VERSION`].
    pub version: u32,
    /// The service.
    pub service: String,
    /// Each generation, the newest last.
    pub generations: Vec<PastGeneration>,
}

/// A generation and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct PastGeneration {
    /// Its number.
    pub generation: u32,
    /// Whether it serves, or is what a start would bring up again.
    pub active: bool,
    /// Whether its folder, with its configuration, is still there.
    pub kept: bool,
    /// When it was made.
    pub made_at: Option<String>,
    /// How and by whom; null when it is older than the history.
    pub made: Option<runtime::history::Made>,
    /// Each time it served or was to serve.
    pub runs: Vec<PastRun>,
}

/// One time that a generation served, or was started in vain.
#[derive(Debug, Serialize)]
pub(crate) struct PastRun {
    /// When it was healthy; null when it never was.
    pub began_at: Option<String>,
    /// When it ended; null when it did not, or nobody saw it.
    pub ended_at: Option<String>,
    /// How.
    pub end: Option<runtime::history::End>,
}

/// `bench-swap --json`.
#[derive(Debug, Serialize)]
pub(crate) struct MeasuredSwap {
    /// [`VERSION`].
    pub version: u32,
    /// The service.
    pub service: String,
    /// The release it was swapped for.
    pub release: String,
    /// Where it was asked.
    pub address: String,
    /// What for.
    pub path: String,
    /// By how many at the same time.
    pub clients: u16,
    /// Whether each used a connection for more than one request.
    pub keep_alive: bool,
    /// How many requests there were.
    pub requests: u64,
    /// How many of them failed, by what was seen: `refused`, `reset`, `closed`, `late`, `broken off`, `no HTTP`, …
    pub failed: std::collections::BTreeMap<String, u64>,
    /// How many were sent a second time, since the connection had been closed while idle.
    pub sent_again: u64,
    /// How long the one in the middle took.
    pub median_us: Option<u64>,
    /// How long the slowest took.
    pub slowest_ms: Option<u64>,
    /// The longest time in which no request was answered.
    pub gap_ms: u64,
    /// How long the swap took, soak included.
    pub swap_ms: u64,
    /// The swap's exit status.
    pub exit: u8,
}

/// `stats --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    /// [`VERSION`].
    pub version: u32,
    /// Each service that runs, by name.
    pub services: Vec<StatsOfService>,
}

/// What one service uses; what the host does not count is null.
#[derive(Debug, Serialize)]
pub(crate) struct StatsOfService {
    /// Its name.
    pub service: String,
    /// Of one processor, in the last half second.
    pub cpu_percent: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub usage: runtime::stats::Usage,
}

/// `inspect SERVICE`.
#[derive(Debug, Serialize)]
pub(crate) struct InspectedService {
    /// [`VERSION`].
    pub version: u32,
    /// The record as it is on disk.
    pub record: Record,
    /// As in `status`.
    pub status: ServiceStatus,
    /// The `config.json` of the active generation (OCI runtime specification); null when it is gone.
    pub specification: Option<serde_json::Value>,
}

/// `images --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Images {
    /// [`VERSION`].
    pub version: u32,
    /// Each image that is loaded.
    pub images: Vec<Image>,
}

/// `load --json`.
pub(crate) type Loaded = Images;

/// One image.
#[derive(Debug, Serialize)]
pub(crate) struct Image {
    /// Its id: the digest of its configuration.
    pub id: String,
    /// The digest of its manifest, when the archive had one.
    pub manifest: Option<String>,
    /// Names with tags.
    pub names: Vec<String>,
    /// When it was made, as it says itself.
    pub created_at: Option<String>,
    /// When it was loaded.
    pub loaded_at: String,
    /// What it was made of by `commit`; null when it was loaded.
    pub committed_from: Option<CommittedFrom>,
    /// What its layers take unpacked; layers are shared between images.
    pub size_bytes: u64,
    /// How much of that is in layers that other images have, too.
    pub shared_bytes: u64,
    /// How much of that only this image has: what removing it frees.
    pub unique_bytes: u64,
    /// Its layers, the bottom one first.
    pub layers: Vec<Layer>,
}

/// What an image was made of.
#[derive(Debug, Serialize)]
pub(crate) struct CommittedFrom {
    /// The service whose container it was.
    pub service: String,
    /// The id of the image that the container ran.
    pub image: String,
    /// What that image was called.
    pub name: String,
}

/// One layer.
#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    /// The digest of its uncompressed archive.
    pub diff_id: String,
    /// What it takes unpacked.
    pub size_bytes: u64,
}

/// `prune --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Pruned {
    /// [`VERSION`].
    pub version: u32,
    /// Whether nothing was removed because of `--dry-run`.
    pub dry_run: bool,
    /// Ids of the images.
    pub images: Vec<String>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// What the layers take.
    pub size_bytes: u64,
}

/// `fsck --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// [`VERSION`].
    pub version: u32,
    /// How many images there are.
    pub images: usize,
    /// How many layers there are.
    pub layers: usize,
    /// How many files were compared.
    pub files: u64,
    /// How many bytes of them were read.
    pub read_bytes: u64,
    /// What is broken.
    pub broken: Vec<Broken>,
}

/// Something that is broken.
#[derive(Debug, Serialize)]
pub(crate) struct Broken {
    /// `image`, `layer`, `names` or `stranger`.
    pub kind: &'static str,
    /// Its digest, or the name of a stranger.
    pub id: Option<String>,
    /// What is wrong with the whole of it.
    pub reason: Option<String>,
    /// Files that are wrong, the first ones.
    pub files: Vec<BrokenFile>,
    /// How many more there are.
    pub files_unnamed: u64,
    /// The images that need it.
    pub images: Vec<String>,
    /// `removed`, `in-use`, or null when no repair was asked for.
    pub repair: Option<&'static str>,
    /// Who uses it.
    pub in_use_by: Option<String>,
}

/// A file that is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct BrokenFile {
    /// Its path in the layer.
    pub path: String,
    /// `changed`, `missing`, `extra` or `unreadable`.
    pub difference: &'static str,
    /// In what it was changed, or why it cannot be read.
    pub detail: Option<String>,
}

/// `inspect IMAGE`.
#[derive(Debug, Serialize)]
pub(crate) struct InspectedImage {
    /// [`VERSION`].
    pub version: u32,
    /// As in `images`.
    pub image: Image,
    /// Its configuration (OCI image specification), as it was loaded.
    pub configuration: serde_json::Value,
}

/// `doctor --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    /// [`VERSION`].
    pub version: u32,
    /// Each fact: `name`, `verdict` (`good`, `limited`, `missing`), `detail`, `hint`.
    pub facts: Vec<runtime::host::Fact>,
}

impl ShownState {
    /// The state as a person is told it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing-off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::CrashLoop => "crash-loop",
            Self::Unsupervised => "unsupervised",
            Self::Interrupted => "interrupted",
        }
    }

    fn of(status: &Status) -> Self {
        let recorded = match status.record.state {
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::BackingOff => Self::BackingOff,
            State::Stopping => Self::Stopping,
            State::Stopped => Self::Stopped,
            State::CrashLoop => Self::CrashLoop,
        };
        match (status.supervisor.is_some(), status.alive, recorded) {
            (true, _, recorded) => recorded,
            (false, true, _) => Self::Unsupervised,
            // Down for good: no supervisor is needed for that.
            (false, false, Self::Stopped | Self::CrashLoop) => recorded,
            (false, false, _) => Self::Interrupted,
        }
    }
}

/// The health as a person is told it.
pub(crate) fn health_text(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

impl Service {
    /// What is known of a service at a time, and whether the host starts it.
    pub(crate) fn of(status: &Status, enabled: bool, now_ms: u64) -> Self {
        let record = &status.record;
        // Of a supervisor that died the record still says what was so then.
        let started_at_ms = if status.alive { record.started_at_ms } else { None };
        let watched = status.alive && status.supervisor.is_some();
        Self {
            service: record.service.clone(),
            release: record.release.clone(),
            image: record.image.clone(),
            image_id: record.image_id.clone(),
            generation: record.generation,
            state: ShownState::of(status),
            health: if watched { record.health } else { Health::Unknown },
            process: record.process.as_ref().filter(|_| status.alive).map(|process| process.pid),
            supervisor: status.supervisor.filter(|&pid| pid > 0),
            program_replaced: status.replaced,
            started_at: started_at_ms.map(timestamp),
            uptime_s: started_at_ms.map(|started| now_ms.saturating_sub(started) / 1000),
            restarts: record.restarts,
            oom_kills: record.oom_kills,
            unenforced: record.unenforced.clone(),
            ports: record.ports.clone(),
            enabled,
        }
    }
}

impl From<Exit> for LastExit {
    fn from(exit: Exit) -> Self {
        Self { at: timestamp(exit.at_ms), status: exit.status }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use runtime::Failure;
    use runtime::record::{Process, Wanted};

    use super::*;

    /// A keystone as it could be found.
    pub(crate) fn looked(state: State, supervisor: Option<i32>, alive: bool) -> Status {
        let process = Process {
            pid: 4711,
            start_ticks: 1,
            boot_id: "b".into(),
            cgroup: "/opsrun/keystone-g3".into(),
            outputs: Vec::new(),
        };
        let record = Record {
            version: 2,
            service: "keystone".into(),
            release: "zed".into(),
            image: "keystone:zed".into(),
            image_id: "sha256:00".into(),
            generation: 3,
            ports: vec![5000],
            wanted: Wanted::Up,
            state,
            health: Health::Healthy,
            process: Some(process),
            started_at_ms: Some(1_000),
            changed_at_ms: 2_000,
            restarts: 1,
            oom_kills: 0,
            unenforced: Vec::new(),
            swap: None,
            last_exit: Some(Exit { at_ms: 500, status: 137 }),
            last_failure: Some(Failure::new("it ended")),
        };
        Status { record, supervisor, replaced: supervisor.map(|_| false), alive }
    }

    #[test]
    fn the_state_is_what_can_be_seen_not_only_what_is_written() {
        for (state, supervisor, alive, shown) in [
            (State::Running, Some(1), true, ShownState::Running),
            (State::Running, None, true, ShownState::Unsupervised),
            (State::Running, None, false, ShownState::Interrupted),
            (State::BackingOff, Some(1), false, ShownState::BackingOff),
            (State::BackingOff, None, false, ShownState::Interrupted),
            (State::Stopped, None, false, ShownState::Stopped),
            (State::CrashLoop, None, false, ShownState::CrashLoop),
        ] {
            assert_eq!(ShownState::of(&looked(state, supervisor, alive)), shown);
        }
    }

    #[test]
    fn a_dead_service_has_no_process_no_uptime_and_no_health() {
        let shown = Service::of(&looked(State::Running, None, false), true, 61_000);
        assert_eq!((shown.process, shown.uptime_s, shown.health), (None, None, Health::Unknown));
    }

    #[test]
    fn the_json_form_of_ps_does_not_change() {
        let service = Service::of(&looked(State::Running, Some(4700), true), true, 61_000);
        let changed = Change { path: "keystone.conf".into(), kind: crate::drift::ChangeKind::Changed };
        let reason = "connections to its port can be steered".to_owned();
        let swap = SwapOutlook { swap_way: Some(Way::Steered), swap_way_reason: Some(reason) };
        let services = vec![ListedService { service, drift: Some(vec![changed]), swap }];
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&Services { version: VERSION, services }).unwrap()
        );
    }
}
