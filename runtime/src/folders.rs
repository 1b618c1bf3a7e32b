//! Where one service keeps what must last, what is gone at a reboot, and its logs.
//! It knows the layout only; nothing here reads or writes.

use std::path::{Path, PathBuf};

/// The folders of one service.
///
/// ```text
/// state/                     /var/lib/opsrun/services/NAME
///   record.json              the record: replaced whole
///   history.jsonl            what became of each generation: a line for each event
///   enabled                  on a host without systemd: started at boot
///   generations/N/           an OCI bundle: config.json, conf/, lower/, upper/, work/, rootfs/
/// run/                       /run/opsrun/NAME, gone at a reboot
///   lock                     held by the supervisor
///   control                  the supervisor's socket
///   next                     the socket of a command that waits for a supervisor to come
///   keep                     the keeper's socket, on a host without systemd
///   host/                    the container's resolv.conf and hosts, following the host's
///   containers/              libcontainer's state
/// log/                       /var/log/opsrun/NAME
///   N.log                    stdout and stderr of generation N
///   events.jsonl, .jsonl.1   what has happened to the service
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFolders {
    /// What must last.
    pub state: PathBuf,
    /// What is gone at a reboot.
    pub run: PathBuf,
    /// Logs.
    pub log: PathBuf,
}

impl ServiceFolders {
    /// The record.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.state.join("record.json")
    }

    /// What became of each generation, also of those whose folder is gone.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state.join("history.jsonl")
    }

    /// The folder that holds every generation.
    #[must_use]
    pub fn generations(&self) -> PathBuf {
        self.state.join("generations")
    }

    /// The bundle of generation `number`.
    #[must_use]
    pub fn generation(&self, number: u32) -> PathBuf {
        self.generations().join(number.to_string())
    }

    /// The file that the supervisor holds locked for as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The supervisor's socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// The socket of a command that waits for the supervisor which systemd starts for it.
    #[must_use]
    pub fn next(&self) -> PathBuf {
        self.run.join("next")
    }

    /// The socket of the keeper, which holds what outlives a supervisor.
    #[must_use]
    pub fn keep(&self) -> PathBuf {
        self.run.join("keep")
    }

    /// Whether it is a service of the host itself, and not of an `OPSRUN_ROOT`: no root can lie in these folders.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        self.state.starts_with("/var/lib/opsrun/services")
    }

    /// Whether a host without systemd starts the service at boot: there or not.
    #[must_use]
    pub fn enabled(&self) -> PathBuf {
        self.state.join("enabled")
    }

    /// The container's copies of the host's `resolv.conf` and `hosts`.
    #[must_use]
    pub fn host_files(&self) -> PathBuf {
        self.run.join("host")
    }

    /// libcontainer's own state.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// The output of generation `number`.
    #[must_use]
    pub fn output(&self, number: u32) -> PathBuf {
        self.log.join(format!("{number}.log"))
    }

    /// What has happened to the service: the newest of its files.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.log.join("events.jsonl")
    }

    /// The service's name: the last part of [`ServiceFolders::state`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.state.file_name().and_then(|name| name.to_str()).unwrap_or("")
    }
}

/// The folder of host files as the bundle's mounts name it.
#[must_use]
pub fn host_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}
