//! What fuzzing begins with: the corpus of hostile images, and examples of all else that strangers write.
//! Does not know what is made of them; the targets in `tests/fuzz` say what their first byte and 0xff mean.

use std::fs;
use std::path::Path;

use bundles::digest::Digest;

use crate::corpus::cases;
use crate::fixture::{Item, configuration, gzip, tar_of, zstd};

/// Longer ones are slow, and what a fuzzer makes of them is no better.
const SEED_BYTES_MAX: usize = 16 << 10;

/// Where a target has the folder that nothing may be written to.
const OUTSIDE: &str = "/mnt/store/canary";

/// Not a test: what `scripts/fuzz` runs. It writes to the folder that the environment names.
#[test]
#[ignore = "it only writes files, for scripts/fuzz"]
fn write() {
    let folder = std::env::var_os("OPSRUN_SEEDS").expect("OPSRUN_SEEDS is a folder for the seeds");
    let archives: Vec<Vec<u8>> = cases(OUTSIDE).into_iter().map(|case| case.archive).collect();
    for (target, seeds) in [
        ("archive", archive(&archives)),
        ("layer", layer(&archives)),
        ("config", config()),
        ("reference", REFERENCES.map(Vec::from).to_vec()),
        ("service_file", service_files()),
    ] {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).unwrap();
        for seed in seeds.iter().filter(|seed| seed.len() <= SEED_BYTES_MAX) {
            // Alike ones are one.
            fs::write(folder.join(Digest::of(seed).hex()), seed).unwrap();
        }
        let count = fs::read_dir(&folder).unwrap().count();
        println!("{target}: {count} seeds");
        assert!(count >= 5, "{target} has only {count} seeds");
    }
}

fn with_mode(mode: u8, bytes: &[u8]) -> Vec<u8> {
    [&[mode], bytes].concat()
}

/// From a file with its checksums mended, and through a pipe as it is; and documents that become a layout.
fn archive(archives: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let documents = [
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["@0"]}}"#,
        r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@1","size":#1},
            "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@0","size":#0}]}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@2","size":#2,
            "annotations":{"org.opencontainers.image.ref.name":"x:1"}}]}"#,
    ];
    let documents = documents.map(str::as_bytes).join(&0xff_u8);
    let layout = [b"a layer".as_slice(), &documents].join(&0xff_u8);
    let mut seeds: Vec<_> = archives
        .iter()
        .flat_map(|archive| [with_mode(0, archive), with_mode(3, archive), with_mode(2, &gzip(archive))])
        .collect();
    seeds.extend([4, 5].map(|mode| with_mode(mode, &layout)));
    seeds
}

/// Each layer of the corpus, and all of them compressed.
fn layer(archives: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for archive in archives {
        let mut archive = tar::Archive::new(archive.as_slice());
        for entry in archive.entries().into_iter().flatten().map_while(Result::ok) {
            let mut entry = entry;
            let mut bytes = Vec::new();
            // What is no document is a layer. Some archives are broken: then that is all there is of it.
            let whole = std::io::Read::read_to_end(&mut entry, &mut bytes).is_ok();
            if whole && bytes.len() >= 20 && !matches!(bytes[0], b'{' | b'[') {
                seeds.push(with_mode(1, &bytes));
            }
        }
    }
    let good = tar_of([
        Item::folder("a/").mode(0o1777).owner(1, 2).pax("mtime", "-3.25"),
        Item::file("a/b", "content").pax("SCHILY.xattr.user.note", "x"),
        Item::hard_link("a/c", "a/b"),
        Item::symlink("d", "a"),
        Item::file("d/e", "through it"),
        Item::file("a/.wh.gone", ""),
    ]);
    seeds.extend([with_mode(0, &good), with_mode(1, &gzip(&good)), with_mode(1, &zstd(&good))]);
    seeds
}

/// Images' configurations; then, each behind a 0xff, a user, a working folder and the places of mounts.
fn config() -> Vec<Vec<u8>> {
    let asked = |json: &str, parts: &[&str]| {
        let parts: Vec<&[u8]> = [json].iter().chain(parts).map(|part| part.as_bytes()).collect();
        parts.join(&0xff_u8)
    };
    let shell =
        r#"{"config":{"Cmd":["/bin/sh"],"Env":["A=b","PATH=/bin"],"WorkingDir":"/srv","Volumes":{"/v":{}}}}"#;
    let check = r#"{"config":{"Entrypoint":["sh"],"User":"0:0","StopSignal":"SIGINT",
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1,"Timeout":2,"StartPeriod":3,"Retries":4}}}"#;
    vec![
        configuration(&[], "amd64"),
        asked(shell, &["keystone:log", "", "/srv/etc", "/srv/up/x", "/srv/gone"]),
        asked(shell, &["42:42", "/srv/loop", "/srv/host/x", "/srv/canary", "/proc/1"]),
        asked(shell, &["keystone", "/srv/../etc"]),
        asked(shell, &["no such"]),
        asked(check, &["", "", "/", "relative", "/srv/proc/self"]),
        asked(check, &[]),
    ]
}

const REFERENCES: [&str; 12] = [
    "keystone",
    "keystone:zed",
    "host:5000/a/b:tag",
    "keystone@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "keystone:zed@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "docker.io/library/x",
    "localhost/x:1",
    "[::1]:5000/a",
    "quay.io/openstack.kolla/keystone:2025.1-debian_bookworm",
    "linux/arm64/v8",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];

/// The catalogue's entries, which have the form of a service's file, and one with what none of them has.
fn service_files() -> Vec<Vec<u8>> {
    let catalogue = include_str!("../../../launcher/src/catalogue.toml");
    let without_header = |entry: &str| entry.split_once("]\n").map(|(_, body)| body.as_bytes().to_vec());
    let mut seeds: Vec<_> = catalogue.split("\n[").skip(1).filter_map(without_header).collect();
    seeds.push(SERVICE_FILE.into());
    seeds
}

const SERVICE_FILE: &str = r#"image = "quay.io/openstack.kolla/keystone"
ports = [5000, 35357]
after = ["mariadb"]
command = ["uwsgi", "--ini", "/etc/keystone/uwsgi.ini"]
entrypoint = []
user = "keystone:keystone"
volumes = ["/srv/pki:/etc/pki:ro"]
init = false
read_only = true
capabilities_add = ["NET_ADMIN"]
seccomp = "unconfined"
[environment]
OS_DEBUG = "1"
[health]
check = "http"
address = "192.0.2.7"
path = "/healthcheck?detail"
interval = "1m30s"
[restart]
policy = "on-failure"
backoff_first = "100ms"
[limits]
memory = "512m"
memory_swap = -1
cpus = 0.5
device_read_bps = ["/dev/sda:10mb"]
[stop]
signal = "SIGINT"
grace = "1m30s"
[generations]
keep = 3
"#;
