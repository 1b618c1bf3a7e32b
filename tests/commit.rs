//! `commit` where it is difficult: what no layer can hold, what an overlay does in its own way, and being killed while the
//! container stands still for it.

mod support;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Done, Host, Stopped, done, get, until};

/// A running service, whose container's files can be reached.
struct Service {
    host: Host,
    port: u16,
}

impl Service {
    fn begin() -> Self {
        let (host, port) = Host::with_busybox();
        host.opsrun(["start", "busybox:1"]).succeeds();
        Self { host, port }
    }

    /// A path inside its container, as the host reaches it: through the container's overlay.
    fn inside(&self, path: &str) -> PathBuf {
        let pid = self.host.service("busybox")["process"].as_i64().expect("a process");
        PathBuf::from(format!("/proc/{pid}/root{path}"))
    }

    fn shell(&self, script: &str) -> String {
        self.host.opsrun(["exec", "busybox", "sh", "-euc", script]).succeeds().stdout.clone()
    }

    fn commit(&self, name: &str) -> Done {
        self.host.opsrun(["commit", "busybox", name])
    }

    /// What a shell says in a container of the committed image.
    fn in_image(&self, name: &str, script: &str) -> String {
        self.host.opsrun(["run", "--rm", name, "sh", "-euc", script]).succeeds().stdout.clone()
    }

    /// The root of the committed image's top layer, as it is in the store.
    fn layer(&self, name: &str) -> PathBuf {
        let inspected = self.host.opsrun(["inspect", "--type", "image", name]).succeeds().json();
        let layers = inspected["image"]["layers"].as_array().expect("layers").clone();
        let top = layers.last().and_then(|layer| layer["diff_id"].as_str()).expect("a layer").to_owned();
        let hex = top.trim_start_matches("sha256:");
        self.host.path("var/lib/opsrun/store/layers/sha256").join(hex).join("root")
    }

    fn cgroup(&self) -> PathBuf {
        self.host.cgroups().pop().expect("a cgroup")
    }

    fn is_frozen(&self) -> bool {
        let text = std::fs::read_to_string(self.cgroup().join("cgroup.events")).expect("its events");
        text.contains("frozen 1")
    }

    fn goes_on(&self) {
        until("the container goes on", || !self.is_frozen());
        assert_eq!(get(self.port, "/").as_deref(), Some("up\n"));
    }

    fn images(&self) -> Value {
        self.host.opsrun(["images", "--json"]).succeeds().json()
    }
}

#[test]
fn a_socket_is_left_out_and_said_and_hides_what_it_took_the_place_of() {
    let it = Service::begin();
    it.shell("rm /www/index.html; mkdir /sockets; echo kept > /sockets/file");
    let _new = UnixListener::bind(it.inside("/sockets/new")).expect("a socket");
    let _instead = UnixListener::bind(it.inside("/www/index.html")).expect("a socket");
    let committed = it.commit("busybox:mine");
    committed.succeeds();
    assert!(committed.stderr.contains("2 sockets"), "{committed}");
    assert_eq!(
        it.in_image("busybox:mine", "ls -A /www /sockets; cat /sockets/file"),
        "/sockets:\nfile\n\n/www:\nkept\n"
    );
}

#[test]
fn extended_attributes_and_capabilities_of_files_are_kept() {
    let it = Service::begin();
    it.shell("cp /bin/busybox /capable; echo noted > /noted; mkdir /folder");
    // cap_net_bind_service+ep as linux/capability.h has it: VFS_CAP_REVISION_2, effective; permitted; inheritable.
    let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
    capability.resize(20, 0);
    let flags = rustix::fs::XattrFlags::empty();
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(it.inside(path), name, value, flags).expect("set it");
    };
    set("/capable", "security.capability", &capability);
    set("/noted", "user.note", b"one\0two\n");
    set("/folder", "trusted.note", b"for root");
    // Only its attribute is changed, of a file of the image.
    set("/www/index.html", "user.note", b"of the image");
    it.commit("busybox:mine").succeeds();
    let layer = it.layer("busybox:mine");
    let got = |path: &str, name: &str| {
        let mut value = vec![0; 64];
        let length = rustix::fs::getxattr(layer.join(path), name, &mut value[..]).expect("get it");
        value.truncate(length);
        value
    };
    assert_eq!(got("capable", "security.capability"), capability);
    assert_eq!(got("noted", "user.note"), b"one\0two\n");
    assert_eq!(got("folder", "trusted.note"), b"for root");
    assert_eq!(got("www/index.html", "user.note"), b"of the image");
    assert_eq!(it.in_image("busybox:mine", "cat /www/index.html /noted"), "up\nnoted\n");

    // As others find it: umoci's own unpacking of what is saved.
    let saved = it.host.path("saved.tar");
    it.host.opsrun(["save", "busybox:mine", "-o", saved.to_str().expect("path")]).succeeds();
    let mut umoci = Command::new("sh");
    let folder = it.host.root.path().display();
    umoci.args(["-euc", &format!("cd {folder} && skopeo copy -q oci-archive:saved.tar oci:layout:it && umoci unpack --image layout:it unpacked")]);
    done(umoci).succeeds();
    let mut value = [0; 64];
    let path = it.host.path("unpacked/rootfs/capable");
    let length = rustix::fs::getxattr(path, "security.capability", &mut value[..]).expect("get it");
    assert_eq!(value[..length], capability);
}

#[test]
fn names_that_would_mean_something_else_in_a_layer_are_refused() {
    for (make, name) in [
        ("touch /tmp/.wh.gone", "/tmp/.wh.gone"),
        ("mkdir -p /deep/.wh.folder/below", "/deep/.wh.folder"),
        ("touch /www/.wh..wh..opq", "/www/.wh..wh..opq"),
    ] {
        let it = Service::begin();
        let before = it.images();
        it.shell(make);
        it.commit("busybox:mine").fails(1, &[name, "begins with .wh."]);
        assert_eq!(it.images(), before);
        it.goes_on();
        it.shell(&format!("rm -r {name}"));
        it.commit("busybox:mine").succeeds();
    }
}

#[test]
fn a_folder_of_the_image_can_be_moved_only_by_copying_and_is_committed_as_that() {
    let it = Service::begin();
    // As documented of overlays without redirect_dir: the program gets EXDEV, and mv(1) copies.
    let moved = std::fs::rename(it.inside("/www"), it.inside("/web"));
    assert_eq!(moved.expect_err("it cannot").raw_os_error(), Some(rustix::io::Errno::XDEV.raw_os_error()));
    it.shell("mv /www /web; mkdir /own; echo 1 > /own/file; mv /own /renamed; chmod 700 /etc/passwd");
    it.commit("busybox:mine").succeeds();
    let script = "cat /web/index.html /renamed/file; ls -d /www /own 2>&1 | wc -l; stat -c %a /etc/passwd; head -n 1 /etc/passwd";
    let seen = it.in_image("busybox:mine", script);
    assert_eq!(seen, "up\n1\n2\n700\nroot:x:0:0:root:/root:/bin/sh\n");
    assert!(seen.contains("root:x:0"), "its content came along: {seen}");
}

#[test]
fn what_is_removed_replaced_and_linked_is_so_in_the_image() {
    let it = Service::begin();
    it.shell(
        "rm /etc/group; rm /service.sh; mkdir /service.sh; echo 1 > /service.sh/file; \
         rm -r /www; echo file > /www; rm /bin/ls; mkdir /bin/ls; \
         rm -r /var/lib/busybox 2> /dev/null || :; \
         ln /etc/passwd /etc/passwd-; ln /bin/busybox /bin/second; \
         rm -r /root; mkdir /root; mkdir -p /gone/deep; touch /gone/deep/file; rm -r /gone; \
         rm -r /tmp; mkdir /tmp; mkdir /tmp/a; mv /tmp/a /tmp/b",
    );
    it.commit("busybox:mine").succeeds();
    let script = "stat -c '%n %F %h' /etc/group /service.sh /service.sh/file /www /bin/second /etc/passwd /etc/passwd- /gone /tmp/b 2>&1 || :; \
         test /etc/passwd -ef /etc/passwd-; test /bin/busybox -ef /bin/second; busybox ls -A /root /tmp /bin/ls";
    let seen = it.in_image("busybox:mine", script);
    let expected = "stat: can't stat '/etc/group': No such file or directory\n/service.sh directory 2\n\
         /service.sh/file regular file 1\n/www regular file 1\n/bin/second regular file 2\n/etc/passwd regular file 2\n\
         /etc/passwd- regular file 2\nstat: can't stat '/gone': No such file or directory\n/tmp/b directory 2\n\
         /bin/ls:\n\n/root:\n\n/tmp:\nb\n";
    assert_eq!(seen, expected);
}

#[test]
fn a_commit_that_is_killed_lets_the_container_go_on() {
    let it = Service::begin();
    let before = it.images();
    let commit = Stopped::at(&it.host, "llistxattr", 1, ["commit", "busybox", "busybox:mine"]);
    assert!(it.is_frozen(), "it is read as of one moment");
    commit.kill();
    it.goes_on();
    assert_eq!(it.images(), before);
    it.commit("busybox:mine").succeeds();
    it.goes_on();
}

#[test]
fn a_commit_whose_supervisor_is_killed_lets_the_container_go_on() {
    let it = Service::begin();
    let commit = Stopped::at(&it.host, "llistxattr", 1, ["commit", "busybox", "busybox:mine"]);
    assert!(it.is_frozen());
    // Its keeper as well, which would start another one soon.
    it.host.kill_supervisor_and_keeper("busybox");
    until("it is gone", || it.host.service("busybox")["supervisor"].is_null());
    commit.go_on().succeeds();
    it.goes_on();
    let alone = it.commit("busybox:again");
    alone.succeeds();
    assert!(alone.stderr.contains("busybox is not paused, since it has no supervisor"), "{alone}");
}

#[test]
fn two_commits_at_once_both_read_a_container_that_stands_still() {
    let it = Service::begin();
    let first = Stopped::at(&it.host, "llistxattr", 1, ["commit", "busybox", "busybox:first"]);
    it.commit("busybox:second").succeeds();
    assert!(it.is_frozen(), "the first one still reads");
    first.go_on().succeeds();
    it.goes_on();
}

#[test]
fn a_service_that_stands_still_is_not_unwell_for_that() {
    let (host, port) = Host::with_busybox();
    let settings = std::fs::read_to_string(host.path("etc/opsrun/busybox.toml")).expect("its settings");
    let settings =
        settings.replace("interval = \"200ms\", timeout = \"2s\"", "interval = \"50ms\", timeout = \"50ms\"");
    host.write("etc/opsrun/busybox.toml", &settings);
    host.opsrun(["start", "busybox:1"]).succeeds();
    let it = Service { host, port };
    let commit = Stopped::at(&it.host, "llistxattr", 1, ["commit", "busybox", "busybox:mine"]);
    let began = Instant::now();
    // Three probes that fail would make it unwell, in less than half of this time.
    until("there was time for many probes", || began.elapsed() > Duration::from_secs(1));
    assert_eq!(it.host.service("busybox")["health"], "healthy");
    commit.go_on().succeeds();
    it.goes_on();
    let events = it.host.opsrun(["events", "busybox"]).succeeds().stdout.clone();
    assert!(!events.contains("unhealthy"), "{events}");
    // It is probed again.
    it.shell("mv /www/index.html /www/other");
    it.host.service_until("busybox", "it is unwell", |service| service["health"] == "unhealthy");
}
