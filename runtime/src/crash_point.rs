//! Places where a test ends the process, as a crash would: before each action that changes something.
//! In a release build there are none.
//!
//! `OPSRUN_TEST_CRASH=supervise:7:FILE` ends a supervisor before its seventh action since there is FILE, which it removes;
//! `command:2:FILE` any other command of opsrun's.

/// Says where.
pub(crate) const VARIABLE: &str = "OPSRUN_TEST_CRASH";

/// Ends the process when a test says that it crashes here.
#[cfg(not(debug_assertions))]
pub fn here() {}

/// Ends the process when a test says that it crashes here.
#[cfg(debug_assertions)]
pub fn here() {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static AT: OnceLock<Option<(u32, PathBuf)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let at = AT.get_or_init(|| {
        let wanted = std::env::var(VARIABLE).ok()?;
        let mut parts = wanted.splitn(3, ':');
        let supervises = std::env::args().nth(1).is_some_and(|command| command == "supervise");
        let role = if supervises { "supervise" } else { "command" };
        (parts.next()? == role).then_some(())?;
        Some((parts.next()?.parse().ok()?, parts.next()?.into()))
    });
    let Some((number, armed)) = at else { return };
    if armed.exists() && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *number {
        let _ = std::fs::remove_file(armed);
        // SIGKILL, as the kernel does it for want of memory: nothing is cleaned up.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}
