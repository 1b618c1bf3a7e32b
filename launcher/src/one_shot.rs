//! The place of a one-shot container: taken, held while it runs, and removed whatever happens to whoever took it.
//! It knows folders and locks; what runs there is others' business.
//!
//! A process that is killed cannot clean up. So each place is locked for as long as its owner lives, and whoever takes
//! the next one removes those that nobody holds.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;
use crate::layout::Layout;
use crate::service_name::ServiceName;

/// The file with the id of the image that runs.
const IMAGE: &str = "image";

/// The place of one container; dropping it removes it.
#[derive(Debug)]
pub(crate) struct OneShot {
    bundle: PathBuf,
    run_folder: PathBuf,
    cgroup: String,
    /// Locked as long as this lives. The kernel lets go of it when the process dies.
    _lock: File,
}

impl OneShot {
    /// Takes a place for a container of an image, under the given name or one that is made up, after removing those of the dead.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::Io`].
    pub(crate) fn take(layout: &Layout, name: Option<&ServiceName>, image_id: &str) -> Result<Self, Error> {
        let failed = |error| Error::io("make a place for the container", error);
        let runs = layout.runs();
        fs_err::create_dir_all(&runs).map_err(failed)?;
        // Held until the new place is locked: between the two it would look like one of the dead.
        let all = lock(&runs, FlockOperation::LockExclusive).map_err(failed)?;
        sweep(layout, &runs).map_err(failed)?;
        let id = match name {
            Some(name) => name.to_string(),
            None => random_id().map_err(failed)?,
        };
        let bundle = runs.join(&id);
        match fs_err::create_dir(&bundle) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::NameTaken { name: id });
            }
            made => made.map_err(failed)?,
        }
        // It is going to hold what the command writes.
        fs_err::set_permissions(&bundle, Permissions::from_mode(0o700)).map_err(failed)?;
        let own = lock(&bundle, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
        fs_err::write(bundle.join(IMAGE), image_id).map_err(failed)?;
        drop(all);
        Ok(Self { bundle, run_folder: layout.run_state(&id), cgroup: layout.run_cgroup(&id), _lock: own })
    }

    /// Where its bundle belongs.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.bundle.clone()
    }

    /// What it has that is gone at a reboot.
    pub(crate) fn run_folder(&self) -> PathBuf {
        self.run_folder.clone()
    }

    /// Its copies of the host's files.
    pub(crate) fn host_files(&self) -> PathBuf {
        self.run_folder.join("host")
    }

    /// Its cgroup.
    pub(crate) fn cgroup(&self) -> String {
        self.cgroup.clone()
    }
}

impl Drop for OneShot {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever takes the next place.
        let _ = fs_err::remove_dir_all(&self.run_folder);
        let _ = fs_err::remove_dir_all(&self.bundle);
    }
}

/// The id of a one-shot container that uses an image, if one does.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn user_of(layout: &Layout, image_id: &str) -> Result<Option<String>, Error> {
    Ok(users(layout)?.into_iter().find(|(image, _)| image == image_id).map(|(_, id)| id))
}

/// The images that one-shot containers use, and the ids of these containers.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn users(layout: &Layout) -> Result<Vec<(String, String)>, Error> {
    let failed = |error| Error::io("look for containers that use an image", error);
    let entries = match fs_err::read_dir(layout.runs()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut users = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(image) = fs_err::read_to_string(entry.path().join(IMAGE)) else { continue };
        // One that can be locked is a dead one's, or gone by now.
        if lock(&entry.path(), FlockOperation::NonBlockingLockShared).is_err() {
            users.push((image, entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(users)
}

/// Removes the places that nobody holds.
fn sweep(layout: &Layout, runs: &Path) -> std::io::Result<()> {
    for entry in fs_err::read_dir(runs)? {
        let entry = entry?;
        let Ok(_held) = lock(&entry.path(), FlockOperation::NonBlockingLockExclusive) else { continue };
        if let Some(id) = entry.file_name().to_str() {
            // OK to ignore: what cannot be cleared now is tried again by the next one, and is in nobody's way.
            let _ = runtime::foreground::clear(&layout.run_state(id), Path::new(&layout.run_cgroup(id)));
            let _ = fs_err::remove_dir_all(layout.run_state(id));
        }
        fs_err::remove_dir_all(entry.path())?;
    }
    Ok(())
}

/// Locks a folder for as long as the result lives.
fn lock(folder: &Path, how: FlockOperation) -> std::io::Result<File> {
    let folder = fs_err::File::open(folder)?.into_parts().0;
    loop {
        match flock(&folder, how) {
            Ok(()) => return Ok(folder),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn random_id() -> std::io::Result<String> {
    // One that the kernel makes anew for each reader (random(4)).
    let uuid = fs_err::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("run-{}", uuid.split('-').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_held_then_removed_and_those_of_the_dead_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let layout = Layout::below(temporary.path().as_os_str()).unwrap();
        let name: ServiceName = "db-sync".parse().unwrap();

        let first = OneShot::take(&layout, Some(&name), "sha256:1").unwrap();
        fs_err::create_dir_all(first.run_folder()).unwrap();
        assert!(matches!(OneShot::take(&layout, Some(&name), "sha256:1"), Err(Error::NameTaken { .. })));
        let other = OneShot::take(&layout, None, "sha256:2").unwrap();
        assert_ne!(first.cgroup(), other.cgroup());
        let (bundle, run_folder) = (first.bundle(), first.run_folder());
        assert_eq!(user_of(&layout, "sha256:1").unwrap().as_deref(), Some("db-sync"));
        drop(first);
        assert_eq!(user_of(&layout, "sha256:1").unwrap(), None);
        assert!(!bundle.exists() && !run_folder.exists());

        // As left behind by a process that was killed.
        fs_err::create_dir_all(bundle.join("upper")).unwrap();
        fs_err::write(bundle.join(IMAGE), "sha256:3").unwrap();
        assert_eq!(user_of(&layout, "sha256:3").unwrap(), None);
        fs_err::create_dir_all(&run_folder).unwrap();
        let second = OneShot::take(&layout, Some(&name), "sha256:1").unwrap();
        assert!(!bundle.join("upper").exists() && !run_folder.exists());
        assert!(other.bundle().exists());
        drop((second, other));
        assert!(fs_err::read_dir(layout.runs()).unwrap().next().is_none());
    }
}
