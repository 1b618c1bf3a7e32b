//! The command line: one definition that gives the parser, the help, the manual pages and the completions.
//! It knows nothing of what the commands do.

use std::num::NonZeroU64;
use std::path::PathBuf;

use bundles::reference::Reference;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::limits::Limits;
use crate::limits_value::Size;
use crate::mounts::Volume;
use crate::service_name::{ServiceName, ServiceRelease, parse_release};
use crate::since::Since;
use crate::time_span::TimeSpan;
use runtime::share::Share;

/// Runs OpenStack API services from container images, with no container daemon
#[derive(Debug, Parser)]
#[command(
    name = "opsrun",
    bin_name = "opsrun",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Example: from an image file to a running service\n\
        \n  opsrun load keystone-zed.tar\
        \n  opsrun config init keystone\
        \n  opsrun start keystone:zed\
        \n  opsrun ps\n\
        \nOPSRUN_ROOT=DIR puts everything opsrun keeps below DIR.\
        \nExit status: 0 done, 1 could not, 2 usage, 3 tried and went back, 4 nothing serves."
)]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Each subcommand
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load an image from a file, a folder or standard input
    #[command(
        long_about = "Load an image from a file, a folder or standard input: what `docker save`, `podman save`, \
            `buildah push` and `skopeo copy` write. Every digest is checked.",
        after_help = "Examples:\
            \n  opsrun load keystone-zed.tar\
            \n  opsrun load --tag keystone:zed ./oci-layout\
            \n  podman save keystone:zed | opsrun load -"
    )]
    Load(Load),
    /// Save images as an archive that docker, podman and skopeo read
    #[command(
        long_about = "Save images as an archive that docker, podman and skopeo read, and opsrun itself: with the same \
            layers and the same configuration, so with the same id. The archive is there when it is complete, and not \
            before.",
        after_help = "Examples:\
            \n  opsrun save keystone:zed -o keystone-zed.tar\
            \n  opsrun save --format docker-archive keystone:zed keystone:epoxy -o both.tar\
            \n  opsrun save keystone:zed | ssh other opsrun load -"
    )]
    Save(Save),
    /// Make an image of a service's container, with what it has changed as one layer more
    #[command(
        long_about = "Make an image of a service's container, running or stopped: its image, and what the container has \
            changed over it as one layer more. What is mounted into the container, such as configuration, data and logs, \
            is no part of it. A running one stands still while its changes are read. `opsrun images` marks such images.",
        after_help = "Examples:\
            \n  opsrun commit keystone keystone:patched -m 'with the fix for the token cache'\
            \n  opsrun start keystone:patched\
            \n  opsrun save keystone:patched -o keystone-patched.tar"
    )]
    Commit(Commit),
    /// Get an image from a registry
    #[command(
        long_about = "Get an image from a registry. A layer that is here already is not downloaded, and what breaks off \
            is resumed. A name without a registry is one of the default registry in /etc/opsrun/opsrun.toml. \
            Credentials are those of `docker login` and `podman login`.",
        after_help = "Examples:\
            \n  opsrun pull registry.example:5000/openstack/keystone:zed\
            \n  opsrun pull keystone:zed"
    )]
    Pull(Pull),
    /// List the images that are loaded
    #[command(after_help = "Examples:\n  opsrun images\n  opsrun images keystone --json")]
    Images(Images),
    /// Remove images, and the layers that no other image needs
    #[command(after_help = "Example:\n  opsrun rmi keystone:zed")]
    Rmi(Rmi),
    /// Remove the images and layers that nothing needs any more
    #[command(
        long_about = "Remove the images and layers that nothing needs any more: images that have lost their name to a \
            newer one and that no generation of a service and no running container uses, and layers of no image. What \
            has a name goes by `opsrun rmi`.",
        after_help = "Examples:\n  opsrun prune --dry-run\n  opsrun prune"
    )]
    Prune(Prune),
    /// Check every image and layer against what was recorded when it was loaded
    #[command(
        long_about = "Check every image and layer against what was recorded when it was loaded, and name each file that \
            was changed, is missing or was added. Ends with status 1 when something is broken. With --repair what is \
            broken is removed, so that loading the image again brings it back; what a service or a command runs from is \
            never touched.",
        after_help = "Examples:\n  opsrun fsck\n  opsrun fsck --repair && opsrun load keystone-zed.tar"
    )]
    Fsck(Fsck),
    /// Start a service and wait until it is healthy
    #[command(
        long_about = "Start a service and wait until it is healthy. When it does not become healthy it is stopped \
            again, and its last lines of output are shown. Without RELEASE it is the release that ran last, or the \
            only one that is loaded. What -v and -e say counts for this generation and for restarts of it.",
        after_help = "Examples:\n  opsrun start keystone:zed\n  opsrun start keystone -e OS_DEBUG=1 \
            -v /srv/pki:/etc/pki:ro"
    )]
    Start(Start),
    /// Stop a service
    #[command(after_help = "Example:\n  opsrun stop keystone")]
    Stop(ServiceOnly),
    /// Stop a service and start it again with the configuration as it is now
    #[command(
        long_about = "Stop a service and start it again with the configuration as it is now. When it does not become \
            healthy, what ran before is started again (exit status 3).",
        after_help = "Example:\n  opsrun restart keystone"
    )]
    Restart(ServiceOnly),
    /// Put another release in place of the one that runs, and go back when it is not healthy
    #[command(
        long_about = "Put another release in place of the one that runs, with the configuration as it is now. The new \
            generation is made ready first. When it does not become healthy, ends, or does not stay healthy for the \
            soak, the old one serves again (exit status 3). A release that runs already is swapped for itself when its \
            configuration or settings have changed. Before anything is touched, all is looked at that can be known before; \
            what cannot end well is refused (exit status 1). Hooks of the settings are run in the new image: when a \
            post_commit fails, the new one serves all the same (exit status 5).",
        after_help = "Examples:\n  opsrun swap keystone juno --plan\n  opsrun swap keystone juno\n  opsrun swap keystone juno --soak 2m --timeout 5m\
            \n  opsrun swap keystone juno --canary 10% --for 5m\n  opsrun swap keystone juno --config ./keystone-juno"
    )]
    Swap(Swap),
    /// Swap a service while clients ask it, and say what they saw
    #[command(
        long_about = "Swap a service while clients ask it all the time, and say what they saw: how many requests, how many of \
            them failed and how, the slowest, and the longest time without an answer. It is a swap like any other, with its \
            exit status; what it takes besides goes behind `--`.",
        after_help = "Examples:\
            \n  opsrun bench-swap keystone juno\
            \n  opsrun bench-swap keystone juno --clients 64 --keep-alive --path /v3 -- --soak 5s"
    )]
    BenchSwap(BenchSwap),
    /// Put an earlier generation in place of the one that runs, with its image, limits and configuration
    #[command(
        long_about = "Put an earlier generation in place of the one that runs: the one that served before it, or the one with \
            this number. Its image, limits, definition, environment and configuration return together, in a generation of \
            their own, as `swap` does it: it is made ready first, and when it does not become healthy, ends, or does not stay \
            healthy for the soak, what ran serves again (exit status 3). Once it is proven, /opt/NAME/conf becomes as it was \
            then; what had been changed there is kept as a generation, too. Data, logs, and keys that the catalogue \
            knows stay as they are.",
        after_help = "Examples:\n  opsrun rollback keystone\n  opsrun rollback keystone 3 --keep-config"
    )]
    Rollback(Rollback),
    /// Show what services use: processors, memory, processes, disks
    #[command(
        long_about = "Show what services use: processors, memory, processes, disks. On a terminal each second, until \
            q or Ctrl-C; once otherwise. What this host does not count is shown as -.",
        after_help = "Examples:\n  opsrun stats\n  opsrun stats --json keystone"
    )]
    Stats(Stats),
    /// Change the limits of a running service, without a restart
    #[command(
        long_about = "Change the limits of a running service, without a restart. They stay with its generation, and \
            with what `restart` makes of it; `start` takes those of the settings again.",
        after_help = "Examples:\n  opsrun update keystone --memory 1g\n  opsrun update keystone --cpus 1.5 --pids-limit 300"
    )]
    Update(Update),
    /// Forget a service: its record, generations and logs; /opt/NAME stays
    #[command(after_help = "Examples:\n  opsrun rm keystone\n  opsrun rm --force keystone")]
    Rm(Rm),
    /// List the services
    #[command(after_help = "Examples:\n  opsrun ps\n  opsrun ps --json")]
    Ps(Ps),
    /// Show what is known of a service
    #[command(after_help = "Example:\n  opsrun status keystone")]
    Status(Status),
    /// Show the generations of a service: when, by whom, and what became of each
    #[command(
        long_about = "Show the generations of a service, the newest last: when each was made, by whom and by which command, \
            for how long it served, and how it ended. A start, a restart, a swap and a rollback each make one. The last ones \
            are kept with their configuration; of older ones only this line is left, which then ends in \"gone\".",
        after_help = "Examples:\n  opsrun history keystone\n  opsrun history keystone --json"
    )]
    History(Status),
    /// Show in what two generations of a service differ
    #[command(
        long_about = "Show in what two generations of a service differ: image, definition, limits, environment, mounts and \
            configuration. Without numbers it is the one that served before against the active one, with one number that one \
            against the active one. `now` is the configuration as it is on the host. Secrets are hidden: a line whose secret \
            changed is shown as such; private keys are never shown.",
        after_help = "Examples:\n  opsrun diff keystone\n  opsrun diff keystone 3 5\n  opsrun diff keystone 5 now"
    )]
    Diff(Diff),
    /// Show the output of a service
    #[command(
        after_help = "Examples:\n  opsrun logs keystone\n  opsrun logs -f -n 20 keystone\n  opsrun logs --generation 7 keystone"
    )]
    Logs(Logs),
    /// Show what has happened to services: starts, ends, restarts, limits, and by whom
    #[command(
        long_about = "Show what has happened to services, by time: starts, ends, restarts, kills for want of memory, \
            changes of limits, and by whom. Times are the host's; in JSON, one event a line, they are in UTC. What is \
            very long ago is dropped, and `opsrun rm` drops all.",
        after_help = "Examples:\n  opsrun events\n  opsrun events -f keystone glance\n  opsrun events --since 2h --json"
    )]
    Events(Events),
    /// Run a command in the container of a running service
    #[command(
        after_help = "Examples:\n  opsrun exec -it keystone bash\n  opsrun exec keystone keystone-manage --version\n\
            \nThe exit status is the command's; 125: opsrun failed, 126: cannot be executed, 127: no such command."
    )]
    Exec(Exec),
    /// Run a command in a new container, in the foreground
    #[command(
        long_about = "Run a command in a new container, in the foreground; the container is removed when the command \
            ends. When the image is a service's (its name is in the catalogue, or there is an /etc/opsrun/NAME.toml or \
            an /opt/NAME/conf), the command sees that service's own folders, the configuration live.",
        after_help = "Examples:\
            \n  opsrun run --rm keystone:zed keystone-manage db_sync\
            \n  opsrun run --rm -it --entrypoint bash keystone:zed\n\
            \nThe exit status is the command's; 125: opsrun failed, 126: cannot be executed, 127: no such command."
    )]
    Run(Run),
    /// Show everything about a service or an image, as JSON
    #[command(after_help = "Examples:\n  opsrun inspect keystone\n  opsrun inspect keystone:zed")]
    Inspect(Inspect),
    /// Work with the configuration of a service
    Config(Config),
    /// Say whether this host can run services, and what is missing
    #[command(after_help = "Example:\n  opsrun doctor")]
    Doctor(Doctor),

    /// Have a service started when the host starts
    #[command(
        long_about = "Have a service started when the host starts: by systemd where there is systemd, by `opsrun boot` \
            elsewhere. It comes up with the release and generation that it had last. Services that are named by `after` \
            in its settings come first.",
        after_help = "Example:\n  opsrun enable keystone"
    )]
    Enable(ServiceOnly),
    /// Have a service no longer started when the host starts
    #[command(after_help = "Example:\n  opsrun disable keystone")]
    Disable(ServiceOnly),
    /// Start what is enabled, on a host without systemd
    #[command(
        long_about = "Start what is enabled, in the order that `after` in the services' settings gives, and take up \
            what has lost its supervisor since the host started. For the start script of a host without systemd.",
        after_help = "Example, in /etc/rc.local:\n  /usr/local/bin/opsrun boot"
    )]
    Boot,
    /// Have supervisors go on as the opsrun that is installed now, without a restart of any service
    #[command(
        long_about = "Have the supervisor of a service, or of each, go on as this very program: after another version of \
            opsrun was installed. The services do not notice. The program is tried first: one that could not go on with \
            a service changes nothing.",
        after_help = "Example:\n  opsrun reexec --all"
    )]
    Reexec(Reexec),

    /// Hold one service: its supervisor
    #[command(hide = true)]
    Supervise {
        /// As a unit of systemd's
        #[arg(long)]
        unit: bool,
        /// Remove what is left of a service whose supervisor is gone
        #[arg(long, conflicts_with = "unit")]
        clear: bool,
        /// Go on where another supervisor died
        #[arg(long, conflicts_with_all = ["unit", "clear"])]
        again: bool,
        /// Say whether this program could go on as the supervisor
        #[arg(long, conflicts_with_all = ["unit", "clear", "again"])]
        prove: bool,
        /// The service
        service: ServiceName,
    },
    /// Make one container
    #[command(hide = true)]
    Create {
        /// The container, for whoever looks at the host's processes
        id: Option<String>,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Folder to write them into
        folder: PathBuf,
    },
    /// Write the completions of a shell to standard output
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `load`
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// An archive, a folder in OCI layout, or `-` for standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub source: PathBuf,
    /// Name and tag that the image gets, instead of the ones that it carries
    #[arg(short, long, value_name = "NAME:TAG")]
    pub tag: Option<Reference>,
    #[command(flatten)]
    pub bounds: BoundsTyped,
    #[command(flatten)]
    pub form: Form,
}

/// How much may come out of an image.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct BoundsTyped {
    /// Unpack no more than this, all layers together [default: 100g, or as /etc/opsrun/opsrun.toml says]
    #[arg(long, value_name = "SIZE")]
    pub max_unpacked: Option<Size>,
    /// Unpack no layer to more than so many times its compressed size [default: 200, or as that file says]
    #[arg(long, value_name = "TIMES")]
    pub max_ratio: Option<NonZeroU64>,
    /// Make no more files than this, all layers together [default: 4000000, or as that file says]
    #[arg(long, value_name = "COUNT")]
    pub max_files: Option<NonZeroU64>,
}

/// `commit`
#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// The service
    pub service: ServiceName,
    /// Name and tag of the new image
    #[arg(value_name = "NAME:TAG")]
    pub name: Reference,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    pub author: Option<String>,
    /// What for
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Hold a running container still while its changes are read
    #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
}

/// `save`
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Images, by name and tag or by id; one that is named by its id is saved without a name
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<Reference>,
    /// File to write, or `-` for standard output; one that is there is replaced
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub output: PathBuf,
    /// Form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "oci-archive")]
    pub format: ArchiveFormat,
    /// Leave the layers uncompressed, as they are in a docker-archive anyway
    #[arg(long)]
    pub uncompressed: bool,
}

/// Forms of archives that images are saved in
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// An OCI layout, which Docker reads as well
    OciArchive,
    /// As `docker save` writes it
    DockerArchive,
}

/// `pull`
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image, by tag, by digest, or by both
    #[arg(value_name = "REFERENCE")]
    pub image: Reference,
    /// Name and tag that the image gets, instead of its own
    #[arg(short, long, value_name = "NAME:TAG")]
    pub tag: Option<Reference>,
    #[command(flatten)]
    pub bounds: BoundsTyped,
    #[command(flatten)]
    pub form: Form,
}

/// When an image is pulled
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// When the image is not loaded
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

/// `images`
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Only images of this name
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Ids only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `rmi`
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Images, by name and tag or by id
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<Reference>,
}

/// `prune`
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `fsck`
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Remove what is broken, so that loading the image again brings it back
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `swap`
#[derive(Debug, Args)]
pub(crate) struct Swap {
    /// The service
    pub service: ServiceName,
    /// The release to run: the image's tag
    pub release: String,
    /// Take the configuration in this folder, which /opt/NAME/conf becomes equal to once it is proven
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub terms: Terms,
}

/// `bench-swap`
#[derive(Debug, Args)]
pub(crate) struct BenchSwap {
    /// The service
    pub service: ServiceName,
    /// The release to run: the image's tag
    pub release: String,
    /// How many clients ask at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: u16,
    /// What they ask for [default: what the health check does, or /]
    #[arg(long)]
    pub path: Option<String>,
    /// Have each use one connection as long as it lasts, instead of another one for each request
    #[arg(long)]
    pub keep_alive: bool,
    /// As JSON, in a form that does not change
    #[arg(long)]
    pub json: bool,
    /// Options of `opsrun swap`
    #[arg(last = true, value_name = "OPTION OF SWAP")]
    pub swap_options: Vec<String>,
}

/// `rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The service
    pub service: ServiceName,
    /// The generation to go back to [default: the one that served before]
    pub generation: Option<u32>,
    /// Leave the configuration as it is in /opt/NAME/conf
    #[arg(long)]
    pub keep_config: bool,
    #[command(flatten)]
    pub terms: Terms,
}

/// On which terms one generation takes another's place.
#[derive(Debug, Args)]
pub(crate) struct Terms {
    /// How long the new generation is watched before the old one is given up
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub soak: TimeSpan,
    /// How long it may take until it is healthy [default: as the service's health check says]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<TimeSpan>,
    /// Send this share of new connections to the new generation first, and all of them only when it has stood that
    #[arg(long, value_name = "SHARE")]
    pub canary: Option<Share>,
    /// For how long [default: 60s]
    #[arg(long = "for", value_name = "TIME", requires = "canary")]
    pub canary_for: Option<TimeSpan>,
    /// How long the old generation may take to end the connections that it has left [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub drain: Option<TimeSpan>,
    /// Only say what would be done, step by step, and what speaks against it
    #[arg(long)]
    pub plan: bool,
    /// Do it also past a declared point of no return
    #[arg(long)]
    pub force: bool,
    /// The plan as JSON, in a form that does not change
    #[arg(long, requires = "plan")]
    pub json: bool,
    /// Stop the old generation before the new one starts, also where they could run side by side
    #[arg(long)]
    pub stop_first: bool,
}

impl Terms {
    /// Proven, and then the old one is given up.
    pub(crate) const WITHOUT_SOAK: Self = Self {
        soak: TimeSpan { ms: 0 },
        timeout: None,
        canary: None,
        canary_for: None,
        drain: None,
        plan: false,
        force: false,
        json: false,
        stop_first: false,
    };
}

/// `start`
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The service, and perhaps the release of it
    #[arg(value_name = "SERVICE[:RELEASE]")]
    pub service: ServiceRelease,
    /// Pull the image first: when it is missing, or always
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "missing",
        default_value = "never", hide_default_value = true)]
    pub pull: PullWhen,
    #[command(flatten)]
    pub more: More,
}

/// What `start` and `run` have in common
#[derive(Debug, Clone, Args)]
pub(crate) struct More {
    /// Mount a file or folder of the host: HOST:CONTAINER or HOST:CONTAINER:ro
    #[arg(short, long = "volume", value_name = "HOST:CONTAINER[:ro]")]
    pub volumes: Vec<Volume>,
    /// Set a variable, or pass on the one that is set here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = parse_variable)]
    pub environment: Vec<(String, String)>,
    #[command(flatten)]
    pub limits: Limits,
}

/// A command with nothing but a service
#[derive(Debug, Args)]
pub(crate) struct ServiceOnly {
    /// The service
    pub service: ServiceName,
}

/// `reexec`
#[derive(Debug, Args)]
pub(crate) struct Reexec {
    /// The service
    #[arg(required_unless_present = "all")]
    pub service: Option<ServiceName>,
    /// Every service that has a supervisor
    #[arg(long, conflicts_with = "service")]
    pub all: bool,
    /// Go on as the opsrun in this file instead: an earlier one, for example
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// `stats`
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<ServiceName>,
    #[command(flatten)]
    pub form: Form,
}

/// `update`
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The service
    pub service: ServiceName,
    #[command(flatten)]
    pub limits: Limits,
}

/// `rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Stop it first when it is running
    #[arg(short, long)]
    pub force: bool,
    /// The service
    pub service: ServiceName,
}

/// `ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Names only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The service
    pub service: ServiceName,
    #[command(flatten)]
    pub form: Form,
}

/// `diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The service
    pub service: ServiceName,
    /// A generation, or `now`
    #[arg(value_name = "N")]
    pub from: Option<Side>,
    /// What it is compared with, a generation or `now`
    #[arg(value_name = "M")]
    pub to: Option<Side>,
    /// Show passwords, tokens and the like as they are
    #[arg(long)]
    pub show_secrets: bool,
    #[command(flatten)]
    pub form: Form,
}

/// What is compared
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A generation, by its number
    Generation(u32),
    /// The configuration as it is on the host
    Now,
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "now" => Ok(Self::Now),
            number => {
                let number = number.parse().map_err(|_| "it must be a number of `opsrun history`, or now")?;
                Ok(Self::Generation(number))
            }
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Generation(number) => write!(formatter, "generation {number}"),
            Self::Now => formatter.write_str("now"),
        }
    }
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with what is written from now on, across restarts
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long = "tail", value_name = "LINES")]
    pub last: Option<usize>,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only what this generation has written; `opsrun history` has the numbers
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u32>,
    /// Instead, what the hooks of the swap that brought it have written
    #[arg(long, conflicts_with_all = ["follow", "last", "timestamps"])]
    pub hooks: bool,
    /// The service
    pub service: ServiceName,
}

/// `events`
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with what happens from now on, also to services that come later
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many of the last events
    #[arg(short = 'n', long, value_name = "NUMBER", conflicts_with = "since")]
    pub last: Option<usize>,
    /// Only what happened since then: 10m, 2h or 3d ago, 09:30, 2026-11-23, "2026-11-23 09:30"
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<ServiceName>,
    #[command(flatten)]
    pub form: Form,
}

/// How a command in a container meets the terminal and the environment
#[derive(Debug, Args)]
pub(crate) struct Session {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User, by name or number, and perhaps group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Folder it begins in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
}

/// `exec`
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub session: Session,
    /// Set a variable, or pass on the one that is set here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = parse_variable)]
    pub environment: Vec<(String, String)>,
    /// The service
    pub service: ServiceName,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Remove the container afterwards: always so, understood because Docker has it
    #[arg(long)]
    pub rm: bool,
    #[command(flatten)]
    pub session: Session,
    #[command(flatten)]
    pub more: More,
    /// Name of the container, instead of one that is made up
    #[arg(long)]
    pub name: Option<ServiceName>,
    /// Program that is run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// The image, by name and tag or by id
    pub image: Reference,
    /// The command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `inspect`
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A service or an image; a service comes first when it could be both
    #[arg(value_name = "SERVICE|IMAGE")]
    pub subject: String,
    /// Only a service, or only an image
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<InspectKind>,
}

/// What `inspect` looks for
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    /// A service
    Service,
    /// An image
    Image,
}

/// `config`
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// Each subcommand of `config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Copy the image's own configuration to /opt/SERVICE/conf, with its owners
    #[command(
        after_help = "Examples:\n  opsrun config init keystone\n  opsrun config init keystone --from zed"
    )]
    Init(ConfigInit),
}

/// `config init`
#[derive(Debug, Args)]
pub(crate) struct ConfigInit {
    /// The service
    pub service: ServiceName,
    /// Release whose image it is taken from, when several are loaded
    #[arg(long, value_name = "RELEASE", value_parser = parse_release)]
    pub from: Option<String>,
}

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub form: Form,
}

/// In which form something is listed
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Form {
    /// As JSON, in a form that does not change
    #[arg(long)]
    pub json: bool,
}

impl Command {
    /// Whether anybody may use it: it changes nothing and reads nothing that is root's.
    pub(crate) fn is_for_everyone(&self) -> bool {
        matches!(self, Self::Man { .. } | Self::Completions { .. } | Self::Doctor(_))
    }
}

/// `NAME=VALUE`; `NAME` alone takes the value that is set here, as Docker does.
fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(_) => return Err(format!("{text} is not set here, so it needs a value: {text}=VALUE")),
        },
    };
    if name.is_empty() || text.contains('\0') {
        return Err("it must be NAME=VALUE or NAME".to_owned());
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} is not explained", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            let has_more = command.get_subcommands().next().is_some();
            let example = command.get_after_help().is_some_and(|text| text.to_string().contains("Example"));
            assert!(has_more || command.is_hide_set() || example, "{} has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn dockers_way_of_typing_it_works() {
        let line =
            "opsrun run --rm -it -e A=b -v /a:/b:ro -u keystone keystone:zed keystone-manage -v --help";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = arguments.command else { panic!("not run") };
        assert!(run.session.tty && run.session.interactive);
        assert_eq!(run.more.environment, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(run.command, ["keystone-manage", "-v", "--help"]);

        let line = "opsrun exec -it keystone bash -c ls";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Exec(exec) = arguments.command else { panic!("not exec") };
        assert_eq!(exec.command, ["bash", "-c", "ls"]);
    }
}
