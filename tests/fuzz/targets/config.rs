//! Any bytes as an image's configuration, and as what a person asks for beside it: what becomes a `config.json` keeps
//! what is promised of one, and nothing outside the bundle is touched.
//!
//! The byte 0xff, which no JSON document has, separates: configuration, user, working folder, destinations of mounts.
#![no_main]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use bundles::bundle::{self, BundleRequest, Mount, Seccomp, Unpacked};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Spec;
use place::{Place, assert_not_outside};

static PLACE: OnceLock<Place> = OnceLock::new();

const MOUNTS_MAX: usize = 4;

fuzz_target!(
    init: {
        PLACE.get_or_init(Place::new);
    },
    |input: &[u8]| {
        let place = PLACE.get().unwrap();
        let mut parts = input.split(|&byte| byte == 0xff);
        let configuration = parts.next().unwrap_or_default().to_vec();
        let text = |part: Option<&[u8]>| part.and_then(|part| String::from_utf8(part.to_vec()).ok());
        let new = place.folder("new");
        let layer = layer(&new);
        let layers = vec![layer, place.path("earlier")];
        let image = Unpacked { name: "test:1".to_owned(), layers, configuration };
        let _ = image.facts();
        let mut request = BundleRequest::of(image, new.join("bundle"), "/opsrun/test");
        // The profile is always the same, and long.
        request.seccomp = Seccomp::Unconfined;
        request.user = text(parts.next());
        request.working_directory = text(parts.next()).filter(|path| !path.is_empty()).map(PathBuf::from);
        let destinations = parts.take(MOUNTS_MAX).filter_map(|part| text(Some(part)));
        let source = place.path("canary/etc/passwd");
        let mount = |to: String| Mount { source: source.clone(), destination: to.into(), read_only: true };
        request.mounts = destinations.map(mount).collect();
        match request.image.view().and_then(|view| bundle::prepare(&request, &view)) {
            Ok(_) => check(&fs::read(new.join("bundle/config.json")).unwrap(), &request),
            Err(error) => {
                assert_not_outside(&error);
                assert!(!new.join("bundle").exists(), "something was left behind");
            }
        }
        place.remove(&new);
        place.check();
    }
);

/// The image's upper layer: a program, users, and links out of everywhere.
fn layer(new: &Path) -> PathBuf {
    let layer = new.join("layer");
    for folder in ["bin", "etc", "srv"] {
        fs::create_dir_all(layer.join(folder)).unwrap();
    }
    fs::write(layer.join("bin/sh"), "\x7fELF").unwrap();
    fs::set_permissions(layer.join("bin/sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nkeystone:x:42:42::/srv:\n").unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\nkeystone:x:42:\nlog:x:9:keystone\n").unwrap();
    for (link, target) in [
        ("srv/up", "../../../.."),
        ("srv/etc", "/etc"),
        ("srv/proc", "../proc"),
        ("srv/gone", "/nowhere/at/all"),
        ("srv/loop", "loop"),
        ("srv/canary", "/mnt/canary"),
        ("srv/host", "/proc/self/root/mnt"),
    ] {
        symlink(target, layer.join(link)).unwrap();
    }
    layer
}

fn check(config: &[u8], request: &BundleRequest) {
    let spec: Spec = serde_json::from_slice(config).expect("config.json is a specification");
    assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("rootfs"));
    let process = spec.process().as_ref().unwrap();
    assert!(process.cwd().is_absolute(), "{:?}", process.cwd());
    let arguments = process.args().as_ref().unwrap();
    assert!(arguments[0].starts_with('/'), "{arguments:?}");
    let variables = process.env().as_ref().unwrap();
    assert!(arguments.iter().chain(variables).all(|text| !text.contains('\0')));
    for set in ["PATH=", "HOME="] {
        assert_eq!(variables.iter().filter(|variable| variable.starts_with(set)).count(), 1, "{variables:?}");
    }
    assert_eq!(process.no_new_privileges(), Some(true));
    let mut binds = 0;
    for mount in spec.mounts().as_ref().unwrap() {
        let destination = mount.destination();
        assert!(
            destination.is_absolute() && destination.components().all(|part| part != Component::ParentDir)
        );
        if mount.typ().as_deref() == Some("bind") {
            binds += 1;
            assert!(!destination.starts_with("/proc"), "{destination:?}");
            assert!(request.mounts.iter().any(|asked| Some(&asked.source) == mount.source().as_ref()));
        }
    }
    assert!(binds <= request.mounts.len());
}
