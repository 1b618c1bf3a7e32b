//! The throw-away process that makes one container, or enters one: the only place that names libcontainer.
//! It knows nothing of services, supervisors or records; it is told what to do by one message and reports on it.
//!
//! It is a process of its own because libcontainer alters its caller (oom_score_adj, dumpable, working directory) and
//! runs Rust after a raw clone, which is sound only with one thread. What it makes is its *sibling*: a child of
//! the process that asked, which therefore gets the real exit status.
//!
//! ```text
//! (in the container's cgroup already, where that can be: container.rs)
//! own mount namespace, private        nothing mounted here is ever seen on the host
//!   cgroup2 over /sys/fs/cgroup       only on hybrid and v1 hosts
//!   tmpfs on RUN/engine               the bundle as libcontainer gets it
//!   overlay on BUNDLE/rootfs          when the bundle has a lower/ folder
//! cgroup made, limits, device rules    before anything of the container's is in it
//!   a folder in the cgroup's place    for libcontainer, which would move what is there already
//! libcontainer: build                 the container's process 1 waits
//! → Created, ← Go                     the asker opens its pidfd and writes its record in between
//! libcontainer: start                 process 1 confines itself and executes the program (confine.rs, init.rs)
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use oci_spec::runtime::{Capability, LinuxSeccomp, Process, Spec};

use crate::cgroup;
use crate::channel::{Channel, Errand, Go, Purpose, Report, Request};
use crate::confine::{Confinement, LISTENERS_FROM};
use crate::container::{CONTAINERS, ENGINE, id_of, read_spec};
use crate::definition::LISTENERS_MAX;
use crate::error::{Error, Failure};
use crate::seccomp::{self, Filter};
use crate::title::Title;
use crate::{devices, limits, os, steering, systemd, trace};

/// The file beside libcontainer's state that the container's seccomp filters are kept in.
const FILTERS: &str = "filters";

/// The first number that none of a program's listeners gets.
const BEYOND_LISTENERS: i32 = LISTENERS_FROM + LISTENERS_MAX as i32;

/// Runs the hidden command `create`: the channel is its standard input.
///
/// Returns the exit status. Errors have been reported over the channel by then.
#[must_use]
pub fn run() -> i32 {
    let Ok(channel) = take_channel() else { return 125 };
    let done = channel.receive::<Errand>().and_then(|message| {
        let (errand, stdio) = message.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        trace::report_errors_over(channel.duplicate()?);
        report_panics_over(channel.duplicate()?);
        Ok((errand.request, errand.inside, stdio))
    });
    let outcome = match done {
        Ok((Request::Create { bundle, run, cgroup, roomy: _, init, purpose, notified }, inside, stdio)) => {
            let how = How { init, purpose, notified };
            Bundle::read(bundle, cgroup, inside).and_then(|it| create(&channel, &it, &run, stdio, how))
        }
        Ok((Request::Enter { bundle, run, cgroup, process }, inside, stdio)) => {
            Bundle::read(bundle, cgroup, inside).and_then(|it| enter(&channel, &it, &run, stdio, *process))
        }
        Err(error) => Err(Error::Io { doing: "read the request", source: error }),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            // OK to ignore: when the asker is gone, nobody is left to tell.
            let _ = channel.send(&Report::Failed(Failure::of(&error)), &[]);
            125
        }
    }
}

/// Who asked has no standard error in the background, and this process's end would be a riddle.
fn report_panics_over(channel: Channel) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let failure = Failure::new(panic.to_string().replace('\n', " "));
        // OK to ignore: when the asker is gone, nobody is left to tell.
        let _ = channel.send(&Report::Failed(failure.within("could not make the container")), &[]);
        usual(panic);
    }));
}

/// Moves the channel from standard input to a descriptor that the container never gets.
fn take_channel() -> io::Result<Channel> {
    // Who asked reads some signals from a descriptor and has them blocked, which is passed on by fork and exec: the
    // program in the container would never get them.
    SigSet::empty().thread_set_mask()?;
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Channel::of(channel))
}

/// What is wanted of a container beside what its bundle says.
struct How {
    init: bool,
    purpose: Purpose,
    notified: bool,
}

fn create(
    channel: &Channel,
    bundle: &Bundle,
    run: &Path,
    mut stdio: Vec<OwnedFd>,
    how: How,
) -> Result<(), Error> {
    let How { init, purpose, notified } = how;
    let listeners =
        stdio.split_off(stdio.len().min(3)).iter().map(beyond_listeners).collect::<io::Result<_>>();
    let listeners =
        listeners.map_err(|error| Error::Io { doing: "take the program's listeners", source: error })?;
    own_mounts(run)?;
    bundle.mount_root(purpose)?;
    bundle.stand_aside()?;
    let unenforced = bundle.make_cgroup()?;
    if bundle.inside {
        bundle.stand_in(run)?;
    }
    if purpose == Purpose::Service {
        bundle.give_stdio(&stdio)?;
    }
    let filters = bundle.compile_filters()?;
    let (engine, mut confinement) =
        bundle.for_engine(bundle.process()?.clone(), channel, filters.clone(), init, notified)?;
    confinement.die_with_parent = purpose == Purpose::OneShot;
    confinement.listeners = listeners;
    let console = write_engine_bundle(run, &engine, bundle.terminal())?;
    let states = match purpose {
        Purpose::Service => run.join(CONTAINERS),
        // Nobody enters it, and nothing of it is looked for when it has ended.
        Purpose::OneShot => own_states(run),
    };
    let mut container = build(bundle, run, &states, stdio, &console, confinement)?;
    let pid = container.pid().map_or(0, nix::unistd::Pid::as_raw);
    let failed = |error| Error::Io { doing: "wait for the word to start", source: error };
    let kept = match purpose {
        Purpose::Service => keep_filters(&states.join(bundle.id()), &filters),
        Purpose::OneShot => Ok(()),
    };
    let word = kept
        .and_then(|()| report_created(channel, pid, unenforced, console))
        .and_then(|()| channel.receive::<Go>().map_err(failed));
    match word {
        Ok(Some(_)) => container.start().map_err(|error| container_error("start the container", &error)),
        // The asker is gone or has thought better of it: nothing half-made stays behind.
        other => {
            bundle.go_outside();
            let _ = container.delete(true);
            bundle.remove_empty_cgroup();
            other.map(drop)
        }
    }
}

/// For whoever enters the container later.
fn keep_filters(state: &Path, filters: &[Filter]) -> Result<(), Error> {
    if filters.is_empty() {
        return Ok(());
    }
    seccomp::kept::write(&state.join(FILTERS), filters)
        .map_err(|error| Error::Io { doing: "keep the container's seccomp filters", source: error })
}

/// A duplicate whose number none of the program's listeners gets.
fn beyond_listeners(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, BEYOND_LISTENERS)?)
}

fn build(
    bundle: &Bundle,
    run: &Path,
    states: &Path,
    stdio: Vec<OwnedFd>,
    console: &Option<Console>,
    confinement: Confinement,
) -> Result<Container, Error> {
    let failed = |error| container_error("create the container", &error);
    builder(bundle.id(), states, stdio, console, confinement)?
        .as_init(run.join(ENGINE))
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(failed)
}

fn enter(
    channel: &Channel,
    bundle: &Bundle,
    run: &Path,
    stdio: Vec<OwnedFd>,
    process: Process,
) -> Result<(), Error> {
    // Who asked and died is followed by somebody who may remove the container.
    os::die_with_parent();
    own_mounts(run)?;
    copy_state(run, &bundle.id())?;
    bundle.go_inside(run)?;
    let terminal = process.terminal().unwrap_or(false);
    let filters = bundle.kept_filters(run)?;
    let (engine, confinement) = bundle.for_engine(process, channel, filters, false, false)?;
    let console = write_engine_bundle(run, &engine, terminal)?;
    let process_file = run.join(ENGINE).join("process.json");
    let text = serde_json::to_vec(engine.process()).map_err(io::Error::from);
    text.and_then(|text| fs_err::write(&process_file, text))
        .map_err(|error| Error::Io { doing: "hand the process to libcontainer", source: error })?;
    let pid = builder(bundle.id(), &own_states(run), stdio, &console, confinement)?
        .as_tenant()
        .with_detach(true)
        .as_sibling(true)
        .with_process(Some(process_file))
        .build()
        .map_err(|error| container_error("enter the container", &error))?;
    report_created(channel, pid.as_raw(), Vec::new(), console)
}

fn builder(
    id: String,
    states: &Path,
    stdio: Vec<OwnedFd>,
    console: &Option<Console>,
    confinement: Confinement,
) -> Result<ContainerBuilder, Error> {
    let failed = |error| container_error("create the container", &error);
    let mut builder = ContainerBuilder::new(id, SyscallType::default())
        .validate_id()
        .map_err(failed)?
        .with_root_path(states)
        .map_err(failed)?
        .with_executor(ConfinedExecutor(Arc::new(confinement)));
    if let Some(console) = console {
        builder = builder.with_console_socket(Some(&console.path));
    } else {
        let mut stdio = stdio.into_iter();
        if let (Some(stdin), Some(stdout), Some(stderr)) = (stdio.next(), stdio.next(), stdio.next()) {
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
        }
    }
    Ok(builder)
}

fn container_error(doing: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Container { doing: doing.to_owned(), source: Failure::of(error) }
}

/// A bundle as its `config.json` says.
struct Bundle {
    folder: PathBuf,
    cgroup: PathBuf,
    /// Whether this process is in that cgroup.
    inside: bool,
    /// All but the profile.
    spec: Spec,
    /// What may be called in the container.
    profile: Option<LinuxSeccomp>,
}

impl Bundle {
    fn read(folder: PathBuf, cgroup: PathBuf, inside: bool) -> Result<Self, Error> {
        let mut spec = read_spec(&folder)?;
        let linux = spec.linux_mut().as_mut();
        let profile = linux.and_then(|linux| std::mem::take(linux.seccomp_mut()));
        Ok(Self { folder, cgroup, inside, spec, profile })
    }

    /// What each process of the container loads.
    fn compile_filters(&self) -> Result<Vec<Filter>, Error> {
        let Some(profile) = &self.profile else { return Ok(Vec::new()) };
        Ok(vec![steering::guard::filter()?, Filter::compile(profile)?])
    }

    /// Those that the container's first process has loaded.
    fn kept_filters(&self, run: &Path) -> Result<Vec<Filter>, Error> {
        let kept = seccomp::kept::read(&run.join(CONTAINERS).join(self.id()).join(FILTERS))
            .map_err(|error| Error::Io { doing: "read the container's seccomp filters", source: error })?;
        kept.map_or_else(|| self.compile_filters(), Ok)
    }

    fn process(&self) -> Result<&Process, Error> {
        self.spec.process().as_ref().ok_or_else(|| Error::Definition { reason: "it has no process".into() })
    }

    fn terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
    }

    /// The container's id: the last part of its cgroup's path.
    fn id(&self) -> String {
        id_of(&self.cgroup)
    }

    /// Mounts the image's layers as the root file system.
    ///
    /// By short names relative to `lower/`, because the options of a mount fit into one page: a hundred full paths
    /// do not (mount(2)).
    ///
    /// What a one-shot container writes is thrown away: without `volatile`, unmounting it would sync the whole disk
    /// (overlayfs.rst, "Volatile mount"; Linux 5.10).
    fn mount_root(&self, purpose: Purpose) -> Result<(), Error> {
        let lower = self.folder.join("lower");
        let count = match fs_err::read_dir(&lower) {
            Ok(entries) => entries.count(),
            // An ordinary bundle, whose root file system somebody else has laid out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::Io { doing: "read the bundle's layers", source: error }),
        };
        let failed = |error: nix::errno::Errno| match error {
            nix::errno::Errno::ENODEV => Error::NoOverlay,
            error => Error::Io { doing: "mount the root file system", source: error.into() },
        };
        let names: Vec<String> = (0..count).map(|index| index.to_string()).collect();
        let volatile = if purpose == Purpose::OneShot { ",volatile" } else { "" };
        // A layer may come with attributes of its own that would send overlayfs elsewhere: it must not follow them.
        let options = format!(
            "lowerdir={},upperdir=../upper,workdir=../work,redirect_dir=nofollow,metacopy=off{volatile}",
            names.join(":")
        );
        nix::unistd::chdir(&lower).map_err(failed)?;
        mount(Some("overlay"), "../rootfs", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(failed)?;
        nix::unistd::chdir("/").map_err(failed)
    }

    /// Leaves the cgroup of the scope for one beside the container's: one with processes of its own gives no controllers
    /// to those below it (cgroups(7), "no internal processes").
    fn stand_aside(&self) -> Result<(), Error> {
        let Some(scope) = systemd::scope_of(&self.cgroup) else { return Ok(()) };
        let failed = |error| Error::Io { doing: "make the container's scope", source: error };
        let hierarchy = cgroup::Hierarchy::open().map_err(failed)?;
        hierarchy.at(&scope.join("making")).enter().map_err(failed)
    }

    /// Makes the container's cgroup, limits it and attaches its device rules, all before a process is in it, so that
    /// there is no moment without them. The controllers whose limits are not kept, where the bundle allows that.
    fn make_cgroup(&self) -> Result<Vec<String>, Error> {
        let failed = |error| Error::Io { doing: "make the container's cgroup", source: error };
        let hierarchy = cgroup::Hierarchy::open().map_err(failed)?;
        let cgroup = hierarchy.at(&self.cgroup);
        let leaf = if self.inside { cgroup.folder() } else { cgroup.make() }.map_err(failed)?;
        let limits = limits::of(&self.spec);
        let unenforced = limits::enforce(&cgroup, &limits, limits::may_be_unenforced(&self.spec));
        let rules = self
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref())
            .and_then(|resources| resources.devices().clone())
            .unwrap_or_default();
        devices::attach(&rules, leaf.as_fd())
            .map_err(|error| Error::Io { doing: "enforce the container's device rules", source: error })?;
        if unenforced.is_err() && !self.inside {
            drop(leaf);
            // Nobody is told of a cgroup whose container never was. With this process in it, it is who asked that knows.
            let _ = cgroup.clear();
        }
        unenforced
    }

    /// Goes into the container's cgroup, as do all that this process makes, and ends with the container from there on.
    ///
    /// libcontainer would make the cgroup of a container that has ended meanwhile anew, for nobody to remove.
    fn go_inside(&self, run: &Path) -> Result<(), Error> {
        if !self.inside {
            let failed = |source| Error::Io { doing: "enter the container's cgroup", source };
            let hierarchy = cgroup::Hierarchy::open().map_err(failed)?;
            hierarchy.at(&self.cgroup).write("cgroup.procs", "0").map_err(failed)?;
        }
        self.stand_in(run)
    }

    /// What libcontainer finds in the cgroup's place from here on is a folder that takes what it writes: it would have the
    /// kernel move what this process makes to where it is already, and wait for that as for any move.
    fn stand_in(&self, run: &Path) -> Result<(), Error> {
        let failed = |source| Error::Io { doing: "stand in for the container's cgroup", source };
        let folder = run.join(ENGINE).join("cgroup");
        fs_err::create_dir(&folder).map_err(failed)?;
        // Without the second it would kill, by their numbers, what it has written to the first.
        for file in ["cgroup.procs", "cgroup.kill"] {
            fs_err::write(folder.join(file), "").map_err(failed)?;
        }
        mount(Some(&folder), &self.cgroup_seen(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| failed(errno.into()))
    }

    /// Leaves the cgroup, so that libcontainer can see it as it is, and remove it without killing this process.
    fn go_outside(&self) {
        if !self.inside {
            return;
        }
        // OK to ignore: what is left then is cleared by whoever has the service's lock next.
        let _ = nix::mount::umount2(&self.cgroup_seen(), nix::mount::MntFlags::MNT_DETACH);
        if let Ok(hierarchy) = cgroup::Hierarchy::open() {
            let _ = hierarchy.at(Path::new("")).write("cgroup.procs", "0");
        }
    }

    /// Where libcontainer looks for the container's cgroup.
    fn cgroup_seen(&self) -> PathBuf {
        Path::new(cgroup::MOUNT).join(self.cgroup.strip_prefix("/").unwrap_or(&self.cgroup))
    }

    /// Removes the cgroup if nothing is in it. OK to fail: it may belong to the next container of this name already.
    fn remove_empty_cgroup(&self) {
        if let Ok(hierarchy) = cgroup::Hierarchy::open() {
            hierarchy.at(&self.cgroup).remove_if_empty();
        }
    }

    /// Gives the pipes to the container's user, so that an image's `/dev/stdout` can be opened by it.
    fn give_stdio(&self, stdio: &[OwnedFd]) -> Result<(), Error> {
        let user = self.process()?.user();
        for pipe in stdio {
            let file = File::from(pipe.try_clone().map_err(|error| Error::Io {
                doing: "give the output to the container's user",
                source: error,
            })?);
            let is_pipe = file.metadata().is_ok_and(|found| found.file_type().is_fifo());
            if is_pipe {
                let owner = (Some(user.uid()), Some(user.gid()));
                std::os::unix::fs::fchown(&file, owner.0, owner.1).map_err(|error| Error::Io {
                    doing: "give the output to the container's user",
                    source: error,
                })?;
            }
        }
        Ok(())
    }

    /// The bundle's configuration as libcontainer gets it, and what is done in its place afterwards.
    ///
    /// The seccomp filter is loaded by [`Confinement`], for processes that enter as well (libcontainer gives those
    /// none), and device rules and limits are in the cgroup already. A filter can be loaded only by a process that
    /// has CAP_SYS_ADMIN or no_new_privs (seccomp(2)): without no_new_privs the capability is kept until then, and
    /// [`Confinement`] drops it.
    fn for_engine(
        &self,
        mut process: Process,
        channel: &Channel,
        filters: Vec<Filter>,
        init: bool,
        notified: bool,
    ) -> Result<(Spec, Confinement), Error> {
        let mut spec = self.spec.clone();
        if let Some(linux) = spec.linux_mut().as_mut() {
            linux.set_resources(None).set_cgroups_path(Some(self.cgroup.clone()));
        }
        if let Some(root) = spec.root_mut().as_mut() {
            let path = self.folder.join(root.path());
            root.set_path(path);
        }
        let mut capabilities = None;
        if (!filters.is_empty() || notified) && process.no_new_privileges() != Some(true) {
            capabilities = process.capabilities().clone();
            if let Some(mut kept) = capabilities.clone() {
                let with_admin = |set: &Option<oci_spec::runtime::Capabilities>| {
                    let mut set = set.clone().unwrap_or_default();
                    set.extend([Capability::SysAdmin, Capability::Setpcap]);
                    Some(set)
                };
                let (bounding, permitted) = (with_admin(kept.bounding()), with_admin(kept.permitted()));
                let effective = with_admin(kept.effective());
                kept.set_bounding(bounding).set_permitted(permitted).set_effective(effective);
                process.set_capabilities(Some(kept));
            }
        }
        spec.set_process(Some(process));
        // Beyond the numbers that the program's listeners get.
        let channel = channel
            .duplicate_from(BEYOND_LISTENERS)
            .map_err(|error| Error::Io { doing: "prepare the report", source: error })?;
        let (id, title) = (self.id(), Title::of_this_process());
        let (die_with_parent, listeners) = (false, Vec::new());
        let confinement = Confinement {
            notified,
            filters,
            capabilities,
            init,
            die_with_parent,
            listeners,
            id,
            title,
            channel,
        };
        Ok((spec, confinement))
    }
}

/// Leaves the host's mount namespace, so that nothing mounted from here on is seen outside or stays behind.
fn own_mounts(run: &Path) -> Result<(), Error> {
    let failed =
        |error: nix::errno::Errno| Error::Io { doing: "make an own mount namespace", source: error.into() };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
    if !cgroup::is_v2(Path::new(cgroup::MOUNT)) {
        // libcontainer decides by what is mounted here. With v1 it would put the container into every hierarchy the
        // host has, which no limit was asked of, and could not kill it as one. A mount of its own takes the kernel ten
        // milliseconds (since 6.18), a second place for the one there is next to nothing.
        let (what, kind, how) = match cgroup::is_v2(Path::new(cgroup::BESIDE)) {
            true => (cgroup::BESIDE, None, MsFlags::MS_BIND),
            false => ("cgroup2", Some("cgroup2"), MsFlags::empty()),
        };
        mount(Some(what), cgroup::MOUNT, kind, how, None::<&str>).map_err(failed)?;
    }
    mount_tmpfs(&run.join(ENGINE)).map_err(failed)
}

fn mount_tmpfs(folder: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("mode=0700,size=16m"))
}

/// Where libcontainer keeps state that is gone with this process.
fn own_states(run: &Path) -> PathBuf {
    run.join(ENGINE).join(CONTAINERS)
}

/// Gives libcontainer a copy of the container's state to work on: it leaves a socket in the folder for each process
/// that enters, and nobody would remove it.
fn copy_state(run: &Path, id: &str) -> Result<(), Error> {
    let failed = |error| Error::Io { doing: "read the container's state", source: error };
    let copy = own_states(run).join(id);
    fs_err::create_dir_all(&copy).map_err(failed)?;
    for entry in fs_err::read_dir(run.join(CONTAINERS).join(id)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != FILTERS && entry.file_type().map_err(failed)?.is_file() {
            let content = fs_err::read(entry.path()).map_err(failed)?;
            fs_err::write(copy.join(entry.file_name()), content).map_err(failed)?;
        }
    }
    Ok(())
}

/// Where libcontainer sends a terminal's master.
struct Console {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

/// Writes the bundle that libcontainer gets; with a terminal also the socket for its master.
fn write_engine_bundle(run: &Path, spec: &Spec, terminal: bool) -> Result<Option<Console>, Error> {
    let engine = run.join(ENGINE);
    let failed = |error| Error::Io { doing: "hand the bundle to libcontainer", source: error };
    let text = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    fs_err::write(engine.join("config.json"), text).map_err(failed)?;
    if !terminal {
        return Ok(None);
    }
    // By a relative name: the full path may be longer than the 108 bytes of a socket's address (unix(7)).
    std::env::set_current_dir(&engine).map_err(failed)?;
    let listener = std::os::unix::net::UnixListener::bind("console").map_err(failed)?;
    std::env::set_current_dir("/").map_err(failed)?;
    Ok(Some(Console { path: engine.join("console"), listener }))
}

/// Reports the process, with its terminal's master when there is one: libcontainer has sent it by now.
fn report_created(
    channel: &Channel,
    pid: i32,
    unenforced: Vec<String>,
    console: Option<Console>,
) -> Result<(), Error> {
    let failed = |error| Error::Io { doing: "receive the terminal", source: error };
    let mut masters = Vec::new();
    if let Some(console) = console {
        let (stream, _) = console.listener.accept().map_err(failed)?;
        masters = crate::channel::receive_descriptors(stream.as_fd()).map_err(failed)?;
    }
    let borrowed: Vec<_> = masters.iter().map(AsFd::as_fd).collect();
    channel
        .send(&Report::Created { pid, unenforced }, &borrowed)
        .map_err(|error| Error::Io { doing: "report the container", source: error })
}

/// What libcontainer calls in place of executing the program.
#[derive(Clone)]
struct ConfinedExecutor(Arc<Confinement>);

impl Executor for ConfinedExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        self.0.execute(process)
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // What cannot be executed is found out by executing it, as the container's user, and reported as such. It is the last
        // that libcontainer does before this process waits for the word to start, on a socket that nobody need ever connect to.
        self.0.end_with_asker();
        Ok(())
    }

    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is handed to execve; this process keeps its own.
        Ok(())
    }
}
