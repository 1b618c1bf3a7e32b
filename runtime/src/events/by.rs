//! Who an event goes back to: a person, systemd, or opsrun itself.
//! It knows nothing of what was asked for.

use std::os::fd::AsFd;

use nix::unistd::{Uid, User};
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};

/// The kernel's word for a process that nobody's login led to (proc_pid_loginuid(5)).
const NO_LOGIN: u32 = u32::MAX;
/// A name that somebody else chose is cut there.
const NAME_CHARS_MAX: usize = 64;

/// By whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "who", rename_all = "kebab-case")]
pub enum By {
    /// Opsrun's own decision, such as a restart; also what it only saw happen.
    Opsrun {},
    /// systemd: at boot, or because somebody asked systemctl(1), who is in the journal.
    Systemd {},
    /// A person, or what runs in a person's name.
    Operator {
        /// The user that the command ran as, as the kernel says it.
        uid: u32,
        /// That user's name, when the host has one.
        user: Option<String>,
        /// The user that had logged in, as the kernel says it; null when nobody had, at boot for example.
        login_uid: Option<u32>,
        /// What sudo(8) says who called it: only a hint, since any process can set its own environment.
        sudo_user: Option<String>,
        /// Its process.
        process: i32,
        /// The program and its first argument. Not the others, which may be secrets: `start -e PASSWORD=…`.
        command: Option<String>,
    },
}

impl By {
    /// Who is at the other end of a socket (unix(7), `SO_PEERCRED`).
    pub(crate) fn peer(socket: impl AsFd) -> Self {
        match socket_peercred(socket) {
            Ok(peer) => Self::process(peer.pid.as_raw_nonzero().get(), peer.uid.as_raw()),
            Err(_) => Self::Opsrun {},
        }
    }

    /// This process.
    pub(crate) fn this_process() -> Self {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        Self::process(process, rustix::process::getuid().as_raw())
    }

    /// A process of a user.
    pub(crate) fn process(process: i32, uid: u32) -> Self {
        let read = |file: &str| std::fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let login = String::from_utf8_lossy(&read("loginuid")).trim().parse().ok();
        Self::Operator {
            uid,
            user: user.map(|user| user.name),
            login_uid: login.filter(|login| *login != NO_LOGIN),
            sudo_user: variable(&read("environ"), "SUDO_USER"),
            process,
            command: command(&read("cmdline")),
        }
    }
}

/// `opsrun restart` of `/usr/local/bin/opsrun\0restart\0keystone\0`.
fn command(line: &[u8]) -> Option<String> {
    let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word));
    let program = words.next().filter(|word| !word.is_empty())?;
    let program = program.rsplit('/').next().unwrap_or_default();
    let first = words.next().unwrap_or_default();
    Some(shortened(format!("{program} {first}").trim_end()))
}

fn variable(environment: &[u8], name: &str) -> Option<String> {
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(shortened(&String::from_utf8_lossy(value)))
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn secrets_of_a_command_line_are_left_out() {
        let line = b"/usr/local/bin/opsrun\0start\0keystone\0-e\0PASSWORD=secret\0";
        assert_eq!(command(line).as_deref(), Some("opsrun start"));
        assert_eq!(command(b"init\0").as_deref(), Some("init"));
        assert_eq!(command(b""), None);
        assert_eq!(variable(b"A=b\0SUDO_USER=alice\0", "SUDO_USER").as_deref(), Some("alice"));
        assert_eq!(variable(b"MY_SUDO_USER=alice\0", "SUDO_USER"), None);
    }

    #[test]
    fn the_peer_of_a_socket_is_known() {
        let (near, _far) = UnixStream::pair().expect("pair");
        assert_eq!(By::peer(&near), By::this_process());
        let By::Operator { process, command, .. } = By::peer(&near) else { panic!("no operator") };
        assert_eq!(process.cast_unsigned(), std::process::id());
        assert!(command.is_some());
    }
}
