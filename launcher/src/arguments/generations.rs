//! The arguments of the commands that put one generation in place of another, or compare them.
//! They know nothing of what the commands do.

use std::path::PathBuf;

use clap::Args;
use runtime::share::Share;

use super::Form;
use crate::service_name::ServiceName;
use crate::time_span::TimeSpan;

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
