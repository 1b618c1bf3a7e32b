//! What can be said about a service in a file: the form of `/etc/opsrun/NAME.toml`, and of the catalogue's entries.
//! It knows neither images nor what the values are used for.
//!
//! Every value may be absent. The catalogue's entry fills what the operator's file leaves out ([`Settings::over`]); what
//! both leave out comes from the image or from the defaults in `definition.rs`.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::error::Error;
use crate::limits::Limits;
use crate::limits_value::Size;
use crate::series::Series;
use crate::service_name::ServiceName;
use crate::settings_swap::{self, Hooks, PointOfNoReturn};
use crate::settings_value::{ContainerPath, Entry, ListenAddress, Port, SeccompChoice, SignalName, UrlPath};
use crate::time_span::TimeSpan;

/// What is said about one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Name of the image, without a tag, when it is not the service's own name: `quay.io/openstack.kolla/keystone`.
    pub image: Option<String>,
    /// TCP ports the service listens on.
    pub ports: Option<Vec<Port>>,
    /// Where it listens with sockets that its program gets when it is started (sd_listen_fds(3)) and does not bind itself.
    pub listen_stream: Option<Vec<ListenAddress>>,
    /// Services that are started before this one when the host starts.
    pub after: Option<Vec<ServiceName>>,
    /// Replaces the image's `CMD`.
    pub command: Option<Vec<String>>,
    /// Replaces the image's `ENTRYPOINT`.
    pub entrypoint: Option<Vec<String>>,
    /// Added to the image's `ENV`, and wins over it.
    pub environment: BTreeMap<String, String>,
    /// Replaces the image's `USER`: a name or number, perhaps with `:GROUP`.
    pub user: Option<String>,
    /// More bind mounts, as `-v` takes them: `HOST:CONTAINER` or `HOST:CONTAINER:ro`.
    pub volumes: Vec<crate::mounts::Volume>,
    /// Whether opsrun's own init is process 1 of the container.
    pub init: Option<bool>,
    /// Whether no program in the container can gain privileges, by sudo for example.
    pub no_new_privileges: Option<bool>,
    /// Whether the container's root file system is read-only.
    pub read_only: Option<bool>,
    /// Capabilities beyond the default ones.
    pub capabilities_add: Vec<String>,
    /// Capabilities of the default ones that the service does not get.
    pub capabilities_drop: Vec<String>,
    /// `default`, `unconfined`, or the path of a profile in Docker's form.
    pub seccomp: Option<SeccompChoice>,
    /// What the service may use.
    pub limits: Limits,
    /// Where the image has its configuration, logs and data.
    pub folders: Folders,
    /// The configuration's files.
    pub configuration: Configuration,
    /// How the service is proven healthy.
    #[serde(deserialize_with = "read_health")]
    pub health: Health,
    /// When it is started again.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: Stop,
    /// How much of its output is kept.
    pub log: Log,
    /// How much of the past is kept.
    pub generations: Generations,
    /// On which terms a swap is done.
    pub swap: settings_swap::Terms,
    /// What is run around a swap.
    pub hooks: Hooks,
    /// The series its releases are of.
    pub releases: Option<Series>,
    /// Where it cannot go back any more.
    pub point_of_no_return: Option<Vec<PointOfNoReturn>>,
}

/// Where the image has what `/opt/NAME` keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Folders {
    /// `/opt/NAME/conf` is mounted here.
    pub conf: Option<ContainerPath>,
    /// `/opt/NAME/log` is mounted here.
    pub log: Option<ContainerPath>,
    /// `/opt/NAME/lib` is mounted here.
    pub lib: Option<ContainerPath>,
}

/// What is known of the files in the configuration folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Configuration {
    /// Files without which the service cannot start, relative to the folder.
    pub required: Option<Vec<Entry>>,
    /// Entries that are bound live instead of copied into the generation: keys must never be rolled back.
    pub live: Option<Vec<Entry>>,
}

/// How a service is proven healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Health {
    /// What a probe does.
    pub check: Option<Check>,
    /// Address that is connected to; 127.0.0.1 when absent.
    pub address: Option<std::net::IpAddr>,
    /// Port that is connected to; the first of `ports` when absent.
    pub port: Option<Port>,
    /// Path of an HTTP request.
    pub path: Option<UrlPath>,
    /// Program and arguments of a command.
    pub command: Option<Vec<String>>,
    /// How long the service must have been running for the check `runs`.
    pub runs_for: Option<TimeSpan>,
    /// From the end of one probe to the start of the next.
    pub interval: Option<TimeSpan>,
    /// A probe that takes longer has failed.
    pub timeout: Option<TimeSpan>,
    /// Failed probes in a row after which the service is unhealthy.
    pub retries: Option<u32>,
    /// How long a start may take until the first success.
    pub start_timeout: Option<TimeSpan>,
}

/// What a probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Check {
    /// `GET` of a path is answered with a status below 400.
    Http,
    /// A TCP connection is accepted.
    Tcp,
    /// A command in the container ends with status 0.
    Command,
    /// The service has been running for a while.
    Runs,
    /// What the image's `HEALTHCHECK` says.
    Image,
}

/// When a service is started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Restart {
    /// Which ends are followed by a restart.
    pub policy: Option<Policy>,
    /// Wait before the first restart.
    pub backoff_first: Option<TimeSpan>,
    /// The wait never grows beyond this.
    pub backoff_max: Option<TimeSpan>,
    /// Failures in a row after which the service is left alone.
    pub crash_loop_failures: Option<u32>,
    /// A run at least this long ends the row of failures.
    pub stable_after: Option<TimeSpan>,
}

/// Which ends of a service are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// Every end.
    Always,
    /// An end with a status other than 0.
    OnFailure,
    /// None.
    No,
}

/// How a service is asked to end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Stop {
    /// The signal.
    pub signal: Option<SignalName>,
    /// How long it may take until it is killed.
    pub grace: Option<TimeSpan>,
}

/// How much of what each generation writes to its standard output and error is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// A file that would become larger is followed by the next one.
    pub max_size: Option<Size>,
    /// So many files, the one that is written to among them.
    pub max_files: Option<NonZeroU32>,
}

/// How much of a service's past is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Generations {
    /// So many generations, the newest ones, can be gone back to. What serves and the one before it are always among them.
    pub keep: Option<NonZeroUsize>,
    /// So many are in the history, also when they are gone.
    pub history: Option<NonZeroUsize>,
}

impl Settings {
    /// Reads the file of a service; the default when there is none.
    ///
    /// # Errors
    /// [`Error::Settings`] naming the line, [`Error::Io`].
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs_err::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read a service's settings", error)),
        };
        match String::from_utf8(text) {
            Ok(text) => parse_toml(&text, path),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                Err(wrong_at(&text, path, good, "it is not UTF-8 text".to_owned()))
            }
        }
    }

    /// These settings, with what they leave out taken from `under`. Lists are replaced; the environment, volumes and
    /// capabilities are added to.
    pub(crate) fn over(self, under: Self) -> Self {
        let mut environment = under.environment;
        environment.extend(self.environment);
        Self {
            image: self.image.or(under.image),
            ports: self.ports.or(under.ports),
            listen_stream: self.listen_stream.or(under.listen_stream),
            after: self.after.or(under.after),
            command: self.command.or(under.command),
            entrypoint: self.entrypoint.or(under.entrypoint),
            environment,
            user: self.user.or(under.user),
            volumes: [under.volumes, self.volumes].concat(),
            init: self.init.or(under.init),
            no_new_privileges: self.no_new_privileges.or(under.no_new_privileges),
            read_only: self.read_only.or(under.read_only),
            capabilities_add: [under.capabilities_add, self.capabilities_add].concat(),
            capabilities_drop: [under.capabilities_drop, self.capabilities_drop].concat(),
            seccomp: self.seccomp.or(under.seccomp),
            limits: self.limits.over(under.limits),
            folders: Folders {
                conf: self.folders.conf.or(under.folders.conf),
                log: self.folders.log.or(under.folders.log),
                lib: self.folders.lib.or(under.folders.lib),
            },
            configuration: Configuration {
                required: self.configuration.required.or(under.configuration.required),
                live: self.configuration.live.or(under.configuration.live),
            },
            health: self.health.over(under.health),
            restart: Restart {
                policy: self.restart.policy.or(under.restart.policy),
                backoff_first: self.restart.backoff_first.or(under.restart.backoff_first),
                backoff_max: self.restart.backoff_max.or(under.restart.backoff_max),
                crash_loop_failures: self.restart.crash_loop_failures.or(under.restart.crash_loop_failures),
                stable_after: self.restart.stable_after.or(under.restart.stable_after),
            },
            stop: Stop {
                signal: self.stop.signal.or(under.stop.signal),
                grace: self.stop.grace.or(under.stop.grace),
            },
            log: Log {
                max_size: self.log.max_size.or(under.log.max_size),
                max_files: self.log.max_files.or(under.log.max_files),
            },
            generations: Generations {
                keep: self.generations.keep.or(under.generations.keep),
                history: self.generations.history.or(under.generations.history),
            },
            swap: self.swap.over(under.swap),
            hooks: self.hooks.over(under.hooks),
            releases: self.releases.or(under.releases),
            point_of_no_return: self.point_of_no_return.or(under.point_of_no_return),
        }
    }
}

impl Health {
    fn over(self, under: Self) -> Self {
        Self {
            check: self.check.or(under.check),
            address: self.address.or(under.address),
            port: self.port.or(under.port),
            path: self.path.or(under.path),
            command: self.command.or(under.command),
            runs_for: self.runs_for.or(under.runs_for),
            interval: self.interval.or(under.interval),
            timeout: self.timeout.or(under.timeout),
            retries: self.retries.or(under.retries),
            start_timeout: self.start_timeout.or(under.start_timeout),
        }
    }
}

/// A check needs what it is made with. Said here, while the parser still knows the line.
fn read_health<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Health, D::Error> {
    let health = Health::deserialize(deserializer)?;
    if health.check == Some(Check::Command) && health.command.as_ref().is_none_or(Vec::is_empty) {
        return Err(serde::de::Error::custom("the check \"command\" needs the key `command` beside it"));
    }
    Ok(health)
}

/// Parses TOML; what is wrong names the file and the line, and shows the line.
///
/// # Errors
/// [`Error::Settings`].
pub(crate) fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        wrong_at(text, path, at, in_plain_words(error.message()))
    })
}

/// What is wrong at a byte of a file.
fn wrong_at(text: &str, path: &Path, at: usize, reason: String) -> Error {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let shown = text.lines().nth(line - 1).unwrap_or("").to_owned();
    Error::Settings { path: PathBuf::from(path), line, shown, reason }
}

/// serde's words in those of the people who write these files; for an unknown key the one that was perhaps meant.
fn in_plain_words(message: &str) -> String {
    use strsim::osa_distance as distance;
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let [key, known @ ..] = &quoted[..]
        && message.starts_with("unknown field")
    {
        let nearest = known.iter().min_by_key(|candidate| distance(key, candidate));
        return match nearest.filter(|candidate| distance(key, candidate) <= 2) {
            Some(candidate) => format!("unknown key `{key}`; did you mean `{candidate}`?"),
            None => format!("unknown key `{key}`; there are {}", known.join(", ")),
        };
    }
    let plain =
        [("unknown variant", "unknown value"), ("a sequence", "a list"), ("a map", "a table"), ("\n", ", ")];
    plain.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        parse_toml::<Settings>(text, Path::new("/etc/opsrun/keystone.toml")).map_err(|error| match error {
            Error::Settings { ref shown, .. } => format!("{error}\n  {shown}"),
            other => format!("{other}"),
        })
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse(""), Ok(Settings::default()));
    }

    #[test]
    fn every_key_is_understood() {
        let text = r#"
            image = "quay.io/openstack.kolla/keystone"
            ports = [5000, 35357]
            after = ["mariadb", "memcached"]
            command = ["uwsgi", "--ini", "/etc/keystone/uwsgi.ini"]
            entrypoint = []
            user = "keystone:keystone"
            volumes = ["/srv/pki:/etc/pki:ro"]
            init = false
            no_new_privileges = false
            read_only = true
            capabilities_add = ["NET_ADMIN"]
            capabilities_drop = ["MKNOD"]
            seccomp = "/etc/opsrun/keystone-seccomp.json"
            releases = "openstack"
            [environment]
            OS_DEBUG = "1"
            [folders]
            conf = "/etc/keystone"
            log = "/var/log/kolla/keystone"
            lib = "/var/lib/keystone"
            [configuration]
            required = ["keystone.conf"]
            live = ["fernet-keys"]
            [health]
            check = "http"
            address = "192.0.2.7"
            port = 5000
            path = "/healthcheck?detail"
            command = ["true"]
            runs_for = "1s"
            interval = "10s"
            timeout = "5s"
            retries = 3
            start_timeout = "2m"
            [restart]
            policy = "on-failure"
            backoff_first = "100ms"
            backoff_max = "1m"
            crash_loop_failures = 5
            stable_after = "10s"
            [limits]
            memory = "512m"
            memory_high = 419430400
            memory_reservation = "100m"
            memory_swap = -1
            cpus = 0.5
            cpu_weight = 50
            pids_limit = 200
            blkio_weight = 500
            device_read_bps = ["/dev/sda:10mb"]
            device_write_bps = ["/dev/sda:10mb"]
            device_read_iops = ["/dev/sda:1000"]
            device_write_iops = ["/dev/sda:1000"]
            oom_group = true
            allow_unenforced = false
            [stop]
            signal = "SIGINT"
            grace = "1m30s"
            [generations]
            keep = 3
            history = 50
            [swap]
            canary = "10%"
            canary_for = "5m"
            drain = "30s"
            stop_first = true
            [hooks]
            pre_swap = [["keystone-manage", "db_sync", "--expand"]]
            post_commit = [["true"], ["sh", "-c", "date"]]
            timeout = "5m"
            [[point_of_no_return]]
            from = "zed"
            to = "antelope"
            reason = "the database is contracted"
        "#;
        let settings = parse(text).unwrap();
        assert_eq!(settings.stop.grace, Some(TimeSpan { ms: 90_000 }));
        assert_eq!(settings.restart.policy, Some(Policy::OnFailure));
        assert_eq!(settings.entrypoint, Some(Vec::new()));
        // Nothing is lost or invented when the whole file lies over or under an empty one.
        assert_eq!(settings.clone().over(Settings::default()), settings);
        assert_eq!(Settings::default().over(settings.clone()), settings);
    }

    #[test]
    fn what_is_wrong_names_the_file_and_the_line_and_shows_it() {
        let mut shown = String::new();
        for text in [
            "ports = [5000]\nprot = 1\n",
            "[health]\nchek = \"http\"\n",
            "[helth]\n",
            "ports = 5000\n",
            "ports = [5000,\n 70000]\n",
            "ports = [0]\n",
            "init = \"no\"\n",
            "[health]\ncheck = \"https\"\n",
            "[health]\ncheck = \"command\"\n",
            "[health]\ninterval = 10\n",
            "[health]\ninterval = \"10\"\n",
            "[health]\npath = \"healthcheck\"\n",
            "[health]\naddress = \"localhost\"\n",
            "[stop]\nsignal = \"SIGNOPE\"\n",
            "[folders]\nconf = \"etc/keystone\"\n",
            "[folders]\nconf = \"/etc/../keystone\"\n",
            "[configuration]\nlive = [\"../keys\"]\n",
            "volumes = [\"data:/data\"]\n",
            "seccomp = \"off\"\n",
            "[limits]\nmemory = 0\n",
            "[limits]\nmemory = \"512q\"\n",
            "[limits]\nmemory = -5\n",
            "[limits]\ncpus = \"two\"\n",
            "[limits]\ncpus = 0.001\n",
            "[limits]\npids_limit = 0\n",
            "[limits]\ncpu_shares = 1\n",
            "[limits]\ndevice_read_bps = [\"sda\"]\n",
            "[limits]\nmemroy = \"512m\"\n",
            "[generations]\nkeep = 0\n",
            "[swap]\ncanary = \"100%\"\n",
            "[swap]\ncanary = 10\n",
            "[hooks]\npre_swap = [[]]\n",
            "[hooks]\npost_commit = [\"true\"]\n",
            "[hooks]\npost_swap = [[\"true\"]]\n",
            "[[point_of_no_return]]\nfrom = \"zed\"\nto = \"epoxy\"\n",
            "releases = \"debian\"\n",
            "ports = [5000\n",
            "ports = [5000]\nports = [5000]\n",
        ] {
            let error = parse(text).expect_err(text);
            shown.push_str(&error);
            shown.push_str("\n\n");
        }
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn the_operators_file_wins_key_by_key() {
        let under = parse("ports = [5000]\n[health]\ncheck = \"http\"\npath = \"/healthcheck\"\n").unwrap();
        let over = parse("[health]\npath = \"/v3\"\n").unwrap();
        let both = over.over(under);
        assert_eq!(both.ports.unwrap()[0].number(), 5000);
        assert_eq!(both.health.path.unwrap().as_str(), "/v3");
        assert_eq!(both.health.check, Some(Check::Http));
    }
}
