//! Whether a program could go on as a service's supervisor, tried before it does: a process of it looks at the record, the
//! bundle and what is kept, and says so. It changes nothing, and knows nothing of how the program is executed then.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Supervisor;
use super::adopt::staging;
use crate::container;
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::handover;
use crate::history::History;
use crate::keep::Kept;
use crate::record::Record;

/// The supervisor does nothing else meanwhile. Below the time after which systemd replaces one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// No more is read of what it says.
const SAID_BYTES_MAX: u64 = 4096;
/// So many lines of it are passed on.
const SAID_LINES_MAX: usize = 3;

/// Runs the hidden command `supervise --prove`, for the supervisor that has started this process.
///
/// # Errors
/// Why this program could not go on as that.
pub fn prove(folders: &ServiceFolders) -> Result<String, Error> {
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    let kept = Kept::by_nobody(handover::by(parent.cast_unsigned()).unwrap_or_default());
    let record =
        Record::read(folders)?.ok_or_else(|| Error::NotRunning { service: folders.name().to_owned() })?;
    let spec = container::read_spec(&folders.generation(record.generation))?;
    Definition::of(&spec)?;
    History::of(folders).read()?;
    if let Some(staging) = staging(&kept, record.generation) {
        let failed = |error| Error::Io { doing: "go on with the service's log", source: error };
        staging.is_known().map_err(failed)?;
    }
    Ok(word(folders))
}

/// What it says when it could.
fn word(folders: &ServiceFolders) -> String {
    format!("opsrun could go on with {}", folders.name())
}

impl Supervisor {
    /// Tries whether `program` could take this one's place; why not.
    pub(super) fn try_out(&self, program: &Path) -> Result<(), Failure> {
        let name = program.display();
        let failed =
            |error: io::Error| Failure::new(error.to_string()).within(format!("{name} cannot be tried"));
        let began = Instant::now();
        let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?;
        // Neither the lock nor the keeper's connection: should it hang and this process die, nobody could follow.
        let handed: Vec<_> = self.kept.all().collect();
        let mut command = Command::new(program);
        command.arg0("opsrun").args(["supervise", "--prove", self.folders.name()]);
        command.stdin(Stdio::null());
        command.stdout(far.try_clone().map_err(failed)?).stderr(far);
        command.env(handover::VARIABLE, handover::begin(&handed));
        let child = command.spawn();
        handover::end(&handed);
        // It holds the far ends, and would have them open for ever.
        drop(command);
        let mut child = child.map_err(failed)?;
        let mut said = Vec::new();
        let ended = hear(&File::from(near), began, &mut said).and_then(|()| wait(&mut child, began));
        let _ = child.kill();
        let _ = child.wait();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if ended.as_ref().is_ok_and(|status| status.success())
            && lines.contains(&word(&self.folders).as_str())
        {
            return Ok(());
        }
        let end = match ended {
            Ok(status) if status.success() => "it is no opsrun that can".to_owned(),
            Ok(status) => format!("it ended with {status}"),
            Err(error) => error.to_string(),
        };
        let mut causes = vec![format!("{name} could not go on with the service"), end];
        let last = lines.len().saturating_sub(SAID_LINES_MAX);
        causes.extend(lines[last..].iter().map(|line| line.trim_start_matches("error: ").to_owned()));
        Err(Failure { causes })
    }
}

/// All that is said until the end.
fn hear(near: &File, began: Instant, said: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let left = PATIENCE.checked_sub(began.elapsed()).ok_or_else(too_late)?;
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready = [PollFd::from_borrowed_fd(near.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        if ready[0].revents().is_empty() {
            return Err(too_late());
        }
        let mut piece = [0; 1024];
        let read = (&mut &*near).read(&mut piece)?;
        if read == 0 || said.len() as u64 >= SAID_BYTES_MAX {
            return Ok(());
        }
        said.extend_from_slice(&piece[..read]);
    }
}

/// Its end: what it says has an end when it has, or shortly before.
fn wait(child: &mut Child, began: Instant) -> io::Result<std::process::ExitStatus> {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_child(child),
        rustix::process::PidfdFlags::empty(),
    )?;
    let left = PATIENCE.saturating_sub(began.elapsed());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    rustix::event::poll(&mut ended, Some(&left))?;
    child.try_wait()?.ok_or_else(too_late)
}

fn too_late() -> io::Error {
    io::Error::other(format!("it was not done after {} s", PATIENCE.as_secs()))
}
