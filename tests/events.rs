//! What an operator can look up later: a service's events, as lines and as JSON.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;
use support::{Background, Host, until};

/// The events of the host, each as JSON.
fn events(host: &Host, arguments: &[&str]) -> Vec<Value> {
    let shown = host.opsrun(["events", "--json"].iter().chain(arguments));
    let text = shown.succeeds().stdout.clone();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("its kind")).collect()
}

fn kill(service: &Value) {
    let pid = i32::try_from(service["process"].as_i64().expect("a process")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
}

/// The same text every time: no times, and no numbers of processes.
fn redacted(text: &str) -> String {
    let shown = |line: &str| {
        let line = format!("TIME{}", &line["2026-11-23 09:31:02".len()..]);
        let words = line.split(' ').scan(false, |is_process, word| {
            let number = std::mem::replace(is_process, word == "process");
            Some(if number {
                "N".to_owned() + word.trim_start_matches(|it: char| it.is_ascii_digit())
            } else {
                word.to_owned()
            })
        });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(|line| shown(line) + "\n").collect()
}

#[test]
fn the_life_of_a_service_can_be_read_afterwards() {
    let (host, _) = Host::with_busybox();
    let mut start = host.command();
    start.args(["start", "busybox:1", "-e", "PASSWORD=secret"]).env("SUDO_USER", "alice");
    support::done(start).succeeds();
    kill(&host.service("busybox"));
    host.service_until("busybox", "it runs again", |it| it["state"] == "running" && it["restarts"] == 1);
    host.opsrun(["restart", "busybox"]).succeeds();
    host.opsrun(["stop", "busybox"]).succeeds();

    let told = events(&host, &["busybox"]);
    let up = ["supervised", "starting", "started", "healthy"];
    let crash = ["exited", "restarting", "starting", "started", "healthy"];
    let down = ["stopping", "stopped"];
    // A restart is a swap onto the same release.
    let restart = ["swap-began", "starting", "started", "healthy", "stopping", "stopped", "swapped"];
    assert_eq!(names(&told), [&up[..], &crash, &restart, &down].concat());
    for event in &told {
        assert_eq!((&event["version"], &event["service"]), (&1.into(), &"busybox".into()), "{event}");
        assert_eq!(event["release"], "1", "{event}");
    }
    let generations: Vec<_> = told.iter().map(|event| event["generation"].as_u64()).collect();
    assert_eq!((generations[0], generations[10], generations[13]), (Some(1), Some(2), Some(1)));
    // By whom, and what for; but not the secrets.
    assert_eq!((&told[1]["by"]["who"], &told[1]["by"]["uid"]), (&"operator".into(), &0.into()));
    assert_eq!(
        (&told[1]["by"]["command"], &told[1]["by"]["sudo_user"]),
        (&"opsrun start".into(), &"alice".into())
    );
    assert_eq!(
        (&told[9]["by"]["command"], &told[12]["by"]["who"]),
        (&"opsrun restart".into(), &"opsrun".into())
    );
    assert_eq!(told[16]["by"]["command"], "opsrun stop");
    assert_eq!(told[4]["details"]["signal"], "SIGKILL");
    assert_eq!((&told[5]["details"]["attempt"], &told[5]["by"]["who"]), (&1.into(), &"opsrun".into()));
    let file = std::fs::read_to_string(host.path("var/log/opsrun/busybox/events.jsonl")).expect("the file");
    assert!(!file.contains("secret"), "{file}");
    assert!(!host.path("var/log/opsrun/busybox/supervisor.log").exists());

    let lines = host.opsrun(["events"]).succeeds().stdout.clone();
    assert!(!lines.contains('\u{1b}'), "{lines}");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("life", redacted(&lines));
    });
    let last = host.opsrun(["events", "-n", "1"]).succeeds().stdout.clone();
    assert_eq!(last, lines.lines().next_back().expect("a line").to_owned() + "\n");
    assert_eq!(events(&host, &["--since", "1h"]).len(), told.len());
    assert_eq!(events(&host, &["--since", "2100-01-01"]), Vec::<Value>::new());
}

#[test]
fn a_service_that_fails_tells_why_and_what_was_done() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "sleep 0.5; exit 7");
    host.write(
        "etc/opsrun/busybox.toml",
        "health = { check = \"runs\", runs_for = \"200ms\" }\n\
         restart = { policy = \"always\", backoff_first = \"50ms\", backoff_max = \"100ms\", crash_loop_failures = 3 }\n",
    );
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.service_until("busybox", "the verdict", |service| service["state"] == "crash-loop");
    let told = events(&host, &[]);
    let again = ["exited", "restarting", "starting", "started", "healthy"];
    let first = ["supervised", "starting", "started", "healthy"];
    assert_eq!(names(&told), [&first[..], &again, &again, &["exited", "crash-loop"]].concat());
    assert_eq!((&told[4]["details"]["status"], &told[4]["details"]["signal"]), (&7.into(), &Value::Null));
    assert_eq!(
        (&told[10]["details"]["attempt"], &told[10]["details"]["backoff_ms"]),
        (&2.into(), &100.into())
    );
    assert_eq!(told[15]["details"]["failures"], 3);
    assert_eq!(told[15]["details"]["causes"][1], "it exited with status 7");

    host.configure_busybox(port, "exit 3");
    host.opsrun(["start", "busybox:1"]).fails(1, &["it exited with status 3"]);
    let told = events(&host, &["-n", "5"]);
    assert_eq!(names(&told), ["supervised", "starting", "started", "exited", "start-failed"]);
    assert_eq!(told[4]["generation"], told[0]["generation"]);
    assert_eq!(told[4]["details"]["causes"][0], "it exited with status 3 before it was healthy");
}

#[test]
fn a_supervisor_that_was_killed_is_told_of_and_who_stops_what_it_left() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.kill_supervisor_and_keeper("busybox");
    host.service_until("busybox", "the supervisor is gone", |service| service["supervisor"].is_null());
    host.opsrun(["stop", "busybox"]).succeeds();
    let told = events(&host, &["-n", "1"]);
    assert_eq!((names(&told), &told[0]["by"]["command"]), (vec!["stopped"], &"opsrun stop".into()));
    // Asked to end as by the init of a host that goes down.
    host.opsrun(["start", "busybox:1"]).succeeds();
    let service = host.service("busybox");
    let supervisor = i32::try_from(service["supervisor"].as_i64().expect("a supervisor")).expect("a pid");
    let supervisor = nix::unistd::Pid::from_raw(supervisor);
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGTERM).expect("kill");
    until("it is down", || host.left_over().is_empty());
    let told = events(&host, &["-n", "2"]);
    assert_eq!(names(&told), ["stopping", "stopped"]);
    assert_eq!((&told[0]["details"]["host_down"], &told[0]["by"]["uid"]), (&true.into(), &0.into()));
}

#[test]
fn events_are_followed_also_those_of_services_that_come_later() {
    let (host, _) = Host::with_busybox();
    let follow = |arguments: &[&str]| {
        let mut command = host.command();
        command.args(["events", "-f", "--json"]).args(arguments).stdout(Stdio::piped());
        let mut follower = Background(command.spawn().expect("follow"));
        let lines = BufReader::new(follower.0.stdout.take().expect("its output")).lines();
        (follower, lines.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON")))
    };
    // Nothing was ever started here.
    let (_all, mut all) = follow(&[]);
    host.opsrun(["start", "busybox:1"]).succeeds();
    for event in ["supervised", "starting", "started", "healthy"] {
        assert_eq!(all.next().expect("an event")["event"], event);
    }
    let (_one, mut one) = follow(&["busybox"]);
    host.load("checked-1.tar");
    host.opsrun(["start", "checked:1"]).succeeds();
    assert_eq!(all.next().expect("an event")["service"], "checked");
    host.opsrun(["stop", "busybox"]).succeeds();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| event != "stopped") {
        let event = one.next().expect("an event");
        assert_eq!(event["service"], "busybox");
        seen.push(event["event"].as_str().expect("its kind").to_owned());
    }
    assert_eq!(seen, ["supervised", "starting", "started", "healthy", "stopping", "stopped"]);
}

#[test]
fn lines_of_a_newer_opsrun_and_broken_ones_hide_nothing() {
    let host = Host::new();
    let at = |second: u32| format!("\"at\":\"2026-11-23T09:31:0{second}.000Z\"");
    let line = |service: &str, at: String, more: &str| {
        format!(
            "{{\"version\":1,{at},\"service\":\"{service}\",\"release\":\"zed\",\"generation\":3,{more}}}\n"
        )
    };
    let healthy = "\"event\":\"healthy\",\"details\":{},\"by\":{\"who\":\"opsrun\"}";
    let newer = line("db", at(2), "\"event\":\"moved\",\"details\":{\"to\":4},\"by\":{\"who\":\"moon\"}")
        .replace("\"version\":1", "\"version\":9");
    let torn = &line("db", at(4), healthy)[..30];
    host.write(
        "var/log/opsrun/db/events.jsonl",
        &format!("{}no event\n{newer}{torn}", line("db", at(0), healthy)),
    );
    host.write("var/log/opsrun/keystone/events.jsonl.1", &line("keystone", at(1), healthy));
    let mut command = host.command();
    command.args(["events"]).env("TZ", "UTC");
    let shown = support::done(command);
    assert_eq!(
        shown.succeeds().stdout,
        "2026-11-23 09:31:00  db        zed (3)  healthy\n\
         2026-11-23 09:31:01  keystone  zed (3)  healthy\n\
         2026-11-23 09:31:02  db        zed (3)  moved         {\"to\":4}\n"
    );
    assert_eq!(shown.stderr, "warning: 1 line of the event files is no event and is left out\n");
    assert_eq!(events(&host, &["db"]).len(), 2);
    host.opsrun(["events", "glance"]).fails(1, &["there is no service glance", "hint: "]);
}
