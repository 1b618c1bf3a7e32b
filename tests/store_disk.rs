//! A load on a disk that is full or broken, at any point: it says so and leaves nothing half-made, and the next one works.
//!
//! `OPSRUN_TEST_EVERY=1` lets every single system call fail that a load makes on the store, in turn, `OPSRUN_TEST_EVERY=write`
//! those of that kind only; otherwise a few of each kind do.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Done, Host, done, image};

const STORE: &str = "var/lib/opsrun/store";

/// What can go wrong: the system calls of one kind, and the error.
const FAULTS: &[(&str, &str)] = &[
    ("open,openat,openat2", "EIO"),
    ("open,openat,openat2", "ENOSPC"),
    ("write,pwrite64,writev", "ENOSPC"),
    ("write,pwrite64,writev", "EIO"),
    ("mkdir,mkdirat", "ENOSPC"),
    ("symlink,symlinkat", "ENOSPC"),
    ("link,linkat", "ENOSPC"),
    ("mknod,mknodat", "ENOSPC"),
    ("chown,fchown,lchown,fchownat", "EIO"),
    ("chmod,fchmod,fchmodat", "EIO"),
    ("utimensat", "EIO"),
    ("setxattr,lsetxattr,fsetxattr", "ENOSPC"),
    ("rename,renameat,renameat2", "ENOSPC"),
    ("rename,renameat,renameat2", "EIO"),
    ("unlink,unlinkat,rmdir", "EIO"),
    ("fsync,fdatasync,syncfs", "EIO"),
    ("fsync,fdatasync,syncfs", "ENOSPC"),
    ("ftruncate,fallocate", "ENOSPC"),
    ("getdents64", "EIO"),
    ("copy_file_range,sendfile", "EIO"),
    ("copy_file_range,sendfile", "ENOSPC"),
];
/// Of kinds that a load makes no use of today; when it does, they belong above.
const UNUSED: &str = "splice,truncate,creat,sync_file_range";

/// So many calls of each kind fail, unless all do.
const OF_EACH: usize = 3;

/// An image of two layers in which there is one of everything that a layer can hold.
fn archive_of_everything(folder: &Path) -> PathBuf {
    let script = r#"
        mkdir one two image
        cd one
        mkdir -m 750 folder folder/deep emptied
        echo content > folder/file
        head -c 70000 /dev/urandom > folder/deep/larger
        truncate -s 1M sparse; echo end >> sparse
        ln folder/file linked; ln -s folder/file symlink
        mkfifo -m 600 fifo; mknod -m 640 device c 1 3
        echo old > replaced; echo old > gone; echo old > emptied/old
        chmod 4755 folder/file; chown 42:43 folder/file
        python3 -c 'import os; os.setxattr("linked", "user.note", b"noted"); os.setxattr("folder", "trusted.note", b"noted")'
        cd ../two
        mkdir emptied; touch .wh.gone emptied/.wh..wh..opq; echo new > emptied/new; echo new > replaced
        cd ..
        for layer in one two; do
            tar --format=posix --sparse --xattrs --xattrs-include='*' -cf image/$layer.tar -C $layer .
        done
        tar --format=posix -rf image/one.tar -C one ./replaced ./folder/file
        digest() { sha256sum < image/$1 | cut -d ' ' -f 1; }
        echo '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:'$(digest one.tar)'","sha256:'$(digest two.tar)'"]}}' > image/config.json
        echo '[{"Config":"config.json","RepoTags":["everything:1"],"Layers":["one.tar.gz","two.tar"]}]' > image/manifest.json
        gzip image/one.tar
        tar -cf everything.tar -C image manifest.json config.json one.tar.gz two.tar
    "#;
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(folder);
    done(command).succeeds();
    folder.join("everything.tar")
}

/// All that is in the store, but for the locks, which everybody writes to.
fn tree(host: &Host) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![host.path(STORE)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("entry").path();
            if path.parent() == Some(&host.path(STORE))
                && ["lock", "readers"].map(Some).contains(&path.file_name().and_then(|name| name.to_str()))
            {
                continue;
            }
            let seen = path.symlink_metadata().expect("look at it");
            let content = if seen.is_file() { std::fs::read(&path).expect("read it") } else { Vec::new() };
            if seen.is_dir() {
                folders.push(path.clone());
            }
            let length = if seen.is_dir() { 0 } else { seen.len() };
            found.insert(path, (seen.mode(), length, content));
        }
    }
    found
}

fn fsck_is_clean(host: &Host) {
    let done = host.opsrun(["fsck"]);
    done.succeeds();
    assert_eq!(done.stdout, "", "{done}");
}

fn is_loaded(host: &Host) -> bool {
    !host.opsrun(["images", "-q"]).succeeds().stdout.is_empty()
}

/// Whatever has happened, the next load works and leaves nothing beside.
fn can_be_loaded(host: &Host, archive: &Path) {
    fsck_is_clean(host);
    host.opsrun(["load".as_ref(), archive.as_os_str()]).succeeds();
    fsck_is_clean(host);
    assert!(is_loaded(host));
    let left = std::fs::read_dir(host.path(STORE).join("tmp")).expect("list").count();
    assert_eq!(left, 0, "something is left in tmp");
}

/// A load under strace; what was traced.
fn traced(host: &Host, archive: &Path, calls: &str, inject: Option<String>) -> (Done, String) {
    let trace = host.path("trace");
    // On one processor one thread unpacks: strace counts the calls of each, and they are the same ones each time.
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0", "strace", "-f", "-y", "-s", "4096", "-o"])
        .arg(&trace)
        .args(["-e", &format!("trace={calls}")]);
    command.args(inject.iter().flat_map(|what| ["-e", what.as_str()]));
    command.arg(support::program()).arg("load").arg(archive).env("OPSRUN_ROOT", host.root.path());
    let done = done(command);
    (done, std::fs::read_to_string(&trace).expect("the trace"))
}

/// Whether a line of a trace is about the store, and not about the program's libraries or its standard error.
fn is_on_store(host: &Host, line: &str) -> bool {
    line.contains(&host.path(STORE).display().to_string()) || line.contains("/proc/self/fd/")
}

/// The numbers, as strace counts them for each thread, of calls on the store.
fn numbers(host: &Host, trace: &str, error: &str) -> BTreeSet<usize> {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        // The rest of a call that another thread's came into, signals, and ends of threads.
        let is_call = call.trim_start().starts_with(|first: char| first.is_ascii_lowercase());
        if !is_call {
            continue;
        }
        let number = counted.entry(thread).or_default();
        *number += 1;
        // Where nothing is made, a full disk is no reason.
        let fits = !(call.contains("open") && error == "ENOSPC")
            || call.contains("O_CREAT")
            || call.contains("O_TMPFILE");
        if fits && is_on_store(host, call) {
            numbers.insert(*number);
        }
    }
    numbers
}

#[test]
fn whatever_call_on_the_store_fails_a_load_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = archive_of_everything(folder.path());
    let wanted = std::env::var("OPSRUN_TEST_EVERY").ok();
    let every = wanted.is_some();
    let only = wanted.filter(|wanted| wanted != "1");
    let (mut moments, mut failed, mut whole) = (0, 0, 0);
    for (calls, error) in FAULTS {
        if only.as_ref().is_some_and(|only| !calls.contains(only)) {
            continue;
        }
        let host = Host::new();
        // One with the store there, and one without.
        let (sound, trace) = traced(&host, &archive, calls, None);
        sound.succeeds();
        let mut numbers: Vec<usize> = numbers(&host, &trace, error).into_iter().collect();
        assert!(!numbers.is_empty(), "{calls} is never called on the store");
        if !every && numbers.len() > OF_EACH {
            let last = numbers.len() - 1;
            numbers = (0..OF_EACH).map(|step| numbers[last * step / (OF_EACH - 1)]).collect();
        }
        let (mut of_kind, mut said) = (0, BTreeSet::new());
        for when in &numbers {
            let host = Host::new();
            let before = tree(&host);
            let inject = format!("inject={calls}:error={error}:when={when}");
            let (done, trace) = traced(&host, &archive, calls, Some(inject.clone()));
            let hits: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
            if hits.is_empty() {
                // There was one call less this time.
                continue;
            }
            moments += 1;
            if done.status == 0 {
                // What need not succeed, like hints to the disk.
                assert!(is_loaded(&host), "{inject}: {done}");
            } else if hits.iter().any(|hit| is_on_store(&host, hit)) {
                failed += 1;
                of_kind += 1;
                // By its number: the words are the C library's own.
                let says = if *error == "ENOSPC" { "the disk is full" } else { "(os error 5)" };
                // Where even the message about it cannot be written, nobody can be told.
                let is_told = !hits.iter().any(|hit| hit.contains("write(2<"));
                done.fails(1, &[]);
                if is_told {
                    done.fails(1, &["error: ", says]);
                    assert!(
                        ["could not ", "cannot "].iter().any(|what| done.stderr.contains(what)),
                        "{done}"
                    );
                }
                let first = done.stderr.lines().next().unwrap_or_default();
                said.insert(first.replace(&host.root.path().display().to_string(), ""));
                let after = tree(&host);
                // After the names are in their place, only bringing them to disk can fail.
                if is_loaded(&host) {
                    whole += 1;
                    assert!(calls.contains("sync"), "{inject} left the image: {done}");
                } else {
                    // A store without any image may be there or not. Each thread counts by itself: when two are hit, the
                    // other one's can have been the removal of what was made aside.
                    let aside = host.path(STORE).join("tmp");
                    let is_excused = |path: &Path| hits.len() > 1 && path.starts_with(&aside);
                    let made: Vec<_> = after
                        .iter()
                        .filter(|(path, _)| !is_excused(path))
                        .filter(|(path, _)| !before.contains_key(*path))
                        .filter(|(path, (mode, ..))| {
                            mode & 0o170_000 != 0o040_000 && !path.ends_with("version")
                                || path.components().any(|part| part.as_os_str().len() == 64)
                                || path.parent().is_some_and(|parent| parent.ends_with("tmp"))
                        })
                        .map(|(path, _)| path)
                        .collect();
                    assert!(made.is_empty(), "{inject} left {made:?}: {done}");
                }
            }
            can_be_loaded(&host, &archive);
        }
        println!("{calls} {error}: {} moments, {of_kind} failed", numbers.len());
        if every {
            said.iter().for_each(|line| println!("    {line}"));
        }
        // All that a load removes is aside: whoever changes the store next can do that, too.
        assert!(of_kind > 0 || calls.contains("unlink"), "{calls} {error}: no failure was ever told");
    }
    println!("{moments} moments; {failed} failed, {whole} of them with the image in its place");

    let host = Host::new();
    let (_, trace) = traced(&host, &archive, UNUSED, None);
    assert!(!trace.lines().any(|line| is_on_store(&host, line)), "these can fail as well:\n{trace}");
}

/// Runs the test that calls this once more, in a mount namespace of its own; false in there.
fn in_own_namespace() -> bool {
    if std::env::var_os("OPSRUN_TEST_OWN_MOUNTS").is_some() {
        return false;
    }
    let test = std::thread::current().name().expect("the test's name").to_owned();
    let mut again = Command::new("unshare");
    again.args(["--mount", "sh", "-c", "mount --make-rprivate / && exec \"$@\"", "sh"]);
    again.arg(std::env::current_exe().expect("this program")).args(["--exact", &test, "--nocapture"]);
    again.env("OPSRUN_TEST_OWN_MOUNTS", "1");
    let done = done(again);
    done.succeeds();
    print!("{}", done.stdout);
    assert!(done.stdout.contains("were too small"), "{done}");
    true
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    done(command).succeeds();
}

/// A load where there is too little room; whether it failed. `make_room` makes enough of it.
fn is_too_small(host: &Host, archive: &Path, make_room: impl FnOnce()) -> bool {
    let loaded = host.opsrun(["load".as_ref(), archive.as_os_str()]);
    let failed = loaded.status != 0;
    if failed {
        loaded.fails(1, &["the disk is full", "hint: "]);
    }
    make_room();
    if failed {
        assert!(!is_loaded(host));
    }
    can_be_loaded(host, archive);
    failed
}

#[test]
fn a_load_on_a_disk_that_is_too_small_fails_and_works_once_there_is_room() {
    if in_own_namespace() {
        return;
    }
    let archive = image("checked-1.tar");
    let sizes = (0..24).map(|step| format!("size={}k", 64 + step * 128));
    let inodes = (0..8).map(|step| format!("nr_inodes={}", 4 + step * 5));
    let mut too_small = 0;
    for limit in sizes.chain(inodes) {
        let host = Host::new();
        let root = host.root.path().to_str().expect("path");
        let mount = |options: &str| run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", root]);
        mount(&limit);
        let make_room = || mount("remount,size=64m,nr_inodes=10000");
        too_small += usize::from(is_too_small(&host, &archive, make_room));
        run("umount", &[root]);
    }
    println!("{too_small} sizes were too small");
    assert!(too_small >= 8, "only {too_small} were");
}

#[test]
fn a_load_on_an_ext4_that_is_full_fails_and_works_once_there_is_room() {
    if in_own_namespace() {
        return;
    }
    let archive = image("checked-1.tar");
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk").display().to_string();
    let (mut tried, mut too_small) = (0, 0);
    // What is left free: bytes in KiB, and inodes.
    let free = [8, 64, 200, 600, 1000, 1600, 6000].map(|kib| (kib, 1000));
    for (kib, inodes) in free.into_iter().chain([(6000, 4), (6000, 20), (6000, 40)]) {
        let host = Host::new();
        let root = host.root.path().to_str().expect("path");
        let _ = std::fs::remove_file(&disk);
        run("truncate", &["-s", "16M", &disk]);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", "-N", "2000", &disk]);
        run("mount", &["-o", "loop", &disk, root]);
        let taken = host.path("taken");
        std::fs::create_dir(&taken).expect("a folder");
        // First all of it, then so much is given back.
        let script =
            format!("cat /dev/zero > filler 2> /dev/null || :; truncate -s -{kib}K filler; sync -f filler");
        let mut fill = Command::new("sh");
        fill.args(["-euc", &script]).current_dir(&taken);
        done(fill).succeeds();
        if inodes < 1000 {
            let free = rustix::fs::statvfs(root).expect("how many").f_favail;
            for number in 0..free.saturating_sub(inodes) {
                std::fs::write(taken.join(number.to_string()), "").expect("take one");
            }
        }
        let make_room = || std::fs::remove_dir_all(&taken).expect("make room");
        tried += 1;
        too_small += usize::from(is_too_small(&host, &archive, make_room));
        run("umount", &[root]);
    }
    println!("{too_small} of {tried} were too small");
    assert!((6..tried).contains(&too_small), "{too_small} of {tried} were too small");
}
