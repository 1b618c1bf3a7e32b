//! Prints a service's output, from the beginning or the end, and follows it over restarts and generations.
//! It knows the files only: nothing here talks to a supervisor, so a slow reader holds nobody up.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use super::rotation::files;
use super::{Stream, decode};
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::watch;

/// How much is read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// What to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Only this generation's; all generations', oldest first, when `None`.
    pub generation: Option<u32>,
    /// Go on as the output grows, until nobody reads any more.
    pub follow: bool,
    /// Only this many lines from the end; all when `None`.
    pub last: Option<usize>,
    /// The time before each line.
    pub timestamps: bool,
}

/// Prints the output of a service.
///
/// With [`Options::follow`] it ends when the reader of `out`, or of this process's standard output, is gone, or when
/// the service's logs are removed. A service without logs has no lines, which is no error.
///
/// # Errors
/// [`Error::NoOutput`] when the generation that is asked for has none; [`Error::Io`] when a log cannot be read or `out`
/// cannot be written, except because its reader is gone.
pub fn read(folders: &ServiceFolders, options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "show the service's output", source };
    if let Some(generation) = options.generation {
        let have = generations(&folders.log).map_err(failed)?;
        if !have.contains(&generation) {
            return Err(Error::NoOutput { service: folders.name().to_owned(), generation, have });
        }
    }
    let only = options.generation;
    let mut reader =
        Reader { folder: &folders.log, only, timestamps: options.timestamps, tails: BTreeMap::new(), out };
    match reader.run(options) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

/// Removes the output of every generation below `first`, which are gone.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_before(folders: &ServiceFolders, first: u32) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "remove the output of an old generation", source };
    for name in names(&folders.log).map_err(failed)? {
        if generation(&name).is_some_and(|number| number < first) {
            fs_err::remove_file(folders.log.join(name)).map_err(failed)?;
        }
    }
    Ok(())
}

struct Reader<'a> {
    folder: &'a Path,
    only: Option<u32>,
    timestamps: bool,
    tails: BTreeMap<u32, Tail>,
    out: &'a mut dyn Write,
}

/// How far a generation's output was printed.
#[derive(Debug)]
struct Tail {
    /// The file it is in, which may have got another name since. It is not held open: the folder would then not be gone
    /// for inotify(7) when it is removed.
    inode: u64,
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
            | AddWatchFlags::IN_MOVED_TO
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
        for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_DELETE)) {
            // Should there be another file of this name, what was printed of the old one says nothing about it, even when
            // it has got the same inode.
            self.tails
                .retain(|number, _| event.name.as_deref() != Some(OsStr::new(&format!("{number}.log"))));
        }
        let mut changed: Vec<u32> = Vec::new();
        changed.extend(events.iter().filter_map(|event| event.name.as_deref().and_then(generation)));
        changed.retain(|number| self.only.is_none_or(|only| only == *number));
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

    /// Prints what a generation's output has gained, from one file to the next.
    fn print(&mut self, number: u32) -> io::Result<()> {
        let path = self.folder.join(format!("{number}.log"));
        loop {
            // Newest first. A file that has a newer one gets nothing more, so once both are seen its end is its end.
            let mut files = files(&path)?;
            let Some(oldest) = files.len().checked_sub(1) else { return Ok(()) };
            let tail = self.tails.remove(&number);
            let known =
                tail.as_ref().and_then(|tail| files.iter().position(|(inode, _)| *inode == tail.inode));
            let open = tail.as_ref().and_then(|tail| tail.open);
            // One that is removed was the oldest, so all that there are come after it.
            let at = known.unwrap_or(oldest);
            let (inode, mut file) = files.swap_remove(at);
            let mut tail = tail.filter(|_| known.is_some()).unwrap_or(Tail { inode, offset: 0, open });
            self.print_file(&mut file, &mut tail)?;
            if at == 0 {
                self.tails.insert(number, tail);
                return Ok(());
            }
            self.tails.insert(number, Tail { inode: files[at - 1].0, offset: 0, open: tail.open });
        }
    }

    /// Prints what a file has gained.
    fn print_file(&mut self, file: &mut File, tail: &mut Tail) -> io::Result<()> {
        if file.metadata()?.len() < tail.offset {
            (tail.offset, tail.open) = (0, None);
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

    /// Sets every output to where its share of the last lines of all begins.
    fn skip_to(&mut self, last: usize) -> io::Result<()> {
        let mut wanted = last;
        for number in self.generations()?.into_iter().rev() {
            let path = self.folder.join(format!("{number}.log"));
            for (inode, mut file) in files(&path)? {
                let (offset, found) = last_lines_at(&mut file, wanted)?;
                wanted -= found;
                // At the end of an older file begins what the newer one has from its own beginning on.
                if !self.tails.contains_key(&number) || offset < file.metadata()?.len() {
                    self.tails.insert(number, Tail { inode, offset, open: None });
                }
                if offset > 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The numbers of the generations that are to be printed, ascending.
    fn generations(&self) -> io::Result<Vec<u32>> {
        let mut numbers = generations(self.folder)?;
        numbers.retain(|number| self.only.is_none_or(|only| only == *number));
        Ok(numbers)
    }
}

/// The numbers of the generations that have output, ascending.
fn generations(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = names(folder)?.iter().filter_map(|name| generation(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// The names in a folder; none when there is no folder.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

/// The generation whose output a file of this name is: `7.log`, or one that came before it, `7.log.2`.
fn generation(name: &OsStr) -> Option<u32> {
    let (digits, age) = name.to_str()?.split_once(".log")?;
    let is_number = |digits: &str| digits.parse().ok().filter(|number: &u32| number.to_string() == digits);
    // Not "+1" and not "01", which would be other files.
    if !age.is_empty() {
        is_number(age.strip_prefix('.')?)?;
    }
    is_number(digits)
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

    use super::super::rotation::rotate;
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
        let options = Options { follow: true, last: Some(last), ..Options::default() };
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
    fn older_files_come_before_newer_ones_and_a_line_may_go_over_both() {
        let it = fixture();
        let out = Stream::Stdout;
        it.append(1, &[(out, true, "1"), (out, true, "2"), (out, false, "th")]);
        rotate(&it.folders.output(1), 3).expect("rotate");
        it.append(1, &[(out, false, "re"), (out, true, "e"), (out, true, "4")]);
        rotate(&it.folders.output(1), 3).expect("rotate");
        it.lines(1, &["5"]);
        it.lines(2, &["6"]);
        assert_eq!(it.read(Options::default()), "1\n2\nthree\n4\n5\n6\n");
        for (last, expected) in [(0, ""), (2, "5\n6\n"), (3, "4\n5\n6\n"), (4, "three\n4\n5\n6\n")] {
            assert_eq!(it.last(last), expected, "the last {last}");
        }
        assert_eq!(it.last(5), "2\nthree\n4\n5\n6\n");
        let of = |generation| Options { generation: Some(generation), ..Options::default() };
        assert_eq!(it.read(of(2)), "6\n");
        assert_eq!(it.read(Options { last: Some(1), ..of(1) }), "5\n");
        match read(&it.folders, &of(3), &mut Vec::new()) {
            Err(Error::NoOutput { generation: 3, have, .. }) => assert_eq!(have, [1, 2]),
            other => panic!("{other:?}"),
        }
        remove_before(&it.folders, 2).expect("remove");
        assert_eq!(it.read(Options::default()), "6\n");
    }

    #[test]
    fn following_goes_over_rotations_even_when_it_is_late() {
        let it = fixture();
        it.lines(1, &["old", "seen"]);
        let (reader, printed) = following(&it, 1);
        expect(&printed, "seen\n");
        let mut expected = String::new();
        for number in 0..200 {
            it.lines(1, &[&number.to_string()]);
            expected += &format!("{number}\n");
            if number % 3 == 0 {
                rotate(&it.folders.output(1), 1000).expect("rotate");
            }
        }
        expect(&printed, &expected);
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
