//! Tests of `writer.rs`, with crashes at every point of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::super::crashes::crash_after;
use super::super::decode;
use super::super::rotation::files;
use super::*;

const ROOMY: Rotation = Rotation { bytes_max: u64::MAX, files_max: 5 };

struct Fixture {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    writer: LogWriter,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("1.log");
    let writer = LogWriter::open(&path, ROOMY).expect("a log");
    Fixture { _folder: folder, path, writer }
}

impl Fixture {
    /// Has this come through a pipe.
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let (read, write_end) = pipe();
        write(&write_end, bytes);
        assert_eq!(self.writer.drain(stream, read.as_fd()).expect("no error"), Drained::Open);
    }

    /// Stream, fullness and text of each record.
    fn records(&self) -> Vec<(Stream, bool, String)> {
        let bytes = std::fs::read(&self.path).expect("the log");
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "half a record at the end");
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let record = decode(line).expect("a record");
                assert_eq!(record.time.len(), 30);
                (record.stream, record.full, String::from_utf8_lossy(record.text).into_owned())
            })
            .collect()
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe")
}

fn write(pipe: &OwnedFd, text: &[u8]) {
    assert_eq!(rustix::io::write(pipe, text), Ok(text.len()));
}

#[test]
fn lines_of_both_streams_become_records() {
    let mut it = fixture();
    let (out_read, out) = pipe();
    let (err_read, err) = pipe();
    write(&out, b"one\ntw");
    write(&err, b"bad\n");
    assert_eq!(it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read"), Drained::Open);
    assert_eq!(it.writer.drain(Stream::Stderr, err_read.as_fd()).expect("read"), Drained::Open);
    // The rest comes through another pipe, as after a supervisor was replaced.
    let (out_read, out) = pipe();
    write(&out, b"o\n\nthree");
    drop(out);
    it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read");
    assert_eq!(it.writer.drain(Stream::Stdout, out_read.as_fd()).expect("read"), Drained::Ended);

    let expected = [
        (Stream::Stdout, "one"),
        (Stream::Stderr, "bad"),
        (Stream::Stdout, "two"),
        (Stream::Stdout, ""),
        (Stream::Stdout, "three"),
    ];
    assert_eq!(it.records(), expected.map(|(stream, text)| (stream, true, text.to_string())));
    assert_eq!(it.writer.last_lines(), ["one", "bad", "two", "", "three"]);
}

#[test]
fn an_overlong_line_comes_in_pieces() {
    let mut it = fixture();
    let line = "x".repeat(2 * PIECE_BYTES + 5);
    for part in line.as_bytes().chunks(5000) {
        it.take(Stream::Stdout, part);
    }
    it.take(Stream::Stdout, b"\nshort\n");
    let lengths: Vec<_> = it.records().into_iter().map(|(_, full, text)| (full, text.len())).collect();
    assert_eq!(lengths, [(false, PIECE_BYTES), (false, PIECE_BYTES), (true, 5), (true, 5)]);
    assert_eq!(it.writer.last_lines().len(), 2);
    assert!(it.writer.begun[0].text.capacity() < 4 * PIECE_BYTES);
}

#[test]
fn an_unfinished_line_is_written_at_the_end() {
    let mut it = fixture();
    it.take(Stream::Stderr, b"Segmentation f");
    assert!(it.records().is_empty());
    it.writer.finish();
    it.writer.finish();
    assert_eq!(it.records(), [(Stream::Stderr, true, "Segmentation f".to_string())]);
}

#[test]
fn only_the_last_lines_are_kept() {
    let mut it = fixture();
    for number in 0..50 {
        it.take(Stream::Stdout, format!("{number}\n").as_bytes());
    }
    let expected: Vec<String> = (30..50).map(|number: i32| number.to_string()).collect();
    assert_eq!(it.writer.last_lines(), expected);
}

#[test]
fn a_busy_output_gives_the_caller_a_turn() {
    let mut it = fixture();
    let zero = File::open("/dev/zero").expect("an output without end");
    assert_eq!(it.writer.drain(Stream::Stdout, zero.as_fd()).expect("read"), Drained::Open);
}

#[test]
fn a_disk_that_fills_up_ends_the_file_with_a_whole_record() {
    // In a mount namespace of this thread's own, so that the small disk is gone when the thread is.
    let test = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("this test needs root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        let folder = tempfile::tempdir().expect("a folder");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=16k"))
            .expect("tmpfs");
        let path = folder.path().join("1.log");
        let mut it = Fixture { writer: LogWriter::open(&path, ROOMY).expect("a log"), path, _folder: folder };

        let line = format!("{}\n", "x".repeat(99));
        let in_all = 200;
        it.take(Stream::Stdout, line.repeat(in_all).as_bytes());
        let written = it.records().len();
        assert!(written > 50 && written < in_all, "{written}");
        assert_eq!(it.writer.dropped, (in_all - written) as u64);

        it.writer.file.set_len(0).expect("room again");
        it.take(Stream::Stdout, b"after\n");
        let texts: Vec<String> = it.records().into_iter().map(|record| record.2).collect();
        assert!(texts[0].starts_with(&format!("opsrun: {} lines", in_all - written)), "{}", texts[0]);
        assert_eq!(texts[1], "after");
        nix::mount::umount2(it._folder.path(), nix::mount::MntFlags::MNT_DETACH).expect("umount");
    });
    test.join().expect("the test");
}

#[test]
fn what_a_full_disk_loses_is_counted_and_told() {
    let mut it = fixture();
    it.take(Stream::Stdout, b"before\n");
    let good =
        std::mem::replace(&mut it.writer.file, File::options().write(true).open("/dev/full").expect("full"));
    let (read, write_end) = pipe();
    write(&write_end, b"lost\nlost too\n");
    assert_eq!(it.writer.drain(Stream::Stdout, read.as_fd()).expect("no error"), Drained::Open);
    it.take(Stream::Stdout, b"lost as well\n");
    it.writer.file = good;
    it.take(Stream::Stdout, b"after\n");

    let texts: Vec<String> = it.records().into_iter().map(|record| record.2).collect();
    assert_eq!(texts.len(), 3);
    assert_eq!([&texts[0], &texts[2]], ["before", "after"]);
    assert!(texts[1].starts_with("opsrun: 3 lines of output were lost: No space left"), "{}", texts[1]);
}

/// A service's two pipes, what it writes to them, and how far it is.
struct Service {
    pipes: [(OwnedFd, OwnedFd); 2],
    text: [Vec<u8>; 2],
    written: [usize; 2],
}

impl Service {
    /// Numbered lines of many lengths, some of them alike, some longer than several records.
    fn new(lines: usize, random: &mut Random) -> Self {
        let mut text = <[Vec<u8>; 2]>::default();
        for number in 0..lines {
            let length = match random.below(40) {
                0 => random.below(5 * PIECE_BYTES),
                1..5 => 0,
                _ => random.below(200),
            };
            let line = format!("{number} {}\n", "x".repeat(length));
            text[random.below(2)].extend(line.bytes());
            text[random.below(2)].extend(b"the same line\n");
        }
        Self { pipes: [pipe(), pipe()], text, written: [0; 2] }
    }

    /// Writes as much as there is room for, in pieces that have nothing to do with lines; whether all is written.
    fn write_on(&mut self, random: &mut Random) -> bool {
        for stream in 0..2 {
            for _ in 0..random.below(30) {
                let rest = &self.text[stream][self.written[stream]..];
                let piece = &rest[..rest.len().min(1 + random.below(9000))];
                match rustix::io::write(&self.pipes[stream].1, piece) {
                    Ok(length) => self.written[stream] += length,
                    Err(error) => assert_eq!(error, Errno::AGAIN),
                }
            }
        }
        (0..2).all(|stream| self.written[stream] == self.text[stream].len())
    }
}

/// The same numbers each time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).expect("64 bits") % end
    }
}

/// What came on each stream, from all files of an output.
fn streams_of(path: &Path) -> [Vec<u8>; 2] {
    let mut streams = <[Vec<u8>; 2]>::default();
    for (_, mut file) in files(path).expect("files").into_iter().rev() {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).expect("read");
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "half a record at the end");
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record =
                decode(line).unwrap_or_else(|| panic!("no record: {:?}", String::from_utf8_lossy(line)));
            let stream = &mut streams[record.stream as usize];
            stream.extend_from_slice(record.text);
            if record.full {
                stream.push(b'\n');
            }
        }
    }
    streams
}

/// Lets a writer take all that a service writes, with a crash now and then; how many there were.
fn write_with_crashes(seed: u64, rotation: Rotation, points_max: usize) -> usize {
    let mut random = Random(seed);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("1.log");
    let mut service = Service::new(600, &mut random);
    let mut writer = LogWriter::open(&path, rotation).expect("a log");
    // As the keeper has them.
    let kept =
        writer.descriptors().map(|(_, descriptor)| descriptor.try_clone_to_owned().expect("duplicate"));
    let mut crashes = 0;
    loop {
        let all = service.write_on(&mut random);
        crash_after((points_max > 0).then(|| u32::try_from(random.below(points_max)).expect("small")));
        let round = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for stream in [Stream::Stdout, Stream::Stderr] {
                writer.drain(stream, service.pipes[stream as usize].0.as_fd()).expect("drain");
            }
            if all {
                service.pipes.iter_mut().for_each(|pipes| pipes.1 = pipe().1);
                for stream in [Stream::Stdout, Stream::Stderr] {
                    writer.drain_rest(stream, service.pipes[stream as usize].0.as_fd()).expect("drain");
                }
                writer.finish();
            }
        }));
        crash_after(None);
        if round.is_ok() && all {
            break;
        }
        if round.is_err() {
            crashes += 1;
            // Killed again while it recovers.
            loop {
                crash_after(Some(u32::try_from(random.below(2 * points_max)).expect("small")));
                let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let [pipe, cursor] =
                        [0, 1].map(|index: usize| kept[index].try_clone().expect("duplicate"));
                    LogWriter::resume(&path, rotation, Staging::of(&pipe, cursor).expect("staging"))
                }));
                crash_after(None);
                match again {
                    Ok(resumed) => {
                        writer = resumed.expect("resumed");
                        break;
                    }
                    Err(_) => crashes += 1,
                }
            }
        }
    }
    let got = streams_of(&path);
    for (got, wanted) in got.iter().zip(&service.text) {
        let at = got.iter().zip(wanted).position(|(a, b)| a != b);
        assert!(got == wanted, "seed {seed}: differs at {at:?}");
    }
    crashes
}

#[test]
fn whenever_the_writer_is_killed_no_byte_is_lost_and_none_comes_twice() {
    let small = Rotation { bytes_max: 100_000, files_max: 10_000 };
    let mut crashes = 0;
    for seed in 1..=160 {
        crashes += write_with_crashes(seed, ROOMY, 30);
        crashes += write_with_crashes(seed * 1000, small, 60);
    }
    assert!(crashes > 1000, "only {crashes}");
}

#[test]
fn a_file_that_is_full_is_followed_by_the_next_and_only_so_many_are_kept() {
    let mut it = fixture();
    it.writer.rotation = Rotation { bytes_max: 1000, files_max: 3 };
    for number in 0..100 {
        it.take(Stream::Stdout, format!("{number}\n").as_bytes());
    }
    let files = files(&it.path).expect("files");
    assert_eq!(files.len(), 3);
    for (_, file) in &files {
        assert!(file.metadata().expect("metadata").len() <= 1000);
    }
    let [all, _] = streams_of(&it.path);
    let all = String::from_utf8(all).expect("text");
    let numbers: Vec<usize> = all.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&99));
}

#[test]
fn a_file_that_somebody_removed_is_made_anew() {
    let mut it = fixture();
    it.take(Stream::Stdout, b"before\n");
    std::fs::remove_file(&it.path).expect("remove");
    it.take(Stream::Stdout, b"after\n");
    assert_eq!(it.records(), [(Stream::Stdout, true, "after".to_string())]);
}

#[test]
fn a_record_without_its_end_is_followed_by_a_whole_one() {
    let it = fixture();
    std::fs::write(&it.path, b"2026-11-23T06:00:00.123456789Z stdout F torn").expect("write");
    let staging = Staging::new().expect("staging");
    let mut it = Fixture { writer: LogWriter::resume(&it.path, ROOMY, staging).expect("a log"), ..it };
    it.take(Stream::Stdout, b"whole\n");
    let texts: Vec<String> = it.records().into_iter().map(|record| record.2).collect();
    assert_eq!(texts, ["torn", "whole"]);
}

/// How fast it is: `cargo test --release -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for line in [100, 1000] {
        let folder = tempfile::tempdir().expect("folder");
        let mut writer = LogWriter::open(&folder.path().join("1.log"), ROOMY).expect("a log");
        let (read, write_end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        rustix::io::ioctl_fionbio(&read, true).expect("non-blocking");
        const BYTES: usize = 400_000_000;
        let service = std::thread::spawn(move || {
            let block = format!("{}\n", "x".repeat(line - 1)).repeat(64 * 1024 / line);
            for _ in 0..BYTES / block.len() {
                File::from(write_end.try_clone().expect("duplicate"))
                    .write_all(block.as_bytes())
                    .expect("write");
            }
        });
        let began = std::time::Instant::now();
        loop {
            let mut fds = [rustix::event::PollFd::new(&read, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).expect("poll");
            if writer.drain(Stream::Stdout, read.as_fd()).expect("drain") == Drained::Ended {
                break;
            }
        }
        service.join().expect("the service");
        let seconds = began.elapsed().as_secs_f64();
        println!("lines of {line}: {:.0} MB/s", BYTES as f64 / 1e6 / seconds);
    }
}
