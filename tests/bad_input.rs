//! Whatever a person gets wrong: one clear error that names the thing, a hint with the command to type next, the right
//! exit status, and nothing half-made.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Host, done, image, program};

/// Every file below the root, but for what the load of an image is allowed to leave: an empty store.
fn everything_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            found.push(entry.path());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// A root on a disk of its own, of so many kilobytes, in a mount namespace of its own; `script` runs with the program as
/// `$0` and may fail.
fn on_a_small_disk(kilobytes: u32, script: &str) -> support::Done {
    let folder = tempfile::tempdir().expect("a folder");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c"]);
    unshare.arg(format!(
        "mount --make-rprivate / && mount -t tmpfs -o size={kilobytes}k tmpfs {} && {script}",
        folder.path().display()
    ));
    unshare.arg(program()).env("OPSRUN_ROOT", folder.path());
    done(unshare)
}

#[test]
fn a_truncated_archive() {
    let host = Host::new();
    let whole = std::fs::read(image("busybox-1.tar")).expect("the image");
    let cut = host.path("cut.tar");
    for part in [whole.len() / 2, whole.len() * 9 / 10, 3000] {
        std::fs::write(&cut, &whole[..part]).expect("write");
        host.opsrun(["load", cut.to_str().expect("path")]).fails(1, &["cut.tar", "truncated", "hint: "]);
        nothing_is_loaded(&host);
    }
    host.opsrun_reading(["load", "-"], &whole[..whole.len() / 2]).fails(1, &["truncated", "hint: "]);
    nothing_is_loaded(&host);
}

#[test]
fn an_archive_whose_content_is_not_what_its_digest_says() {
    let host = Host::new();
    let mut bytes = std::fs::read(image("busybox-1.tar")).expect("the image");
    // In the middle of the largest blob.
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 8] {
        *byte ^= 0xff;
    }
    let changed = host.path("changed.tar");
    std::fs::write(&changed, bytes).expect("write");
    let failed = host.opsrun(["load", changed.to_str().expect("path")]);
    failed.fails(1, &["error: ", "sha256:", "hint: "]);
    nothing_is_loaded(&host);
}

#[track_caller]
fn nothing_is_loaded(host: &Host) {
    let images = host.opsrun(["images", "--json"]).succeeds().json();
    assert_eq!(images["images"], Value::Array(Vec::new()));
    let store = host.path("var/lib/opsrun/store");
    let left: Vec<_> = everything_below(&store).into_iter().filter(|path| path.is_file()).collect();
    let allowed = ["version", "lock", "tags.json"];
    let more: Vec<_> = left
        .iter()
        .filter(|path| !allowed.iter().any(|name| path.file_name().is_some_and(|found| found == *name)))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_file_that_is_no_image() {
    let host = Host::new();
    host.opsrun(["load", "/etc/passwd"]).fails(1, &["/etc/passwd is not an image", "hint: "]);
    host.opsrun(["load", "/nonexistent.tar"]).fails(1, &["/nonexistent.tar", "hint: "]);
    host.opsrun(["load", "/etc"]).fails(1, &["/etc", "hint: "]);
    host.opsrun_reading(["load", "-"], b"").fails(1, &["error: ", "hint: "]);
}

#[test]
fn an_image_for_another_architecture() {
    let host = Host::new();
    let archive = host.path("foreign.tar");
    let script = format!(
        "set -e; s=$(mktemp -d); b() {{ buildah --root $s/r --runroot $s/run --storage-driver vfs \"$@\"; }}; \
         c=$(b from --arch riscv64 scratch); b config --cmd /x $c; b commit -q $c oci-archive:{}:foreign:1; \
         b rm -a >/dev/null; rm -rf $s",
        archive.display()
    );
    let mut build = Command::new("sh");
    build.args(["-c", &script]);
    done(build).succeeds();
    host.opsrun(["load", archive.to_str().expect("path")]).fails(1, &["riscv64", "hint: "]);
    nothing_is_loaded(&host);
}

#[test]
fn an_unknown_service_release_or_image() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "nosuch"]).fails(1, &["nosuch", "hint: opsrun load"]);
    host.opsrun(["start", "busybox:2"])
        .fails(1, &["busybox has no release 2; loaded: 1", "hint: opsrun start busybox:1"]);
    host.opsrun(["run", "busybox:2", "true"]).fails(125, &["busybox", "hint: "]);
    host.opsrun(["stop", "nosuch"]).fails(1, &["nosuch", "hint: "]);
    host.opsrun(["logs", "nosuch"]).fails(1, &["nosuch", "hint: "]);
    host.opsrun(["status", "nosuch"]).fails(1, &["nosuch", "hint: "]);
    host.opsrun(["rmi", "nosuch:1"]).fails(1, &["nosuch", "hint: "]);
    host.opsrun(["exec", "nosuch", "true"]).fails(125, &["nosuch", "hint: "]);
    assert_eq!(host.opsrun(["ps", "--json"]).succeeds().json()["services"], Value::Array(Vec::new()));
}

#[test]
fn a_port_that_is_taken_and_by_whom() {
    let (host, _) = Host::with_busybox();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    host.configure_busybox(port, "");
    let own = format!("process {}", std::process::id());
    let failed = host.opsrun(["start", "busybox:1"]);
    failed.fails(1, &[&format!("port {port} is taken by"), &own, "hint: "]);
    assert_eq!(host.service("busybox"), Value::Null);
    assert!(host.left_over().is_empty());
}

#[test]
fn a_program_or_user_that_the_image_lacks() {
    let (host, _) = Host::with_busybox();
    let settings = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("settings");
    for (line, text) in [
        ("command = [\"/no/such/program\"]", "/no/such/program"),
        ("command = [\"nowhere-in-path\"]", "nowhere-in-path"),
        ("command = [\"/etc/passwd\"]", "/etc/passwd"),
        ("user = \"nobody-we-know\"", "nobody-we-know"),
    ] {
        host.write("etc/opsrun/busybox.toml", &format!("{line}\n{settings}"));
        host.opsrun(["start", "busybox:1"]).fails(1, &["error: ", text, "hint: "]);
        assert_eq!(host.service("busybox"), Value::Null);
        let generations = host.path("var/lib/opsrun/services/busybox/generations");
        assert_eq!(everything_below(&generations), Vec::<PathBuf>::new());
    }
    host.opsrun(["run", "-u", "nobody-we-know", "busybox:1", "true"]).fails(125, &["nobody-we-know"]);
}

#[test]
fn a_full_disk() {
    // Room for the archive's metadata and not for the layers.
    let script = format!(
        "\"$0\" load {}; code=$?; ls -A $OPSRUN_ROOT/var/lib/opsrun/store/tmp; exit $code",
        image("busybox-1.tar").display()
    );
    let full = on_a_small_disk(900, &script);
    full.fails(1, &["the disk is full", "hint: "]);
    assert_eq!(full.stdout, "");
    let again = on_a_small_disk(
        900,
        &format!(
            "! \"$0\" load {0} && mount -o remount,size=64m $OPSRUN_ROOT && \"$0\" load {0}",
            image("busybox-1.tar").display()
        ),
    );
    again.succeeds();
}

#[test]
fn a_disk_that_is_full_when_a_service_starts() {
    let script = format!(
        "\"$0\" load {} && \"$0\" config init busybox && mkdir -p $OPSRUN_ROOT/filler && \
         dd if=/dev/zero of=$OPSRUN_ROOT/filler/zeros bs=4k 2>/dev/null; \
         \"$0\" start busybox:1; code=$?; ls -A $OPSRUN_ROOT/var/lib/opsrun/services/busybox/generations 2>/dev/null; exit $code",
        image("busybox-1.tar").display()
    );
    let full = on_a_small_disk(16 * 1024, &script);
    full.fails(1, &["the disk is full", "hint: "]);
    assert_eq!(full.stdout, "");
}

#[test]
fn not_root() {
    let host = Host::new();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program()).arg("ps");
    command.env("OPSRUN_ROOT", host.root.path());
    // sudo drops the variable unless it is told, and the command would be about the host's own tree.
    let hint = format!("hint: sudo OPSRUN_ROOT={} opsrun ps", host.root.path().display());
    done(command).fails(1, &["must be run as root", &hint]);
}

#[test]
fn a_kernel_without_overlayfs() {
    let (host, _) = Host::with_busybox();
    // mount(2) of this one type fails as it does where the kernel lacks it; the other mounts of the way there succeed.
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=mount,fsopen"]);
    command.args(["-e", "inject=mount:error=ENODEV:when=2+", "-e", "inject=fsopen:error=ENODEV"]);
    command.arg(program()).args(["run", "busybox:1", "true"]).env("OPSRUN_ROOT", host.root.path());
    done(command).fails(125, &["overlay", "hint: "]);
}

#[test]
fn a_second_start_and_a_stop_of_what_is_down() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["stop", "busybox"]).fails(1, &["busybox", "hint: "]);
    host.opsrun(["start", "busybox:1"]).succeeds();
    let first = host.service("busybox");
    host.opsrun(["start", "busybox:1"])
        .fails(1, &["busybox is already running 1", "hint: opsrun restart busybox"]);
    let second = host.service("busybox");
    assert_eq!((&first["process"], &first["generation"]), (&second["process"], &second["generation"]));
    host.opsrun(["rmi", "busybox:1"]).fails(1, &["in use by busybox", "hint: "]);
    host.opsrun(["rm", "busybox"]).fails(1, &["busybox", "hint: "]);
    host.opsrun(["stop", "busybox"]).succeeds();
    host.opsrun(["stop", "busybox"]).fails(1, &["busybox is not running", "hint: opsrun start busybox"]);
}

#[test]
fn names_that_lead_elsewhere() {
    let host = Host::new();
    for name in ["../evil", "a/../b", "/etc", "..", ".", "", "a b", "UPPER", "-x", "a\nb"] {
        for command in ["start", "stop", "rm", "logs", "status"] {
            let failed = host.opsrun([command, "--", name]);
            assert_eq!(failed.status, 2, "{failed}");
        }
    }
    assert_eq!(everything_below(host.root.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_root_that_cannot_be_one() {
    let (host, _) = Host::with_busybox();
    let with_root = |root: &Path| {
        let mut command = host.command();
        command.arg("ps").env("OPSRUN_ROOT", root);
        done(command)
    };
    with_root(Path::new("relative")).fails(1, &["OPSRUN_ROOT=relative", "hint: "]);
    with_root(Path::new("/etc/passwd")).fails(1, &["OPSRUN_ROOT=/etc/passwd", "hint: "]);
    with_root(&host.path("var/lib/opsrun")).fails(1, &["belongs to another root", "hint: "]);
}

#[test]
fn two_roots_never_meet() {
    let (one, one_port) = Host::with_busybox();
    let (two, two_port) = Host::with_busybox();
    one.opsrun(["start", "busybox:1"]).succeeds();
    two.opsrun(["start", "busybox:1"]).succeeds();
    assert_ne!(one.cgroups(), two.cgroups());
    one.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(support::get(one_port, "/"), None);
    assert_eq!(support::get(two_port, "/").as_deref(), Some("up\n"));
}

#[test]
fn a_configuration_folder_that_is_missing_empty_or_closed() {
    let host = Host::new();
    host.load("busybox-1.tar");
    let conf = host.path("opt/busybox/conf");
    let hint = "hint: opsrun config init busybox";
    host.opsrun(["start", "busybox:1"]).fails(1, &[&conf.display().to_string(), hint]);
    std::fs::create_dir_all(&conf).expect("make it");
    host.opsrun(["start", "busybox:1"]).fails(1, &[&conf.display().to_string(), hint]);
    host.opsrun(["config", "init", "busybox"]).succeeds();
    host.opsrun(["config", "init", "busybox"]).fails(1, &["not empty", "hint: "]);

    host.write("etc/opsrun/busybox.toml", "user = \"web\"\n");
    std::os::unix::fs::chown(&conf, Some(0), Some(0)).expect("chown");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&conf, mode).expect("chmod");
    host.opsrun(["start", "busybox:1"]).fails(1, &[&conf.display().to_string(), "1000", "hint: "]);
    assert_eq!(host.service("busybox"), Value::Null);
}

#[test]
fn a_service_file_with_mistakes_names_the_line() {
    let (host, _) = Host::with_busybox();
    for (text, said) in [
        ("ports = [80]\nmemroy = \"1g\"\n", "line 2: unknown key `memroy`"),
        ("ports = \"80\"\n", "line 1"),
        ("\n\n[health]\ncheck = \"htpt\"\n", "line 4"),
        ("ports = [80\n", "line"),
    ] {
        host.write("etc/opsrun/busybox.toml", text);
        let failed = host.opsrun(["start", "busybox:1"]);
        failed.fails(1, &["etc/opsrun/busybox.toml", said]);
    }
}

#[test]
fn a_service_of_a_newer_opsrun_is_not_misread_and_a_corrupt_one_not_overwritten() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.opsrun(["stop", "busybox"]).succeeds();
    let record = "var/lib/opsrun/services/busybox/record.json";
    let good = std::fs::read_to_string(host.path(record)).expect("the record");
    let mut newer: Value = serde_json::from_str(&good).expect("JSON");
    newer["version"] = 99.into();
    host.write(record, &newer.to_string());
    host.opsrun(["status", "busybox"]).fails(1, &["version 99", "hint: "]);
    host.opsrun(["start", "busybox:1"]).fails(1, &["version 99", "hint: "]);
    host.write(record, "{ half a rec");
    host.opsrun(["status", "busybox"]).fails(1, &["corrupt", "hint: opsrun start busybox"]);
    host.opsrun(["start", "busybox:none"]).fails(1, &["hint: "]);
    let text = |path: &str| std::fs::read_to_string(host.path(path)).expect("a file");
    assert_eq!(text(record), "{ half a rec");
    // The release is known from the history.
    let started = host.opsrun(["start", "busybox"]);
    assert!(started.succeeds().stderr.contains("record.corrupt-1"), "{started}");
    assert_eq!(text("var/lib/opsrun/services/busybox/record.corrupt-1"), "{ half a rec");
    assert_eq!(host.service("busybox")["release"], "1");
}

#[test]
fn a_record_that_is_spoiled_while_its_service_runs_is_set_aside_and_what_runs_is_ended() {
    let (host, port) = Host::with_busybox();
    let record = "var/lib/opsrun/services/busybox/record.json";
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.write(record, "{");
    // The supervisor has a better one.
    host.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(host.service("busybox")["state"], "stopped");
    host.opsrun(["start", "busybox:1"]).succeeds();
    let supervisor = host.service("busybox")["supervisor"].as_i64().expect("a supervisor");
    host.write(record, "");
    let supervisor = nix::unistd::Pid::from_raw(i32::try_from(supervisor).expect("a pid"));
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert!(support::get(port, "/").is_some());
    host.opsrun(["stop", "busybox"]).succeeds();
    assert!(support::get(port, "/").is_none());
    assert!(host.cgroups().is_empty());
    host.opsrun(["rm", "busybox"]).fails(1, &["busybox"]);
}

#[test]
fn a_limit_that_this_host_cannot_keep_is_refused_or_shown_as_not_kept() {
    let (host, _) = Host::with_busybox();
    if !support::cgroup_mount().ends_with("unified") {
        // A host with cgroup v2 alone keeps it; that is shown in the guest.
        return;
    }
    let refused = host.opsrun(["start", "busybox:1", "--memory", "512m"]);
    refused.fails(1, &["memory.max = 536870912", "memory controller in cgroup v1", "--allow-unenforced"]);
    assert_eq!(host.service("busybox"), serde_json::Value::Null);
    host.opsrun(["start", "busybox:1", "--memory", "512m", "--allow-unenforced"]).succeeds();
    assert_eq!(host.service("busybox")["unenforced"], serde_json::json!(["memory"]));
    let table = host.opsrun(["ps"]).succeeds().stdout.clone();
    assert!(table.contains("unenforced: memory"), "{table}");
    let stats = host.opsrun(["stats", "--json"]).succeeds().json();
    assert_eq!(stats["services"][0]["memory_bytes"], serde_json::Value::Null, "{stats}");
    host.opsrun(["update", "busybox", "--cpus", "0.5"]).fails(1, &["cpu.max"]);
}
