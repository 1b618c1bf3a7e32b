//! The command line from outside: what is printed where, and the exit status, for help and for bad input.
//! Nothing here needs an image or a running service; an own OPSRUN_ROOT keeps it away from the host's.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Commands that were run in one root, as a person would see them.
struct Session {
    root: TempDir,
    seen: String,
}

impl Session {
    fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a temporary folder"), seen: String::new() }
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opsrun"));
        command
            .args(arguments)
            .env("OPSRUN_ROOT", self.root.path())
            .env("COLUMNS", "100")
            .env_remove("NO_COLOR");
        command
    }

    /// Runs a command line, split at spaces, and adds what is seen to the transcript.
    fn run(&mut self, line: &str) {
        let output = self.command(line.split(' ')).output().expect("opsrun runs");
        self.see(line, &output);
    }

    fn see(&mut self, line: &str, output: &Output) {
        let root = self.root.path().canonicalize().expect("the root");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&root.display().to_string(), "ROOT");
        let mut one = |name: &str, bytes: &[u8]| {
            for line in text(bytes).lines() {
                writeln!(self.seen, "{name} {line}").expect("OK because it is a String");
            }
        };
        one("$", format!("opsrun {line}").as_bytes());
        one("1", &output.stdout);
        one("2", &output.stderr);
        writeln!(self.seen, "= {}\n", output.status.code().unwrap_or(-1)).expect("OK because it is a String");
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        std::fs::write(path, content).expect("write");
    }
}

/// A transcript: `$` what was typed, `1` standard output, `2` standard error, `=` the exit status.
macro_rules! transcript {
    ($session:expr) => {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($session.seen)
        })
    };
}

/// Everything but help needs root, and says so loudly here rather than failing in odd ways.
fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests must be run as root: scripts/test");
}

#[test]
fn help() {
    let mut session = Session::new();
    for line in ["--help", "start --help", "run -h", "exec -h", "config init -h", "logs -h", "events -h"] {
        session.run(line);
    }
    transcript!(session);
}

#[test]
fn usage() {
    let mut session = Session::new();
    for line in [
        "strat keystone",
        "start",
        "exec keystone",
        "start ../keystone",
        "stop keystone/../glance",
        "start Keystone",
        "start keystone:",
        "start keystone:../zed",
        "start keystone -v data:/var/lib/keystone",
        "start keystone -v /srv:/srv:rx",
        "start keystone -e =x",
        "start keystone -e OPSRUN_TEST_UNSET",
        "load --tag Keystone:zed x.tar",
        "logs -n many keystone",
        "events --since yesterday",
        "events --last 3 --since 2h",
        "inspect --type pod keystone",
        "ps --json --quiet",
    ] {
        session.run(line);
    }
    transcript!(session);
}

#[test]
fn nothing_there() {
    need_root();
    let mut session = Session::new();
    for line in [
        "ps",
        "ps --json",
        "images",
        "images --json",
        "start keystone",
        "start keystone:zed",
        "stop keystone",
        "restart keystone",
        "rm keystone",
        "status keystone",
        "logs keystone",
        "events",
        "events --json",
        "events keystone",
        "exec keystone bash",
        "run keystone:zed",
        "inspect keystone",
        "inspect --type service keystone",
        "rmi keystone:zed",
        "rmi keystone:zed glance:zed",
        "config init keystone",
    ] {
        session.run(line);
    }
    transcript!(session);
}

#[test]
fn settings() {
    need_root();
    let mut session = Session::new();
    for text in [
        "ports = [5000]\nprot = 5000\n",
        "[health]\ninterval = 10\n",
        "[stop]\nsignal = \"SIGNOPE\"\n",
        "ports = [5000\n",
    ] {
        session.write("etc/opsrun/keystone.toml", text);
        session.run("start keystone");
    }
    session.write("etc/opsrun/keystone.toml", [0xff, 0xfe]);
    session.run("start keystone");
    transcript!(session);
}

#[test]
fn no_images() {
    need_root();
    let mut session = Session::new();
    session.write("passwd", "root:x:0:0:root:/root:/bin/sh\n");
    session.write("empty", "");
    std::fs::create_dir(session.root.path().join("folder")).expect("mkdir");
    for name in ["missing.tar", "passwd", "empty", "folder"] {
        let path = session.root.path().join(name).display().to_string();
        let output = session.command(["load", &path]).output().expect("opsrun runs");
        session.see(&format!("load {name}"), &output);
    }
    transcript!(session);
}

#[test]
fn corrupt_record() {
    need_root();
    let mut session = Session::new();
    session.write("var/lib/opsrun/services/keystone/record.json", "{\"version\":1,");
    session.write("var/lib/opsrun/services/glance/record.json", "{\"version\":99}");
    for line in ["ps", "status keystone", "start keystone", "status glance", "rm glance"] {
        session.run(line);
    }
    transcript!(session);
}

#[test]
fn roots() {
    need_root();
    let mut session = Session::new();
    let file = session.root.path().join("file");
    let inside = session.root.path().join("var/lib/opsrun/store");
    std::fs::write(&file, "").expect("write");
    for root in [Path::new("relative"), &file, &inside] {
        let output = session.command(["ps"]).env("OPSRUN_ROOT", root).output().expect("opsrun runs");
        session.see("ps", &output);
    }
    transcript!(session);
}

#[test]
fn a_listing_makes_nothing() {
    need_root();
    let session = Session::new();
    let root = session.root.path().join("not-there");
    for arguments in [&["ps"][..], &["status", "keystone"], &["stop", "keystone"], &["logs", "keystone"]] {
        session.command(arguments).env("OPSRUN_ROOT", &root).output().expect("opsrun runs");
    }
    assert!(!root.exists());
}

#[test]
fn not_root() {
    need_root();
    let mut session = Session::new();
    // Nobody can read the folder that the program was built in, so it gets one of its own.
    let program = session.root.path().join("opsrun");
    // Copied by another process: a descriptor open for writing that a fork of another test takes along makes it busy.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_opsrun")).arg(&program).status();
    assert!(copied.expect("cp runs").success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(session.root.path(), open).expect("chmod");
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("OPSRUN_ROOT", session.root.path()).uid(65534).gid(65534);
        command.output().expect("opsrun runs")
    };
    let start = nobody(&["start", "keystone:zed", "-e", "GREETING=hello there"]);
    let ps = nobody(&["ps"]);
    let run = nobody(&["run", "keystone:zed"]);
    let version = nobody(&["--version"]);
    assert!(nobody(&["completions", "bash"]).status.success());
    assert!(nobody(&["ps", "--help"]).status.success());
    session.see("start keystone:zed -e 'GREETING=hello there'", &start);
    session.see("ps", &ps);
    session.see("run keystone:zed", &run);
    session.see("--version", &version);
    transcript!(session);
}

#[test]
fn no_colour_goes_into_a_pipe() {
    need_root();
    let session = Session::new();
    let output = session.command(["stop", "keystone"]).output().expect("opsrun runs");
    assert!(!output.stderr.contains(&0x1b), "{output:?}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    need_root();
    let session = Session::new();
    let (reader, writer) = rustix::pipe::pipe().expect("pipe");
    drop(reader);
    let output = session.command(["ps"]).stdout(writer).output().expect("opsrun runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_full_disk_is_said() {
    need_root();
    let session = Session::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = session.command(["ps"]).stdout(full).output().expect("opsrun runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("could not write to standard output"),
        "{output:?}"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let session = Session::new();
    let folder = session.root.path().join("man");
    let status = session.command([OsStr::new("man"), folder.as_os_str()]).status().expect("opsrun runs");
    assert!(status.success());
    for page in ["opsrun.1", "opsrun-start.1", "opsrun-config-init.1", "opsrun-doctor.1"] {
        let text = std::fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(!folder.join("opsrun-supervise.1").exists());
}
