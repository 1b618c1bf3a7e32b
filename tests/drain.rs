//! What becomes of the connections that the old release has when new ones go to the next: it has time for them, and what it
//! has left then is told.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::Running;
use support::steered::Steered;

fn connected(it: &Steered, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", it.port)).expect("connected");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a limit");
    stream.write_all(said.as_bytes()).expect("said");
    stream
}

fn begin() -> Steered {
    let it = Steered::begin();
    it.next_does("echo two > /www/index.html");
    it
}

#[test]
fn what_is_left_when_the_old_release_has_had_its_time_is_counted_and_told() {
    let it = begin();
    // On the first nothing was asked, on the others half a question.
    let _idle = connected(&it, "");
    let _busy = ["GET / HT", "GET"].map(|half| connected(&it, half));
    let done = it.swap("2", &["--soak", "0s", "--drain", "1s"]);
    let left = "3 connections, 1 of them idle, were still open when busybox 1 was asked to end, after 1s";
    let why = "stopping 1, which has 3 connections, 1 of them idle, after 1s; it does not handle SIGTERM, so they are cut off";
    for text in [left, why, "warning: stop signal: what runs does not handle SIGTERM"] {
        assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("two");
    let events = it.host.opsrun(["events", "busybox", "--json"]).succeeds().stdout.clone();
    let swapped = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let swapped = swapped.rev().find(|event| event["event"] == "swapped").expect("an event");
    let left = &swapped["details"]["left"];
    assert_eq!((left["connections"].as_u64(), left["idle"].as_u64()), (Some(3), Some(1)), "{swapped}");
    assert_eq!(left["unhandled"], "SIGTERM", "{swapped}");
}

#[test]
fn nobody_is_waited_for_where_there_is_no_time() {
    let it = begin();
    let _idle = connected(&it, "");
    let done = it.swap("2", &["--soak", "0s", "--drain", "0s"]);
    let text = "1 idle connection was still open when busybox 1 was asked to end, after ";
    assert!(done.succeeds().stderr.contains(text), "{done}");
    it.serves("two");
}

#[test]
fn the_old_release_ends_what_it_has_and_then_nothing_is_waited_for() {
    let it = begin();
    let mut busy = connected(&it, "GET / HTTP/1.0\r\nHost: loc");
    let began = Instant::now();
    let mut swap = Running::begin(&it.host, ["swap", "busybox", "2", "--soak", "500ms", "--drain", "50s"]);
    swap.says("busybox 2 is healthy and serves");
    busy.write_all(b"alhost\r\n\r\n").expect("the rest");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("one\n"), "{answer}");
    let done = swap.end();
    assert!(!done.succeeds().stderr.contains("still open"), "{done}");
    assert!(began.elapsed() < Duration::from_secs(40), "it was waited for nobody");
    it.serves("two");
}

#[test]
fn a_service_says_for_how_long_in_its_file() {
    let it = begin();
    let file = it.host.path("etc/opsrun/busybox.toml");
    let settings = std::fs::read_to_string(&file).expect("its settings");
    std::fs::write(&file, format!("{settings}[swap]\ndrain = \"1m30s\"\n")).expect("written");
    let plan = it.swap("2", &["--plan"]);
    let text = "generation 1 has 1m 30s to end the connections that it has left";
    assert!(plan.succeeds().stdout.contains(text), "{plan}");
}
