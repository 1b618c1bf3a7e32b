//! Keeps a person's terminal and the terminal of a container's process in step, until the process ends.
//! It knows neither containers nor how the process was made: it has the near end of its terminal and a pidfd.
//!
//! ```text
//! keyboard ─▶ stdin (raw: every key is passed on, Ctrl-C too) ─▶ master ─▶ the container's terminal ─▶ process
//! screen   ◀─ stdout                                          ◀─ master ◀─
//! ```
//!
//! A person's terminal must never be left raw. Signals that would end this process are therefore read in the loop
//! rather than acted upon by the kernel, and a guard puts the terminal back on every way out.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// How much is copied at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Signals that are passed on to the process. With a raw terminal they never come from the keyboard.
const PASSED_ON: [Signal; 4] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// Signals that end the session: the process's terminal hangs up, which ends what a shell would end.
const END: [Signal; 2] = [Signal::SIGTERM, Signal::SIGHUP];
/// Signals that may have changed the person's terminal.
const CHANGED: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGCONT];

/// Connects this process's standard input (when `interactive`) and output with `master` until `process`, a pidfd, has
/// ended and all it wrote is on the screen, or until this process is told to end by SIGTERM or SIGHUP; `master` is
/// closed then.
///
/// # Errors
/// What poll(2), read(2) and write(2) say of this process's own terminal. It has been put back then.
pub(crate) fn attach(master: OwnedFd, interactive: bool, process: BorrowedFd<'_>) -> io::Result<()> {
    let signals = Signals::take()?;
    let stdin = rustix::stdio::stdin();
    let screen = rustix::stdio::stdout();
    rustix::io::ioctl_fionbio(&master, true)?;
    let mut session = Session {
        raw: if interactive && isatty(stdin) { Some(Raw::begin(stdin)?) } else { None },
        keyboard: interactive.then_some(stdin),
        typed: Vec::new(),
        screen,
        sized_like: [stdin, screen].into_iter().find(|fd| isatty(fd)),
        master,
        process,
    };
    session.copy_size();
    session.run(&signals)
}

struct Session<'fd> {
    /// The guard; `None` when the keyboard is no terminal or is not read.
    raw: Option<Raw<'fd>>,
    /// `None` once there is nothing more to read.
    keyboard: Option<BorrowedFd<'fd>>,
    /// Read from the keyboard and not yet taken by the container's terminal.
    typed: Vec<u8>,
    screen: BorrowedFd<'fd>,
    /// The terminal whose size the container's terminal has.
    sized_like: Option<BorrowedFd<'fd>>,
    master: OwnedFd,
    process: BorrowedFd<'fd>,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Session<'_> {
    fn run(&mut self, signals: &Signals) -> io::Result<()> {
        loop {
            let ready = self.wait(signals)?;
            if ready.signal && self.signals(signals)? == Next::End {
                return Ok(());
            }
            if ready.keyboard {
                self.read_keyboard()?;
            }
            if !self.typed.is_empty() {
                self.pass_typed()?;
            }
            if ready.ended {
                // Others may hold the terminal open, so its end is not waited for. What the process wrote is there: the
                // kernel pushes it through before it says that nothing is left (n_tty_read, tty_buffer_flush_work).
                while self.print()? == Printed::Some {}
                return Ok(());
            }
            if ready.master && self.print()? == Printed::HungUp {
                // The process closed its terminal and lives on: nothing is left to copy, but its end still counts.
                return self.wait_for_end(signals);
            }
        }
    }

    fn wait(&self, signals: &Signals) -> io::Result<Ready> {
        let mut on_master = PollFlags::IN;
        if !self.typed.is_empty() {
            on_master |= PollFlags::OUT;
        }
        let mut fds = vec![
            PollFd::new(&signals.descriptor, PollFlags::IN),
            PollFd::from_borrowed_fd(self.process, PollFlags::IN),
            PollFd::new(&self.master, on_master),
        ];
        // Not read before the last keys are taken: what is typed ahead waits in the person's terminal, not here.
        if let (Some(keyboard), true) = (self.keyboard, self.typed.is_empty()) {
            fds.push(PollFd::from_borrowed_fd(keyboard, PollFlags::IN));
        }
        poll_all(&mut fds)?;
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready { signal: ready(0), ended: ready(1), master: ready(2), keyboard: ready(3) })
    }

    fn signals(&mut self, signals: &Signals) -> io::Result<Next> {
        while let Some(signal) = signals.next()? {
            if END.contains(&signal) {
                return Ok(Next::End);
            }
            if CHANGED.contains(&signal) {
                if let Some(raw) = &self.raw {
                    // A shell puts its own settings back while this process is stopped.
                    raw.set()?;
                }
                self.copy_size();
            } else if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
                // OK to ignore: it has ended, which is seen next.
                let _ = rustix::process::pidfd_send_signal(self.process, signal);
            }
        }
        Ok(Next::GoOn)
    }

    fn read_keyboard(&mut self) -> io::Result<()> {
        let Some(keyboard) = self.keyboard else { return Ok(()) };
        let mut buffer = [0; BUFFER_BYTES];
        match rustix::io::read(keyboard, &mut buffer) {
            // The end of the input, or a terminal that is gone: the process may still have something to say.
            Ok(0) | Err(Errno::IO) => self.keyboard = None,
            Ok(length) => self.typed.extend_from_slice(&buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn pass_typed(&mut self) -> io::Result<()> {
        match rustix::io::write(&self.master, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody has the container's terminal open.
            Err(Errno::IO) => self.typed.clear(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn print(&mut self) -> io::Result<Printed> {
        let mut buffer = [0; BUFFER_BYTES];
        match rustix::io::read(&self.master, &mut buffer) {
            // EIO is how a terminal says that nobody has its other end open (pty(7)).
            Ok(0) | Err(Errno::IO) => Ok(Printed::HungUp),
            Ok(length) => {
                write_all(self.screen, &buffer[..length])?;
                Ok(Printed::Some)
            }
            Err(Errno::AGAIN) => Ok(Printed::Nothing),
            Err(Errno::INTR) => Ok(Printed::Some),
            Err(error) => Err(error.into()),
        }
    }

    /// Without the terminals, between which there is nothing left to copy.
    fn wait_for_end(&mut self, signals: &Signals) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&signals.descriptor, PollFlags::IN),
                PollFd::from_borrowed_fd(self.process, PollFlags::IN),
            ];
            poll_all(&mut fds)?;
            let ended = !fds[1].revents().is_empty();
            if ended || self.signals(signals)? == Next::End {
                return Ok(());
            }
        }
    }

    /// OK to ignore failures: a terminal without a size is as good as one with the wrong size.
    fn copy_size(&self) {
        if let Some(size) = self.sized_like.and_then(|fd| tcgetwinsize(fd).ok()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }
}

/// What there is to do.
struct Ready {
    signal: bool,
    ended: bool,
    master: bool,
    keyboard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    Some,
    Nothing,
    HungUp,
}

fn poll_all(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The person's terminal is left blocking, because whoever else has it open would notice otherwise.
fn write_all(screen: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(screen, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => poll_all(&mut [PollFd::from_borrowed_fd(screen, PollFlags::OUT)])?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A terminal that passes every key on; put back when dropped.
struct Raw<'fd> {
    terminal: BorrowedFd<'fd>,
    before: Termios,
}

impl<'fd> Raw<'fd> {
    fn begin(terminal: BorrowedFd<'fd>) -> io::Result<Self> {
        let it = Self { terminal, before: tcgetattr(terminal)? };
        it.set()?;
        Ok(it)
    }

    fn set(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(self.terminal, OptionalActions::Now, &raw)?)
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // OK to ignore: a terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The signals of a session, read rather than acted upon until this is dropped.
struct Signals {
    descriptor: SignalFd,
    mask_before: SigSet,
}

impl Signals {
    fn take() -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        PASSED_ON.into_iter().chain(END).chain(CHANGED).for_each(|signal| wanted.add(signal));
        let mask_before = wanted.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let descriptor = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { descriptor, mask_before })
    }

    fn next(&self) -> io::Result<Option<Signal>> {
        let Some(information) = self.descriptor.read_signal()? else { return Ok(None) };
        Ok(i32::try_from(information.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.mask_before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::{Duration, Instant};

    use nix::pty::{OpenptyResult, openpty};
    use rustix::process::{PidfdFlags, pidfd_open};
    use rustix::termios::{LocalModes, Winsize};

    use super::*;

    /// Set in the copy of this test program that attaches its own terminal: the script to run at the other end.
    const SCRIPT: &str = "OPSRUN_TEST_TERMINAL_SCRIPT";
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A person at a terminal, on which this very test runs again and attaches a shell that runs `script`.
    struct Person {
        master: File,
        slave: OwnedFd,
        before: Termios,
        opsrun: Child,
        /// The test runs beside the program's first thread, to which a signal to the process would go.
        thread: i32,
        seen: String,
    }

    impl Person {
        fn at(test: &str, script: &str) -> Self {
            let (master, slave) = terminal();
            tcsetwinsize(&slave, size(24, 80)).expect("a size");
            rustix::io::ioctl_fionbio(&master, true).expect("non-blocking");
            let stdio = || Stdio::from(slave.try_clone().expect("a descriptor"));
            let before = tcgetattr(&slave).expect("its settings");
            let opsrun = Command::new(std::env::current_exe().expect("the test program"))
                .args(["--exact", &format!("terminal::tests::{test}"), "--nocapture", "--test-threads=1"])
                .env(SCRIPT, script)
                .stdin(stdio())
                .stdout(stdio())
                .stderr(stdio())
                .spawn()
                .expect("the test program runs again");
            let mut it =
                Self { master: File::from(master), slave, before, opsrun, thread: 0, seen: String::new() };
            it.sees("in thread <");
            wait_until("the thread is told", || {
                it.fill();
                it.seen.contains('>')
            });
            it.thread = it.seen.split_once('>').expect("a number").0.parse().expect("a number");
            it.sees("ready");
            it
        }

        fn types(&mut self, text: &str) {
            self.master.write_all(text.as_bytes()).expect("typed");
        }

        /// Takes what is on the screen by now.
        fn fill(&mut self) {
            let mut buffer = [0; 4096];
            while let Ok(length) = self.master.read(&mut buffer) {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }

        /// Whether `text` has come by now; what came before it is forgotten.
        fn look(&mut self, text: &str) -> bool {
            self.fill();
            let found = self.seen.find(text);
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
            }
            found.is_some()
        }

        fn sees(&mut self, text: &str) {
            wait_until(&format!("the screen shows {text:?}"), || self.look(text));
        }

        fn is_raw(&self) -> bool {
            !tcgetattr(&self.slave).expect("its settings").local_modes.contains(LocalModes::ICANON)
        }

        fn signals(&self, signal: Signal) {
            let pid = i32::try_from(self.opsrun.id()).expect("a number");
            crate::os::send_signal_to_thread(pid, self.thread, signal as i32).expect("a signal");
        }

        /// Waits for the end, and sees to it that the terminal is as it was.
        fn ends(&mut self) -> ExitStatus {
            let mut status = None;
            wait_until("it ends", || {
                status = self.opsrun.try_wait().expect("a status");
                status.is_some()
            });
            let now = tcgetattr(&self.slave).expect("its settings");
            assert_eq!(now.local_modes, self.before.local_modes);
            assert_eq!(now.input_modes, self.before.input_modes);
            assert_eq!(now.output_modes, self.before.output_modes);
            status.expect("it ended")
        }
    }

    impl Drop for Person {
        fn drop(&mut self) {
            let _ = self.opsrun.kill();
            let _ = self.opsrun.wait();
        }
    }

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::yield_now();
        }
    }

    /// Both ends of a terminal, which no program that is started inherits: it would not hang up then.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
        for end in [&master, &slave] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).expect("close-on-exec");
        }
        (master, slave)
    }

    fn size(rows: u16, columns: u16) -> Winsize {
        Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
    }

    /// What the copy does: a shell on a terminal of its own, attached.
    fn attached() -> bool {
        let Some(script) = std::env::var_os(SCRIPT) else { return false };
        // Whoever runs the tests in the background may ignore some, which a shell then cannot trap.
        crate::os::default_signals();
        let (master, slave) = terminal();
        println!("in thread <{}>", rustix::thread::gettid().as_raw_nonzero());
        let stdio = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let mut shell = Command::new("setsid")
            .args(["--ctty", "sh", "-c"])
            .arg(script)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("a shell");
        drop(slave);
        let pid = i32::try_from(shell.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a number");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd");
        attach(master, true, pidfd.as_fd()).expect("attached");
        println!("the shell ended with {}", shell.wait().expect("a status"));
        true
    }

    #[test]
    fn keys_output_and_size_go_through_and_the_terminal_is_put_back() {
        if attached() {
            return;
        }
        let script =
            "echo ready; while read -r line; do case $line in size) stty size;; *) exit 7;; esac; done";
        let mut person = Person::at("keys_output_and_size_go_through_and_the_terminal_is_put_back", script);
        assert!(person.is_raw());
        person.types("size\r");
        person.sees("24 80");
        tcsetwinsize(&person.slave, size(50, 132)).expect("a size");
        person.signals(Signal::SIGWINCH);
        wait_until("the size goes through", || {
            person.types("size\r");
            let mut grown = false;
            wait_until("an answer", || {
                grown = person.look("50 132");
                grown || person.look("24 80")
            });
            grown
        });
        person.types("end\r");
        person.sees("exit status: 7");
        assert!(person.ends().success());
    }

    #[test]
    fn the_last_words_are_printed_although_others_hold_the_terminal_open() {
        if attached() {
            return;
        }
        // It keeps the terminal open from a session of its own, until this copy of the test has ended.
        let holder = "setsid tail --pid=$PPID -f /dev/null &";
        let lines = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo last words";
        let script = format!("echo ready; {holder} {lines}");
        let mut person =
            Person::at("the_last_words_are_printed_although_others_hold_the_terminal_open", &script);
        person.sees("line 2999");
        person.sees("last words");
        assert!(person.ends().success());
    }

    #[test]
    fn ctrl_c_goes_to_the_process_and_not_to_opsrun() {
        if attached() {
            return;
        }
        let script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done";
        let mut person = Person::at("ctrl_c_goes_to_the_process_and_not_to_opsrun", script);
        person.types("\u{3}");
        person.sees("interrupted");
        person.sees("exit status: 3");
        assert!(person.ends().success());
    }

    #[test]
    fn a_signal_to_end_hangs_up_and_puts_the_terminal_back() {
        if attached() {
            return;
        }
        let script = "echo ready; cat";
        let mut person = Person::at("a_signal_to_end_hangs_up_and_puts_the_terminal_back", script);
        assert!(person.is_raw());
        person.signals(Signal::SIGTERM);
        person.sees("signal: 1");
        assert!(person.ends().success());
    }
}
