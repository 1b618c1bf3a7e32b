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

/// So many names in a row may be free although there are files behind them: one while a rotation is under way, and another where
/// the one before was cut short.
const MISSING_MAX: u32 = 2;

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
/// They are opened in this order so that one rotation meanwhile shows a file twice, which is noticed, and never hides one. By
/// more of them newer files come to names that were looked at already; then it is done again.
pub(super) fn files(path: &Path) -> io::Result<Vec<(u64, File)>> {
    loop {
        let files = files_in_passing(path)?;
        let newest = (0..=MISSING_MAX).find_map(|age| std::fs::metadata(older(path, age)).ok());
        // A number that a file has which is open is no other file's.
        if files.first().map(|(inode, _)| *inode) == newest.map(|file| file.ino()) {
            return Ok(files);
        }
    }
}

/// The same, unless there is more than one rotation meanwhile.
fn files_in_passing(path: &Path) -> io::Result<Vec<(u64, File)>> {
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
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing < MISSING_MAX => missing += 1,
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

    #[test]
    fn files_that_move_meanwhile_keep_their_order_and_none_is_missing() {
        const ROTATIONS: u32 = 2000;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("7.log");
        let put = |number: u32| {
            let staged = folder.path().join("staged");
            std::fs::write(&staged, number.to_string()).expect("write");
            std::fs::rename(&staged, &path).expect("rename");
        };
        put(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 1..=ROTATIONS {
                    rotate(&path, 8).expect("rotate");
                    put(number);
                }
            });
            while !writer.is_finished() {
                let files = files(&path).expect("files");
                let number = |(_, file): &(u64, File)| {
                    std::io::read_to_string(file).expect("read").parse::<u32>().expect("a number")
                };
                let numbers: Vec<u32> = files.iter().map(number).collect();
                assert!(numbers.windows(2).all(|pair| pair[0] == pair[1] + 1), "{numbers:?}");
            }
        });
    }
}
