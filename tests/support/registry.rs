//! Debian's `docker-registry` on the loopback, and the images that it is filled with.
//! It knows nothing of opsrun.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

use serde_json::{Value, json};

use super::server::{Asked, forward};
use super::{Background, done, free_port, image, until};

/// Makes the images and pushes them to the registry `$1`:
/// `os/busybox` as `1` (OCI), `schema2` and `schema1`; `os/three:1` of three layers with a file of about 300 kB each, and
/// `os/four:1` of one more;
/// `os/multi:1`, an index of that for two platforms.
const FILL: &str = r#"
umoci init --layout it
umoci new --image it:three
bytes=300000
for name in one two three; do
    head -c $bytes /dev/urandom > $name
    tar -cf $name.tar $name
    umoci raw add-layer --image it:three $name.tar
    # The first layer is the shortest.
    bytes=302000
done
umoci tag --image it:three four
cp three four
tar -cf four.tar four
umoci raw add-layer --image it:four four.tar
skopeo copy -q --dest-tls-verify=false oci:it:four docker://$1/os/four:1
for architecture in amd64 arm64; do
    umoci config --image it:three --tag $architecture --architecture $architecture
    skopeo copy -q --dest-tls-verify=false oci:it:$architecture docker://$1/os/multi:$architecture
done
skopeo copy -q --dest-tls-verify=false oci:it:three docker://$1/os/three:1
push_busybox() { skopeo copy -q --dest-tls-verify=false --format $2 oci-archive:$3 docker://$1; }
push_busybox $1/os/busybox:1 oci $2
push_busybox $1/os/busybox:schema2 v2s2 $2
push_busybox $1/os/busybox:schema1 v2s1 $2
"#;

/// What a registry keeps.
pub struct Storage {
    folder: tempfile::TempDir,
}

/// A registry that runs until this is dropped.
pub struct Registry {
    pub port: u16,
    /// Its storage goes with the last registry that has it.
    pub storage: Arc<Storage>,
    _process: Background,
}

/// What a registry is told beside where it is and what it keeps.
#[derive(Default)]
pub struct Settings {
    pub tls: Value,
    pub auth: Value,
}

impl Storage {
    /// With the images. Tests that run at once share it, since none changes it.
    pub fn filled() -> Arc<Self> {
        static SHARED: Mutex<Weak<Storage>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let folder = tempfile::Builder::new().prefix("opsrun-registry-").tempdir();
            let storage = Arc::new(Self { folder: folder.expect("a folder") });
            storage.fill();
            *shared = Arc::downgrade(&storage);
            storage
        })
    }

    fn fill(self: &Arc<Self>) {
        let registry = Registry::of(Arc::clone(self), &Settings::default());
        let made = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-euc", FILL, "fill"]).arg(registry.name()).arg(image("busybox-1.tar"));
        done({
            command.current_dir(made.path());
            command
        })
        .succeeds();
        let entry = |architecture: &str| {
            let (manifest, digest) = registry.manifest(&format!("os/multi/manifests/{architecture}"));
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": manifest.len(),
                "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry("arm64"), entry("amd64")],
        });
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-X", "PUT", "-H", "content-type: application/vnd.oci.image.index.v1+json"]);
        curl.args(["--data-binary", &index.to_string()]);
        curl.arg(format!("http://{}/v2/os/multi/manifests/1", registry.name()));
        done(curl).succeeds();
    }
}

impl Registry {
    /// One with the images, which everybody may have.
    pub fn new() -> Self {
        Self::with(&Settings::default())
    }

    /// One with the images.
    pub fn with(settings: &Settings) -> Self {
        Self::of(Storage::filled(), settings)
    }

    fn of(storage: Arc<Storage>, settings: &Settings) -> Self {
        let port = free_port();
        let file = |name: &str| storage.folder.path().join(name);
        // YAML, of which JSON is a part.
        let mut configuration = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": file("storage")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "none"},
            "compatibility": {"schema1": {"enabled": true}},
        });
        for (value, at) in [(&settings.tls, "/http/tls"), (&settings.auth, "/auth")] {
            if !value.is_null() {
                let (parent, key) = at.rsplit_once('/').expect("a pointer");
                configuration.pointer_mut(parent).expect("it is there")[key] = value.clone();
            }
        }
        let path = file(&format!("{port}.yml"));
        std::fs::write(&path, configuration.to_string()).expect("write it");
        let log = std::fs::File::create(file(&format!("{port}.log"))).expect("its log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("its log")).stderr(log);
        let process = command.spawn().expect("start docker-registry: the package of that name has it");
        let mut process = Background(process);
        until("the registry listens", || {
            let ended = process.0.try_wait().expect("look at the registry");
            let log = || std::fs::read_to_string(file(&format!("{port}.log"))).unwrap_or_default();
            assert!(ended.is_none(), "the registry ended: {}", log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, storage, _process: process }
    }

    /// How images call it.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A document below `/v2/`, and its digest; of a registry without TLS and authentication.
    pub fn manifest(&self, path: &str) -> (Vec<u8>, String) {
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
            application/vnd.docker.distribution.manifest.v2+json";
        let asked = Asked {
            method: "GET".to_owned(),
            path: format!("/v2/{path}"),
            headers: vec![("accept".to_owned(), accept.to_owned())],
            body: String::new(),
        };
        let answer = forward(self.port, &asked);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        let digest = answer.headers.iter().find(|(name, _)| name == "docker-content-digest");
        (answer.body, digest.expect("its digest").1.clone())
    }

    /// The digests of an image's layers.
    pub fn layers(&self, repository: &str, tag: &str) -> Vec<String> {
        let (manifest, _) = self.manifest(&format!("{repository}/manifests/{tag}"));
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
        let layers = manifest["layers"].as_array().expect("layers");
        layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect()
    }
}

/// What openssl makes: an authority, and a key with a certificate of that for this host.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let certificates = Self { folder: tempfile::tempdir().expect("a folder") };
        certificates.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem && \
             openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout key.pem -out request.pem && \
             echo subjectAltName=IP:127.0.0.1,DNS:localhost > names && \
             openssl x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names \
             -out certificate.pem",
        );
        certificates
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shell command in the folder.
    pub fn run(&self, script: &str) {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(self.folder.path());
        done(command).succeeds();
    }

    pub fn tls(&self) -> Value {
        json!({"certificate": self.path("certificate.pem"), "key": self.path("key.pem")})
    }
}

/// Every file below a folder that has one of these texts.
pub fn files_with(folder: &Path, texts: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type().expect("its type") {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    let content = std::fs::read(entry.path()).expect("read it");
                    let has = |text: &&str| content.windows(text.len()).any(|part| part == text.as_bytes());
                    if texts.iter().any(has) {
                        found.push(entry.path());
                    }
                }
                _ => {}
            }
        }
    }
    found
}
