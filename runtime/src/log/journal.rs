//! Hands a service's lines to systemd's journal as well, with fields to look for: `journalctl SERVICE=keystone`.
//! It knows neither the files nor where the lines come from.
//!
//! The journal is a copy: a line that it has no room for at once is left out, since the service must never wait.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Stream;

/// The journal's socket (the "Native Journal Protocol" of systemd.io).
const SOCKET: &str = "/run/systemd/journal/socket";
/// `LOG_INFO` (syslog(3)): what a service says is not opsrun's to judge.
const PRIORITY: &str = "6";

/// The journal, for the lines of one generation.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    fields: Vec<u8>,
}

impl Journal {
    /// The journal of this host; `None` when it has none. The fields' values are without line breaks.
    #[must_use]
    pub fn open(service: &str, release: &str, generation: u32) -> Option<Self> {
        Self::at(Path::new(SOCKET), service, release, generation).ok()
    }

    fn at(path: &Path, service: &str, release: &str, generation: u32) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        let fields = format!(
            "SYSLOG_IDENTIFIER={service}\nPRIORITY={PRIORITY}\nSERVICE={service}\nRELEASE={release}\nGENERATION={generation}\n"
        );
        Ok(Self { socket, fields: fields.into_bytes() })
    }

    /// Hands over a line, which has no line break.
    pub(super) fn line(&self, stream: Stream, text: &[u8]) {
        let mut entry = self.fields.clone();
        entry.extend_from_slice(b"STREAM=");
        entry.extend_from_slice(stream.name().as_bytes());
        entry.extend_from_slice(b"\nMESSAGE=");
        entry.extend_from_slice(text);
        entry.push(b'\n');
        // OK to ignore: it is in the file.
        let _ = self.socket.send(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_with_its_fields_and_a_full_journal_makes_nobody_wait() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("socket");
        assert!(Journal::at(&path, "keystone", "zed", 7).is_err());
        let reader = UnixDatagram::bind(&path).expect("bind");
        let journal = Journal::at(&path, "keystone", "zed", 7).expect("journal");
        journal.line(Stream::Stderr, b"it = up");
        let mut buffer = [0; 500];
        let length = reader.recv(&mut buffer).expect("receive");
        assert_eq!(
            String::from_utf8_lossy(&buffer[..length]),
            "SYSLOG_IDENTIFIER=keystone\nPRIORITY=6\nSERVICE=keystone\nRELEASE=zed\nGENERATION=7\n\
             STREAM=stderr\nMESSAGE=it = up\n"
        );
        for _ in 0..10_000 {
            journal.line(Stream::Stdout, b"more than fits");
        }
    }
}
