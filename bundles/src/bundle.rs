//! Turns an unpacked image and what the caller wishes into a bundle: a folder with a `config.json` by the OCI runtime
//! specification 1.0.2. It knows no processes: what a bundle promises, others keep.
//!
//! ```text
//! FOLDER/config.json    root.path is "rootfs"
//!        lower/0,1,2…   symlinks to the unpacked layers, 0 the top one: whoever runs the bundle enters lower/ and
//!                       mounts an overlay "lowerdir=0:1:2…,upperdir=../upper,workdir=../work" on rootfs
//!        upper/         what the container writes; has the mode and owner of the image's root folder
//!        work/ rootfs/  empty
//! ```
//!
//! An image is hostile input here too: its configuration is read leniently, but a byte that would cut an argument short
//! is an error, and its files are only ever looked at through a [`RootView`].

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
use rustix::fs::fstat;

use crate::account::{self, Account};
use crate::error::{Error, Result};
use crate::rootfs::{RootView, metadata};
use crate::store::{Image, Store};
use crate::tree;

mod capabilities;
mod image;
mod linux;
mod mounts;
mod process;
mod program;
mod workplace;

pub(crate) use capabilities::capability;
use image::ImageConfig;
pub use image::ImageHealthcheck;
pub use mounts::Mount;

/// The version of the runtime specification that bundles are written for.
const SPECIFICATION: &str = "1.0.2";

/// What an unpacked image consists of.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Its name, for errors.
    pub name: String,
    /// The folders of its layers, the top one first.
    pub layers: Vec<PathBuf>,
    /// Its configuration, the JSON document as it was loaded.
    pub configuration: Vec<u8>,
}

/// What is wanted of a bundle. [`BundleRequest::of`] gives one that wishes nothing beyond what the image says.
#[derive(Debug, Clone)]
pub struct BundleRequest {
    /// The image.
    pub image: Unpacked,
    /// The bundle's folder. It is made when it is not there; what is in it beside the bundle's own entries stays.
    pub folder: PathBuf,
    /// Replaces the image's `Cmd`.
    pub arguments: Option<Vec<String>>,
    /// Replaces the image's `Entrypoint`, and its `Cmd` too, as with Docker. Empty: none at all.
    pub entrypoint: Option<Vec<String>>,
    /// Variables that win over the image's `Env`.
    pub environment: Vec<(String, String)>,
    /// Replaces the image's `User`, unless it is empty.
    pub user: Option<String>,
    /// Replaces the image's `WorkingDir`.
    pub working_directory: Option<PathBuf>,
    /// Folders and files of the host that the container sees. Of several with one destination the last one counts.
    pub mounts: Vec<Mount>,
    /// Files of the host that every container sees, read-only: source and destination.
    pub host_files: Vec<(PathBuf, PathBuf)>,
    /// Whether the container sees the host's `/dev/log`.
    pub dev_log: bool,
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Whether set-user-id programs gain nothing in the container.
    pub no_new_privileges: bool,
    /// Which system calls are allowed.
    pub seccomp: Seccomp,
    /// Capabilities beyond Docker's default ones: `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`, in any case.
    pub capabilities_add: Vec<String>,
    /// Capabilities out of the default ones that are not given; `ALL` for all.
    pub capabilities_drop: Vec<String>,
    /// Annotations, written as they are.
    pub annotations: BTreeMap<String, String>,
    /// The container's control group: absolute, ends with the container's id.
    pub cgroup: String,
    /// Its limits: file of the control group (cgroup v2) and what is written to it. They go into
    /// `linux.resources.unified` as they are.
    pub limits: BTreeMap<String, String>,
    /// Whether the bundle is gone when its container is: then it is not brought to disk.
    pub fleeting: bool,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// Those of Docker's default profile.
    Default,
    /// All.
    Unconfined,
    /// Those of the operator's profile, in Docker's form or a bundle's.
    Profile(PathBuf),
}

/// A bundle that was prepared, and what its image says beyond it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its folder.
    pub folder: PathBuf,
    /// Who the process runs as.
    pub account: Account,
    /// What is run: the program by its path in the container, then its arguments.
    pub arguments: Vec<String>,
    /// The signal that ends the process, as the image writes it: `SIGTERM`, `TERM` or a number.
    pub stop_signal: Option<String>,
    /// How the image says its health is checked.
    pub healthcheck: Option<ImageHealthcheck>,
    /// The folders in which the image says data lives; absolute, sorted, without those in `/proc`, `/sys` and `/dev`.
    pub volumes: Vec<PathBuf>,
}

impl BundleRequest {
    /// A request that wishes nothing beyond what the image says: no mounts, no terminal, no new privileges, Docker's
    /// default seccomp profile.
    pub fn of(image: Unpacked, folder: impl Into<PathBuf>, cgroup: impl Into<String>) -> Self {
        Self {
            image,
            folder: folder.into(),
            arguments: None,
            entrypoint: None,
            environment: Vec::new(),
            user: None,
            working_directory: None,
            mounts: Vec::new(),
            host_files: Vec::new(),
            dev_log: false,
            terminal: false,
            read_only_root: false,
            no_new_privileges: true,
            seccomp: Seccomp::Default,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            annotations: BTreeMap::new(),
            cgroup: cgroup.into(),
            limits: BTreeMap::new(),
            fleeting: false,
        }
    }
}

impl Store {
    /// What an image of this store consists of.
    ///
    /// # Errors
    /// As [`Store::raw_configuration`].
    pub fn unpacked(&self, image: &Image) -> Result<Unpacked> {
        Ok(Unpacked {
            name: image.title(),
            layers: self.layer_folders(image),
            configuration: self.raw_configuration(image)?,
        })
    }
}

/// What an image says beyond what is run: known without preparing a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// As [`Bundle::stop_signal`].
    pub stop_signal: Option<String>,
    /// As [`Bundle::healthcheck`].
    pub healthcheck: Option<ImageHealthcheck>,
    /// As [`Bundle::volumes`].
    pub volumes: Vec<PathBuf>,
    /// The image's `User`, as it is written.
    pub user: Option<String>,
    /// The image's `Labels`.
    pub labels: BTreeMap<String, String>,
}

impl Unpacked {
    /// What the image's configuration says beyond what is run.
    ///
    /// # Errors
    /// [`Error::Document`] when the configuration is not one.
    pub fn facts(&self) -> Result<ImageFacts> {
        let config = ImageConfig::read(&self.name, &self.configuration)?;
        Ok(ImageFacts {
            healthcheck: config.healthcheck(),
            volumes: config.volumes(),
            labels: config.labels(),
            stop_signal: config.stop_signal,
            user: config.user,
        })
    }

    /// Its merged file system.
    ///
    /// # Errors
    /// As [`RootView::of_layers`].
    pub fn view(&self) -> Result<RootView> {
        RootView::of_layers(&self.name, &self.layers)
    }
}

/// Writes a bundle: everything slow and fallible about starting a container happens here. When it fails, nothing that
/// it made is left. `view` is the image's file system ([`Unpacked::view`]), which takes some time to make and which whoever asks
/// has mostly looked at already.
///
/// # Errors
/// For the image: [`Error::NothingToRun`], [`Error::NoEntrypoint`], [`Error::NotExecutable`],
/// [`Error::NoInterpreter`], [`Error::NoUser`], [`Error::WorkingDirectory`], [`Error::NotAFolder`],
/// [`Error::NulByte`], [`Error::Document`]. For the request: [`Error::Mount`], [`Error::NoMountSource`],
/// [`Error::UnknownCapability`], [`Error::SeccompProfile`], [`Error::BundleExists`]. Else [`Error::Io`].
pub fn prepare(request: &BundleRequest, view: &RootView) -> Result<Bundle> {
    let config = ImageConfig::read(&request.image.name, &request.image.configuration)?;
    let user = request.user.as_deref().filter(|user| !user.is_empty()).or(config.user.as_deref());
    let account = account::resolve(view, user)?;
    let mounts = mounts::Mounts::of(request)?;
    let process = process::describe(request, &config, view, &account, &mounts)?;
    let arguments = process.args().clone().unwrap_or_default();
    let working_directory = process.cwd().clone();
    let annotations = request.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
    let mut spec = SpecBuilder::default()
        .version(SPECIFICATION)
        // OK because every field of these builders has a default.
        .root(RootBuilder::default().path("rootfs").readonly(request.read_only_root).build().expect("a root"))
        .mounts(mounts.all())
        .annotations(annotations.collect::<std::collections::HashMap<_, _>>())
        .linux(linux::describe(request, process.capabilities().as_ref())?)
        .process(process)
        .build()
        .expect("a specification");
    // The builder's own default is a name; the host's is used, which nova and RabbitMQ depend on.
    spec.set_hostname(None);

    let made = Made::begin(&request.folder)?;
    made.fill(&request.image, view)?;
    workplace::make(&request.folder, &request.image, view, &working_directory, &mounts)?;
    let mut value = serde_json::to_value(&spec).map_err(|error| failed(&request.folder, error.into()))?;
    sort_capabilities(&mut value);
    made.write(&value, request.fleeting)?;
    made.keep();
    Ok(Bundle {
        folder: request.folder.clone(),
        account,
        arguments,
        healthcheck: config.healthcheck(),
        volumes: config.volumes(),
        stop_signal: config.stop_signal,
    })
}

/// Writes a bundle whose `config.json` is known: as it was made before, perhaps with changes. When it fails, nothing that
/// it made is left.
///
/// # Errors
/// [`Error::Document`] when `specification` is not one, [`Error::NoMountSource`] when a mount's source is gone,
/// [`Error::BundleExists`], those of [`RootView::of_layers`], and [`Error::Io`].
pub fn again(image: &Unpacked, folder: &Path, specification: &serde_json::Value) -> Result<()> {
    let view = image.view()?;
    let spec: Spec = serde_json::from_value(specification.clone()).map_err(|source| Error::Document {
        origin: folder.display().to_string(),
        document: "config.json".to_owned(),
        source,
    })?;
    let mounts = mounts::Mounts::of_spec(&spec)?;
    let working_directory = spec.process().as_ref().map(|process| process.cwd().clone());
    let made = Made::begin(folder)?;
    made.fill(image, &view)?;
    workplace::make(folder, image, &view, &working_directory.unwrap_or_else(|| "/".into()), &mounts)?;
    made.write(specification, false)?;
    made.keep();
    Ok(())
}

/// The entries of a bundle folder, removed again unless it is finished.
struct Made<'a> {
    folder: &'a Path,
    whole: bool,
    keep: bool,
}

impl<'a> Made<'a> {
    const ENTRIES: [&'static str; 5] = ["config.json", "lower", "upper", "work", "rootfs"];

    fn begin(folder: &'a Path) -> Result<Self> {
        // 0700: what the container writes may be set-user-id for its own users, and is none of the host's users'.
        let whole = match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(folder, error)),
        };
        for entry in Self::ENTRIES {
            if folder.join(entry).symlink_metadata().is_ok() {
                return Err(Error::BundleExists { folder: folder.to_owned() });
            }
        }
        Ok(Self { folder, whole, keep: false })
    }

    fn fill(&self, image: &Unpacked, view: &RootView) -> Result<()> {
        let make = |name: &str| std::fs::DirBuilder::new().mode(0o700).create(self.folder.join(name));
        let fill = || -> std::io::Result<()> {
            for name in ["lower", "upper", "work", "rootfs"] {
                make(name)?;
            }
            for (number, layer) in image.layers.iter().enumerate() {
                symlink(std::path::absolute(layer)?, self.folder.join("lower").join(number.to_string()))?;
            }
            if image.layers.is_empty() {
                // An overlay needs a lower folder, even for an image of nothing.
                make("lower/0")?;
            }
            let root = metadata(&fstat(view.as_fd())?);
            let upper = self.folder.join("upper");
            chown(&upper, Some(root.uid), Some(root.gid))?;
            let opened = std::fs::File::open(&upper)?;
            tree::copy_attributes(view.as_fd(), opened.as_fd(), tree::Origin::Image)?;
            std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(root.mode))
        };
        fill().map_err(|error| failed(self.folder, error))
    }

    fn write(&self, specification: &serde_json::Value, fleeting: bool) -> Result<()> {
        let write = || -> std::io::Result<()> {
            // In one piece: written as it is made it is thousands of calls of the kernel.
            let mut text = serde_json::to_vec_pretty(specification)?;
            text.push(b'\n');
            // 0600: the environment may hold passwords.
            let path = self.folder.join("config.json");
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            std::io::Write::write_all(&mut file, &text)?;
            if !fleeting {
                rustix::fs::syncfs(&file)?;
            }
            Ok(())
        };
        write().map_err(|error| failed(self.folder, error))
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The best that can be done: the error that led here is the one to report.
        for entry in Self::ENTRIES {
            let path = self.folder.join(entry);
            let _ = if entry == "config.json" {
                std::fs::remove_file(path)
            } else {
                std::fs::remove_dir_all(path)
            };
        }
        if self.whole {
            let _ = std::fs::remove_dir(self.folder);
        }
    }
}

/// Sets have no order; a bundle of the same request is the same bytes.
fn sort_capabilities(spec: &mut serde_json::Value) {
    let sets = spec.pointer_mut("/process/capabilities").and_then(|sets| sets.as_object_mut());
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(|set| set.as_array_mut()) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

fn failed(folder: &Path, error: std::io::Error) -> Error {
    Error::io(format!("write the bundle {}", folder.display()), error)
}
