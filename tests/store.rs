//! What the store keeps promising over time: it notices what has changed in it, keeps what is needed, and whatever
//! happens to a load leaves the whole image or none.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Done, Host, done, image};

const STORE: &str = "var/lib/opsrun/store";

/// Every file of that name below the layers' roots.
fn files(host: &Host, name: &str) -> Vec<PathBuf> {
    let mut folders = vec![host.path(STORE).join("layers/sha256")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("list it").map(|entry| entry.expect("entry")) {
            if entry.file_type().expect("type").is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == name {
                found.push(entry.path());
            }
        }
    }
    found
}

fn file(host: &Host, name: &str) -> PathBuf {
    files(host, name).into_iter().next().unwrap_or_else(|| panic!("no {name}"))
}

/// Changes a file so that neither its length nor its time tells.
fn spoil(path: &Path) {
    let before = std::fs::metadata(path).expect("look at it");
    let mut content = std::fs::read(path).expect("read it");
    content[0] ^= 1;
    std::fs::write(path, content).expect("write it");
    let time = rustix::fs::Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).expect("its time");
}

fn fsck_is_clean(host: &Host) -> Done {
    let done = host.opsrun(["fsck"]);
    done.succeeds();
    assert_eq!(done.stdout, "", "{done}");
    done
}

#[test]
fn what_was_changed_removed_or_added_is_named_and_a_load_brings_it_back() {
    let host = Host::new();
    host.load("busybox-1.tar");
    assert!(fsck_is_clean(&host).stderr.contains("1 image"));

    let page = file(&host, "index.html");
    spoil(&page);
    let config = file(&host, "busybox.conf");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).expect("its mode");
    let script = file(&host, "service.sh");
    std::fs::remove_file(&script).expect("remove it");
    std::fs::write(page.with_file_name("added"), "x").expect("add it");
    let found = host.opsrun(["fsck"]);
    found.fails(1, &["in the store", "opsrun fsck --repair"]);
    for line in ["index.html (content)", "busybox.conf (mode)", "missing", "service.sh", "extra", "/added"] {
        assert!(found.stdout.contains(line), "«{line}» is missing: {found}");
    }
    // Folders whose entries changed have another time.
    assert!(!found.stdout.contains("etc/passwd"), "{found}");
    assert!(page.exists(), "it changes nothing by itself");
    let listed = host.opsrun(["fsck", "--json"]).json();
    assert_eq!(listed["broken"][0]["kind"], "layer");

    let repaired = host.opsrun(["fsck", "--repair"]);
    repaired.succeeds();
    assert!(repaired.stdout.contains("load the image again"), "{repaired}");
    assert!(!host.opsrun(["images"]).succeeds().stdout.contains("busybox"));
    fsck_is_clean(&host);
    host.load("busybox-1.tar");
    fsck_is_clean(&host);
    assert_eq!(host.opsrun(["run", "busybox:1", "cat", "/www/index.html"]).succeeds().stdout, "up\n");
}

#[test]
fn records_that_are_damaged_are_found_and_repaired() {
    let host = Host::new();
    let store = host.path(STORE);
    let first = |folder: &str| {
        let folder = store.join(folder);
        std::fs::read_dir(folder).expect("list").next().expect("one").expect("entry").path()
    };
    for damage in [
        "layer.json",
        "files.gz",
        "frame.gz",
        "image.json",
        "config.json",
        "tags.json",
        "layer",
        "image",
        "stranger",
    ] {
        host.load("busybox-1.tar");
        match damage {
            "layer.json" | "files.gz" | "frame.gz" => spoil(&first("layers/sha256").join(damage)),
            "image.json" | "config.json" => spoil(&first("images/sha256").join(damage)),
            "tags.json" => spoil(&store.join(damage)),
            "layer" => std::fs::remove_dir_all(first("layers/sha256")).expect("remove it"),
            "image" => std::fs::remove_dir_all(first("images/sha256")).expect("remove it"),
            _ => std::fs::write(store.join("layers/sha256/stranger"), "").expect("write it"),
        }
        host.opsrun(["fsck"]).fails(1, &["in the store"]);
        host.opsrun(["fsck", "--repair"]).succeeds();
        fsck_is_clean(&host);
        host.load("busybox-1.tar");
        fsck_is_clean(&host);
        host.opsrun(["run", "busybox:1", "true"]).succeeds();
    }
}

#[test]
fn what_a_service_runs_from_is_left_by_repair_and_by_prune() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    spoil(&file(&host, "index.html"));
    let repaired = host.opsrun(["fsck", "--repair"]);
    repaired.fails(1, &["runs from", "stop"]);
    assert!(repaired.stdout.contains("left as it is: busybox"), "{repaired}");
    assert!(host.opsrun(["images"]).succeeds().stdout.contains("busybox"));

    // Its image loses its name to another one, and is needed all the same.
    let archive = image("checked-1.tar");
    host.opsrun(["load", "--tag", "busybox:1", archive.to_str().expect("path")]).succeeds();
    assert!(host.opsrun(["images"]).succeeds().stdout.contains("<none>"));
    assert_eq!(host.opsrun(["prune"]).succeeds().stdout, "");
    host.opsrun(["stop", "busybox"]).succeeds();
    assert_eq!(host.opsrun(["prune"]).succeeds().stdout, "", "its generation can be started again");
    // Now nothing runs from it.
    host.opsrun(["fsck", "--repair"]).succeeds();
    fsck_is_clean(&host);
}

#[test]
fn prune_removes_what_has_no_name_and_no_user_and_says_so_before() {
    let host = Host::new();
    host.load("busybox-1.tar");
    let archive = image("checked-1.tar");
    assert_eq!(host.opsrun(["prune"]).succeeds().stdout, "");
    host.opsrun(["load", "--tag", "busybox:1", archive.to_str().expect("path")]).succeeds();
    let before = host.opsrun(["images", "--json"]).succeeds().json();
    assert_eq!(before["images"].as_array().map(Vec::len), Some(2), "{before}");
    let dry = host.opsrun(["prune", "--dry-run"]);
    dry.succeeds();
    assert!(dry.stdout.contains("image") && dry.stderr.contains("would be removed"), "{dry}");
    assert_eq!(host.opsrun(["images", "--json"]).succeeds().json(), before);
    let pruned = host.opsrun(["prune"]);
    assert_eq!(pruned.succeeds().stdout, dry.stdout);
    let after = host.opsrun(["images", "--json"]).succeeds().json();
    assert_eq!(after["images"].as_array().map(Vec::len), Some(1), "{after}");
    let only = &after["images"][0];
    assert_eq!(only["unique_bytes"], only["size_bytes"]);
    fsck_is_clean(&host);
}

/// So many times a load is killed at a random moment; OPSRUN_TEST_KILLS says otherwise.
const KILLS: u64 = 20;

#[test]
fn a_load_that_is_killed_at_any_moment_leaves_the_image_or_none() {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse::<u64>().expect("a number"))
    };
    let kills = number("OPSRUN_TEST_KILLS", KILLS);
    let mut random = number("OPSRUN_TEST_SEED", 20_150_430);
    println!("{kills} kills, OPSRUN_TEST_SEED={random}");
    let archive = std::env::var("OPSRUN_TEST_KILLS_IMAGE").unwrap_or_else(|_| "checked-1.tar".to_owned());
    let began = Instant::now();
    Host::new().load(&archive);
    let mut whole = began.elapsed();
    let (mut killed, mut with_image) = (0_u64, 0);
    for _ in 0..kills {
        let host = Host::new();
        // xorshift64: the same moments again for the same seed, as far as the machine allows.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_micros(random % (whole.as_micros() as u64 * 11 / 10));
        let mut command = host.command();
        command.arg("load").arg(image(&archive)).stderr(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().expect("start it");
        // No condition to wait for: the moment itself is what is tested.
        std::thread::sleep(moment);
        child.kill().expect("kill it");
        if child.wait().expect("wait").code().is_none() {
            killed += 1;
        } else {
            // The machine was busier when the whole was measured.
            whole = whole.min(moment);
        }
        with_image += u64::from(is_whole_or_absent(&host, &archive));
    }
    println!("{killed} were killed before they ended; after {with_image} of {kills} the image was there");
    assert!(killed * 4 > kills, "only {killed} of {kills} were killed before they ended");
}

/// The store is in order, and loading once more works; whether the image was there before that.
fn is_whole_or_absent(host: &Host, archive: &str) -> bool {
    // A kill before the store was there leaves none to look at, which fsck makes.
    fsck_is_clean(host);
    let listed = host.opsrun(["images", "--json"]).succeeds().json();
    let there = listed["images"].as_array().is_some_and(|images| !images.is_empty());
    host.load(archive);
    fsck_is_clean(host);
    let listed = host.opsrun(["images", "--json"]).succeeds().json();
    assert!(listed["images"][0]["names"][0].is_string(), "{listed}");
    let tmp = host.path(STORE).join("tmp");
    assert_eq!(std::fs::read_dir(tmp).expect("list").count(), 0, "something is left in tmp");
    there
}

/// A load in which the `when`th of each of these system calls goes wrong; `None` when there are not so many. With it
/// goes whether the program's own messages were spared.
fn load_with(host: &Host, archive: &str, calls: &str, what: &str, when: usize) -> Option<(Done, bool)> {
    let trace = host.path("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).args(["-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:{what}:when={when}")]);
    command.arg(support::program()).arg("load").arg(image(archive));
    command.env("OPSRUN_ROOT", host.root.path());
    let done = done(command);
    let traced = std::fs::read_to_string(&trace).expect("the trace");
    // Where even the message about it cannot be written, nobody can be told.
    let told = !traced.lines().any(|line| line.contains("write(2,") && line.contains("(INJECTED)"));
    let hit = traced.contains("(INJECTED)") || traced.contains("killed by SIGKILL");
    hit.then_some((done, told))
}

#[test]
fn a_load_that_is_killed_at_a_rename_or_a_sync_leaves_the_image_or_none() {
    let mut moments = 0;
    for calls in ["rename,renameat,renameat2", "fsync,syncfs,fdatasync"] {
        for when in 1.. {
            let host = Host::new();
            if load_with(&host, "checked-1.tar", calls, "signal=SIGKILL", when).is_none() {
                assert!(when > 3, "{calls} is never called");
                break;
            }
            is_whole_or_absent(&host, "checked-1.tar");
            moments += 1;
        }
    }
    println!("{moments} moments");
}

#[test]
fn a_load_that_meets_a_broken_or_full_disk_says_so_and_leaves_nothing() {
    // What a full or a broken disk can make fail, and how often it is let fail: each of the first times, then fewer.
    let (mut moments, mut failed) = (0, 0);
    for (calls, error) in [
        ("write,pwrite64", "ENOSPC"),
        ("mkdir,mkdirat,symlinkat,linkat,mknodat", "ENOSPC"),
        ("write,pwrite64", "EIO"),
        ("fsync,syncfs", "EIO"),
        ("rename,renameat,renameat2", "EIO"),
    ] {
        let mut when = 1;
        loop {
            let host = Host::new();
            let what = format!("error={error}");
            let Some((done, told)) = load_with(&host, "checked-1.tar", calls, &what, when) else { break };
            moments += 1;
            // It can hit what need not succeed.
            if done.status != 0 {
                failed += 1;
                // By its number: the words are the C library's own.
                let says = if error == "ENOSPC" { "the disk is full" } else { "(os error 5)" };
                if told {
                    done.fails(1, &["could not", says]);
                }
                let layers = std::fs::read_dir(host.path(STORE).join("layers/sha256"));
                let images = host.opsrun(["images", "-q"]).succeeds().stdout.clone();
                // After the names are in their place, only bringing them to disk can fail.
                if images.is_empty() {
                    assert_eq!(
                        layers.map_or(0, Iterator::count),
                        0,
                        "layers are left: {calls} {error} {when}"
                    );
                }
            }
            is_whole_or_absent(&host, "checked-1.tar");
            when += when.div_ceil(2);
        }
        assert!(when > 1, "{calls} is never called");
    }
    println!("{failed} of {moments} made the load fail");
    assert!(failed > 20, "only {failed} of {moments} failed");
}

#[test]
fn a_load_on_a_disk_that_is_too_small_fails_and_works_once_there_is_room() {
    if std::env::var_os("OPSRUN_TEST_TMPFS").is_none() {
        // In a mount namespace of its own, for which the test program is run once more.
        let test = std::thread::current().name().expect("the test's name").to_owned();
        let mut again = Command::new("unshare");
        again.args(["--mount", "sh", "-c", "mount --make-rprivate / && exec \"$@\"", "sh"]);
        again.arg(std::env::current_exe().expect("this program")).args(["--exact", &test, "--nocapture"]);
        again.env("OPSRUN_TEST_TMPFS", "1");
        let done = done(again);
        done.succeeds();
        assert!(done.stdout.contains("sizes were too small"), "{done}");
        return;
    }
    let mount = |host: &Host, options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(host.root.path());
        done(mount).succeeds();
    };
    let mut too_small = 0;
    for limit in (0..24)
        .map(|step| format!("size={}k", 64 + step * 128))
        .chain((0..8).map(|step| format!("nr_inodes={}", 4 + step * 5)))
    {
        let host = Host::new();
        mount(&host, &limit);
        let loaded = host.opsrun(["load", image("checked-1.tar").to_str().expect("path")]);
        if loaded.status != 0 {
            too_small += 1;
            loaded.fails(1, &["the disk is full", "hint: "]);
        }
        mount(&host, "remount,size=64m,nr_inodes=10000");
        if loaded.status != 0 {
            assert_eq!(host.opsrun(["images", "-q"]).succeeds().stdout, "");
        }
        is_whole_or_absent(&host, "checked-1.tar");
        let mut umount = Command::new("umount");
        umount.arg(host.root.path());
        done(umount).succeeds();
    }
    println!("{too_small} sizes were too small");
    assert!(too_small >= 8, "only {too_small} were");
}

/// A load that stays for a while where all is unpacked and nothing in its place yet, so with the right to change the
/// store; waits until it is there.
fn slow_load(host: &Host, archive: &str) -> support::Background {
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=syncfs",
        "-e",
        "inject=syncfs:delay_enter=2000000",
    ]);
    command.arg(support::program()).arg("load").arg(image(archive));
    command.env("OPSRUN_ROOT", host.root.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let load = support::Background(command.spawn().expect("start it"));
    let prepared = host.path(STORE).join("tmp/load/tags.json");
    support::until("the load is about to bring all to disk", || prepared.exists());
    load
}

#[test]
fn who_must_wait_for_a_load_says_so_and_both_get_what_they_want() {
    for command in ["load", "load another", "prune", "rmi"] {
        let host = Host::new();
        host.load("checked-1.tar");
        let mut load = slow_load(&host, "busybox-1.tar");
        // Who only looks waits for nobody.
        assert!(!host.opsrun(["images"]).succeeds().stdout.contains("busybox"), "it is not there yet");
        let (same, other) = (image("busybox-1.tar"), image("checked-1.tar"));
        let done = match command {
            "load" => host.opsrun(["load".as_ref(), same.as_os_str()]),
            "load another" => host.opsrun(["load".as_ref(), other.as_os_str()]),
            "prune" => host.opsrun(["prune"]),
            _ => host.opsrun(["rmi", "busybox:1"]),
        };
        done.succeeds();
        assert!(done.stderr.contains("waiting for opsrun load (pid "), "{done}");
        assert!(load.0.wait().expect("wait").success(), "the first load, while {command} waited");
        let there = host.opsrun(["images"]).succeeds().stdout.contains("busybox");
        assert_eq!(there, command != "rmi");
        fsck_is_clean(&host);
        if command == "load" {
            assert!(done.stderr.contains("every layer was there already"), "{done}");
        }
    }
}
