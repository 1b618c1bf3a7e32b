//! Prints a service's output, from the beginning or the end, and follows it over restarts and generations.
//! It knows the files only: nothing here talks to a supervisor, so a slow reader holds nobody up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use super::{Stream, decode};
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::watch;

/// How much is read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// What to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on as the output grows, until nobody reads any more.
    pub follow: bool,
    /// Only this many lines from the end; all when `None`.
    pub last: Option<usize>,
    /// The time before each line.
    pub timestamps: bool,
}

/// Prints the output of all generations of a service, oldest first.
///
/// With [`Options::follow`] it ends when the reader of `out`, or of this process's standard output, is gone, or when
/// the service's logs are removed. A service without logs has no lines, which is no error.
///
/// # Errors
/// [`Error::Io`] when a log cannot be read or `out` cannot be written, except because its reader is gone.
pub fn read(folders: &ServiceFolders, options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let mut reader =
        Reader { folder: &folders.log, timestamps: options.timestamps, tails: BTreeMap::new(), out };
    match reader.run(options) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Error::Io { doing: "show the service's output", source }),
    }
}

struct Reader<'a> {
    folder: &'a Path,
    timestamps: bool,
    tails: BTreeMap<u32, Tail>,
    out: &'a mut dyn Write,
}

/// How far a generation's file was printed.
#[derive(Debug, Default)]
struct Tail {
    /// Bytes; always at the beginning of a record.
    offset: u64,
    /// The stream whose line was printed without its end so far.
    open: Option<Stream>,
}

impl Reader<'_> {
    fn run(&mut self, options: &Options) -> io::Result<()> {
        // Watched before anything is read, so that no line falls between the two.
        let watch = if options.follow { self.watch()? } else { None };
        if let Some(last) = options.last {
            self.skip_to(last)?;
        }
        self.print_all()?;
        let Some(watch) = watch else { return Ok(()) };
        while watch::wait(&watch, None)? {
            match watch.read_events() {
                Ok(events) if self.follow(&events)? => {}
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// `None` when there is nothing to watch.
    fn watch(&self) -> io::Result<Option<Inotify>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DELETE_SELF;
        match inotify.add_watch(self.folder, what) {
            Ok(_) => Ok(Some(inotify)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Prints what the events tell of; `false` when the logs are gone.
    fn follow(&mut self, events: &[InotifyEvent]) -> io::Result<bool> {
        if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)) {
            self.print_all()?;
        }
        let mut changed: Vec<u32> = Vec::new();
        for event in events {
            let Some(number) = event.name.as_deref().and_then(generation) else { continue };
            if event.mask.contains(AddWatchFlags::IN_DELETE) {
                // Should there be another file of this name, what was printed of the old one says nothing about it.
                self.tails.remove(&number);
            }
            changed.push(number);
        }
        changed.sort_unstable();
        changed.dedup();
        for number in changed {
            self.print(number)?;
        }
        self.out.flush()?;
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED;
        Ok(!events.iter().any(|event| event.mask.intersects(gone)))
    }

    fn print_all(&mut self) -> io::Result<()> {
        for number in self.generations()? {
            self.print(number)?;
        }
        self.out.flush()
    }

    /// Prints what a generation's file has gained.
    fn print(&mut self, number: u32) -> io::Result<()> {
        let Some(mut file) = self.open(number)? else { return Ok(()) };
        let tail = self.tails.entry(number).or_default();
        if file.metadata()?.len() < tail.offset {
            *tail = Tail::default();
        }
        file.seek(SeekFrom::Start(tail.offset))?;
        let mut kept = Vec::new();
        let mut text = Vec::new();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let length = file.read(&mut block)?;
            if length == 0 {
                return Ok(());
            }
            kept.extend_from_slice(&block[..length]);
            // What follows the last newline is being written right now; it is read again next time.
            let Some(end) = kept.iter().rposition(|byte| *byte == b'\n') else { continue };
            for line in kept[..end].split(|byte| *byte == b'\n') {
                render(line, self.timestamps, &mut tail.open, &mut text);
            }
            self.out.write_all(&text)?;
            text.clear();
            tail.offset += end as u64 + 1;
            kept.drain(..=end);
        }
    }

    /// Sets every file to where its share of the last lines of all begins.
    fn skip_to(&mut self, last: usize) -> io::Result<()> {
        let mut wanted = last;
        for number in self.generations()?.into_iter().rev() {
            let Some(mut file) = self.open(number)? else { continue };
            let (offset, found) = last_lines_at(&mut file, wanted)?;
            wanted -= found;
            self.tails.insert(number, Tail { offset, open: None });
        }
        Ok(())
    }

    /// The numbers of the generations that have a file, ascending.
    fn generations(&self) -> io::Result<Vec<u32>> {
        let entries = match fs_err::read_dir(self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(generation(&entry?.file_name()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// `None` when the file was removed meanwhile.
    fn open(&self, number: u32) -> io::Result<Option<File>> {
        match fs_err::File::open(self.folder.join(format!("{number}.log"))) {
            Ok(file) => Ok(Some(file.into_file())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The generation whose output a file of this name is.
fn generation(name: &std::ffi::OsStr) -> Option<u32> {
    let digits = name.as_bytes().strip_suffix(b".log")?;
    // Not "+1" and not "01", which would be other files.
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|number: &u32| number.to_string().as_bytes() == digits)
}

/// Appends a record as a person reads it.
fn render(line: &[u8], timestamps: bool, open: &mut Option<Stream>, into: &mut Vec<u8>) {
    let Some(record) = decode(line) else {
        // Better shown as it is than not at all.
        into.extend_from_slice(line);
        into.push(b'\n');
        return;
    };
    if open.is_some_and(|stream| stream != record.stream) {
        into.push(b'\n');
        *open = None;
    }
    if timestamps && open.is_none() {
        into.extend_from_slice(record.time);
        into.push(b' ');
    }
    into.extend_from_slice(record.text);
    if record.full {
        into.push(b'\n');
    }
    *open = (!record.full).then_some(record.stream);
}

/// Where the last `wanted` lines of a file begin, and how many of them it has; read from its end, in blocks.
fn last_lines_at(file: &mut File, wanted: usize) -> io::Result<(u64, usize)> {
    let mut start = file.seek(SeekFrom::End(0))?;
    // What is known from `start` on, up to the first newline that was dealt with.
    let mut kept: Vec<u8> = Vec::new();
    let mut begin = None;
    let mut found = 0;
    while start > 0 {
        let length = BLOCK_BYTES.min(usize::try_from(start).unwrap_or(BLOCK_BYTES));
        start -= length as u64;
        let mut block = vec![0; length];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.append(&mut kept);
        kept = block;
        // Every record but the first in `kept` is whole; the first may begin before it, unless this is the beginning.
        while let Some(end) = kept.iter().rposition(|byte| *byte == b'\n') {
            let head = match kept[..end].iter().rposition(|byte| *byte == b'\n') {
                Some(before) => before + 1,
                None if start == 0 => 0,
                None => break,
            };
            // A line is counted at its last piece, which is the first one met on the way back.
            if decode(&kept[head..end]).is_none_or(|record| record.full) {
                if found == wanted {
                    return Ok((begin.unwrap_or(start + end as u64 + 1), found));
                }
                found += 1;
            }
            begin = Some(start + head as u64);
            kept.truncate(head);
        }
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::{Duration, Instant};

    use super::super::{Record, encode};
    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        folders: ServiceFolders,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let folders = ServiceFolders { state: at("state"), run: at("run"), log: at("log") };
        std::fs::create_dir(&folders.log).expect("the log folder");
        Fixture { folder, folders }
    }

    impl Fixture {
        fn append(&self, number: u32, records: &[(Stream, bool, &str)]) {
            let mut bytes = Vec::new();
            for (stream, full, text) in records {
                let time = b"2026-11-23T06:00:00.123456789Z";
                encode(&mut bytes, &Record { time, stream: *stream, full: *full, text: text.as_bytes() });
            }
            self.append_bytes(number, &bytes);
        }

        fn append_bytes(&self, number: u32, bytes: &[u8]) {
            let mut options = File::options();
            let file = options.append(true).create(true).open(self.folders.output(number));
            file.expect("a log").write_all(bytes).expect("written");
        }

        fn lines(&self, number: u32, texts: &[&str]) {
            let records: Vec<_> = texts.iter().map(|text| (Stream::Stdout, true, *text)).collect();
            self.append(number, &records);
        }

        fn read(&self, options: Options) -> String {
            let mut out = Vec::new();
            read(&self.folders, &options, &mut out).expect("read");
            String::from_utf8(out).expect("text")
        }

        fn last(&self, last: usize) -> String {
            self.read(Options { last: Some(last), ..Options::default() })
        }
    }

    #[test]
    fn generations_are_printed_by_number() {
        let it = fixture();
        it.lines(10, &["ten"]);
        it.lines(9, &["nine", "and a half"]);
        std::fs::write(it.folders.events(), "not this").expect("written");
        assert_eq!(it.read(Options::default()), "nine\nand a half\nten\n");
        let stamped = it.read(Options { timestamps: true, last: Some(1), ..Options::default() });
        assert_eq!(stamped, "2026-11-23T06:00:00.123456789Z ten\n");
    }

    #[test]
    fn the_last_lines_are_counted_over_generations() {
        let it = fixture();
        it.lines(1, &["1", "2"]);
        it.lines(2, &["3"]);
        it.lines(3, &["4", "5"]);
        for (last, expected) in
            [(0, ""), (1, "5\n"), (3, "3\n4\n5\n"), (4, "2\n3\n4\n5\n"), (9, "1\n2\n3\n4\n5\n")]
        {
            assert_eq!(it.last(last), expected, "the last {last}");
        }
    }

    #[test]
    fn the_last_lines_of_a_large_file_are_found_over_blocks() {
        let it = fixture();
        let texts: Vec<String> =
            (0..5000).map(|number| format!("line {number} {}", "x".repeat(number % 97))).collect();
        it.lines(1, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        for last in [1, 700, 4999, 5000] {
            assert_eq!(it.last(last), texts[5000 - last..].join("\n") + "\n", "the last {last}");
        }
    }

    #[test]
    fn pieces_are_put_together_and_counted_as_one_line() {
        let it = fixture();
        let out = Stream::Stdout;
        it.append(1, &[(out, true, "one"), (out, false, "tw"), (out, true, "o"), (out, true, "three")]);
        assert_eq!(it.last(2), "two\nthree\n");
        assert_eq!(it.last(3), "one\ntwo\nthree\n");
        it.append(2, &[(out, false, "long"), (Stream::Stderr, true, "between"), (out, true, " line")]);
        assert_eq!(it.last(2), "long\nbetween\n line\n");
    }

    #[test]
    fn a_record_that_is_being_written_waits_and_a_broken_one_is_shown() {
        let it = fixture();
        it.append_bytes(1, b"lost its head\n");
        it.lines(1, &["whole"]);
        it.append_bytes(1, b"2026-11-23T06:00:00.123456789Z stdo");
        assert_eq!(it.read(Options::default()), "lost its head\nwhole\n");
        assert_eq!(it.last(1), "whole\n");
        assert_eq!(it.last(2), "lost its head\nwhole\n");
    }

    #[test]
    fn nothing_logged_is_nothing_printed() {
        let it = fixture();
        std::fs::remove_dir(&it.folders.log).expect("removed");
        assert_eq!(it.read(Options { follow: true, ..Options::default() }), "");
    }

    /// Hands on what is written to it.
    struct Out(Sender<Vec<u8>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn expect(printed: &Receiver<Vec<u8>>, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut all = String::new();
        while all.len() < expected.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes =
                printed.recv_timeout(left).unwrap_or_else(|_| panic!("only {all:?} instead of {expected:?}"));
            all.push_str(&String::from_utf8(bytes).expect("text"));
        }
        assert_eq!(all, expected);
    }

    fn following(
        it: &Fixture,
        last: usize,
    ) -> (std::thread::JoinHandle<Result<(), Error>>, Receiver<Vec<u8>>) {
        let (sender, printed) = mpsc::channel();
        let folders = it.folders.clone();
        let options = Options { follow: true, last: Some(last), timestamps: false };
        (std::thread::spawn(move || read(&folders, &options, &mut Out(sender))), printed)
    }

    #[test]
    fn following_goes_over_generations_until_the_logs_are_removed() {
        let it = fixture();
        it.lines(1, &["old", "seen"]);
        let (reader, printed) = following(&it, 1);
        expect(&printed, "seen\n");
        it.append_bytes(1, b"2026-11-23T06:00:00.123456789Z stdout F ne");
        it.append_bytes(1, b"w\n");
        expect(&printed, "new\n");
        it.lines(2, &["next generation"]);
        expect(&printed, "next generation\n");
        it.lines(1, &["the one before, again"]);
        expect(&printed, "the one before, again\n");
        std::fs::remove_file(it.folders.output(2)).expect("removed");
        it.lines(2, &["anew"]);
        expect(&printed, "anew\n");
        std::fs::remove_dir_all(it.folder.path()).expect("removed");
        reader.join().expect("the reader").expect("no error");
    }

    #[test]
    fn following_ends_without_error_when_nobody_reads() {
        let it = fixture();
        it.lines(1, &["seen"]);
        let (reader, printed) = following(&it, 1);
        expect(&printed, "seen\n");
        drop(printed);
        it.lines(1, &["unseen"]);
        reader.join().expect("the reader").expect("no error");
    }
}
