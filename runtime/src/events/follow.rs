//! Follows the events of services, also of those that come later, over the change of files.
//! It knows no supervisor and shows nothing: a slow reader holds nobody up.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::read::{Lines, Tail};
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::watch;

/// While not even the folder of all logs is there, it is looked for this often: nothing has ever been started then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Tells what is kept, by time, then what comes, until nobody reads this process's standard output any more.
///
/// `logs` has a folder for each service; `service` says which of them are followed.
///
/// # Errors
/// [`Error::Io`], and whatever `tell` ends with.
pub fn follow<E: From<Error>>(
    logs: &Path,
    service: &dyn Fn(&OsStr) -> Option<ServiceFolders>,
    tell: &mut dyn FnMut(Lines) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| E::from(Error::Io { doing: "follow events", source });
    let mut follower = Follower::new(logs, service).map_err(failed)?;
    tell(follower.look_around().map_err(failed)?)?;
    loop {
        let at_most = follower.root.is_none().then_some(LOOK_AGAIN);
        if !watch::wait(&follower.inotify, at_most).map_err(failed)? {
            return Ok(());
        }
        let mut lines = follower.turn().map_err(failed)?;
        if lines != Lines::default() {
            lines.sort();
            tell(lines)?;
        }
    }
}

struct Follower<'a> {
    inotify: Inotify,
    logs: &'a Path,
    service: &'a dyn Fn(&OsStr) -> Option<ServiceFolders>,
    root: Option<WatchDescriptor>,
    tails: Vec<(WatchDescriptor, Tail)>,
}

impl<'a> Follower<'a> {
    fn new(logs: &'a Path, service: &'a dyn Fn(&OsStr) -> Option<ServiceFolders>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, logs, service, root: None, tails: Vec::new() })
    }

    /// What is new.
    fn turn(&mut self) -> io::Result<Lines> {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let overflow = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
        let mut lines = Lines::default();
        for (watched, tail) in &mut self.tails {
            if overflow || events.iter().any(|event| event.wd == *watched && is_about_events(event)) {
                lines.append(tail.more()?);
            }
        }
        // A service that was forgotten. Should there be one of this name again, it is another.
        let gone = |wd: WatchDescriptor| {
            events.iter().any(|event| event.wd == wd && event.mask.contains(AddWatchFlags::IN_IGNORED))
        };
        self.tails.retain(|(watched, _)| !gone(*watched));
        if self.root.is_some_and(gone) {
            self.root = None;
        }
        if overflow || self.root.is_none() || events.iter().any(|event| Some(event.wd) == self.root) {
            lines.append(self.look_around()?);
        }
        Ok(lines)
    }

    /// Watches what is there and is not watched yet; what it has.
    fn look_around(&mut self) -> io::Result<Lines> {
        let mut lines = Lines::default();
        // Watched before anything is read, so that nothing falls between the two.
        self.root = watch_folder(&self.inotify, self.logs)?;
        let entries = match fs_err::read_dir(self.logs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let Some(folders) = (self.service)(&entry?.file_name()) else { continue };
            let Some(watched) = watch_folder(&self.inotify, &folders.log)? else { continue };
            // The same folder gives the same descriptor again (inotify_add_watch(2)).
            if self.tails.iter().any(|(known, _)| *known == watched) {
                continue;
            }
            let mut tail = Tail::new(&folders);
            lines.append(tail.first()?);
            self.tails.push((watched, tail));
        }
        lines.sort();
        Ok(lines)
    }
}

/// A folder also has the output of its service, which is none of this.
fn is_about_events(event: &InotifyEvent) -> bool {
    use std::os::unix::ffi::OsStrExt;
    event.mask.contains(AddWatchFlags::IN_IGNORED)
        || event.name.as_ref().is_some_and(|name| name.as_bytes().starts_with(b"events."))
}

/// `None` when there is no such folder.
fn watch_folder(inotify: &Inotify, folder: &Path) -> io::Result<Option<WatchDescriptor>> {
    let what = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ONLYDIR
        | AddWatchFlags::IN_DELETE_SELF;
    match inotify.add_watch(folder, what) {
        Ok(watched) => Ok(Some(watched)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::super::{EventFile, Kind};
    use super::*;

    struct Fixture {
        root: tempfile::TempDir,
    }

    impl Fixture {
        fn folders(&self, name: &str) -> ServiceFolders {
            let at = |kind: &str| self.root.path().join(kind).join(name);
            ServiceFolders { state: at("state"), run: at("run"), log: at("log") }
        }

        fn tell(&self, name: &str, process: i32) {
            let folders = self.folders(name);
            std::fs::create_dir_all(&folders.log).expect("folder");
            EventFile::of(&folders).append(&entry(1_795_426_262_000, Kind::Started { process }));
        }
    }

    fn processes(lines: &Lines) -> Vec<i32> {
        let process = |kind: &Kind| if let Kind::Started { process } = kind { *process } else { 0 };
        lines.lines.iter().map(|line| process(line.kind.as_ref().expect("known"))).collect()
    }

    #[test]
    fn services_are_followed_over_files_that_change_and_folders_that_come_and_go() {
        let it = Fixture { root: tempfile::tempdir().expect("folder") };
        let logs = it.root.path().join("log");
        let wanted = |name: &OsStr| (name != "other").then(|| it.folders(name.to_str().expect("UTF-8")));
        let mut follower = Follower::new(&logs, &wanted).expect("begin");
        assert_eq!(processes(&follower.look_around().expect("look")), [0; 0]);
        assert!(follower.root.is_none());
        it.tell("keystone", 1);
        assert_eq!(processes(&follower.turn().expect("turn")), [1]);
        it.tell("keystone", 2);
        it.tell("other", 3);
        std::fs::write(it.folders("keystone").log.join("1.log"), "output").expect("write");
        assert_eq!(processes(&follower.turn().expect("turn")), [2]);

        let file = it.folders("keystone").events();
        it.tell("keystone", 4);
        std::fs::rename(&file, super::super::file::older(&file)).expect("put aside");
        it.tell("keystone", 5);
        assert_eq!(processes(&follower.turn().expect("turn")), [4, 5]);

        std::fs::remove_dir_all(it.folders("keystone").log).expect("remove");
        it.tell("keystone", 6);
        assert_eq!(processes(&follower.turn().expect("turn")), [6]);
        it.tell("glance", 7);
        assert_eq!(processes(&follower.turn().expect("turn")), [7]);
        assert_eq!(processes(&follower.turn().expect("turn")), [0; 0]);
    }
}
