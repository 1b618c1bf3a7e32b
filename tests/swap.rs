//! One release taking another's place, as an operator sees it: the new one serves or the old one does, whatever happens.

mod support;

use serde_json::Value;
use support::server::{Act, Answer, Server};
use support::{Host, get, until};

/// A service that answers with its configuration's word, and as badly as its configuration says.
struct Swapped {
    host: Host,
    port: u16,
}

impl Swapped {
    /// Release 1 runs and answers "up"; release 2 is the same image under another name.
    fn begin() -> Self {
        let (host, port) = Host::with_busybox();
        let archive = support::image("busybox-1.tar");
        host.opsrun(["load", "--tag", "busybox:2", &archive.display().to_string()]).succeeds();
        host.opsrun(["start", "busybox:1"]).succeeds();
        Self { host, port }
    }

    /// What the next generation does before it serves; the old one has a copy of its own.
    fn next_does(&self, shell: &str) {
        let configuration = format!("listen=127.0.0.1:{}\n{shell}\n", self.port);
        self.host.write("opt/busybox/conf/busybox.conf", &configuration);
    }

    fn serves(&self, release: &str, generation: u64) {
        assert_eq!(get(self.port, "/").as_deref(), Some("up\n"));
        // A supervisor that has died at a probe is followed by another one.
        let service =
            self.host.service_until("busybox", "it is supervised", |service| service["state"] == "running");
        assert_eq!(
            (&service["release"], service["generation"].as_u64()),
            (&Value::from(release), Some(generation))
        );
        assert_eq!(self.host.cgroups().len(), 1, "a container beside the one that serves");
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        // Twice: the supervisor of the first one may be told to die in the middle of it.
        for _ in 0..2 {
            let _ = self.host.opsrun(["stop", "busybox"]);
        }
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

#[test]
fn the_new_release_serves_and_the_gap_is_told() {
    let it = Swapped::begin();
    let done = it.host.opsrun(["swap", "busybox", "2", "--soak", "300ms", "--stop-first"]);
    done.succeeds();
    for text in
        ["busybox 2 is ready to start; stopping 1", "nothing served for 0.", "busybox 2 has taken over"]
    {
        assert!(done.stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("2", 2);
    // It is a service like any other from now on.
    let process = it.host.service("busybox")["process"].as_i64().expect("a process");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(process).expect("pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    it.host.service_until("busybox", "it runs again", |service| {
        service["restarts"] == 1 && service["state"] == "running"
    });
    it.serves("2", 2);
}

#[test]
fn with_nothing_changed_nothing_is_done() {
    let it = Swapped::begin();
    let before = it.host.service("busybox")["process"].clone();
    let done = it.host.opsrun(["swap", "busybox", "1"]);
    assert!(done.succeeds().stderr.contains("nothing was done"), "{done}");
    assert_eq!(it.host.service("busybox")["process"], before);
    it.next_does("# another word");
    it.host.opsrun(["swap", "busybox", "1", "--soak", "0s"]).succeeds();
    assert_ne!(it.host.service("busybox")["process"], before);
    assert_eq!(it.host.service("busybox")["release"], "1");
}

/// The name of the release is the same each time, and what runs is not.
#[test]
fn changed_limits_and_a_name_that_moved_make_a_generation_of_the_same_release() {
    let it = Swapped::begin();
    let settings = it.host.path("etc/opsrun/busybox.toml");
    let before = std::fs::read_to_string(&settings).expect("the settings");
    let limits = "limits = { pids_limit = 70, allow_unenforced = true }\n";
    std::fs::write(&settings, format!("{limits}{before}")).expect("write the settings");
    it.host.opsrun(["swap", "busybox", "1", "--soak", "0s"]).succeeds();
    it.serves("1", 2);
    let status = it.host.opsrun(["status", "busybox", "--json"]).succeeds().json();
    assert_eq!(status["limits"]["pids.max"], "70");
    let again = it.host.opsrun(["swap", "busybox", "1"]);
    assert!(again.succeeds().stderr.contains("nothing was done"), "{again}");

    let image_id = it.host.service("busybox")["image_id"].clone();
    it.host.opsrun(["exec", "busybox", "sh", "-c", "echo new > /new"]).succeeds();
    it.host.opsrun(["commit", "busybox", "busybox:1"]).succeeds();
    it.host.opsrun(["swap", "busybox", "1", "--soak", "0s"]).succeeds();
    it.serves("1", 3);
    assert_ne!(it.host.service("busybox")["image_id"], image_id);
    assert_eq!(it.host.opsrun(["exec", "busybox", "cat", "/new"]).succeeds().stdout, "new\n");
    // And what was not changed for the better goes back the same way.
    it.next_does("exit 4");
    std::fs::write(&settings, before).expect("write the settings");
    it.host.opsrun(["swap", "busybox", "1", "--soak", "0s"]).fails(3, &["generation 3 (1) serves again"]);
    it.serves("1", 3);
    let status = it.host.opsrun(["status", "busybox", "--json"]).succeeds().json();
    assert_eq!(status["limits"]["pids.max"], "70");
}

#[test]
fn a_candidate_that_ends_hangs_or_is_unwell_is_gone_and_the_old_one_serves() {
    let it = Swapped::begin();
    for (shell, reason) in [
        ("echo cannot read the database >&2; exit 7", "it exited with status 7 before it was healthy"),
        ("exec sleep 1000", "it was not healthy after 1.5 s"),
        ("rm /www/index.html", "answered 404"),
        (
            "rm /www/index.html; mkdir /www/cgi-bin; cd /www/cgi-bin; \
             printf '#!/bin/sh\\nprintf \"Status: 500 Oops\\\\r\\\\n\\\\r\\\\n\"\\n' > index.cgi; chmod +x index.cgi; cd /",
            "answered 500",
        ),
        ("sleep 3", "it was not healthy after 1.5 s"),
    ] {
        it.next_does(shell);
        let done =
            it.host.opsrun(["swap", "busybox", "2", "--timeout", "1500ms", "--soak", "2s", "--stop-first"]);
        done.fails(3, &["busybox 2 could not be started; generation 1 (1) serves again", reason]);
        done.fails(3, &["busybox 1 serves again; nothing served for "]);
        if shell.starts_with("echo") {
            done.fails(3, &["| cannot read the database"]);
        }
        it.serves("1", 1);
    }
    let events = it.host.opsrun(["events", "busybox"]).succeeds().stdout.clone();
    assert_eq!(events.matches("went back").count(), 5, "{events}");
}

#[test]
fn a_candidate_that_dies_or_falls_ill_in_the_soak_is_replaced_by_the_old_one() {
    let it = Swapped::begin();
    for (shell, reason) in [
        ("(sleep 1; kill -9 -1) &", "it was ended by SIGKILL"),
        ("(sleep 1; rm /www/index.html) &", "its health check failed 3 times in a row"),
    ] {
        it.next_does(shell);
        let done = it.host.opsrun(["swap", "busybox", "2", "--soak", "30s", "--stop-first"]);
        done.fails(3, &["busybox 2 is healthy and serves; nothing served for ", "serves again", reason]);
        done.fails(3, &["busybox 1 serves again; nothing served for "]);
        it.serves("1", 1);
    }
}

#[test]
fn a_swap_that_is_stopped_in_the_middle_leaves_the_service_stopped() {
    let it = Swapped::begin();
    it.next_does("exec sleep 1000");
    let mut command = it.host.command();
    let mut swap = command
        .args(["swap", "busybox", "2", "--stop-first"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("swap");
    until("the old one is down", || get(it.port, "/").is_none());
    it.host.opsrun(["stop", "busybox"]).succeeds();
    assert!(!swap.wait().expect("wait").success());
    assert_eq!(it.host.service("busybox")["state"], "stopped");
    assert!(it.host.cgroups().is_empty());
}

#[test]
fn one_late_answer_right_after_is_not_an_outage() {
    let host = Host::new();
    let archive = support::image("busybox-1.tar").display().to_string();
    for release in ["busybox:1", "busybox:2"] {
        host.opsrun(["load", "--tag", release, &archive]).succeeds();
    }
    // The first start, the candidate, and then what the command asks by itself.
    let answers = Server::new(|_, nth| Act::Whole(Answer::new(if nth == 2 { 503 } else { 200 }, "")));
    host.opsrun(["config", "init", "busybox", "--from", "1"]).succeeds();
    let settings = format!(
        "health = {{ check = \"http\", port = {}, path = \"/\", interval = \"10m\" }}\n",
        answers.port
    );
    host.write("etc/opsrun/busybox.toml", &settings);
    let configuration = format!("listen=127.0.0.1:{}\n", support::free_port());
    host.write("opt/busybox/conf/busybox.conf", &configuration);
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.opsrun(["swap", "busybox", "2", "--soak", "0s"]).succeeds();
    assert_eq!(answers.asked().len(), 4, "the probes");
    host.opsrun(["stop", "busybox"]).succeeds();
    until("nothing is left", || host.left_over().is_empty());
}
