//! Reads the events of services, also while they are written, and such as a newer opsrun has written.
//! It knows no supervisor and shows nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{By, Entry, Kind, file, milliseconds};
use crate::error::Error;
use crate::folders::ServiceFolders;

/// How much is read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A line, as far as it is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As it is in the file, without its newline.
    pub text: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The service.
    pub service: String,
    /// The release of the generation.
    pub release: Option<String>,
    /// The generation.
    pub generation: Option<u32>,
    /// The name of its kind.
    pub event: String,
    /// What happened; the details as they are in the file when a newer opsrun has written something unknown.
    pub kind: Result<Kind, Value>,
    /// By whom; `None` when that is not understood.
    pub by: Option<By>,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// In the order of the file.
    pub lines: Vec<Line>,
    /// How many lines are no events at all.
    pub unreadable: usize,
}

impl Line {
    /// Reads a line; `None` when it is no event.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let word = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        let known = Entry::deserialize_value(&value);
        Some(Self {
            text: text.to_owned(),
            at_ms: milliseconds(&word("at")?)?,
            service: word("service")?,
            release: word("release"),
            generation: value.get("generation").and_then(Value::as_u64).and_then(|it| it.try_into().ok()),
            event: word("event")?,
            kind: match known {
                Some(entry) => Ok(entry.kind),
                None => Err(value.get("details").cloned().unwrap_or(Value::Null)),
            },
            by: value.get("by").and_then(|by| serde_json::from_value(by.clone()).ok()),
        })
    }
}

impl Entry {
    fn deserialize_value(value: &Value) -> Option<Self> {
        let entry: Self = serde_json::from_value(value.clone()).ok()?;
        // What a key means in a newer form is not known.
        (entry.version <= super::VERSION).then_some(entry)
    }
}

impl Lines {
    /// Adds what a piece of a file says, which ends with a line's end.
    pub(super) fn add(&mut self, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match std::str::from_utf8(line).ok().and_then(Line::parse) {
                Some(line) => self.lines.push(line),
                None => self.unreadable += 1,
            }
        }
    }

    /// Adds what comes behind.
    pub fn append(&mut self, mut behind: Self) {
        self.lines.append(&mut behind.lines);
        self.unreadable += behind.unreadable;
    }

    /// Orders the lines of several services by their time; those of one service stay in their order within a moment.
    pub fn sort(&mut self) {
        self.lines.sort_by_key(|line| line.at_ms);
    }
}

/// The events of a service that are kept, oldest first. One without a file has none, which is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn read(folders: &ServiceFolders) -> Result<Lines, Error> {
    Tail::new(folders).first().map_err(|source| Error::Io { doing: "read a service's events", source })
}

/// How far a service's events were read.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// The newest file, once there was one.
    file: Option<File>,
    /// Bytes of it; always at the beginning of a line: half a line at the end may be cut off again.
    offset: u64,
}

impl Tail {
    pub(super) fn new(folders: &ServiceFolders) -> Self {
        Self { path: folders.events(), file: None, offset: 0 }
    }

    /// Everything that is kept.
    pub(super) fn first(&mut self) -> io::Result<Lines> {
        let mut lines = Lines::default();
        let newest = open(&self.path)?;
        if let Some(older) = open(&file::older(&self.path))? {
            // The same one when it was put aside just now; it is read below then.
            if !newest.as_ref().is_some_and(|newest| same(newest, &older).unwrap_or(false)) {
                lines.add(&whole_lines(&older, &mut 0)?);
            }
        }
        self.file = newest;
        lines.append(self.more()?);
        Ok(lines)
    }

    /// What has come since.
    pub(super) fn more(&mut self) -> io::Result<Lines> {
        let mut lines = Lines::default();
        loop {
            if let Some(file) = &self.file {
                lines.add(&whole_lines(file, &mut self.offset)?);
            }
            // What was put aside is read to its end, by its descriptor, before the new one is begun.
            let Some(newest) = open(&self.path)? else { return Ok(lines) };
            if self.file.as_ref().is_some_and(|file| same(file, &newest).unwrap_or(false)) {
                return Ok(lines);
            }
            if let Some(file) = self.file.replace(newest) {
                lines.add(&whole_lines(&file, &mut self.offset)?);
            }
            self.offset = 0;
        }
    }
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// `None` when there is no such file.
fn open(path: &Path) -> io::Result<Option<File>> {
    match fs_err::File::open(path) {
        Ok(file) => Ok(Some(file.into_file())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file's lines from an offset on, which moves behind them. What follows the last newline is being written right now, or
/// was when the machine ended.
fn whole_lines(file: &File, offset: &mut u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read_at(&mut block, *offset + text.len() as u64) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&block[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.truncate(end);
    *offset += end as u64;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_is_empty_and_what_is_newer_or_broken_hides_nothing() {
        let root = tempfile::tempdir().expect("folder");
        let at = |name: &str| root.path().join(name).join("keystone");
        let folders = ServiceFolders { state: at("state"), run: at("run"), log: at("log") };
        assert_eq!(read(&folders).expect("read"), Lines::default());
        fs_err::create_dir_all(&folders.log).expect("folder");
        let head = r#""at":"2026-11-23T09:31:02.000Z","service":"keystone","release":"zed","generation":3"#;
        let old =
            format!(r#"{{"version":1,{head},"event":"healthy","details":{{}},"by":{{"who":"opsrun"}}}}"#);
        let newer = format!(
            r#"{{"version":9,{head},"event":"healthy","details":{{"in":"blue"}},"by":{{"who":"moon"}}}}"#
        );
        let unknown = format!(
            r#"{{"version":1,{head},"event":"swapped","details":{{"to":4}},"by":{{"who":"systemd"}}}}"#
        );
        fs_err::write(file::older(&folders.events()), format!("{old}\n")).expect("write");
        let text = format!("{newer}\nno JSON\n{unknown}\n{}", &old[..20]);
        fs_err::write(folders.events(), text).expect("write");

        let found = read(&folders).expect("read");
        assert_eq!(found.unreadable, 1);
        let texts: Vec<&str> = found.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, [&old, &newer, &unknown]);
        assert_eq!(found.lines[0].kind, Ok(Kind::Healthy {}));
        assert_eq!(found.lines[1].kind, Err(serde_json::json!({ "in": "blue" })));
        assert_eq!((found.lines[1].event.as_str(), &found.lines[1].by), ("healthy", &None));
        assert_eq!(found.lines[2].kind, Err(serde_json::json!({ "to": 4 })));
        assert_eq!((found.lines[2].at_ms, found.lines[2].generation), (1_795_426_262_000, Some(3)));
    }
}
