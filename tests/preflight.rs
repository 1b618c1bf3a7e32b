//! What is looked at, said and run around a swap: the plan, the checks that refuse, and hooks; from outside.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Background, Done, Host, get, until};

/// A service with two releases, of which the first runs.
struct Service {
    host: Host,
    port: u16,
}

impl Service {
    fn begin(settings: &str) -> Self {
        let (host, port) = Host::with_busybox();
        let archive = support::image("busybox-1.tar").display().to_string();
        for name in ["busybox:zed", "busybox:epoxy"] {
            host.opsrun(["load", "--tag", name, &archive]).succeeds();
        }
        let it = Self { host, port };
        it.host.opsrun(["start", "busybox:zed"]).succeeds();
        it.settings(settings);
        it
    }

    /// The service's file: its usual content, and more.
    fn settings(&self, more: &str) {
        let (before, after) = more.split_once("---\n").unwrap_or((more, ""));
        let usual = format!(
            "ports = [{}]\n\
             health = {{ check = \"http\", path = \"/\", interval = \"200ms\", timeout = \"2s\", start_timeout = \"30s\" }}\n\
             stop = {{ grace = \"5s\" }}\n",
            self.port
        );
        self.host.write("etc/opsrun/busybox.toml", &format!("{before}{usual}{after}"));
    }

    fn swap(&self, more: &[&str]) -> Done {
        self.host.opsrun(["swap", "busybox", "epoxy", "--soak", "200ms"].iter().chain(more))
    }

    fn plan(&self) -> Value {
        self.host.opsrun(["swap", "busybox", "epoxy", "--plan", "--json"]).json()
    }

    /// What the check of this name found, in the plan.
    fn finding(&self, name: &str) -> Value {
        let plan = self.plan();
        let checks = plan["checks"].as_array().cloned().unwrap_or_default();
        checks
            .into_iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {plan:#}"))
    }

    /// The plan and the swap refuse for this reason; the swap has changed nothing.
    #[track_caller]
    fn refuses(&self, name: &str, texts: &[&str]) {
        let before = self.host.service("busybox");
        let plan = self.host.opsrun(["swap", "busybox", "epoxy", "--plan"]);
        assert_eq!(plan.status, 1, "{plan}");
        assert!(plan.stdout.contains(&format!("REFUSED  {name}")), "{plan}");
        let swap = self.swap(&[]);
        swap.fails(1, &[&format!("refused: {name}: "), "busybox epoxy is not put in place"]);
        for text in texts {
            assert!(plan.stdout.contains(text), "«{text}» is missing: {plan}");
            assert!(swap.stderr.contains(text), "«{text}» is missing: {swap}");
        }
        self.is_as(&before);
    }

    /// The service runs as it did, and nothing is left of a candidate or a hook.
    #[track_caller]
    fn is_as(&self, before: &Value) {
        let after = self.host.service("busybox");
        for key in ["process", "generation", "release", "state"] {
            assert_eq!(before[key], after[key], "{key}");
        }
        assert_eq!(get(self.port, "/").as_deref(), Some("up\n"));
        assert_eq!(self.host.cgroups().len(), 1);
        let names = |path: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.host.path(path)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let generation = before["generation"].to_string();
        assert_eq!(names("var/lib/opsrun/services/busybox/generations"), [generation]);
        assert!(names("var/lib/opsrun/runs").is_empty(), "a hook's container has left its folder");
    }

    /// A plan without what is another one each time.
    fn anonymous(&self, plan: &str) -> String {
        let root = self.host.root.path().display().to_string();
        let text = plan.replace(&root, "ROOT").replace(&self.port.to_string(), "PORT");
        let line = |line: &str| match ["memory", "disk"]
            .iter()
            .find(|name| line.starts_with(&format!("ok       {name} ")))
        {
            Some(name) => format!("ok       {name}  …"),
            None => line.split('(').map(without_id).collect::<Vec<_>>().join("("),
        };
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    /// A message without what is another one each time.
    fn without_numbers(&self, text: &str) -> String {
        let text = text.replace(&self.host.root.path().display().to_string(), "ROOT");
        let mut shown = String::new();
        for character in text.chars() {
            match character {
                '0'..='9' if shown.ends_with('N') => {}
                '0'..='9' => shown.push('N'),
                other => shown.push(other),
            }
        }
        shown.replace("N.N", "N").replace("KiB", "MiB").replace("bytes", "MiB")
    }

    fn release(&self) -> Value {
        self.host.service("busybox")["release"].clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.host.opsrun(["stop", "busybox"]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

fn without_id(text: &str) -> String {
    match text.split_once(')') {
        Some((id, rest)) if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("ID){rest}")
        }
        _ => text.to_owned(),
    }
}

/// Every file below a folder with what would tell a change.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
        }
        let (size, changed) = (metadata.len(), (metadata.ctime(), metadata.ctime_nsec()));
        found.insert(path.display().to_string(), format!("{size} {changed:?}"));
    }
    found
}

const HOOKS: &str = "releases = \"openstack\"\n---\n[hooks]\n\
    pre_swap = [[\"sh\", \"-c\", \"echo expanding; cat /etc/busybox/busybox.conf; echo x >> /var/lib/busybox/hooked\"]]\n\
    post_commit = [[\"sh\", \"-c\", \"test ! -e /var/lib/busybox/broken && echo finished\"]]\n\
    timeout = \"20s\"\n";

#[test]
fn a_plan_says_everything_and_changes_nothing() {
    let it = Service::begin(HOOKS);
    // What this host can do is found out once, and kept until the next boot.
    it.host.opsrun(["doctor"]);
    let look =
        || (tree(it.host.root.path()), it.host.left_over(), it.host.service("busybox")["process"].clone());
    let before = look();
    let plan = it.host.opsrun(["swap", "busybox", "epoxy", "--plan"]);
    plan.succeeds();
    let json = it.plan();
    assert_eq!(look(), before);

    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("plan", it.anonymous(&plan.stdout));
    });
    assert_eq!((&json["outcome"], &json["way"]), (&Value::from("done"), &Value::from("steered")));
    assert_eq!(json["to"]["generation"], 2);
    let steps: Vec<&str> =
        json["steps"].as_array().expect("steps").iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(
        steps,
        [
            "prepare",
            "pre-swap",
            "start",
            "turn",
            "commit",
            "drain",
            "soak",
            "stop-old",
            "post-commit",
            "keep"
        ]
    );

    // To the release that runs there is nothing to do, until its configuration has changed.
    let same = it.host.opsrun(["swap", "busybox", "zed", "--plan"]);
    assert!(same.succeeds().stdout.contains("nothing would be done"), "{same}");
    it.host.configure_busybox(it.port, "# changed");
    let changed = it.host.opsrun(["swap", "busybox", "zed", "--plan"]);
    assert!(changed.succeeds().stdout.contains("it would be done"), "{changed}");
    it.host.opsrun(["stop", "busybox"]).succeeds();
    it.host.opsrun(["swap", "busybox", "epoxy", "--plan"]).fails(1, &["is not running"]);
}

#[test]
fn a_step_that_leaves_out_releases_is_warned_of_and_done() {
    let it = Service::begin("releases = \"openstack\"\n");
    let finding = it.finding("release order");
    assert_eq!(finding["verdict"], "warning");
    assert_eq!(
        finding["detail"],
        "zed (2022.2) to epoxy (2025.1, SLURP) leaves out antelope, bobcat, caracal, dalmatian"
    );
    let done = it.swap(&[]);
    let warning = "warning: release order: zed (2022.2) to epoxy (2025.1, SLURP) leaves out";
    assert!(done.succeeds().stderr.contains(warning), "{done}");
    assert_eq!(it.release(), "epoxy");
    let back = it.host.opsrun(["swap", "busybox", "zed", "--plan"]);
    assert!(back.succeeds().stdout.contains("opsrun rollback busybox"), "{back}");
}

#[test]
fn past_a_point_of_no_return_force_is_asked_for() {
    let it = Service::begin(
        "releases = \"openstack\"\n---\n[[point_of_no_return]]\nfrom = \"caracal\"\nto = \"dalmatian\"\nreason = \"contracted\"\n",
    );
    it.refuses("way back", &["there is no way back from epoxy to zed: contracted", "--force"]);
    it.swap(&["--force"]).succeeds();
    assert_eq!(it.release(), "epoxy");
    it.host
        .opsrun(["swap", "busybox", "zed"])
        .fails(1, &["epoxy is past the point from which there is a way to zed"]);
}

#[test]
fn a_rollback_is_planned_checked_and_refused_in_the_same_way_and_runs_no_hooks() {
    let it = Service::begin("");
    it.swap(&[]).succeeds();
    it.settings(HOOKS);
    let before = (tree(it.host.root.path()), it.host.left_over());
    let plan = it.host.opsrun(["rollback", "busybox", "--plan"]);
    let text = plan.succeeds().stdout.clone();
    assert!(
        text.starts_with("rollback busybox: zed (generation 3) in place of epoxy (generation 2)"),
        "{text}"
    );
    assert!(
        text.contains("epoxy (2025.1, SLURP) to zed (2022.2) goes back") && !text.contains("WARNING  hooks"),
        "{text}"
    );
    assert!(text.contains("generations/1/conf") && !text.contains("hook"), "{text}");
    assert_eq!((tree(it.host.root.path()), it.host.left_over()), before);
    let point = "[[point_of_no_return]]\nfrom = \"zed\"\nto = \"epoxy\"\nreason = \"contracted\"\n";
    it.settings(&format!("{HOOKS}{point}"));
    it.host.opsrun(["rollback", "busybox"]).fails(
        1,
        &["refused: way back: epoxy is past the point from which there is a way to zed: contracted"],
    );
    let stranger = TcpListener::bind(("127.0.0.2", it.port)).expect("another address");
    let plan = it.host.opsrun(["rollback", "busybox", "--plan", "--force"]);
    assert!(plan.status == 1 && plan.stdout.contains("REFUSED  port"), "{plan}");
    assert_eq!(it.release(), "epoxy");
    drop(stranger);
    let done = it.host.opsrun(["rollback", "busybox", "--force", "--soak", "200ms"]);
    assert!(!done.succeeds().stderr.contains("hook"), "{done}");
    assert_eq!(it.release(), "zed");
}

#[test]
fn a_stranger_on_the_port_is_named() {
    let it = Service::begin("");
    assert_eq!(it.finding("port")["verdict"], "ok");
    let stranger = TcpListener::bind(("127.0.0.2", it.port)).expect("another address");
    let pid = std::process::id();
    it.refuses("port", &[&format!("(process {pid})"), &format!("port {} is held by ", it.port)]);
    drop(stranger);
    it.swap(&[]).succeeds();
}

#[test]
fn every_check_that_refuses_is_shown_at_once() {
    let it = Service::begin("---\n[configuration]\nrequired = [\"busybox.conf\", \"policy.yaml\"]\n");
    let _stranger = TcpListener::bind(("127.0.0.2", it.port)).expect("another address");
    it.refuses("configuration", &["policy.yaml"]);
    it.refuses("port", &["is held by"]);
    it.swap(&[]).fails(1, &["2 checks refuse it"]);
}

#[test]
fn a_configuration_that_the_user_cannot_read_is_refused() {
    let it = Service::begin("user = \"4242\"\n---\n[configuration]\nrequired = [\"busybox.conf\"]\n");
    let conf = it.host.path("opt/busybox/conf/busybox.conf");
    std::fs::set_permissions(&conf, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    it.refuses("configuration", &["cannot be read by", "chgrp"]);
}

/// The image of the next release has the service's user under another number.
#[test]
fn a_user_that_cannot_use_what_the_old_one_owns_is_refused() {
    let it = Service::begin("user = \"4242:4242\"\n");
    let lib = it.host.path("opt/busybox/lib");
    chown(&lib, Some(4242), Some(4242)).expect("chown");
    chown(it.host.path("opt/busybox/log"), Some(4242), Some(4242)).expect("chown");
    it.host.write("opt/busybox/lib/busybox.db", "data");
    std::fs::set_permissions(lib.join("busybox.db"), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let file = lib.join("busybox.db").display().to_string();
    it.refuses(
        "user",
        &[
            "busybox:epoxy runs as uid 4242, which cannot use what belongs to uid 0, as which zed runs",
            &file,
            "user = \"0:0\" in ",
            &format!("chown -R --from=0 4242:4242 {}", lib.display()),
        ],
    );
    chown(lib.join("busybox.db"), Some(4242), Some(4242)).expect("chown");
    assert_eq!(it.finding("user")["verdict"], "ok");
}

#[test]
fn an_image_whose_records_are_damaged_is_refused() {
    let it = Service::begin("");
    let layers = || {
        let folder = tree(&it.host.path("var/lib/opsrun/store/layers"));
        folder.into_keys().filter(|path| path.ends_with("/layer.json")).collect::<Vec<_>>()
    };
    let before = layers();
    let archive = support::image("checked-1.tar").display().to_string();
    it.host.opsrun(["load", "--tag", "busybox:epoxy", &archive]).succeeds();
    assert_eq!(it.finding("image")["verdict"], "ok");
    // One of its own, which nothing runs from.
    let record = layers().into_iter().find(|path| !before.contains(path)).expect("a layer of its own");
    std::fs::remove_file(&record).expect("remove");
    let before = it.host.service("busybox");
    for more in [&[][..], &["--plan"]] {
        it.swap(more).fails(1, &[&record, "opsrun fsck"]);
    }
    it.is_as(&before);
}

#[test]
fn a_disk_without_room_for_the_generation_is_refused() {
    let it = Service::begin("");
    assert_eq!(it.finding("disk")["verdict"], "ok");
    let conf = it.host.path("opt/busybox/conf");
    // Sparse files take nothing: what counts is what is there.
    let big = conf.join("big");
    let file = std::fs::File::create(&big).expect("a file");
    file.set_len(1 << 40).expect("sparse");
    assert_eq!(it.finding("disk")["verdict"], "ok");
    std::fs::remove_file(big).expect("remove");
    let folder = it.host.path("var/lib/opsrun/services/busybox/generations");
    let folder = folder.to_str().expect("a path");
    it.host.opsrun(["stop", "busybox"]).succeeds();
    let mounted = support::done({
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m", "opsrun-test", folder]);
        mount
    });
    mounted.succeeds();
    let _mounted = Unmount(folder.to_owned());
    it.host.opsrun(["start", "busybox:zed"]).succeeds();
    assert_eq!(it.finding("disk")["verdict"], "ok");
    std::fs::write(format!("{folder}/full"), vec![1; 2_500_000]).expect("fill");
    let before = it.host.service("busybox");
    let done = it.host.opsrun(["swap", "busybox", "epoxy"]);
    done.fails(1, &["refused: disk: a generation takes ", "df -h"]);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("no_disk", it.without_numbers(&done.stderr));
    });
    assert_eq!(it.host.service("busybox")["process"], before["process"]);
    it.host.opsrun(["stop", "busybox"]).succeeds();
}

/// For the command alone the host says that it has none left.
#[test]
fn a_host_without_memory_for_another_generation_is_refused() {
    let it = Service::begin("");
    let before = it.host.service("busybox");
    let line = |line: &str| match line.split_once(':') {
        Some((name @ ("MemAvailable" | "MemFree" | "SwapFree"), _)) => format!("{name}: 0 kB\n"),
        _ => format!("{line}\n"),
    };
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("what it says");
    it.host.write("meminfo", &meminfo.lines().map(line).collect::<String>());
    let swap = |more: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /proc/meminfo && exec \"$@\""]);
        command.arg(it.host.path("meminfo")).arg(support::program());
        command.args(["swap", "busybox", "epoxy", "--soak", "200ms"]).args(more);
        command.env("OPSRUN_ROOT", it.host.root.path());
        support::done(command)
    };
    let plan = swap(&["--plan"]);
    assert!(plan.status == 1 && plan.stdout.contains("REFUSED  memory"), "{plan}");
    let done = swap(&[]);
    done.fails(1, &["refused: memory: beside zed, which uses ", "opsrun stats busybox"]);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        // How much a web server takes depends on how it was built.
        insta::assert_snapshot!("no_memory", it.without_numbers(&done.stderr).replace("N kB", "N MB"));
    });
    it.is_as(&before);
    // Where the old one goes first it leaves its memory to the new one.
    swap(&["--stop-first"]).succeeds();
    assert_eq!(it.release(), "epoxy");
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
fn hooks_are_run_in_the_new_image_and_their_output_is_kept() {
    let it = Service::begin(HOOKS);
    it.host.configure_busybox(it.port, "# of the candidate");
    it.settings(HOOKS);
    let done = it.swap(&[]);
    done.succeeds();
    for text in
        ["running the pre_swap hook `sh -c echo expanding", "running the post_commit hook `sh -c test"]
    {
        assert!(done.stderr.contains(text), "«{text}» is missing: {done}");
    }
    assert_eq!(it.release(), "epoxy");
    assert_eq!(std::fs::read_to_string(it.host.path("opt/busybox/lib/hooked")).expect("the mark"), "x\n");
    let log = it.host.opsrun(["logs", "busybox", "--hooks"]).succeeds().stdout.clone();
    let words: Vec<&str> =
        log.lines().map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest)).collect();
    let listen = format!("listen=127.0.0.1:{}", it.port);
    assert!(words[0].starts_with("pre_swap $ sh -c echo expanding"), "{log}");
    assert_eq!(words[1..5], ["expanding", &listen, "# of the candidate", "ended with status 0"], "{log}");
    assert_eq!(words[words.len() - 2..], ["finished", "ended with status 0"], "{log}");
    let before = it.host.opsrun(["logs", "busybox", "--hooks", "--generation", "1"]);
    assert_eq!(before.succeeds().stdout, "");
}

#[test]
fn a_hook_that_fails_stops_the_swap_and_nothing_is_changed() {
    let it = Service::begin("");
    let before = it.host.service("busybox");
    for (hook, timeout, texts) in [
        (r#"["sh", "-c", "echo no database; exit 3"]"#, "20s", ["ended with status 3", "| no database"]),
        (
            r#"["sh", "-c", "echo waiting; sleep 1000"]"#,
            "1s",
            ["took longer than 1s and was killed", "| waiting"],
        ),
        (r#"["keystone-manage", "db_sync"]"#, "20s", ["could not be run", "keystone-manage"]),
    ] {
        it.settings(&format!("---\n[hooks]\npre_swap = [[\"true\"], {hook}]\ntimeout = \"{timeout}\"\n"));
        let done = it.swap(&[]);
        done.fails(1, &["busybox epoxy is not put in place: its hook `", texts[0], texts[1]]);
        it.is_as(&before);
    }
    let history = it.host.opsrun(["history", "busybox"]).succeeds().stdout.clone();
    assert!(history.contains("its hook `sh -c echo no database; exit 3` ended with status 3"), "{history}");
}

#[test]
fn a_signal_during_a_hook_ends_it_and_the_swap() {
    let it = Service::begin(
        "---\n[hooks]\npre_swap = [[\"sh\", \"-c\", \"touch /var/lib/busybox/began; exec sleep 1000\"], [\"touch\", \"/var/lib/busybox/second\"]]\n",
    );
    let before = it.host.service("busybox");
    let mut command = it.host.command();
    command.args(["swap", "busybox", "epoxy"]).stderr(Stdio::piped());
    let mut swap = Background(command.spawn().expect("swap"));
    until("the hook runs", || it.host.path("opt/busybox/lib/began").exists());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(swap.0.id()).expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert_eq!(swap.0.wait().expect("wait").code(), Some(1));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut swap.0.stderr.take().expect("stderr"), &mut said).expect("read");
    assert!(said.contains("was ended, since this command got SIGTERM"), "{said}");
    it.is_as(&before);
    assert!(!it.host.path("opt/busybox/lib/second").exists(), "the next hook was run all the same");
    assert_eq!(it.host.left_over().iter().filter(|line| line.contains("sleep")).count(), 0);
}

#[test]
fn a_post_commit_hook_that_fails_leaves_the_new_release_and_is_run_again() {
    let it = Service::begin(HOOKS);
    it.host.write("opt/busybox/lib/broken", "");
    it.swap(&[]).fails(
        5,
        &[
            "busybox epoxy serves, and yet not all is done: its hook `sh -c test",
            "ended with status 1",
            "opsrun swap busybox epoxy",
        ],
    );
    assert_eq!(it.release(), "epoxy");
    let status = it.host.opsrun(["status", "busybox"]).succeeds().stdout.clone();
    assert!(status.contains("has not been run yet, or not to the end"), "{status}");
    let plan = it.host.opsrun(["swap", "busybox", "zed", "--plan"]);
    assert!(plan.succeeds().stdout.contains("WARNING  hooks"), "{plan}");
    std::fs::remove_file(it.host.path("opt/busybox/lib/broken")).expect("mend");
    let process = it.host.service("busybox")["process"].clone();
    let again = it.swap(&[]);
    assert!(again.succeeds().stderr.contains("running the post_commit hook"), "{again}");
    assert_eq!(it.host.service("busybox")["process"], process);
    let third = it.swap(&[]);
    assert!(third.succeeds().stderr.contains("nothing was done"), "{third}");
}

/// What the command owes the service is on disk before the swap begins.
#[test]
fn a_command_that_is_killed_before_its_post_commit_hook_does_not_forget_it() {
    let it = Service::begin(HOOKS);
    let mut command = it.host.command();
    command.args(["swap", "busybox", "epoxy", "--soak", "3s"]).stderr(Stdio::null());
    let mut swap = Background(command.spawn().expect("swap"));
    it.host.service_until("busybox", "the new one serves", |service| service["generation"] == 2);
    swap.0.kill().expect("kill");
    swap.0.wait().expect("wait");
    it.swap(&[]).fails(1, &["is being swapped"]);
    until("the soak is over", || {
        let events = it.host.opsrun(["events", "busybox"]).stdout;
        events.lines().any(|line| line.contains("swapped"))
    });
    let pending = it.host.opsrun(["status", "--json", "busybox"]).json()["pending_hooks"].clone();
    assert_eq!(pending.as_array().map(Vec::len), Some(1), "{pending}");
    let again = it.swap(&[]);
    assert!(again.succeeds().stderr.contains("running the post_commit hook"), "{again}");
    assert!(it.host.opsrun(["logs", "busybox", "--hooks"]).stdout.contains("finished"));
}

#[test]
fn with_several_releases_config_init_says_how_to_name_one() {
    let host = Host::new();
    let archive = support::image("busybox-1.tar").display().to_string();
    for name in ["busybox:zed", "busybox:epoxy"] {
        host.opsrun(["load", "--tag", name, &archive]).succeeds();
    }
    host.opsrun(["config", "init", "busybox"])
        .fails(1, &["hint: name one of them: opsrun config init busybox --from zed"]);
    host.opsrun(["config", "init", "busybox", "--from", "zed"]).succeeds();
    host.opsrun(["config", "init", "busybox", "--from", "yoga"])
        .fails(1, &["opsrun config init busybox --from epoxy"]);
}
