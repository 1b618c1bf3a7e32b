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
    // The third served twice: the fourth failed in between.
    assert_eq!(past[2]["runs"].as_array().expect("runs").len(), 2);

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
