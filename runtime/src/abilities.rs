//! Which ways of a swap this host can go, by what a self-test has found out (`steering/self_test.rs`): once a boot, since the
//! kernel does not change. It knows no service.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::container::boot_id;
use crate::record::Way;
use crate::replace::replace_file;
use crate::steering::self_test;

/// Beside the run folders of the services, whose names begin with a letter or a digit.
const FILE: &str = ".self-test.json";
/// The version written; another one is tested anew.
const VERSION: u32 = 1;

/// What a way needs of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A network of its own, in which the rest is tried.
    Network,
    /// Hearing of a bind(2) before it happens.
    Notification,
    /// That such a call is interrupted by deadly signals alone once it was heard of.
    Uninterrupted,
    /// Reading the address from the memory of who calls.
    Memory,
    /// A duplicate of another process's socket.
    Descriptor,
    /// Putting one socket in the place of another process's.
    Injection,
    /// The kernel's tables of sockets.
    Tables,
    /// A mark on connections by which probes are told from clients.
    Mark,
    /// A program that says which of several listeners gets a connection.
    Group,
}

/// Of what is needed, whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// What.
    pub part: Part,
    /// Why it does not work; `None` when it does.
    pub obstacle: Option<String>,
}

/// What was found out about this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    version: u32,
    /// Which program has tried.
    program: String,
    boot_id: String,
    tried: Vec<Ability>,
}

/// Runs the hidden command `self-test`, for who asks for [`Abilities`].
///
/// Returns the exit status.
#[must_use]
pub fn run_self_test() -> i32 {
    self_test::run()
}

impl Part {
    /// All of them, in the order of who needs whom.
    pub const ALL: [Self; 9] = [
        Self::Network,
        Self::Notification,
        Self::Uninterrupted,
        Self::Memory,
        Self::Descriptor,
        Self::Injection,
        Self::Tables,
        Self::Mark,
        Self::Group,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network namespaces",
            Self::Notification => "seccomp user notification",
            Self::Uninterrupted => "WAIT_KILLABLE_RECV",
            Self::Memory => "process_vm_readv",
            Self::Descriptor => "pidfd_getfd",
            Self::Injection => "SECCOMP_IOCTL_NOTIF_ADDFD",
            Self::Tables => "sock_diag",
            Self::Mark => "SO_MARK",
            Self::Group => "SO_REUSEPORT with cBPF",
        }
    }

    /// Who has it, and what it takes.
    #[must_use]
    pub fn needs(self) -> &'static str {
        match self {
            Self::Network => "run opsrun as root on the host itself; a kernel with CONFIG_NET_NS",
            Self::Notification => {
                "Linux 5.0 or later has it, with CONFIG_SECCOMP_FILTER; a container that opsrun itself runs in may forbid it"
            }
            Self::Uninterrupted => {
                "Linux 5.19 or later has it; without it a program with a fast timer may have to bind again and again"
            }
            Self::Memory => {
                "a kernel with CONFIG_CROSS_MEMORY_ATTACH has it; kernel.yama.ptrace_scope=3 forbids it"
            }
            Self::Descriptor => "Linux 5.6 or later has it; kernel.yama.ptrace_scope=3 forbids it",
            Self::Injection => "Linux 5.9 or later has it; without it clients are refused for a moment",
            Self::Tables => "a kernel with CONFIG_INET_DIAG has it: modprobe tcp_diag",
            Self::Mark => "opsrun needs CAP_NET_ADMIN for it: run it on the host itself",
            Self::Group => "Linux 4.6 or later has it; a container that opsrun itself runs in may forbid it",
        }
    }
}

impl Abilities {
    /// What is known of this host since it was started, or is found out now. `run` is the folder with the run folders of the
    /// services.
    #[must_use]
    pub fn of_host(run: &Path) -> Self {
        let known = std::fs::read(run.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let known = known.filter(|known: &Self| {
            known.version == VERSION
                && known.program == program()
                && boot_id().is_ok_and(|boot_id| boot_id == known.boot_id)
        });
        known.unwrap_or_else(|| Self::test(run))
    }

    /// Finds it out anew.
    #[must_use]
    pub fn test(run: &Path) -> Self {
        let tried = self_test::perform();
        let done = tried.is_ok();
        let tried = tried.unwrap_or_else(|error| {
            let obstacle = format!("the self-test could not be made: {error}");
            vec![Ability { part: Part::Network, obstacle: Some(obstacle) }]
        });
        let boot_id = boot_id().unwrap_or_default();
        let found = Self { version: VERSION, program: program(), boot_id, tried };
        if done && run.is_dir() {
            let text = serde_json::to_vec(&found).expect("OK because it has only string keys");
            // OK to ignore: it is found out again.
            let _ = replace_file(&run.join(FILE), &text);
        }
        found
    }

    /// Whether a part is there; why not. `None` when it was not tried, since another one that it needs is not.
    #[must_use]
    pub fn has(&self, part: Part) -> Option<Result<(), &str>> {
        let ability = self.tried.iter().find(|ability| ability.part == part)?;
        Some(ability.obstacle.as_deref().map_or(Ok(()), Err))
    }

    /// What a way needs and this host lacks.
    #[must_use]
    pub fn lacks_for(&self, way: Way) -> Option<String> {
        const STEERED: [Part; 7] = [
            Part::Network,
            Part::Notification,
            Part::Memory,
            Part::Descriptor,
            Part::Tables,
            Part::Mark,
            Part::Group,
        ];
        let needed: &[Part] = match way {
            Way::StopFirst | Way::SideBySide => &[],
            Way::Gated => &STEERED[..5],
            Way::Steered => &STEERED,
        };
        let lacking = needed.iter().find_map(|part| {
            let why = self.has(*part)?.err()?;
            Some(format!("this host lacks {}: {why}", part.name()))
        });
        lacking.or_else(|| {
            let untried = needed.iter().find(|part| self.has(**part).is_none())?;
            Some(format!("this host may lack {}, which could not be tried", untried.name()))
        })
    }

    /// The way that is gone here in place of one, and why it is another. Listeners that are handed from one program to the next
    /// need nothing of the host.
    #[must_use]
    pub fn best_for(&self, way: Way, handed: bool) -> (Way, Option<String>) {
        let Some(lacks) = self.lacks_for(way) else { return (way, None) };
        match self.lacks_for(Way::Gated).filter(|_| !handed) {
            None => (Way::Gated, Some(lacks)),
            Some(lacks) => (Way::StopFirst, Some(lacks)),
        }
    }
}

fn program() -> String {
    let changed = std::fs::metadata("/proc/self/exe").and_then(|program| program.modified()).ok();
    let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{} {}", env!("CARGO_PKG_VERSION"), changed.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(lacking: &[Part], untried: &[Part]) -> Abilities {
        let tried = Part::ALL.into_iter().filter(|part| !untried.contains(part)).map(|part| Ability {
            part,
            obstacle: lacking.contains(&part).then(|| "Function not implemented".to_owned()),
        });
        let tried = tried.collect();
        Abilities { version: VERSION, program: program(), boot_id: String::new(), tried }
    }

    #[test]
    fn a_host_goes_the_best_way_that_it_has_all_for() {
        for (lacking, untried, way, why) in [
            (&[][..], &[][..], Way::Steered, None),
            (&[Part::Uninterrupted, Part::Injection], &[], Way::Steered, None),
            (&[Part::Group], &[], Way::Gated, Some("lacks SO_REUSEPORT with cBPF: Function")),
            (&[Part::Mark], &[Part::Group], Way::Gated, Some("lacks SO_MARK: Function not implemented")),
            (&[Part::Tables], &[Part::Mark, Part::Group], Way::StopFirst, Some("lacks sock_diag: Function")),
            (&[Part::Descriptor], &[Part::Group, Part::Mark], Way::StopFirst, Some("pidfd_getfd")),
            (&[Part::Notification], &Part::ALL[3..], Way::StopFirst, Some("seccomp user notification")),
            (&[], &[Part::Group], Way::Gated, Some("may lack SO_REUSEPORT")),
        ] {
            let (found, reason) = abilities(lacking, untried).best_for(Way::Steered, false);
            assert_eq!(found, way, "{lacking:?} {untried:?}");
            assert_eq!(reason.is_some(), why.is_some(), "{reason:?}");
            assert!(reason.unwrap_or_default().contains(why.unwrap_or_default()));
        }
        assert_eq!(abilities(&Part::ALL, &[]).best_for(Way::StopFirst, false), (Way::StopFirst, None));
        assert_eq!(abilities(&Part::ALL, &[]).best_for(Way::Steered, true).0, Way::Gated);
    }

    #[test]
    fn what_is_found_out_is_known_from_then_on_and_in_this_boot_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = Abilities { boot_id: boot_id().expect("a boot"), ..abilities(&[Part::Mark], &[]) };
        let file = folder.path().join(FILE);
        std::fs::write(&file, serde_json::to_vec(&known).expect("text")).expect("written");
        assert_eq!(Abilities::of_host(folder.path()), known);
        let other = Abilities { boot_id: "another".to_owned(), ..known.clone() };
        std::fs::write(&file, serde_json::to_vec(&other).expect("text")).expect("written");
        assert_ne!(Abilities::of_host(folder.path()).tried, known.tried);
    }
}
