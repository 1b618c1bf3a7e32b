//! The past of a service as a person sees it: its history, what differs, and going back.

mod support;

use serde_json::Value;
use support::{Host, get};

fn generations(host: &Host) -> Vec<Value> {
    let listing = host.opsrun(["history", "busybox", "--json"]).succeeds().json();
    listing["generations"].as_array().expect("generations").clone()
}

fn how(generation: &Value) -> &Value {
    &generation["runs"].as_array().expect("runs").last().expect("a run")["end"]["how"]
}

#[test]
fn the_history_says_what_became_of_each_generation_and_no_number_is_used_twice() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "exit 3");
    host.opsrun(["start", "busybox:1"]).fails(1, &[]);
    host.configure_busybox(port, "");
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.opsrun(["restart", "busybox"]).succeeds();
    host.configure_busybox(port, "exit 4");
    host.opsrun(["restart", "busybox"]).fails(3, &[]);
    host.configure_busybox(port, "");
    host.opsrun(["restart", "busybox"]).succeeds();
    assert_eq!(host.service("busybox")["generation"], 5);

    let past = generations(&host);
    let numbers: Vec<_> = past.iter().map(|entry| entry["generation"].as_u64().expect("number")).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(
        [0, 1, 2, 3].map(|at| how(&past[at]).clone()),
        ["never-healthy", "replaced", "replaced", "never-healthy"]
    );
    assert_eq!([0, 3].map(|at| past[at]["kept"].clone()), [false, false]);
    assert_eq!((&past[4]["active"], &past[4]["made"]["by"]), (&Value::from(true), &Value::from("restart")));
    assert_eq!(past[4]["made"]["person"]["uid"], 0);
    // The third served all the time while the fourth failed.
    assert_eq!(past[2]["runs"].as_array().expect("runs").len(), 1);

    let table = host.opsrun(["history", "busybox"]).succeeds().stdout.clone();
    assert!(table.contains("never became healthy: it exited with status 4"), "{table}");
    assert!(table.lines().last().expect("a line").ends_with("serves"), "{table}");
    host.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(how(generations(&host).last().expect("the last")), "stopped");
    assert_eq!(get(port, "/"), None);
    host.opsrun(["history", "nothing"]).fails(1, &["there is no service nothing"]);
}

#[test]
fn so_many_generations_are_kept_as_the_settings_say_and_the_history_tells_of_the_others() {
    let (host, _) = Host::with_busybox();
    let toml = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("the service file");
    host.write("etc/opsrun/busybox.toml", &format!("generations = {{ keep = 2, history = 4 }}\n{toml}"));
    host.opsrun(["start", "busybox:1"]).succeeds();
    for _ in 0..4 {
        host.opsrun(["restart", "busybox"]).succeeds();
    }
    let past = generations(&host);
    let kept: Vec<_> =
        past.iter().map(|entry| (entry["generation"].clone(), entry["kept"].clone())).collect();
    let expected = [(2, false), (3, false), (4, true), (5, true)];
    assert_eq!(kept, expected.map(|(number, kept)| (Value::from(number), Value::from(kept))));
    let table = host.opsrun(["history", "busybox"]).succeeds().stdout.clone();
    assert_eq!(table.matches("; gone").count(), 2, "{table}");
}

#[test]
fn a_diff_shows_everything_that_changed_but_no_secret() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "password=S3CR3T1");
    host.write("opt/busybox/conf/binary", "\0one");
    host.opsrun(["start", "busybox:1", "-e", "DB_PASSWORD=S3CR3T2", "-e", "COLOUR=red"]).succeeds();
    host.opsrun(["diff", "busybox"]).fails(1, &["nothing of busybox served before generation 1"]);
    host.opsrun(["stop", "busybox"]).succeeds();
    host.configure_busybox(port, "password=S3CR3T3\nurl=mysql://u:S3CR3T4@db");
    host.write("opt/busybox/conf/binary", "\0two");
    let more = ["-e", "DB_PASSWORD=S3CR3T5", "-e", "COLOUR=blue", "--pids-limit", "99", "--allow-unenforced"];
    host.opsrun(["start", "busybox:1"].iter().chain(&more)).succeeds();

    let shown = host.opsrun(["diff", "busybox"]).succeeds().stdout.clone();
    for text in [
        "environment COLOUR\n  - red\n  + blue\n",
        "environment DB_PASSWORD\n  - ****\n  + ****\n",
        "limit pids.max\n  + 99\n",
        "  -password=****\n",
        "  +password=****\n",
        "  +url=mysql://u:****@db\n",
        "configuration: changed binary\n",
    ] {
        assert!(shown.contains(text), "{text:?} is missing: {shown}");
    }
    assert!(!shown.contains("S3CR3T"), "{shown}");
    let json = host.opsrun(["diff", "busybox", "1", "2", "--json"]).succeeds().stdout.clone();
    assert!(!json.contains("S3CR3T"), "{json}");
    let all = host.opsrun(["diff", "busybox", "--show-secrets"]).succeeds().stdout.clone();
    for secret in 1..=5 {
        assert!(all.contains(&format!("S3CR3T{secret}")), "{secret}: {all}");
    }

    let same = host.opsrun(["diff", "busybox", "2", "2"]);
    assert!(same.succeeds().stderr.contains("generation 2 and generation 2 do not differ"), "{same}");
    host.opsrun(["diff", "busybox", "2", "now"]).succeeds();
    host.write("opt/busybox/conf/new", "text\n");
    let drift = host.opsrun(["diff", "busybox", "2", "now"]).succeeds().stdout.clone();
    assert!(drift.contains("configuration: added new\n") && drift.contains("  +text\n"), "{drift}");
    host.opsrun(["diff", "busybox", "7"])
        .fails(1, &["busybox has no generation 7; there are 1, 2", "hint: "]);
    host.opsrun(["diff", "busybox", "last"]).fails(2, &["now"]);
}
