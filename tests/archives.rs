//! What leaves opsrun again: saved images are what other tools and opsrun itself read back, and what a container has
//! changed becomes a layer that they all understand.

#[path = "support/docker.rs"]
mod docker;
mod support;

use std::path::Path;
use std::process::Command;

use docker::Docker;
use serde_json::Value;
use support::{Done, Host, done, image};

fn shell(script: &str) -> Done {
    let mut command = Command::new("sh");
    command.args(["-euc", script]);
    let done = done(command);
    done.succeeds();
    done
}

/// An image's id and diff ids, as opsrun sees it.
fn ids(host: &Host, name: &str) -> (String, Vec<String>) {
    let inspected = host.opsrun(["inspect", "--type", "image", name]).succeeds().json();
    let image = &inspected["image"];
    let layers = image["layers"].as_array().unwrap_or_else(|| panic!("no layers: {inspected}"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&image["id"]), layers.iter().map(|layer| text(&layer["diff_id"])).collect())
}

/// Everything below a folder of the running container: type, mode, owner, time, name, target and content.
const LIST: &str = "cd / && find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/busybox -o -path ./var -o -path ./etc/hosts \
    -o -path ./etc/resolv.conf \\) -prune -o -print | sort | while read -r f; do stat -c '%n %a %u %g %F %h' \"$f\"; \
    if [ -L \"$f\" ]; then readlink \"$f\"; elif [ -f \"$f\" ]; then sha256sum < \"$f\"; fi; done";

#[test]
fn what_a_running_container_changed_is_an_image_that_others_see_alike() {
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let change = "mkdir -p /new/deep && echo added > /new/deep/file && ln /new/deep/file /new/second && \
        ln -s deep/file /new/link && chmod 4755 /new/deep/file && mkfifo /new/pipe && \
        rm /etc/hostname && rm -rf /www && mkdir /www && echo other > /www/other && echo mine > /www/index.html && mkdir /empty && \
        chown 42:43 /www/other && touch -d '2001-02-03 04:05:06' /www/other";
    host.opsrun(["exec", "busybox", "sh", "-c", change]).succeeds();
    let seen = host.opsrun(["exec", "busybox", "sh", "-c", LIST]).succeeds().stdout.clone();
    let committed = host.opsrun(["commit", "busybox", "busybox:mine", "-m", "a test", "--author", "me"]);
    committed.succeeds();
    assert!(
        committed.stderr.contains("busybox:mine") && !committed.stderr.contains("not paused"),
        "{committed}"
    );
    // It goes on, and the same changes are the same layer.
    host.opsrun(["exec", "busybox", "true"]).succeeds();
    host.opsrun(["commit", "--pause=false", "busybox", "busybox:again"]).succeeds();
    assert_eq!(ids(&host, "busybox:mine").1, ids(&host, "busybox:again").1);
    let base = ids(&host, "busybox:1").1;
    let mine = ids(&host, "busybox:mine");
    assert_eq!(mine.1[..base.len()], base[..], "the layers below are the image's");
    assert_eq!(mine.1.len(), base.len() + 1);
    assert_eq!(committed.stdout.trim(), mine.0);
    let listed = host.opsrun(["images"]).succeeds().stdout.clone();
    assert!(listed.contains("committed: busybox on busybox:1"), "{listed}");
    let listed = host.opsrun(["images", "--json"]).succeeds().json();
    let of = |name: &str| {
        let images = listed["images"].as_array().expect("images");
        images.iter().find(|image| image["names"][0] == name).unwrap_or_else(|| panic!("{listed}")).clone()
    };
    assert_eq!(of("busybox:mine")["committed_from"]["service"], "busybox");
    assert_eq!(of("busybox:1")["committed_from"], Value::Null);
    let configuration = host.opsrun(["inspect", "--type", "image", "busybox:mine"]).succeeds().stdout.clone();
    assert!(
        configuration.contains("a test") && configuration.contains("opsrun commit busybox"),
        "{configuration}"
    );

    // No mount point and nothing of the overlay's own is in the layer.
    let archive = host.path("mine.tar");
    host.opsrun(["save", "--uncompressed", "busybox:mine", "-o", archive.to_str().expect("path")]).succeeds();
    let top = mine.1.last().expect("a layer").trim_start_matches("sha256:").to_owned();
    let entries = shell(&format!("tar -xOf {} blobs/sha256/{top} | tar -t", archive.display())).stdout;
    let entries: Vec<&str> = entries.lines().collect();
    for wanted in
        ["etc/.wh.hostname", "new/deep/file", "new/second", "new/pipe", "www/.wh..wh..opq", "www/other"]
    {
        assert!(entries.contains(&wanted), "{wanted} is missing: {entries:#?}");
    }
    for entry in &entries {
        let of_mount = ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts"]
            .iter()
            .any(|it| entry.strip_suffix('/').unwrap_or(entry) == *it);
        assert!(!of_mount && !entry.contains("new/.wh."), "{entry}: {entries:#?}");
    }
    // The committed image starts, with the same files.
    host.opsrun(["stop", "busybox"]).succeeds();
    let stopped = host.opsrun(["commit", "busybox", "busybox:stopped"]);
    stopped.succeeds();
    let again = host.opsrun(["run", "busybox:mine", "sh", "-c", LIST]).succeeds().stdout.clone();
    let relevant = |text: &str| {
        // Folders have other link counts and the run sees mounts of its own.
        text.lines().filter(|line| !line.contains(" directory ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(relevant(&seen), relevant(&again));
    host.opsrun(["start", "busybox:mine"]).succeeds();
    assert_eq!(support::get(port, "/").as_deref(), Some("mine\n"));
    podman_sees(&host, &archive, &relevant(&seen));
}

/// Unpacked by umoci it is the same tree: names of files, modes, owners and contents.
fn podman_sees(host: &Host, archive: &Path, expected: &[String]) {
    let place = host.path("umoci");
    shell(&format!(
        "skopeo copy -q oci-archive:{} oci:{}:it && umoci unpack --image {}:it {}",
        archive.display(),
        host.path("layout").display(),
        host.path("layout").display(),
        place.display()
    ));
    let list = LIST.replace("cd /", &format!("cd {}/rootfs", place.display()));
    let found = shell(&list).stdout;
    let found: Vec<_> =
        found.lines().filter(|line| !line.contains(" directory ")).map(str::to_owned).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_cannot_be_saved_or_committed_says_why() {
    let host = Host::new();
    host.opsrun(["save", "nothing:1", "-o", "/dev/null"]).fails(1, &["no image nothing:1", "hint: "]);
    host.opsrun(["commit", "nothing", "it:1"]).fails(1, &["no service nothing"]);
    host.load("busybox-1.tar");
    let nowhere = host.path("nowhere/file");
    host.opsrun(["save", "busybox:1", "-o", nowhere.to_str().expect("path")]).fails(1, &["could not write"]);
    let folder = host.root.path().to_str().expect("path");
    host.opsrun(["save", "busybox:1", "-o", folder]).fails(1, &["could not write", "directory"]);
    host.opsrun(["save", "--format", "zip", "busybox:1"]).fails(2, &["oci-archive", "docker-archive"]);
    host.opsrun(["save"]).fails(2, &[]);
    // Nothing of it is left, and what is there is replaced.
    let there = host.path("there.tar");
    std::fs::write(&there, "something").expect("write it");
    host.opsrun(["save", "busybox:1", "-o", there.to_str().expect("path")]).succeeds();
    host.opsrun(["load", "--tag", "again:1", there.to_str().expect("path")]).succeeds();
    let mut terminal = Command::new("script");
    let line = format!("OPSRUN_ROOT={folder} {} save busybox:1", support::program().display());
    terminal.args(["-qec", &line, "/dev/null"]);
    let done = done(terminal);
    assert!(done.status == 1 && done.stdout.contains("cannot be written to a terminal"), "{done}");
    // A full disk.
    let full = host.opsrun(["save", "busybox:1", "-o", "/dev/full"]);
    full.fails(1, &["the disk is full"]);
}

#[test]
fn a_saved_image_is_read_from_a_pipe_too() {
    let host = Host::new();
    let other = Host::new();
    host.load("busybox-1.tar");
    let line = format!(
        "OPSRUN_ROOT={0} {2} save busybox:1 | OPSRUN_ROOT={1} {2} load -",
        host.root.path().display(),
        other.root.path().display(),
        support::program().display()
    );
    shell(&line);
    assert_eq!(ids(&host, "busybox:1"), ids(&other, "busybox:1"));
    assert!(image("busybox-1.tar").exists());
}

/// podman, buildah and skopeo with a storage of their own.
fn containers(folder: &Path, script: &str) -> String {
    let at = folder.display();
    let settings = folder.join("storage.conf");
    std::fs::create_dir_all(folder).expect("a folder");
    let text = format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n");
    std::fs::write(&settings, text).expect("write it");
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(folder).env("CONTAINERS_STORAGE_CONF", &settings);
    command.env("BUILDAH_ISOLATION", "chroot");
    done(command).succeeds().stdout.trim().to_owned()
}

/// Saves an image in each form and has everybody read it: the id and the diff ids are the same everywhere.
fn everybody_reads(archive: &str, name: &str, docker: &Docker, formats: &[&str]) {
    let host = Host::new();
    host.load(archive);
    let expected = ids(&host, name);
    let id = expected.0.trim_start_matches("sha256:");
    let diff_ids = |json: &str| -> Vec<String> {
        let value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
        serde_json::from_value(value).expect("a list")
    };
    for format in formats {
        let saved = host.path("saved.tar");
        let path = saved.display();
        host.opsrun(["save", "--format", format, name, "-o", saved.to_str().expect("path")]).succeeds();
        let other = Host::new();
        other.opsrun(["load", saved.to_str().expect("path")]).succeeds();
        assert_eq!(ids(&other, name), expected, "{format}");

        let config = shell(&format!("skopeo inspect --raw --config {format}:{path} | sha256sum")).stdout;
        assert!(config.starts_with(id), "{format}: {config}");
        shell(&format!("skopeo copy -q {format}:{path} dir:{}", host.path(format).display()));

        let tools = host.path(format!("podman-{format}"));
        containers(&tools, &format!("podman load -q -i {path}"));
        let found =
            containers(&tools, "podman images --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'");
        assert_eq!(found, format!("sha256:{id} localhost/{name}"), "{format}");
        let found =
            containers(&tools, &format!("podman inspect --format '{{{{json .RootFS.Layers}}}}' {id}"));
        assert_eq!(diff_ids(&found), expected.1, "{format}");

        docker.docker(&format!("load -q -i {path}"));
        let found = docker.docker(&format!("inspect --format '{{{{.Id}}}}' {id}"));
        assert_eq!(found, expected.0, "{format}");
        let found = docker.docker(&format!("inspect --format '{{{{json .RootFS.Layers}}}}' {id}"));
        assert_eq!(diff_ids(&found), expected.1, "{format}");
        docker.docker(&format!("rmi -f {id}"));
    }
}

#[test]
fn keystone_is_saved_as_it_was_loaded() {
    let (host, other) = (Host::new(), Host::new());
    host.load("keystone-zed.tar");
    let saved = host.path("saved.tar");
    host.opsrun(["save", "keystone:zed", "-o", saved.to_str().expect("path")]).succeeds();
    other.opsrun(["load", saved.to_str().expect("path")]).succeeds();
    assert_eq!(ids(&other, "keystone:zed"), ids(&host, "keystone:zed"));
}

#[test]
fn docker_podman_skopeo_and_opsrun_read_what_is_saved() {
    let docker = Docker::new();
    everybody_reads("busybox-1.tar", "busybox:1", &docker, &["oci-archive", "docker-archive"]);
}
