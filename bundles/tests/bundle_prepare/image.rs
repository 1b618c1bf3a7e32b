//! An image made by hand, of two layers, and bundles of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use bundles::Error;
use bundles::bundle::{self, Bundle, BundleRequest, Unpacked};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// A folder with an image of two layers in it.
pub(crate) struct Image {
    pub(crate) folder: tempfile::TempDir,
    config: Value,
}

impl Image {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn layer(&self, number: usize) -> PathBuf {
        let layer = self.folder.path().join(format!("layer{number}"));
        fs::create_dir_all(&layer).unwrap();
        layer
    }

    pub(crate) fn file(&self, layer: usize, path: &str, content: &str, mode: u32) {
        let path = self.layer(layer).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    pub(crate) fn request(&self) -> BundleRequest {
        let configuration = json!({"architecture": "amd64", "os": "linux", "config": self.config});
        let image = Unpacked {
            name: "keystone:zed".to_owned(),
            layers: vec![self.layer(0), self.layer(1)],
            configuration: configuration.to_string().into_bytes(),
        };
        BundleRequest::of(image, self.bundle(), "/opsrun/keystone.1")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::load(self.bundle().join("config.json")).unwrap()
    }

    /// Prepares, and checks that a failure left nothing.
    pub(crate) fn prepare(&self, request: &BundleRequest) -> Result<Bundle, Error> {
        let prepared = request.image.view().and_then(|view| bundle::prepare(request, &view));
        assert_eq!(prepared.is_ok(), self.bundle().exists());
        prepared
    }

    pub(crate) fn arguments(&self, request: &BundleRequest) -> Result<Vec<String>, Error> {
        let prepared = self.prepare(request)?;
        assert_eq!(self.spec().process().as_ref().unwrap().args().as_ref(), Some(&prepared.arguments));
        fs::remove_dir_all(self.bundle()).unwrap();
        Ok(prepared.arguments)
    }

    pub(crate) fn environment(&self, request: &BundleRequest) -> Vec<String> {
        self.prepare(request).unwrap();
        let environment = self.spec().process().as_ref().unwrap().env().clone().unwrap();
        fs::remove_dir_all(self.bundle()).unwrap();
        environment
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
