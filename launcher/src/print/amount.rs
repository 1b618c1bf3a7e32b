//! Times, sizes and ids in few characters, as in a table's cell.
//! It knows nothing of what they belong to.

/// Bytes as Docker shows them: decimal units, three digits or so: `312 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let digits = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// A span in its largest one or two units: `200ms`, `42s`, `5m 3s`, `3h 12m`, `8d 4h`.
pub(crate) fn span(ms: u64) -> String {
    if ms > 0 && ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

/// How long ago something was; the clock may have been set back since.
pub(crate) fn ago(then_ms: u64, now_ms: u64) -> String {
    match now_ms.checked_sub(then_ms) {
        None | Some(0..1000) => "just now".to_owned(),
        Some(ms) => format!("{} ago", span(ms)),
    }
}

/// A digest's first twelve hexadecimal digits, as Docker shows an id.
pub(crate) fn short_id(digest: &str) -> &str {
    let hexadecimal = digest.strip_prefix("sha256:").unwrap_or(digest);
    hexadecimal.get(..12).unwrap_or(hexadecimal)
}

/// A time as RFC 3339 in UTC with milliseconds, for JSON.
pub(crate) fn timestamp(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (amount, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_990, "9.99 kB"),
            (9_999, "10.0 kB"),
            (12_345, "12.3 kB"),
            (312_400_000, "312 MB"),
            (999_600, "1.00 MB"),
            (1_234_567_890, "1.23 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn spans() {
        for (ms, text) in [
            (0, "0s"),
            (200, "200ms"),
            (59_999, "59s"),
            (60_000, "1m 0s"),
            (3_599_000, "59m 59s"),
            (11_520_000, "3h 12m"),
            (705_600_000, "8d 4h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(10_000, 5_000), "just now");
        assert_eq!(ago(10_000, 75_000), "1m 5s ago");
    }

    #[test]
    fn timestamps_and_ids() {
        assert_eq!(timestamp(1_667_260_800_123), "2022-11-01T00:00:00.123Z");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("ä"), "ä");
    }
}
