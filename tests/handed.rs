//! A server that is given its listeners when it starts (sd_listen_fds(3)): it opens no port itself, so that nothing has to be
//! heard of, and its clients wait for the next release, or for itself when it has crashed, wherever it runs.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::load::{Asking, Load};
use support::{Done, Host, free_port, get, until};

/// It would not be found where it says that it binds.
const GUNICORN: &str = "cd /servers; exec gunicorn --workers 2 --bind 127.0.0.1:1 application";

struct Handed {
    host: Host,
    port: u16,
    lacks: &'static str,
}

impl Handed {
    /// Release 1 runs and answers "old", on a host that lacks this.
    fn begin(lacks: &'static str) -> Self {
        let it = Self { host: Host::new(), port: free_port(), lacks };
        let archive = support::image("servers-1.tar").display().to_string();
        for release in ["servers:1", "servers:2"] {
            it.host.opsrun(["load", "--tag", release, &archive]).succeeds();
        }
        it.host.opsrun(["config", "init", "servers", "--from", "1"]).succeeds();
        it.listens_on(&format!("127.0.0.1:{}", it.port));
        it.next_does("old", GUNICORN);
        it.opsrun(&["start", "servers:1"]).succeeds();
        it
    }

    fn opsrun(&self, arguments: &[&str]) -> Done {
        let mut command = self.host.command();
        command.env("OPSRUN_TEST_LACKS", self.lacks).args(arguments);
        support::done(command)
    }

    fn listens_on(&self, address: &str) {
        let settings = format!(
            "listen_stream = [\"{address}\"]\nrestart = {{ backoff_first = \"200ms\" }}\n\
             health = {{ check = \"http\", path = \"/health\", interval = \"100ms\", timeout = \"20s\" }}\n"
        );
        self.host.write("etc/opsrun/servers.toml", &settings);
    }

    fn next_does(&self, word: &str, shell: &str) {
        let port = self.port;
        let text = format!(
            "address=127.0.0.1 port={port} word={word} delay=0 warm=0 fails= fails_after=0\n{shell}\n"
        );
        self.host.write("opt/servers/conf/servers.conf", &text);
    }

    fn answers(&self, word: &str) {
        assert_eq!(get(self.port, "/").as_deref().map(str::trim), Some(word));
    }

    /// The server, not opsrun's init.
    fn crashes(&self) {
        let init = self.host.service("servers")["process"].as_i64().expect("a process");
        let children =
            std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).expect("its children");
        let server = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a child");
        kill(Pid::from_raw(server), Signal::SIGKILL).expect("killed");
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = self.opsrun(&["stop", "servers"]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

#[test]
fn its_releases_run_beside_each_other_and_are_swapped_without_a_lost_request() {
    let it = Handed::begin("");
    let load = Load::begin(&Asking::port(it.port, 8));
    for (word, release) in [("new", "2"), ("old", "1"), ("new", "2")] {
        it.next_does(word, GUNICORN);
        let done = it.opsrun(&["swap", "servers", release, "--soak", "200ms"]);
        assert!(done.succeeds().stderr.contains("is proven beside it"), "{done}");
        it.answers(word);
    }
    // What does not take the listeners that it gets, or wants others in their place, is never seen.
    for shell in ["exec sleep 1000", "exec python3 -m http.server --bind 127.0.0.1 $port", "exit 7"] {
        it.next_does("bad", shell);
        let done = it.opsrun(&["swap", "servers", "1", "--soak", "200ms", "--timeout", "2s"]);
        done.fails(3, &["(2) serves"]);
        it.answers("new");
    }
    load.end().lost_nothing().saw_only(&["new", "old"]);
}

#[test]
fn where_nobody_hears_of_binds_clients_wait_for_the_next_release() {
    let it = Handed::begin("notification");
    let load = Load::begin(&Asking::port(it.port, 4));
    for (word, release) in [("new", "2"), ("old", "1")] {
        it.next_does(word, GUNICORN);
        let done = it.opsrun(&["swap", "servers", release, "--soak", "200ms"]);
        for text in
            ["who connected then has waited", "; gated, since this host lacks seccomp user notification"]
        {
            assert!(done.succeeds().stderr.contains(text), "«{text}» is missing: {done}");
        }
        it.answers(word);
    }
    // One that fails gives the listener back.
    it.next_does("bad", "exit 7");
    let done = it.opsrun(&["swap", "servers", "2", "--soak", "200ms", "--timeout", "2s"]);
    done.fails(3, &["(1) serves", "it exited with status 7"]);
    it.answers("old");
    load.end().all_could_connect();
}

#[test]
fn who_connects_while_it_is_started_again_after_a_crash_waits_for_it() {
    let it = Handed::begin("notification");
    let load = Load::begin(&Asking::port(it.port, 4));
    for supervised in [true, false] {
        if !supervised {
            it.host.kill_supervisor_and_keeper("servers");
            until("it has no supervisor", || it.host.service("servers")["supervisor"].is_null());
            it.opsrun(&["boot"]).succeeds();
        }
        let before = it.host.service("servers")["restarts"].as_u64();
        it.crashes();
        it.host.service_until("servers", "it was started again", |service| {
            service["health"] == "healthy" && service["restarts"].as_u64() != before
        });
        it.answers("old");
    }
    // Every connection was taken, though those that a program had which is gone are gone with it.
    load.end().all_could_connect();
}

#[test]
fn a_release_that_listens_elsewhere_comes_after_the_old_one() {
    let it = Handed::begin("");
    it.listens_on(&format!("0.0.0.0:{}", it.port));
    it.next_does("new", GUNICORN);
    let plan = it.opsrun(&["swap", "servers", "2", "--plan"]).succeeds().stdout.clone();
    let way = "the way: stop-first, since it is to listen on 0.0.0.0:";
    assert!(plan.contains(way) && plan.contains("is started, and must be healthy"), "{plan}");
    let status = it.opsrun(&["status", "servers"]).succeeds().stdout.clone();
    assert!(status.contains("steered"), "{status}");
    let done = it.opsrun(&["swap", "servers", "2", "--soak", "200ms"]);
    assert!(done.succeeds().stderr.contains("is stopped before"), "{done}");
    assert!(done.stderr.contains("where the one that serves does not"), "{done}");
    it.answers("new");
}
