//! Appends events to a service's file, which is bounded and never has half a line before a whole one.
//! It knows nothing of what they mean. Only who holds the service's lock may append.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;

use super::{Entry, Kind, VERSION};
use crate::folders::ServiceFolders;

/// A file that would become longer is put aside, and a new one begun.
pub const BYTES_MAX: u64 = 1 << 20;

/// The events of one service.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    bytes_max: u64,
    /// Events that could not be written since the last one that could, and why the last one could not.
    lost: Option<(u64, io::Error)>,
}

impl EventFile {
    /// Nothing is opened or made by that.
    pub(crate) fn of(folders: &ServiceFolders) -> Self {
        Self::at(folders.events(), BYTES_MAX)
    }

    fn at(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, bytes_max, lost: None }
    }

    /// Appends an event. On a full disk it is lost; the next one that can be written is preceded by a word about that.
    pub(crate) fn append(&mut self, entry: &Entry) {
        let mut text = String::new();
        if let Some((count, why)) = &self.lost {
            let causes = vec![format!("{count} events could not be written"), why.to_string()];
            text = line(&Entry { version: VERSION, kind: Kind::Trouble { causes }, ..entry.clone() });
        }
        text.push_str(&line(entry));
        match append(&self.path, text.as_bytes(), self.bytes_max) {
            Ok(()) => self.lost = None,
            Err(why) => self.lost = Some((self.lost.as_ref().map_or(0, |(count, _)| *count) + 1, why)),
        }
    }
}

/// The file that was put aside.
pub(super) fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

fn line(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("OK because an event has only string keys") + "\n"
}

fn append(path: &Path, text: &[u8], bytes_max: u64) -> io::Result<()> {
    let mut file = open(path)?;
    let mut length = mend(&mut file)?;
    if length > 0 && length + text.len() as u64 > bytes_max {
        fs_err::rename(path, older(path))?;
        file = open(path)?;
        length = 0;
    }
    let written = file.write_all(text);
    if written.is_err() {
        // What a full disk has taken of it. Should this fail as well, the next one mends it.
        let _ = file.set_len(length);
    }
    written
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = fs_err::OpenOptions::new();
    Ok(options.read(true).append(true).create(true).mode(0o640).open(path)?.into_file())
}

/// Cuts off half a line at the end, which the machine's end may have left; the length then. One that lacks nothing but
/// its newline gets it.
fn mend(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut last = [0];
    if length == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(length);
    }
    // The file is bounded, and this is rare.
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    let begin = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if serde_json::from_slice::<serde_json::Value>(&text[begin..]).is_ok_and(|value| value.is_object()) {
        file.write_all(b"\n")?;
        return Ok(text.len() as u64 + 1);
    }
    file.set_len(begin as u64)?;
    Ok(begin as u64)
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    fn lines(path: &Path) -> Vec<Entry> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn started(process: i32) -> Entry {
        entry(1_795_426_262_000, Kind::Started { process })
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_one_before_is_gone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.jsonl");
        let mut file = EventFile::at(path.clone(), 3 * line(&started(1)).len() as u64);
        for process in 1..=8 {
            file.append(&started(process));
        }
        assert_eq!(lines(&older(&path)), [started(4), started(5), started(6)]);
        assert_eq!(lines(&path), [started(7), started(8)]);
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 2);
    }

    #[test]
    fn half_a_line_is_mended_by_the_next_one() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.jsonl");
        let mut file = EventFile::at(path.clone(), BYTES_MAX);
        file.append(&started(1));
        let whole = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, whole.clone() + &whole[..whole.len() / 2]).expect("half a line");
        file.append(&started(2));
        assert_eq!(lines(&path), [started(1), started(2)]);
        // Only the newline is missing.
        std::fs::write(&path, whole.trim_end()).expect("write");
        file.append(&started(3));
        assert_eq!(lines(&path), [started(1), started(3)]);
        // Nothing but half a line.
        std::fs::write(&path, &whole[..9]).expect("write");
        file.append(&started(4));
        assert_eq!(lines(&path), [started(4)]);
    }

    #[test]
    fn what_was_lost_is_said_once_there_is_room() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("later").join("events.jsonl");
        let mut file = EventFile::at(path.clone(), BYTES_MAX);
        file.append(&started(1));
        file.append(&started(2));
        std::fs::create_dir(path.parent().expect("folder")).expect("mkdir");
        file.append(&started(3));
        file.append(&started(4));
        let found = lines(&path);
        assert_eq!(found.len(), 3);
        let Kind::Trouble { causes } = &found[0].kind else { panic!("{found:?}") };
        assert_eq!(causes[0], "2 events could not be written");
        assert_eq!(found[1..], [started(3), started(4)]);
    }
}
