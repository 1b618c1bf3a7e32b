//! Where everything lies: on the host, or below the folder that `OPSRUN_ROOT` names.
//! It knows paths only; nothing here makes, reads or removes any.
//!
//! ```text
//! /var/lib/opsrun/store             images and layers
//! /var/lib/opsrun/services/NAME     a service's record and generations
//! /var/lib/opsrun/runs/ID           a one-shot container, while it runs
//! /run/opsrun/NAME, /run/opsrun/.runs/ID
//! /var/log/opsrun/NAME              a service's output
//! /etc/opsrun/NAME.toml             what the operator changed of the catalogue
//! /etc/opsrun/opsrun.toml           what the operator says about registries
//! /opt/NAME/{conf,log,lib,volumes}  the service's own
//! ```

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use runtime::folders::ServiceFolders;

use crate::error::Error;
use crate::service_name::ServiceName;

/// The variable that moves everything below a folder.
pub(crate) const ROOT_VARIABLE: &str = "OPSRUN_ROOT";

/// Which tree of folders is worked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `None`: the host's own.
    root: Option<PathBuf>,
}

/// A service's own folders, the ones its operator looks into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnFolders {
    /// `/opt/NAME`.
    pub home: PathBuf,
}

impl OwnFolders {
    /// The configuration that the operator edits.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.home.join("conf")
    }

    /// The logs that the service writes itself.
    pub(crate) fn logs(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The service's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("lib")
    }

    /// Where every other volume of the image is kept, by its path.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }
}

impl Layout {
    /// The tree that `OPSRUN_ROOT` names, or the host's own when it is unset or empty.
    ///
    /// # Errors
    /// [`Error::Root`] when it names no absolute path, something that is no folder, or a place inside another root.
    pub(crate) fn from_environment() -> Result<Self, Error> {
        match std::env::var_os(ROOT_VARIABLE) {
            Some(value) if !value.is_empty() => Self::below(&value),
            _ => Ok(Self { root: None }),
        }
    }

    /// The tree below `root`; the host's own when that is `/`.
    ///
    /// # Errors
    /// As [`Layout::from_environment`].
    pub(crate) fn below(root: &OsStr) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Root { path: PathBuf::from(root), reason };
        let path = Path::new(root);
        if !path.is_absolute() {
            return Err(wrong("it is no absolute path".to_owned()));
        }
        let path = resolve_existing(path).map_err(|error| wrong(error.to_string()))?;
        if path == Path::new("/") {
            // The same folders must never have two cgroups and two ids, so this is the host's own, not a root.
            return Ok(Self { root: None });
        }
        if path.exists() && !path.is_dir() {
            return Err(wrong("it is no folder".to_owned()));
        }
        for outer in path.ancestors().skip(1) {
            // What an outer opsrun owns it may remove at any time.
            let owned = ["var/lib/opsrun", "run/opsrun", "var/log/opsrun"].map(|folder| outer.join(folder));
            if let Some(owner) = owned.iter().find(|folder| path.starts_with(folder)) {
                return Err(wrong(format!(
                    "it lies inside {}, which belongs to another root",
                    owner.display()
                )));
            }
        }
        Ok(Self { root: Some(path) })
    }

    /// Whether it is the host's own tree.
    pub(crate) fn is_host(&self) -> bool {
        self.root.is_none()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new("/")).join(path)
    }

    /// The store of images and layers.
    pub(crate) fn store(&self) -> PathBuf {
        self.at("var/lib/opsrun/store")
    }

    /// The folder with one folder for each service that has a record.
    pub(crate) fn services(&self) -> PathBuf {
        self.at("var/lib/opsrun/services")
    }

    /// The folders opsrun keeps for a service.
    pub(crate) fn service(&self, name: &ServiceName) -> ServiceFolders {
        // `ps` makes these of each service: at once, not part by part.
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let below = |folder: &str| {
            let bytes = root.as_os_str().len() + folder.len() + name.as_str().len() + 2;
            let mut path = PathBuf::with_capacity(bytes);
            path.extend([root, Path::new(folder), Path::new(name.as_str())]);
            path
        };
        ServiceFolders {
            state: below("var/lib/opsrun/services"),
            run: below("run/opsrun"),
            log: below("var/log/opsrun"),
        }
    }

    /// The folder with one folder for each service that has logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.at("var/log/opsrun")
    }

    /// What the operator changed of the catalogue for this service.
    pub(crate) fn settings(&self, name: &ServiceName) -> PathBuf {
        self.at("etc/opsrun").join(format!("{name}.toml"))
    }

    /// What the operator says about registries.
    pub(crate) fn registries(&self) -> PathBuf {
        self.at("etc/opsrun/opsrun.toml")
    }

    /// The service's own folders.
    pub(crate) fn own(&self, name: &ServiceName) -> OwnFolders {
        OwnFolders { home: self.at("opt").join(name.as_str()) }
    }

    /// The folder with what is gone at a reboot.
    pub(crate) fn run(&self) -> PathBuf {
        self.at("run/opsrun")
    }

    /// The folder with one bundle for each one-shot container that runs.
    pub(crate) fn runs(&self) -> PathBuf {
        self.at("var/lib/opsrun/runs")
    }

    /// What a one-shot container has that is gone at a reboot. A service cannot be in its way: no name begins with a dot.
    pub(crate) fn run_state(&self, id: &str) -> PathBuf {
        self.at("run/opsrun/.runs").join(id)
    }

    /// The path of a container's cgroup below the cgroup v2 mount; its last part is `id`.
    ///
    /// Two roots can have a service of one name, so the root's hash is part of the path.
    pub(crate) fn cgroup(&self, id: &str) -> String {
        match self.root_hash() {
            None => format!("/opsrun/{id}"),
            Some(hash) => format!("/opsrun-{hash}/{id}"),
        }
    }

    /// The path of a one-shot container's cgroup. No service's begins so: an id of a service's container ends in `-gN`.
    pub(crate) fn run_cgroup(&self, id: &str) -> String {
        if self.is_host() && runtime::systemd::is_running() {
            return runtime::systemd::scoped(id, "run").display().to_string();
        }
        self.cgroup(&format!("runs/{id}"))
    }

    /// The id of the container of generation `generation` of a service.
    pub(crate) fn container_id(name: &ServiceName, generation: u32) -> String {
        format!("{name}-g{generation}")
    }

    /// Eight hexadecimal digits that differ between roots; `None` for the host's own tree.
    fn root_hash(&self) -> Option<String> {
        self.root.as_deref().map(|root| {
            let hash = fnv_1a(root.as_os_str().as_encoded_bytes());
            // Folded, as the authors of FNV advise for fewer bits than it has.
            format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
        })
    }
}

/// Resolves the links of the part of `path` that exists, so that two spellings of one root are one root.
fn resolve_existing(path: &Path) -> std::io::Result<PathBuf> {
    if path.components().any(|part| part == Component::ParentDir) {
        return fs_err::canonicalize(path);
    }
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match fs_err::canonicalize(existing) {
            Ok(mut resolved) => {
                resolved.extend(missing.iter().rev());
                return Ok(resolved);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name);
                existing = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

/// FNV-1a with 64 bits: short, and it never changes between Rust versions, which the standard library's hashes may.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn the_hosts_own_tree_is_the_documented_one() {
        let layout = Layout { root: None };
        assert_eq!(layout.store(), Path::new("/var/lib/opsrun/store"));
        assert_eq!(layout.service(&name("keystone")).run, Path::new("/run/opsrun/keystone"));
        assert_eq!(layout.own(&name("keystone")).configuration(), Path::new("/opt/keystone/conf"));
        assert_eq!(layout.settings(&name("keystone")), Path::new("/etc/opsrun/keystone.toml"));
        assert_eq!(layout.cgroup("keystone-g3"), "/opsrun/keystone-g3");
    }

    #[test]
    fn a_root_moves_everything_and_has_cgroups_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let one = Layout::below(folder.path().as_os_str()).unwrap();
        let root = one.root.clone().unwrap();
        for path in [
            one.store(),
            one.service(&name("a")).state,
            one.service(&name("a")).run,
            one.service(&name("a")).log,
            one.settings(&name("a")),
            one.own(&name("a")).home,
            one.runs(),
            one.run_state("x"),
        ] {
            assert!(path.starts_with(&root), "{}", path.display());
        }
        let two = Layout::below(folder.path().join("new/deep").as_os_str()).unwrap();
        assert_ne!(one.cgroup("a-g1"), two.cgroup("a-g1"));
        assert!(one.cgroup("a-g1").ends_with("/a-g1"));
    }

    #[test]
    fn two_spellings_of_one_root_are_one_root() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        let link = folder.path().join("link");
        fs_err::create_dir(&real).unwrap();
        fs_err::os::unix::fs::symlink(&real, &link).unwrap();
        let spellings = [real.clone(), link, real.join("."), folder.path().join("real/../real")];
        let layouts: Vec<_> = spellings.iter().map(|path| Layout::below(path.as_os_str()).unwrap()).collect();
        assert!(layouts.windows(2).all(|pair| pair[0] == pair[1]), "{layouts:?}");
    }

    #[test]
    fn roots_that_clash_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs_err::write(&file, "").unwrap();
        let inside = folder.path().join("var/lib/opsrun/store/x");
        for bad in [Path::new("relative"), Path::new("./here"), &file, &file.join("below"), &inside] {
            assert!(matches!(Layout::below(bad.as_os_str()), Err(Error::Root { .. })), "{}", bad.display());
        }
        assert_eq!(Layout::below(OsStr::new("/")).unwrap(), Layout { root: None });
    }
}
