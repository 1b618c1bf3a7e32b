//! The asking side of a container: starts the throw-away process, tells it what to make, and turns its reports into
//! events. It does not wait: who asks has one loop for everything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::channel::{Channel, Errand, Go, Purpose, Report, Request};
use crate::confine::is_missing;
use crate::error::{Error, Failure};
use crate::record::Process;
use crate::small_file;
use crate::steering::notified::Notified;
use crate::{host, limits, os, systemd};

/// The folder of a run folder in which libcontainer keeps the state of services.
pub(crate) const CONTAINERS: &str = "containers";
/// The folder of a run folder over which the throw-away process mounts what libcontainer gets as its bundle.
pub(crate) const ENGINE: &str = "engine";

/// The throw-away process and libcontainer's two, and some more.
const PROCESSES_ROOM: u64 = 8;
/// Many times what the throw-away process has, in bytes: a tight limit is for what the service needs.
const MEMORY_ROOM: u64 = 32 * 1024 * 1024;

/// The program that is running: the throw-away process is the same one, even when the file was replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A container, or a process in one, that is being made.
#[derive(Debug)]
pub(crate) struct Making {
    channel: Channel,
    /// The throw-away process, a child of this one.
    pub(crate) helper: Pid,
    causes: Vec<String>,
    created: bool,
    went: bool,
    ended: bool,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum Made {
    /// It exists and waits for [`Making::go`]; for a process that enters a container it runs already.
    Created {
        /// Its number on the host: a child of this process.
        pid: Pid,
        /// Its terminal, when it was asked to have one.
        terminal: Option<OwnedFd>,
        /// The controllers whose limits this host does not keep.
        unenforced: Vec<String>,
    },
    /// Its binds can be heard of from here on.
    Notified(Notified),
    /// They cannot; why.
    NotNotified(Failure),
    /// Its program was executed.
    Executed,
    /// It could not be made, or its program not be executed. What exists of it ends by itself.
    Failed(Error),
}

impl Making {
    /// Starts the throw-away process and hands it the request with the container's stdin, stdout and stderr.
    pub(crate) fn begin(request: &Request, stdio: [BorrowedFd<'_>; 3]) -> Result<Self, Error> {
        Self::begin_with(request, &stdio)
    }

    /// The same; what comes after the three, its program listens with (sd_listen_fds(3)).
    pub(crate) fn begin_with(request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Self, Error> {
        let failed = |error| Error::Io { doing: "start the process that makes the container", source: error };
        let (Request::Create { run, cgroup, .. } | Request::Enter { run, cgroup, .. }) = request;
        fs_err::create_dir_all(run.join(ENGINE)).map_err(failed)?;
        if matches!(request, Request::Create { purpose: Purpose::Service, .. }) {
            fs_err::create_dir_all(run.join(CONTAINERS)).map_err(failed)?;
        }
        let (channel, far) = Channel::pair().map_err(failed)?;
        // The id is for whoever looks at the host's processes.
        let id = id_of(cgroup);
        let (helper, inside) = match start_inside(request, &id, far.as_fd()) {
            Some(helper) => (helper, true),
            None => (start_outside(request, &id, far).map_err(failed)?, false),
        };
        let making = Self { channel, helper, causes: Vec::new(), created: false, went: false, ended: false };
        making.channel.send(&Errand { request, inside }, descriptors).map_err(failed)?;
        Ok(making)
    }

    /// Lets the created container execute its program.
    pub(crate) fn go(&mut self) -> Result<(), Error> {
        self.went = true;
        self.channel
            .send(&Go, &[])
            .map_err(|error| Error::Io { doing: "let the container start", source: error })
    }

    /// Ends it, wherever it is: nothing is made any more from here on.
    pub(crate) fn give_up(self) {
        let _ = nix::sys::signal::kill(self.helper, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.helper, None);
    }

    /// Whether it was let go: until then there is no next event after [`Made::Created`].
    pub(crate) fn went(&self) -> bool {
        self.went
    }

    /// The next event, when the descriptor is readable; waits for it otherwise. `None` after the last one.
    pub(crate) fn next(&mut self) -> Option<Made> {
        while !self.ended {
            match self.channel.receive::<Report>() {
                Ok(Some((Report::Cause(cause), _))) => self.causes.push(cause),
                Ok(Some((Report::Created { pid, unenforced }, mut descriptors))) => {
                    self.created = true;
                    let terminal = descriptors.pop();
                    return Some(Made::Created { pid: Pid::from_raw(pid), terminal, unenforced });
                }
                Ok(Some((Report::Notified, mut descriptors))) => {
                    if let Some(listener) = descriptors.pop() {
                        return Some(Made::Notified(Notified::by(listener)));
                    }
                }
                Ok(Some((Report::NotNotified(why), _))) => return Some(Made::NotNotified(why)),
                Ok(Some((Report::CannotExecute { program, errno }, _))) => {
                    self.ended = true;
                    return Some(Made::Failed(cannot_execute(program, Errno::from_raw(errno))));
                }
                Ok(Some((Report::Failed(failure), _))) => {
                    self.ended = true;
                    return Some(Made::Failed(self.failed(failure)));
                }
                Ok(None) if self.created => {
                    self.ended = true;
                    return Some(Made::Executed);
                }
                Ok(None) => {
                    self.ended = true;
                    let gone = Failure::new("the process that makes it ended without a word");
                    return Some(Made::Failed(self.failed(gone)));
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Made::Failed(Error::Io {
                        doing: "understand the process that makes the container",
                        source: error,
                    }));
                }
            }
        }
        None
    }

    /// What libcontainer logged first is the innermost cause; what it returns repeats each level's text in the next one
    /// and lacks that cause, so it counts only where nothing was logged.
    fn failed(&mut self, mut failure: Failure) -> Error {
        let doing = failure.causes.remove(0);
        let doing = doing.strip_prefix("could not ").unwrap_or(&doing).to_owned();
        if let Some(innermost) = self.causes.first() {
            failure = Failure::new(innermost.clone());
        }
        if failure.causes.is_empty() {
            failure = Failure::new("no reason was given");
        }
        // What libcontainer says of a call that the kernel does not have is hard to understand.
        if let Some(why) = host::too_old() {
            failure = failure.within(why);
        }
        Error::Container { doing, source: failure }
    }
}

impl AsFd for Making {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn cannot_execute(program: String, errno: Errno) -> Error {
    Error::Execute { program, missing: is_missing(errno), source: Failure::new(errno.desc()) }
}

/// Starts the throw-away process in the container's cgroup, which is made for that when it is a new one. What moves there later
/// has the kernel wait for a grace period of RCU, ten milliseconds and more; all that it makes is there as well.
///
/// `None` where that cannot be: for one in a scope, which only exists from within; for a cgroup with limits that leave no
/// room; on a kernel, or below a filter, without clone3(2). Whatever else is wrong shows again when it is done without.
fn start_inside(request: &Request, id: &str, far: BorrowedFd<'_>) -> Option<Pid> {
    let hierarchy = crate::cgroup::Hierarchy::open().ok()?;
    let folder = match request {
        Request::Create { cgroup, roomy: true, .. } if systemd::scope_of(cgroup).is_none() => {
            hierarchy.at(cgroup).make()
        }
        Request::Create { .. } => return None,
        Request::Enter { cgroup, .. } => hierarchy.at(cgroup).folder(),
    };
    let (program, id) = (CString::new(THIS_PROGRAM).ok()?, CString::new(id).ok()?);
    os::spawn_into(folder.ok()?.as_fd(), &program, &[c"opsrun", c"create", &id], far).ok()
}

/// Starts it where this process is, or in a scope of its own.
fn start_outside(request: &Request, id: &str, far: OwnedFd) -> io::Result<Pid> {
    let helper = program(request)
        .args(["create", id])
        .current_dir("/")
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Pid::from_raw(i32::try_from(helper.id()).expect("OK because a pid fits (pid_max)")))
}

/// Whether a container's limits leave room in its cgroup for the throw-away process.
pub(crate) fn is_roomy(spec: &Spec) -> bool {
    let limits = limits::of(spec);
    let allows = |file: &str, least: u64| {
        limits.get(file).and_then(|text| text.parse::<u64>().ok()).is_none_or(|max| max >= least)
    };
    allows("pids.max", PROCESSES_ROOM)
        && allows("memory.max", MEMORY_ROOM)
        && allows("memory.high", MEMORY_ROOM)
}

/// The throw-away process's program, in a scope of its own when that is where the container belongs.
///
/// The environment of the caller of libcontainer must be UTF-8, and none of it is wanted.
fn program(request: &Request) -> Command {
    if let Request::Create { cgroup, purpose, run, .. } = request
        && let Some(scope) = systemd::scope_of(cgroup)
    {
        // The program itself is looked for by systemd-run(1), whose own /proc/self/exe is another.
        let this = format!("/proc/{}/exe", std::process::id());
        let service = run.file_name().and_then(|name| name.to_str());
        return systemd::in_scope(scope, service.filter(|_| *purpose == Purpose::Service), &this);
    }
    let mut program = Command::new(THIS_PROGRAM);
    program.arg0("opsrun").env_clear();
    program
}

/// The container's id: the last part of its cgroup's path.
pub(crate) fn id_of(cgroup: &Path) -> String {
    cgroup.file_name().map_or_else(|| "container".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The cgroup that the bundle asks for, below the cgroup v2 hierarchy.
pub(crate) fn cgroup_of(spec: &Spec) -> &Path {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref())
        .unwrap_or(Path::new("/opsrun/container"))
}

/// Reads the bundle's configuration.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, Error> {
    read_configuration(bundle)
}

/// Reads of it what describes the service's process, which is little beside the profile and the mounts.
pub(crate) fn read_process(bundle: &Path) -> Result<oci_spec::runtime::Process, Error> {
    #[derive(Deserialize)]
    struct Part {
        process: Option<oci_spec::runtime::Process>,
    }
    let Part { process } = read_configuration(bundle)?;
    process.ok_or_else(|| Error::Definition { reason: "it has no process".to_owned() })
}

fn read_configuration<T: DeserializeOwned>(bundle: &Path) -> Result<T, Error> {
    let failed = |source| Error::Bundle { path: bundle.to_owned(), source };
    // In one piece: from a file it is parsed byte by byte, which takes three times as long.
    let text = std::fs::read(bundle.join("config.json")).map_err(|error| failed(error.into()))?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// Kills what is left of a container and removes its cgroup and libcontainer's state. Nothing left is fine.
pub(crate) fn clear(run: &Path, cgroup: &Path) -> Result<(), Error> {
    let hierarchy = crate::cgroup::Hierarchy::open()
        .map_err(|error| Error::Io { doing: "look at the host's cgroups", source: error })?;
    hierarchy
        .at(cgroup)
        .clear()
        .map_err(|error| Error::Io { doing: "remove the container's cgroup", source: error })?;
    match fs_err::remove_dir_all(run.join(CONTAINERS).join(id_of(cgroup))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove the container's state", source: error })
        }
        _ => Ok(()),
    }
}

impl Process {
    /// What tells a running process apart from one that gets its number later.
    pub(crate) fn of(pid: Pid, cgroup: &Path, outputs: Vec<u64>) -> io::Result<Self> {
        Ok(Self {
            pid: pid.as_raw(),
            start_ticks: start_ticks(pid.as_raw())?,
            boot_id: boot_id()?,
            cgroup: cgroup.display().to_string(),
            outputs,
        })
    }

    /// Whether it is in the cgroup that it was put into: then it is the container's for sure.
    pub(crate) fn is_in_its_cgroup(&self) -> bool {
        let groups = fs_err::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default();
        groups.lines().any(|line| line.strip_prefix("0::").is_some_and(|path| path == self.cgroup))
    }

    /// The status of what has ended and was not reaped yet, as a shell gives it.
    pub(crate) fn status_of_zombie(&self) -> Option<i32> {
        let stat = procfs::process::Process::new(self.pid).and_then(|process| process.stat()).ok()?;
        let ended = stat.starttime == self.start_ticks && stat.state == 'Z';
        stat.exit_code.filter(|_| ended).map(shell_status)
    }

    /// Whether it was seen since this host was started.
    #[must_use]
    pub fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|id| id == self.boot_id)
    }

    /// Whether this very process is still there, and no zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.is_of_this_boot() && start_ticks(self.pid).is_ok_and(|ticks| ticks == self.start_ticks)
    }
}

/// A status as wait(2) encodes it, as a shell gives it.
pub(crate) fn shell_status(wait_status: i32) -> i32 {
    match wait_status & 0x7f {
        0 => wait_status >> 8 & 0xff,
        signal => 128 + signal,
    }
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    small_file::read(Path::new(&format!("/proc/{pid}/stat")), start_ticks_in)?
}

/// The same as the text of that file has it.
fn start_ticks_in(stat: &[u8]) -> io::Result<u64> {
    // The second field is the program's name in brackets, which may hold anything; the others are numbers and letters.
    let name_ends = stat.iter().rposition(|&byte| byte == b')').unwrap_or(0);
    let mut fields = stat[name_ends..].split(|&byte| byte == b' ').skip(1);
    if fields.next().is_none_or(|state| matches!(state, b"Z" | b"X")) {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // Of those behind the third: field 22 (proc_pid_stat(5)).
    let ticks = fields.nth(18).and_then(|field| std::str::from_utf8(field).ok()?.parse().ok());
    ticks.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The number of this boot, which no process outlives.
pub(crate) fn boot_id() -> io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(KNOWN.get_or_init(|| id).clone())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_program_is_in_the_cgroup_that_it_is_started_in() {
        let hierarchy = crate::cgroup::Hierarchy::open().expect("cgroups");
        let path = format!("/opsrun-test-spawn-{}/inside", std::process::id());
        let cgroup = hierarchy.at(Path::new(&path));
        let folder = cgroup.make().expect("a cgroup");
        let (mut near, far) = io::pipe().expect("a pipe");
        let arguments = [c"sh", c"-c", c"exec cat /proc/self/cgroup >&0"];
        let child = os::spawn_into(folder.as_fd(), c"/bin/sh", &arguments, far.as_fd()).expect("a process");
        drop(far);
        let mut said = String::new();
        near.read_to_string(&mut said).expect("what it says");
        let ended = nix::sys::wait::waitpid(child, None).expect("its end");
        cgroup.clear().expect("cleared");
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
        assert!(said.lines().any(|line| line == format!("0::{path}")), "{said}");
    }

    #[test]
    fn limits_that_leave_no_room_keep_the_throw_away_process_out() {
        let roomy = |limits: &str| {
            let linux =
                format!(r#"{{"ociVersion": "1.0.2", "linux": {{"resources": {{"unified": {limits}}}}}}}"#);
            is_roomy(&serde_json::from_str(&linux).expect("a bundle"))
        };
        for limits in ["{}", r#"{"pids.max": "max", "memory.max": "536870912"}"#, r#"{"pids.max": "300"}"#] {
            assert!(roomy(limits), "{limits}");
        }
        for limits in
            [r#"{"pids.max": "2"}"#, r#"{"memory.max": "6291456"}"#, r#"{"memory.high": "6291456"}"#]
        {
            assert!(!roomy(limits), "{limits}");
        }
    }
}
