//! What is run: command, environment, user, working folder.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bundles::Error;
use serde_json::json;

use crate::image::{Image, words};

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

    request.user = Some(String::new());
    assert_eq!(image.prepare(&request).unwrap().account.uid, 42);
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
