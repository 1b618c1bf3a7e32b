//! Several commands at work on one store: each gets what it wants or says why not, nobody loses anything, and who waits
//! says for whom. One side is held in the middle of its work by a stop, never by chance.

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Host, Running, Stopped, done, get, image};

fn path(archive: &str) -> String {
    image(archive).display().to_string()
}

fn fsck_is_clean(host: &Host) {
    let done = host.opsrun(["fsck"]);
    done.succeeds();
    assert_eq!(done.stdout, "", "{done}");
}

fn has(host: &Host, name: &str) -> bool {
    host.opsrun(["inspect", "--type", "image", name]).status == 0
}

/// A load that has the right to change the store and has put nothing in its place yet: it is about to bring all to disk.
fn load_that_stands(host: &Host, archive: &str) -> Stopped {
    Stopped::at(host, "syncfs", 1, ["load", &path(archive)])
}

/// A start that builds on an image, which no record says yet: it links its layers.
fn start_that_stands(host: &Host) -> Stopped {
    Stopped::at(host, "symlink,symlinkat", 1, ["start", "busybox:1"])
}

#[test]
fn who_must_wait_for_a_load_says_so_and_both_get_what_they_want() {
    for command in ["load", "load another", "prune", "rmi", "fsck --repair"] {
        let host = Host::new();
        host.load("checked-1.tar");
        let load = load_that_stands(&host, "busybox-1.tar");
        // Who only looks waits for nobody.
        assert!(!has(&host, "busybox:1"), "it is not there yet");
        fsck_is_clean(&host);
        let saved = host.path("saved.tar").display().to_string();
        host.opsrun(["save", "checked:1", "-o", &saved]).succeeds();
        let (same, other) = (path("busybox-1.tar"), path("checked-1.tar"));
        let arguments: &[&str] = match command {
            "load" => &["load", &same],
            "load another" => &["load", "--tag", "again:1", &other],
            "prune" => &["prune"],
            "rmi" => &["rmi", "busybox:1"],
            _ => &["fsck", "--repair"],
        };
        let mut waiting = Running::begin(&host, arguments);
        waiting.says("waiting for opsrun load (pid ");
        load.go_on().succeeds();
        let waited = waiting.end();
        waited.succeeds();
        assert_eq!(has(&host, "busybox:1"), command != "rmi", "{waited}");
        assert!(has(&host, "checked:1"));
        assert_eq!(has(&host, "again:1"), command == "load another");
        if command == "load" {
            assert!(waited.stderr.contains("every layer was there already"), "{waited}");
        }
        fsck_is_clean(&host);
    }
}

#[test]
fn two_loads_at_once_of_images_that_share_nothing_both_end_up_there() {
    let host = Host::new();
    let first = load_that_stands(&host, "busybox-1.tar");
    let mut second = Running::begin(&host, ["load", &path("checked-1.tar")]);
    second.says("waiting for opsrun load (pid ");
    let mut third = Running::begin(&host, ["load", &path("checked-1.tar")]);
    third.says("waiting for opsrun load (pid ");
    first.go_on().succeeds();
    second.end().succeeds();
    third.end().succeeds();
    assert!(has(&host, "busybox:1") && has(&host, "checked:1"));
    fsck_is_clean(&host);
    for image in ["busybox:1", "checked:1"] {
        host.opsrun(["run", "--rm", image, "true"]).succeeds();
    }
}

#[test]
fn a_load_whose_input_stalls_is_in_nobodys_way() {
    let host = Host::new();
    host.load("checked-1.tar");
    let mut command = host.command();
    command.args(["load", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut load = command.spawn().expect("start it");
    let archive = std::fs::read(image("busybox-1.tar")).expect("read it");
    let mut input = load.stdin.take().expect("its input");
    // More than a pipe holds: it has been at work on it by then.
    let half = archive.len() / 2;
    input.write_all(&archive[..half]).expect("half of it");
    for arguments in [
        &["load", "--tag", "other:1", &path("checked-1.tar")][..],
        &["fsck", "--repair"],
        &["rmi", "other:1"],
        &["prune"],
    ] {
        let done = host.opsrun(arguments);
        done.succeeds();
        assert!(!done.stderr.contains("waiting"), "{done}");
    }
    input.write_all(&archive[half..]).expect("the rest");
    drop(input);
    let output = load.wait_with_output().expect("wait");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(has(&host, "busybox:1") && has(&host, "checked:1"));
    fsck_is_clean(&host);
}

#[test]
fn fsck_finds_nothing_wrong_between_any_two_renames_of_a_load() {
    let mut moments = 0;
    for when in 1.. {
        let host = Host::new();
        host.load("checked-1.tar");
        let arguments = ["load", &path("busybox-1.tar")];
        let Some(load) = Stopped::try_at(&host, "rename,renameat,renameat2", when, arguments) else { break };
        fsck_is_clean(&host);
        assert_eq!(host.opsrun(["run", "--rm", "checked:1", "echo", "up"]).succeeds().stdout, "up\n");
        load.go_on().succeeds();
        assert!(has(&host, "busybox:1"));
        fsck_is_clean(&host);
        moments += 1;
    }
    assert!(moments > 3, "only {moments} renames");
}

#[test]
fn what_a_start_is_about_to_use_stays_whoever_wants_to_remove_it() {
    for command in ["prune", "rmi", "rmi by its id", "fsck --repair"] {
        let (host, port) = Host::with_busybox();
        let listed = host.opsrun(["images", "--json"]).succeeds().json();
        let id = listed["images"][0]["id"].as_str().expect("an id").to_owned();
        let start = start_that_stands(&host);
        if command == "prune" {
            // Nothing but that start needs it any more.
            host.opsrun(["load", "--tag", "busybox:1", &path("checked-1.tar")]).succeeds();
        }
        let (expected, arguments): (i32, &[&str]) = match command {
            "prune" => (0, &["prune"]),
            "rmi" => (1, &["rmi", "busybox:1"]),
            "rmi by its id" => (1, &["rmi", &id]),
            _ => (0, &["fsck", "--repair"]),
        };
        if command == "fsck --repair" {
            // With something to repair, that is in nobody's way.
            host.write("var/lib/opsrun/store/layers/sha256/stranger", "");
        }
        let mut waiting = Running::begin(&host, arguments);
        waiting.says("waiting for opsrun start (pid ");
        start.go_on().succeeds();
        let waited = waiting.end();
        assert_eq!(waited.status, expected, "{waited}");
        if expected == 1 {
            waited.fails(1, &["busybox", "uses"]);
        }
        assert_eq!(get(port, "/").as_deref(), Some("up\n"), "{waited}");
        host.opsrun(["restart", "busybox"]).succeeds();
        fsck_is_clean(&host);
        host.opsrun(["stop", "busybox"]).succeeds();
    }
}

#[test]
fn a_start_during_a_removal_waits_for_it_and_says_that_there_is_no_image() {
    let (host, port) = Host::with_busybox();
    // It has taken the name away, and not the image yet.
    let removal = Stopped::at(&host, "rename,renameat,renameat2", 2, ["rmi", "busybox:1"]);
    let mut start = Running::begin(&host, ["start", "busybox:1"]);
    start.says("waiting for opsrun rmi (pid ");
    let mut save = Running::begin(&host, ["save", "busybox:1", "-o", "/dev/null"]);
    save.says("waiting for opsrun rmi (pid ");
    removal.go_on().succeeds();
    start.end().fails(1, &["no image"]);
    save.end().fails(1, &["no image busybox:1"]);
    assert_eq!(get(port, "/"), None);
    host.load("busybox-1.tar");
    host.opsrun(["start", "busybox:1"]).succeeds();
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    fsck_is_clean(&host);
}

#[test]
fn a_save_is_complete_although_its_image_is_removed_meanwhile() {
    let host = Host::new();
    host.load("busybox-1.tar");
    let saved = host.path("saved.tar").display().to_string();
    let save = Stopped::at(&host, "lseek", 1, ["save", "busybox:1", "-o", &saved]);
    let mut removal = Running::begin(&host, ["rmi", "busybox:1"]);
    removal.says("waiting for opsrun save (pid ");
    let mut pruning = Running::begin(&host, ["prune"]);
    pruning.says("waiting for opsrun rmi (pid ");
    assert!(!std::path::Path::new(&saved).exists(), "it is there wholly or not at all");
    save.go_on().succeeds();
    removal.end().succeeds();
    pruning.end().succeeds();
    assert!(!has(&host, "busybox:1"));
    let layers = host.path("var/lib/opsrun/store/layers/sha256");
    assert_eq!(std::fs::read_dir(layers).expect("list").count(), 0);
    host.opsrun(["load", &saved]).succeeds();
    host.opsrun(["run", "--rm", "busybox:1", "true"]).succeeds();
    fsck_is_clean(&host);
}

#[test]
fn a_commit_during_a_removal_of_its_image_ends_up_whole_or_not_at_all() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let commit = Stopped::at(&host, "syncfs", 1, ["commit", "busybox", "busybox:mine"]);
    let mut pruning = Running::begin(&host, ["prune"]);
    pruning.says("waiting for opsrun commit (pid ");
    commit.go_on().succeeds();
    pruning.end().succeeds();
    host.opsrun(["run", "--rm", "busybox:mine", "true"]).succeeds();
    fsck_is_clean(&host);
    let mut killed = host.command();
    killed.args(["rmi", "busybox:1"]);
    done(killed).fails(1, &["busybox"]);
}
