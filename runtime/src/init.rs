//! A container's process 1: starts the program, passes signals on to it, reaps whatever is left to it, and ends as
//! the program ends. It knows nothing but its one child.
//!
//! A shell or a server as process 1 ignores every signal it has no handler for (pid_namespaces(7)), SIGTERM among
//! them, and leaves the processes that it inherits as zombies.

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::os;
use crate::title::Title;

/// Becomes process 1: forks, runs `program` in the child, never returns. `shown` is what ps(1) is to show of it.
///
/// It is not executed as a program of its own: the image need not contain it, and no file of the host can be reached
/// by way of `/proc/1/exe`, because the process has been non-dumpable since before it entered the container
/// (ptrace(2), PTRACE_MODE_READ; the way of CVE-2019-5736).
pub(crate) fn run(program: impl FnOnce(), shown: Option<(Title, &str)>) -> ! {
    // Blocked before the fork, so that a signal that comes before the child is known waits until it is.
    let all = SigSet::all();
    let _ = all.thread_block();
    match os::fork() {
        Ok(None) => {
            become_foreground();
            let _ = all.thread_unblock();
            program();
            os::exit(125)
        }
        Ok(Some(child)) => {
            // What is open belongs to the host or to the asker, which waits for its end of file.
            os::close_from(3);
            hold_output();
            let _ = nix::sys::prctl::set_name(c"opsrun-init");
            if let Some((title, container)) = shown {
                title.show(&["opsrun-init", container]);
            }
            reap_until_end_of(child, &all)
        }
        Err(_) => os::exit(125),
    }
}

/// Makes the child the terminal's foreground process group, where there is a terminal: Ctrl-C must reach the program,
/// and only once, not a second time by way of process 1. SIGTTOU is blocked here, as tcsetpgrp(3) demands.
fn become_foreground() {
    let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        let _ = rustix::termios::tcsetpgrp(stdin, rustix::process::getpid());
    }
}

/// Holds the pipes that are the output open for reading too, for as long as the container lives: without whoever reads
/// them the service waits once they are full, rather than get SIGPIPE, until somebody comes who opens them by way of this
/// process (proc_pid_fd(5)).
fn hold_output() {
    for number in [1, 2] {
        let path = format!("/proc/self/fd/{number}");
        let is_pipe = rustix::fs::stat(&path)
            .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_fifo());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        if is_pipe && let Ok(held) = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()) {
            std::mem::forget(held);
        }
    }
}

fn reap_until_end_of(child: Pid, signals: &SigSet) -> ! {
    loop {
        match os::wait_signal(signals) {
            Ok(libc::SIGCHLD) => {
                if let Some(status) = reap(child) {
                    os::exit(status);
                }
            }
            // Sent by the terminal to process 1 itself, which does not read it.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            Ok(signal) => {
                // OK to ignore: a child that is gone is reaped next.
                let _ = os::send_signal(child, signal);
            }
            Err(_) => {}
        }
    }
}

/// Reaps all that have ended; the exit status when the program is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut status = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => status = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => status = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return status,
            Ok(_) => {}
        }
    }
}
