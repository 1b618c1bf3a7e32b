//! What may die dies before each of its actions, one after the other: the command that a person typed, and the supervisor.
//! Whatever was done by then, one generation serves or none, as the next command says, and nothing else is left.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Done, Host, get, until};

/// Who dies.
const COMMAND: &str = "command";
const SUPERVISOR: &str = "supervise";

/// The shell in the configuration of what is swapped in: as good as before, or no program that stays.
const CHANGED: &str = "# changed";
const FAILS: &str = "exit 7";

/// A service that answers "up", in two releases.
struct Swept {
    host: Host,
    port: u16,
    /// Every action of every process that has it counts while this file is there; who dies removes it.
    armed: std::path::PathBuf,
}

impl Swept {
    fn new() -> Self {
        let (host, port) = Host::with_busybox();
        let archive = support::image("busybox-1.tar");
        host.opsrun(["load", "--tag", "busybox:2", &archive.display().to_string()]).succeeds();
        let armed = host.path("armed");
        Self { host, port, armed }
    }

    fn opsrun_dying(&self, who: &str, number: u32, arguments: &[&str]) -> Done {
        let mut command = self.host.command();
        command.env("OPSRUN_TEST_CRASH", format!("{who}:{number}:{}", self.armed.display())).args(arguments);
        support::done(command)
    }

    fn configure(&self, shell: &str) {
        self.host.configure_busybox(self.port, shell);
    }

    /// Waits until nothing goes on with it any more: it runs, or it is down and nothing of it is left.
    fn settle(&self, what: &str) -> Value {
        let mut last = Value::Null;
        until(&format!("{what}: it has come to rest"), || {
            last = self.host.service("busybox");
            let up =
                last["state"] == "running" && last["health"] == "healthy" && !last["supervisor"].is_null();
            let down = last.is_null() || last["state"] == "stopped" && last["supervisor"].is_null();
            let one = self.host.cgroups().len() == usize::from(up);
            (up || down) && one && !self.swaps()
        });
        last
    }

    fn swaps(&self) -> bool {
        let record = self.host.path("var/lib/opsrun/services/busybox/record.json");
        let text = std::fs::read_to_string(record).unwrap_or_else(|_| "{}".to_owned());
        !serde_json::from_str::<Value>(&text).expect("a record that parses")["swap"].is_null()
    }

    /// It answers, as one container, under this release.
    fn serves(&self, releases: &[&str], what: &str) {
        let service = self.settle(what);
        assert_eq!(service["state"], "running", "{what}: {service}");
        assert!(releases.iter().any(|release| service["release"] == *release), "{what}: {service}");
        assert_eq!(get(self.port, "/").as_deref(), Some("up\n"), "{what}");
    }

    /// Ends it: nothing of it is left, and the folders of generations are those that one can go back to.
    fn ends(&self, what: &str) {
        // What a command that was killed has left, the next one that makes a generation removes.
        let _ = self.host.opsrun(["stop", "busybox"]);
        self.configure("");
        self.host.opsrun(["start", "busybox:1"]).succeeds();
        self.host.opsrun(["stop", "busybox"]).succeeds();
        until(&format!("{what}: nothing runs"), || self.host.left_over().is_empty());
        let Ok(entries) = std::fs::read_dir(self.host.path("var/lib/opsrun/services/busybox/generations"))
        else {
            return;
        };
        let there: BTreeSet<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let history = self.host.opsrun(["history", "busybox", "--json"]).succeeds().json();
        let known: BTreeSet<String> = history["generations"]
            .as_array()
            .expect("generations")
            .iter()
            .map(|generation| generation["generation"].to_string())
            .collect();
        let strays: Vec<_> = there.difference(&known).collect();
        assert!(strays.is_empty(), "{what}: {strays:?} beside {known:?}");
    }

    /// Has `who` die before each action of a command. `before` serves until then, and `next` is the shell in the
    /// configuration of what comes after it; `judge` says what is right at each death.
    fn sweep(
        &self,
        who: &str,
        before: Option<&str>,
        next: &str,
        arguments: &[&str],
        judge: impl Fn(&Done, &str),
    ) {
        for number in 1.. {
            let what = format!(
                "{} dies before action {number} of {arguments:?}",
                if who == COMMAND { "it" } else { who }
            );
            self.configure("");
            if arguments[0] == "rollback" {
                self.host.opsrun(["start", "busybox:2"]).succeeds();
                self.host.opsrun(["stop", "busybox"]).succeeds();
            }
            if let Some(before) = before {
                self.opsrun_dying(who, number, &["start", &format!("busybox:{before}")]).succeeds();
                self.configure(next);
            }
            std::fs::write(&self.armed, "").expect("armed");
            let done = self.opsrun_dying(who, number, arguments);
            let survived = std::fs::remove_file(&self.armed).is_ok();
            judge(&done, &what);
            self.ends(&what);
            if survived {
                assert!(number > 1, "only {number} actions: {what}");
                eprintln!("{arguments:?}: {who} died before each of {} actions", number - 1);
                return;
            }
        }
    }
}

/// So many times a supervisor is killed at a random moment of a swap; `OPSRUN_TEST_KILLS` says otherwise.
const KILLS: u32 = 10;

#[test]
fn at_random_moments_of_a_swap() {
    dies_at_random_moments("", KILLS);
}

#[test]
fn at_random_moments_of_a_gated_swap() {
    dies_at_random_moments("group", KILLS / 2);
}

/// On a host that lacks this.
fn dies_at_random_moments(lacks: &str, kills: u32) {
    let kills = std::env::var("OPSRUN_TEST_KILLS").map_or(kills, |text| text.parse().expect("a number"));
    let it = Swept::new();
    it.configure("");
    let opsrun = |arguments: &[&str]| {
        let mut command = it.host.command();
        command.env("OPSRUN_TEST_LACKS", lacks).args(arguments);
        command
    };
    support::done(opsrun(&["start", "busybox:1"])).succeeds();
    let mut random: u64 = 20_150_430;
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..kills {
        // xorshift64, for moments that are the same the next time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let service = it.settle("between two kills");
        let supervisor = i32::try_from(service["supervisor"].as_i64().expect("a supervisor")).expect("a pid");
        let next = if service["release"] == "1" { "2" } else { "1" };
        let bad = random.is_multiple_of(4);
        it.configure(if bad { "exit 7" } else { "" });
        let mut swap = opsrun(&["swap", "busybox", next, "--soak", "200ms"]);
        let way: &[&str] = if random.is_multiple_of(3) { &["--stop-first"] } else { &[] };
        swap.args(way).stderr(std::process::Stdio::null());
        let mut swap = swap.spawn().expect("swap");
        // The moment is what is tried here, not what is waited for.
        std::thread::sleep(std::time::Duration::from_micros(random % 1_200_000));
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL);
        let status = swap.wait().expect("wait").code().unwrap_or(-1);
        let what = format!(
            "kill {number} of a swap to {next}{}{way:?} that ended with {status}",
            if bad { " in vain " } else { " " }
        );
        let expected: &[&str] = match status {
            0 => &[next],
            3 => &[if next == "1" { "2" } else { "1" }],
            _ => &["1", "2"],
        };
        it.serves(expected, &what);
        assert!(!(bad && status == 0), "{what}");
        *outcomes.entry(format!("exit {status}")).or_default() += 1;
    }
    it.ends("after them all");
    eprintln!("{kills} kills: {outcomes:?}");
}

/// Whether it was the command that died.
fn died(done: &Done) -> bool {
    done.status == 137
}

#[test]
fn start() {
    let it = Swept::new();
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, None, CHANGED, &["start", "busybox:1"], |done, what| {
            let service = it.settle(what);
            assert!(
                died(done) || (done.status == 0) == (service["state"] == "running"),
                "{what}: {service} {done}"
            );
            let again = it.host.opsrun(["start", "busybox:1"]);
            assert!(again.status == 0 || service["state"] == "running", "{what}: {again}");
            it.serves(&["1"], what);
        });
    }
}

#[test]
fn stop() {
    let it = Swept::new();
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), CHANGED, &["stop", "busybox"], |done, what| {
            let service = it.settle(what);
            assert!(done.status != 0 || service["state"] == "stopped", "{what}: {service} {done}");
            if service["state"] != "stopped" {
                it.host.opsrun(["stop", "busybox"]).succeeds();
            }
            it.host.opsrun(["start", "busybox:1"]).succeeds();
            it.serves(&["1"], what);
        });
    }
}

#[test]
fn restart() {
    let it = Swept::new();
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), CHANGED, &["restart", "busybox"], |done, what| {
            let service = it.settle(what);
            assert!(died(done) || service["state"] == "running", "{what}: {service} {done}");
            it.host.opsrun(["restart", "busybox"]).succeeds();
            it.serves(&["1"], what);
        });
    }
}

#[test]
fn swap() {
    let it = Swept::new();
    let arguments = ["swap", "busybox", "2", "--soak", "100ms", "--timeout", "30s"];
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), CHANGED, &arguments, |done, what| {
            assert!(died(done) || [0, 1, 3].contains(&done.status), "{what}: {done}");
            let expected: &[&str] = match done.status {
                0 => &["2"],
                1 | 3 => &["1"],
                _ => &["1", "2"],
            };
            it.serves(expected, &format!("{what}: {done}"));
            it.host.opsrun(arguments).succeeds();
            it.serves(&["2"], what);
        });
    }
}

#[test]
fn swap_in_vain() {
    let it = Swept::new();
    let arguments = ["swap", "busybox", "2", "--soak", "100ms", "--timeout", "30s"];
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), FAILS, &arguments, |done, what| {
            assert!(died(done) || [1, 3].contains(&done.status), "{what}: {done}");
            it.serves(&["1"], &format!("{what}: {done}"));
        });
    }
}

#[test]
fn rollback() {
    let it = Swept::new();
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), CHANGED, &["rollback", "busybox", "--soak", "100ms"], |done, what| {
            assert!(died(done) || [0, 1, 3].contains(&done.status), "{what}: {done}");
            it.settle(what);
            it.serves(&["1", "2"], &format!("{what}: {done}"));
            if it.host.service("busybox")["release"] == "1" {
                it.host.opsrun(["rollback", "busybox", "--soak", "100ms"]).succeeds();
            }
            it.serves(&["2"], what);
            // What serves has the configuration that the operator sees, once this has come to its end.
            it.host.opsrun(["rollback", "busybox", &it.host.service("busybox")["generation"].to_string()]);
            assert_eq!(it.host.service("busybox")["drift"], serde_json::json!([]), "{what}");
        });
    }
}

#[test]
fn rm() {
    let it = Swept::new();
    for who in [COMMAND, SUPERVISOR] {
        it.sweep(who, Some("1"), CHANGED, &["rm", "--force", "busybox"], |done, what| {
            assert!(died(done) || [0, 1].contains(&done.status), "{what}: {done}");
            let again = it.host.opsrun(["rm", "--force", "busybox"]);
            assert!(again.status == 0 || again.stderr.contains("no service"), "{what}: {again}");
            until("nothing is left", || it.host.left_over().is_empty());
            for folder in ["var/lib/opsrun/services/busybox", "run/opsrun/busybox", "var/log/opsrun/busybox"]
            {
                assert!(!it.host.path(folder).exists(), "{what}: {folder} is left");
            }
        });
    }
}
