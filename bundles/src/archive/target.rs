//! Where an archive goes: a file that is there wholly or not at all, or standard output.
//! Knows nothing of what the archive holds.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::spool;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::tape::Kind;
use crate::tape::write::{END, Head, padding};

const PART_BYTES: usize = 256 << 10;

/// Where to save to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, which is replaced once the archive is complete. What is no regular file is written to.
    File(PathBuf),
    /// Standard output, which gets nothing before the archive is complete.
    Stdout,
}

impl Target {
    /// What an argument means: `-` is standard output.
    pub fn of(argument: impl AsRef<Path>) -> Self {
        match argument.as_ref() {
            path if path.as_os_str() == "-" => Self::Stdout,
            path => Self::File(path.to_owned()),
        }
    }
}

/// An archive being written, out of sight until it is complete.
pub(crate) struct Outgoing {
    file: File,
    at: u64,
    place: Place,
}

enum Place {
    /// Takes the name of `path`. `aside` is the name it has until then, on a file system without nameless files.
    File { path: PathBuf, aside: Option<PathBuf> },
    /// Is copied to what is open already.
    Stream(File),
}

impl Outgoing {
    /// Begins an archive. What goes to a stream is kept in a nameless file in the folder `spool` until it is complete.
    pub(crate) fn begin(target: &Target, spool: impl AsFd) -> Result<Self> {
        let path = match target {
            Target::Stdout => {
                let failed = |error| Error::io("write to standard output", error);
                let stream = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
                return Self::to_stream(stream.into(), spool);
            }
            Target::File(path) => path,
        };
        let failed = |error| Error::io(format!("write {}", path.display()), error);
        // Also through a symlink, whose target is replaced and not itself.
        let there = match std::fs::canonicalize(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.clone(),
            Err(error) => return Err(failed(error)),
        };
        if std::fs::metadata(&there).is_ok_and(|metadata| !metadata.is_file()) {
            let stream = File::options().write(true).open(&there).map_err(failed)?;
            return Self::to_stream(stream, spool);
        }
        let name = there.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let folder = match there.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        // Nobody else's business, as with `docker save`: what is committed can hold passwords.
        let (file, aside) = match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => (File::from(file), None),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let aside = folder.join(aside_name(name));
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(true).mode(0o600);
                (options.open(&aside).map_err(failed)?, Some(aside))
            }
            Err(error) => return Err(failed(error.into())),
        };
        Ok(Self { file, at: 0, place: Place::File { path: there, aside } })
    }

    fn to_stream(stream: File, spool: impl AsFd) -> Result<Self> {
        let kept = spool::nameless(spool.as_fd());
        let kept = kept.map_err(|error| Error::io("keep the archive in the store meanwhile", error))?;
        Ok(Self { file: kept.into(), at: 0, place: Place::Stream(stream) })
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add_written(|out| out.write_all(content).map_err(Fault::Written), |_| name.to_owned())
            .map(|_| ())
    }

    /// Adds a file whose name comes from its digest, which is known only when it has been written. What went wrong
    /// with the content, and not with the archive, is handed on. The digest and the length.
    pub(crate) fn add_written(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Fault>,
        name: impl FnOnce(Digest) -> String,
    ) -> Result<(Digest, u64)> {
        // Its header is filled in when it is known.
        let data_at = self.at + 512;
        self.file.seek(SeekFrom::Start(data_at)).map_err(|error| self.failed(error))?;
        let mut out = BufWriter::with_capacity(PART_BYTES, Hashing::new(&self.file));
        let written = write(&mut out);
        let flushed = out.into_inner().map_err(|error| Fault::Written(error.into_error()));
        let (digest, bytes) = match written.and(flushed) {
            Ok(hashing) => hashing.finish(),
            Err(Fault::Written(error)) => return Err(self.failed(error)),
            Err(Fault::Other(error)) => return Err(error),
        };
        let kind = Kind::File { real_size: bytes, sparse: None };
        let name = name(digest);
        let head = Head::blob(name.as_bytes(), &kind).blocks();
        let padded = self.file.write_all_at(&vec![0; padding(bytes)], data_at + bytes);
        padded.and_then(|()| self.file.write_all_at(&head, self.at)).map_err(|error| self.failed(error))?;
        self.at = (data_at + bytes).next_multiple_of(512);
        Ok((digest, bytes))
    }

    /// Ends the archive and puts it where it belongs.
    pub(crate) fn finish(mut self) -> Result<()> {
        let ended = (self.file.write_all_at(&END, self.at))
            .and_then(|()| self.file.set_len(self.at + END.len() as u64));
        ended.map_err(|error| self.failed(error))?;
        let done = match &mut self.place {
            Place::Stream(stream) => {
                let copied = self.file.rewind().and_then(|()| io::copy(&mut self.file, stream));
                return copied.map(|_| ()).map_err(|error| self.failed(error));
            }
            Place::File { path, aside } => {
                // Before it gets its name: else a power cut can leave the name with no content.
                let put = self.file.sync_all().and_then(|()| match aside {
                    Some(aside) => std::fs::rename(&*aside, &*path),
                    None => give_name(&self.file, path),
                });
                if put.is_ok() {
                    *aside = None;
                }
                put
            }
        };
        done.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        match &self.place {
            Place::File { path, .. } => Error::io(format!("write {}", path.display()), error),
            Place::Stream(_) => Error::io("write the archive", error),
        }
    }
}

impl Drop for Outgoing {
    /// An archive that was not completed leaves nothing.
    fn drop(&mut self) {
        if let Place::File { aside: Some(aside), .. } = &self.place {
            // OK to fail: there is nobody left to be told, and its name says that it is nothing.
            let _ = std::fs::remove_file(aside);
        }
    }
}

/// Why a file cannot be added to an archive.
pub(crate) enum Fault {
    /// The archive cannot be written to.
    Written(io::Error),
    /// Its content cannot be had.
    Other(Error),
}

fn aside_name(name: &std::ffi::OsStr) -> std::ffi::OsString {
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", std::process::id()));
    aside
}

/// Gives a nameless file a name, whoever had it before.
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    // A link never replaces a file, a rename does.
    let aside = path.with_file_name(aside_name(path.file_name().unwrap_or_default()));
    match rustix::fs::linkat(CWD, link.as_str(), CWD, &aside, AtFlags::SYMLINK_FOLLOW) {
        // Left by a process of the same number.
        Err(rustix::io::Errno::EXIST) => {
            std::fs::remove_file(&aside)?;
            rustix::fs::linkat(CWD, link.as_str(), CWD, &aside, AtFlags::SYMLINK_FOLLOW)?;
        }
        other => other?,
    }
    std::fs::rename(&aside, path).inspect_err(|_| {
        // OK to fail: the error at hand is the one worth reporting.
        let _ = std::fs::remove_file(&aside);
    })
}
