//! The arguments of the commands that show a service and look after it.
//! They know nothing of what the commands do.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Form;
use crate::limits::Limits;
use crate::service_name::{ServiceName, parse_release};
use crate::since::Since;

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
