//! Two commands at the same service at once: one does what it was asked for, the other one too or says what is under way.

mod support;

use std::process::{Child, Output};

use support::{Host, until};

/// A service that takes a moment until it serves, in two releases.
fn slow() -> Host {
    let (host, port) = Host::with_busybox();
    let archive = support::image("busybox-1.tar").display().to_string();
    host.opsrun(["load", "--tag", "busybox:2", &archive]).succeeds();
    host.configure_busybox(port, "while test -e /var/lib/busybox/wait; do sleep 0.1; done");
    host.write("opt/busybox/lib/wait", "");
    host
}

fn goes_on(host: &Host) {
    std::fs::remove_file(host.path("opt/busybox/lib/wait")).expect("it waited");
}

fn begin(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.command();
    command.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.spawn().expect("opsrun")
}

fn end(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().expect("its end");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn while_a_service_starts_others_are_told_so_and_who_waits_is_told_how_it_ended() {
    let host = slow();
    let start = begin(&host, &["start", "busybox:1"]);
    host.service_until("busybox", "it is starting", |service| service["state"] == "starting");
    // It is busy, or runs already, by who holds its lock at that moment.
    host.opsrun(["start", "busybox:2"]).fails(1, &["error: busybox is "]);
    host.opsrun(["swap", "busybox", "2"]).fails(1, &["busybox is being started"]);
    goes_on(&host);
    assert_eq!(end(start).0, Some(0));
    assert_eq!(host.service("busybox")["release"], "1");
    host.opsrun(["stop", "busybox"]).succeeds();
}

#[test]
fn a_start_that_is_stopped_fails_and_the_stop_does_not() {
    let host = slow();
    let start = begin(&host, &["start", "busybox:1"]);
    host.service_until("busybox", "it is starting", |service| service["state"] == "starting");
    host.opsrun(["stop", "busybox"]).succeeds();
    let (status, said) = end(start);
    assert!(status == Some(1) && said.contains("it was stopped before it was healthy"), "{said}");
    until("nothing is left", || host.left_over().is_empty());
}

#[test]
fn while_one_release_is_swapped_in_another_command_is_told_to_what() {
    let host = slow();
    goes_on(&host);
    host.opsrun(["start", "busybox:1"]).succeeds();
    let swap = begin(&host, &["swap", "busybox", "2", "--soak", "10m"]);
    host.service_until("busybox", "it is in its soak", |service| service["release"] == "2");
    for arguments in [&["swap", "busybox", "1"][..], &["swap", "busybox", "2"], &["restart", "busybox"]] {
        host.opsrun(arguments.iter().copied()).fails(1, &["error: busybox is being swapped to 2"]);
    }
    // Both that run then end, and who swapped is told.
    host.opsrun(["stop", "busybox"]).succeeds();
    let (status, said) = end(swap);
    assert!(status == Some(4) && said.contains("was asked to end in the middle of the swap"), "{said}");
    assert!(!said.contains("has taken over"), "{said}");
    assert_eq!(host.service("busybox")["state"], "stopped");
    until("nothing is left", || host.left_over().is_empty());
}

#[test]
fn a_second_supervisor_leaves_the_service_to_the_first() {
    let host = slow();
    goes_on(&host);
    host.opsrun(["start", "busybox:1"]).succeeds();
    let before = host.service("busybox");
    let second = host.opsrun(["supervise", "busybox"]);
    assert_ne!(second.status, 0, "{second}");
    let after = host.service("busybox");
    assert_eq!((&after["process"], &after["supervisor"]), (&before["process"], &before["supervisor"]));
    host.opsrun(["stop", "busybox"]).succeeds();
}
