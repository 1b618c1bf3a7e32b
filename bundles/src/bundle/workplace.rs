//! Makes what a container needs in its root file system before it starts: the working folder, places to mount on.
//! It does not know the runtime that mounts there and enters it.
//!
//! A runtime makes a mount's destination that is missing, but neither of these: a destination that is a symlink leading
//! nowhere, and a working folder that is missing, which Docker makes, for root, with mode 0755. It is done in the
//! overlay itself, not by hand in `upper/`: the kernel knows how a folder of a lower layer is repeated in the upper.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, unlinkat};
use rustix::io::Errno;

use crate::bundle::BundleRequest;
use crate::bundle::mounts::Mounts;
use crate::error::{Error, Result};
use crate::rootfs::{Kind, RootView};

pub(super) fn make(
    request: &BundleRequest,
    view: &RootView,
    working_directory: &Path,
    mounts: &Mounts,
) -> Result<()> {
    let missing = working_directory_is_missing(view, working_directory, mounts)?;
    let mut dangling = Vec::new();
    for mount in &mounts.host {
        if view.metadata(&mount.destination)?.is_none() && view.is_symlink(&mount.destination)? {
            dangling.push(&mount.destination);
        }
    }
    if !missing && dangling.is_empty() {
        return Ok(());
    }
    let (upper, work) = (request.folder.join("upper"), request.folder.join("work"));
    let writable = RootView::writable(&request.image.name, &request.image.layers, &upper, &work)?;
    for destination in dangling {
        remove(&writable, destination)?;
    }
    if missing {
        make_folders(&writable, working_directory)?;
    }
    Ok(())
}

fn working_directory_is_missing(view: &RootView, path: &Path, mounts: &Mounts) -> Result<bool> {
    // What is in a mount is not the image's.
    if mounts.covering(path).is_some() || mounts.is_kernels(path) {
        return Ok(false);
    }
    match view.metadata(path)? {
        Some(found) if found.kind == Kind::Folder => Ok(false),
        Some(_) => Err(not_usable(view, path, "is not a folder")),
        None => Ok(true),
    }
}

fn remove(view: &RootView, link: &Path) -> Result<()> {
    let failed = |errno: Errno| Error::io(format!("remove the dangling link {}", link.display()), errno);
    let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else { return Ok(()) };
    let Some(parent) = view.look_up(parent, OFlags::PATH | OFlags::DIRECTORY)? else { return Ok(()) };
    unlinkat(parent, name, AtFlags::empty()).map_err(failed)
}

fn make_folders(view: &RootView, path: &Path) -> Result<()> {
    let failed = |errno: Errno| Error::io(format!("make the working folder {}", path.display()), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = PathBuf::from("/");
    let open = |path: &Path| view.look_up(path, flags);
    let mut parent: OwnedFd = open(&at)?.ok_or(Errno::NOENT).map_err(failed)?;
    for component in path.components().skip(1) {
        at.push(component);
        let folder = match open(&at)? {
            Some(folder) => folder,
            None => {
                match mkdirat(parent.as_fd(), component.as_os_str(), Mode::RWXU) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        return Err(not_usable(view, path, "leads through what is not a folder"));
                    }
                    Err(errno) => return Err(failed(errno)),
                }
                let folder = open(&at)?.ok_or(Errno::NOENT).map_err(failed)?;
                // Not by mkdir, which the caller's umask has a say in.
                fchmod(&folder, Mode::from_raw_mode(0o755)).map_err(failed)?;
                folder
            }
        };
        parent = folder;
    }
    Ok(())
}

fn not_usable(view: &RootView, path: &Path, reason: &str) -> Error {
    Error::WorkingDirectory {
        image: view.image().to_owned(),
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
