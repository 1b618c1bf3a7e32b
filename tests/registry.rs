//! `opsrun pull` against Debian's own registry, and against one that fails in every way: what arrives is the image that
//! was pushed or nothing, nobody waits for somebody else's slow registry, and no credentials are left anywhere.

#![allow(missing_docs)]

#[path = "registry/credentials.rs"]
mod credentials;
#[path = "registry/faults.rs"]
mod faults;
mod support;

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use support::registry::{Certificates, Registry, Settings};
use support::server::{Act, Server, forward};
use support::{Done, Host, PATIENCE, done, free_port, get, program, until};

/// A host with a person who is patient for a moment only; a test says more in `settings`.
fn host() -> Host {
    let host = Host::new();
    settings(&host, "", "10s");
    host
}

/// Writes `opsrun.toml`.
fn settings(host: &Host, text: &str, stall_timeout: &str) {
    let pull = format!(
        "[pull]\nstall_timeout = \"{stall_timeout}\"\nattempts = 3\nbackoff_first = \"10ms\"\nbackoff_max = \"2s\"\n"
    );
    host.write("etc/opsrun/opsrun.toml", &format!("{text}\n{pull}"));
}

/// The program for a person whose home is below the root; the files of whoever runs the tests do not count.
fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command();
    for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "SUDO_USER", "SSL_CERT_FILE"] {
        command.env_remove(name);
    }
    command.env("HOME", host.path("home")).env("XDG_RUNTIME_DIR", host.path("runtime"));
    command.args(arguments);
    command
}

fn opsrun(host: &Host, arguments: &[&str]) -> Done {
    done(command(host, arguments))
}

fn pull(host: &Host, reference: &str) -> Done {
    opsrun(host, &["pull", reference])
}

/// Starts it and does not wait.
fn started(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start opsrun")
}

/// What it did, when it has ended.
#[track_caller]
fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("wait for opsrun");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An image's id and diff ids, as opsrun sees it.
fn ids(host: &Host, name: &str) -> (Value, Value) {
    let inspected = host.opsrun(["inspect", "--type", "image", name]).succeeds().json();
    let diff_ids = inspected["image"]["layers"].as_array().expect("layers").iter();
    (inspected["image"]["id"].clone(), diff_ids.map(|layer| layer["diff_id"].clone()).collect())
}

fn fsck_is_clean(host: &Host) {
    let done = host.opsrun(["fsck"]);
    assert_eq!(done.succeeds().stdout, "", "{done}");
}

/// No image, and nothing half of one.
#[track_caller]
fn nothing_is_there(host: &Host) {
    let images = host.opsrun(["images", "--json"]).succeeds().json();
    assert_eq!(images["images"], json!([]));
    fsck_is_clean(host);
    let store = host.path("var/lib/opsrun/store");
    for folder in ["tmp", "layers/sha256", "images/sha256"] {
        let left = std::fs::read_dir(store.join(folder)).expect("list").count();
        assert_eq!(left, 0, "something is left in {folder}");
    }
}

/// What people see, without what is another one each time.
#[derive(Default)]
struct Seen(String);

impl Seen {
    fn see(&mut self, what: &str, done: &Done, host: &Host, names: &[(&str, &str)]) {
        let mut text = done.stderr.replace(&host.root.path().display().to_string(), "ROOT");
        for (name, replacement) in names {
            text = text.replace(name, replacement);
        }
        let mut shown = String::new();
        for (at, part) in text.split("sha256:").enumerate() {
            let hex = part.bytes().take_while(u8::is_ascii_hexdigit).count();
            shown += if at > 0 { "sha256:…" } else { "" };
            shown += if at > 0 && hex == 64 { &part[hex..] } else { part };
        }
        writeln!(self.0, "# {what}\n{}= {}\n", shown, done.status).expect("OK because it is a String");
    }

    #[track_caller]
    fn is(&self, name: &str) {
        insta::with_settings!({
            omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "snapshots",
        }, {
            insta::assert_snapshot!(name, self.0);
        });
    }
}

#[test]
fn what_is_pulled_is_what_a_file_has() {
    let (registry, host) = (Registry::new(), host());
    let name = format!("{}/os/busybox", registry.name());
    let pulled = pull(&host, &format!("{name}:1"));
    assert!(pulled.succeeds().stderr.contains(&format!("{name}:1")), "{pulled}");
    let from_file = Host::new();
    from_file.load("busybox-1.tar");
    assert_eq!(ids(&host, "busybox:1"), ids(&from_file, "busybox:1"));
    fsck_is_clean(&host);
    let run = opsrun(&host, &["run", "busybox:1", "cat", "/www/index.html"]);
    assert_eq!(run.succeeds().stdout, "up\n");

    // As docker has it: another manifest, and the same layers.
    let pulled = pull(&host, &format!("{name}:schema2"));
    assert!(pulled.succeeds().stderr.contains("every layer was there already"), "{pulled}");
    assert_eq!(ids(&host, &format!("{name}:schema2")).1, ids(&host, "busybox:1").1);

    let (mut seen, own) = (Seen::default(), registry.name());
    let names = [(own.as_str(), "REGISTRY")];
    for (what, reference) in [
        ("the form that was before schema 2", format!("{name}:schema1")),
        ("a tag that is not there", format!("{name}:2")),
        ("an image that is not there", format!("{own}/os/nothing:1")),
        ("a digest that is not there", format!("{name}@sha256:{}", "0".repeat(64))),
        ("no registry", "busybox:2".to_owned()),
        ("no name", format!("{own}/os/Busybox:1")),
    ] {
        seen.see(what, &pull(&host, &reference), &host, &names);
    }
    let closed = format!("127.0.0.1:{}", free_port());
    seen.see("nobody", &pull(&host, &format!("{closed}/os/busybox:1")), &host, &[(&closed, "REGISTRY")]);
    let text = "[registry.\"x\"]\ncertificate = \"/x.pem\"\n";
    host.write("etc/opsrun/opsrun.toml", text);
    seen.see("a setting that there is not", &pull(&host, &format!("{name}:1")), &host, &names);
    seen.is("registry_refused");
}

#[test]
fn a_digest_means_one_image_and_an_index_the_hosts_platform() {
    let (registry, host) = (Registry::new(), host());
    let (_, digest) = registry.manifest("os/three/manifests/1");
    let pulled = opsrun(&host, &["pull", "--json", &format!("{}/os/three@{digest}", registry.name())]);
    let listed = pulled.succeeds().json();
    assert_eq!(listed["images"][0]["names"], json!([]), "{pulled}");
    pull(&host, &format!("{}/os/three:1", registry.name())).succeeds();
    assert_eq!(host.opsrun(["images", "--json"]).json()["images"].as_array().map(Vec::len), Some(1));
    opsrun(&host, &["pull", "--tag", "mine:1", &format!("{}/os/three:1", registry.name())]).succeeds();
    assert_eq!(ids(&host, "mine:1"), ids(&host, &digest));

    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let (_, index) = registry.manifest("os/multi/manifests/1");
    let (manifest, _) = registry.manifest(&format!("os/multi/manifests/{architecture}"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    for by in [":1".to_owned(), format!("@{index}")] {
        let host = self::host();
        let pulled = opsrun(&host, &["pull", "--json", &format!("{}/os/multi{by}", registry.name())]);
        assert_eq!(pulled.succeeds().json()["images"][0]["id"], manifest["config"]["digest"], "{pulled}");
    }
    let other = if architecture == "arm64" { "amd64" } else { "arm64" };
    let foreign = pull(&self::host(), &format!("{}/os/multi:{other}", registry.name()));
    foreign.fails(1, &[other, "hint: "]);
}

#[test]
fn without_tls_only_this_host_is_spoken_to_unless_the_operator_says_so() {
    let (registry, host) = (Registry::new(), host());
    // The same registry by an address that could be anybody's.
    let elsewhere = format!("0.0.0.0:{}", registry.port);
    let mut seen = Seen::default();
    let names = [(elsewhere.as_str(), "REGISTRY")];
    let refused = pull(&host, &format!("{elsewhere}/os/three:1"));
    seen.see("without TLS", &refused, &host, &names);
    nothing_is_there(&host);
    settings(&host, &format!("[registry.\"{elsewhere}\"]\ninsecure = true\n"), "10s");
    pull(&host, &format!("{elsewhere}/os/three:1")).succeeds();

    let certificates = Certificates::new();
    let registry = Registry::with(&Settings { tls: certificates.tls(), ..Settings::default() });
    let host = self::host();
    let own = registry.name();
    let folder = certificates.path("").display().to_string();
    let names = [(own.as_str(), "REGISTRY"), (folder.as_str(), "CERTIFICATES/")];
    let reference = format!("{own}/os/three:1");
    seen.see("with TLS where none is expected", &pull(&host, &reference), &host, &names);
    let mut authority = |what: &str, file: &str| {
        let path = certificates.path(file);
        settings(&host, &format!("[registry.\"{own}\"]\nca = \"{}\"\n", path.display()), "10s");
        let done = pull(&host, &reference);
        if done.status != 0 {
            seen.see(what, &done, &host, &names);
            nothing_is_there(&host);
        }
        done.status
    };
    certificates
        .run("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout x.key -out other.pem");
    assert_eq!(authority("another authority", "other.pem"), 1);
    assert_eq!(authority("no authority", "key.pem"), 1);
    assert_eq!(authority("no file", "nowhere.pem"), 1);
    assert_eq!(authority("the authority", "ca.pem"), 0);
    settings(&host, &format!("[registry.\"{own}\"]\ninsecure = false\n"), "10s");
    seen.see("the system's authorities", &pull(&host, &reference), &host, &names);
    seen.is("registry_tls");
    // They can be others, by a variable that openssl's programs know too.
    let mut command = command(&host, &["pull", &reference]);
    command.env("SSL_CERT_FILE", certificates.path("ca.pem"));
    done(command).succeeds();
}

#[test]
fn a_second_pull_is_one_request_and_layers_come_at_once() {
    let (registry, host) = (Registry::new(), host());
    let behind = registry.port;
    let layers = registry.layers("os/three", "1");
    // Answers none of the layers before all of them are asked for.
    let waiting = Arc::new((Mutex::new(0), Condvar::new()));
    let server = Server::before(behind, move |asked, _| {
        let is_layer = layers.iter().any(|layer| asked.path.ends_with(layer.as_str()));
        is_layer.then(|| {
            let (count, changed) = &*waiting;
            let mut count = count.lock().expect("the count");
            *count += 1;
            changed.notify_all();
            drop(changed.wait_timeout_while(count, PATIENCE, |count| *count < 3).expect("the count"));
            Act::Whole(forward(behind, asked))
        })
    });
    let reference = format!("127.0.0.1:{}/os/three:1", server.port);
    // Whoever asked for one after the other would find that nothing comes.
    settings(&host, "", "5s");
    pull(&host, &reference).succeeds();
    let asked = server.asked();
    assert_eq!(asked.len(), 5, "a manifest, a configuration and three layers: {asked:#?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:#?}");
    let again = pull(&host, &reference);
    assert!(again.succeeds().stderr.contains("every layer was there already"), "{again}");
    let asked = server.asked();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("GET", "/v2/os/three/manifests/1"));
}

#[test]
fn a_terminal_shows_each_layer() {
    let (registry, host) = (Registry::new(), host());
    let behind = registry.port;
    let server = Server::before(behind, move |asked, _| {
        asked.is_blob().then(|| Act::Stall(forward(behind, asked), 100_000))
    });
    let reference = format!("127.0.0.1:{}/os/three:1", server.port);
    let line = format!(
        "TERM=xterm OPSRUN_ROOT={} {} pull {reference}",
        host.root.path().display(),
        program().display()
    );
    let mut script = Command::new("script");
    script.args(["-qefc", &line]).arg(host.path("typescript")).stdin(Stdio::null());
    let child = started(script);
    for layer in 1..=3 {
        until("each layer is shown", || {
            let shown = std::fs::read_to_string(host.path("typescript")).unwrap_or_default();
            shown.contains(&format!("layer {layer} of 3"))
        });
    }
    server.open();
    assert_eq!(ended(child).0, 0);
}

#[test]
fn start_pulls_when_told_so() {
    let (registry, host) = (Registry::new(), host());
    let server = Server::before(registry.port, |_, _| None);
    let refused = opsrun(&host, &["start", "busybox:1", "--pull"]);
    refused.fails(1, &["default_registry", "hint: "]);
    settings(&host, &format!("default_registry = \"127.0.0.1:{}/os\"\n", server.port), "10s");
    opsrun(&host, &["start", "busybox:1"]).fails(1, &["hint: opsrun pull busybox:1"]);
    assert_eq!(server.asked().len(), 0);
    pull(&host, "busybox:1").succeeds();
    opsrun(&host, &["config", "init", "busybox"]).succeeds();
    opsrun(&host, &["rmi", "busybox:1"]).succeeds();
    let port = free_port();
    host.configure_busybox(port, "");

    server.asked();
    opsrun(&host, &["start", "busybox:1", "--pull"]).succeeds();
    assert!(server.asked().len() > 2);
    assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    for (option, requests) in
        [("--pull", 0), ("--pull=missing", 0), ("--pull=never", 0), ("--pull=always", 1)]
    {
        opsrun(&host, &["stop", "busybox"]).succeeds();
        opsrun(&host, &["start", "busybox:1", option]).succeeds();
        assert_eq!(server.asked().len(), requests, "{option}");
        assert_eq!(get(port, "/").as_deref(), Some("up\n"));
    }
    // Without the registry what is there is started, unless it was to be pulled.
    opsrun(&host, &["stop", "busybox"]).succeeds();
    server.rule(|_, _| Act::Whole(support::server::Answer::new(403, "")));
    opsrun(&host, &["start", "busybox:1", "--pull=always"]).fails(1, &["does not let", "hint: "]);
    opsrun(&host, &["start", "busybox:1", "--pull"]).succeeds();
}

#[test]
fn mirrors_are_asked_first_and_the_registry_last() {
    let registry = Registry::new();
    let behind = registry.port;
    let own = Server::before(behind, |_, _| None);
    let mirror = Server::before(behind, |_, _| None);
    let closed = free_port();
    let host = host();
    let said = |host: &Host, mirrors: &str| {
        settings(host, &format!("[registry.\"127.0.0.1:{}\"]\nmirrors = {mirrors}\n", own.port), "10s");
    };
    let reference = format!("127.0.0.1:{}/three:1", own.port);
    // The mirror has it below another name; the registry itself has no such image.
    said(&host, &format!("[\"127.0.0.1:{closed}\", \"127.0.0.1:{}/os\"]", mirror.port));
    let pulled = pull(&host, &reference);
    pulled.succeeds();
    assert!(pulled.stderr.contains(&format!("127.0.0.1:{closed} cannot be reached")), "{pulled}");
    assert!(pulled.stderr.contains("asking the next one"), "{pulled}");
    assert_eq!((own.asked().len(), mirror.asked().len()), (0, 5));
    assert!(host.opsrun(["images"]).stdout.contains(&format!("127.0.0.1:{}/three", own.port)));

    // Nobody's: the error is the registry's own.
    let empty = self::host();
    said(&empty, &format!("[\"127.0.0.1:{closed}\", \"127.0.0.1:{}/none\"]", mirror.port));
    pull(&empty, &reference).fails(1, &[&format!("127.0.0.1:{} has no", own.port)]);
    nothing_is_there(&empty);

    // One that loses its layers is followed by the next, which goes on where it ended.
    let reference = format!("127.0.0.1:{}/os/three:1", own.port);
    own.asked();
    mirror.rule(move |asked, _| match (asked.is_blob(), forward(behind, asked)) {
        (true, answer) if answer.body.len() > 100_000 => Act::Cut(answer, 100_000),
        (_, answer) => Act::Whole(answer),
    });
    said(&empty, &format!("[\"127.0.0.1:{}\"]", mirror.port));
    pull(&empty, &reference).succeeds();
    fsck_is_clean(&empty);
    let asked = own.asked();
    assert_eq!(asked.len(), 3, "each layer: {asked:#?}");
    assert!(asked.iter().all(|asked| asked.header("range").is_some()), "{asked:#?}");
}

#[test]
fn nobody_waits_for_a_pull_whose_registry_is_slow() {
    let (registry, host) = (Registry::new(), host());
    let behind = registry.port;
    let layers = registry.layers("os/three", "1");
    let server = Server::before(behind, move |asked, _| {
        let is_last = asked.path.ends_with(layers[2].as_str());
        is_last.then(|| Act::Stall(forward(behind, asked), 150_000))
    });
    let reference = format!("127.0.0.1:{}/os/three:1", server.port);
    settings(&host, "", "60s");
    let child = started(command(&host, &["pull", &reference]));
    // Two layers are unpacked, and the third is coming.
    let tmp = host.path("var/lib/opsrun/store/tmp");
    let unpacked = || {
        let stage = std::fs::read_dir(&tmp).ok()?.flatten().next()?;
        let layers = std::fs::read_dir(stage.path().join("load/layers")).ok()?.flatten();
        Some(layers.filter(|layer| layer.path().join("layer.json").exists()).count())
    };
    until("two layers are unpacked", || unpacked() == Some(2));
    let alone = |arguments: &[&str]| {
        let done = opsrun(&host, arguments);
        assert!(!done.stderr.contains("waiting"), "{done}");
        done
    };
    let archive = support::image("busybox-1.tar");
    alone(&["load", archive.to_str().expect("a path")]).succeeds();
    alone(&["prune"]).succeeds();
    alone(&["rmi", "busybox:1"]).succeeds();
    alone(&["fsck", "--repair"]).succeeds();
    assert_eq!(unpacked(), Some(2), "what is being pulled is left");
    // The same image by another pull, from a faster one.
    alone(&["pull", &format!("{}/os/three:1", registry.name())]).succeeds();
    // Its layers have no other name when the slow one comes to it.
    alone(&["rmi", &format!("{}/os/three:1", registry.name())]).succeeds();
    assert_eq!(unpacked(), Some(2), "what is being pulled is left");
    server.open();
    let (status, said) = ended(child);
    assert_eq!(status, 0, "{said}");
    fsck_is_clean(&host);
    assert_eq!(ids(&host, &reference).1.as_array().map(Vec::len), Some(3));
    assert_eq!(std::fs::read_dir(&tmp).expect("list").count(), 0);
}

#[test]
fn layers_that_a_pull_relies_on_are_kept_and_those_that_go_all_the_same_are_got() {
    let (registry, host) = (Registry::new(), host());
    let behind = registry.port;
    let fourth = registry.layers("os/four", "1").swap_remove(3);
    let of_rule = fourth.clone();
    let server = Server::before(behind, move |asked, _| {
        asked.path.ends_with(&of_rule).then(|| Act::Stall(forward(behind, asked), 100))
    });
    settings(&host, "", "60s");
    pull(&host, &format!("{}/os/three:1", registry.name())).succeeds();
    let child = started(command(&host, &["pull", &format!("127.0.0.1:{}/os/four:1", server.port)]));
    until("the fourth layer is asked for", || server.was_asked(&fourth));
    // Nobody else needs the three.
    opsrun(&host, &["rmi", "three:1"]).succeeds();
    assert_eq!(opsrun(&host, &["prune"]).succeeds().stdout, "");
    let layers = host.path("var/lib/opsrun/store/layers/sha256");
    let there = || std::fs::read_dir(&layers).expect("list").flatten();
    assert_eq!(there().count(), 3);
    // But one that is broken goes.
    let broken = there().map(|layer| layer.path().join("root/one")).find(|file| file.exists());
    std::fs::write(broken.expect("the file of a layer"), "x").expect("write it");
    opsrun(&host, &["fsck", "--repair"]).succeeds();
    assert_eq!(there().count(), 2);
    server.open();
    let (status, said) = ended(child);
    assert_eq!(status, 0, "{said}");
    fsck_is_clean(&host);
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "a manifest, a configuration and two layers: {asked:#?}");
}

#[test]
fn a_pull_that_is_interrupted_or_killed_leaves_nothing() {
    let registry = Registry::new();
    let behind = registry.port;
    let server = Server::before(behind, move |asked, _| {
        asked.is_blob().then(|| Act::Stall(forward(behind, asked), 200_000))
    });
    let reference = format!("127.0.0.1:{}/os/three:1", server.port);
    let layer = registry.layers("os/three", "1").swap_remove(0);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::KILL]
    {
        let host = host();
        settings(&host, "", "60s");
        server.asked();
        let child = started(command(&host, &["pull", &reference]));
        until("a layer is asked for", || server.was_asked(&layer));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).expect("signal it");
        let (status, said) = ended(child);
        if signal == rustix::process::Signal::KILL {
            // What it left is the next one's to remove.
            host.opsrun(["prune"]).succeeds();
        } else {
            assert_ne!(status, 0);
            assert!(said.contains("interrupted"), "{said}");
        }
        nothing_is_there(&host);
        pull(&host, &format!("{}/os/three:1", registry.name())).succeeds();
    }
}
