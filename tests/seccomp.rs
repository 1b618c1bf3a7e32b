//! What a container's filter makes of each system call: the same as runc's makes of it, in `run` and in `exec`.
//!
//! A small program inside the container tries every number of every call convention, and the calls that Docker's
//! profile judges by their arguments; it is run by opsrun and by runc with the same configuration, and the two lists
//! of verdicts must be equal.

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::{Host, until};

/// Fewer lines mean that the program did not get through to its end.
const VERDICTS_MIN: usize = 600;

#[test]
fn verdicts_are_runcs() {
    let host = Host::new();
    host.load("busybox-1.tar");
    let probe = build_probe(&host);

    let mut command = host.command();
    command.args(["run", "--rm", "-i", "--user", "0", "--entrypoint", "/probe/probe", "-v"]);
    command.arg(format!("{}:/probe:ro", probe.display())).arg("busybox:1");
    // The program waits for a word, so that its container's configuration can be read.
    let (ours, configuration) = verdicts(command, || configuration_of_run(&host));

    let theirs = under_runc(&host, &probe, configuration);
    assert!(theirs.iter().any(|line| line.ends_with("EPERM")), "runc enforced nothing");
    let differ: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("opsrun: {ours}, runc: {theirs}"))
        .collect();
    assert!(differ.is_empty(), "{} verdicts differ:\n{}", differ.len(), differ.join("\n"));
    assert_eq!(ours.len(), theirs.len());
    assert_eq!(host.left_over(), Vec::<String>::new());
}

#[test]
fn exec_is_confined_as_the_service_is() {
    let (host, _) = Host::with_busybox();
    let probe = build_probe(&host);
    let volume = format!("{}:/probe:ro", probe.display());
    host.opsrun(["start", "busybox:1", "-v", &volume]).succeeds();
    let mut exec = host.command();
    exec.args(["exec", "-i", "--user", "0", "busybox", "/probe/probe"]);
    let (in_exec, ()) = verdicts(exec, || ());
    host.opsrun(["stop", "busybox"]).succeeds();

    let mut run = host.command();
    run.args([
        "run",
        "--rm",
        "-i",
        "--user",
        "0",
        "--entrypoint",
        "/probe/probe",
        "-v",
        &volume,
        "busybox:1",
    ]);
    let (in_run, ()) = verdicts(run, || ());
    assert_eq!(in_exec, in_run);
}

#[test]
fn exec_loads_the_filters_that_its_service_has() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let filters = only_entry(&host.path("run/opsrun/busybox/containers")).join("filters");
    let whole = std::fs::read(&filters).expect("the service's filters");
    let loaded = |expected: &str| {
        let exec = host.opsrun(["exec", "busybox", "cat", "/proc/self/status"]);
        let line = exec
            .succeeds()
            .stdout
            .lines()
            .find(|line| line.starts_with("Seccomp_filters:"))
            .expect("a count");
        assert_eq!(line.split_whitespace().last(), Some(expected));
    };
    loaded("2");

    // Only what is kept can be too much or too little: as it is read, so it is loaded.
    std::fs::write(&filters, &whole[..whole.len() - 8]).expect("cut it off");
    host.opsrun(["exec", "busybox", "true"]).fails(125, &["filters is not whole"]);

    // A service that another version has started has none kept.
    std::fs::remove_file(&filters).expect("remove it");
    loaded("2");
    host.opsrun(["stop", "busybox"]).succeeds();
}

fn only_entry(folder: &Path) -> PathBuf {
    let entries: Vec<_> = std::fs::read_dir(folder).expect("a folder").flatten().collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].path()
}

/// Builds the program, static, into a folder of the test's root.
fn build_probe(host: &Host) -> PathBuf {
    let folder = host.path("probe");
    std::fs::create_dir(&folder).expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/seccomp/probe.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(folder.join("probe"))
        .arg(source);
    support::done(compiler).succeeds();
    folder
}

/// Runs a command that runs the program; does something while the program waits; its verdicts.
fn verdicts<T>(mut command: Command, meanwhile: impl FnOnce() -> T) -> (Vec<String>, T) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let found = meanwhile();
    // OK to ignore: a command that has failed reads nothing, and says why below.
    let _ = child.stdin.take().expect("stdin").write_all(b"go");
    let mut output = String::new();
    child.stdout.take().expect("stdout").read_to_string(&mut output).expect("the verdicts");
    let done = child.wait_with_output().expect("wait for the command");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{complaint}", done.status);
    let lines: Vec<String> = output.lines().map(str::to_owned).collect();
    assert!(lines.len() > VERDICTS_MIN, "{command:?}: only {} verdicts\n{complaint}", lines.len());
    (lines, found)
}

/// The configuration of the one-shot container that is running.
fn configuration_of_run(host: &Host) -> Value {
    let mut found = None;
    until("the container has a configuration", || {
        let runs = std::fs::read_dir(host.path("var/lib/opsrun/runs")).into_iter().flatten().flatten();
        found = runs
            .filter_map(|run| std::fs::read(run.path().join("config.json")).ok())
            .find_map(|text| serde_json::from_slice(&text).ok());
        found.is_some()
    });
    found.expect("a configuration")
}

/// The program's verdicts under runc, with the same configuration but for where things lie.
fn under_runc(host: &Host, probe: &Path, mut configuration: Value) -> Vec<String> {
    let bundle = host.path("runc");
    std::fs::create_dir_all(bundle.join("rootfs/probe")).expect("a folder");
    std::fs::copy(probe.join("probe"), bundle.join("rootfs/probe/probe")).expect("copy the program");
    configuration["root"]["path"] = json!("rootfs");
    let id = format!("opsrun-test-{}", std::process::id());
    configuration["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    let mounts = configuration["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| mount["type"] != "bind");
    std::fs::write(bundle.join("config.json"), configuration.to_string()).expect("write the configuration");
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(host.path("runc-state")).args(["run", "--bundle"]).arg(&bundle).arg(&id);
    verdicts(runc, || ()).0
}
