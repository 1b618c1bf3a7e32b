//! A real keystone: the README's way from a checkout to a token, and releases that follow one another.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use support::{Done, Host, done, image};

/// keystone listens on the same port in every test.
fn port_5000() -> MutexGuard<'static, ()> {
    static PORT: Mutex<()> = Mutex::new(());
    PORT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn quickstart(host: &Host, release: &str) -> Done {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/quickstart"));
    command.arg(release).env("OPSRUN_ROOT", host.root.path());
    done(command)
}

/// What keystone answers when it is asked whether a token is valid, with that token.
fn is_valid(token: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:5000/v3/auth/tokens"]);
    for header in ["X-Auth-Token", "X-Subject-Token"] {
        command.args(["-H", &format!("{header}: {token}")]);
    }
    done(command).succeeds().stdout.clone()
}

/// Its database is expanded while the old release serves, and what the old one has given is good with both.
#[test]
fn a_keystone_goes_to_the_next_release_and_back_and_its_tokens_stay_valid() {
    let _turn = port_5000();
    let host = Host::new();
    let made = quickstart(&host, "2025.1");
    let token = made.succeeds().stdout.split_whitespace().find(|word| word.starts_with("gAAAA"));
    let token = token.expect("a token");
    host.write(
        "etc/opsrun/keystone.toml",
        "[hooks]\npre_swap = [[\"keystone-manage\", \"db_sync\", \"--expand\"]]\n",
    );
    // So that SQLite lets the new release write while the old one has it open for reading.
    host.opsrun(["stop", "keystone"]).succeeds();
    let pragma =
        "import sqlite3; sqlite3.connect('/var/lib/keystone/keystone.db').execute('pragma journal_mode=wal')";
    host.opsrun(["run", "--rm", "keystone:2025.1", "python3", "-c", pragma]).succeeds();
    host.opsrun(["start", "keystone:2025.1"]).succeeds();
    host.load("keystone-2026.1.tar");
    let swapped = host.opsrun(["swap", "keystone", "2026.1", "--soak", "3s"]);
    swapped.succeeds();
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("29."), "{version}");
    let expanded = host.opsrun(["logs", "--hooks", "keystone"]);
    assert!(expanded.succeeds().stdout.contains("Running upgrade"), "{expanded}");
    assert_eq!(is_valid(token), "200");

    host.opsrun(["rollback", "keystone", "--soak", "3s"]).succeeds();
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("27."), "{version}");
    assert_eq!(is_valid(token), "200");
    host.opsrun(["stop", "keystone"]).succeeds();
    support::until("the supervisor has ended", || host.left_over().is_empty());
}

#[test]
fn quickstart_makes_a_keystone_that_gives_tokens_and_the_next_release_can_be_started_after_it() {
    let _turn = port_5000();
    let host = Host::new();
    let first = quickstart(&host, "zed");
    first.succeeds();
    assert!(first.stdout.contains("gAAAA"), "no token: {first}");

    let table = host.opsrun(["ps"]).succeeds().stdout.clone();
    assert!(table.contains("keystone  zed      running  healthy"), "{table}");
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("22."), "{version}");
    let bash = host.opsrun(["exec", "keystone", "bash", "-c", "echo $BASH_VERSION; id -un"]);
    assert!(bash.succeeds().stdout.ends_with("\nkeystone\n"), "{bash}");

    let before = host.service("keystone");
    let second = quickstart(&host, "zed");
    second.succeeds();
    assert!(second.stdout.contains("gAAAA"), "no token: {second}");
    let after = host.service("keystone");
    assert_eq!((&before["process"], &before["generation"]), (&after["process"], &after["generation"]));

    host.opsrun(["load", image("keystone-epoxy.tar").to_str().expect("path")]).succeeds();
    let plan = host.opsrun(["swap", "keystone", "epoxy", "--plan"]);
    assert!(plan.stdout.contains("leaves out"), "{plan}");
    host.opsrun(["stop", "keystone"]).succeeds();
    host.opsrun(["start", "keystone:epoxy"]).succeeds();
    assert_eq!(host.service("keystone")["release"], "epoxy");
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("27."), "{version}");
    assert!(support::get(5000, "/healthcheck").is_some());
    host.opsrun(["stop", "keystone"]).succeeds();
    support::until("the supervisor has ended", || host.left_over().is_empty());
}
