//! A dockerd of the test's own, which touches nothing of the host's network and none of its images.
//! Knows nothing of opsrun: the tests of the room that makes bundles take this file in as well.

use std::fs::File;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than it takes to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, which ends with this.
pub struct Docker {
    folder: TempDir,
    daemon: Child,
}

impl Docker {
    pub fn new() -> Self {
        // A socket's path may have 108 bytes.
        let folder = tempfile::Builder::new().prefix("dockerd-").tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = File::create(at("log")).expect("a log");
        let mut command = Command::new("dockerd");
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("socket")), "--config-file", &at("daemon.json")]);
        std::fs::write(at("daemon.json"), "{}").expect("its settings");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        let daemon = command.spawn().expect("start dockerd: Debian's package docker.io has it");
        let mut docker = Self { folder, daemon };
        let deadline = Instant::now() + PATIENCE;
        while !docker.run("version").status.success() {
            let ended = docker.daemon.try_wait().expect("look at dockerd");
            let log = || std::fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "dockerd ended: {}", log());
            assert!(Instant::now() < deadline, "dockerd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        docker
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new("sh");
        let socket = self.folder.path().join("socket");
        command.args(["-euc", &format!("docker -H unix://{} {line}", socket.display())]);
        // The builder without BuildKit, which needs nothing but the daemon.
        command.current_dir(self.folder.path()).env("DOCKER_BUILDKIT", "0").stdin(Stdio::null());
        command.output().expect("start docker")
    }

    /// Runs `docker` with this line of arguments, which the shell splits; its output.
    pub fn docker(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {line}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Docker {
    /// It also ends its containerd.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
        // What a daemon that was killed leaves mounted would keep the folder.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path().join("exec/netns/default")).output();
    }
}
