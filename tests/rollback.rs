//! Going back, as an operator sees it: image, limits, environment and configuration return together or not at all.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Host, free_port, get, until};

/// A service whose configuration says what it answers, with keys that the catalogue knows.
struct Rolled {
    host: Host,
    port: u16,
}

/// All that returns of a configuration: kind and mode, owner, time, and content, by path.
type Listing = BTreeMap<PathBuf, (u32, u32, u32, i64, i64, Vec<u8>)>;

impl Rolled {
    /// Release 1 is loaded, with a configuration that answers "one" and the colour of the environment.
    fn prepared() -> Self {
        let it = Self { host: Host::new(), port: free_port() };
        let archive = support::image("busybox-1.tar").display().to_string();
        it.host.opsrun(["load", "--tag", "keystone:1", &archive]).succeeds();
        it.settings("red", 50, "");
        it.host.write("opt/keystone/conf/keystone.conf", "[token]\nexpiration = 1\n");
        it.host.write("opt/keystone/conf/policy.d/one.json", "{}");
        it.host.write("opt/keystone/conf/fernet-keys/0", "the first key");
        it.answers("one", "");
        it
    }

    /// Release 1 runs.
    fn begin() -> Self {
        let it = Self::prepared();
        it.host.opsrun(["start", "keystone:1"]).succeeds();
        assert_eq!(it.answer(), "one red 1");
        it
    }

    /// Release 2, an image of its own that says so, with another configuration and other settings, has taken over.
    fn swapped(shell: &str) -> Self {
        let it = Self::begin();
        it.second_release();
        it.settings("blue", 60, "");
        it.answers("two", shell);
        it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).succeeds();
        assert_eq!(it.answer(), "two blue 2");
        it
    }

    /// An image with one layer more.
    fn second_release(&self) {
        self.host.opsrun(["exec", "keystone", "sh", "-c", "echo 2 > /release"]).succeeds();
        self.host.opsrun(["commit", "keystone", "keystone:2"]).succeeds();
        self.host.opsrun(["exec", "keystone", "rm", "/release"]).succeeds();
    }

    fn settings(&self, colour: &str, processes: u32, more: &str) {
        let port = self.port;
        self.host.write(
            "etc/opsrun/keystone.toml",
            &format!(
                "ports = [{port}]\n{more}\nenvironment = {{ COLOUR = \"{colour}\" }}\n\
                 limits = {{ pids_limit = {processes}, allow_unenforced = true }}\n\
                 restart = {{ backoff_first = \"50ms\", crash_loop_failures = 2 }}\n\
                 health = {{ check = \"http\", path = \"/\", interval = \"200ms\", timeout = \"2s\", start_timeout = \"20s\" }}\n\
                 stop = {{ grace = \"5s\" }}\n"
            ),
        );
    }

    /// What the configuration makes it answer, after it has done what `shell` says.
    fn answers(&self, word: &str, shell: &str) {
        let answer = format!("echo {word} $COLOUR $(cat /release 2>/dev/null || echo 1) >/www/index.html");
        let port = self.port;
        self.host.write(
            "opt/keystone/conf/busybox.conf",
            &format!("listen=127.0.0.1:{port}\n{shell}\n{answer}\n"),
        );
    }

    fn answer(&self) -> String {
        get(self.port, "/").map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    fn conf(&self) -> PathBuf {
        self.host.path("opt/keystone/conf")
    }

    /// The configuration without the keys.
    fn listing(&self) -> Listing {
        let mut found = Listing::new();
        list(&self.conf(), Path::new(""), &mut found);
        found
    }

    fn status(&self) -> Value {
        self.host.opsrun(["status", "keystone", "--json"]).succeeds().json()
    }

    fn generations(&self) -> Vec<Value> {
        let listing = self.host.opsrun(["history", "keystone", "--json"]).succeeds().json();
        listing["generations"].as_array().expect("generations").clone()
    }

    /// What serves, by every account, and that nothing stands beside it.
    #[track_caller]
    fn serves(&self, answer: &str, release: &str, generation: u64) {
        assert_eq!(self.answer(), answer);
        let service = self.host.service("keystone");
        let expected = (&Value::from(release), Some(generation), &Value::from("running"));
        assert_eq!((&service["release"], service["generation"].as_u64(), &service["state"]), expected);
        assert_eq!(self.host.cgroups().len(), 1, "a container beside the one that serves");
    }

    /// By what file the configuration differs from what runs.
    fn drift(&self) -> Vec<String> {
        let status = self.status();
        let changes = status["configuration"]["changes"].as_array().expect("changes");
        assert_eq!(self.host.service("keystone")["drift"].as_array(), Some(changes));
        changes.iter().map(|change| change["path"].as_str().expect("a path").to_owned()).collect()
    }
}

impl Drop for Rolled {
    fn drop(&mut self) {
        let _ = self.host.opsrun(["stop", "keystone"]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}

fn list(root: &Path, at: &Path, into: &mut Listing) {
    let path = root.join(at);
    let found = path.symlink_metadata().expect("metadata");
    let content = match (found.is_file(), found.is_symlink()) {
        (true, _) => std::fs::read(&path).expect("read"),
        (_, true) => std::fs::read_link(&path).expect("read the link").into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    let facts = (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec(), content);
    into.insert(at.to_owned(), facts);
    if found.is_dir() {
        for entry in std::fs::read_dir(&path).expect("list") {
            let name = entry.expect("an entry").file_name();
            if name != "fernet-keys" {
                list(root, &at.join(name), into);
            }
        }
    }
}

#[test]
fn everything_returns_together_but_keys_and_data_and_again_forth() {
    let it = Rolled::prepared();
    let conf = it.conf();
    std::fs::set_permissions(conf.join("busybox.conf"), PermissionsExt::from_mode(0o640)).expect("chmod");
    chown(conf.join("busybox.conf"), Some(0), Some(1000)).expect("chown");
    symlink("policy.d/one.json", conf.join("policy.json")).expect("link");
    std::fs::hard_link(conf.join("keystone.conf"), conf.join("same.conf")).expect("link");
    let long_ago =
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_234_567_890_123_456_789);
    for file in ["keystone.conf", "policy.d"] {
        std::fs::File::open(conf.join(file)).expect("open").set_modified(long_ago).expect("touch");
    }
    let first = it.listing();
    it.host.opsrun(["start", "keystone:1"]).succeeds();
    it.second_release();
    assert_eq!(it.listing(), first);

    it.settings("blue", 60, "");
    it.answers("two", "");
    for gone in ["policy.json", "same.conf", "policy.d/one.json"] {
        std::fs::remove_file(conf.join(gone)).expect("remove");
    }
    it.host.write("opt/keystone/conf/policy.d/two.json", "[]");
    it.host.write("opt/keystone/conf/new/deep", "new");
    std::fs::set_permissions(conf.join("keystone.conf"), PermissionsExt::from_mode(0o600)).expect("chmod");
    let second = it.listing();
    it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).succeeds();
    it.serves("two blue 2", "2", 2);
    // What changes while the second one serves.
    it.host.write("opt/keystone/conf/fernet-keys/0", "the second key");
    it.host.write("opt/keystone/conf/fernet-keys/1", "the third key");
    it.host.opsrun(["exec", "keystone", "sh", "-c", "echo token > /var/lib/busybox/data"]).succeeds();

    let done = it.host.opsrun(["rollback", "keystone", "--soak", "200ms"]);
    done.succeeds();
    let told = format!("{} is as in generation 3\n", conf.display());
    for text in ["2 serves until 1 is proven beside it", "keystone 1 has taken over", &told] {
        assert!(done.stderr.contains(text), "«{text}» is missing: {done}");
    }
    it.serves("one red 1", "1", 3);
    assert_eq!(it.listing(), first);
    assert_eq!((&it.status()["limits"]["pids.max"], it.drift()), (&Value::from("50"), Vec::new()));
    let same = |one: &str, two: &str| {
        let inode = |name: &str| conf.join(name).metadata().expect("metadata").ino();
        inode(one) == inode(two)
    };
    assert!(same("keystone.conf", "same.conf"));
    // Neither here nor in the container did the keys return, or the data go.
    let look = "cat /etc/busybox/fernet-keys/0 /etc/busybox/fernet-keys/1 /var/lib/busybox/data";
    let seen = it.host.opsrun(["exec", "keystone", "sh", "-c", look]).succeeds().stdout.clone();
    assert_eq!(seen, "the second keythe third keytoken\n");
    let key = || std::fs::read_to_string(conf.join("fernet-keys/0")).expect("the key");
    assert_eq!(key(), "the second key");
    assert_eq!(it.generations()[2]["made"]["from"], 1);
    let table = it.host.opsrun(["history", "keystone"]).succeeds().stdout.clone();
    assert!(table.lines().last().expect("a line").contains("rollback to 1"), "{table}");

    it.host.opsrun(["rollback", "keystone", "--soak", "0s"]).succeeds();
    it.serves("two blue 2", "2", 4);
    assert_eq!((it.listing(), it.status()["limits"]["pids.max"].clone()), (second, Value::from("60")));
    it.host.opsrun(["rollback", "keystone", "1", "--soak", "0s"]).succeeds();
    it.serves("one red 1", "1", 5);
    assert_eq!((it.listing(), key()), (first, "the second key".to_owned()));
    // A swap after that is one as ever: the settings as they are now, the configuration as it is there.
    it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).succeeds();
    it.serves("one blue 2", "2", 6);
}

#[test]
fn a_configuration_that_was_edited_is_kept_and_can_be_rolled_forward_to() {
    let it = Rolled::swapped("");
    it.answers("edited", "");
    it.host.write("opt/keystone/conf/more", "more");
    let edited = it.listing();
    assert_eq!(it.drift(), ["busybox.conf", "more"]);
    let done = it.host.opsrun(["rollback", "keystone", "--soak", "0s"]);
    assert!(done.succeeds().stderr.contains("; what it was is kept as generation 4"), "{done}");
    it.serves("one red 1", "1", 3);
    assert_eq!(it.drift(), [""; 0]);
    let kept = &it.generations()[3];
    let facts = ["kind", "by", "from", "release"].map(|key| kept["made"][key].clone());
    assert_eq!(facts, [Value::from("kept"), "rollback".into(), 2.into(), "2".into()]);
    assert_eq!((&kept["kept"], &kept["runs"]), (&Value::from(true), &Value::from(Vec::<Value>::new())));

    it.host.opsrun(["rollback", "keystone", "4", "--soak", "0s"]).succeeds();
    it.serves("edited blue 2", "2", 5);
    assert_eq!(it.listing(), edited);

    // To what runs: there is nothing to do but to put the configuration back, and the service does not notice.
    let process = it.host.service("keystone")["process"].clone();
    it.host.opsrun(["rollback", "keystone", "5"]).fails(1, &["keystone runs generation 5 already", "hint: "]);
    it.host.write("opt/keystone/conf/more", "much more");
    it.host.opsrun(["rollback", "keystone", "5"]).succeeds();
    assert_eq!((it.listing(), &it.host.service("keystone")["process"]), (edited, &process));
    it.serves("edited blue 2", "2", 5);
}

#[test]
fn the_configuration_can_be_left_as_it_is() {
    let it = Rolled::swapped("");
    it.answers("edited", "");
    let edited = it.listing();
    let done = it.host.opsrun(["rollback", "keystone", "--keep-config", "--soak", "0s"]);
    assert!(!done.succeeds().stderr.contains("is as in"), "{done}");
    it.serves("edited red 1", "1", 3);
    assert_eq!((it.listing(), it.drift(), it.generations().len()), (edited, Vec::new(), 3));
    assert_eq!(it.status()["limits"]["pids.max"], "50");
}

#[test]
fn one_that_cannot_serve_any_more_is_gone_and_what_ran_serves() {
    let broken = "[ -e /var/lib/busybox/migrated ] && { echo the database is newer >&2; exit 9; }";
    let it = Rolled::prepared();
    it.answers("one", broken);
    it.host.opsrun(["start", "keystone:1"]).succeeds();
    it.second_release();
    it.answers("two", "touch /var/lib/busybox/migrated");
    it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).succeeds();
    it.answers("edited", "");
    let edited = it.listing();
    for round in 0..2 {
        let done = it.host.opsrun(["rollback", "keystone", "--soak", "10s"]);
        done.fails(
            3,
            &[
                "keystone 1 could not be started; generation 2 (2) serves again",
                "it exited with status 9 before it was healthy",
                "| the database is newer",
            ],
        );
        it.serves("two red 2", "2", 2);
        assert_eq!(it.listing(), edited);
        // What was edited is kept once, however often it is tried.
        let kept: Vec<_> =
            it.generations().into_iter().filter(|entry| entry["made"]["kind"] == "kept").collect();
        assert_eq!((kept.len(), &kept[0]["kept"]), (1, &Value::from(true)), "round {round}");
    }
}

#[test]
fn one_that_is_in_a_crash_loop_can_be_rolled_back() {
    let it = Rolled::swapped("[ -e /var/lib/busybox/full ] && exit 8");
    it.host.write("opt/keystone/lib/full", "");
    let process = it.host.service("keystone")["process"].as_i64().expect("a process");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(process).expect("pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    it.host.service_until("keystone", "it is given up", |service| {
        service["state"] == "crash-loop" && service["supervisor"].is_null()
    });
    it.host.opsrun(["rollback", "keystone"]).succeeds();
    it.serves("one red 1", "1", 3);
    assert_eq!(it.drift(), [""; 0]);
    it.host.opsrun(["stop", "keystone"]).succeeds();
    it.host.opsrun(["rollback", "keystone"]).fails(1, &["keystone is not running", "opsrun start keystone"]);
}

#[test]
fn what_cannot_be_gone_back_to_is_said_with_the_way_out() {
    let it = Rolled::begin();
    it.host.opsrun(["rollback", "nothing"]).fails(1, &["there is no service nothing"]);
    it.host
        .opsrun(["rollback", "keystone"])
        .fails(1, &["nothing of keystone served before generation 1", "opsrun history keystone"]);
    it.host.opsrun(["rollback", "keystone", "7"]).fails(1, &["keystone has no generation 7; there are 1"]);
    it.host.opsrun(["rollback", "keystone", "one"]).fails(2, &["one"]);
    it.second_release();
    it.settings("red", 50, "generations = { keep = 1, history = 1 }");
    it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).succeeds();
    it.answers("two", "exit 1");
    for _ in 0..3 {
        it.host.opsrun(["swap", "keystone", "2", "--soak", "0s"]).fails(3, &[]);
    }
    // However few are kept, what a rollback needs is: its folder, its line in the history, and its image.
    it.host.opsrun(["rmi", "keystone:1"]).fails(1, &["keystone", "can go back to it"]);
    let archive = support::image("checked-1.tar").display().to_string();
    it.host.opsrun(["load", "--tag", "keystone:1", &archive]).succeeds();
    it.host.opsrun(["prune"]).succeeds();
    it.host.opsrun(["rollback", "keystone", "--soak", "0s"]).succeeds();
    it.serves("one red 1", "1", 6);

    // Now what served before is 2, and 1 is gone.
    it.host.opsrun(["rollback", "keystone", "1"]).fails(1, &["generation 1 of keystone is gone", "hint: "]);
    let image = it.generations().iter().find(|entry| entry["generation"] == 2).expect("the second")["made"]
        ["image_id"]
        .as_str()
        .expect("an id")
        .trim_start_matches("sha256:")
        .to_owned();
    let folder = find(&it.host.path("var/lib/opsrun/store"), &image).expect("the image's folder");
    std::fs::rename(&folder, it.host.path("gone")).expect("remove the image");
    let lost = it.host.opsrun(["rollback", "keystone"]);
    lost.fails(
        1,
        &["generation 2 of keystone needs keystone:2, which is not loaded any more", "opsrun load FILE"],
    );
    std::fs::rename(it.host.path("gone"), &folder).expect("put it back");
    it.serves("one red 1", "1", 6);
}

/// The folder of this name, wherever it is.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).ok()?.flatten() {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "layers" {
                folders.push(entry.path());
            }
        }
    }
    None
}

#[test]
fn a_swap_with_another_configuration_takes_it_over_when_it_is_proven() {
    let it = Rolled::begin();
    it.second_release();
    let before = it.listing();
    let other = it.host.path("other");
    std::fs::create_dir(&other).expect("mkdir");
    let swap = |folder: &str, soak: &str| {
        let mut command = it.host.command();
        command.current_dir(it.host.path(""));
        command.args(["swap", "keystone", "2", "--config", folder, "--soak", soak]);
        support::done(command)
    };
    swap("nothing", "0s").fails(1, &["nothing is no folder"]);
    swap("other", "0s").fails(1, &["keystone.conf is missing"]);
    it.host.write("other/keystone.conf", "[token]\n");
    it.host.write("other/busybox.conf", "exit 5");
    swap("other", "0s").fails(3, &["it exited with status 5"]);
    assert_eq!((it.listing(), it.generations().len()), (before.clone(), 2));
    it.serves("one red 1", "1", 1);

    let port = it.port;
    it.host.write("other/busybox.conf", &format!("listen=127.0.0.1:{port}\necho other >/www/index.html\n"));
    it.host.write("opt/keystone/conf/edited", "since the start");
    let done = swap("other", "0s");
    assert!(
        done.succeeds().stderr.contains("is as in generation 3; what it was is kept as generation 4"),
        "{done}"
    );
    it.serves("other", "2", 3);
    let mut expected = Listing::new();
    list(&other, Path::new(""), &mut expected);
    assert_eq!((it.listing(), it.drift()), (expected, Vec::new()));
    assert_eq!(std::fs::read_to_string(it.conf().join("fernet-keys/0")).expect("the key"), "the first key");
    let seen =
        it.host.opsrun(["exec", "keystone", "cat", "/etc/busybox/fernet-keys/0"]).succeeds().stdout.clone();
    assert_eq!(seen, "the first key");
    // What was edited is kept with the release that ran, and that one comes back without it.
    it.host.opsrun(["rollback", "keystone", "--soak", "0s"]).succeeds();
    it.serves("one red 1", "1", 5);
    assert_eq!(it.listing(), before);
}

/// What a person sees of it all, without what differs each time.
#[test]
fn the_history_and_the_difference_as_they_are_read() {
    let it = Rolled::prepared();
    let run = |line: &str, sudo: Option<&str>| {
        let mut command = it.host.command();
        command.args(line.split(' ')).env_remove("SUDO_USER");
        sudo.map(|name| command.env("SUDO_USER", name));
        support::done(command)
    };
    run("start keystone:1", None).succeeds();
    it.second_release();
    it.settings("blue", 60, "");
    it.answers("two", "password=S3CR3T");
    run("swap keystone 2 --soak 0s", None).succeeds();
    it.answers("three", "exit 7");
    run("swap keystone 1 --soak 0s", None).fails(3, &[]);
    run("rollback keystone --soak 0s", Some("alice")).succeeds();

    let mut ids: Vec<String> = Vec::new();
    for generation in it.generations() {
        let id = generation["made"]["image_id"].as_str().expect("an id").to_owned();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let port = format!("127.0.0.1:{}", it.port);
    let plain = |text: &str| {
        let mut text = text.replace(&port, "127.0.0.1:PORT");
        for (number, id) in ids.iter().enumerate() {
            let short = &id.trim_start_matches("sha256:")[..12];
            text = text.replace(id, &format!("ID{number}")).replace(short, &format!("ID{number}"));
        }
        text
    };
    let row = |line: &str| {
        // The widths depend on how long it took.
        let mut cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        if cells[0] != "GENERATION" {
            assert!(cells[3].starts_with("20") && cells[3].ends_with('Z'), "{line}");
            cells[3] = "TIME";
            cells[6] = if cells[6] == "-" { "-" } else { "SPAN" };
        }
        cells.join(" | ")
    };
    let table = run("history keystone", None).succeeds().stdout.clone();
    let table: Vec<String> = plain(&table).lines().map(row).collect();
    let difference = plain(&run("diff keystone 1 2", None).succeeds().stdout);
    let drift = run("diff keystone 4 now", None).stderr.clone();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("past", [table.join("\n"), difference, drift].join("\n"));
    });
}
