//! The kinds of values a limit has, each spelled as Docker spells it and checked where it is read.
//! They know nothing of the host, nor of what becomes of them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// The kernel's own limit on process numbers (PID_MAX_LIMIT of linux/threads.h).
const PIDS_MAX: u64 = 4_194_304;
/// `--cpus` in these: the kernel counts in microseconds of each 100 ms.
const PARTS: u64 = 100_000;
/// The kernel takes no shorter slice than a millisecond; Docker says 0.01 as well.
const PARTS_MIN: u64 = 1_000;
/// No machine has as many processors.
const CPUS_MAX: u64 = 1_000_000;

/// Bytes, more than 0: `512m`, `1.5g`, `100000`. The units are binary whatever they are called, as Docker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

impl Size {
    /// How many.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    /// As `RAMInBytes` of Docker's go-units: a number, perhaps a space, perhaps one of k m g t p, perhaps `i`, perhaps `b`.
    fn from_str(text: &str) -> Result<Self, String> {
        let no_size = || format!("{text:?} is no size; sizes look like 512m, 1.5g or 1048576");
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
        let power = match unit.as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 1,
            "m" | "mb" | "mib" => 2,
            "g" | "gb" | "gib" => 3,
            "t" | "tb" | "tib" => 4,
            "p" | "pb" | "pib" => 5,
            _ => return Err(no_size()),
        };
        match decimal(number, 1 << (10 * power)) {
            Decimal::Of(0) => Err("it must be more than 0".to_owned()),
            Decimal::Of(bytes) => Ok(Self(bytes)),
            Decimal::TooLarge => Err(format!("{text} is too large for any machine")),
            Decimal::None => Err(no_size()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&runtime::limits::size_text(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

/// Memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// At most so much.
    Together(Size),
    /// `-1`: all the swap there is.
    Unlimited,
}

impl FromStr for Swap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-1" { Ok(Self::Unlimited) } else { text.parse().map(Self::Together) }
    }
}

impl fmt::Display for Swap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Together(size) => size.fmt(formatter),
            Self::Unlimited => formatter.write_str("-1"),
        }
    }
}

impl Serialize for Swap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Together(size) => size.serialize(serializer),
            Self::Unlimited => serializer.serialize_str("-1"),
        }
    }
}

/// Processors: `2`, `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus(u64);

impl Cpus {
    /// In hundred-thousandths of a processor, rounded down.
    pub(crate) fn hundred_thousandths(self) -> u64 {
        self.0
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match decimal(text, PARTS) {
            Decimal::Of(parts) if parts < PARTS_MIN => Err("it must be at least 0.01".to_owned()),
            Decimal::Of(parts) if parts <= CPUS_MAX * PARTS => Ok(Self(parts)),
            Decimal::Of(_) | Decimal::TooLarge => Err(format!("{text} is too large for any machine")),
            Decimal::None => Err(format!("{text:?} is no number of processors such as 2 or 0.5")),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:05}", self.0 / PARTS, self.0 % PARTS);
        formatter.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A weight between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Weight<MIN, MAX> {
    /// Its number.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Weight<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("it must be a number from {MIN} to {MAX}")),
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Weight<MIN, MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Weight<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pids {
    /// At most so many.
    Most(u64),
    /// `-1`: no limit.
    Unlimited,
}

impl Pids {
    /// What is written to pids.max.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Most(number) => number.to_string(),
            Self::Unlimited => "max".to_owned(),
        }
    }
}

impl FromStr for Pids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-1" {
            return Ok(Self::Unlimited);
        }
        match text.parse() {
            Ok(number) if (1..=PIDS_MAX).contains(&number) => Ok(Self::Most(number)),
            _ => Err(format!("it must be a number of at least 1 and at most {PIDS_MAX}, or -1 for no limit")),
        }
    }
}

impl Serialize for Pids {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Most(number) => serializer.collect_str(number),
            Self::Unlimited => serializer.serialize_str("-1"),
        }
    }
}

/// Bytes a second of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRate {
    /// Its file.
    pub device: PathBuf,
    /// How many.
    pub rate: Size,
}

impl FromStr for DeviceRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, rate) = device(text).ok_or("it must be DEVICE:SIZE, such as /dev/sda:10mb")?;
        Ok(Self { device, rate: rate.parse()? })
    }
}

impl Serialize for DeviceRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.device.display(), self.rate.0))
    }
}

/// Operations a second of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceOps {
    /// Its file.
    pub device: PathBuf,
    /// How many.
    pub rate: u64,
}

impl FromStr for DeviceOps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "it must be DEVICE:NUMBER, such as /dev/sda:1000";
        let (device, rate) = device(text).ok_or(wrong)?;
        match rate.parse() {
            Ok(rate @ 1..) => Ok(Self { device, rate }),
            _ => Err(wrong.to_owned()),
        }
    }
}

impl Serialize for DeviceOps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.device.display(), self.rate))
    }
}

fn device(text: &str) -> Option<(PathBuf, &str)> {
    let (device, rate) = text.rsplit_once(':')?;
    device.starts_with('/').then(|| (PathBuf::from(device), rate))
}

enum Decimal {
    Of(u64),
    TooLarge,
    None,
}

/// A decimal number, `1.5` or `.5`, times `unit`, rounded down. In whole numbers: a float has no room for bytes.
fn decimal(text: &str, unit: u64) -> Decimal {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return Decimal::None;
    }
    // Digits beyond these make no byte.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let (Some(whole), Some(fraction)) = (number(whole), number(fraction)) else { return Decimal::TooLarge };
    let product = u128::from(whole) * u128::from(unit) + u128::from(fraction) * u128::from(unit) / scale;
    // cgroup files hold signed numbers.
    match i64::try_from(product) {
        Ok(product) => Decimal::Of(product.unsigned_abs()),
        Err(_) => Decimal::TooLarge,
    }
}

/// Reads a value from a string or a number by [`FromStr`], which says what is wrong with it.
struct Spelled<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Spelled<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, or a text such as \"512m\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! read_as_spelled {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Spelled::<$type>(std::marker::PhantomData))
            }
        }
    )*};
}

read_as_spelled!(Size, Swap, Cpus, Pids, DeviceRate, DeviceOps);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Weight<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelled::<Self>(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("1", 1),
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32Kb", 32 << 10),
            ("32 kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("32.5kB", 32 * 1024 + 512),
            ("512m", 512 << 20),
            (".5g", 512 << 20),
            ("1.g", 1 << 30),
            ("1.5G", 3 << 29),
            ("2TB", 2 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "", " ", "m", "-1", "+1", "1..5g", "1.5.1g", "1  g", " 1g", "1g ", "1e3", "0x10", "1kbb", "1bk",
            "hello", "1ki",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        for text in ["0", "0g", "0.0000000001"] {
            assert_eq!(text.parse::<Size>(), Err("it must be more than 0".into()), "{text}");
        }
        for text in ["8192p", "99999999999999999999", "9999999999999999999g"] {
            assert!(text.parse::<Size>().unwrap_err().contains("too large"), "{text}");
        }
    }

    #[test]
    fn processors_are_counted_in_parts() {
        for (text, parts, shown) in [
            ("1", 100_000, "1"),
            ("0.2", 20_000, "0.2"),
            (".5", 50_000, "0.5"),
            ("1.23456789", 123_456, "1.23456"),
            ("0.01", 1_000, "0.01"),
        ] {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.hundred_thousandths(), cpus.to_string().as_str()), (parts, shown), "{text}");
        }
        for text in ["", ".", "0", "0.009", "-1", "1,5", "1e2", "inf", "NaN", "1000001"] {
            assert!(text.parse::<Cpus>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Cpus>();
            let _ = text.parse::<DeviceRate>();
        }

        #[test]
        fn whole_bytes_are_never_rounded(bytes in 1_u64..i64::MAX as u64) {
            prop_assert_eq!(bytes.to_string().parse(), Ok(Size(bytes)));
        }
    }
}
