//! The last steps inside the container, common to a service and to a process that enters it: filter, capabilities,
//! program. It knows no libcontainer; who calls it is the container's process with its user and namespaces set.

use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxCapabilities, Process};

use crate::channel::{Channel, Report};
use crate::error::Failure;
use crate::seccomp::Filter;
use crate::title::Title;
use crate::{init, os, steering};

/// The search path when a process has none: what Docker gives.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The number of the first listener that a program gets (sd_listen_fds(3), `SD_LISTEN_FDS_START`).
pub(crate) const LISTENERS_FROM: i32 = 3;

/// What is still to be done when libcontainer has done its part.
pub(crate) struct Confinement {
    /// Whether this process's binds are to be notified to who asked for the container.
    pub(crate) notified: bool,
    /// The compiled seccomp filters, in the order in which they are loaded; none when the bundle asks for none.
    pub(crate) filters: Vec<Filter>,
    /// The capabilities to end up with, when more were kept for loading the filter.
    pub(crate) capabilities: Option<LinuxCapabilities>,
    /// Whether this process stays as process 1 and the program becomes its child.
    pub(crate) init: bool,
    /// Whether the container is killed when the process that asked for it ends, also once its program was executed.
    pub(crate) die_with_parent: bool,
    /// What the program listens with (sd_listen_fds(3)).
    pub(crate) listeners: Vec<OwnedFd>,
    /// The container's id, for whoever looks at the host's processes, and where it is to be written.
    pub(crate) id: String,
    /// `None` when that is not known.
    pub(crate) title: Option<Title>,
    /// Where to report what went wrong.
    pub(crate) channel: Channel,
}

impl Confinement {
    /// Confines this process and executes the program. It never returns: what fails is reported, and the process ends
    /// with the status Docker uses for it: 125, or 126 and 127 when the program cannot be run or does not exist.
    pub(crate) fn execute(&self, process: &Process) -> ! {
        if let Err(failure) = self.confine() {
            let _ = self.channel.send(&Report::Failed(failure), &[]);
            os::exit(125);
        }
        if self.init {
            init::run(|| self.execute_program(process), self.title.map(|title| (title, self.id.as_str())))
        }
        self.execute_program(process)
    }

    /// Until its program is executed this process ends with who asked for it: should the throw-away process be killed as well,
    /// nobody is left who would start or end it.
    ///
    /// To be called after the last change of user, which takes it back (prctl(2)).
    pub(crate) fn end_with_asker(&self) {
        os::die_with_parent();
        // It may have ended before that; in a pid namespace, getppid(2) does not tell.
        if self.channel.is_deserted() {
            os::exit(125);
        }
    }

    /// The filters first: without no_new_privs they need a capability that is dropped right after (seccomp(2)). The one that
    /// notifies before the profile, which need not allow what it takes to load and send it.
    fn confine(&self) -> Result<(), Failure> {
        os::duplicate_to(&self.listeners, LISTENERS_FROM).map_err(|error| {
            Failure::new(error.to_string()).within("could not hand the program its listeners")
        })?;
        if !self.die_with_parent {
            os::outlive_parent();
        }
        if self.notified {
            self.have_binds_notified();
        }
        let uid = rustix::process::geteuid().as_raw();
        if steering::guard::is_kept(uid) {
            return Err(Failure::new(format!(
                "uid {uid} is of those that listening sockets are told apart by"
            )));
        }
        for filter in &self.filters {
            filter.load().map_err(|error| {
                Failure::new(error.to_string()).within("could not load the seccomp filter")
            })?;
        }
        if let Some(wanted) = &self.capabilities {
            drop_capabilities(wanted)
                .map_err(|error| Failure::new(error.to_string()).within("could not drop the capabilities"))?;
        }
        Ok(())
    }

    /// A service runs as well on a kernel that cannot do this; only its swaps are not the same. This process keeps no
    /// descriptor of it: a call that nobody can answer must fail, not wait.
    fn have_binds_notified(&self) {
        // OK to ignore: who asked is gone, and knows less than it might.
        let _ = match steering::filter::load() {
            Ok(listener) => self.channel.send(&Report::Notified, &[listener.as_fd()]),
            Err(error) => self.channel.send(&Report::NotNotified(Failure::new(error.to_string())), &[]),
        };
    }

    fn execute_program(&self, process: &Process) -> ! {
        let arguments = process.args().clone().unwrap_or_default();
        let mut environment = process.env().clone().unwrap_or_default();
        if !self.listeners.is_empty() {
            tell_of_listeners(&mut environment, &self.listeners);
        }
        // Rust's runtime ignores SIGPIPE; nohup, and shells for what they start in the background, ignore others. A program
        // that inherits this cannot be stopped or reloaded by them: a shell may not even set a trap.
        os::default_signals();
        let program = arguments.first().cloned().unwrap_or_default();
        let errno = execute(&arguments, &environment);
        let _ = self.channel.send(&Report::CannotExecute { program, errno: errno as i32 }, &[]);
        os::exit(if is_missing(errno) { 127 } else { 126 })
    }
}

/// Says to this process's program that it has listeners: how many, by their ports, and that they are meant for it
/// (sd_listen_fds(3)).
fn tell_of_listeners(environment: &mut Vec<String>, listeners: &[OwnedFd]) {
    environment.retain(|variable| !variable.starts_with("LISTEN_"));
    let ports: Vec<String> = listeners.iter().map(|it| port_of(it).to_string()).collect();
    environment.push(format!("LISTEN_PID={}", std::process::id()));
    environment.push(format!("LISTEN_FDS={}", listeners.len()));
    environment.push(format!("LISTEN_FDNAMES={}", ports.join(":")));
}

fn port_of(listener: &OwnedFd) -> u16 {
    let address = rustix::net::getsockname(listener).ok().and_then(|it| SocketAddr::try_from(it).ok());
    address.map_or(0, |address| address.port())
}

/// Whether a program that could not be executed for this reason does not exist.
pub(crate) fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR)
}

/// execve(2), with a name that has no `/` looked up in the environment's PATH as execvpe(3) does.
fn execute(arguments: &[String], environment: &[String]) -> Errno {
    let strings = |texts: &[String]| -> Result<Vec<CString>, Errno> {
        texts.iter().map(|text| CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)).collect()
    };
    let (Ok(argv), Ok(envp)) = (strings(arguments), strings(environment)) else { return Errno::EINVAL };
    let Some(program) = arguments.first() else { return Errno::ENOENT };
    if program.contains('/') {
        return execve(Path::new(program), &argv, &envp);
    }
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH_DEFAULT);
    let mut reason = Errno::ENOENT;
    for folder in path.split(':') {
        let found =
            execve(&Path::new(if folder.is_empty() { "." } else { folder }).join(program), &argv, &envp);
        // A file that is there and may not be executed says more than the last folder that lacks it.
        if !is_missing(found) {
            reason = found;
        }
        if !matches!(found, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) {
            break;
        }
    }
    reason
}

fn execve(program: &Path, argv: &[CString], envp: &[CString]) -> Errno {
    use std::os::unix::ffi::OsStrExt;
    let Ok(program) = CString::new(program.as_os_str().as_bytes()) else { return Errno::EINVAL };
    let Err(errno) = nix::unistd::execve(&program, argv, envp);
    errno
}

/// Ends up with exactly the given sets. Bounding first: dropping from it needs CAP_SETPCAP, which goes next.
fn drop_capabilities(wanted: &LinuxCapabilities) -> Result<(), caps::errors::CapsError> {
    use caps::CapSet;
    let set = |wanted: &Option<oci_spec::runtime::Capabilities>| -> caps::CapsHashSet {
        let names = wanted.iter().flatten();
        names.filter_map(|name| format!("CAP_{name}").parse().ok()).collect()
    };
    for extra in caps::read(None, CapSet::Bounding)?.difference(&set(wanted.bounding())) {
        caps::drop(None, CapSet::Bounding, *extra)?;
    }
    caps::set(None, CapSet::Effective, &set(wanted.effective()))?;
    caps::set(None, CapSet::Permitted, &set(wanted.permitted()))?;
    caps::set(None, CapSet::Inheritable, &set(wanted.inheritable()))
}

impl std::fmt::Debug for Confinement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Confinement").field("channel", &self.channel.as_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_nowhere_in_the_path_is_missing() {
        let environment = ["PATH=/nowhere:/etc/passwd".to_owned()];
        assert_eq!(execute(&["no-such-program".to_owned()], &environment), Errno::ENOENT);
    }

    #[test]
    fn a_file_without_the_execute_bit_is_not_called_missing() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("tool"), "").expect("file");
        let environment = [format!("PATH=/nowhere:{}:/nowhere-else", folder.path().display())];
        assert_eq!(execute(&["tool".to_owned()], &environment), Errno::EACCES);
    }

    #[test]
    fn a_file_that_is_no_program_is_said_to_be_none() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("tool");
        std::fs::write(&file, "no program").expect("file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("mode");
        assert_eq!(execute(&[file.display().to_string()], &[]), Errno::ENOEXEC);
    }
}
