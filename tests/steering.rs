//! Swapping under load: clients that open a connection for each request notice nothing, whatever the new release is like.

mod support;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::load::{Asking, Load};
use support::steered::Steered;
use support::{Host, get, until};

#[test]
fn swaps_under_load_lose_no_request_and_the_new_release_is_seen_by_nobody_before_it_is_proven() {
    let it = Steered::begin();
    let load = Load::begin(&Asking::port(it.port, 32));
    for number in 0..5 {
        let release = if number % 2 == 0 { "2" } else { "1" };
        it.next_does(&format!("echo word-{number} > /www/index.html"));
        let done = it.swap(release, &["--soak", "300ms"]);
        assert!(done.succeeds().stderr.contains("is proven beside it"), "{done}");
        assert!(!done.stderr.contains("nothing served"), "{done}");
        it.serves(&format!("word-{number}"));
    }
    let seen = load.end();
    let words: Vec<_> = (0..5).map(|number| format!("word-{number}")).collect();
    let mut expected = vec!["one"];
    expected.extend(words.iter().map(String::as_str));
    seen.lost_nothing().saw_only(&expected);
    // One after the other: nobody was sent back and forth.
    for pair in words.windows(2) {
        let (before, after) = (seen.answers[&pair[0]], seen.answers[&pair[1]]);
        assert!(before.1 < after.0 + Duration::from_millis(500), "{pair:?} overlap");
    }
}

#[test]
fn a_bad_release_costs_no_request_and_is_never_seen() {
    let it = Steered::begin();
    let load = Load::begin(&Asking::port(it.port, 16));
    let other = support::free_port();
    for (shell, reason) in [
        ("echo two > /www/index.html; exit 7", "it exited with status 7 before it was healthy"),
        ("exec sleep 1000", "it was not healthy after 1.5 s"),
        (&format!("echo two > /www/index.html; listen=127.0.0.1:{other}"), "it was not healthy after 1.5 s"),
        ("rm /www/index.html", "answered 404"),
        ("sleep 3", "it was not healthy after 1.5 s"),
    ] {
        it.next_does(shell);
        let done = it.swap("2", &["--timeout", "1500ms", "--soak", "2s"]);
        done.fails(3, &["busybox 2 could not be started; generation 1 (1) serves", reason]);
        it.serves("one");
    }
    load.end().lost_nothing().saw_only(&["one"]);
}

#[test]
fn a_release_that_falls_ill_in_the_soak_is_left_without_a_lost_request() {
    let it = Steered::begin();
    // Clients ask for a page that stays, and probes for one that does not.
    it.host.write(
        "etc/opsrun/busybox.toml",
        &format!(
            "ports = [{}]\nhealth = {{ check = \"http\", path = \"/health\", interval = \"100ms\" }}\n",
            it.port
        ),
    );
    it.next_does("echo one > /www/index.html; echo well > /www/health");
    it.swap("1", &["--soak", "0s"]).succeeds();
    let load = Load::begin(&Asking::port(it.port, 16));
    it.next_does("echo two > /www/index.html; echo well > /www/health");
    let mut swap = it.host.command();
    swap.args(["swap", "busybox", "2", "--soak", "30s"]);
    let swap = std::thread::spawn(|| support::done(swap));
    it.host.service_until("busybox", "it serves", |service| service["release"] == "2");
    it.host.opsrun(["exec", "busybox", "rm", "/www/health"]).succeeds();
    let done = swap.join().expect("the swap");
    done.fails(3, &["its health check failed 3 times in a row", "serves again"]);
    it.serves("one");
    let seen = load.end();
    seen.lost_nothing().saw_only(&["one", "two"]);
}

#[test]
fn where_the_new_release_would_take_clients_unproven_it_waits_until_the_old_one_has_ended() {
    let it = Steered::begin();
    let wider = format!("0.0.0.0:{}", it.port);
    it.host.write("opt/busybox/conf/busybox.conf", &format!("listen={wider}\necho two > /www/index.html\n"));
    let done = it.swap("2", &["--soak", "100ms"]);
    let listens = format!("it listens on {wider}, and the one that serves on 127.0.0.1:{}", it.port);
    for text in
        ["is proven beside it", "2 is started, and waits to take its port", &listens, "nothing served for"]
    {
        assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("two");
    // The way back is the same, and a release that fails leaves the old one as it was.
    it.next_does("echo three > /www/index.html; (sleep 2; kill -9 $$) &");
    let done = it.swap("1", &["--timeout", "9s", "--soak", "9s"]);
    done.fails(3, &["1 is started, and waits to take its port", "serves again"]);
    it.serves("two");
}

#[test]
fn a_new_release_that_takes_datagrams_gets_none_before_the_old_one_has_ended() {
    let it = Steered::begin();
    build("datagrams", &it.host.path("opt/busybox/lib"));
    let both = |word| format!("/var/lib/busybox/datagrams {} & echo {word} > /www/index.html", it.port);
    for (release, word) in [("2", "two"), ("1", "three")] {
        it.next_does(&both(word));
        let done = it.swap(release, &["--soak", "0s"]);
        let reason = format!("it takes datagrams on 127.0.0.1:{}, which cannot be steered", it.port);
        assert!(done.succeeds().stderr.contains(&reason), "{done}");
        assert!(!done.stderr.contains("is proven beside it\n"), "{done}");
        it.serves(word);
    }
}

#[test]
fn who_connects_while_a_crashed_service_is_started_again_waits_for_it() {
    let it = Steered::begin();
    let process = it.host.service("busybox")["process"].as_i64().expect("a process");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process).expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    // Its restart is a second away.
    it.host.service_until("busybox", "it is down", |service| service["state"] == "backing-off");
    assert_eq!(get(it.port, "/").as_deref(), Some("one\n"));
    it.host.service_until("busybox", "it runs again", |service| service["restarts"] == 1);
    it.host.opsrun(["stop", "busybox"]).succeeds();
    assert!(TcpStream::connect(("127.0.0.1", it.port)).is_err(), "somebody still listens");
}

#[test]
fn a_service_that_is_not_back_in_the_time_of_a_start_refuses_its_clients_until_it_is() {
    let it = Steered::begin();
    it.host.write(
        "etc/opsrun/busybox.toml",
        &format!(
            "ports = [{}]\nhealth = {{ check = \"http\", path = \"/\", interval = \"100ms\", start_timeout = \"4s\" }}\n\
             restart = {{ backoff_first = \"100ms\", backoff_max = \"200ms\", crash_loop_failures = 1000 }}\n",
            it.port
        ),
    );
    it.next_does("while test -e /var/lib/busybox/away; do sleep 0.1; done; echo one > /www/index.html");
    it.swap("1", &["--soak", "0s"]).succeeds();
    it.host.write("opt/busybox/lib/away", "");
    let process = it.host.service("busybox")["process"].as_i64().expect("a process");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process).expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    it.host.service_until("busybox", "it is started again", |service| service["restarts"] == 1);
    // Whoever connects now waits, but not for ever.
    if let Ok(mut waits) = TcpStream::connect(("127.0.0.1", it.port)) {
        waits.set_read_timeout(Some(support::PATIENCE)).expect("a limit");
        let closed = match waits.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(closed, "somebody answered, or it still waits");
    }
    until("who connects is refused", || TcpStream::connect(("127.0.0.1", it.port)).is_err());
    std::fs::remove_file(it.host.path("opt/busybox/lib/away")).expect("removed");
    until("it is there again", || get(it.port, "/").as_deref() == Some("one\n"));
    it.host.service_until("busybox", "it is healthy", |service| service["state"] == "running");
}

/// Builds a program of `tests/steering`, static, into a folder.
fn build(name: &str, folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/steering").join(name).with_extension("c");
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-pthread", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    compiler.arg(folder.join(name)).arg(source);
    support::done(compiler).succeeds();
}

/// Builds the program that abuses what it can into a folder of the test's root; that folder.
fn build_abuse(host: &Host) -> String {
    let folder = host.path("abuse");
    build("abuse", &folder);
    folder.display().to_string()
}

/// By another system call, another convention or another uid.
#[test]
fn root_in_another_container_gets_no_socket_in_among_the_listeners_of_a_service() {
    let it = Steered::begin();
    let volume = format!("{}:/abuse:ro", build_abuse(&it.host));
    let port = it.port.to_string();
    let arguments = ["run", "--rm", "--user", "0", "--entrypoint", "/abuse/abuse", "-v", &volume];
    let done = it.host.opsrun(arguments.into_iter().chain(["busybox:1", "join", &port]));
    let lines: Vec<&str> = done.succeeds().stdout.lines().collect();
    assert!(lines.len() >= 16, "{done}");
    for line in lines {
        let refused = line.ends_with(" another uid, EADDRINUSE") || line.ends_with(" another uid, EPERM");
        assert!(refused, "«{line}» of {done}");
        let ring = line.contains(", io_uring:");
        assert!(line.ends_with(if ring { "EPERM" } else { "EADDRINUSE" }), "«{line}» of {done}");
    }
    let done = it.host.opsrun(["run", "--rm", "--user", "1879048192", "busybox:1", "true"]);
    done.fails(125, &["uid 1879048192 is of those that listening sockets are told apart by"]);
    it.serves("one");
}

#[test]
fn memory_that_never_comes_takes_rights_of_its_own_and_stalls_no_supervisor() {
    let (host, port) = Host::with_busybox();
    let volume = format!("{}:/abuse:ro", build_abuse(&host));
    host.configure_busybox(port, &format!("/abuse/abuse stall {port}"));
    let start = ["start", "busybox:1", "-v", &volume];
    host.opsrun(start).succeeds();
    let said = host.opsrun(["logs", "busybox"]);
    for line in ["mount of fuse: EPERM", "userfaultfd: EPERM"] {
        assert!(said.stdout.contains(line), "{said}");
    }
    host.opsrun(["stop", "busybox"]).succeeds();
    let file = host.path("etc/opsrun/busybox.toml");
    let settings = std::fs::read_to_string(&file).expect("settings");
    let rights = "seccomp = \"unconfined\"\ncapabilities_add = [\"SYS_PTRACE\"]\n";
    std::fs::write(&file, format!("{rights}{settings}")).expect("written");
    // Three of its binds stall whoever reads them, and the fourth is that of a server.
    host.opsrun(start).succeeds();
    let said = host.opsrun(["logs", "busybox"]);
    assert!(said.stdout.contains("userfaultfd: done"), "{said}");
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    assert!(host.opsrun(["status", "busybox"]).succeeds().stdout.contains("running, healthy"));
    host.opsrun(["stop", "busybox"]).succeeds();
    until("nothing is left", || host.left_over().is_empty());
}
