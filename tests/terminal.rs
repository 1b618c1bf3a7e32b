//! A real terminal on both sides: a shell in a service, typed at by tmux.

mod support;

use std::process::Command;

use support::{Host, done, program, until};

/// A tmux server of its own with one window.
struct Screen {
    socket: String,
}

impl Screen {
    fn new(host: &Host) -> Self {
        let screen = Self { socket: host.path("tmux").display().to_string() };
        let size = ["new-session", "-d", "-x", "80", "-y", "24", "env", "PS1=person> ", "sh"];
        screen.tmux(&size);
        screen.until_prompt();
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-S", &self.socket]).args(arguments).env("LC_ALL", "C.UTF-8");
        done(command).succeeds().stdout.clone()
    }

    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Until the person's own shell reads again: what is typed before, whoever reads then takes with them.
    fn until_prompt(&self) {
        until("the person's shell reads", || self.shown().trim_end().ends_with("person>"));
    }

    #[track_caller]
    fn until(&self, text: &str) {
        let mut shown = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(text, || {
                shown = self.shown();
                shown.contains(text)
            });
        }));
        assert!(seen.is_ok(), "«{text}» does not appear on the screen:\n{shown}");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket, "kill-server"]);
        let _ = command.output();
    }
}

fn opsrun(host: &Host) -> String {
    format!("OPSRUN_ROOT={} {}", host.root.path().display(), program().display())
}

/// The terminal's settings are those that were written to the file `before`, but for its size.
fn is_as_before(screen: &Screen, host: &Host) {
    screen.type_line(&format!("stty -a > {}/after; echo written", host.root.path().display()));
    screen.until("\nwritten");
    let settings = |name| {
        let text = std::fs::read_to_string(host.path(name)).expect("what stty wrote");
        // The first line has the size, which has changed.
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(settings("before"), settings("after"));
}

#[test]
fn a_shell_in_a_service_has_the_persons_terminal_and_gives_it_back() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let screen = Screen::new(&host);
    screen.type_line(&format!("stty -a > {}/before", host.root.path().display()));
    screen.type_line(&format!("{} exec -it -e PS1='inside> ' busybox sh", opsrun(&host)));
    screen.until("inside> ");

    screen.type_line("echo size $(stty size), $(tty)");
    screen.until("size 24 80, /dev/pts/");
    screen.tmux(&["resize-window", "-x", "101", "-y", "33"]);
    screen.type_line("until stty size | grep '33 101'; do :; done; echo resized");
    screen.until("\nresized");

    // Ctrl-C ends the command in the container, and neither the shell there nor opsrun here.
    screen.type_line("echo waiting; sleep 1000");
    screen.until("\nwaiting");
    screen.tmux(&["send-keys", "C-c"]);
    screen.type_line("echo it was $?");
    screen.until("it was 130");

    screen.type_line("exit 7");
    screen.until_prompt();
    screen.type_line("echo outside, status $?");
    screen.until("outside, status 7");
    is_as_before(&screen, &host);
}

#[test]
fn the_terminal_is_given_back_when_the_service_is_stopped_or_opsrun_ended() {
    let (host, _) = Host::with_busybox();
    let screen = Screen::new(&host);
    for (round, end) in ["stop", "signal"].iter().enumerate() {
        host.opsrun(["start", "busybox:1"]).succeeds();
        screen.type_line(&format!(
            "{} exec -it -e PS1='inside{round}> ' busybox sh; echo over $(({round} + 40))",
            opsrun(&host)
        ));
        screen.until(&format!("\ninside{round}> "));
        if *end == "signal" {
            let mut find = Command::new("pkill");
            find.args(["-TERM", "-f", &format!("exec -it -e PS1=inside{round}>  busybox sh")]);
            done(find).succeeds();
        } else {
            host.opsrun(["stop", "busybox"]).succeeds();
        }
        screen.until(&format!("over {}\n", round + 40));
        screen.type_line(&format!("stty -a | grep -o ' echo ' | sed 's/^/tty{round} has/'"));
        screen.until(&format!("\ntty{round} has echo"));
        let _ = host.opsrun(["stop", "busybox"]);
    }
}

#[test]
fn live_figures_fit_the_screen_and_every_way_out_gives_it_back() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    let screen = Screen::new(&host);
    // Whether there is a screen of its own, and a cursor.
    let is = |state: &str| {
        until(&format!("the screen is {state}"), || {
            screen.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim_end() == state
        });
    };
    screen.type_line(&format!("stty -a > {}/before", host.root.path().display()));
    let pid = host.path("pid");
    let stats = |round: usize| {
        let line = format!("sh -c 'echo $$ > {}; exec {} stats'", pid.display(), program().display());
        let root = host.root.path().display();
        screen.type_line(&format!("OPSRUN_ROOT={root} {line}; echo round {round} over $?"));
        screen.until("busybox ");
        screen.until("\nq ends");
        is("1 0");
    };

    stats(1);
    screen.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    until("all of it fits", || {
        let shown = screen.tmux(&["capture-pane", "-p"]);
        let lines: Vec<&str> = shown.lines().collect();
        lines.first().is_some_and(|line| line.starts_with("SERVICE")) && lines.get(2) == Some(&"q ends")
    });
    screen.tmux(&["resize-window", "-x", "120", "-y", "30"]);
    screen.until("PRESSURE CPU/MEM/IO");
    screen.tmux(&["send-keys", "x", "q"]);
    screen.until("round 1 over 0");
    is("0 1");

    stats(2);
    screen.tmux(&["send-keys", "C-c"]);
    is("0 1");
    // The shell takes Ctrl-C for the whole line.
    screen.type_line("echo round 2 ended with $?");
    screen.until("round 2 ended with 130");

    stats(3);
    let process = std::fs::read_to_string(&pid).expect("its number").trim().parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGTERM)
        .expect("kill");
    screen.until("round 3 over 143");
    is("0 1");

    // Stopped, and taken up again.
    screen.type_line(&format!("{} stats", opsrun(&host)));
    screen.until("\nq ends");
    screen.tmux(&["send-keys", "C-z"]);
    screen.until("Stopped");
    is("0 1");
    screen.type_line("fg");
    screen.until("\nq ends");
    is("1 0");
    screen.tmux(&["send-keys", "q"]);
    is("0 1");
    is_as_before(&screen, &host);
}

#[test]
fn a_one_shot_container_can_have_a_terminal() {
    let (host, _) = Host::with_busybox();
    let screen = Screen::new(&host);
    screen.type_line(&format!("{} run -it -e PS1='once> ' busybox:1 sh", opsrun(&host)));
    screen.until("once> ");
    screen.type_line("echo $(tty) $$; exit 4");
    screen.until("/dev/");
    screen.until_prompt();
    screen.type_line("echo status $?");
    screen.until("status 4");
    until("nothing is left", || host.left_over().is_empty());
}

#[test]
fn without_a_terminal_one_cannot_be_asked_for() {
    let (host, _) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();
    host.opsrun(["exec", "-it", "busybox", "sh"]).fails(125, &["not a terminal", "hint: leave out -t"]);
}
