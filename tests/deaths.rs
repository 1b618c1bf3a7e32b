//! Supervisors die while connections are steered: no client notices, and one generation serves.
//!
//! `OPSRUN_TEST_KILLS=100 OPSRUN_TEST_CLIENTS=64` kills more often and asks more than the tests do by themselves, and
//! `OPSRUN_TEST_SERVER=gunicorn` does it to another server (`scripts/image servers 1` makes the image). `OPSRUN_TEST_SEED=2`
//! does it at other moments. Gated swaps are killed at fewer moments by themselves, and under more clients.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::load::{Asking, Load, Seen};
use support::{Done, Host, free_port, get, until};

/// Usually.
const KILLS: u64 = 6;
const CLIENTS: u64 = 16;
const GATED_KILLS: u64 = 4;
/// As many as wait in one queue.
const GATED_CLIENTS: u64 = 64;

fn number(variable: &str, usually: u64) -> u64 {
    std::env::var(variable).map_or(usually, |text| text.parse().expect("a number"))
}

/// A service in two releases that answers with a word.
struct Served {
    host: Host,
    service: &'static str,
    server: String,
    port: u16,
    /// What the kernel lacks.
    lacks: &'static str,
}

impl Served {
    /// Release 1 runs and answers "first".
    fn begin() -> Self {
        Self::begin_with(&std::env::var("OPSRUN_TEST_SERVER").unwrap_or_else(|_| "httpd".to_owned()), "")
    }

    /// The same of this server, on a kernel that lacks something.
    fn begin_with(server: &str, lacks: &'static str) -> Self {
        let server = server.to_owned();
        let service = if matches!(server.as_str(), "httpd" | ONE_BY_ONE) { "busybox" } else { "servers" };
        let host = Host::new();
        let archive = support::image(&format!("{service}-1.tar")).display().to_string();
        for release in [1, 2] {
            host.opsrun(["load", "--tag", &format!("{service}:{release}"), &archive]).succeeds();
        }
        host.opsrun(["config", "init", service, "--from", "1"]).succeeds();
        let it = Self { host, service, server, port: free_port(), lacks };
        if it.server == ONE_BY_ONE {
            build(&it.host.path("opt/busybox/lib/one_by_one"));
        }
        let file = format!(
            "ports = [{}]\nhealth = {{ check = \"http\", path = \"/\", interval = \"200ms\", start_timeout = \"60s\" }}\n",
            it.port
        );
        it.host.write(&format!("etc/opsrun/{service}.toml"), &file);
        it.next_answers("first", false);
        support::done(it.command(&["start", &format!("{service}:1")])).succeeds();
        it
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command();
        command.env("OPSRUN_TEST_LACKS", self.lacks).args(arguments);
        command
    }

    /// What the next generation answers, or that it fails.
    fn next_answers(&self, word: &str, fails: bool) {
        let (port, server) = (self.port, &self.server);
        let text = if server == ONE_BY_ONE {
            let status = if fails { "500" } else { "200" };
            format!("exec /var/lib/busybox/one_by_one {port} {status} {word}\n")
        } else if self.service == "busybox" {
            let fails = if fails { "rm /www/index.html" } else { "" };
            format!("listen=127.0.0.1:{port}\necho {word} > /www/index.html\n{fails}\n")
        } else {
            let fails = if fails { "/" } else { "" };
            format!(
                "server={server}\naddress=127.0.0.1\nport={port}\nword={word}\ndelay=0\nwarm=0\nfails_after=0\nfails={fails}\n"
            )
        };
        let service = self.service;
        self.host.write(&format!("opt/{service}/conf/{service}.conf"), &text);
    }

    fn swap(&self, release: &str) -> Command {
        self.command(&["swap", self.service, release, "--soak", "300ms", "--timeout", "5s"])
    }

    /// Waits until one generation serves under a supervisor, and nothing is left of another.
    fn settled(&self) -> serde_json::Value {
        let record = self.host.path(format!("var/lib/opsrun/services/{}/record.json", self.service));
        self.host.service_until(self.service, "one generation serves under a supervisor", |service| {
            let text = std::fs::read_to_string(&record).expect("a record");
            let record: serde_json::Value = serde_json::from_str(&text).expect("a record that parses");
            service["state"] == "running"
                && !service["supervisor"].is_null()
                && record["swap"].is_null()
                && self.host.cgroups().len() == 1
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.host.opsrun(["stop", self.service]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

/// What there was of kills, and of what clients saw meanwhile.
struct Killed {
    kills: u64,
    seen: Seen,
    /// When a candidate that answers badly may have.
    bad: Vec<(Instant, Instant)>,
}

/// Kills the supervisor at random moments of one swap after the other, while clients ask; each time one generation is left.
fn kill_at_any_moment(it: &Served, kills: u64, asking: &Asking, right: impl Fn(&Done) -> bool) -> Killed {
    let seed = number("OPSRUN_TEST_SEED", 1);
    let load = Load::begin(asking);
    // How long one takes here, so that the moments are all over it.
    it.next_answers("second", false);
    let began = Instant::now();
    support::done(it.swap("2")).succeeds();
    let swap_us = u64::try_from(began.elapsed().as_micros()).expect("a short time");
    let (mut word, mut random) = ("second".to_owned(), seed.wrapping_mul(20_150_430));
    let (mut outcomes, mut bad) = (BTreeMap::<String, u32>::new(), Vec::new());
    for number in 0..kills {
        // xorshift64, for moments that are the same the next time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let service = it.settled();
        let supervisor = i32::try_from(service["supervisor"].as_i64().expect("a supervisor")).expect("a pid");
        let next = if service["release"] == "1" { "2" } else { "1" };
        let (new, fails) = (format!("word-{number}"), random.is_multiple_of(4));
        it.next_answers(&new, fails);
        let (swap, began) = (it.swap(next), Instant::now());
        let swap = std::thread::spawn(|| support::done(swap));
        // The moment is what is tried here, not what is waited for.
        std::thread::sleep(Duration::from_micros(random / 4 % (swap_us + swap_us / 10)));
        let _ = kill(Pid::from_raw(supervisor), Signal::SIGKILL);
        let done = swap.join().expect("the swap");
        let serves = it.settled();
        if fails {
            bad.push((began, Instant::now()));
        }
        let swapped = serves["release"] == next;
        let statuses: &[i32] = if swapped { &[0] } else { &[1, 3] };
        assert!(statuses.contains(&done.status), "kill {number}: {serves} {done}");
        assert!(!(fails && swapped), "kill {number}: {serves} {done}");
        assert!(right(&done), "it did not go the way that it should: {done}");
        if swapped {
            word = new;
        }
        assert_eq!(get(it.port, "/").as_deref().map(str::trim), Some(word.as_str()), "kill {number}: {done}");
        let reached = if done.stderr.contains("stopping ") { ", the old one ends" } else { "" };
        let what = if fails { "bad" } else { "good" };
        *outcomes.entry(format!("{what} {}{reached}", done.status)).or_default() += 1;
    }
    let seen = load.end();
    println!(
        "{}, seed {seed}: {kills} kills, {} clients, outcomes {outcomes:?}, {} requests, failed {:?}, slowest {} ms",
        it.server,
        asking.clients,
        seen.requests,
        seen.failed,
        seen.slowest.as_millis()
    );
    Killed { kills, seen, bad }
}

#[test]
fn a_supervisor_that_is_killed_at_any_moment_of_a_swap_costs_no_request() {
    let (kills, clients) = (number("OPSRUN_TEST_KILLS", KILLS), number("OPSRUN_TEST_CLIENTS", CLIENTS));
    let it = Served::begin();
    let asking = Asking::port(it.port, usize::try_from(clients).expect("clients"));
    let steered = |done: &Done| !done.stderr.contains("is stopped before");
    kill_at_any_moment(&it, kills, &asking, steered).seen.lost_nothing();
}

/// On a host that cannot steer. The server answers one after the other, and everybody it has accepted before it ends: the only
/// request that can be lost is one that a program is killed over.
#[test]
fn a_supervisor_that_is_killed_at_any_moment_of_a_gated_swap_costs_nobody_who_waits() {
    let (kills, clients) =
        (number("OPSRUN_TEST_KILLS", GATED_KILLS), number("OPSRUN_TEST_CLIENTS", GATED_CLIENTS));
    let it = Served::begin_with(ONE_BY_ONE, "group");
    let mut asking = Asking::port(it.port, usize::try_from(clients).expect("clients"));
    asking.patience = support::PATIENCE;
    let others = ["is proven beside it", "is stopped before"];
    let gated = |done: &Done| !others.iter().any(|text| done.stderr.contains(text));
    let Killed { kills, seen, bad } = kill_at_any_moment(&it, kills, &asking, gated);
    seen.all_could_connect();
    let cut: usize = seen.failed.iter().filter(|(kind, _)| **kind != "status").map(|(_, count)| count).sum();
    let (answered, lost): (Vec<_>, Vec<_>) = seen.told.iter().partition(|(_, why)| why.starts_with("status"));
    // Two containers at most are killed with one supervisor: a candidate, and an old one that was about to end.
    let most = usize::try_from(2 * kills).expect("a number");
    assert!(cut <= most, "{cut} of {} requests: {lost:?}", seen.requests);
    let in_time = |at: &Instant| bad.iter().any(|(from, until)| (from..=until).contains(&at));
    let strange: Vec<_> = answered.iter().filter(|(at, _)| !in_time(at)).collect();
    assert!(strange.is_empty(), "a good candidate answered badly: {strange:?}");
}

/// A server that is not of an image.
const ONE_BY_ONE: &str = "one by one";

/// Builds it, static.
fn build(program: &Path) {
    std::fs::create_dir_all(program.parent().expect("a folder")).expect("the folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/deaths/one_by_one.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(program).arg(source);
    support::done(compiler).succeeds();
}

fn kill_now(process: &serde_json::Value) {
    let process = i32::try_from(process.as_i64().expect("a process")).expect("a pid");
    kill(Pid::from_raw(process), Signal::SIGKILL).expect("killed");
}

#[test]
fn who_connects_when_both_a_service_and_its_supervisor_have_died_waits_for_the_next_ones() {
    let it = Served::begin();
    let before = it.settled();
    let load = Load::begin(&Asking::port(it.port, 4));
    for _ in 0..2 {
        let service = it.settled();
        kill_now(&service["supervisor"]);
        kill_now(&service["process"]);
        it.host.service_until(it.service, "it runs again", |now| {
            now["state"] == "running" && now["process"] != service["process"] && !now["process"].is_null()
        });
    }
    assert_eq!(it.settled()["generation"], before["generation"]);
    load.end().all_could_connect().saw_only(&["first"]);
}

/// On a host that cannot steer: the old generation ends, and while it does its supervisor dies.
#[test]
fn who_waits_in_a_gated_swap_waits_on_when_the_supervisor_dies() {
    let (host, port) = Host::with_busybox();
    let opsrun = |arguments: &[&str]| {
        let mut command = host.command();
        command.env("OPSRUN_TEST_LACKS", "group").args(arguments);
        command
    };
    host.opsrun(["load", "--tag", "busybox:2", &support::image("busybox-1.tar").display().to_string()])
        .succeeds();
    // It closes its port at once, and ends some time later.
    let slow =
        format!("httpd -f -p 127.0.0.1:{port} -h /www & trap \"kill $!; sleep 3; exit 0\" TERM; wait; wait");
    host.configure_busybox(port, &slow);
    support::done(opsrun(&["start", "busybox:1"])).succeeds();
    let supervisor = host.service("busybox")["supervisor"].clone();
    let load = Load::begin(&Asking::port(port, 4));
    let swap = opsrun(&["swap", "busybox", "2", "--soak", "100ms"]);
    let swap = std::thread::spawn(|| support::done(swap));
    host.service_until("busybox", "it is asked to end", |service| service["state"] == "stopping");
    kill_now(&supervisor);
    let done = swap.join().expect("the swap");
    let service = host.service_until("busybox", "one serves", |service| {
        service["state"] == "running" && !service["supervisor"].is_null() && host.cgroups().len() == 1
    });
    assert!([1, 3].contains(&done.status) && service["release"] == "1", "{service} {done}");
    load.end().all_could_connect().saw_only(&["up"]);
    host.opsrun(["stop", "busybox"]).succeeds();
    until("nothing is left", || host.left_over().is_empty());
}

/// The kernel tells of a call once.
#[test]
fn a_bind_that_a_supervisor_has_died_over_is_answered_by_the_next_one() {
    let (host, port) = Host::with_busybox();
    let later = free_port();
    // A second port is bound long after the service is healthy, and nothing else goes on then that could count.
    let shell = format!(
        "(until test -e /var/lib/busybox/go; do sleep 0.1; done; exec httpd -f -p 127.0.0.1:{later} -h /www) &"
    );
    host.configure_busybox(port, &shell);
    host.write(
        "etc/opsrun/busybox.toml",
        &format!(
            "ports = [{port}, {later}]\nhealth = {{ check = \"http\", path = \"/\", interval = \"10m\" }}\n"
        ),
    );
    let (go, armed) = (host.path("opt/busybox/lib/go"), host.path("armed"));
    for number in 1.. {
        let mut start = host.command();
        start.args(["start", "busybox:1"]);
        start.env("OPSRUN_TEST_CRASH", format!("supervise:{number}:{}", armed.display()));
        support::done(start).succeeds();
        let before = host.service("busybox");
        std::fs::write(&armed, "").expect("armed");
        std::fs::write(&go, "").expect("go");
        until(&format!("the second port is served, death {number}"), || {
            get(later, "/").as_deref() == Some("up\n")
        });
        // Answered, it is done with when nothing of it is in the file any more.
        until("nobody answers it", || {
            std::fs::read(host.path("run/opsrun/busybox/heard"))
                .is_ok_and(|heard| heard.iter().all(|it| *it == 0))
        });
        let survived = std::fs::remove_file(&armed).is_ok();
        let after =
            host.service_until("busybox", "it is supervised", |service| !service["supervisor"].is_null());
        assert_eq!(after["process"], before["process"], "death {number}");
        assert_eq!(after["supervisor"] == before["supervisor"], survived, "death {number}");
        std::fs::remove_file(&go).expect("for the next time");
        host.opsrun(["stop", "busybox"]).succeeds();
        if survived {
            println!("the supervisor died at each of {} moments of a bind", number - 1);
            assert!(number > 4, "it did not die in the middle of a bind");
            break;
        }
    }
    until("nothing is left", || host.left_over().is_empty());
}
