//! The README's way from a checkout to a token, with a real keystone of two releases.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Host, done, image};

#[test]
fn quickstart_makes_a_keystone_that_gives_tokens_and_the_next_release_can_be_started_after_it() {
    let host = Host::new();
    let quickstart = || {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/quickstart"));
        command.env("OPSRUN_ROOT", host.root.path());
        done(command)
    };
    let first = quickstart();
    first.succeeds();
    assert!(first.stdout.contains("gAAAA"), "no token: {first}");

    let table = host.opsrun(["ps"]).succeeds().stdout.clone();
    assert!(table.contains("keystone  zed      running  healthy"), "{table}");
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("22."), "{version}");
    let bash = host.opsrun(["exec", "keystone", "bash", "-c", "echo $BASH_VERSION; id -un"]);
    assert!(bash.succeeds().stdout.ends_with("\nkeystone\n"), "{bash}");

    let before = host.service("keystone");
    let second = quickstart();
    second.succeeds();
    assert!(second.stdout.contains("gAAAA"), "no token: {second}");
    let after = host.service("keystone");
    assert_eq!((&before["process"], &before["generation"]), (&after["process"], &after["generation"]));

    host.opsrun(["stop", "keystone"]).succeeds();
    host.opsrun(["load", image("keystone-epoxy.tar").to_str().expect("path")]).succeeds();
    host.opsrun(["start", "keystone:epoxy"]).succeeds();
    assert_eq!(host.service("keystone")["release"], "epoxy");
    let version = host.opsrun(["exec", "keystone", "keystone-manage", "--version"]);
    assert!(version.succeeds().stdout.starts_with("27."), "{version}");
    assert!(support::get(5000, "/healthcheck").is_some());
    host.opsrun(["stop", "keystone"]).succeeds();
    support::until("the supervisor has ended", || host.left_over().is_empty());
}
