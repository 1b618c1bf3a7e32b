//! What may die dies before each of its actions, one after the other: the command that a person typed, and the supervisor.
//! Whatever was done by then, one generation serves or none, as the next command says, and nothing else is left.

mod support;

use support::swept::{COMMAND, SUPERVISOR, Sweep, Swept};
use support::{Done, until};

/// The shell in the configuration of what is swapped in: as good as before, no program that stays, or one that ends when it
/// has served for a moment, the first time.
const CHANGED: &str = "# changed";
const FAILS: &str = "exit 7";
const FALLS: &str =
    "test -e /var/lib/busybox/fell || { touch /var/lib/busybox/fell; (sleep 0.4; kill -9 -1) & }";

/// To the other release.
const SWAP: &[&str] = &["swap", "busybox", "2", "--soak", "100ms", "--timeout", "30s"];
const STOP_FIRST: &[&str] = &["swap", "busybox", "2", "--soak", "100ms", "--timeout", "30s", "--stop-first"];
const LONG_SOAK: &[&str] = &["swap", "busybox", "2", "--soak", "20s", "--timeout", "30s"];

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
    let it = Swept::new(&Sweep::default());
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
    let sweep = Sweep { next: CHANGED, arguments: &["start", "busybox:1"], ..Sweep::default() };
    sweep.over(|it, done, what| {
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

#[test]
fn stop() {
    let sweep = Sweep { before: Some("1"), arguments: &["stop", "busybox"], ..Sweep::default() };
    sweep.over(|it, done, what| {
        let service = it.settle(what);
        assert!(done.status != 0 || service["state"] == "stopped", "{what}: {service} {done}");
        if service["state"] != "stopped" {
            it.host.opsrun(["stop", "busybox"]).succeeds();
        }
    });
}

#[test]
fn restart() {
    let arguments = &["restart", "busybox"];
    let sweep = Sweep { before: Some("1"), next: CHANGED, arguments, ..Sweep::default() };
    sweep.over(|it, done, what| {
        let service = it.settle(what);
        assert!(died(done) || service["state"] == "running", "{what}: {service} {done}");
        it.host.opsrun(["restart", "busybox"]).succeeds();
        it.serves(&["1"], what);
    });
}

/// What is right when somebody has died in the course of a swap to a good release: what the command said, and it can be
/// gone on from there.
fn swapped(it: &Swept, done: &Done, what: &str, arguments: &[&str]) {
    assert!(died(done) || [0, 1, 3].contains(&done.status), "{what}: {done}");
    let expected: &[&str] = match done.status {
        0 => &["2"],
        1 | 3 => &["1"],
        _ => &["1", "2"],
    };
    it.serves(expected, &format!("{what}: {done}"));
    if it.host.service("busybox")["release"] == "1" {
        it.host.opsrun(arguments).succeeds();
        it.serves(&["2"], what);
    }
}

/// The same when it is no good.
fn swapped_in_vain(it: &Swept, done: &Done, what: &str) {
    assert!(died(done) || [1, 3].contains(&done.status), "{what}: {done}");
    it.serves(&["1"], &format!("{what}: {done}"));
}

#[test]
fn swap() {
    let sweep = Sweep { before: Some("1"), next: CHANGED, arguments: SWAP, ..Sweep::default() };
    sweep.over(|it, done, what| swapped(it, done, what, SWAP));
}

#[test]
fn swap_in_vain() {
    let sweep = Sweep { before: Some("1"), next: FAILS, arguments: SWAP, ..Sweep::default() };
    sweep.over(swapped_in_vain);
}

/// Who serves at the end depends on whether the candidate has fallen while somebody was there who knew of the one before.
#[test]
fn swap_that_falls_in_the_soak() {
    let sweep = Sweep { before: Some("1"), next: FALLS, arguments: LONG_SOAK, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], |it, done, what| {
        let expected: &[&str] = match done.status {
            0 => &["2"],
            1 | 3 => &["1"],
            _ => panic!("{what}: {done}"),
        };
        it.serves(expected, &format!("{what}: {done}"));
    });
}

#[test]
fn swap_stop_first() {
    let sweep = Sweep { before: Some("1"), next: CHANGED, arguments: STOP_FIRST, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], |it, done, what| swapped(it, done, what, STOP_FIRST));
}

#[test]
fn swap_stop_first_in_vain() {
    let sweep = Sweep { before: Some("1"), next: FAILS, arguments: STOP_FIRST, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], swapped_in_vain);
}

/// The host lacks what steering takes.
#[test]
fn swap_gated() {
    let sweep =
        Sweep { lacks: "group", before: Some("1"), next: CHANGED, arguments: SWAP, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], |it, done, what| swapped(it, done, what, SWAP));
}

#[test]
fn swap_gated_in_vain() {
    let sweep = Sweep { lacks: "group", before: Some("1"), next: FAILS, arguments: SWAP, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], swapped_in_vain);
}

#[test]
fn swap_side_by_side() {
    let sweep =
        Sweep { portless: true, before: Some("1"), next: CHANGED, arguments: SWAP, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], |it, done, what| {
        assert!(!done.stderr.contains("is stopped before"), "{what}: {done}");
        swapped(it, done, what, SWAP);
    });
}

#[test]
fn swap_side_by_side_in_vain() {
    let sweep = Sweep { portless: true, before: Some("1"), next: FAILS, arguments: SWAP, ..Sweep::default() };
    sweep.of(&[SUPERVISOR], swapped_in_vain);
}

/// Each adds its word to a file among the service's data.
const HOOKS: &str = "\n[hooks]\n\
    pre_swap = [[\"sh\", \"-c\", \"echo pre >> /var/lib/busybox/hooked\"]]\n\
    post_commit = [[\"sh\", \"-c\", \"echo post >> /var/lib/busybox/hooked\"]]\n\
    timeout = \"30s\"\n";
/// The one after the swap fails until a file says that it does not.
const HOOK_FAILS: &str = "\n[hooks]\n\
    pre_swap = [[\"true\"]]\n\
    post_commit = [[\"test\", \"-e\", \"/var/lib/busybox/mended\"]]\n\
    timeout = \"30s\"\n";
const HOOK_REFUSES: &str =
    "\n[hooks]\npre_swap = [[\"true\"], [\"sh\", \"-c\", \"exit 3\"]]\ntimeout = \"30s\"\n";

/// Whatever hooks have left is gone.
fn no_hook_is_left(it: &Swept, what: &str) {
    let runs = it.host.path("var/lib/opsrun/runs");
    let left: Vec<_> = std::fs::read_dir(runs).into_iter().flatten().flatten().map(|it| it.path()).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    assert!(it.host.one_shot_cgroups().is_empty(), "{what}: {:?}", it.host.one_shot_cgroups());
}

#[test]
fn swap_with_hooks() {
    let sweep =
        Sweep { settings: HOOKS, before: Some("1"), next: CHANGED, arguments: SWAP, ..Sweep::default() };
    sweep.over(|it, done, what| {
        let hooked = it.host.path("opt/busybox/lib/hooked");
        swapped(it, done, what, SWAP);
        // What is left undone is done by the next swap to the release that serves; and then there is nothing to do.
        it.host.opsrun(SWAP).succeeds();
        let again = it.host.opsrun(SWAP);
        assert!(again.succeeds().stderr.contains("nothing was done"), "{what}: {again}");
        let words = std::fs::read_to_string(&hooked).expect("hooks were run");
        // One that was begun and not crossed out is run once more.
        assert!(words.starts_with("pre\n") && words.ends_with("post\n"), "{what}: {words}");
        std::fs::remove_file(hooked).expect("for the next time");
        // A container of a hook ends with the command; its place is taken away by the next one that needs one.
        it.host.opsrun(["run", "--rm", "busybox:1", "true"]).succeeds();
        no_hook_is_left(it, what);
    });
}

#[test]
fn swap_whose_last_hook_fails() {
    let sweep =
        Sweep { settings: HOOK_FAILS, before: Some("1"), next: CHANGED, arguments: SWAP, ..Sweep::default() };
    sweep.of(&[COMMAND], |it, done, what| {
        assert!(died(done) || done.status == 5, "{what}: {done}");
        it.serves(&["1", "2"], &format!("{what}: {done}"));
        it.host.opsrun(SWAP).fails(5, &["busybox 2 serves, and yet not all is done"]);
        it.serves(&["2"], what);
        it.host.write("opt/busybox/lib/mended", "");
        it.host.opsrun(SWAP).succeeds();
        std::fs::remove_file(it.host.path("opt/busybox/lib/mended")).expect("for the next time");
        no_hook_is_left(it, what);
    });
}

#[test]
fn swap_whose_first_hook_fails() {
    let sweep = Sweep {
        settings: HOOK_REFUSES,
        before: Some("1"),
        next: CHANGED,
        arguments: SWAP,
        ..Sweep::default()
    };
    sweep.of(&[COMMAND], |it, done, what| {
        assert!(died(done) || done.status == 1, "{what}: {done}");
        it.serves(&["1"], &format!("{what}: {done}"));
        it.host.opsrun(SWAP).fails(1, &["ended with status 3"]);
        it.serves(&["1"], what);
        no_hook_is_left(it, what);
    });
}

#[test]
fn rollback() {
    let arguments = &["rollback", "busybox", "--soak", "100ms"];
    let sweep = Sweep { before: Some("1"), next: CHANGED, arguments, ..Sweep::default() };
    sweep.over(|it, done, what| {
        assert!(died(done) || [0, 1, 3].contains(&done.status), "{what}: {done}");
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

#[test]
fn rm() {
    let arguments = &["rm", "--force", "busybox"];
    let sweep = Sweep { before: Some("1"), next: CHANGED, arguments, ..Sweep::default() };
    sweep.over(|it, done, what| {
        assert!(died(done) || [0, 1].contains(&done.status), "{what}: {done}");
        let again = it.host.opsrun(["rm", "--force", "busybox"]);
        assert!(again.status == 0 || again.stderr.contains("no service"), "{what}: {again}");
        until("nothing is left", || it.host.left_over().is_empty());
        for folder in ["var/lib/opsrun/services/busybox", "run/opsrun/busybox", "var/log/opsrun/busybox"] {
            assert!(!it.host.path(folder).exists(), "{what}: {folder} is left");
        }
    });
}
