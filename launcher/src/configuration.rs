//! A service's configuration on its way into a generation, and back to where its operator edits it.
//! It knows folders, and that some of what is in them is never copied; which folders these are, others say.

use std::path::{Path, PathBuf};

use bundles::tree;
use runtime::crash_point;

use crate::error::Error;

/// Copies the configuration in `from` for a generation. Of what is `live` there is only the empty place to mount it on, also
/// when it is in `home`, from where it is mounted, and not in `from`.
///
/// # Errors
/// [`Error::Bundles`], [`Error::Io`].
pub(crate) fn copy(from: &Path, to: &Path, live: &[PathBuf], home: &Path) -> Result<(), Error> {
    tree::copy(from, to)?;
    let failed = |error| Error::io("leave the keys out of the generation's configuration", error);
    for entry in live {
        let path = to.join(entry);
        let Ok(metadata) = fs_err::symlink_metadata(&path) else {
            make_place(&path, &home.join(entry)).map_err(failed)?;
            continue;
        };
        if metadata.is_dir() {
            for inside in fs_err::read_dir(&path).map_err(failed)? {
                let inside = inside.map_err(failed)?;
                match inside.file_type().map_err(failed)?.is_dir() {
                    true => fs_err::remove_dir_all(inside.path()).map_err(failed)?,
                    false => fs_err::remove_file(inside.path()).map_err(failed)?,
                }
            }
        } else {
            // Removed first: a link would be written through.
            fs_err::remove_file(&path).map_err(failed)?;
            fs_err::write(&path, "").map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes an empty folder or file, as what is to be mounted there is one; the folder it is in keeps its time.
fn make_place(path: &Path, mounted: &Path) -> std::io::Result<()> {
    let (Ok(mounted), Some(parent)) = (fs_err::metadata(mounted), path.parent()) else { return Ok(()) };
    fs_err::create_dir_all(parent)?;
    let time = fs_err::metadata(parent)?.modified()?;
    if mounted.is_dir() {
        fs_err::create_dir(path)?
    } else {
        fs_err::write(path, "")?
    };
    fs_err::File::open(parent)?.into_parts().0.set_modified(time)
}

/// Makes the folder that the operator edits equal to a generation's copy, file by file; what is `live` is not touched.
///
/// # Errors
/// [`Error::Bundles`], [`Error::Io`]; each file is then as it was, or as in the copy.
pub(crate) fn put_back(copy: &Path, home: &Path, live: &[PathBuf]) -> Result<(), Error> {
    // It is the operator's to remove, and then it is made anew.
    crash_point::here();
    fs_err::create_dir_all(home).map_err(|error| Error::io("put the configuration back", error))?;
    tree::make_equal(copy, home, live)?;
    crash_point::here();
    Ok(())
}
