//! What dies may die at any moment: a service does not notice that its supervisor, or what keeps things for that, was
//! killed. `OPSRUN_TEST_KILLS=100` kills more often than the tests do by themselves.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Done, Host, get, until};

fn send(pid: i32, signal: Signal) {
    // It may have ended in between.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

fn kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

fn number(service: &Value, key: &str) -> i32 {
    i32::try_from(service[key].as_i64().unwrap_or_else(|| panic!("no {key}: {service}"))).expect("a pid")
}

fn kills(usually: u32) -> u32 {
    std::env::var("OPSRUN_TEST_KILLS").map_or(usually, |text| text.parse().expect("a number of kills"))
}

/// A service that runs, and its container, which is not to change.
struct Living {
    host: Host,
    port: u16,
    container: i32,
}

impl Living {
    fn begin(shell: &str) -> Self {
        let (host, port) = Host::with_busybox();
        host.configure_busybox(port, shell);
        host.opsrun(["start", "busybox:1"]).succeeds();
        let container = number(&host.service("busybox"), "process");
        Self { host, port, container }
    }

    fn supervisor(&self) -> i32 {
        number(&self.host.service("busybox"), "supervisor")
    }

    /// The keepers of the service: never more than one, but for a moment.
    fn keepers(&self) -> Vec<i32> {
        self.host.processes("opsrun\0keep\0busybox\0")
    }

    fn keeper(&self) -> i32 {
        let mut found = Vec::new();
        until("there is one keeper", || {
            found = self.keepers();
            found.len() == 1
        });
        found[0]
    }

    /// Waits until somebody else than `last` supervises it, and has taken over what there is.
    fn supervisor_after(&self, last: i32) -> i32 {
        let adopted = format!("process {} goes on", self.container);
        let mut now = 0;
        until("there is another supervisor, which goes on", || {
            let found = self.host.service("busybox");
            now = i32::try_from(found["supervisor"].as_i64().unwrap_or(0)).expect("a pid");
            let events = || self.host.opsrun(["events", "-n", "2", "busybox"]).stdout;
            now != 0 && now != last && {
                let told = events();
                told.contains(&adopted) && told.contains(&format!("process {now}"))
            }
        });
        now
    }

    /// Kills the supervisor so often, each time at another moment of its life; the last one.
    fn kill_supervisors(&self, times: u32) -> i32 {
        self.kill_supervisors_and(times, || ())
    }

    /// The same, with something else in between each third time.
    fn kill_supervisors_and(&self, times: u32, also: impl Fn()) -> i32 {
        let mut supervisor = self.supervisor();
        for time in 0..times {
            kill(supervisor);
            supervisor = self.supervisor_after(supervisor);
            // One that dies soon is followed by the next one later; that is not what is tried here.
            let lives = Duration::from_millis(if time % 4 == 3 { 1050 } else { u64::from(time * 37 % 150) });
            let since = Instant::now();
            until("it has lived for so long", || since.elapsed() >= lives);
            if time % 3 == 2 {
                also();
            }
        }
        supervisor
    }

    fn never_noticed(&self) {
        let service = self.host.service("busybox");
        assert_eq!(number(&service, "process"), self.container);
        assert_eq!((&service["restarts"], &service["state"]), (&0.into(), &"running".into()), "{service}");
        assert_eq!(get(self.port, "/").as_deref(), Some("up\n"));
    }

    /// It is supervised as any other: it comes up again, its health is seen, and it can be stopped.
    fn is_like_any_other(&self) {
        self.host.opsrun(["exec", "busybox", "mv", "/www/index.html", "/www/away"]).succeeds();
        self.host.service_until("busybox", "it is unwell", |service| service["health"] == "unhealthy");
        self.host.opsrun(["exec", "busybox", "mv", "/www/away", "/www/index.html"]).succeeds();
        self.host.service_until("busybox", "it is well", |service| service["health"] == "healthy");
        kill(number(&self.host.service("busybox"), "process"));
        self.host.service_until("busybox", "it runs again", |service| {
            service["restarts"] == 1 && service["state"] == "running"
        });
        self.host.opsrun(["stop", "busybox"]).succeeds();
        until("nothing is left", || self.host.left_over().is_empty());
    }
}

#[test]
fn not_one_request_fails_while_supervisors_are_killed() {
    let it = Living::begin("");
    let (over, asked, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let times = kills(20);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if get(it.port, "/").as_deref() != Some("up\n") {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // What is not caught here would leave the clients asking for ever.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| it.kill_supervisors(times)));
        over.store(true, Ordering::Relaxed);
        killed.expect("a supervisor after each");
    });
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    println!("{times} kills, {asked} requests, {failed} failed");
    assert_eq!(failed, 0, "of {asked} requests");
    assert!(asked > 20 * times, "only {asked} requests: no load");
    it.never_noticed();
    it.is_like_any_other();
}

/// Both outputs, as fast as a shell can.
const COUNTS: &str = "(i=0; while :; do i=$((i+1)); echo \"o $i\"; echo \"e $i\" >&2; done) &";

#[test]
fn no_line_is_lost_doubled_or_torn_while_supervisors_are_killed() {
    no_line_is_lost(kills(20), false);
}

#[test]
fn nor_while_they_become_other_programs_in_between() {
    no_line_is_lost(kills(9), true);
}

fn no_line_is_lost(times: u32, become_others: bool) {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, COUNTS);
    // All that is ever written is kept, so that it can be looked at from the first line on.
    let settings = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("settings");
    host.write(
        "etc/opsrun/busybox.toml",
        &format!("log = {{ max_size = \"1m\", max_files = 1000 }}\n{settings}"),
    );
    host.opsrun(["start", "busybox:1"]).succeeds();
    let container = number(&host.service("busybox"), "process");
    let it = Living { host, port, container };
    it.kill_supervisors_and(times, || {
        if become_others {
            it.host.opsrun(["reexec", "busybox"]).succeeds();
        }
    });
    it.never_noticed();
    it.host.opsrun(["stop", "busybox"]).succeeds();
    let lines = output(&it.host);
    let last = numbered_without_gap(&lines);
    let files = std::fs::read_dir(it.host.path("var/log/opsrun/busybox")).expect("logs").count();
    println!("{times} kills, {last:?} lines of each stream, {files} files");
    assert!(files > 3, "never rotated");
    assert!(last.values().all(|last| *last > 10_000), "{last:?}");
    assert!(files < 1000 && lines.iter().any(|line| line.ends_with(" F o 1")), "the first ones are gone");
}

/// All lines of generation 1, as they are on disk.
fn output(host: &Host) -> Vec<String> {
    let mut files: Vec<(u32, std::path::PathBuf)> = std::fs::read_dir(host.path("var/log/opsrun/busybox"))
        .expect("logs")
        .flatten()
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let age = name.strip_prefix("1.log")?.strip_prefix('.').unwrap_or("0");
            Some((age.parse().ok()?, file.path()))
        })
        .collect();
    files.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    let mut lines = Vec::new();
    for (_, path) in files {
        lines.extend(std::fs::read_to_string(path).expect("a log").lines().map(str::to_owned));
    }
    lines
}

/// Each stream counts from where the oldest file begins, a line at a time; how far.
fn numbered_without_gap(lines: &[String]) -> BTreeMap<String, u64> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut numbered = lines.iter().peekable();
    while let Some(line) = numbered.next() {
        let mut words = line.splitn(4, ' ').skip(1);
        let (stream, whole, text) = (words.next(), words.next(), words.next().unwrap_or_default());
        assert_eq!(whole, Some("F"), "torn: {line}");
        let Some((letter, count)) = text.split_once(' ').filter(|(letter, _)| ["o", "e"].contains(letter))
        else {
            continue;
        };
        assert_eq!(stream, Some(if letter == "o" { "stdout" } else { "stderr" }), "{line}");
        let first = count.parse().unwrap_or(1).max(1) - 1;
        let before = last.entry(letter.to_owned()).or_insert(first);
        let next = (*before + 1).to_string();
        // The container was killed in the middle of its last word.
        let cut = numbered.len() < 3 && next.starts_with(count);
        assert!(count == next || cut, "after {before} of {letter}: {line}");
        *before += 1;
    }
    last
}

#[test]
fn a_keeper_that_is_killed_is_followed_by_another_that_has_all() {
    let it = Living::begin("");
    let (first, supervisor) = (it.keeper(), it.supervisor());
    kill(first);
    until("there is another keeper", || it.keepers().iter().any(|keeper| *keeper != first));
    assert_ne!(it.keeper(), first);
    assert_eq!(it.supervisor(), supervisor);
    it.kill_supervisors(2);
    assert_eq!(it.keepers().len(), 1);
    it.never_noticed();
    it.is_like_any_other();
}

#[test]
fn when_the_keeper_dies_too_the_next_command_goes_on_with_what_lives() {
    for command in [&["boot"][..], &["restart", "busybox"]] {
        let it = Living::begin("(while sleep 0.1; do echo beat; done) &");
        it.host.kill_supervisor_and_keeper("busybox");
        it.host.service_until("busybox", "it has no supervisor", |service| service["supervisor"].is_null());
        assert_eq!(get(it.port, "/").as_deref(), Some("up\n"));
        it.host.opsrun(command).succeeds();
        if command[0] == "restart" {
            // It was asked to end, and has: it was not killed.
            let events = it.host.opsrun(["events", "busybox"]).stdout;
            assert!(events.contains("SIGTERM") && !events.contains("no supervisor"), "{events}");
            assert_eq!(it.host.service("busybox")["generation"], 2);
            continue;
        }
        it.never_noticed();
        let beats = || it.host.opsrun(["logs", "busybox"]).stdout.matches("beat").count();
        let before = beats();
        until("its output is read again", || beats() > before);
        assert_eq!(it.keepers().len(), 1);
        it.is_like_any_other();
    }
}

#[test]
fn when_the_container_dies_with_its_supervisor_it_comes_up_again() {
    let it = Living::begin("echo a last word");
    let supervisor = it.supervisor();
    send(supervisor, Signal::SIGSTOP);
    kill(it.container);
    kill(supervisor);
    it.host.service_until("busybox", "it runs again", |service| {
        service["state"] == "running"
            && service["process"].as_i64().is_some_and(|now| now != i64::from(it.container))
    });
    assert_eq!(get(it.port, "/").as_deref(), Some("up\n"));
    assert_eq!(it.host.cgroups().len(), 1);
    assert_eq!(it.keepers().len(), 1);
    it.host.opsrun(["stop", "busybox"]).succeeds();
    until("nothing is left", || it.host.left_over().is_empty());
}

#[test]
fn the_status_of_what_was_taken_over_is_known_where_the_kernel_tells() {
    let it = Living::begin("");
    it.kill_supervisors(1);
    it.host.opsrun(["exec", "busybox", "kill", "-TERM", "1"]);
    it.host.service_until("busybox", "it runs again", |service| service["restarts"] == 1);
    let events = it.host.opsrun(["events", "busybox"]).stdout;
    if at_least(6, 15) {
        assert!(events.contains("ended by SIGTERM"), "{events}");
    }
}

fn at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|text| text.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[test]
fn a_supervisor_that_dies_in_a_start_or_a_stop_leaves_nothing_half_done() {
    let (host, port) = Host::with_busybox();
    // Never healthy.
    host.configure_busybox(port, "exec sleep 1000");
    let mut start = host.command();
    let start = start.args(["start", "busybox:1"]).stderr(std::process::Stdio::piped());
    let start = start.spawn().expect("start");
    let starting = host.service_until("busybox", "it starts", |service| !service["process"].is_null());
    kill(number(&starting, "supervisor"));
    let done = start.wait_with_output().expect("the start's end");
    assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
    until("nothing of it is left", || host.left_over().is_empty());

    // Slow to end: it is still ending when the supervisor dies, and the command waits for the next one.
    host.configure_busybox(
        port,
        "trap 'sleep 1; echo ended as it wanted; exit' TERM; httpd -f -p $listen -h /www & wait; wait; exit",
    );
    host.opsrun(["start", "busybox:1"]).succeeds();
    let supervisor = number(&host.service("busybox"), "supervisor");
    let mut stop = host.command().args(["stop", "busybox"]).spawn().expect("stop");
    host.service_until("busybox", "it is stopping", |service| service["state"] == "stopping");
    kill(supervisor);
    assert!(stop.wait().expect("the stop's end").success());
    let logs = host.opsrun(["logs", "busybox"]).stdout;
    assert!(logs.contains("ended as it wanted"), "{logs}");
    assert_eq!(host.service("busybox")["state"], "stopped");
    until("nothing of it is left", || host.left_over().is_empty());
}

#[test]
fn a_supervisor_that_dies_in_the_soak_leaves_the_new_release_running() {
    let it = Living::begin("");
    let archive = support::image("busybox-1.tar");
    it.host.opsrun(["load", "--tag", "busybox:2", &archive.display().to_string()]).succeeds();
    let mut swap = it.host.command();
    let mut swap = swap
        .args(["swap", "busybox", "2", "--soak", "60s"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("swap");
    let soaking = it.host.service_until("busybox", "2 serves", |service| service["release"] == "2");
    kill(number(&soaking, "supervisor"));
    assert!(swap.wait().expect("the swap's end").success());
    let after =
        it.host.service_until("busybox", "it is supervised", |service| !service["supervisor"].is_null());
    assert_eq!((&after["process"], &after["release"]), (&soaking["process"], &"2".into()));
    assert_eq!(get(it.port, "/").as_deref(), Some("up\n"));
    assert_eq!(it.host.cgroups().len(), 1);
}

#[test]
fn a_supervisor_becomes_another_version_and_nothing_of_the_service_changes() {
    let it = Living::begin("");
    let (supervisor, keeper) = (it.supervisor(), it.keeper());
    let next = it.host.path("opsrun-next");
    std::fs::copy(support::program(), &next).expect("another version");
    for arguments in [&["busybox"][..], &["--all"]] {
        let done = reexec_by(&it.host, &next, arguments);
        assert!(done.succeeds().stderr.contains(&format!("process {supervisor}")), "{done}");
        assert_eq!((it.supervisor(), program_of(supervisor)), (supervisor, next.clone()));
        it.never_noticed();
        // Its keeper with it, or the next supervisor would be an older one again.
        until("the keeper follows", || program_of(keeper) == next);
        assert_eq!(it.keeper(), keeper);
    }
    assert_eq!(program_of(it.kill_supervisors(1)), next);
    it.never_noticed();
    assert_eq!(it.keepers(), [keeper]);
    // It is its child still, or its pidfd tells: how it ends is seen where the kernel tells.
    it.is_like_any_other();
}

fn program_of(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).expect("its program")
}

fn reexec_by(host: &Host, program: &Path, arguments: &[&str]) -> Done {
    let mut command = std::process::Command::new(program);
    command.env("OPSRUN_ROOT", host.root.path()).arg("reexec").args(arguments);
    support::done(command)
}

/// What a keeper held before it became another program is there for the next supervisor, and it starts one as before.
#[test]
fn a_supervisor_that_was_killed_while_its_program_is_replaced_is_followed_and_loses_no_line() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, COUNTS);
    let settings = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("settings");
    let all = format!("log = {{ max_size = \"1m\", max_files = 1000 }}\n{settings}");
    host.write("etc/opsrun/busybox.toml", &all);
    host.opsrun(["start", "busybox:1"]).succeeds();
    let container = number(&host.service("busybox"), "process");
    let it = Living { host, port, container };
    let programs = ["opsrun-a", "opsrun-b"].map(|name| it.host.path(name));
    for program in &programs {
        std::fs::copy(support::program(), program).expect("another version");
    }
    for time in 0..6 {
        reexec_by(&it.host, &programs[time % 2], &["busybox"]).succeeds();
        it.kill_supervisors(2);
    }
    it.never_noticed();
    it.host.opsrun(["stop", "busybox"]).succeeds();
    let last = numbered_without_gap(&output(&it.host));
    println!("6 programs, 12 kills, {last:?} lines of each stream");
    assert!(last.values().all(|last| *last > 1000), "{last:?}");
}

#[test]
fn a_program_that_could_not_go_on_is_refused_and_the_supervisor_stays_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let it = Living::begin("");
    let (supervisor, keeper) = (it.supervisor(), it.keeper());
    let own = program_of(supervisor);
    let broken = it.host.path("broken");
    let whole = std::fs::read(support::program()).expect("the program");
    let script = |text: &str| format!("#!/bin/sh\n{text}\n").into_bytes();
    let cases = [
        (script("echo no library of mine >&2; exit 1"), "no library of mine"),
        (script("exit 0"), "it is no opsrun that can"),
        (script("exec sleep 100"), "it was not done after 10 s"),
        (whole[..100_000].to_vec(), "broken"),
        (b"not a program".to_vec(), "Exec format error"),
    ];
    for (content, why) in cases {
        std::fs::write(&broken, content).expect("write");
        std::fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).expect("executable");
        let asked = it.host.opsrun(["reexec", "busybox", "--program", &broken.display().to_string()]);
        asked.fails(1, &[why]);
        assert_eq!((it.supervisor(), program_of(supervisor)), (supervisor, own.clone()));
        assert_eq!((it.keeper(), program_of(keeper)), (keeper, own.clone()));
        it.never_noticed();
        std::fs::remove_file(&broken).expect("remove");
    }
    // One that is right until it is to supervise: there is another supervisor then, of the old program.
    let lies = format!("case $2 in --prove) exec {} \"$@\";; esac; exit 1", support::program().display());
    std::fs::write(&broken, script(&lies)).expect("write");
    std::fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).expect("executable");
    let asked = it.host.opsrun(["reexec", "busybox", "--program", &broken.display().to_string()]);
    asked.fails(1, &["the program before does"]);
    assert_eq!(program_of(it.supervisor_after(supervisor)), own);
    it.never_noticed();
    it.is_like_any_other();
}

#[test]
fn what_runs_under_an_opsrun_that_was_replaced_is_shown() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "");
    let installed = host.path("opsrun");
    let install = || {
        let new = host.path("opsrun-new");
        std::fs::copy(support::program(), &new).expect("another version");
        std::fs::rename(&new, &installed).expect("in its place");
    };
    let opsrun = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&installed);
        command.env("OPSRUN_ROOT", host.root.path()).args(arguments);
        support::done(command)
    };
    install();
    opsrun(&["start", "busybox:1"]).succeeds();
    let told = || {
        let (table, status) = (opsrun(&["ps"]).stdout, opsrun(&["status", "busybox"]).stdout);
        let doctor = opsrun(&["doctor"]);
        let says = [
            table.contains("replaced"),
            status.contains("opsrun reexec busybox"),
            doctor.stdout.contains("supervisors") && doctor.stderr.contains("opsrun reexec --all"),
            host.service("busybox")["program_replaced"] == true,
        ];
        assert!(says.iter().all(|say| *say == says[0]), "{says:?}: {table}{status}{doctor}");
        says[0]
    };
    assert!(!told(), "nothing was replaced");
    install();
    assert!(told(), "it was replaced");
    opsrun(&["reexec", "--all"]).succeeds();
    assert!(!told(), "it has gone on as the new one");
}
