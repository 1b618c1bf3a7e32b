//! A moment as people type it: `10m` ago, `09:30`, `2026-11-23`, `2026-11-23 09:30`.
//! It knows nothing of what is wanted since then.

use std::str::FromStr;

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};

use crate::time_span::TimeSpan;

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Since {
    /// Milliseconds.
    pub at_ms: u64,
}

const FORM: &str =
    "it must be like 10m, 2h or 3d (ago), 09:30, 2026-11-23, \"2026-11-23 09:30\" or 2026-11-23T09:30:00Z";

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = moment(text, &Local::now()).ok_or_else(|| FORM.to_owned())?;
        // What was before 1970 is as long ago as anything.
        Ok(Self { at_ms: u64::try_from(at.timestamp_millis()).unwrap_or(0) })
    }
}

/// In the time zone of `now` unless the text says which.
fn moment<Z: TimeZone>(text: &str, now: &DateTime<Z>) -> Option<DateTime<Utc>> {
    if let Ok(span) = text.parse::<TimeSpan>() {
        let span = chrono::TimeDelta::milliseconds(i64::try_from(span.ms).ok()?);
        return Some(now.to_utc() - span);
    }
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse().ok()) {
        return now.to_utc().checked_sub_days(Days::new(days));
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    let today = now.naive_local().date();
    let time = ["%H:%M", "%H:%M:%S"].iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok());
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let both = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let naive = both
        .or_else(|| time.map(|time| today.and_time(time)))
        .or_else(|| date.map(|date| date.and_time(NaiveTime::MIN)))?;
    // An hour that there was twice is the first of the two; one that there was not is none.
    now.timezone().from_local_datetime(&naive).earliest().map(|at| at.to_utc())
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<String> {
        let now = DateTime::<FixedOffset>::parse_from_rfc3339("2026-11-23T01:31:02.5+02:00").unwrap();
        moment(text, &now).map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    }

    #[test]
    fn moments_are_in_the_time_of_the_host() {
        for (text, moment) in [
            ("500ms", "2026-11-22T23:31:02Z"),
            ("1h30m", "2026-11-22T22:01:02.500Z"),
            ("10d", "2026-11-12T23:31:02.500Z"),
            ("00:15", "2026-11-22T22:15:00Z"),
            ("2026-11-23", "2026-11-22T22:00:00Z"),
            ("2026-11-20 12:00", "2026-11-20T10:00:00Z"),
            ("2026-11-20T12:00:05", "2026-11-20T10:00:05Z"),
            ("2026-11-20T12:00:05Z", "2026-11-20T12:00:05Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(moment), "{text}");
        }
        for text in ["", "10", "yesterday", "25:00", "2026-13-01", "d", "99999999999d"] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9:dhmsTZ+ -]{0,24}|\\PC{0,12}") {
            let _ = text.parse::<Since>();
        }
    }
}
