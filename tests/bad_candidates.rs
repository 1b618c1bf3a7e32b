//! Real servers and new releases of theirs that are no good: under load no client loses a request by them, and none sees
//! them. How many clients ask each server is `OPSRUN_TEST_CLIENTS`.

mod support;

use support::load::{Asking, Load, Seen};
use support::{Done, Host, get, until};

/// How long a candidate gets: enough for a good one on a busy machine where it is to be healthy first, else not long.
const LONG: &str = "30s";
const SHORT: &str = "2s";

/// Shell in a candidate's configuration, the time that it gets, and what is said of it.
const NEVER_HEALTHY: [(&str, &str, &str); 7] = [
    ("exit 7", LONG, "it exited with status 7 before it was healthy"),
    ("exec sleep 1000", SHORT, "it was not healthy after 2.0 s"),
    ("delay=1000", SHORT, "it was not healthy after 2.0 s"),
    ("port=$other", SHORT, "it was not healthy after 2.0 s"),
    ("fails=/", SHORT, "answered 500"),
    ("warm=1000", SHORT, "answered 503"),
    // By then it has been killed.
    ("sleep 3", SHORT, "it was not healthy after 2.0 s"),
];

/// One server of the image, as a service of its own, that answers "old".
struct Server<'a> {
    host: &'a Host,
    name: &'static str,
    port: u16,
    clients: usize,
}

impl<'a> Server<'a> {
    fn begin(host: &'a Host, name: &'static str) -> Self {
        let clients = std::env::var("OPSRUN_TEST_CLIENTS").map_or(8, |text| text.parse().expect("a number"));
        let it = Self { host, name, port: support::free_port(), clients };
        let settings = format!(
            "image = \"servers\"\nports = [{}]\nfolders = {{ conf = \"/etc/servers\" }}\n\
             health = {{ check = \"http\", path = \"/health\", interval = \"100ms\", timeout = \"1s\" }}\n",
            it.port
        );
        host.write(&format!("etc/opsrun/{name}.toml"), &settings);
        host.opsrun(["config", "init", name, "--from", "1"]).succeeds();
        it.next_is("old", "");
        host.opsrun(["start", &format!("{name}:1")]).succeeds();
        it
    }

    fn next_is(&self, word: &str, shell: &str) {
        let Self { name, port, .. } = self;
        let other = support::free_port();
        let text = format!(
            "server={name} address=127.0.0.1 port={port} word={word}\ndelay=0 warm=0 fails= fails_after=0\n\
             other={other}\n{shell}\n"
        );
        self.host.write(&format!("opt/{name}/conf/servers.conf"), &text);
    }

    fn swap(&self, timeout: &str, soak: &str) -> Done {
        self.host.opsrun(["swap", self.name, "2", "--timeout", timeout, "--soak", soak])
    }

    fn went_back(&self, done: &Done, texts: &[&str]) {
        done.fails(3, texts);
        assert!(done.stderr.contains("serves until 2 is proven beside it"), "{done}");
        assert!(!done.stderr.contains("nothing served"), "{done}");
        assert_eq!(get(self.port, "/").as_deref(), Some("old\n"), "{done}");
        let service = self.host.service(self.name);
        assert_eq!((&service["state"], &service["generation"]), (&"running".into(), &1.into()), "{done}");
    }

    fn load(&self, during: impl FnOnce()) -> Seen {
        let load = Load::begin(&Asking::port(self.port, self.clients));
        during();
        load.end()
    }

    fn tries_all(&self) {
        let seen = self.load(|| {
            for (shell, timeout, reason) in NEVER_HEALTHY {
                self.next_is("new", shell);
                self.went_back(&self.swap(timeout, "0s"), &["generation 1 (1) serves", reason]);
            }
        });
        seen.lost_nothing().saw_only(&["old"]);
        let seen = self.load(|| {
            self.next_is("new", "fails=/health fails_after=4");
            self.went_back(
                &self.swap(LONG, "60s"),
                &["its health check failed 3 times in a row", "answered 500"],
            );
        });
        // In its soak it serves, and what clients ask it for it answers.
        seen.lost_nothing().saw_only(&["new", "old"]);
    }
}

#[test]
fn no_client_of_a_real_server_notices_a_new_release_that_is_no_good() {
    let host = Host::new();
    let archive = support::image("servers-1.tar").display().to_string();
    for release in ["servers:1", "servers:2"] {
        host.opsrun(["load", "--tag", release, &archive]).succeeds();
    }
    let servers = ["gunicorn", "uwsgi"].map(|name| Server::begin(&host, name));
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.tries_all());
        }
    });
    assert_eq!(host.cgroups().len(), servers.len(), "a container beside those that serve");
    for server in &servers {
        host.opsrun(["stop", server.name]).succeeds();
    }
    until("nothing is left", || host.left_over().is_empty());
}
