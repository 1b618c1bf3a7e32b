//! What a container sees mounted: the kernel's file systems, files of the host, and the folders that the caller names.
//! It does not mount anything.

use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount as SpecMount, MountBuilder, Spec};

use crate::bundle::BundleRequest;
use crate::error::{Error, Result};

/// A folder or file of the host that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host, absolute; it must be there.
    pub source: PathBuf,
    /// Where the container sees it, absolute. Made when the image does not have it.
    pub destination: PathBuf,
    /// Whether the container cannot write to it, nor to what is mounted below it.
    pub read_only: bool,
}

/// The mounts of a bundle, in the order in which they are to be made.
pub(super) struct Mounts {
    kernel: Vec<SpecMount>,
    /// Those of the host, the shallow ones first.
    pub(super) host: Vec<Mount>,
}

impl Mounts {
    pub(super) fn of(request: &BundleRequest) -> Result<Self> {
        let mut host: Vec<Mount> = Vec::new();
        let host_files = request.host_files.iter().map(|(source, destination)| Mount {
            source: source.clone(),
            destination: destination.clone(),
            read_only: true,
        });
        for mount in host_files.chain(request.mounts.iter().cloned()) {
            let mount = checked(mount)?;
            host.retain(|other| other.destination != mount.destination);
            host.push(mount);
        }
        let dev_log = PathBuf::from("/dev/log");
        if request.dev_log && host.iter().all(|mount| mount.destination != dev_log) {
            // Not read-only: one connects to a socket by writing to it.
            host.push(Mount { source: dev_log.clone(), destination: dev_log, read_only: false });
        }
        // A folder comes before what is mounted in it, which it would hide.
        host.sort_by_key(|mount| mount.destination.components().count());
        let mut kernel = kernel();
        kernel.retain(|mount| host.iter().all(|other| other.destination != *mount.destination()));
        Ok(Self { kernel, host })
    }

    /// The mounts of a bundle that was made before; those of the host must still be there.
    pub(super) fn of_spec(spec: &Spec) -> Result<Self> {
        let (mut host, mut kernel) = (Vec::new(), Vec::new());
        for mount in spec.mounts().iter().flatten() {
            match (mount.typ().as_deref(), mount.source()) {
                (Some("bind"), Some(source)) => {
                    let read_only = mount.options().iter().flatten().any(|option| option == "ro");
                    let destination = mount.destination().clone();
                    host.push(there(Mount { source: source.clone(), destination, read_only })?);
                }
                _ => kernel.push(mount.clone()),
            }
        }
        Ok(Self { kernel, host })
    }

    pub(super) fn all(&self) -> Vec<SpecMount> {
        self.kernel.iter().cloned().chain(self.host.iter().map(bind)).collect()
    }

    /// The mount of the host in which a path of the container lies, with the path's rest below it.
    pub(super) fn covering<'a>(&'a self, path: &'a Path) -> Option<(&'a Mount, &'a Path)> {
        // The deepest is last.
        let below = |mount: &'a Mount| Some((mount, path.strip_prefix(&mount.destination).ok()?));
        self.host.iter().rev().find_map(below)
    }

    /// Whether a path lies in one of the kernel's file systems, whose content is not known before it is mounted.
    pub(super) fn is_kernels(&self, path: &Path) -> bool {
        self.kernel.iter().any(|mount| path.starts_with(mount.destination()))
    }
}

fn checked(mount: Mount) -> Result<Mount> {
    let wrong = |reason: &str| Error::Mount {
        source_path: mount.source.clone(),
        destination: mount.destination.clone(),
        reason: reason.to_owned(),
    };
    if mount.source.to_str().is_none() || mount.destination.to_str().is_none() {
        return Err(wrong("a path in config.json must be UTF-8"));
    }
    if !mount.source.is_absolute() || !mount.destination.is_absolute() {
        return Err(wrong("both must be absolute paths"));
    }
    if mount.destination.components().any(|component| component == Component::ParentDir) {
        return Err(wrong("the destination must not have .. in it"));
    }
    // Without doubled slashes and dots, so that equal ones are seen to be equal.
    let destination: PathBuf = mount.destination.components().collect();
    if is_containers_own(&destination) {
        return Err(wrong("this destination is the container's own"));
    }
    there(Mount { destination, ..mount })
}

/// Its source must exist.
fn there(mount: Mount) -> Result<Mount> {
    match fs::metadata(&mount.source) {
        Ok(_) => Ok(mount),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::NoMountSource { path: mount.source, destination: mount.destination })
        }
        Err(error) => Err(Error::io(format!("look at {}", mount.source.display()), error)),
    }
}

/// Whether nothing of the host may be mounted at this path, absolute and without dots. A false /proc deceives whoever
/// sets the container up (CVE-2019-16884); devices are made in /dev afterwards, which would then be the host's.
pub(super) fn is_containers_own(path: &Path) -> bool {
    path.starts_with("/proc") || ["/", "/dev", "/sys"].iter().any(|own| path == Path::new(own))
}

fn bind(mount: &Mount) -> SpecMount {
    let options: &[&str] =
        if mount.read_only { &["rbind", "rprivate", "ro", "rro"] } else { &["rbind", "rprivate", "rw"] };
    spec(&mount.destination, "bind", &mount.source, options)
}

/// As Docker mounts them, without a view of control groups.
fn kernel() -> Vec<SpecMount> {
    let table: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    let mounts = table.iter();
    mounts.map(|(to, kind, from, options)| spec(Path::new(to), kind, Path::new(from), options)).collect()
}

fn spec(destination: &Path, kind: &str, source: &Path, options: &[&str]) -> SpecMount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        // OK because every field of the builder has a default.
        .expect("a mount")
}
