//! The merged file system of an image, as a directory descriptor that no other process can see.
//! It knows neither archives nor what is run from what it shows.
//!
//! An image is hostile: a path is only ever resolved by `openat2(RESOLVE_IN_ROOT)`, so that no symlink in it leads
//! out to the host; only regular files are read, and only up to a limit.
//!
//! How the view stays unseen: a thread takes a mount namespace of its own, mounts the overlay there, clones that mount
//! into a descriptor (`open_tree(OPEN_TREE_CLONE)`), and leaves the namespace. From then on the mount hangs on nothing
//! but the descriptor: it is in nobody's mount table, and it is gone when the view is dropped or the process dies.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Result};
use crate::store::{Image, Store};
use crate::tree;

/// The longest file that is read out of an image, bytes. `/etc/passwd` and `/etc/group` are what is read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// How often a lookup is tried again that a rename elsewhere disturbed (openat2(2), EAGAIN).
const LOOKUP_ATTEMPTS_MAX: u32 = 128;

/// The merged file system of an image.
#[derive(Debug)]
pub struct RootView {
    image: String,
    root: OwnedFd,
}

/// What a path in the image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What kind of file.
    pub kind: Kind,
    /// The permission bits, with set-user-id, set-group-id and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub bytes: u64,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link that leads nowhere; one that leads somewhere is what it leads to.
    Symlink,
    /// A pipe, socket or device.
    Special,
}

impl RootView {
    /// The file system of an image in the store, read-only.
    ///
    /// # Errors
    /// [`Error::NoOverlay`] on a kernel without overlay file systems, [`Error::Io`] for what else the kernel refuses.
    pub fn open(store: &Store, image: &Image) -> Result<Self> {
        Self::of_layers(&image.title(), &store.layer_folders(image))
    }

    /// The file system that these folders make on top of each other, top layer first, read-only. Whiteouts are
    /// overlayfs's own. `image` is its name in errors.
    ///
    /// # Errors
    /// As [`RootView::open`].
    pub fn of_layers(image: &str, layers: &[PathBuf]) -> Result<Self> {
        Ok(Self { image: image.to_owned(), root: merge(image, layers, None)? })
    }

    /// The same, with what is written going to `upper`. The container must not be running.
    pub(crate) fn writable(image: &str, layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Self> {
        Ok(Self { image: image.to_owned(), root: merge(image, layers, Some((upper, work)))? })
    }

    /// The image's name, for errors.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The content of a regular file of at most [`FILE_BYTES_MAX`]; `None` when there is nothing at this path.
    ///
    /// # Errors
    /// [`Error::NotAFile`] and [`Error::FileTooLong`], which a hostile image can provoke, and [`Error::Io`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(content) = self.read_start(path, FILE_BYTES_MAX + 1)? else { return Ok(None) };
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::FileTooLong {
                image: self.image.clone(),
                path: path.to_owned(),
                bytes_max: FILE_BYTES_MAX,
            });
        }
        Ok(Some(content))
    }

    /// The first bytes of a regular file; `None` when there is nothing at this path.
    pub(crate) fn read_start(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(found) = self.look_up(path, OFlags::PATH)? else { return Ok(None) };
        let failed = |errno: Errno| self.io("read", path, errno);
        // What it is must be known before it is opened: opening a pipe blocks, opening a device acts.
        if kind(&fstat(&found).map_err(failed)?) != Kind::File {
            return Err(Error::NotAFile { image: self.image.clone(), path: path.to_owned() });
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(reopen(found.as_fd(), flags).map_err(failed)?);
        let mut content = Vec::new();
        file.take(bytes_max).read_to_end(&mut content).map_err(|error| self.io("read", path, error))?;
        Ok(Some(content))
    }

    /// Whether a path leads to something.
    ///
    /// # Errors
    /// [`Error::Io`] when that cannot be found out, for instance for a loop of symlinks.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        Ok(self.look_up(path.as_ref(), OFlags::PATH)?.is_some())
    }

    /// What a path leads to; symlinks are followed within the image. `None` when there is nothing.
    ///
    /// # Errors
    /// As [`RootView::exists`].
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Option<Metadata>> {
        let path = path.as_ref();
        match self.look_up(path, OFlags::PATH)? {
            Some(found) => {
                Ok(Some(metadata(&fstat(&found).map_err(|errno| self.io("look at", path, errno))?)))
            }
            None => Ok(None),
        }
    }

    /// Whether the last component of a path is a symlink.
    pub(crate) fn is_symlink(&self, path: &Path) -> Result<bool> {
        match self.look_up(path, OFlags::PATH | OFlags::NOFOLLOW)? {
            Some(found) => Ok(readlinkat(&found, c"", Vec::new()).is_ok()),
            None => Ok(false),
        }
    }

    /// Copies a folder of the image to `into`, which must not exist or be empty: bytes, modes, owners, times,
    /// extended attributes, symlinks as such, hard links. All of it or nothing appears. Since the image is not
    /// trusted and the copy lies on the host, no file in it is set-user-id, set-group-id or has file capabilities,
    /// and a device is refused.
    ///
    /// # Errors
    /// [`Error::NotInImage`], and those of [`tree::copy`].
    pub fn copy_tree(&self, path: impl AsRef<Path>, into: &Path) -> Result<()> {
        let path = path.as_ref();
        let Some(folder) = self.look_up(path, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Err(Error::NotInImage { image: self.image.clone(), path: path.to_owned() });
        };
        tree::copy_opened(folder.as_fd(), path, into, tree::Origin::Image)
    }

    /// Opens a path within the image; `None` when there is nothing.
    pub(crate) fn look_up(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
        look_up_in(self.root.as_fd(), path, flags).map_err(|errno| self.io("look up", path, errno))
    }

    fn io(&self, verb: &str, path: &Path, source: impl Into<std::io::Error>) -> Error {
        Error::io(format!("{verb} {} in {}", path.display(), self.image), source)
    }
}

impl AsFd for RootView {
    /// The root folder of the image, opened with `O_PATH`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Opens a path below a folder that is taken for the root, whatever symlinks say; `None` when there is nothing.
pub(crate) fn look_up_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..LOOKUP_ATTEMPTS_MAX {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(found) => return Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what an `O_PATH` descriptor stands for: that very file, whatever its name leads to by now.
pub(crate) fn reopen(found: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, proc_path(found), flags, Mode::empty())
}

/// A path that stands for an open descriptor, for the calls that take no `O_PATH` descriptor.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(crate) fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        kind: kind(stat),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
    }
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}

/// Mounts the layers where nobody sees it, and returns the root of the result.
fn merge(image: &str, layers: &[PathBuf], written: Option<(&Path, &Path)>) -> Result<OwnedFd> {
    let joined = thread::scope(|scope| {
        let mounting = thread::Builder::new()
            .name("root-view".to_owned())
            .spawn_scoped(scope, || mount_unseen(layers, written))
            .map_err(|error| Error::io("start a thread", error))?;
        Ok(mounting.join())
    })?;
    let mounted = match joined {
        Ok(mounted) => mounted,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    mounted.map_err(|failure| match failure {
        MountFailure::NoOverlay => Error::NoOverlay,
        MountFailure::Open(path, errno) => Error::io(format!("open the folder {}", path.display()), errno),
        MountFailure::Step(doing, errno) => Error::io(
            format!("{doing} to look into {image}"),
            std::io::Error::from_raw_os_error(errno as i32),
        ),
    })
}

enum MountFailure {
    NoOverlay,
    Open(PathBuf, Errno),
    Step(&'static str, nix::errno::Errno),
}

/// Runs in a thread of its own, whose working folder and, when it fails, mount namespace it changes: the thread must
/// end after it.
///
/// The names in overlayfs's option are the numbers of open descriptors, relative to `/proc/self/fd`: short, so
/// that hundreds of layers fit the one page that mount(2) takes, free of the characters that it would need escaped,
/// and without any folder made for the purpose. For the same reason it mounts on `/proc`, which is always there.
fn mount_unseen(layers: &[PathBuf], written: Option<(&Path, &Path)>) -> Result<OwnedFd, MountFailure> {
    const POINT: &str = "/proc";
    let step = |doing| move |errno| MountFailure::Step(doing, errno);
    let outside = openat(CWD, "/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountFailure::Open("/proc/thread-self/ns/mnt".into(), errno))?;
    // CLONE_FS because the working folder is changed below, and only for this thread.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(step("take a mount namespace"))?;
    // Else the mounts below would propagate to the host.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(step("make the mount namespace private"))?;
    // Opened only here: overlayfs takes no folder that was opened in another mount namespace.
    let open = |path: &Path| open_folder(path).map_err(|errno| MountFailure::Open(path.to_owned(), errno));
    let mut lower = layers.iter().map(|layer| open(layer)).collect::<Result<Vec<_>, _>>()?;
    let written = match written {
        Some((upper, work)) => Some((open(upper)?, open(work)?)),
        None => None,
    };
    nix::unistd::chdir("/proc/self/fd").map_err(step("enter /proc/self/fd"))?;

    // overlayfs demands two lower folders, or one with an upper: what is missing is made up of empty ones.
    let wanted = if written.is_some() { 1 } else { 2 };
    if lower.len() < wanted {
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), POINT, Some("tmpfs"), flags, Some("mode=755,size=64k"))
            .map_err(step("mount an empty folder"))?;
        for number in lower.len()..wanted {
            let path = PathBuf::from(format!("{POINT}/{number}"));
            let made = mkdirat(CWD, &path, Mode::RWXU | Mode::from_raw_mode(0o055));
            let opened = made.and_then(|()| open_folder(&path));
            lower.push(opened.map_err(|errno| MountFailure::Open(path, errno))?);
        }
    }

    let lower_names: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    // A layer that claims to redirect elsewhere, or to have its data elsewhere, is not believed.
    let mut options = format!("lowerdir={},redirect_dir=nofollow,metacopy=off", lower_names.join(":"));
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    match &written {
        Some((upper, work)) => {
            options += &format!(",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd());
        }
        None => flags |= MsFlags::MS_RDONLY,
    }
    mount(Some("overlay"), POINT, Some("overlay"), flags, Some(options.as_str())).map_err(
        |errno| match errno {
            nix::errno::Errno::ENODEV => MountFailure::NoOverlay,
            errno => MountFailure::Step("mount the layers on top of each other", errno),
        },
    )?;
    // A clone of the mount, in an anonymous namespace that lasts as long as the descriptor. Of a mount that is in no
    // namespace at all, every release bumps the count of changes by which openat2(2) sees a race, and so a link to
    // `/../x` could never be followed: EAGAIN each time.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = open_tree(CWD, POINT, flags).map_err(|errno| MountFailure::Open(POINT.into(), errno))?;
    // Back, so that the namespace ends now, with all mounts in it: else it would when the thread does, some time after
    // the thread was joined, and until then hold the overlay and every file system of the host.
    setns(outside, CloneFlags::CLONE_NEWNS).map_err(step("leave the mount namespace"))?;
    Ok(root)
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
