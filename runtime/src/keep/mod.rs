//! What outlives a supervisor: descriptors by name, kept by systemd for a unit (sd_notify(3), `FDSTORE=1`), and by a
//! keeper process elsewhere. It knows nothing of what they are: an output, a log's cursor, a listener, a pidfd.
//!
//! A name is `WHAT-N`, where N is the generation it belongs to: during a swap there are two. Listeners, which may change
//! hands, have none in theirs (`steering/kept.rs`). What is kept is held by the supervisor too, so that it can be handed to
//! another keeper when the one there was died; whoever is done with something must [`forget`](Kept::forget) it, or it stays
//! open.

mod keeper;
mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

pub use self::keeper::run;
use self::wire::{KEPT_MAX, NAME_BYTES_MAX, word};
use crate::folders::ServiceFolders;
use crate::systemd::Store;

/// A keeper that says nothing for so long is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// After an attempt to start a keeper the next one comes so much later.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// The descriptors that outlive this process.
#[derive(Debug)]
pub(crate) struct Kept {
    place: Place,
    held: Vec<(String, OwnedFd)>,
}

#[derive(Debug)]
enum Place {
    Systemd(Store),
    Keeper {
        link: Option<OwnedFd>,
        folders: ServiceFolders,
        next_try: Instant,
    },
    /// Nothing is to outlive this process any more.
    Nowhere,
}

impl Kept {
    /// What systemd keeps for this unit.
    pub(crate) fn by_systemd(store: Store, held: Vec<(String, OwnedFd)>) -> Self {
        Self { place: Place::Systemd(store), held }
    }

    /// What was handed to a process that keeps nothing.
    pub(crate) fn by_nobody(held: Vec<(String, OwnedFd)>) -> Self {
        Self { place: Place::Nowhere, held }
    }

    /// What a keeper keeps: the one at the other end of `link`, or the one there is, or a new one. To be called by who has
    /// the service's lock.
    ///
    /// # Errors
    /// When there is none and none can be started.
    pub(crate) fn by_keeper(folders: &ServiceFolders, link: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(mut kept) = Self::of_keeper(folders, link) {
            // So that who comes after this process, by the keeper, is no older than it.
            if let Ok(program) = std::fs::File::open("/proc/self/exe") {
                kept.say(word::BECOME, "", Some(program.as_fd()));
            }
            return Ok(kept);
        }
        let mut kept = Self {
            place: Place::Keeper { link: None, folders: folders.clone(), next_try: Instant::now() },
            held: Vec::new(),
        };
        kept.start_keeper().map(|()| kept)
    }

    /// The same of a keeper that there is; `None` when there is none.
    pub(crate) fn of_keeper(folders: &ServiceFolders, link: Option<OwnedFd>) -> Option<Self> {
        let link = match link {
            Some(link) => link,
            None => wire::connect_to(&folders.keep()).ok()?,
        };
        let held = take_over(&link).ok()?;
        let place = Place::Keeper { link: Some(link), folders: folders.clone(), next_try: Instant::now() };
        Some(Self { place, held })
    }

    /// Has a duplicate of a descriptor outlive this process, in place of the one of that name.
    ///
    /// # Errors
    /// When the name is too long, or there are too many already. That a keeper cannot be reached is no error: another one
    /// is started, and gets it.
    pub(crate) fn keep(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let held = self.held.iter().find(|(held, _)| held == name);
        if held.is_some_and(|(_, held)| is_same(held.as_fd(), descriptor)) {
            // To be kept anew it would be closed first: it must not be lost when this process dies in between.
            return Ok(());
        }
        if let (Place::Systemd(store), Some(_)) = (&self.place, held) {
            store.forget(name);
        }
        self.held.retain(|(held, _)| held != name);
        if self.held.len() >= KEPT_MAX || name.len() > NAME_BYTES_MAX {
            let text =
                format!("no room to keep {name}: {KEPT_MAX} descriptors by names of {NAME_BYTES_MAX} bytes");
            return Err(io::Error::other(text));
        }
        self.held.push((name.to_owned(), descriptor.try_clone_to_owned()?));
        match &self.place {
            Place::Systemd(store) => {
                self.tell_apart(name, descriptor);
                store.keep(name, descriptor);
            }
            Place::Keeper { .. } => self.say(word::KEEP, name, Some(descriptor)),
            Place::Nowhere => {}
        }
        Ok(())
    }

    /// Gives a descriptor other flags than those of its inode have that are kept already: where the kernel has no kcmp(2),
    /// systemd takes it for one of them otherwise and drops it, and all pidfds and seccomp listeners have the same inode
    /// (before Linux 6.9). The flags mean nothing to those.
    fn tell_apart(&self, name: &str, descriptor: BorrowedFd<'_>) {
        let Ok(found) = rustix::fs::fstat(descriptor) else { return };
        if FileType::from_raw_mode(found.st_mode) != FileType::Unknown {
            return;
        }
        let others = self.held.iter().filter(|(held, _)| held != name);
        let alike =
            others.filter(|(_, held)| rustix::fs::fstat(held).is_ok_and(|held| held.st_ino == found.st_ino));
        let taken: Vec<OFlags> = alike.filter_map(|(_, held)| fcntl_getfl(held).ok()).collect();
        let Ok(flags) = fcntl_getfl(descriptor) else { return };
        let more = [OFlags::empty(), OFlags::NONBLOCK, OFlags::APPEND, OFlags::NONBLOCK | OFlags::APPEND];
        if let Some(free) = more.into_iter().map(|more| flags | more).find(|flags| !taken.contains(flags)) {
            // OK to ignore: it may be lost with this process then, as it would be without.
            let _ = fcntl_setfl(descriptor, free);
        }
    }

    /// Waits until all that is kept will outlive this process whatever happens.
    ///
    /// # Errors
    /// When systemd does not say so. A keeper hears what is on its way to it, also from who died.
    pub(crate) fn settle(&self) -> io::Result<()> {
        match &self.place {
            Place::Systemd(store) => store.settle(),
            Place::Keeper { .. } | Place::Nowhere => Ok(()),
        }
    }

    /// A duplicate of what is kept under this name.
    pub(crate) fn take(&self, name: &str) -> Option<OwnedFd> {
        let (_, descriptor) = self.held.iter().find(|(held, _)| held == name)?;
        descriptor.try_clone().ok()
    }

    /// Has the descriptor of this name kept no longer.
    pub(crate) fn forget(&mut self, name: &str) {
        if !self.held.iter().any(|(held, _)| held == name) {
            return;
        }
        self.held.retain(|(held, _)| held != name);
        match &self.place {
            Place::Systemd(store) => store.forget(name),
            Place::Keeper { .. } => self.say(word::FORGET, name, None),
            Place::Nowhere => {}
        }
    }

    /// The same of all that belongs to a generation.
    pub(crate) fn forget_generation(&mut self, generation: u32) {
        let names: Vec<String> = self.held.iter().map(|(name, _)| name.clone()).collect();
        for name in names.iter().filter(|name| generation_of(name) == Some(generation)) {
            self.forget(name);
        }
    }

    /// All there is, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.held.iter().map(|(name, descriptor)| (name.as_str(), descriptor.as_fd()))
    }

    /// The generations that something is kept of.
    pub(crate) fn generations(&self) -> Vec<u32> {
        let mut generations: Vec<u32> =
            self.held.iter().filter_map(|(name, _)| generation_of(name)).collect();
        generations.sort_unstable();
        generations.dedup();
        generations
    }

    /// The connection to the keeper: something to read on it is its end.
    pub(crate) fn link(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Keeper { link, .. } => link.as_ref().map(AsFd::as_fd),
            Place::Systemd(_) | Place::Nowhere => None,
        }
    }

    /// The keeper's connection has ended: it died.
    pub(crate) fn lost(&mut self) {
        if let Place::Keeper { link, .. } = &mut self.place {
            *link = None;
        }
    }

    /// When [`Kept::tend`] is to be called.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        match &self.place {
            Place::Keeper { link: None, next_try, .. } => Some(*next_try),
            _ => None,
        }
    }

    /// Starts another keeper in place of one that died, and gives it all there is; why not, when it cannot.
    pub(crate) fn tend(&mut self) -> io::Result<()> {
        if self.wakes_at().is_some_and(|at| Instant::now() >= at) { self.start_keeper() } else { Ok(()) }
    }

    /// The service is down as it should be: nothing is to outlive this process, and nobody to start another one. To be
    /// said before the service's lock is given back.
    pub(crate) fn bye(&mut self) {
        let names: Vec<String> = self.held.drain(..).map(|(name, _)| name).collect();
        match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Systemd(store) => names.iter().for_each(|name| store.forget(name)),
            Place::Keeper { link, folders, .. } => {
                if let Some(link) = link
                    && wire::send(&link, word::BYE, "", None).is_ok()
                {
                    // Its end: until then it listens.
                    let _ = wire::receive(&link);
                }
                let _ = fs_err::remove_file(folders.keep());
            }
            Place::Nowhere => {}
        }
    }

    fn say(&mut self, word: u8, name: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Place::Keeper { link, .. } = &mut self.place else { return };
        if let Some(socket) = link
            && wire::send(socket, word, name, descriptor).is_err()
        {
            *link = None;
        }
    }

    fn start_keeper(&mut self) -> io::Result<()> {
        let Place::Keeper { link, folders, next_try } = &mut self.place else { return Ok(()) };
        *next_try = Instant::now() + TRY_EVERY;
        let listener = wire::listen_at(&folders.keep())?;
        let (near, far) = wire::pair()?;
        limit_waiting(&near)?;
        let mut keeper = Command::new("/proc/self/exe")
            .arg0("opsrun")
            .args(["keep", folders.name()])
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::from(far))
            .stderr(Stdio::null())
            .spawn()?;
        // It ends when it has made the copy that stays.
        let _ = keeper.wait()?;
        for (name, descriptor) in &self.held {
            wire::send(&near, word::KEEP, name, Some(descriptor.as_fd()))?;
        }
        *link = Some(near);
        Ok(())
    }
}

/// Whether a keeper is there, which starts a supervisor when there is none.
pub(crate) fn is_there(folders: &ServiceFolders) -> bool {
    wire::connect_to(&folders.keep()).is_ok()
}

fn take_over(link: &OwnedFd) -> io::Result<Vec<(String, OwnedFd)>> {
    limit_waiting(link)?;
    wire::send(link, word::HAND_OVER, "", None)?;
    let mut held = Vec::new();
    loop {
        let packet = wire::receive(link)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match (packet.word, packet.descriptor) {
            (word::ITEM, Some(descriptor)) => held.push((packet.name, descriptor)),
            (word::LAST, _) => return Ok(held),
            _ => {}
        }
    }
}

fn limit_waiting(link: &OwnedFd) -> io::Result<()> {
    for what in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(link, what, Some(PATIENCE))?;
    }
    Ok(())
}

/// Whether both are the same pipe or file; of anything else it cannot be told.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let of = |descriptor| {
        let found = rustix::fs::fstat(descriptor).ok()?;
        let kind = FileType::from_raw_mode(found.st_mode);
        (kind.is_fifo() || kind.is_file()).then_some((found.st_dev, found.st_ino))
    };
    of(one).is_some_and(|one| of(other) == Some(one))
}

/// The generation in `WHAT-N`.
fn generation_of(name: &str) -> Option<u32> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests;
