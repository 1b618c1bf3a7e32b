//! Replaces a file so that a crash at any line leaves the old content or the new, whole.
//! It knows nothing of what the file means.

use std::io::{self, Write};
use std::path::Path;

use fs_err::os::unix::fs::OpenOptionsExt;

use crate::crash_point;

/// Writes `content` aside, syncs it, renames it over `path` and syncs the folder.
///
/// The order is what makes it safe: without the first sync the rename may reach the disk before the content does,
/// without the second the rename itself may be lost (rename(2), fsync(2)).
///
/// # Errors
/// The first step that failed, with its path; `path` is then unchanged.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o666)
}

/// The same with a file that only its owner may read.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o600)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(".new");
    let aside = folder.join(aside);
    crash_point::here();
    let written = (|| {
        let mut file =
            fs_err::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        crash_point::here();
        fs_err::rename(&aside, path)
    })();
    if written.is_err() {
        // The failure that matters is the one above; what cannot be removed is overwritten next time.
        let _ = fs_err::remove_file(&aside);
        return written;
    }
    fs_err::File::open(folder)?.sync_all()
}
