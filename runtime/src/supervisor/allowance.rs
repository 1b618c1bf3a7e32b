//! How much of a supervisor's time a service may take by what it does: one that binds in a loop gets no more than its share,
//! whatever else is to be done is done, and other services lose no processor to it. It does not know what the time is spent on.

use std::time::{Duration, Instant};

/// Time is reckoned in stretches of this length.
const STRETCH: Duration = Duration::from_millis(100);
/// Of each stretch this much may be taken: some thousand binds of no interest.
const SHARE: Duration = Duration::from_millis(25);

/// What has been taken of the stretch that goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    since: Instant,
    taken: Duration,
}

impl Allowance {
    /// Nothing is taken yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: Duration::ZERO }
    }

    /// So much was taken, until now.
    pub(super) fn take(&mut self, time: Duration, now: Instant) {
        if now.saturating_duration_since(self.since) >= STRETCH {
            *self = Self::new(now);
        }
        self.taken += time;
    }

    /// When there is something left again; `None` when there is.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        let end = self.since + STRETCH;
        (self.taken >= SHARE && now < end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_much_waits_until_the_stretch_is_over() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut allowance = Allowance::new(began);
        allowance.take(Duration::from_millis(24), at(30));
        assert_eq!(allowance.waits_until(at(30)), None);
        allowance.take(Duration::from_millis(2), at(40));
        assert_eq!(allowance.waits_until(at(40)), Some(at(100)));
        assert_eq!(allowance.waits_until(at(100)), None);
        allowance.take(Duration::from_millis(1), at(105));
        assert_eq!(allowance.waits_until(at(110)), None);
        allowance.take(Duration::from_millis(30), at(120));
        assert_eq!(allowance.waits_until(at(130)), Some(at(205)));
    }
}
