//! What is said over a supervisor's control socket: one JSON value a line, a command in, answers out.
//! It knows neither what a supervisor does nor who asks.
//!
//! The socket is `RUN/control`. Its path may be longer than the 108 bytes that fit into an address (unix(7)), so both
//! sides name it by way of a descriptor of its folder.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::limits::Limits;
use crate::record::Way;
use crate::swap::{Left, Request, Step};

/// A line is never longer; whoever sends more is cut off.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// What a command wants of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    /// Start the bundle of this generation.
    Start {
        /// Its number.
        generation: u32,
    },
    /// Bring up again what the record says, or wait until it is up.
    Resume,
    /// Go on with what lives; start nothing.
    Adopt,
    /// Stop the service.
    Stop,
    /// Put the bundle of a generation in place of the one that runs.
    Swap(Request),
    /// Change the limits of what runs.
    Update {
        /// All that it has from now on.
        limits: Limits,
        /// Annotations of its bundle that go with them.
        annotations: BTreeMap<String, String>,
    },
    /// Hold a generation's container still until this client says [`Command::Thaw`] or is gone.
    Freeze {
        /// Its number.
        generation: u32,
    },
    /// Let it go on.
    Thaw,
    /// Go on as this program; the service does not notice. There is no answer but the end of the connection.
    Reexec {
        /// Its file.
        program: PathBuf,
    },
}

/// What the supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The service is healthy.
    Healthy {
        /// Its process 1.
        pid: i32,
    },
    /// The service did not become healthy; nothing of it runs.
    StartFailed {
        /// Why.
        failure: Failure,
        /// Its last lines of output.
        output: Vec<String>,
    },
    /// The service is down.
    Stopped,
    /// How far a swap is; more is said later.
    Step(Step),
    /// The swap is done.
    Swapped {
        /// The new generation's process 1.
        pid: i32,
        /// For so long nothing served, milliseconds.
        gap_ms: u64,
        /// Whether those who connected meanwhile have waited; else they were refused.
        #[serde(default)]
        waited: bool,
        /// The way that it went in the end, and why.
        #[serde(default)]
        way: Option<(Way, String)>,
        /// What the old one had left when it was asked to end.
        #[serde(default)]
        left: Left,
    },
    /// The candidate came to nothing, and the old generation serves.
    WentBack {
        /// Why.
        failure: Failure,
        /// The candidate's last lines of output.
        output: Vec<String>,
        /// For so long nothing served, milliseconds.
        gap_ms: u64,
    },
    /// The candidate came to nothing, and the old generation does not serve either; it is tried further.
    NeitherServes {
        /// Why the candidate does not.
        failure: Failure,
        /// The candidate's last lines of output.
        output: Vec<String>,
        /// Why the old one does not.
        back: Failure,
    },
    /// The service was asked to end in the middle of the swap.
    Cancelled,
    /// Its limits are as asked for.
    Updated {
        /// The files whose values are others now.
        changed: Vec<String>,
    },
    /// The container comes to stand still.
    Freezing {
        /// Its cgroup, which says when it does.
        cgroup: PathBuf,
    },
    /// This host cannot hold it still.
    CannotFreeze,
    /// It goes on.
    Thawed,
    /// Another command or supervisor holds the service.
    Busy {
        /// The process that does; 0 when unknown.
        holder: i32,
    },
    /// It is running already.
    AlreadyRunning {
        /// The release that runs.
        release: String,
    },
    /// The supervisor could not do it.
    Refused(Failure),
}

/// Listens on a folder's `control` socket, which only root can connect to.
pub(crate) fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs_err::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = short_path(socket)?;
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to it.
pub(crate) fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short_path(socket)?;
    UnixStream::connect(short)
}

/// The socket's path by way of a descriptor of its folder, which must live as long as the path is used.
pub(crate) fn short_path(socket: &Path) -> io::Result<(fs_err::File, PathBuf)> {
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = fs_err::File::open(socket.parent().ok_or_else(missing)?)?;
    let name = socket.file_name().ok_or_else(missing)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, path))
}

/// One end of a conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) stream: UnixStream,
    unread: Vec<u8>,
}

impl Conversation {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends one value.
    pub(crate) fn say(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// The next value; `None` at the end. On a non-blocking socket [`io::ErrorKind::WouldBlock`] when there is none.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(count) => self.unread.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_a_folder_with_a_long_path_is_reached() {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("x".repeat(150));
        std::fs::create_dir(&folder).expect("folder");
        let socket = folder.join("control");
        let listener = listen(&socket).expect("listen");
        listener.set_nonblocking(false).expect("blocking");
        let mut near = Conversation::new(connect(&socket).expect("connect"));
        let mut far = Conversation::new(listener.accept().expect("accept").0);
        near.say(&Command::Start { generation: 3 }).expect("say");
        near.say(&Command::Stop).expect("say");
        drop(near);
        assert_eq!(far.hear().expect("hear"), Some(Command::Start { generation: 3 }));
        assert_eq!(far.hear().expect("hear"), Some(Command::Stop));
        assert_eq!(far.hear::<Command>().expect("hear"), None);
    }
}
