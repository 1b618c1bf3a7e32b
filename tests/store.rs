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

/// A load that is killed at the `when`th of these system calls; `None` when there are not so many.
fn load_killed_at(host: &Host, archive: &str, calls: &str, when: usize) -> Option<Done> {
    let trace = host.path("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).args(["-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:signal=SIGKILL:when={when}")]);
    command.arg(support::program()).arg("load").arg(image(archive));
    command.env("OPSRUN_ROOT", host.root.path());
    let done = done(command);
    let traced = std::fs::read_to_string(&trace).expect("the trace");
    traced.contains("killed by SIGKILL").then_some(done)
}

#[test]
fn a_load_that_is_killed_at_a_rename_or_a_sync_leaves_the_image_or_none() {
    let mut moments = 0;
    for calls in ["rename,renameat,renameat2", "fsync,syncfs,fdatasync"] {
        for when in 1.. {
            let host = Host::new();
            if load_killed_at(&host, "checked-1.tar", calls, when).is_none() {
                assert!(when > 3, "{calls} is never called");
                break;
            }
            is_whole_or_absent(&host, "checked-1.tar");
            moments += 1;
        }
    }
    println!("{moments} moments");
}
