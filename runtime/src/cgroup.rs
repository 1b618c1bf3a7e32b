//! A container's cgroup: made before a process enters it, emptied and removed after.
//! It knows no container; a cgroup is a path below the cgroup v2 hierarchy.
//!
//! On a host with hybrid or v1 cgroups the v2 hierarchy exists as well, without controllers: it still tells which
//! processes belong to a container and kills them all at once (cgroups(7), `cgroup.kill`: Linux 5.14).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statfs, unlinkat};
use rustix::io::Errno;

use crate::{limits, small_file, systemd};

/// Where cgroups are mounted.
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// Where hybrid hosts have the v2 hierarchy.
pub(crate) const BESIDE: &str = "/sys/fs/cgroup/unified";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: u32 = 0x6367_7270;
/// How often a cgroup is tried to be made while others remove its parent.
const ATTEMPTS_MAX: usize = 100;
/// How long processes that were sent SIGKILL may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Whether `folder` is the root of a cgroup v2 mount.
pub(crate) fn is_v2(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| u32::try_from(found.f_type) == Ok(CGROUP2_MAGIC))
}

/// The host's cgroup v2 hierarchy, with or without controllers.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    root: OwnedFd,
}

/// One cgroup of it.
#[derive(Debug)]
pub(crate) struct Cgroup<'a> {
    hierarchy: &'a Hierarchy,
    path: PathBuf,
}

impl Hierarchy {
    /// Opens it where the host has it mounted; mounts it for this process alone where the host has not.
    pub(crate) fn open() -> io::Result<Self> {
        for folder in [MOUNT, BESIDE] {
            if is_v2(Path::new(folder)) {
                let root =
                    openat(CWD, folder, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                return Ok(Self { root });
            }
        }
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
        let kind = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(kind.as_fd())?;
        let root = fsmount(kind.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(Self { root })
    }

    /// Whether nothing can be changed in it.
    pub(crate) fn is_read_only(&self) -> bool {
        rustix::fs::fstatvfs(&self.root)
            .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// The cgroup at `path`, made or not; a leading `/` means the root of the hierarchy.
    pub(crate) fn at(&self, path: &Path) -> Cgroup<'_> {
        Cgroup { hierarchy: self, path: path.strip_prefix("/").unwrap_or(path).to_owned() }
    }
}

impl Cgroup<'_> {
    /// Makes the cgroup and those above it, where missing, and opens it.
    pub(crate) fn make(&self) -> io::Result<OwnedFd> {
        // Whoever clears the last container beside this one removes the parent, perhaps right between two steps of
        // this; then from the top again.
        for _ in 0..ATTEMPTS_MAX {
            match self.make_once() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.make_once()
    }

    fn make_once(&self) -> io::Result<OwnedFd> {
        let mut folder = PathBuf::new();
        for part in &self.path {
            // In those above and not in itself: a cgroup that hands controllers down may hold no process (cgroups(7)).
            self.hierarchy.at(&folder).turn_on_what_it_has();
            folder.push(part);
            match mkdirat(&self.hierarchy.root, &folder, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.folder()
    }

    /// Its folder, opened.
    pub(crate) fn folder(&self) -> io::Result<OwnedFd> {
        self.open("")
    }

    /// Makes it and moves this process there. What is above exists; no controller is handed down to it: with this process
    /// still in there that would make the one above a threaded cgroup, which this one could not be entered from.
    pub(crate) fn enter(&self) -> io::Result<()> {
        match mkdirat(&self.hierarchy.root, &self.path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = self.open("")?;
        let processes = openat(&folder, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&processes, b"0")?;
        Ok(())
    }

    /// Hands those of opsrun's controllers that this one has down to the cgroups below it. What cannot be turned on is missed
    /// by whoever needs it, who then says so; a host need not have it.
    fn turn_on_what_it_has(&self) {
        let has = self.read("cgroup.controllers").unwrap_or_default();
        let has = |controller: &&str| has.split_whitespace().any(|it| it == *controller);
        for controller in limits::CONTROLLERS.iter().filter(|controller| has(controller)) {
            let _ = self.turn_on(controller);
        }
    }

    /// Hands a controller down to the cgroups below this one.
    pub(crate) fn turn_on(&self, controller: &str) -> io::Result<()> {
        let has = |text: &str| text.split_whitespace().any(|it| it == controller);
        if has(&self.read("cgroup.subtree_control")?) {
            return Ok(());
        }
        self.write("cgroup.subtree_control", &format!("+{controller}"))
    }

    /// One of its files, to be read again and again.
    pub(crate) fn file(&self, file: &str) -> io::Result<std::fs::File> {
        Ok(std::fs::File::from(self.open(file)?))
    }

    /// What one of its files says.
    pub(crate) fn read(&self, file: &str) -> io::Result<String> {
        small_file::read_text(self.open(file)?)
    }

    /// Writes to one of its files, in one piece, as the kernel wants it.
    pub(crate) fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&self.hierarchy.root, self.path.join(file), flags, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }

    /// The hierarchy it belongs to.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        self.hierarchy
    }

    /// Its path below the root of the hierarchy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it, and in cgroups below it, and removes it. One that is not there is fine. Of a cgroup in a
    /// scope all of the scope is cleared; the scope itself is systemd's, which removes it when it is empty.
    pub(crate) fn clear(&self) -> io::Result<()> {
        if let Some(scope) = systemd::scope_of(&Path::new("/").join(&self.path)) {
            return self
                .hierarchy
                .at(scope)
                .empty()
                .or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) });
        }
        match self.empty() {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
        match unlinkat(&self.hierarchy.root, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // A parent that other services still use is not empty, and stays.
        if let Some(parent) = self.path.parent() {
            self.hierarchy.at(parent).remove_if_empty();
        }
        Ok(())
    }

    /// Removes it and those above it as far as nothing is in them. Nothing is killed for that.
    pub(crate) fn remove_if_empty(&self) {
        let mut path = self.path.as_path();
        while !path.as_os_str().is_empty() {
            match unlinkat(&self.hierarchy.root, path, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => break,
            }
            path = path.parent().unwrap_or(Path::new(""));
        }
    }

    /// The cgroups right below it; none when it does not exist.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let folder = match self.open("") {
            Ok(folder) => folder,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Kills every process in it, and in cgroups below it, and removes those.
    fn empty(&self) -> io::Result<()> {
        let Ok(folder) = self.open("") else { return Ok(()) };
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            if !self.populated()? {
                break;
            }
            self.kill()?;
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes in the cgroup /{} do not end", self.path.display()),
                ));
            }
            // The kernel raises POLLPRI on cgroup.events when "populated" changes; the short limit covers the
            // change that came between the look above and this wait.
            let events = self.open("cgroup.events")?;
            let mut wait = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)];
            let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = rustix::event::poll(&mut wait, Some(&limit));
        }
        drop(folder);
        self.remove_below(&self.path)
    }

    /// Whether any process is in it or below it; false when it does not exist.
    pub(crate) fn populated(&self) -> io::Result<bool> {
        let file = match self.open("cgroup.events") {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let text = small_file::read_text(file)?;
        Ok(text.lines().any(|line| line == "populated 1"))
    }

    /// The processes in it and below it. What is removed meanwhile has none.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        let Ok(list) = self.open("cgroup.procs") else { return Ok(Vec::new()) };
        let mut found = match io::read_to_string(std::fs::File::from(list)) {
            Ok(list) => list.lines().filter_map(|line| line.parse().ok()).collect(),
            Err(error) if is_gone(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        for name in self.names()? {
            found.extend(self.hierarchy.at(&self.path.join(name)).processes()?);
        }
        Ok(found)
    }

    /// Sends SIGKILL to every process in it and below it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let path = self.path.join("cgroup.kill");
        match openat(&self.hierarchy.root, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                rustix::io::write(&file, b"1")?;
                Ok(())
            }
            // Linux before 5.14 has no cgroup.kill: end them one by one; the caller looks again.
            Err(Errno::NOENT) => {
                let Ok(file) = self.open("cgroup.procs") else { return Ok(()) };
                for line in io::read_to_string(std::fs::File::from(file))?.lines() {
                    if let Some(pid) = line.parse().ok().and_then(rustix::process::Pid::from_raw) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove_below(&self, path: &Path) -> io::Result<()> {
        for name in self.hierarchy.at(path).names()? {
            let below = path.join(name);
            self.remove_below(&below)?;
            match unlinkat(&self.hierarchy.root, &below, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn open(&self, file: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // An empty path is no file; the hierarchy's root is one.
        let path = self.path.join(file);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path.as_path() };
        Ok(openat(&self.hierarchy.root, path, flags, Mode::empty())?)
    }
}

/// Whether an error says that the cgroup was removed meanwhile: by systemd, or by the throw-away process that had made it.
/// Files of a removed cgroup that are open still say ENODEV.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NODEV].iter().any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}
