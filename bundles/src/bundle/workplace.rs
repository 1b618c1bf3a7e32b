//! Makes what a container needs in its root file system before it starts: the working folder, places to mount on.
//! It does not know the runtime that mounts there and enters it.
//!
//! A runtime makes a mount's destination that is missing, but neither of these: a destination that is a symlink leading
//! nowhere, and a working folder that is missing, which Docker makes, for root, with mode 0755. It is done in the
//! overlay itself, not by hand in `upper/`: the kernel knows how a folder of a lower layer is repeated in the upper.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, mkdirat, readlinkat, unlinkat};
use rustix::io::Errno;

use crate::bundle::Unpacked;
use crate::bundle::mounts::{Mount, Mounts, is_containers_own};
use crate::error::{Error, Result};
use crate::rootfs::{Kind, RootView, proc_path};

pub(super) fn make(
    folder: &Path,
    image: &Unpacked,
    view: &RootView,
    working_directory: &Path,
    mounts: &Mounts,
) -> Result<()> {
    check_own_folders(view)?;
    let missing = working_directory_is_missing(view, working_directory, mounts)?;
    let mut dangling = Vec::new();
    for mount in &mounts.host {
        if leads(view, mount)? == Place::Nowhere {
            dangling.push(&mount.destination);
        }
    }
    if !missing && dangling.is_empty() {
        return Ok(());
    }
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    let writable = RootView::writable(&image.name, &image.layers, &upper, &work)?;
    for destination in dangling {
        remove(&writable, destination)?;
    }
    if missing {
        make_folders(&writable, working_directory)?;
    }
    Ok(())
}

/// A link in place of one of these would have file systems mounted and devices made where it leads, which before the
/// container's root is entered may be a place of the host.
fn check_own_folders(view: &RootView) -> Result<()> {
    for path in ["/dev", "/proc", "/sys"].map(Path::new) {
        let is_folder = view.metadata(path)?.is_none_or(|found| found.kind == Kind::Folder);
        if view.is_symlink(path)? || !is_folder {
            return Err(Error::NotAFolder { image: view.image().to_owned(), path: path.to_owned() });
        }
    }
    Ok(())
}

/// Where the image's symlinks lead a mount.
#[derive(PartialEq, Eq)]
enum Place {
    /// To something, or to something that can be made.
    Somewhere,
    /// Its last component is a symlink to nothing.
    Nowhere,
}

/// The links of the image may not lead a mount to where none may be; what may be typed is checked elsewhere.
fn leads(view: &RootView, mount: &Mount) -> Result<Place> {
    let wrong = |reason: &str| Error::Mount {
        source_path: mount.source.clone(),
        destination: mount.destination.clone(),
        reason: reason.to_owned(),
    };
    for existing in mount.destination.ancestors() {
        let Some(found) = view.look_up(existing, OFlags::PATH)? else { continue };
        // OK because this is one of its ancestors.
        let rest = mount.destination.strip_prefix(existing).expect("an ancestor");
        if let Some(first) = rest.components().next() {
            let next = existing.join(first);
            match view.is_symlink(&next)? {
                true if next == mount.destination => return Ok(Place::Nowhere),
                true => return Err(wrong("it leads through a symlink to nothing in the image")),
                false => {}
            }
        }
        // Of a mount that hangs nowhere, the kernel gives the path within it.
        let real = readlinkat(CWD, proc_path(found.as_fd()), Vec::new())
            .map_err(|errno| Error::io(format!("look at {}", existing.display()), errno))?;
        let real = Path::new(OsStr::from_bytes(real.to_bytes()));
        if is_containers_own(&real.join(rest)) {
            return Err(wrong("a symlink in the image leads it to the container's own folders"));
        }
        return Ok(Place::Somewhere);
    }
    Ok(Place::Somewhere)
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
