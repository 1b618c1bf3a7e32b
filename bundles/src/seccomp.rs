//! Which system calls a container may make: Docker's default profile, or the operator's own, made fit for a set of
//! capabilities, an architecture and a kernel. It does not know how a filter is compiled or loaded.
//!
//! Docker's profile is data, `seccomp/docker.json`; its conditions are followed as Docker's daemon follows them
//! (`profiles/seccomp/seccomp_linux.go` of Moby).

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp, LinuxSeccompBuilder};

use crate::error::{Error, Result};

mod profile;

use profile::{Condition, Profile};

/// The longest profile that is read, bytes. Docker's own has 13 kB.
const PROFILE_BYTES_MAX: u64 = 4 << 20;

const DOCKER: &str = include_str!("seccomp/docker.json");

/// What a container's rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The capabilities of the container's bounding set.
    pub capabilities: HashSet<Capability>,
    /// The machine.
    pub machine: Machine,
    /// The kernel's version: 6.1 is `(6, 1)`.
    pub kernel: (u32, u32),
}

impl Surroundings {
    /// Those of a container with these capabilities on this host.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`] when no rules are known for it.
    pub fn here(capabilities: HashSet<Capability>) -> Result<Self> {
        let uname =
            nix::sys::utsname::uname().map_err(|errno| Error::io("ask the kernel for its version", errno))?;
        let kernel = kernel_version(&uname.release().to_string_lossy());
        Ok(Self { capabilities, machine: Machine::here()?, kernel })
    }
}

/// A machine for which rules are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit little-endian POWER.
    Ppc64le,
    /// IBM Z.
    S390x,
}

impl Machine {
    /// The machine that this program was built for.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`].
    pub fn here() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            "riscv64" => Ok(Self::Riscv64),
            "powerpc64" if cfg!(target_endian = "little") => Ok(Self::Ppc64le),
            "s390x" => Ok(Self::S390x),
            machine => Err(Error::UnknownMachine { machine }),
        }
    }

    /// Its name in a profile's conditions, which are Go's names.
    fn go_name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
            Self::Ppc64le => "ppc64le",
            Self::S390x => "s390x",
        }
    }

    /// Its name in a profile's list of architectures, which are libseccomp's names.
    fn architecture(self) -> Arch {
        match self {
            Self::Amd64 => Arch::ScmpArchX86_64,
            Self::Arm64 => Arch::ScmpArchAarch64,
            Self::Riscv64 => Arch::ScmpArchRiscv64,
            Self::Ppc64le => Arch::ScmpArchPpc64le,
            Self::S390x => Arch::ScmpArchS390x,
        }
    }
}

/// Docker's default profile, made fit for a container.
pub fn docker_default(surroundings: &Surroundings) -> LinuxSeccomp {
    // OK because the text is part of the program, and a test reads it.
    let profile = Profile::parse(DOCKER).expect("Docker's profile can be read");
    fit(profile, surroundings)
}

/// The operator's own profile, in Docker's form (with `archMap`, `includes` and `excludes`) or in that of a bundle's
/// `linux.seccomp`, made fit for a container.
///
/// # Errors
/// [`Error::Io`], or [`Error::SeccompProfile`], which names the key that is wrong.
pub fn read_profile(path: &Path, surroundings: &Surroundings) -> Result<LinuxSeccomp> {
    let text = read_bounded(path)?;
    let wrong = |key: String, reason: String| Error::SeccompProfile { path: path.to_owned(), key, reason };
    let text =
        String::from_utf8(text).map_err(|_| wrong(String::new(), "it is not UTF-8 text".to_owned()))?;
    let profile = Profile::parse(&text).map_err(|problem| wrong(problem.key, problem.reason))?;
    Ok(fit(profile, surroundings))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let doing = || format!("read the seccomp profile {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| Error::io(doing(), error))?;
    let mut content = Vec::new();
    file.take(PROFILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| Error::io(doing(), error))?;
    if content.len() as u64 > PROFILE_BYTES_MAX {
        let reason = format!("it has more than {PROFILE_BYTES_MAX} bytes");
        return Err(Error::SeccompProfile { path: path.to_owned(), key: String::new(), reason });
    }
    Ok(content)
}

/// Keeps what applies. Mirrors `setupSeccomp` of Moby.
fn fit(profile: Profile, surroundings: &Surroundings) -> LinuxSeccomp {
    let native = surroundings.machine.architecture();
    let architectures = match profile.architecture_map.into_iter().find(|entry| entry.architecture == native)
    {
        Some(entry) => [vec![entry.architecture], entry.sub_architectures].concat(),
        None => profile.architectures,
    };
    let rules = profile
        .rules
        .into_iter()
        .filter(|rule| !rule.excludes.meets_any(surroundings) && rule.includes.meets_all(surroundings))
        .map(|rule| rule.call)
        .collect::<Vec<_>>();
    let mut seccomp = LinuxSeccompBuilder::default().default_action(profile.default_action).syscalls(rules);
    if let Some(errno) = profile.default_errno {
        seccomp = seccomp.default_errno_ret(errno);
    }
    if !architectures.is_empty() {
        seccomp = seccomp.architectures(architectures);
    }
    if !profile.flags.is_empty() {
        seccomp = seccomp.flags(profile.flags);
    }
    if let Some(path) = profile.listener_path {
        seccomp = seccomp.listener_path(path);
    }
    if let Some(metadata) = profile.listener_metadata {
        seccomp = seccomp.listener_metadata(metadata);
    }
    // OK because every field of the builder has a default.
    seccomp.build().expect("a profile is complete")
}

impl Condition {
    /// Of a rule's `includes`: all that it names must hold.
    fn meets_all(&self, surroundings: &Surroundings) -> bool {
        (self.machines.is_empty() || self.names(surroundings.machine))
            && self.capabilities.iter().all(|capability| surroundings.capabilities.contains(capability))
            && self.kernel_min.is_none_or(|kernel| surroundings.kernel >= kernel)
    }

    /// Of a rule's `excludes`: any that it names is enough.
    fn meets_any(&self, surroundings: &Surroundings) -> bool {
        self.names(surroundings.machine)
            || self.capabilities.iter().any(|capability| surroundings.capabilities.contains(capability))
            || self.kernel_min.is_some_and(|kernel| surroundings.kernel >= kernel)
    }

    fn names(&self, machine: Machine) -> bool {
        self.machines.iter().any(|name| name == machine.go_name())
    }
}

/// The first two numbers of a kernel's release: `6.1.0-18-amd64` is (6, 1). What has none is the oldest there is, so
/// that no rule is added for it that its kernel may not have been meant for.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;
