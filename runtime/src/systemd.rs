//! What opsrun has to do with systemd on a host that has it: the unit that a supervisor is, the scope that a container is
//! in, and the words in between. It knows neither what a service does nor what a container is.
//!
//! ```text
//! opsrun.slice
//! ├── opsrun@keystone.service      the supervisor (system-opsrun.slice, as systemd has it for templates)
//! └── opsrun-keystone-g7-….scope   a container's own: what is done to the unit does not touch it
//!     ├── making                   the throw-away process, until the container is started
//!     └── keystone-g7              the container
//! ```
//!
//! A set `OPSRUN_ROOT` has nothing to do with systemd: its services are nobody's but its own.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};

use crate::cgroup::Hierarchy;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::os;
use crate::replace::replace_file;

/// The slice with every container.
const SLICE: &str = "opsrun.slice";
/// Where the unit's template can be installed (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where systemctl(1), systemd-run(1) and nothing else are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A starting or stopping unit says this often that it still is.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// And asks for so much more time. Longer than removing a container's cgroup may take.
const EXTEND_BY: Duration = Duration::from_secs(30);
/// systemd has heard what was said within this time, or is not waited for.
const HEARD_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Whether systemd is this host's init (sd_booted(3)).
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether a service is a unit of systemd's.
#[must_use]
pub fn keeps(folders: &ServiceFolders) -> bool {
    folders.is_of_host() && is_running() && is_installed()
}

/// Whether the unit's template is there.
#[must_use]
pub fn is_installed() -> bool {
    UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join("opsrun@.service").exists())
}

/// The unit of a service.
#[must_use]
pub fn unit(service: &str) -> String {
    format!("opsrun@{service}.service")
}

/// Whether a service's unit is started at boot.
#[must_use]
pub fn is_enabled(service: &str) -> bool {
    let wanted = Path::new("/etc/systemd/system/multi-user.target.wants").join(unit(service));
    wanted.symlink_metadata().is_ok()
}

/// Does something to a service's unit, and waits until it is done.
///
/// # Errors
/// [`Error::Systemd`] with what systemctl(1) says.
pub fn systemctl(verb: &'static str, service: &str) -> Result<(), Error> {
    let failed = |source| Error::Systemd { verb, unit: unit(service), source };
    let done = command("systemctl")
        .args(["--quiet", "--no-ask-password", verb, &unit(service)])
        .output()
        .map_err(|error| failed(Failure::new(error.to_string())))?;
    if done.status.success() { Ok(()) } else { Err(failed(complaint(&done.stderr))) }
}

/// Writes down that a service's unit comes after those of others, at boot; after none takes it back.
///
/// # Errors
/// [`Error::Io`].
pub fn order_after(service: &str, others: &[&str]) -> Result<(), Error> {
    let failed = |error| Error::Io { doing: "order a service's unit after others", source: error };
    let folder = Path::new("/etc/systemd/system").join(format!("{}.d", unit(service)));
    let file = folder.join("opsrun-after.conf");
    if others.is_empty() {
        let _ = fs_err::remove_file(&file);
        let _ = fs_err::remove_dir(&folder);
        return Ok(());
    }
    let units: Vec<String> = others.iter().map(|other| unit(other)).collect();
    fs_err::create_dir_all(&folder).map_err(failed)?;
    let text = format!(
        "# From `after` in the service's settings, by `opsrun enable`.\n[Unit]\nAfter={}\n",
        units.join(" ")
    );
    replace_file(&file, text.as_bytes()).map_err(failed)
}

/// Begins to start a service's unit; its standard error is a pipe.
pub(crate) fn begin_start(service: &str) -> io::Result<std::process::Child> {
    command("systemctl")
        .args(["--quiet", "--no-ask-password", "start", &unit(service)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// What a tool of systemd's wrote to its standard error, as a failure.
pub(crate) fn complaint(stderr: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(stderr);
    let causes: Vec<String> = text
        .lines()
        .map(|line| line.trim_end_matches('.').to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if causes.is_empty() { Failure::new("it gave no reason") } else { Failure { causes } }
}

/// Whether a service's unit is on its way down because somebody wants that, also to start it again: then nobody goes on with
/// what lives.
#[must_use]
pub fn is_to_end(service: &str) -> bool {
    let asked =
        command("systemctl").args(["list-jobs", "--no-legend", "--plain"]).stderr(Stdio::null()).output();
    asked.is_ok_and(|answer| ends_in_jobs(&String::from_utf8_lossy(&answer.stdout), &unit(service)))
}

/// Whether systemd has started a service's unit again by itself, and nobody has since.
pub(crate) fn is_restarted(service: &str) -> bool {
    let asked = command("systemctl")
        .args(["show", "--property", "NRestarts", &unit(service)])
        .stderr(Stdio::null())
        .output();
    let text = asked.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
    let times = text.trim().strip_prefix("NRestarts=").and_then(|times| times.parse::<u32>().ok());
    times.is_some_and(|times| times > 0)
}

/// Whether among these jobs (`JOB UNIT TYPE STATE`) is one that ends a unit.
fn ends_in_jobs(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && matches!(words.next(), Some("stop" | "restart"))
    })
}

/// Whether the whole host is going down: what ends now is still wanted.
pub(crate) fn is_stopping() -> bool {
    let asked = command("systemctl").arg("is-system-running").stderr(Stdio::null()).output();
    asked.is_ok_and(|answer| answer.stdout.starts_with(b"stopping"))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", PATH);
    command
}

/// A cgroup in a scope of its own for the container of this id; `attempt` makes the scope's name unique.
#[must_use]
pub fn scoped(id: &str, attempt: &str) -> PathBuf {
    Path::new("/").join(SLICE).join(format!("opsrun-{id}-{attempt}.scope")).join(id)
}

/// The cgroups of all containers in scopes of their own, as [`scoped`] made them.
pub(crate) fn scopes(hierarchy: &Hierarchy) -> io::Result<Vec<PathBuf>> {
    let slice = Path::new("/").join(SLICE);
    let scopes = hierarchy.at(&slice).names()?.into_iter();
    Ok(scopes.filter_map(|scope| Some(slice.join(&scope).join(id_in_scope(&scope)?))).collect())
}

/// The id in a scope's name, before `-PID-NUMBER`.
fn id_in_scope(scope: &str) -> Option<&str> {
    let attempt = scope.strip_prefix("opsrun-")?.strip_suffix(".scope")?;
    attempt.rsplitn(3, '-').nth(2)
}

/// The scope that a cgroup is in, as a path, when [`scoped`] made it.
pub(crate) fn scope_of(cgroup: &Path) -> Option<&Path> {
    let scope = cgroup.parent()?;
    let slice = scope.parent()?.components().next_back()?;
    let is_scope = scope.extension().is_some_and(|extension| extension == "scope");
    (is_scope && slice == Component::Normal(SLICE.as_ref())).then_some(scope)
}

/// The command that makes a scope, and in it becomes `program`: the same process, and so the same parent's child.
///
/// `Delegate=`: what is below the scope's cgroup is opsrun's (systemd.resource-control(5)). `Before=`: when the host goes
/// down, the supervisor is the first to end, and ends the container as it should be, rather than have systemd do that.
pub(crate) fn in_scope(scope: &Path, service: Option<&str>, program: &str) -> Command {
    let name = scope.file_name().unwrap_or_default();
    let mut run = Command::new("systemd-run");
    run.args(["--scope", "--quiet", "--collect", "--no-ask-password", "--slice", SLICE, "--property"])
        .arg("Delegate=yes")
        .arg("--unit")
        .arg(name);
    if let Some(service) = service {
        run.arg("--property").arg(format!("Before={}", unit(service)));
    }
    let what = name.to_string_lossy();
    let what = what.trim_start_matches("opsrun-").trim_end_matches(".scope");
    run.arg("--description").arg(format!("Container {what} of opsrun"));
    run.arg("--").arg(program).env_clear().env("PATH", PATH);
    run
}

/// The unit that this process is: what systemd is told of it (sd_notify(3)) and keeps for it.
#[derive(Debug)]
pub(crate) struct Unit {
    socket: Option<OwnedFd>,
    watchdog: Option<Duration>,
    petted: Instant,
    extended: Option<Instant>,
    ready: bool,
    said: String,
}

/// What systemd keeps for this unit: the way to it.
#[derive(Debug, Default)]
pub(crate) struct Store {
    socket: Option<OwnedFd>,
}

/// How far a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not there yet, or not there again.
    Starting,
    /// It has been healthy.
    Up,
    /// On its way down.
    Stopping,
}

impl Unit {
    /// This process's unit, as its environment says.
    pub(crate) fn of_this_process() -> Self {
        let microseconds = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self {
            socket: std::env::var("NOTIFY_SOCKET").ok().and_then(|path| notify_socket(&path).ok()),
            watchdog: microseconds.map(|time: u64| Duration::from_micros(time / 3)),
            petted: Instant::now(),
            extended: None,
            ready: false,
            said: String::new(),
        }
    }

    /// The store of this unit, and what it holds for this process by name. To be asked once.
    pub(crate) fn store(&self) -> (Store, Vec<(String, OwnedFd)>) {
        let socket = self.socket.as_ref().and_then(|socket| socket.try_clone().ok());
        (Store { socket }, descriptors_kept())
    }

    /// Tells how far the service is, when that is news, and what time has made due.
    pub(crate) fn tell(&mut self, stage: Stage, status: &str) {
        let now = Instant::now();
        if self.said != status {
            self.said = status.to_owned();
            self.say(&format!("STATUS={status}"));
        }
        if stage == Stage::Up && !self.ready {
            self.ready = true;
            self.say("READY=1");
        }
        let waits = stage == Stage::Stopping || stage == Stage::Starting && !self.ready;
        if waits && self.extended.is_none_or(|at| now >= at + EXTEND_EVERY) {
            let news = if stage == Stage::Stopping { "STOPPING=1\n" } else { "" };
            self.say(&format!("{news}EXTEND_TIMEOUT_USEC={}", EXTEND_BY.as_micros()));
            self.extended = Some(now);
        }
        if !waits {
            self.extended = None;
        }
        if self.watchdog.is_some_and(|every| now >= self.petted + every) {
            self.petted = now;
            self.say("WATCHDOG=1");
        }
    }

    /// When [`Unit::tell`] is to be called at the latest.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let watchdog = self.watchdog.map(|every| self.petted + every);
        let extend = self.extended.map(|at| at + EXTEND_EVERY);
        [watchdog, extend].into_iter().flatten().min()
    }

    fn say(&self, text: &str) {
        say(self.socket.as_ref(), text, &[]);
    }
}

impl Store {
    /// Has systemd keep a duplicate of a descriptor for the next supervisor, beside what it has of that name.
    ///
    /// `FDPOLL=0`: what has hung up, as a pipe does when its service has ended, may still hold something (systemd 246).
    pub(crate) fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        say(self.socket.as_ref(), &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[descriptor]);
    }

    /// Has systemd close the one of that name.
    pub(crate) fn forget(&self, name: &str) {
        say(self.socket.as_ref(), &format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    /// Waits until systemd has heard all that was said before (sd_notify(3), `BARRIER=1`, systemd 246): it closes the
    /// descriptor that comes with that.
    ///
    /// # Errors
    /// When it has not after a while.
    pub(crate) fn settle(&self) -> io::Result<()> {
        if self.socket.is_none() {
            return Ok(());
        }
        let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        say(self.socket.as_ref(), "BARRIER=1", &[far.as_fd()]);
        drop(far);
        let mut closed = [PollFd::new(&near, PollFlags::empty())];
        loop {
            match rustix::event::poll(&mut closed, Some(&HEARD_WITHIN)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                polled => return Ok(polled.map(drop)?),
            }
        }
    }
}

fn say(socket: Option<&OwnedFd>, text: &str, descriptors: &[BorrowedFd<'_>]) {
    let Some(socket) = socket else { return };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !attached.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return;
    }
    // OK to ignore: a service does not depend on systemd's hearing of it, and the next word comes.
    let _ = sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut attached, SendFlags::NOSIGNAL);
}

/// A socket that is connected to systemd's. A name that begins with `@` is abstract (unix(7)).
fn notify_socket(path: &str) -> io::Result<OwnedFd> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    connect(socket.as_fd(), &address)?;
    Ok(socket)
}

/// What systemd hands to this process (sd_listen_fds(3)): descriptors from 3 on.
fn descriptors_kept() -> Vec<(String, OwnedFd)> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let count = number("LISTEN_FDS").unwrap_or(0);
    names.split(':').zip(3..3 + count).map(|(name, fd)| (name.to_owned(), os::take_inherited(fd))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_scope_is_known_by_its_path() {
        let cgroup = scoped("keystone-g7", "12-1");
        assert_eq!(cgroup, Path::new("/opsrun.slice/opsrun-keystone-g7-12-1.scope/keystone-g7"));
        assert_eq!(scope_of(&cgroup), cgroup.parent());
        assert_eq!(id_in_scope("opsrun-keystone-g7-12-1.scope"), Some("keystone-g7"));
        assert_eq!(id_in_scope("keystone.scope"), None);
        for other in ["/opsrun/keystone-g7", "/opsrun-00/runs/x", "/a.scope/b", "/opsrun.slice/b", "/x"] {
            assert_eq!(scope_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_job_that_ends_a_unit_is_told_from_one_that_starts_it_and_from_another_units() {
        let jobs = "4711 opsrun@web.service stop running\n4712 opsrun@api.service start waiting\n\
            4713 opsrun@db.service restart waiting\n";
        let ends = |unit| ends_in_jobs(jobs, unit);
        assert!(ends("opsrun@web.service") && ends("opsrun@db.service"));
        assert!(!ends("opsrun@api.service") && !ends("opsrun@we.service") && !ends("stop"));
        assert!(!ends_in_jobs("", "opsrun@web.service"));
    }

    #[test]
    fn systemd_is_waited_for_until_it_has_heard() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bind");
        let store = Store { socket: notify_socket(path.to_str().expect("UTF-8")).ok() };
        let heard = std::thread::spawn(move || {
            let mut buffer = [0; 200];
            // The descriptor that comes with it is not taken, and closed with it.
            systemd.recv(&mut buffer).map(|length| buffer[..length].to_vec())
        });
        store.settle().expect("heard");
        assert_eq!(heard.join().expect("no panic").expect("a word"), b"BARRIER=1");
    }

    #[test]
    fn systemd_is_told_what_is_new_and_no_more() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bind");
        systemd.set_nonblocking(true).expect("nonblocking");
        let mut unit = Unit {
            socket: Some(notify_socket(path.to_str().expect("UTF-8")).expect("socket")),
            watchdog: None,
            petted: Instant::now(),
            extended: None,
            ready: false,
            said: String::new(),
        };
        let heard = || {
            let mut words = Vec::new();
            let mut buffer = [0; 200];
            while let Ok(length) = systemd.recv(&mut buffer) {
                words.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            words
        };
        unit.tell(Stage::Starting, "zed: starting");
        unit.tell(Stage::Starting, "zed: starting");
        assert_eq!(heard(), ["STATUS=zed: starting", "EXTEND_TIMEOUT_USEC=30000000"]);
        unit.tell(Stage::Up, "zed: running");
        assert_eq!(heard(), ["STATUS=zed: running", "READY=1"]);
        // It waits for its restart: the unit stays ready.
        unit.tell(Stage::Starting, "zed: running");
        unit.tell(Stage::Up, "zed: running");
        assert_eq!(heard(), [""; 0]);
        unit.tell(Stage::Stopping, "zed: stopping");
        assert_eq!(heard(), ["STATUS=zed: stopping", "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000"]);
    }
}
