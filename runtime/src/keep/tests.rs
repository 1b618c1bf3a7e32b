use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use super::keeper::Keeper;
use super::*;

/// A keeper in a thread, which starts "supervisors" that are no more than their connections.
struct Keeping {
    folders: ServiceFolders,
    started: Receiver<(OwnedFd, Instant)>,
    thread: JoinHandle<io::Result<()>>,
    _root: tempfile::TempDir,
}

fn keeper() -> (Keeping, Kept) {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name).join("keystone");
    let folders = ServiceFolders { state: at("state"), run: at("run"), log: at("log") };
    fs_err::create_dir_all(&folders.run).expect("folder");
    let listener = wire::listen_at(&folders.keep()).expect("listen");
    let (near, far) = wire::pair().expect("pair");
    let (sender, started) = channel();
    let thread = std::thread::spawn(move || {
        Keeper::new("keystone", listener, far).keep(&mut || {
            let (near, far) = wire::pair()?;
            sender.send((far, Instant::now())).map_err(io::Error::other)?;
            Ok((near, None))
        })
    });
    let kept = Kept::of_keeper(&folders, Some(near)).expect("the keeper");
    (Keeping { folders, started, thread, _root: root }, kept)
}

impl Keeping {
    fn next_supervisor(&self) -> (Kept, Instant) {
        let (link, at) = self.started.recv_timeout(Duration::from_secs(20)).expect("a supervisor");
        (Kept::of_keeper(&self.folders, Some(link)).expect("the keeper"), at)
    }

    fn over(self) {
        self.thread.join().expect("no panic").expect("no error");
        assert!(!is_there(&self.folders));
    }
}

fn file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(text.as_bytes()).expect("write");
    file
}

fn inode(descriptor: OwnedFd) -> u64 {
    std::fs::File::from(descriptor).metadata().expect("metadata").ino()
}

#[test]
fn the_next_supervisor_has_what_the_last_one_kept_and_nothing_that_it_forgot() {
    let (it, mut kept) = keeper();
    let (one, other) = (file("one"), file("other"));
    kept.keep("stdout-7", one.as_fd()).expect("keep");
    kept.keep("stdout-8", one.as_fd()).expect("keep");
    kept.keep("notify-8", one.as_fd()).expect("keep");
    kept.keep("listener", one.as_fd()).expect("keep");
    kept.keep("listener", other.as_fd()).expect("replace");
    kept.keep("cursor-7", other.as_fd()).expect("keep");
    kept.forget("cursor-7");
    kept.forget_generation(8);
    drop(kept);
    let (mut kept, _) = it.next_supervisor();
    assert_eq!(kept.generations(), [7]);
    assert_eq!(inode(kept.take("stdout-7").expect("kept")), one.metadata().expect("metadata").ino());
    assert_eq!(inode(kept.take("listener").expect("kept")), other.metadata().expect("metadata").ino());
    assert!(kept.take("cursor-7").is_none() && kept.take("notify-8").is_none());
    kept.bye();
    it.over();
}

#[test]
fn a_pipe_that_is_kept_takes_what_is_written_meanwhile() {
    let (it, mut kept) = keeper();
    let (near, far) = rustix::pipe::pipe().expect("pipe");
    kept.keep("stdout-1", near.as_fd()).expect("keep");
    drop((near, kept));
    let (mut kept, _) = it.next_supervisor();
    let mut far = std::fs::File::from(far);
    far.write_all(b"a word").expect("a reader is there");
    drop(far);
    let mut text = String::new();
    std::fs::File::from(kept.take("stdout-1").expect("kept")).read_to_string(&mut text).expect("read");
    assert_eq!(text, "a word");
    kept.bye();
    it.over();
}

#[test]
fn those_that_die_soon_are_followed_by_the_next_one_later_and_later() {
    let (it, kept) = keeper();
    let mut last = Instant::now();
    drop(kept);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let (kept, at) = it.next_supervisor();
        waits.push(at - last);
        last = Instant::now();
        drop(kept);
    }
    assert!(waits[0] >= Duration::from_millis(100), "{waits:?}");
    assert!(waits[1] >= Duration::from_millis(200) && waits[2] >= Duration::from_millis(400), "{waits:?}");
    // Whoever has the lock comes by itself in the meantime, and the keeper starts nobody.
    let mut kept = Kept::of_keeper(&it.folders, None).expect("the keeper");
    kept.keep("stdout-1", file("").as_fd()).expect("keep");
    assert!(it.started.recv_timeout(Duration::from_millis(1000)).is_err(), "a second supervisor");
    // Who only looks changes nothing.
    assert!(is_there(&it.folders));
    drop(kept);
    let (mut kept, _) = it.next_supervisor();
    assert!(kept.take("stdout-1").is_some());
    kept.bye();
    it.over();
}

/// Only flags tell those apart that have one inode, as eventfds do.
#[test]
fn what_has_one_inode_differs_in_its_flags_for_systemd_and_files_are_left_alone() {
    let mut kept = Kept::by_systemd(crate::systemd::Store::default(), Vec::new());
    let flags = |descriptor: BorrowedFd<'_>| rustix::fs::fcntl_getfl(descriptor).expect("flags").bits();
    let alike =
        [0; 4].map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd"));
    for (number, descriptor) in alike.iter().enumerate() {
        kept.keep(&format!("pidfd-{number}"), descriptor.as_fd()).expect("keep");
    }
    let different: std::collections::BTreeSet<u32> = alike.iter().map(|alike| flags(alike.as_fd())).collect();
    assert_eq!(different.len(), 4, "{different:?}");
    // What is forgotten leaves its flags to the next one.
    let second = flags(alike[1].as_fd());
    kept.forget("pidfd-1");
    let next = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd");
    kept.keep("pidfd-4", next.as_fd()).expect("keep");
    assert_eq!(flags(next.as_fd()), second);
    let file = file("");
    let before = flags(file.as_fd());
    for name in ["file-1", "file-2"] {
        kept.keep(name, file.as_fd()).expect("keep");
    }
    assert_eq!(flags(file.as_fd()), before);
}

#[test]
fn there_is_a_limit_to_what_is_kept_and_it_is_told() {
    let (it, mut kept) = keeper();
    let one = file("");
    for number in 0..KEPT_MAX {
        kept.keep(&format!("many-{number}"), one.as_fd()).expect("keep");
    }
    assert!(kept.keep("too-many", one.as_fd()).is_err());
    kept.keep("many-3", one.as_fd()).expect("replacing is no more");
    kept.forget("many-3");
    assert!(kept.keep(&"x".repeat(NAME_BYTES_MAX + 1), one.as_fd()).is_err());
    kept.keep(&"x".repeat(NAME_BYTES_MAX), one.as_fd()).expect("just short enough");
    drop(kept);
    let (mut kept, _) = it.next_supervisor();
    assert!(kept.take(&"x".repeat(NAME_BYTES_MAX)).is_some());
    assert_eq!(kept.generations().len(), KEPT_MAX - 1);
    kept.bye();
    it.over();
}
