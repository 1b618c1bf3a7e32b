//! A service whose port is steered, in two releases of one small image. It knows nothing of what is tried with it.

use super::{Host, get, until};

/// A service that answers with its release's word, and as badly as its configuration says.
pub struct Steered {
    pub host: Host,
    pub port: u16,
}

impl Steered {
    /// Release 1 runs and answers "one".
    pub fn begin() -> Self {
        let (host, port) = Host::with_busybox();
        let archive = super::image("busybox-1.tar");
        host.opsrun(["load", "--tag", "busybox:2", &archive.display().to_string()]).succeeds();
        let it = Self { host, port };
        it.next_does("echo one > /www/index.html");
        it.host.opsrun(["start", "busybox:1"]).succeeds();
        it
    }

    /// What the next generation does before it serves; the old one has a copy of its own.
    pub fn next_does(&self, shell: &str) {
        let configuration = format!("listen=127.0.0.1:{}\n{shell}\n", self.port);
        self.host.write("opt/busybox/conf/busybox.conf", &configuration);
    }

    pub fn swap(&self, release: &str, more: &[&str]) -> super::Done {
        let mut arguments = vec!["swap", "busybox", release];
        arguments.extend_from_slice(more);
        self.host.opsrun(arguments)
    }

    #[track_caller]
    pub fn serves(&self, word: &str) {
        assert_eq!(get(self.port, "/").as_deref(), Some(format!("{word}\n").as_str()));
        assert_eq!(self.host.service("busybox")["state"], "running");
        assert_eq!(self.host.cgroups().len(), 1, "a container beside the one that serves");
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        let _ = self.host.opsrun(["stop", "busybox"]);
        if !std::thread::panicking() {
            until("nothing is left", || self.host.left_over().is_empty());
        }
    }
}
