//! What a bundle says, by image and by request, and that a failure leaves nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bundles::Error;
use bundles::bundle::{self, Mount, Seccomp};
use serde_json::json;

mod image;
mod mounts;
mod process;

use image::{Image, words};

#[test]
fn a_whole_configuration() {
    let image = Image::new().config(json!({
        "User": "keystone", "Env": ["OS_REGION=one", "PATH=/usr/bin"], "Entrypoint": ["service.sh"], "Cmd": ["--now"],
        "WorkingDir": "/", "StopSignal": "SIGINT",
        "Volumes": {"/var/log/keystone": {}, "/etc/keystone": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64},
    }));
    image.file(0, "usr/bin/service.sh", "#!/bin/sh\n", 0o755);
    let source = image.folder.path().join("opt");
    fs::create_dir(&source).unwrap();
    fs::write(image.folder.path().join("hosts"), "").unwrap();
    let mut request = image.request();
    let mount = |destination: &str, read_only| Mount {
        source: source.clone(),
        destination: PathBuf::from(destination),
        read_only,
    };
    request.mounts = vec![mount("/etc/keystone/deep/", true), mount("/etc/keystone", false)];
    request.host_files = vec![(image.folder.path().join("hosts"), PathBuf::from("/etc/hosts"))];
    request.dev_log = true;
    request.annotations =
        [("org.opsrun.definition", "{}"), ("a", "b")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    request.seccomp = Seccomp::Unconfined;
    let prepared = image.prepare(&request).unwrap();

    let folder = image.folder.path().to_str().unwrap();
    let text = fs::read_to_string(image.bundle().join("config.json")).unwrap().replace(folder, "/FOLDER");
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config.json");
    if std::env::var_os("OPSRUN_ACCEPT").is_some() {
        fs::write(&expected, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(expected).unwrap(), "OPSRUN_ACCEPT=1 takes it for right");

    assert_eq!(prepared.account.groups, [43, 110]);
    assert_eq!(prepared.arguments, ["/usr/bin/service.sh", "--now"]);
    assert_eq!(prepared.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(prepared.healthcheck.unwrap().interval_ms, Some(5000));
    assert_eq!(prepared.volumes, [Path::new("/etc/keystone"), Path::new("/var/log/keystone")]);
}

#[test]
fn the_folder_is_laid_out() {
    let image = Image::new();
    fs::create_dir_all(image.bundle().join("conf")).unwrap();
    let request = image.request();
    bundle::prepare(&request, &request.image.view().unwrap()).unwrap();
    let mut names: Vec<_> = fs::read_dir(image.bundle())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["conf", "config.json", "lower", "rootfs", "upper", "work"]);
    assert_eq!(fs::read_link(image.bundle().join("lower/0")).unwrap(), image.layer(0));
    assert_eq!(fs::read_link(image.bundle().join("lower/1")).unwrap(), image.layer(1));
    let upper = fs::metadata(image.bundle().join("upper")).unwrap();
    assert_eq!((upper.uid(), upper.gid(), upper.mode() & 0o7777), (11, 12, 0o751));
    let config = fs::metadata(image.bundle().join("config.json")).unwrap();
    assert_eq!(config.mode() & 0o7777, 0o600);
    for empty in ["upper", "work", "rootfs"] {
        assert_eq!(fs::read_dir(image.bundle().join(empty)).unwrap().count(), 0, "{empty}");
    }
    // Docker's profile is there, and fits a container without CAP_SYS_ADMIN.
    let spec = image.spec();
    let rules = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap().syscalls().clone().unwrap();
    assert!(rules.iter().any(|rule| rule.names().iter().any(|name| name == "openat2")));
    assert!(!rules.iter().any(|rule| rule.names().iter().any(|name| name == "mount")));
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let image = Image::new();
    let mut request = image.request();
    request.capabilities_add = words(&["NET_ADMIN", "sys_admin"]);
    request.annotations = (0..20).map(|number| (format!("key{number}"), String::new())).collect();
    let mut texts = (0..3).map(|_| {
        image.prepare(&request).unwrap();
        let text = fs::read(image.bundle().join("config.json")).unwrap();
        fs::remove_dir_all(image.bundle()).unwrap();
        text
    });
    let first = texts.next().unwrap();
    assert!(texts.all(|text| text == first));
}

#[test]
fn what_cannot_be_confined_as_wished_is_an_error() {
    let image = Image::new();
    let mut request = image.request();
    request.capabilities_add = words(&["ROOT"]);
    assert!(matches!(image.prepare(&request), Err(Error::UnknownCapability { .. })));
    let profile = image.folder.path().join("profile.json");
    fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read"}]}"#).unwrap();
    let mut request = image.request();
    request.seccomp = Seccomp::Profile(profile.clone());
    let error = image.prepare(&request).unwrap_err().to_string();
    assert!(error.ends_with("profile.json cannot be used: syscalls[0].action: it is missing"), "{error}");
    request.seccomp = Seccomp::Profile(image.folder.path().join("none.json"));
    assert!(matches!(image.prepare(&request), Err(Error::Io { .. })));
}

#[test]
fn privileges_are_as_wished() {
    let image = Image::new();
    let mut request = image.request();
    request.no_new_privileges = false;
    request.read_only_root = true;
    request.seccomp = Seccomp::Unconfined;
    request.terminal = true;
    image.prepare(&request).unwrap();
    let spec = image.spec();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), None);
    assert_eq!(process.terminal(), Some(true));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
}

#[test]
fn an_existing_bundle_is_not_touched() {
    let image = Image::new();
    image.prepare(&image.request()).unwrap();
    let before = fs::read(image.bundle().join("config.json")).unwrap();
    let request = image.request();
    let again = bundle::prepare(&request, &request.image.view().unwrap());
    assert!(matches!(again, Err(Error::BundleExists { .. })));
    assert_eq!(fs::read(image.bundle().join("config.json")).unwrap(), before);
    assert!(image.bundle().join("lower/1").exists());
}
