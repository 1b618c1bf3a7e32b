//! Times as people write them in a file: `500ms`, `10s`, `1m30s`, `2h`.
//! It knows nothing of what they are for.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};

/// Nothing opsrun waits for takes longer: a week, in milliseconds.
pub(crate) const MS_MAX: u64 = 7 * 24 * 3_600_000;

/// A length of time in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeSpan {
    /// Milliseconds, at most [`MS_MAX`].
    pub ms: u64,
}

/// A text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {FORM}")]
pub(crate) struct NoTimeSpan;

const FORM: &str = "a time such as \"10s\", \"1m30s\" or \"500ms\", at most a week";

impl FromStr for TimeSpan {
    type Err = NoTimeSpan;

    /// Numbers with units `h`, `m`, `s`, `ms`, each unit at most once and the larger before the smaller.
    fn from_str(text: &str) -> Result<Self, NoTimeSpan> {
        const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let mut rest = text;
        let mut unit_next = 0;
        let mut ms: u64 = 0;
        while !rest.is_empty() || unit_next == 0 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| NoTimeSpan)?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = UNITS.iter().position(|(unit, _)| *unit == &rest[..letters]).ok_or(NoTimeSpan)?;
            if unit < unit_next {
                return Err(NoTimeSpan);
            }
            unit_next = unit + 1;
            rest = &rest[letters..];
            ms = number.checked_mul(UNITS[unit].1).and_then(|part| ms.checked_add(part)).ok_or(NoTimeSpan)?;
        }
        if ms > MS_MAX { Err(NoTimeSpan) } else { Ok(Self { ms }) }
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = TimeSpan;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(FORM)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Form)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_in_their_units() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h1m1s1ms", 3_661_001),
        ] {
            assert_eq!(text.parse(), Ok(TimeSpan { ms }), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "30s1m",
            "1s1s",
            "1d",
            "9999999999999999999h",
            "169h",
            "1S",
        ] {
            assert_eq!(text.parse::<TimeSpan>(), Err(NoTimeSpan), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<TimeSpan>();
        }
    }
}
