//! A share of the connections for the new release first: as large as was asked for, and back at once when it falls ill.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::load::{Asking, Load};
use support::steered::Steered;
use support::{Running, until};

/// So many connections tell how large a share is.
const CONNECTIONS: usize = 10_000;
const CLIENTS: usize = 8;
/// Longer than any test: what ends it is something else.
const LONG: &str = "10m";

/// Two releases that say what is in a file of theirs outside, `opt/busybox/lib/one` and `…/two`, as long as it is there.
fn begin() -> Steered {
    let it = Steered::begin();
    it.host.write("opt/busybox/lib/one", "one\n");
    it.next_does("ln -sf /var/lib/busybox/one /www/index.html");
    it.swap("1", &["--soak", "0s"]).succeeds();
    it.next_does("ln -sf /var/lib/busybox/two /www/index.html");
    it
}

/// A swap to the second release, when that gets its share.
fn sharing(it: &Steered, share: &str, time: &str, more: &[&str]) -> Running {
    it.host.write("opt/busybox/lib/two", "two\n");
    let arguments = ["swap", "busybox", "2", "--canary", share, "--for", time];
    let mut swap = Running::begin(&it.host, arguments.iter().chain(more));
    swap.says(&format!("busybox 2 is healthy; {share} of new connections go to it for "));
    swap
}

fn falls_ill(it: &Steered) {
    std::fs::remove_file(it.host.path("opt/busybox/lib/two")).expect("removed");
}

fn record(it: &Steered) -> Value {
    let text = std::fs::read(it.host.path("var/lib/opsrun/services/busybox/record.json")).expect("a record");
    serde_json::from_slice(&text).expect("JSON")
}

/// How often each answer is given over so many connections; each must be a whole one.
fn answers(port: u16, connections: usize) -> BTreeMap<String, usize> {
    let ask = move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        assert!(head.contains(" 200 "), "{answer}");
        body.trim_end().to_owned()
    };
    let client = move || (0..connections / CLIENTS).map(|_| ask()).collect::<Vec<_>>();
    let clients: Vec<_> = (0..CLIENTS).map(|_| std::thread::spawn(client)).collect();
    let mut seen = BTreeMap::new();
    for answer in clients.into_iter().flat_map(|client| client.join().expect("a client")) {
        *seen.entry(answer).or_default() += 1;
    }
    seen
}

#[test]
fn the_share_is_what_was_asked_for() {
    let it = begin();
    for (share, percent) in [("10%", 10.0), ("50%", 50.0), ("1%", 1.0)] {
        let swap = sharing(&it, share, LONG, &[]);
        let seen = answers(it.port, CONNECTIONS);
        let got = seen["two"] as f64 * 100.0 / CONNECTIONS as f64;
        println!("asked for {share}, got {got:.2} % of {CONNECTIONS}: {seen:?}");
        assert!((got - percent).abs() <= 2.0, "{got} for {share}");
        let status = it.host.opsrun(["status", "busybox", "--json"]).succeeds().json();
        let expected = (percent * 10_000.0) as u64;
        assert_eq!(status["swap"]["canary"]["share_ppm"].as_u64(), Some(expected), "{status}");
        let status = it.host.opsrun(["status", "busybox"]);
        assert!(
            status.stdout.contains(&format!("{share} of new connections go to it, and all in ")),
            "{status}"
        );
        falls_ill(&it);
        swap.end().fails(3, &["its health check failed", "answered 404", "generation 2 (1) serves"]);
        it.serves("one");
    }
}

#[test]
fn each_generation_is_probed_past_the_share() {
    let it = begin();
    let swap = sharing(&it, "99%", LONG, &[]);
    // Were its probes shared as well, hardly one of them would tell.
    let file = it.host.path("opt/busybox/lib/one");
    std::fs::remove_file(&file).expect("removed");
    it.host.service_until("busybox", "the old one is unwell", |service| service["health"] == "unhealthy");
    std::fs::write(&file, "one\n").expect("written");
    it.host.service_until("busybox", "it is well again", |service| service["health"] == "healthy");
    falls_ill(&it);
    swap.end().fails(3, &["its health check failed"]);
    it.serves("one");
}

#[test]
fn all_go_over_when_the_time_is_over() {
    let it = begin();
    let load = Load::begin(&Asking::port(it.port, 16));
    let done = sharing(&it, "25%", "2s", &["--soak", "200ms"]).end();
    for text in
        ["25% of new connections go to it for 2s", "busybox 2 is healthy and serves", "has taken over"]
    {
        assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("two");
    let events = it.host.opsrun(["events", "busybox"]);
    assert!(events.stdout.contains("25% of new connections for 2s"), "{events}");
    load.end().lost_nothing().saw_only(&["one", "two"]);
}

#[test]
fn a_release_that_falls_ill_with_its_share_costs_only_what_it_answers_badly_itself() {
    let it = begin();
    let load = Load::begin(&Asking::port(it.port, 16));
    let swap = sharing(&it, "30%", LONG, &[]);
    until("it has clients", || support::get(it.port, "/").as_deref() == Some("two\n"));
    falls_ill(&it);
    swap.end().fails(3, &["its health check failed", "answered 404", "serves again"]);
    let over = std::time::Instant::now();
    it.serves("one");
    let seen = load.end();
    println!("{} requests, {:?} answered badly by the new release", seen.requests, seen.failed);
    assert_eq!(seen.failed.keys().collect::<Vec<_>>(), [&"status"], "{:?}", seen.told);
    assert!(seen.told.iter().all(|(at, why)| *at < over && why.contains("404")), "{:?}", seen.told);
    seen.saw_only(&["one", "two"]);
}

#[test]
fn a_release_that_dies_with_its_share_costs_only_what_it_was_about_to_answer() {
    let it = begin();
    let load = Load::begin(&Asking::port(it.port, 16));
    let swap = sharing(&it, "30%", LONG, &[]);
    until("it has clients", || support::get(it.port, "/").as_deref() == Some("two\n"));
    let pid = record(&it)["swap"]["process"]["pid"].as_i64().expect("its process");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGKILL).expect("killed");
    swap.end().fails(3, &["it was ended by SIGKILL", "serves again"]);
    it.serves("one");
    let seen = load.end();
    println!("{} requests, {:?} cut off with the new release", seen.requests, seen.failed);
    let failed: usize = seen.failed.values().sum();
    assert!(failed <= 16 && !seen.failed.contains_key("timeout"), "{:?}", seen.told);
}

#[test]
fn a_supervisor_that_dies_meanwhile_leaves_all_connections_to_the_old_release() {
    let it = begin();
    let load = Load::begin(&Asking::port(it.port, 16));
    let swap = sharing(&it, "50%", LONG, &[]);
    let status = it.host.opsrun(["status", "busybox", "--json"]).succeeds().json();
    let supervisor = status["supervisor"].as_i64().expect("a supervisor");
    kill(Pid::from_raw(i32::try_from(supervisor).expect("a pid")), Signal::SIGKILL).expect("killed");
    swap.end().fails(3, &["generation 2 (1) serves"]);
    it.host.service_until("busybox", "it is supervised", |service| service["state"] == "running");
    until("the new one is gone", || it.host.cgroups().len() == 1);
    assert_eq!(answers(it.port, 400).keys().collect::<Vec<_>>(), ["one"]);
    load.end().lost_nothing().saw_only(&["one", "two"]);
}

#[test]
fn where_connections_cannot_be_shared_nothing_is_touched() {
    let it = begin();
    let before = it.host.service("busybox")["process"].clone();
    let settings =
        "ports = [PORT]\nhealth = { check = \"runs\", runs_for = \"200ms\" }\n[swap]\ncanary = \"10%\"\n";
    it.host.write("etc/opsrun/busybox.toml", &settings.replace("PORT", &it.port.to_string()));
    let reason = "canary: no share of the connections can go to it first: it would go stop-first, since its health check says \
                  nothing about its port";
    it.swap("2", &[]).fails(1, &[&format!("refused: {reason}"), "hint: with --canary 0% it is done without"]);
    let plan = it.swap("2", &["--plan"]);
    assert!(plan.status == 1 && plan.stdout.contains("REFUSED  canary"), "{plan}");
    assert_eq!(it.host.service("busybox")["process"], before);
    it.host.write("opt/busybox/lib/two", "two\n");
    it.swap("2", &["--canary", "0%", "--soak", "0s"]).succeeds();
    it.serves("two");
}

#[test]
fn a_release_that_listens_elsewhere_does_not_get_all_connections_instead() {
    let it = begin();
    let configuration = format!("listen=0.0.0.0:{}\nln -sf /var/lib/busybox/two /www/index.html\n", it.port);
    it.host.write("opt/busybox/conf/busybox.conf", &configuration);
    it.host.write("opt/busybox/lib/two", "two\n");
    let done = it.swap("2", &["--canary", "10%"]);
    done.fails(3, &["it cannot get a share of the connections", "it listens on 0.0.0.0"]);
    it.serves("one");
}
