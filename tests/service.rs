//! A service's life as a person sees it: started, looked at, crashed, restarted, stopped.

mod support;

use std::process::Stdio;

use serde_json::Value;
use support::{Background, Host, get, until};

fn pid(service: &Value) -> i32 {
    i32::try_from(service["process"].as_i64().expect("a process")).expect("a pid")
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
}

#[test]
fn a_service_starts_serves_and_stops_without_a_trace() {
    let (host, port) = Host::with_busybox();
    let started = host.opsrun(["start", "busybox:1"]);
    started.succeeds();
    assert!(started.stderr.contains("busybox 1 is healthy (generation 1, process "), "{started}");
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));

    let service = host.service("busybox");
    assert_eq!(service["release"], "1");
    assert_eq!(service["state"], "running");
    assert_eq!(service["health"], "healthy");
    assert_eq!(service["restarts"], 0);
    assert_eq!(service["enabled"], false);
    host.opsrun(["enable", "busybox"]).succeeds();
    assert_eq!(host.service("busybox")["enabled"], true);
    assert_eq!(host.cgroups().len(), 1);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&host.root.path().display().to_string()), "{mounts}");

    // Both can be told from anything else among the host's processes.
    let process = pid(&service);
    let supervisor = service["supervisor"].as_i64().expect("a supervisor");
    let shown = |process: i64| {
        let line = std::fs::read_to_string(format!("/proc/{process}/cmdline")).expect("a command line");
        line.replace('\0', " ").trim_end().to_owned()
    };
    assert_eq!(shown(process.into()), "opsrun-init busybox-g1");
    assert_eq!(shown(supervisor), "opsrun supervise busybox");

    host.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(get(port, "/"), None);
    assert_eq!(host.service("busybox")["state"], "stopped");
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    until("the supervisor has ended", || host.left_over().is_empty());
}

#[test]
fn a_service_that_is_killed_comes_up_again_and_the_restart_is_counted() {
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let first = host.service("busybox");
    kill(pid(&first));
    let second = host.service_until("busybox", "it runs again", |service| {
        service["state"] == "running" && service["restarts"] == 1
    });
    assert_ne!(second["process"], first["process"]);
    assert_eq!(second["generation"], first["generation"]);
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    let status = host.opsrun(["status", "busybox"]);
    assert!(status.succeeds().stdout.contains("137"), "{status}");
}

#[test]
fn what_a_service_wrote_to_its_root_is_there_after_a_crash_and_gone_in_the_next_generation() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.opsrun(["exec", "busybox", "sh", "-c", "echo mark > /tmp/mark"]).succeeds();
    let first = host.service("busybox");
    kill(pid(&first));
    host.service_until("busybox", "it runs again", |service| {
        service["state"] == "running" && service["restarts"] == 1
    });
    assert_eq!(host.opsrun(["exec", "busybox", "cat", "/tmp/mark"]).succeeds().stdout, "mark\n");
    host.opsrun(["restart", "busybox"]).succeeds();
    assert_eq!(host.opsrun(["exec", "busybox", "test", "-e", "/tmp/mark"]).status, 1);
}

#[test]
fn a_service_that_always_fails_is_left_alone_in_the_end_and_says_so() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "echo about to fail; sleep 0.5; exit 7");
    host.write(
        "etc/opsrun/busybox.toml",
        "health = { check = \"runs\", runs_for = \"200ms\" }\n\
         restart = { policy = \"always\", backoff_first = \"50ms\", backoff_max = \"100ms\", crash_loop_failures = 3 }\n",
    );
    host.opsrun(["start", "busybox:1"]).succeeds();
    let service = host.service_until("busybox", "the verdict", |service| service["state"] == "crash-loop");
    assert_eq!(service["restarts"], 2);
    let status = host.opsrun(["status", "busybox"]).succeeds().stdout.clone();
    assert!(status.contains("it failed 3 times in a row and is left alone"), "{status}");
    assert!(status.contains("it exited with status 7"), "{status}");
    until("the supervisor has ended", || host.left_over().is_empty());
    let logs = host.opsrun(["logs", "busybox"]).succeeds().stdout.clone();
    assert_eq!(logs.matches("about to fail").count(), 3, "{logs}");
}

#[test]
fn boot_takes_up_a_service_that_was_waiting_for_its_restart() {
    let (host, port) = Host::with_busybox();
    // It ends once, and the next time it stays.
    host.configure_busybox(port, "[ -e /tmp/again ] && exec sleep 1000; touch /tmp/again; sleep 0.5; exit 7");
    host.write(
        "etc/opsrun/busybox.toml",
        "health = { check = \"runs\", runs_for = \"100ms\" }\n\
         restart = { policy = \"always\", backoff_first = \"1h\", backoff_max = \"1h\" }\n",
    );
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.service_until("busybox", "it waits", |service| service["state"] == "backing-off");
    host.kill_supervisor_and_keeper("busybox");
    let lock = host.path("run/opsrun/busybox/lock");
    let held = std::fs::read_to_string(&lock).expect("the lock");
    // As one that the host has found on its disk at its start.
    std::fs::write(&lock, "7\nanother boot\n").expect("written");
    host.opsrun(["boot"]).succeeds();
    assert!(host.service("busybox")["supervisor"].is_null(), "it is not enabled");
    std::fs::write(&lock, held).expect("written");
    let boot = host.opsrun(["boot"]);
    assert!(boot.succeeds().stderr.contains("busybox"), "{boot}");
    host.service_until("busybox", "it runs again", |service| service["state"] == "running");
}

#[test]
fn a_start_that_fails_shows_the_last_lines_and_changes_nothing() {
    let (host, port) = Host::with_busybox();
    host.configure_busybox(port, "echo first; echo the reason >&2; exit 3");
    let failed = host.opsrun(["start", "busybox:1"]);
    failed.fails(
        1,
        &["error: busybox did not become healthy", "it exited with status 3", "the reason", "hint: "],
    );
    assert_eq!(host.service("busybox"), Value::Null);
    until("the supervisor has ended", || host.left_over().is_empty());
    let generations = host.path("var/lib/opsrun/services/busybox/generations");
    assert_eq!(std::fs::read_dir(generations).map_or(0, Iterator::count), 0);
}

#[test]
fn a_restart_takes_the_new_configuration_and_goes_back_when_that_fails() {
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.write("opt/busybox/conf/busybox.conf", "exit 9\n");
    // What runs has its own copy: a crash does not bring the change in.
    let first = host.service("busybox");
    kill(pid(&first));
    host.service_until("busybox", "it runs again", |service| {
        service["state"] == "running" && service["restarts"] == 1
    });
    let drift = host.opsrun(["status", "busybox"]);
    assert!(drift.succeeds().stdout.contains("busybox.conf"), "{drift}");

    host.opsrun(["restart", "busybox"]).fails(3, &["it exited with status 9"]);
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    assert_eq!(host.service("busybox")["generation"], 1);

    host.write("opt/busybox/conf/busybox.conf", &format!("listen=127.0.0.1:{port}\necho changed\n"));
    host.opsrun(["restart", "busybox"]).succeeds();
    assert!(host.service("busybox")["generation"].as_u64() > Some(1));
    assert!(host.opsrun(["logs", "-n", "2", "busybox"]).succeeds().stdout.contains("changed"));
}

#[test]
fn a_swap_after_which_neither_serves_says_that_a_person_is_needed() {
    let (host, port) = Host::with_busybox();
    // Data is live, so what breaks there breaks the old generation as well.
    host.configure_busybox(port, "[ ! -e /var/lib/busybox/broken ] || { echo broken data; exit 5; }");
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.write("opt/busybox/lib/broken", "");
    host.configure_busybox(
        port,
        "[ ! -e /var/lib/busybox/broken ] || { echo broken data; exit 5; } # changed",
    );
    host.opsrun(["swap", "busybox", "1", "--stop-first"])
        .fails(4, &["it exited with status 5", "broken data", "hint: "]);
    assert_eq!(get(port, "/"), None);
    // It is tried on by its own rules, until somebody has mended it.
    std::fs::remove_file(host.path("opt/busybox/lib/broken")).expect("mended");
    host.service_until("busybox", "it serves again", |service| service["health"] == "healthy");
    assert_eq!(host.service("busybox")["generation"], 1);
}

#[test]
fn a_service_whose_supervisor_died_serves_on_is_shown_as_such_and_can_be_stopped() {
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let service = host.service("busybox");
    host.kill_supervisor_and_keeper("busybox");
    let orphan =
        host.service_until("busybox", "the supervisor is gone", |service| service["supervisor"].is_null());
    assert_eq!(orphan["process"], service["process"]);
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    let table = host.opsrun(["ps"]).succeeds().stdout.clone();
    assert!(table.contains("unsupervised"), "{table}");
    host.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(get(port, "/"), None);
    until("nothing of it is left", || host.left_over().is_empty());
}

#[test]
fn an_images_own_health_check_decides() {
    let host = Host::new();
    host.load("checked-1.tar");
    // As from a script in the background, or under nohup: what is ignored there must not be in the container.
    let mut start = std::process::Command::new("sh");
    start.args(["-c", "trap '' HUP INT QUIT; exec \"$0\" start checked:1"]).arg(support::program());
    support::done({
        start.env("OPSRUN_ROOT", host.root.path());
        start
    })
    .succeeds();
    assert_eq!(host.service("checked")["health"], "healthy");
    host.opsrun(["exec", "checked", "touch", "/tmp/sick"]).succeeds();
    host.service_until("checked", "it is seen to be sick", |service| service["health"] == "unhealthy");
    host.opsrun(["exec", "checked", "rm", "/tmp/sick"]).succeeds();
    host.service_until("checked", "it is seen to be well", |service| service["health"] == "healthy");
    host.opsrun(["stop", "checked"]).succeeds();
    // Its stop signal is SIGINT, on which it says so.
    assert!(host.opsrun(["logs", "checked"]).succeeds().stdout.contains("stopped"));
}

#[test]
fn logs_follow_a_service_across_restarts() {
    use std::io::{BufRead, BufReader};
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let mut follower = host.command();
    follower.args(["logs", "-f", "busybox"]).stdout(Stdio::piped());
    let mut follower = Background(follower.spawn().expect("follow"));
    let mut lines = BufReader::new(follower.0.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), format!("listening on 127.0.0.1:{port}"));
    kill(pid(&host.service("busybox")));
    assert_eq!(next(), format!("listening on 127.0.0.1:{port}"));
    host.service_until("busybox", "it runs again", |service| service["state"] == "running");
    host.opsrun(["restart", "busybox"]).succeeds();
    assert_eq!(next(), format!("listening on 127.0.0.1:{port}"));
}

#[test]
fn the_containers_hosts_file_follows_the_hosts_also_when_that_is_replaced() {
    let (host, _) = Host::with_busybox();
    // In a mount namespace of its own, so that it is not this machine's file that changes.
    let script = r#"
        mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && cp -a /etc /mnt/etc && mount --bind /mnt/etc /etc
        echo '127.0.0.1 first' > /etc/hosts
        "$0" start busybox:1 || exit 1
        "$0" exec busybox cat /etc/hosts
        echo '127.0.0.1 second' > /etc/hosts.new && mv /etc/hosts.new /etc/hosts
        for try in $(seq 200); do
            "$0" exec busybox cat /etc/hosts | grep second && break
        done
        "$0" stop busybox
        "$0" run busybox:1 sh -c 'echo up; until grep third /etc/hosts; do :; done' | {
            read up
            echo '127.0.0.1 third' > /etc/hosts.new && mv /etc/hosts.new /etc/hosts
            cat
        }
    "#;
    let mut command = host.command();
    let program = command.get_program().to_owned();
    command = {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script]).arg(program).env("OPSRUN_ROOT", host.root.path());
        unshare
    };
    let done = support::done(command);
    done.succeeds();
    assert_eq!(done.stdout, "127.0.0.1 first\n127.0.0.1 second\n127.0.0.1 third\n", "{done}");
}

#[test]
fn a_command_in_a_service_is_as_confined_as_the_service() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let facts = "grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/PID/status";
    let service =
        host.opsrun(["exec", "busybox", "sh", "-c", &facts.replace("PID", "2")]).succeeds().stdout.clone();
    let command =
        host.opsrun(["exec", "busybox", "sh", "-c", &facts.replace("PID", "self")]).succeeds().stdout.clone();
    // The service has one more, which forbids nothing: it tells the supervisor of binds. Beside the profile there is one that
    // refuses the uids of listeners.
    assert!(service.contains("Seccomp_filters:\t3\n"), "{service}");
    assert_eq!(service.replace("Seccomp_filters:\t3\n", "Seccomp_filters:\t2\n"), command);
    // Docker's default list, the same privileges for good.
    assert!(service.contains("CapEff:\t00000000a80425fb\n"), "{service}");
    assert!(service.contains("NoNewPrivs:\t1\n") && service.contains("Seccomp:\t2\n"), "{service}");
    // mount(2) needs CAP_SYS_ADMIN; the host's disks are not there to be read, nor can they be made.
    assert_ne!(host.opsrun(["exec", "busybox", "mount", "-t", "tmpfs", "x", "/tmp"]).status, 0);
    let disk = "mknod /tmp/disk b 254 0 && cat /tmp/disk";
    let refused = host.opsrun(["exec", "busybox", "sh", "-c", disk]);
    assert!(refused.stderr.contains("Operation not permitted"), "{refused}");
}

#[test]
fn exec_gives_the_commands_own_status_and_the_environment_asked_for() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    assert_eq!(host.opsrun(["exec", "busybox", "sh", "-c", "exit 41"]).status, 41);
    assert_eq!(host.opsrun(["exec", "busybox", "sh", "-c", "kill -9 $$"]).status, 137);
    host.opsrun(["exec", "busybox", "no-such-program"]).fails(127, &["no-such-program"]);
    host.opsrun(["exec", "busybox", "/etc"]).fails(126, &["/etc"]);
    let said = host.opsrun([
        "exec",
        "-e",
        "A=b c",
        "-w",
        "/www",
        "-u",
        "web",
        "busybox",
        "sh",
        "-c",
        "echo $A; pwd; id",
    ]);
    assert_eq!(
        said.succeeds().stdout,
        "b c\n/www\nuid=1000(web) gid=1000(web) groups=1000(web),1001(readers)\n"
    );
    let echoed = host.opsrun_reading(["exec", "-i", "busybox", "cat"], b"through and back");
    assert_eq!(echoed.succeeds().stdout, "through and back");
}

#[test]
fn without_init_the_service_is_process_1() {
    let (host, port) = Host::with_busybox();
    let toml = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("the service file");
    host.write("etc/opsrun/busybox.toml", &format!("init = false\n{toml}"));
    host.opsrun(["start", "busybox:1"]).succeeds();
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    let first = host.opsrun(["exec", "busybox", "cat", "/proc/1/cmdline"]).succeeds().stdout.clone();
    assert!(first.contains("httpd"), "{first:?}");
}

#[test]
fn an_orphan_in_the_container_is_reaped() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    // The middle shell ends at once, so that the sleep is process 1's to reap.
    host.opsrun(["exec", "busybox", "sh", "-c", "(sleep 0.2 &)"]).succeeds();
    until("no zombie is left", || {
        let states = host.opsrun(["exec", "busybox", "sh", "-c", "cat /proc/[0-9]*/stat"]);
        !states.succeeds().stdout.contains("sleep")
    });
}

/// Where the host's containers of this root have their cgroups, whether or not that exists now.
fn parent_of_cgroups(host: &Host) -> std::path::PathBuf {
    let text =
        std::fs::read_to_string(host.path("var/lib/opsrun/services/busybox/generations/1/config.json"));
    let spec: Value = serde_json::from_str(&text.expect("its bundle")).expect("JSON");
    let path = spec["linux"]["cgroupsPath"].as_str().expect("a cgroup").trim_start_matches('/').to_owned();
    support::cgroup_mount().join(path).parent().expect("a parent").to_owned()
}

#[test]
fn a_container_that_is_on_no_record_is_removed_by_whoever_looks_next() {
    for command in [&["stop", "busybox"][..], &["boot"], &["start", "busybox:1"], &["rm", "busybox"]] {
        let (host, _) = Host::with_busybox();
        host.opsrun(["start", "busybox:1"]).succeeds();
        let parent = parent_of_cgroups(&host);
        if command == ["boot"] {
            // Its container is to be taken up, and what is beside it is not.
            host.kill_supervisor_and_keeper("busybox");
            until("it is gone", || host.service("busybox")["supervisor"].is_null());
        } else {
            host.opsrun(["stop", "busybox"]).succeeds();
            assert!(!parent.exists(), "the last one takes the parent along");
        }
        // As a supervisor and the process that makes containers leave it when both are killed at once.
        let stray = parent.join("busybox-g77");
        std::fs::create_dir_all(&stray).expect("a cgroup");
        let mut sleeper = Background(std::process::Command::new("sleep").arg("1000").spawn().expect("sleep"));
        std::fs::write(stray.join("cgroup.procs"), sleeper.0.id().to_string()).expect("move it there");
        // Somebody else's.
        let other = parent.join("busybox-green-g1");
        std::fs::create_dir(&other).expect("a cgroup");

        let done = host.opsrun(command);
        assert_eq!(done.status, i32::from(command[0] == "stop"), "{done}");
        assert!(!stray.exists(), "{done}");
        assert!(sleeper.0.wait().expect("wait").code().is_none(), "it is killed");
        assert!(other.exists());
        std::fs::remove_dir(&other).expect("remove it");
        if ["stop", "rm"].contains(&command[0]) {
            let _ = std::fs::remove_dir(&parent);
        } else {
            host.opsrun(["stop", "busybox"]).succeeds();
        }
        assert!(!parent.exists());
    }
}

#[test]
fn wherever_a_supervisor_dies_at_a_start_the_next_command_leaves_no_cgroup() {
    let mut deaths = 0;
    for number in 1.. {
        let command =
            [&["stop", "busybox"][..], &["rm", "--force", "busybox"], &["start", "busybox:1"]][number % 3];
        let (host, _) = Host::with_busybox();
        host.opsrun(["start", "busybox:1"]).succeeds();
        let parent = parent_of_cgroups(&host);
        host.opsrun(["stop", "busybox"]).succeeds();
        let mut start = host.command();
        let armed = host.path("armed");
        std::fs::write(&armed, "").expect("armed");
        start.env("OPSRUN_TEST_CRASH", format!("supervise:{number}:{}", armed.display()));
        start.args(["start", "busybox:1"]);
        if support::done(start).status == 0 {
            // Twice: the supervisor was told to die at an action of the first one.
            for _ in 0..2 {
                let _ = host.opsrun(["stop", "busybox"]);
            }
            assert!(!parent.exists(), "a container is left");
            break;
        }
        deaths += 1;
        let done = host.opsrun(command);
        // Where nothing was made there is nothing to stop.
        let is_up = done.status == 0 && command[0] == "start";
        assert!(
            done.status == 0 || command[0] == "stop" || done.stderr.contains("already running"),
            "{done}"
        );
        if is_up || done.status != 0 {
            host.opsrun(["stop", "busybox"]);
        }
        until(&format!("no cgroup is left of death {number}"), || !parent.exists());
    }
    assert!(deaths > 2, "only {deaths} deaths");
}
