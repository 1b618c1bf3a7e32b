//! What a bundle says, by image and by request, and that a failure leaves nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bundles::Error;
use bundles::bundle::{self, Bundle, BundleRequest, Mount, Seccomp, Unpacked};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// A folder with an image of two layers in it.
struct Image {
    folder: tempfile::TempDir,
    config: Value,
}

impl Image {
    fn new() -> Self {
        let image = Self { folder: tempfile::tempdir().unwrap(), config: json!({"Cmd": ["/service.sh"]}) };
        let bottom = image.layer(1);
        for folder in ["usr/bin", "etc", "tmp", "var/lib/keystone"] {
            fs::create_dir_all(bottom.join(folder)).unwrap();
        }
        symlink("usr/bin", bottom.join("bin")).unwrap();
        image.file(
            1,
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nkeystone:x:42:43::/var/lib/keystone:/bin/sh\n",
            0o644,
        );
        image.file(1, "etc/group", "keystone:x:43:\nssl-cert:x:110:keystone\n", 0o644);
        image.file(1, "usr/bin/sh", "\x7fELF", 0o755);
        image.file(1, "usr/bin/data", "no program", 0o644);
        image.file(0, "service.sh", "#! /bin/sh -e\nexec sleep 1000\n", 0o755);
        // Of the layers' own roots the top one's counts.
        chown(image.layer(0), Some(11), Some(12)).unwrap();
        fs::set_permissions(image.layer(0), fs::Permissions::from_mode(0o751)).unwrap();
        image
    }

    fn layer(&self, number: usize) -> PathBuf {
        let layer = self.folder.path().join(format!("layer{number}"));
        fs::create_dir_all(&layer).unwrap();
        layer
    }

    fn file(&self, layer: usize, path: &str, content: &str, mode: u32) {
        let path = self.layer(layer).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    fn request(&self) -> BundleRequest {
        let configuration = json!({"architecture": "amd64", "os": "linux", "config": self.config});
        let image = Unpacked {
            name: "keystone:zed".to_owned(),
            layers: vec![self.layer(0), self.layer(1)],
            configuration: configuration.to_string().into_bytes(),
        };
        BundleRequest::of(image, self.bundle(), "/opsrun/keystone.1")
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn spec(&self) -> Spec {
        Spec::load(self.bundle().join("config.json")).unwrap()
    }

    /// Prepares, and checks that a failure left nothing.
    fn prepare(&self, request: &BundleRequest) -> Result<Bundle, Error> {
        let prepared = bundle::prepare(request);
        assert_eq!(prepared.is_ok(), self.bundle().exists());
        prepared
    }

    fn arguments(&self, request: &BundleRequest) -> Result<Vec<String>, Error> {
        let prepared = self.prepare(request)?;
        assert_eq!(self.spec().process().as_ref().unwrap().args().as_ref(), Some(&prepared.arguments));
        fs::remove_dir_all(self.bundle()).unwrap();
        Ok(prepared.arguments)
    }

    fn environment(&self, request: &BundleRequest) -> Vec<String> {
        self.prepare(request).unwrap();
        let environment = self.spec().process().as_ref().unwrap().env().clone().unwrap();
        fs::remove_dir_all(self.bundle()).unwrap();
        environment
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

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
    bundle::prepare(&image.request()).unwrap();
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
fn what_is_run_follows_docker() {
    let image = Image::new().config(json!({"Entrypoint": ["/service.sh", "a"], "Cmd": ["b"]}));
    let run = |entrypoint: Option<&[&str]>, arguments: Option<&[&str]>| {
        let mut request = image.request();
        request.entrypoint = entrypoint.map(words);
        request.arguments = arguments.map(words);
        image.arguments(&request)
    };
    assert_eq!(run(None, None).unwrap(), ["/service.sh", "a", "b"]);
    assert_eq!(run(None, Some(&["c"])).unwrap(), ["/service.sh", "a", "c"]);
    assert_eq!(run(None, Some(&[])).unwrap(), ["/service.sh", "a"]);
    assert_eq!(run(Some(&["sh"]), None).unwrap(), ["/usr/bin/sh"]);
    assert_eq!(run(Some(&["sh"]), Some(&["-c", "true"])).unwrap(), ["/usr/bin/sh", "-c", "true"]);
    assert_eq!(run(Some(&[""]), Some(&["sh", "-c"])).unwrap(), ["/usr/bin/sh", "-c"]);
    assert_eq!(run(Some(&[]), Some(&["sh"])).unwrap(), ["/usr/bin/sh"]);
    assert!(matches!(run(Some(&[""]), None), Err(Error::NothingToRun { image }) if image == "keystone:zed"));
}

#[test]
fn an_image_that_runs_nothing_is_named() {
    for config in [json!(null), json!({}), json!({"Cmd": null}), json!({"Cmd": [], "Entrypoint": []})] {
        let image = Image::new().config(config);
        assert!(matches!(image.prepare(&image.request()), Err(Error::NothingToRun { .. })));
    }
}

#[test]
fn the_program_is_found_as_execvp_does() {
    let image = Image::new();
    image.file(0, "opt/tool", "x", 0o755);
    image.file(0, "opt/first/sh", "not executable", 0o644);
    image.file(0, "opt/bad-script", "#!/no/such/interpreter -x\n", 0o755);
    image.file(0, "opt/private", "x", 0o700);
    fs::create_dir_all(image.layer(0).join("opt/folder")).unwrap();
    symlink("/opt/tool", image.layer(0).join("opt/link")).unwrap();
    symlink("/opt/nothing", image.layer(0).join("opt/dangling")).unwrap();
    let run = |program: &str, path: Option<&str>, user: &str| {
        let mut request = image.request();
        request.arguments = Some(words(&[program]));
        request.working_directory = Some(PathBuf::from("/opt"));
        request.user = Some(user.to_owned());
        request.environment = path.map(|path| ("PATH".to_owned(), path.to_owned())).into_iter().collect();
        image.arguments(&request).map(|mut arguments| arguments.remove(0))
    };
    assert_eq!(run("sh", None, "").unwrap(), "/usr/bin/sh");
    assert_eq!(run("./tool", None, "").unwrap(), "/opt/./tool");
    assert_eq!(run("tool", Some("/nowhere::/usr/bin"), "").unwrap(), "/opt/tool");
    assert_eq!(run("/opt/link", None, "").unwrap(), "/opt/link");
    // Passes over what cannot be executed.
    assert_eq!(run("sh", Some("/opt/first:/bin"), "").unwrap(), "/bin/sh");
    assert_eq!(run("/opt/private", None, "").unwrap(), "/opt/private");

    for (program, path) in [("nova-api", None), ("/opt/nothing", None), ("/opt/dangling", None), ("", None)] {
        let error = run(program, path, "").unwrap_err();
        let Error::NoEntrypoint { program: named, image } = &error else { panic!("{program}: {error:?}") };
        assert_eq!((named.as_str(), image.as_str()), (program, "keystone:zed"));
    }
    let not_executable = [("/opt/folder", "", 0), ("/usr/bin/data", "", 0), ("/opt/private", "keystone", 42)];
    for (program, user, expected) in not_executable {
        let error = run(program, None, user).unwrap_err();
        assert!(matches!(error, Error::NotExecutable { uid, .. } if uid == expected), "{program}: {error:?}");
    }
    let error = run("/opt/bad-script", None, "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "keystone:zed lacks /no/such/interpreter, which /opt/bad-script is to be run by"
    );
}

#[test]
fn a_program_may_lie_in_a_mount() {
    let image = Image::new();
    let tools = image.folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("run"), "x").unwrap();
    fs::set_permissions(tools.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |program: &str, destination: &str| {
        let mut request = image.request();
        request.arguments = Some(words(&[program]));
        request.mounts =
            vec![Mount { source: tools.clone(), destination: PathBuf::from(destination), read_only: true }];
        image.arguments(&request).map(|mut arguments| arguments.remove(0))
    };
    assert_eq!(run("/tools/run", "/tools").unwrap(), "/tools/run");
    assert_eq!(run("run", "/usr/local/bin").unwrap(), "/usr/local/bin/run");
    // What is mounted over is not seen.
    assert!(matches!(run("/usr/bin/sh", "/usr/bin"), Err(Error::NoEntrypoint { .. })));
    assert!(matches!(run("/tools", "/tools"), Err(Error::NotExecutable { .. })));
}

#[test]
fn the_environment_is_merged() {
    let image = Image::new().config(json!({
        "Cmd": ["/service.sh"], "User": "keystone",
        "Env": ["A=image", "PATH=/usr/bin:/bin", "B=image", "gone=1", "gone", "=odd", "EMPTY=", "EQUALS=a=b"],
    }));
    let mut request = image.request();
    request.environment =
        [("B", "caller"), ("C", "caller")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let expected = [
        "PATH=/usr/bin:/bin",
        "A=image",
        "B=caller",
        "EMPTY=",
        "EQUALS=a=b",
        "C=caller",
        "HOME=/var/lib/keystone",
    ];
    assert_eq!(image.environment(&request), expected);

    request.terminal = true;
    request.environment = vec![("HOME".to_owned(), "/elsewhere".to_owned())];
    let environment = image.environment(&request);
    assert!(environment.contains(&"TERM=xterm".to_owned()));
    assert_eq!(environment.iter().filter(|variable| variable.starts_with("HOME=")).count(), 1);

    let plain = Image::new();
    let expected = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"];
    assert_eq!(plain.environment(&plain.request()), expected);
}

#[test]
fn users_come_from_the_image() {
    let image = Image::new().config(json!({"Cmd": ["/service.sh"], "User": "keystone"}));
    let mut request = image.request();
    image.prepare(&request).unwrap();
    let spec = image.spec();
    let process = spec.process().as_ref().unwrap();
    let user = process.user();
    assert_eq!((user.uid(), user.gid(), user.additional_gids().as_deref()), (42, 43, Some(&[43, 110][..])));
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
    assert!(capabilities.effective().as_ref().unwrap().is_empty());
    fs::remove_dir_all(image.bundle()).unwrap();

    request.user = Some("0".to_owned());
    assert_eq!(image.prepare(&request).unwrap().account.uid, 0);
    fs::remove_dir_all(image.bundle()).unwrap();
    request.user = Some("glance:adm".to_owned());
    let error = image.prepare(&request).unwrap_err();
    assert_eq!(error.to_string(), "keystone:zed has no user glance");
}

#[test]
fn a_pipe_for_passwd_does_not_block() {
    let image = Image::new();
    fs::remove_file(image.layer(1).join("etc/passwd")).unwrap();
    let path = image.layer(1).join("etc/passwd");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(image.prepare(&image.request()), Err(Error::NotAFile { .. })));
}

#[test]
fn a_missing_working_folder_is_made_as_docker_does() {
    let image = Image::new().config(json!({"Cmd": ["/service.sh"], "WorkingDir": "tmp/../srv/new/./work"}));
    // Folders on the way keep what they are in the image.
    fs::create_dir(image.layer(1).join("srv")).unwrap();
    chown(image.layer(1).join("srv"), Some(5), Some(6)).unwrap();
    fs::set_permissions(image.layer(1).join("srv"), fs::Permissions::from_mode(0o1770)).unwrap();
    image.prepare(&image.request()).unwrap();
    assert_eq!(image.spec().process().as_ref().unwrap().cwd(), Path::new("/srv/new/work"));
    let look = |path: &str| {
        let found = fs::metadata(image.bundle().join("upper").join(path)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(look("srv"), (5, 6, 0o1770));
    assert_eq!(look("srv/new"), (0, 0, 0o755));
    assert_eq!(look("srv/new/work"), (0, 0, 0o755));
    assert_eq!(look(""), (11, 12, 0o751));
    assert!(!image.layer(1).join("srv/new").exists());
}

#[test]
fn a_working_folder_that_cannot_be_is_an_error() {
    symlink_to("/service.sh", "link", "/link");
    symlink_to("/nowhere", "link", "/link/work");
    fn symlink_to(target: &str, name: &str, working_directory: &str) {
        let image = Image::new();
        symlink(target, image.layer(0).join(name)).unwrap();
        let mut request = image.request();
        request.working_directory = Some(PathBuf::from(working_directory));
        let error = image.prepare(&request).unwrap_err();
        assert!(matches!(error, Error::WorkingDirectory { .. }), "{error:?}");
    }
}

#[test]
fn a_working_folder_in_a_mount_is_the_mounts() {
    let image = Image::new();
    let mut request = image.request();
    request.working_directory = Some(PathBuf::from("/data/work"));
    request.mounts = vec![Mount {
        source: image.folder.path().to_owned(),
        destination: PathBuf::from("/data"),
        read_only: false,
    }];
    image.prepare(&request).unwrap();
    assert_eq!(fs::read_dir(image.bundle().join("upper")).unwrap().count(), 0);
}

#[test]
fn a_dangling_link_makes_room_for_what_is_mounted_there() {
    let image = Image::new();
    symlink("../run/systemd/resolve/stub-resolv.conf", image.layer(1).join("etc/resolv.conf")).unwrap();
    let file = image.folder.path().join("resolv.conf");
    fs::write(&file, "").unwrap();
    let mut request = image.request();
    request.host_files = vec![(file, PathBuf::from("/etc/resolv.conf"))];
    image.prepare(&request).unwrap();
    // A whiteout in the container's own layer.
    let whiteout = fs::symlink_metadata(image.bundle().join("upper/etc/resolv.conf")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
}

#[test]
fn mounts_are_checked() {
    let image = Image::new();
    let here = image.folder.path().to_owned();
    let mount = |source: &Path, destination: &str| {
        let mut request = image.request();
        request.mounts = vec![Mount {
            source: source.to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        }];
        image.prepare(&request).map(|_| fs::remove_dir_all(image.bundle()).unwrap())
    };
    for destination in ["relative", "/", "/proc", "/proc/sys", "/dev", "//sys/", "/a/../proc", "/./proc/."] {
        assert!(matches!(mount(&here, destination), Err(Error::Mount { .. })), "{destination}");
    }
    assert!(matches!(mount(Path::new("relative"), "/data"), Err(Error::Mount { .. })));
    let missing = here.join("missing");
    assert!(matches!(mount(&missing, "/data"), Err(Error::NoMountSource { path, .. }) if path == missing));
    for destination in ["/processes", "/dev/shm", "/sys/fs/cgroup", "/data"] {
        mount(&here, destination).unwrap();
    }
}

#[test]
fn links_in_the_image_lead_no_mount_astray() {
    let table = [
        ("proc", "data", "/data"),
        ("/../../proc/", "data", "/data"),
        ("/", "data", "/data/proc/sys"),
        ("/dev", "data", "/data"),
        ("/nowhere", "data", "/data/deeper"),
        ("/var", "dev", "/data"),
        ("/var", "proc", "/data"),
        ("/nowhere", "sys", "/data"),
    ];
    for (target, link, destination) in table {
        let image = Image::new();
        for folder in ["dev", "proc", "sys"].into_iter().filter(|folder| *folder != link) {
            fs::create_dir(image.layer(1).join(folder)).unwrap();
        }
        symlink(target, image.layer(0).join(link)).unwrap();
        let mut request = image.request();
        request.mounts = vec![Mount {
            source: image.folder.path().to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        }];
        let error = image.prepare(&request).unwrap_err();
        let expected =
            matches!((link, &error), ("data", Error::Mount { .. }) | (_, Error::NotAFolder { .. }));
        assert!(expected, "{link} -> {target}: {error:?}");
    }
}

#[test]
fn links_that_stay_inside_are_followed() {
    let image = Image::new();
    symlink("/var/lib/keystone", image.layer(0).join("data")).unwrap();
    let mut request = image.request();
    let destinations = ["/data", "/data/more/and/more", "/tmp/new"];
    request.mounts = destinations
        .map(|destination| Mount {
            source: image.folder.path().to_owned(),
            destination: PathBuf::from(destination),
            read_only: false,
        })
        .to_vec();
    image.prepare(&request).unwrap();
    assert_eq!(fs::read_dir(image.bundle().join("upper")).unwrap().count(), 0);
}

#[test]
fn of_mounts_with_one_destination_the_last_counts() {
    let image = Image::new();
    let (one, two) = (image.folder.path().join("one"), image.folder.path().join("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let mount = |source: &Path, destination: &str| Mount {
        source: source.to_owned(),
        destination: PathBuf::from(destination),
        read_only: false,
    };
    let mut request = image.request();
    request.mounts = vec![mount(&one, "/data"), mount(&two, "/data/"), mount(&one, "/dev/shm")];
    image.prepare(&request).unwrap();
    let mounts = image.spec().mounts().clone().unwrap();
    let at = |path: &str| {
        let at: Vec<_> = mounts.iter().filter(|mount| mount.destination() == Path::new(path)).collect();
        assert_eq!(at.len(), 1, "{path}");
        at[0].source().clone().unwrap()
    };
    assert_eq!(at("/data"), two);
    assert_eq!(at("/dev/shm"), one);
}

#[test]
fn texts_are_not_cut_short() {
    let table = [
        json!({"Cmd": ["/service.sh", "a\0b"]}),
        json!({"Cmd": ["/service.sh"], "Env": ["A=a\0b"]}),
        json!({"Cmd": ["/service.sh"], "WorkingDir": "/a\0b"}),
    ];
    for config in table {
        let image = Image::new().config(config.clone());
        assert!(matches!(image.prepare(&image.request()), Err(Error::NulByte { .. })), "{config}");
    }
    let image = Image::new().config(json!({"Cmd": ["/service.sh"], "User": "key\0stone"}));
    assert!(matches!(image.prepare(&image.request()), Err(Error::NoUser { .. })));
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
    assert!(matches!(bundle::prepare(&image.request()), Err(Error::BundleExists { .. })));
    assert_eq!(fs::read(image.bundle().join("config.json")).unwrap(), before);
    assert!(image.bundle().join("lower/1").exists());
}

#[test]
fn an_image_of_nothing_can_run_what_is_mounted() {
    let image = Image::new();
    let mut request = image.request();
    request.image.layers.clear();
    assert!(matches!(image.prepare(&request), Err(Error::NoEntrypoint { .. })));
    request.mounts =
        vec![Mount { source: image.layer(1), destination: PathBuf::from("/host"), read_only: true }];
    request.arguments = Some(words(&["/host/usr/bin/sh"]));
    image.prepare(&request).unwrap();
    assert!(image.bundle().join("lower/0").is_dir());
}
