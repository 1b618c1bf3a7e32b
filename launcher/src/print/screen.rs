//! A whole terminal to draw on, again and again, until a person types `q`: given back as it was on every way out.
//! It knows nothing of what is drawn.
//!
//! Signals that end or stop this process are read in [`Screen::wait`] rather than acted upon by the kernel: the terminal
//! is given back first, and the signal then does what it always does. A panic gives it back too, also where that aborts.

use std::io;
use std::sync::Mutex;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};

use crate::error::Error;

/// Signals that end this process.
const END: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The screen of its own, no cursor (xterm's control sequences, "DEC Private Mode Set").
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// What there is to give back, once something was changed. Here, so that a panic finds it.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    /// The keyboard's settings, where the keyboard is a terminal.
    keyboard: Option<Termios>,
}

/// The terminal, while it is drawn on.
#[derive(Debug)]
pub(crate) struct Screen {
    signals: SignalFd,
    /// Signals that were blocked before.
    blocked: SigSet,
    keys: bool,
}

/// Why waiting is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The time has come.
    Time,
    /// What is on the screen does not fit it any more.
    Redraw,
    /// Nobody wants to see more.
    End,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Output`].
    pub(crate) fn take() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::io("use the terminal", error);
        let mut wanted = SigSet::from_iter(END);
        for signal in [Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGWINCH] {
            wanted.add(signal);
        }
        let blocked = SigSet::thread_get_mask().map_err(|error| failed(error.into()))?;
        wanted.thread_block().map_err(|error| failed(error.into()))?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            usual(panic);
        }));
        let screen = Self { signals, blocked, keys: isatty(rustix::stdio::stdin()) };
        screen.enter()?;
        Ok(screen)
    }

    /// Draws lines, as far as they fit, with `last` below them.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(crate) fn draw(&self, text: &str, last: &str) -> Result<(), Error> {
        let size = tcgetwinsize(rustix::stdio::stdout()).ok();
        let size = size.map_or((0, 0), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        super::data(&frame(text, last, size))
    }

    /// Waits for a key, for a signal, or until a time. After a signal to end the process has ended.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Output`].
    pub(crate) fn wait(&mut self, until: Instant) -> Result<Turn, Error> {
        let failed = |error: io::Error| Error::io("use the terminal", error);
        let keyboard = rustix::stdio::stdin();
        loop {
            let time = until.saturating_duration_since(Instant::now());
            let time = rustix::time::Timespec::try_from(time).expect("OK because it is a second or so");
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if self.keys {
                fds.push(PollFd::new(&keyboard, PollFlags::IN));
            }
            match poll(&mut fds, Some(&time)) {
                Ok(0) => return Ok(Turn::Time),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let typed = fds.get(1).is_some_and(|key| !key.revents().is_empty());
            drop(fds);
            if let Some(turn) = self.read_signals()? {
                return Ok(turn);
            }
            if typed && is_over() {
                return Ok(Turn::End);
            }
        }
    }

    fn read_signals(&mut self) -> Result<Option<Turn>, Error> {
        let failed = |error: nix::errno::Errno| Error::io("receive signals", error.into());
        let mut turn = None;
        while let Some(signal) = self.signals.read_signal().map_err(failed)? {
            match Signal::try_from(i32::try_from(signal.ssi_signo).unwrap_or(0)) {
                Ok(signal) if END.contains(&signal) => {
                    give_back();
                    self.blocked.thread_set_mask().map_err(failed)?;
                    raise(signal).map_err(failed)?;
                    // Still here: whoever started this process has it ignored.
                    return Ok(Some(Turn::End));
                }
                Ok(Signal::SIGTSTP) => {
                    give_back();
                    raise(Signal::SIGSTOP).map_err(failed)?;
                    // Continued.
                    self.enter()?;
                    turn = Some(Turn::Redraw);
                }
                _ => turn = Some(Turn::Redraw),
            }
        }
        Ok(turn)
    }

    fn enter(&self) -> Result<(), Error> {
        let failed = |error: Errno| Error::io("use the terminal", error.into());
        let stdin = rustix::stdio::stdin();
        let before = if self.keys { Some(tcgetattr(stdin).map_err(failed)?) } else { None };
        *taken() = Some(Taken { keyboard: before.clone() });
        if let Some(mut settings) = before {
            // Each key at once and unseen; those that send signals still do.
            settings.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
            settings.special_codes[SpecialCodeIndex::VMIN] = 1;
            settings.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(stdin, OptionalActions::Now, &settings).map_err(failed)?;
        }
        super::data(ENTER)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        let _ = self.blocked.thread_set_mask();
    }
}

fn taken() -> std::sync::MutexGuard<'static, Option<Taken>> {
    // A panic while it is held leaves nothing half-done.
    TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Gives the terminal back; once is enough. What fails here can be helped by nobody.
fn give_back() {
    let Some(before) = taken().take() else { return };
    if let Some(settings) = before.keyboard {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &settings);
    }
    // Not by way of the standard library's lock, which whoever panics may hold.
    let _ = rustix::io::write(rustix::stdio::stdout(), LEAVE.as_bytes());
}

/// Whether `q` was typed, or nobody can type any more.
fn is_over() -> bool {
    let mut keys = [0; 64];
    match rustix::io::read(rustix::stdio::stdin(), &mut keys) {
        Ok(0) => true,
        Ok(count) => keys[..count].iter().any(|key| b"qQ".contains(key)),
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(_) => true,
    }
}

/// What is written to show lines on a terminal of so many columns and rows; 0 means that it is not known.
///
/// Nothing is erased before it is overwritten, and terminals that know how to show all at once, so that nothing flickers
/// (ECMA-48, CUP, EL and ED; "synchronized output", mode 2026).
fn frame(text: &str, last: &str, (columns, rows): (usize, usize)) -> String {
    let columns = if columns == 0 { usize::MAX } else { columns };
    let rows = if rows == 0 { usize::MAX } else { rows };
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let shown = text.lines().take(rows.saturating_sub(1)).map(|line| cut(line) + "\u{1b}[K\r\n");
    format!("\u{1b}[?2026h\u{1b}[H{}{}\u{1b}[K\u{1b}[J\u{1b}[?2026l", shown.collect::<String>(), cut(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_never_scrolls_the_screen() {
        let plain = |size| frame("SERVICE CPU\na 1%\nb 2%\n", "q ends", size).replace("\u{1b}", "^");
        assert_eq!(plain((0, 0)), "^[?2026h^[HSERVICE CPU^[K\r\na 1%^[K\r\nb 2%^[K\r\nq ends^[K^[J^[?2026l");
        assert_eq!(plain((4, 3)), "^[?2026h^[HSERV^[K\r\na 1%^[K\r\nq en^[K^[J^[?2026l");
        assert_eq!(plain((4, 1)), "^[?2026h^[Hq en^[K^[J^[?2026l");
    }
}
