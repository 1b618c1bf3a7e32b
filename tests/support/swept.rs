//! A sweep: whoever a test names dies before each of its actions, one after the other, and what is right afterwards is
//! looked at each time. It knows nothing of what the actions are.
//!
//! Most of a sweep is waiting, so it goes on at several hosts at once; each takes the next number that is left.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;

use super::{Done, Host, get, image, until};

/// Who dies.
pub const COMMAND: &str = "command";
pub const SUPERVISOR: &str = "supervise";
/// Hosts of one sweep.
const HOSTS: usize = 4;

/// A service in two releases, of which something dies again and again.
pub struct Swept {
    pub host: Host,
    /// `None` for one that listens nowhere.
    port: Option<u16>,
    /// More of its file.
    settings: &'static str,
    /// What the host lacks.
    lacks: &'static str,
    /// Every action of every process that has it counts while this file is there; who dies removes it.
    armed: PathBuf,
    /// The death whose left-overs are looked for when the next generation has been made.
    last: RefCell<String>,
}

/// What is done again and again.
#[derive(Clone, Copy, Default)]
pub struct Sweep<'a> {
    /// Whether the service has no port.
    pub portless: bool,
    /// More of its file, after its first tables.
    pub settings: &'static str,
    /// What its host lacks.
    pub lacks: &'static str,
    /// The release that serves until then.
    pub before: Option<&'a str>,
    /// The shell in the configuration of what comes after it.
    pub next: &'a str,
    /// The command in whose course somebody dies.
    pub arguments: &'a [&'a str],
}

impl Swept {
    pub fn new(sweep: &Sweep<'_>) -> Self {
        let Sweep { portless, settings, lacks, .. } = *sweep;
        let (host, port) = Host::with_busybox();
        host.opsrun(["load", "--tag", "busybox:2", &image("busybox-1.tar").display().to_string()]).succeeds();
        let armed = host.path("armed");
        let port = (!portless).then_some(port);
        let it = Self { host, port, settings, lacks, armed, last: RefCell::default() };
        it.configure("");
        it
    }

    fn opsrun_dying(&self, who: &str, number: u32, arguments: &[&str]) -> Done {
        let mut command = self.host.command();
        command.env("OPSRUN_TEST_CRASH", format!("{who}:{number}:{}", self.armed.display())).args(arguments);
        command.env("OPSRUN_TEST_LACKS", self.lacks);
        super::done(command)
    }

    /// What the next generation does before it serves, and nothing of what one before has left with its data.
    pub fn configure(&self, shell: &str) {
        let _ = std::fs::remove_file(self.host.path("opt/busybox/lib/fell"));
        match self.port {
            Some(port) => self.host.configure_busybox(port, shell),
            None => {
                // A web server is what the image has for what it cannot listen with.
                let shell = format!("listen=nowhere\n{shell}\necho up > /www/up\nexec sleep 100000\n");
                self.host.write("opt/busybox/conf/busybox.conf", &shell);
                let file = "health = { check = \"command\", command = [\"grep\", \"up\", \"/www/up\"], \
                            interval = \"200ms\", timeout = \"5s\", start_timeout = \"30s\" }\n\
                            stop = { grace = \"5s\" }\n";
                self.host.write("etc/opsrun/busybox.toml", file);
            }
        }
        let file = self.host.path("etc/opsrun/busybox.toml");
        let usual = std::fs::read_to_string(&file).expect("the service's file");
        // Few are kept, so that each time some are removed.
        let text = format!("generations = {{ keep = 2 }}\n{usual}{}", self.settings);
        std::fs::write(file, text).expect("the service's file");
    }

    /// Waits until nothing goes on with it any more: it runs, or it is down and nothing of it is left.
    pub fn settle(&self, what: &str) -> Value {
        let mut last = Value::Null;
        until(&format!("{what}: it has come to rest"), || {
            last = self.host.service("busybox");
            let up =
                last["state"] == "running" && last["health"] == "healthy" && !last["supervisor"].is_null();
            let down = last.is_null() || last["state"] == "stopped" && last["supervisor"].is_null();
            let one = self.host.cgroups().len() == usize::from(up);
            (up || down) && one && !self.swaps()
        });
        last
    }

    fn swaps(&self) -> bool {
        let record = self.host.path("var/lib/opsrun/services/busybox/record.json");
        let text = std::fs::read_to_string(record).unwrap_or_else(|_| "{}".to_owned());
        !serde_json::from_str::<Value>(&text).expect("a record that parses")["swap"].is_null()
    }

    /// It answers, as one container, under one of these releases.
    pub fn serves(&self, releases: &[&str], what: &str) {
        let service = self.settle(what);
        assert_eq!(service["state"], "running", "{what}: {service}");
        assert!(releases.iter().any(|release| service["release"] == *release), "{what}: {service}");
        match self.port {
            Some(port) => assert_eq!(get(port, "/").as_deref(), Some("up\n"), "{what}"),
            None => {
                let said = self.host.opsrun(["exec", "busybox", "cat", "/www/up"]);
                assert_eq!(said.succeeds().stdout, "up\n", "{what}");
            }
        }
    }

    /// Ends it: nothing of it is left on the host.
    pub fn ends(&self, what: &str) {
        let _ = self.host.opsrun(["stop", "busybox"]);
        let mut left = Vec::new();
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("nothing runs", || {
                left = self.host.left_over();
                left.is_empty()
            });
        }));
        assert!(gone.is_ok(), "{what}: {left:#?} {}", self.host.opsrun(["events", "-n", "30", "busybox"]));
        *self.last.borrow_mut() = what.to_owned();
    }

    /// What a command that was killed has left, the next one that makes a generation has removed: the folders of
    /// generations are those that one can go back to.
    fn starts(&self, who: &str, number: u32, release: &str) {
        self.configure("");
        self.opsrun_dying(who, number, &["start", &format!("busybox:{release}")]).succeeds();
        let what = self.last.borrow();
        let folder = self.host.path("var/lib/opsrun/services/busybox/generations");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("generations")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let history = self.host.opsrun(["history", "busybox", "--json"]).succeeds().json();
        let known: BTreeSet<String> = history["generations"]
            .as_array()
            .expect("generations")
            .iter()
            .map(|generation| generation["generation"].to_string())
            .collect();
        let strays: Vec<_> = there.difference(&known).collect();
        assert!(strays.is_empty(), "{what}: {strays:?} beside {known:?}");
    }

    /// One death; whether it came to it.
    fn dies(
        &self,
        sweep: &Sweep<'_>,
        (who, number): (&str, u32),
        judge: &(impl Fn(&Self, &Done, &str) + Sync),
    ) -> bool {
        let arguments = sweep.arguments;
        let dies = if who == COMMAND { "it" } else { who };
        let what = format!("{dies} dies before action {number} of {arguments:?}");
        if arguments[0] == "rollback" && self.last.borrow().is_empty() {
            self.starts(COMMAND, 0, "2");
            self.ends("a first generation");
        }
        match sweep.before {
            Some(before) => self.starts(who, number, before),
            None => self.configure(""),
        }
        self.configure(sweep.next);
        std::fs::write(&self.armed, "").expect("armed");
        let done = self.opsrun_dying(who, number, arguments);
        let survived = std::fs::remove_file(&self.armed).is_ok();
        judge(self, &done, &what);
        self.ends(&what);
        !survived
    }
}

/// Says that it is over when a host's thread does not come to its end, so that the others do not go on for nothing.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Sweep<'_> {
    /// Has the command and then the supervisor die before each action of a command; `judge` says what is right at each death.
    pub fn over(&self, judge: impl Fn(&Swept, &Done, &str) + Sync) {
        self.of(&[COMMAND, SUPERVISOR], judge);
    }

    /// The same of these alone.
    pub fn of(&self, all: &[&str], judge: impl Fn(&Swept, &Done, &str) + Sync) {
        let taken: Vec<_> =
            all.iter().map(|who| (*who, AtomicU32::new(0), AtomicU32::new(u32::MAX))).collect();
        let over = AtomicBool::new(false);
        let at_a_host = || {
            let _over = Over(&over);
            let it = Swept::new(self);
            for (who, taken, survived) in &taken {
                loop {
                    let number = taken.fetch_add(1, Ordering::Relaxed) + 1;
                    if number > survived.load(Ordering::Relaxed) || over.load(Ordering::Relaxed) {
                        break;
                    }
                    if !it.dies(self, (who, number), &judge) {
                        survived.fetch_min(number, Ordering::Relaxed);
                    }
                }
            }
            if !over.load(Ordering::Relaxed) {
                it.starts(COMMAND, 0, "1");
                it.ends("at last");
            }
        };
        std::thread::scope(|scope| {
            let hosts: Vec<_> = (0..HOSTS).map(|_| scope.spawn(at_a_host)).collect();
            for host in hosts {
                if let Err(panic) = host.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        for (who, _, survived) in taken {
            let actions = survived.into_inner() - 1;
            assert!(actions > 0, "{who} does nothing that counts in {:?}", self.arguments);
            eprintln!("{:?}: {who} died before each of {actions} actions", self.arguments);
        }
    }
}
