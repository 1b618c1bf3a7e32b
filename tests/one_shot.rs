//! One command in a container of its own: what it sees, and that nothing of it is left however it ends.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use support::{Background, Host, Stopped, until};

/// The cgroup of the one container that there is.
fn cgroup(runs: &Path) -> PathBuf {
    let place = std::fs::read_dir(runs).expect("runs").next().expect("its place").expect("entry").path();
    let spec = std::fs::read_to_string(place.join("config.json")).expect("its bundle");
    let spec: Value = serde_json::from_str(&spec).expect("JSON");
    let path = spec["linux"]["cgroupsPath"].as_str().expect("its cgroup");
    support::cgroup_mount().join(path.trim_start_matches('/'))
}

#[test]
fn a_one_shot_container_sees_the_services_own_folders_and_leaves_nothing() {
    let (host, _) = Host::with_busybox();
    let done = host.opsrun([
        "run",
        "--rm",
        "busybox:1",
        "sh",
        "-c",
        "echo note > /etc/busybox/note; touch /tmp/x; exit 5",
    ]);
    assert_eq!(done.status, 5, "{done}");
    assert_eq!(std::fs::read_to_string(host.path("opt/busybox/conf/note")).expect("the note"), "note\n");
    assert!(host.left_over().is_empty(), "{:?}", host.left_over());
    let reads = host.opsrun_reading(["run", "-i", "busybox:1", "cat"], b"input");
    assert_eq!(reads.succeeds().stdout, "input");
    host.opsrun(["run", "busybox:1", "nothing-like-that"]).fails(127, &["nothing-like-that"]);
}

#[test]
fn what_a_killed_one_shot_leaves_is_removed_by_the_next() {
    let (host, _) = Host::with_busybox();
    let mut run = host.command();
    run.args(["run", "busybox:1", "sh", "-c", "echo up; exec sleep 1000"]).stdout(Stdio::piped());
    let mut run = Background(run.spawn().expect("run"));
    let mut said = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(run.0.stdout.take().expect("its output")),
        &mut said,
    )
    .expect("a line");
    assert_eq!(said, "up\n");
    let runs = host.path("var/lib/opsrun/runs");
    let cgroup = cgroup(&runs);
    assert!(cgroup.exists());
    run.0.kill().expect("kill");
    run.0.wait().expect("wait");
    // The container dies with the command; its place is swept by the next one.
    host.opsrun(["run", "busybox:1", "true"]).succeeds();
    assert_eq!(std::fs::read_dir(&runs).expect("runs").count(), 0);
    until("no process, mount or cgroup is left", || host.left_over().is_empty());
    assert!(!cgroup.exists());
}

#[test]
fn when_both_who_asked_for_it_and_who_makes_it_are_killed_it_ends_before_it_was_started() {
    let (host, _) = Host::with_busybox();
    // It looks at the container that was made, and has not said yet that it is to be started.
    let run = Stopped::at(&host, "pidfd_open", 1, ["run", "busybox:1", "sleep", "1000"]);
    let cgroup = cgroup(&host.path("var/lib/opsrun/runs"));
    let children = run.children();
    assert!(children.iter().any(|(_, name)| name.contains("INIT")), "{children:?}");
    kill(children[0].0, Signal::SIGKILL).expect("kill who makes it");
    run.kill();
    let is_empty = || {
        let events = std::fs::read_to_string(cgroup.join("cgroup.events"));
        events.expect("the cgroup").lines().any(|line| line == "populated 0")
    };
    until("no process of it is left", is_empty);
    host.opsrun(["run", "busybox:1", "true"]).succeeds();
    assert!(!cgroup.exists() && host.left_over().is_empty(), "{:?}", host.left_over());
}
