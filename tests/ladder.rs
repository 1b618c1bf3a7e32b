//! A host that lacks something goes the next best way of a swap, and says so everywhere.

mod support;

use std::process::Command;

use support::load::{Asking, Load, Seen};
use support::{Done, Host, get, until};

/// A service that answers with its release's word, on a kernel that lacks something.
struct Lacking {
    host: Host,
    port: u16,
    lacks: &'static str,
}

impl Lacking {
    /// Release 1 runs and answers "one".
    fn begin(lacks: &'static str) -> Self {
        let (host, port) = Host::with_busybox();
        let archive = support::image("busybox-1.tar");
        host.opsrun(["load", "--tag", "busybox:2", &archive.display().to_string()]).succeeds();
        let it = Self { host, port, lacks };
        it.next_does("echo one > /www/index.html");
        it.opsrun(&["start", "busybox:1"]).succeeds();
        it
    }

    /// What the next generation does before it serves.
    fn next_does(&self, shell: &str) {
        let configuration = format!("listen=127.0.0.1:{}\n{shell}\n", self.port);
        self.host.write("opt/busybox/conf/busybox.conf", &configuration);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command();
        command.env("OPSRUN_TEST_LACKS", self.lacks).args(arguments);
        command
    }

    fn opsrun(&self, arguments: &[&str]) -> Done {
        support::done(self.command(arguments))
    }

    fn serves(&self, word: &str) {
        assert_eq!(get(self.port, "/").as_deref(), Some(format!("{word}\n").as_str()));
        assert_eq!(self.host.cgroups().len(), 1, "a container beside the one that serves");
    }

    /// Each place where an operator might look says the way, and why it is that one.
    fn says(&self, way: &str, lacks: &str) {
        let status = self.opsrun(&["status", "busybox", "--json"]).succeeds().json();
        assert_eq!(status["swap_way"], way, "{status}");
        assert!(status["swap_way_reason"].as_str().is_some_and(|why| why.contains(lacks)), "{status}");
        assert_eq!(self.host.service("busybox")["swap_way"], way);
        let since = format!("{way}, since this host lacks {lacks}");
        for arguments in [&["status", "busybox"][..], &["doctor"], &["swap", "busybox", "2", "--plan"]] {
            let done = self.opsrun(arguments);
            assert!(done.succeeds().stdout.contains(&since), "«{since}» is missing: {done}");
        }
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        let _ = self.opsrun(&["stop", "busybox"]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

/// Nobody was refused or waited in vain; what the old generation had begun when it ended is its own.
#[track_caller]
fn all_could_connect(seen: &Seen) {
    seen.all_could_connect();
    // An answer with an error is one.
    let told = seen.told.iter().filter(|(_, why)| !why.starts_with("status")).collect::<Vec<_>>();
    let cut: usize = seen.failed.iter().filter(|(kind, _)| **kind != "status").map(|(_, count)| count).sum();
    assert!(cut <= 8, "{cut} of {} requests: {told:?}", seen.requests);
}

#[test]
fn without_steering_the_next_release_waits_for_the_port_and_clients_for_it() {
    for (lacks, name, swaps) in [("group", "SO_REUSEPORT with cBPF: ", 3), ("mark", "SO_MARK: ", 1)] {
        let it = Lacking::begin(lacks);
        it.says("gated", name);
        let load = Load::begin(&Asking::port(it.port, 4));
        for number in 0..swaps {
            let word = format!("word-{number}");
            // What it does before it listens takes a while, during which the old one serves.
            it.next_does(&format!("sleep 0.3; echo {word} > /www/index.html"));
            let release = if number % 2 == 0 { "2" } else { "1" };
            let done = it.opsrun(&["swap", "busybox", release, "--soak", "100ms"]);
            for text in
                ["waits to take its port", "who connected then has waited", "; gated, since this host"]
            {
                assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
            }
            it.serves(&word);
        }
        all_could_connect(&load.end());
    }
}

#[test]
fn a_release_that_waits_for_the_port_and_fails_leaves_the_old_one_with_its_clients() {
    let it = Lacking::begin("group");
    let load = Load::begin(&Asking::port(it.port, 4));
    for (shell, reason) in [
        ("exit 7", "it exited with status 7 before it was healthy"),
        ("exec sleep 1000", "it has not bound its port"),
        // These are let in first.
        ("rm /www/index.html", "answered 404"),
        ("(sleep 1.5; kill -9 $$) & echo two > /www/index.html", "busybox 2"),
    ] {
        it.next_does(shell);
        let done = it.opsrun(&["swap", "busybox", "2", "--timeout", "2s", "--soak", "10s"]);
        done.fails(3, &["generation 1 (1) serves", reason]);
        it.serves("one");
    }
    all_could_connect(&load.end());
}

#[test]
fn where_binds_or_listeners_cannot_be_seen_the_old_one_is_stopped_first() {
    for (lacks, name) in [
        ("notification", "seccomp user notification: Invalid argument"),
        ("descriptor", "pidfd_getfd: Function not implemented"),
        ("memory", "process_vm_readv: "),
        ("tables", "sock_diag: Protocol not supported"),
    ] {
        let it = Lacking::begin(lacks);
        it.says("stop-first", name);
        if lacks != "notification" {
            continue;
        }
        it.next_does("echo two > /www/index.html");
        let done = it.opsrun(&["swap", "busybox", "2", "--soak", "100ms"]);
        for text in ["1 is stopped before 2 starts, since this host lacks", "nothing served for", name] {
            assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
        }
        it.serves("two");
    }
}

#[test]
fn what_only_makes_a_way_less_good_is_said_and_does_not_close_it() {
    let it = Lacking::begin("uninterrupted");
    let doctor = it.opsrun(&["doctor"]);
    assert!(doctor.succeeds().stdout.contains("steered: no request is lost"), "{doctor}");
    assert!(doctor.stderr.contains("WAIT_KILLABLE_RECV: Linux 5.19 or later has it"), "{doctor}");
    let load = Load::begin(&Asking::port(it.port, 4));
    it.next_does("echo two > /www/index.html");
    let done = it.opsrun(&["swap", "busybox", "2", "--soak", "2s"]);
    assert!(done.succeeds().stderr.contains("is proven beside it"), "{done}");
    load.end().lost_nothing().saw_only(&["one", "two"]);
}

#[test]
fn a_listener_that_was_opened_past_opsrun_is_not_touched() {
    let it = Lacking::begin("");
    let other = support::free_port();
    let settings = std::fs::read_to_string(it.host.path("etc/opsrun/busybox.toml")).expect("settings");
    let ports = format!("ports = [{}, {other}]", it.port);
    let settings = settings.replace(&format!("ports = [{}]", it.port), &ports);
    it.host.write("etc/opsrun/busybox.toml", &settings);
    it.next_does("echo two > /www/index.html");
    let done = it.opsrun(&["swap", "busybox", "2", "--soak", "100ms"]);
    assert!(done.succeeds().stderr.contains("gated, since the two do not have the same ports"), "{done}");
    it.serves("two");
    let server = format!("127.0.0.1:{other}");
    it.opsrun(&["exec", "busybox", "httpd", "-p", &server, "-h", "/www"]).succeeds();
    let why = format!("the listener on {server} was not opened under opsrun's eyes");
    let status = it.opsrun(&["status", "busybox", "--json"]).succeeds().json();
    assert_eq!(
        (&status["swap_way"], &status["swap_way_reason"]),
        (&"stop-first".into(), &why.as_str().into())
    );
    assert_eq!(get(other, "/").as_deref(), Some("two\n"));
    it.next_does("echo three > /www/index.html");
    let done = it.opsrun(&["swap", "busybox", "1", "--soak", "100ms"]);
    assert!(done.succeeds().stderr.contains(&format!("stopped before 1 starts, since {why}")), "{done}");
    it.serves("three");
}

#[test]
fn a_listener_from_a_time_when_nobody_heard_of_binds_is_kept_for_the_next_release() {
    let it = Lacking::begin("notification");
    it.host.kill_supervisor_and_keeper("busybox");
    // From here on the kernel lacks nothing; it is tried anew.
    assert!(it.host.opsrun(["doctor"]).succeeds().stdout.contains("steered: no request is lost"));
    let load = Load::begin(&Asking::port(it.port, 4));
    it.next_does("echo two > /www/index.html");
    let done = it.host.opsrun(["swap", "busybox", "2", "--soak", "1s"]);
    for text in
        ["waits to take its port", "was not opened under opsrun's eyes", "who connected then has waited"]
    {
        assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("two");
    all_could_connect(&load.end());
}

#[test]
fn a_service_that_binds_all_the_time_hinders_nobody() {
    let (busy, it) = (Lacking::begin(""), Lacking::begin(""));
    let bind = format!("while :; do httpd -f -p 127.0.0.1:{} 2>/dev/null; done", busy.port);
    busy.next_does(&format!(
        "(sleep 1; for each in 1 2 3 4 5 6 7 8; do ({bind}) & done) & echo busy > /www/index.html"
    ));
    busy.opsrun(&["swap", "busybox", "2", "--soak", "2s"]).succeeds();
    let load = Load::begin(&Asking::port(it.port, 4));
    it.next_does("echo two > /www/index.html");
    let done = it.opsrun(&["swap", "busybox", "2", "--soak", "1s"]);
    assert!(done.succeeds().stderr.contains("is proven beside it"), "{done}");
    load.end().lost_nothing().saw_only(&["one", "two"]);
    assert_eq!(busy.host.service("busybox")["health"], "healthy");
    busy.next_does("echo calm > /www/index.html");
    busy.opsrun(&["swap", "busybox", "1", "--soak", "100ms"]).succeeds();
    busy.serves("calm");
}
