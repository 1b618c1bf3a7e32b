//! What the tests of the whole program share: an own root for each test, the program run as a person would, and
//! waiting for a condition. It knows nothing of the program's inside.
#![allow(dead_code, missing_docs)] // Each test program uses a part of it.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod load;
pub mod registry;
pub mod server;
pub mod steered;
pub mod swept;

/// Longer than anything waited for takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An own root: nothing a test does meets another test or the host.
pub struct Host {
    pub root: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Host {
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make containers: run them as root (sudo scripts/test)"
        );
        Self {
            root: tempfile::Builder::new().prefix("opsrun-test-").tempdir().expect("a folder for the test"),
        }
    }

    /// A root with the small image of a web service loaded and its configuration in place, listening on `port`.
    pub fn with_busybox() -> (Self, u16) {
        let host = Self::new();
        host.load("busybox-1.tar");
        host.opsrun(["config", "init", "busybox"]).succeeds();
        let port = free_port();
        host.configure_busybox(port, "");
        (host, port)
    }

    /// Writes the web service's configuration, which its start script reads as shell, and its service file.
    pub fn configure_busybox(&self, port: u16, shell: &str) {
        self.write("opt/busybox/conf/busybox.conf", &format!("listen=127.0.0.1:{port}\n{shell}\n"));
        self.write(
            "etc/opsrun/busybox.toml",
            &format!(
                "ports = [{port}]\n\
                 health = {{ check = \"http\", path = \"/\", interval = \"200ms\", timeout = \"2s\", start_timeout = \"30s\" }}\n\
                 stop = {{ grace = \"5s\" }}\n"
            ),
        );
    }

    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        std::fs::write(path, text).expect("write the file");
    }

    pub fn load(&self, archive: &str) -> Done {
        let done = self.opsrun([OsStr::new("load"), image(archive).as_os_str()]);
        done.succeeds();
        done
    }

    /// The program, to be run with this root.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.env("OPSRUN_ROOT", self.root.path()).env_remove("NO_COLOR").stdin(Stdio::null());
        command
    }

    pub fn opsrun<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Done {
        let mut command = self.command();
        command.args(arguments);
        done(command)
    }

    /// The same with something to read on its standard input.
    pub fn opsrun_reading<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Done {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("{command:?}");
        let mut child = command.spawn().expect("start opsrun");
        // A command that fails does not read all of it.
        let _ = child.stdin.take().expect("stdin").write_all(input);
        Done::of(line, &child.wait_with_output().expect("wait for opsrun"))
    }

    /// The entry of a service in `ps --json`.
    pub fn service(&self, name: &str) -> Value {
        let listing = self.opsrun(["ps", "--json"]).succeeds().json();
        let services = listing["services"].as_array().cloned().unwrap_or_default();
        services.into_iter().find(|service| service["service"] == name).unwrap_or(Value::Null)
    }

    /// Waits until the service's entry is as wanted; the entry.
    pub fn service_until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(what, || {
            last = self.service(name);
            wanted(&last)
        });
        last
    }

    /// What is left of this root on the host: processes, mounts and cgroups that name it.
    pub fn left_over(&self) -> Vec<String> {
        let root = self.root.path().display().to_string();
        let mut found = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        found.extend(mounts.lines().filter(|line| line.contains(&root)).map(str::to_owned));
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let wanted = format!("OPSRUN_ROOT={root}");
            if environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
                let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("process {:?} {}", entry.file_name(), line.replace('\0', " ")));
            }
        }
        found.extend(self.cgroups().iter().map(|path| path.display().to_string()));
        found
    }

    /// Kills what would go on with a service by itself.
    pub fn kill_supervisor_and_keeper(&self, name: &str) {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        let supervisor = self.service(name)["supervisor"].as_i64().expect("a supervisor");
        let supervisor = Pid::from_raw(i32::try_from(supervisor).expect("a pid"));
        // It would start another keeper.
        kill(supervisor, Signal::SIGSTOP).expect("stop");
        for keeper in self.processes(&format!("opsrun\0keep\0{name}\0")) {
            kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill");
        }
        kill(supervisor, Signal::SIGKILL).expect("kill");
    }

    /// The processes of this root with a command line that begins so.
    pub fn processes(&self, words: &str) -> Vec<i32> {
        let wanted = format!("OPSRUN_ROOT={}", self.root.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
            if ours && line.starts_with(words.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    /// The cgroups of its one-shot containers: beside those of the services.
    pub fn one_shot_cgroups(&self) -> Vec<PathBuf> {
        let bundles = self.path("var/lib/opsrun/services/busybox/generations");
        let mut bundles = std::fs::read_dir(bundles).into_iter().flatten().flatten();
        // One that a command was killed at is not whole.
        let text = bundles.find_map(|it| std::fs::read_to_string(it.path().join("config.json")).ok());
        let spec: Value = serde_json::from_str(&text.expect("a generation")).expect("its bundle");
        let path = spec["linux"]["cgroupsPath"].as_str().expect("its cgroup").trim_start_matches('/');
        let runs = cgroup_mount().join(path).with_file_name("runs");
        let entries = std::fs::read_dir(runs).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// The cgroups of this root's containers that exist. Their names begin with the hash of the root.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let records = std::fs::read_dir(self.path("var/lib/opsrun/services")).into_iter().flatten().flatten();
        let mut found = Vec::new();
        for entry in records {
            for generation in
                std::fs::read_dir(entry.path().join("generations")).into_iter().flatten().flatten()
            {
                let text = std::fs::read_to_string(generation.path().join("config.json")).unwrap_or_default();
                let spec: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                let path = spec["linux"]["cgroupsPath"].as_str().unwrap_or("/none");
                let path = cgroup_mount().join(path.trim_start_matches('/'));
                if path.exists() {
                    found.push(path);
                }
            }
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.path("var/lib/opsrun/services")).into_iter().flatten().flatten() {
            let _ = self.command().arg("stop").arg(entry.file_name()).output();
        }
    }
}

impl Done {
    fn of(line: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
        Self {
            status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            line,
        }
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.status, 0, "{self}");
        self
    }

    /// It fails with this status, and its standard error has each of these texts.
    #[track_caller]
    pub fn fails(&self, status: i32, texts: &[&str]) -> &Self {
        assert_eq!(self.status, status, "{self}");
        for text in texts {
            assert!(self.stderr.contains(text), "«{text}» is missing: {self}");
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}\nstatus: {}\nstdout:\n{}\nstderr:\n{}",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

pub fn done(mut command: Command) -> Done {
    let line = format!("{command:?}");
    Done::of(line, &command.output().expect("start the command"))
}

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_opsrun"))
}

/// An archive that `scripts/test` has made.
pub fn image(archive: &str) -> PathBuf {
    let folder = std::env::var_os("OPSRUN_CACHE").unwrap_or_else(|| "/var/cache/opsrun".into());
    let path = Path::new(&folder).join(archive);
    assert!(path.exists(), "{} is missing: run the tests by scripts/test, which makes it", path.display());
    path
}

/// A port on which nothing listens.
///
/// Not one of those that the kernel gives to connections (ip(7), `ip_local_port_range`): it is only listened on later.
pub fn free_port() -> u16 {
    const FIRST: u32 = 16_384;
    const COUNT: u32 = 16_384;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT).expect("below 32768");
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// What `GET /path` is answered with, the body alone; `None` when there is no answer with status 200.
pub fn get(port: u16, path: &str) -> Option<String> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the host has cgroup v2.
pub fn cgroup_mount() -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() { unified.to_owned() } else { "/sys/fs/cgroup".into() }
}

/// A process that is ended when the test is over.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that stops, as by SIGSTOP, at the `when`th of these system calls of one of its threads, and stays so until
/// it is let go: in the middle of what it does, for as long as a test needs.
pub struct Stopped {
    strace: Child,
    pid: nix::unistd::Pid,
    folder: tempfile::TempDir,
}

impl Stopped {
    /// Waits until it stands there.
    #[track_caller]
    pub fn at<A: AsRef<OsStr>>(
        host: &Host,
        calls: &str,
        when: usize,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::try_at(host, calls, when, arguments).unwrap_or_else(|| panic!("no call {when} of {calls}"))
    }

    /// The same; `None` when it ended before.
    #[track_caller]
    pub fn try_at<A: AsRef<OsStr>>(
        host: &Host,
        calls: &str,
        when: usize,
        arguments: impl IntoIterator<Item = A>,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let trace = folder.path().join("trace");
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).expect("a file");
        let mut command = Command::new("strace");
        // Its threads, but none of the programs that it starts.
        command.args(["-f", "-b", "execve", "-q", "-o"]).arg(&trace);
        command.args(["-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:signal=SIGSTOP:when={when}")]);
        command.arg(program()).args(arguments).env("OPSRUN_ROOT", host.root.path());
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let mut strace = command.spawn().expect("start strace");
        let mut pid = None;
        until("the command stops", || {
            let text = std::fs::read_to_string(&trace).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("--- stopped by SIGSTOP ---"));
            pid = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            pid.is_some() || strace.try_wait().expect("look at it").is_some()
        });
        let pid = nix::unistd::Pid::from_raw(pid?);
        Some(Self { strace, pid, folder })
    }

    /// Its children, in the order in which they were made, with their names.
    pub fn children(&self) -> Vec<(nix::unistd::Pid, String)> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let list = std::fs::read_to_string(path).expect("its children");
        let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.map(|pid| (nix::unistd::Pid::from_raw(pid), name(pid))).collect()
    }

    /// Kills it where it stands.
    pub fn kill(mut self) {
        nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL).expect("kill it");
        self.strace.wait().expect("wait for strace");
    }

    /// Lets it go on and waits for its end.
    pub fn go_on(mut self) -> Done {
        nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGCONT).expect("let it go on");
        let status = self.strace.wait().expect("wait for strace");
        let read = |name: &str| std::fs::read(self.folder.path().join(name)).expect("read it");
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        Done::of("a command that was stopped".to_owned(), &Output { status, stdout, stderr })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.strace.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
            let _ = self.strace.wait();
        }
    }
}

/// A command whose standard error can be looked at while it runs.
pub struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

impl Running {
    pub fn begin<A: AsRef<OsStr>>(host: &Host, arguments: impl IntoIterator<Item = A>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).expect("a file");
        let mut command = host.command();
        command.args(arguments).stdout(file("stdout")).stderr(file("stderr"));
        Self { child: command.spawn().expect("start opsrun"), folder }
    }

    /// Waits until it says something.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("look at it").is_some();
            let said = std::fs::read_to_string(self.folder.path().join("stderr")).expect("read it");
            if said.contains(text) {
                return;
            }
            assert!(!ended && Instant::now() < deadline, "it does not say «{text}» but: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end.
    pub fn end(mut self) -> Done {
        let status = self.child.wait().expect("wait for it");
        let read = |name: &str| std::fs::read(self.folder.path().join(name)).expect("read it");
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        Done::of("a command in the background".to_owned(), &Output { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
