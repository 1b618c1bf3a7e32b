//! Unpacks several layers at once, each into a folder of its own aside, and has the disk begin to write meanwhile.
//! Does not know where the layers come from, nor what becomes of them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::records::LayerRecord;
use super::{Progress, disk};
use crate::archive::{Blob, FoundLayer};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::bounds::{Bounds, Meter};
use crate::layer::inventory;
use crate::layer::{self, Unpacked};

/// More would only wait for the disk, and each takes some MiB of memory.
const AT_ONCE_MAX: usize = 4;
/// How much of blobs goes through before the disk is told to begin writing, bytes. With less the file system's journal
/// would have more to do than the disk.
const WRITE_EVERY_BYTES: u64 = 32 << 20;

/// A layer that is to be unpacked.
pub(super) struct Job<'a> {
    /// Its number among all layers that are loaded, for those who watch.
    pub(super) index: usize,
    pub(super) layer: &'a FoundLayer,
}

/// What those who watch hear of a layer.
enum Event {
    Began(usize),
    /// Of which one, and how many bytes.
    Advanced(usize, u64),
    /// All of one is written but for the list of its files.
    Written,
    Done(usize),
}

/// Unpacks layers, each into `folder/layers/HEX`. Of several errors that of the lowest layer is given.
pub(super) fn all(
    jobs: &[Job],
    count: usize,
    folder: &Path,
    bounds: Bounds,
    progress: &mut dyn Progress,
) -> Result<()> {
    // One waits for a registry more than for a processor.
    let is_remote = jobs.iter().any(|job| matches!(job.layer.blob, Blob::Remote(_)));
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let at_once = if is_remote { AT_ONCE_MAX } else { processors.min(AT_ONCE_MAX) }.min(jobs.len());
    let crew = Crew {
        jobs,
        folder,
        meter: Meter::new(bounds),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        failed: Mutex::default(),
    };
    // Opened before anything is written: it is then told of every error in writing.
    let disk = disk::open_folder(folder)?;
    let (events_in, events) = sync_channel(64);
    let (write, wanted) = sync_channel(1);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(move || write_early(&disk, folder, &wanted));
        for _ in 0..at_once {
            let events = events_in.clone();
            scope.spawn(|| crew.work(events));
        }
        drop(events_in);
        tell(jobs, count, &events, &write, progress);
        drop(write);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let failed = crew.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match failed {
        Some((_, error)) => Err(error),
        None => written,
    }
}

/// Tells of what happens, in the caller's thread, until nothing does any more.
fn tell(
    jobs: &[Job],
    count: usize,
    events: &Receiver<Event>,
    write: &SyncSender<()>,
    progress: &mut dyn Progress,
) {
    let mut unwritten = 0;
    for event in events {
        match event {
            Event::Began(at) => {
                let Job { index, layer } = jobs[at];
                progress.layer_began(index, count, &layer.diff_id, Some(layer.blob.len()));
            }
            Event::Advanced(at, bytes) => {
                progress.layer_advanced(&jobs[at].layer.diff_id, bytes);
                unwritten += bytes;
                // Full means that it is writing: it will be told again.
                if unwritten >= WRITE_EVERY_BYTES && write.try_send(()).is_ok() {
                    unwritten = 0;
                }
            }
            // The disk writes while the list is made; after a small layer there is little to write.
            Event::Written => {
                if unwritten >= WRITE_EVERY_BYTES / 4 && write.try_send(()).is_ok() {
                    unwritten = 0;
                }
            }
            Event::Done(at) => progress.layer_done(&jobs[at].layer.diff_id),
        }
    }
}

/// Has all that was written so far brought to disk whenever that is wanted, so that less is left for the end.
fn write_early(disk: &OwnedFd, folder: &Path, wanted: &Receiver<()>) -> Result<()> {
    let mut result = Ok(());
    for () in wanted {
        if result.is_ok() {
            result = rustix::fs::syncfs(disk)
                .map_err(|error| Error::io(format!("bring {} to disk", folder.display()), error));
        }
    }
    result
}

/// The threads that unpack.
struct Crew<'a> {
    jobs: &'a [Job<'a>],
    folder: &'a Path,
    meter: Meter,
    next: AtomicUsize,
    stop: AtomicBool,
    failed: Mutex<Option<(usize, Error)>>,
}

impl Crew<'_> {
    /// Unpacks one layer after the other until there are no more, or one could not be.
    fn work(&self, events: SyncSender<Event>) {
        while !self.stop.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(Job { index, layer }) = self.jobs.get(at) else { return };
            // OK to fail, here and below: who watches stays until all are done.
            let _ = events.send(Event::Began(at));
            let unpacked = unpack(self.folder, *index, layer, &self.meter, &mut |advanced| {
                let _ = events.send(match advanced {
                    Some(bytes) => Event::Advanced(at, bytes),
                    None => Event::Written,
                });
            });
            match unpacked {
                Ok(()) => {
                    let _ = events.send(Event::Done(at));
                }
                Err(error) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(other, _)| at < *other) {
                        *failed = Some((at, error));
                    }
                }
            }
        }
    }
}

/// Where a layer is made.
pub(super) fn folder_of(folder: &Path, diff_id: Digest) -> PathBuf {
    folder.join("layers").join(diff_id.hex())
}

/// `advanced` hears how many bytes more of the blob have gone through, and nothing when all is written but the list of files.
fn unpack(
    work: &Path,
    index: usize,
    layer: &FoundLayer,
    meter: &Meter,
    advanced: &mut dyn FnMut(Option<u64>),
) -> Result<()> {
    let folder = folder_of(work, layer.diff_id);
    // Of its own, since several layers can throw away what has the same name.
    let (root, trash) = (folder.join("root"), work.join("trash").join(index.to_string()));
    for folder in [&folder, &root, &trash] {
        disk::create_folder(folder, 0o755)?;
    }
    let frame = folder.join(LayerRecord::FRAME);
    let frame = File::options().read(true).write(true).create_new(true).open(&frame);
    let frame = frame.map_err(|error| Error::io(format!("write {}", folder.display()), error))?;
    let (into, aside) = (disk::open_folder(&root)?, disk::open_folder(&trash)?);
    let mut unpacked = layer::unpack(layer, into, aside, &frame, meter, &mut |bytes| advanced(Some(bytes)))?;
    advanced(None);
    let aside = disk::open_folder(&trash)?;
    let files = list_files(&root, aside, &mut unpacked, &folder.join(LayerRecord::FILES))?;
    LayerRecord::new(layer.diff_id, unpacked.bytes, unpacked.entries, files, unpacked.frame).write(&folder)
}

/// Writes down what a layer holds, to be compared with later; the digest of that list.
fn list_files(root: &Path, aside: OwnedFd, unpacked: &mut Unpacked, list: &Path) -> Result<Digest> {
    let failed = |error| Error::io(format!("write {}", list.display()), error);
    let file = File::create_new(list).map_err(failed)?;
    inventory::write(
        disk::open_folder(root)?,
        aside,
        &mut unpacked.contents,
        unpacked.attributes_given,
        &file,
    )
    .map_err(failed)
}
