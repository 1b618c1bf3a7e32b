//! What can only be shown on a real host: each test boots one of its own (scripts/guest) and runs a script of tests/guest in
//! it. What the script checks is in the script.

#![allow(missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};

use support::{Done, done, image};

/// Each guest takes one processor, and so many tests run at once; one in which something is timed runs alone.
static GUESTS: RwLock<()> = RwLock::new(());

struct Guest {
    options: Vec<String>,
    folder: tempfile::TempDir,
    alone: bool,
}

impl Guest {
    /// A guest of a kind whose scripts find these images beside them.
    fn new(options: &[&str], images: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("opsrun-guest-").tempdir().expect("a folder");
        let guest = Self { options: options.iter().map(ToString::to_string).collect(), folder, alone: false };
        let here = tree().join("tests/guest");
        for entry in std::fs::read_dir(here).expect("tests/guest").flatten() {
            std::fs::copy(entry.path(), guest.folder.path().join(entry.file_name())).expect("copy a script");
        }
        // As scripts/install finds them: the tree's scripts folder around it.
        let scripts = guest.folder.path().join("scripts");
        std::fs::create_dir_all(scripts.join("systemd")).expect("a folder");
        for file in ["install", "systemd/opsrun@.service", "systemd/opsrun.slice"] {
            std::fs::copy(tree().join("scripts").join(file), scripts.join(file)).expect("copy a script");
        }
        std::fs::write(guest.folder.path().join("install"), "#!/bin/sh\nexec sh scripts/install \"$@\"\n")
            .expect("write");
        set_executable(&guest.folder.path().join("install"));
        for name in images {
            std::fs::copy(image(name), guest.folder.path().join(name)).expect("copy an image");
        }
        guest
    }

    /// The same, on a disk that the next run boots again.
    fn that_keeps_its_disk(mut self) -> Self {
        self.options.extend(["--keep".to_owned(), self.folder.path().join(".disk").display().to_string()]);
        self
    }

    /// The same, with no other beside it.
    fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The same, until the file `cut` is there: then its power is cut. It is one that keeps its disk.
    fn run_until_cut(&self, script: &str, arguments: &[&str]) -> Done {
        let cut = self.folder.path().join("cut");
        let _ = std::fs::remove_file(&cut);
        let mut options = self.options.clone();
        options.extend(["--power-cut-after".to_owned(), "cut".to_owned()]);
        let _beside = GUESTS.read().unwrap_or_else(PoisonError::into_inner);
        let done = self.boot_with(&options, script, arguments);
        assert!(done.stderr.contains("power cut"), "{done}");
        done
    }

    /// Boots it, runs a script and prints what that said.
    fn run(&self, script: &str, arguments: &[&str]) -> Done {
        if self.alone {
            let _alone = GUESTS.write().unwrap_or_else(PoisonError::into_inner);
            return self.boot(script, arguments);
        }
        let _beside = GUESTS.read().unwrap_or_else(PoisonError::into_inner);
        self.boot(script, arguments)
    }

    fn boot(&self, script: &str, arguments: &[&str]) -> Done {
        self.boot_with(&self.options, script, arguments)
    }

    fn boot_with(&self, options: &[String], script: &str, arguments: &[&str]) -> Done {
        let mut command = Command::new(tree().join("scripts/guest"));
        command.arg("run").args(options).arg(self.folder.path().join(script)).args(arguments);
        command.env("OPSRUN_BINARY", env!("CARGO_BIN_EXE_opsrun"));
        let done = done(command);
        println!("{}", done.stdout);
        done.succeeds();
        assert!(done.stdout.contains("\nok "), "the script checked nothing: {done}");
        done
    }
}

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn set_executable(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
}

#[test]
fn opsrun_and_systemd_257_agree_whatever_is_done_to_a_service() {
    Guest::new(&["--debian", "trixie", "--timeout", "600"], &["busybox-1.tar"]).run("systemd.sh", &[]);
}

#[test]
fn opsrun_and_systemd_252_agree_whatever_is_done_to_a_service() {
    Guest::new(&["--debian", "bookworm", "--timeout", "600"], &["busybox-1.tar"]).run("systemd.sh", &[]);
}

/// Supervisors that are killed under each systemd; `OPSRUN_TEST_KILLS` says otherwise.
fn deaths_under(debian: &str) {
    let kills = std::env::var("OPSRUN_TEST_KILLS").unwrap_or_else(|_| "2".to_owned());
    // What waits at a listener is the same under each: it is tried under one, and under both by who asks for more kills.
    let asked = std::env::var_os("OPSRUN_TEST_KILLS").is_some();
    let clients = if asked || debian == "trixie" { "clients" } else { "none" };
    let guest = Guest::new(&["--debian", debian, "--timeout", "900"], &["busybox-1.tar"]);
    guest.run("deaths.sh", &[&kills, clients]);
}

#[test]
fn what_supervisors_of_systemd_257_die_of_costs_no_line_and_no_stop() {
    deaths_under("trixie");
}

#[test]
fn what_supervisors_of_systemd_252_die_of_costs_no_line_and_no_stop() {
    deaths_under("bookworm");
}

/// Swaps of each server; `OPSRUN_TEST_SWAPS` says otherwise, `OPSRUN_TEST_SERVERS` of which, with blanks in between.
#[test]
fn servers_that_nobody_prepared_follow_one_another_without_a_lost_request() {
    let swaps = std::env::var("OPSRUN_TEST_SWAPS").unwrap_or_else(|_| "1".to_owned());
    let servers = std::env::var("OPSRUN_TEST_SERVERS").unwrap_or_else(|_| "gunicorn uwsgi".to_owned());
    let arguments: Vec<&str> = std::iter::once(swaps.as_str()).chain(servers.split(' ')).collect();
    Guest::new(&["--debian", "trixie", "--timeout", "1500"], &["servers-1.tar"])
        .run("steered.sh", &arguments);
}

#[test]
fn a_host_with_busybox_and_the_program_is_enough() {
    Guest::new(&["--minimal"], &["busybox-1.tar"]).run("minimal.sh", &[]);
}

#[test]
fn a_controller_that_is_missing_is_named_and_the_others_hold() {
    Guest::new(&["--minimal", "--kernel", "cgroup_disable=pids"], &["busybox-1.tar"]).run("lacking.sh", &[]);
}

#[test]
fn a_kernel_that_does_not_tell_who_listens_goes_the_next_best_way_and_says_so() {
    let options = ["--minimal", "--kernel", "initcall_blacklist=tcp_diag_init"];
    Guest::new(&options, &["busybox-1.tar"]).run("tables.sh", &[]);
}

/// Only when `OPSRUN_TEST_OLDER_LINUX` is set: it gets another kernel first.
#[test]
fn a_linux_that_is_too_old_is_told_so_before_anything_is_started() {
    if std::env::var_os("OPSRUN_TEST_OLDER_LINUX").is_some() {
        Guest::new(&["--minimal", "--linux", "bullseye"], &["busybox-1.tar"]).run("older.sh", &[]);
    }
}

#[test]
fn keystone_answers_by_itself_after_a_reboot_with_systemd() {
    let guest =
        Guest::new(&["--debian", "trixie", "--memory", "2G", "--timeout", "900"], &["keystone-zed.tar"])
            .that_keeps_its_disk();
    guest.run("keystone.sh", &[]);
    guest.run("rebooted.sh", &["keystone", "5000", "/v3"]);
}

#[test]
fn keystone_answers_by_itself_after_a_reboot_without_systemd() {
    let guest = Guest::new(&["--minimal", "--memory", "2G", "--timeout", "900"], &["keystone-zed.tar"])
        .that_keeps_its_disk();
    guest.run("keystone.sh", &[]);
    guest.run("rebooted.sh", &["keystone", "5000", "/v3"]);
}

#[test]
fn limits_hold_are_told_apart_and_leave_nothing() {
    let guest = Guest::new(&["--debian", "trixie", "--timeout", "600"], &["busybox-1.tar"]).alone();
    guest.run("limits.sh", &[]);
}

/// A power cut at so many moments; `OPSRUN_TEST_POWER_CUTS` says otherwise, `OPSRUN_TEST_POWER_IMAGE` with which image.
const POWER_CUTS: u32 = 5;

#[test]
fn a_power_cut_at_any_moment_leaves_whole_images_or_none() {
    let cuts =
        std::env::var("OPSRUN_TEST_POWER_CUTS").map_or(POWER_CUTS, |text| text.parse().expect("a number"));
    let archive = std::env::var("OPSRUN_TEST_POWER_IMAGE").unwrap_or_else(|_| "busybox-1.tar".to_owned());
    let what = std::env::var("OPSRUN_TEST_POWER_OF").unwrap_or_else(|_| "all".to_owned());
    let longest =
        std::env::var("OPSRUN_TEST_POWER_SECONDS").map_or(6.0, |text| text.parse().expect("a number"));
    let guest = Guest::new(&["--minimal", "--timeout", "600"], &[&archive]).that_keeps_its_disk();
    let mut under_way = std::collections::BTreeMap::<String, u32>::new();
    for cut in 0..cuts {
        // Spread by the golden ratio: no two alike, and none near another.
        let moment = (f64::from(cut) * 0.618_034).fract() * longest;
        guest.run_until_cut("power.sh", &[&archive, &what, &format!("{moment:.2}")]);
        let at = std::fs::read_to_string(guest.folder.path().join("at")).expect("what was under way");
        println!("cut after {moment:.2} s, in {}", at.trim());
        *under_way.entry(at.trim().to_owned()).or_default() += 1;
    }
    guest.run("power.sh", &[&archive, "nothing", "0"]);
    println!("{cuts} power cuts: {under_way:?}");
}

#[test]
fn a_power_cut_while_releases_follow_one_another_leaves_exactly_one_that_serves() {
    let cuts = std::env::var("OPSRUN_TEST_POWER_CUTS").map_or(3, |text| text.parse().expect("a number"));
    let guest = Guest::new(&["--minimal", "--timeout", "600"], &["busybox-1.tar"]).that_keeps_its_disk();
    for cut in 0..cuts {
        let moment = 1.0 + (f64::from(cut) * 0.618_034).fract() * 20.0;
        guest.run_until_cut("power_swap.sh", &["busybox-1.tar", &format!("{moment:.2}")]);
        let at = std::fs::read_to_string(guest.folder.path().join("at")).expect("what was under way");
        println!("cut after {moment:.2} s, in {}", at.trim());
    }
    guest.run("power_swap.sh", &["busybox-1.tar", "0"]);
}
