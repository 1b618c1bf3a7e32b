//! A share of a service's new connections, as people write it: `10%`, `0.5%`.
//! It knows nothing of what becomes of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Millionths in a hundredth.
const PER_CENT: u32 = 10_000;

/// A part of the whole, less than all of it. In JSON it is the number of millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

/// A text or a number is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a share below 100%, such as \"10%\" or \"0.5%\"")]
pub struct NoShare;

impl Share {
    /// In millionths.
    #[must_use]
    pub fn ppm(self) -> u32 {
        self.0
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<u32> for Share {
    type Error = NoShare;

    fn try_from(ppm: u32) -> Result<Self, NoShare> {
        if ppm < 100 * PER_CENT { Ok(Self(ppm)) } else { Err(NoShare) }
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl FromStr for Share {
    type Err = NoShare;

    /// A number with at most four digits behind its point, and a `%`.
    fn from_str(text: &str) -> Result<Self, NoShare> {
        let number = text.strip_suffix('%').ok_or(NoShare)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 2) || !digits(fraction, 4) {
            return Err(NoShare);
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| NoShare);
        (number(whole)? * PER_CENT + number(&format!("{fraction:0<4}"))?).try_into()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / PER_CENT, self.0 % PER_CENT);
        match format!(".{fraction:04}").trim_end_matches('0') {
            "." => write!(formatter, "{whole}%"),
            fraction => write!(formatter, "{whole}{fraction}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_written_alike() {
        for (text, ppm) in
            [("0%", 0), ("10%", 100_000), ("0.5%", 5_000), ("99.9999%", 999_999), ("1.05%", 10_500)]
        {
            let share: Share = text.parse().expect(text);
            assert_eq!((share.ppm(), share.to_string().as_str()), (ppm, text));
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "%", "10", "100%", "-1%", "+1%", ".5%", "1.%", "1e1%", "0.00001%", "10 %", "999%"] {
            assert_eq!(text.parse::<Share>(), Err(NoShare), "{text}");
        }
        assert!(serde_json::from_str::<Share>("1000000").is_err());
        assert_eq!(serde_json::to_string(&"10%".parse::<Share>().expect("a share")).expect("JSON"), "100000");
    }
}
