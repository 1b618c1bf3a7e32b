//! The files of one generation's output: `7.log` is written to, `7.log.1` came before it, `7.log.2` before that.
//! It knows their names and order, not what is in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::crash_point;

/// How much of a generation's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// A file that would become larger is followed by the next one.
    pub bytes_max: u64,
    /// So many files, the one that is written to among them.
    pub files_max: u32,
}

impl Default for Rotation {
    /// 20 MiB five times, as Docker's `local` log driver has it.
    fn default() -> Self {
        Self { bytes_max: 20 * 1024 * 1024, files_max: 5 }
    }
}

/// The file that came so many before the one at `path`.
pub(super) fn older(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

/// Makes room for a new file at `path`; the oldest ones go.
///
/// Each file moves by one, the oldest first, up to the first name that is free. So when this was cut short, doing it
/// again moves only what has not moved yet.
pub(super) fn rotate(path: &Path, files_max: u32) -> io::Result<()> {
    let last = files_max.saturating_sub(1);
    for age in last + 1.. {
        // There are more when fewer are wanted than before. One may be missing in between, see above.
        let gone = [age, age + 1].map(|age| std::fs::remove_file(older(path, age)).is_ok());
        if gone == [false, false] {
            break;
        }
    }
    if last == 0 {
        return std::fs::remove_file(path);
    }
    let free = (1..last).find(|age| !older(path, *age).exists()).unwrap_or(last);
    for age in (0..free).rev() {
        crash_point();
        std::fs::rename(older(path, age), older(path, age + 1))?;
    }
    crash_point();
    Ok(())
}

/// The files of an output that exist, the newest first, each with its inode.
///
/// They are opened in this order so that a rotation meanwhile shows a file twice, which is noticed, and never hides one.
pub(super) fn files(path: &Path) -> io::Result<Vec<(u64, File)>> {
    let mut files: Vec<(u64, File)> = Vec::new();
    let mut missing = 0;
    for age in 0.. {
        match File::open(older(path, age)) {
            Ok(file) => {
                missing = 0;
                let inode = file.metadata()?.ino();
                if files.iter().all(|(known, _)| *known != inode) {
                    files.push((inode, file));
                }
            }
            // One is missing while a rotation is under way.
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing < 2 => missing += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(path: &Path) -> Vec<String> {
        (0..6).filter_map(|age| std::fs::read_to_string(older(path, age)).ok()).collect()
    }

    #[test]
    fn files_move_by_one_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("7.log");
        for number in 1..=5 {
            std::fs::write(&path, number.to_string()).expect("write");
            rotate(&path, 4).expect("rotate");
        }
        assert_eq!(contents(&path), ["5", "4", "3"]);
        std::fs::write(&path, "6").expect("write");
        rotate(&path, 2).expect("rotate");
        assert_eq!(contents(&path), ["6"]);
        std::fs::write(&path, "7").expect("write");
        rotate(&path, 1).expect("rotate");
        assert_eq!(contents(&path), [""; 0]);
    }

    #[test]
    fn a_rotation_that_was_cut_short_is_finished_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("7.log");
        for (age, text) in ["new", "1", "2", "3"].iter().enumerate() {
            std::fs::write(older(&path, u32::try_from(age).expect("small")), text).expect("write");
        }
        // As after the first two renames of a rotation with room for five.
        std::fs::rename(older(&path, 3), older(&path, 4)).expect("rename");
        std::fs::rename(older(&path, 2), older(&path, 3)).expect("rename");
        rotate(&path, 5).expect("rotate");
        assert_eq!(contents(&path), ["new", "1", "2", "3"]);
        assert!(!path.exists());
        let files = files(&path).expect("files");
        assert_eq!(files.len(), 4);
    }
}
