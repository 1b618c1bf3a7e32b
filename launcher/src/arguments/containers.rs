//! The arguments of the commands that run something in a container.
//! They know nothing of what the commands do.

use std::path::PathBuf;

use bundles::reference::Reference;
use clap::Args;

use super::PullWhen;
use crate::limits::Limits;
use crate::mounts::Volume;
use crate::service_name::{ServiceName, ServiceRelease};

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
