//! What a registry's answers mean: whether to try again, what went wrong, what it said.
//! Asks nothing.

use std::io::{self, Read};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use ureq::Body;
use ureq::http::{HeaderMap, Response};

use super::Patience;
use crate::error::Error;

/// What a registry says about an error is a sentence or two.
const SAID_BYTES_MAX: u64 = 16 << 10;
const SAID_CHARS_MAX: usize = 200;

/// Why a request came to nothing.
pub(super) enum Trouble {
    /// Another attempt may do; after so long, if the registry said it.
    Again(Error, Option<Duration>),
    /// None will.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// What an error status means. 401, 403 and 404 are for whoever knows what was asked.
pub(super) fn status(host: &str, mut response: Response<Body>) -> Trouble {
    let status = response.status().as_u16();
    let after = retry_after(response.headers());
    let error = Error::Answered { host: host.to_owned(), status, said: said(&mut response) };
    // distribution-spec lists 429 only; the others are what proxies before a registry say while it is away.
    match status {
        408 | 429 | 500 | 502 | 503 | 504 => Trouble::Again(error, after),
        _ => Trouble::Final(error),
    }
}

/// What went wrong before there was an answer, or in the middle of one. Who never answered at all is not waited for:
/// the name or the port is wrong more often than a registry is just being started.
pub(super) fn failure(host: &str, error: ureq::Error, patience: &Patience, has_answered: bool) -> Trouble {
    let name = host.to_owned();
    let unreachable = |source: io::Error| {
        let error = Error::Unreachable { host: name.clone(), source };
        if has_answered { Trouble::Again(error, None) } else { Trouble::Final(error) }
    };
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            let reason = format!("no connection within {} s", patience.connect.as_secs_f32());
            unreachable(io::Error::new(io::ErrorKind::TimedOut, reason))
        }
        ureq::Error::Timeout(_) => {
            let seconds = patience.stall.as_secs_f32();
            Trouble::Again(Error::Stalled { host: name, seconds }, None)
        }
        ureq::Error::HostNotFound => {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no host of this name");
            Trouble::Final(Error::Unreachable { host: name, source })
        }
        ureq::Error::Rustls(error) => untrusted(name, &error),
        ureq::Error::Io(error) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => untrusted(name, tls),
                None => unreachable(error),
            }
        }
        other => Trouble::Final(Error::Nonsense { host: name, reason: other.to_string() }),
    }
}

fn untrusted(host: String, error: &rustls::Error) -> Trouble {
    let is_plain = matches!(error, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType));
    let reason = match error {
        _ if is_plain => "it does not speak TLS".to_owned(),
        error => error.to_string(),
    };
    Trouble::Final(Error::Untrusted { host, is_plain, source: io::Error::other(reason) })
}

/// `Retry-After`, as seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.with_timezone(&Utc) - Utc::now()).to_std().unwrap_or_default())
}

/// The distribution specification's list of errors. The codes are not oci-spec's: registries have more of them.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// What a registry said about an error, in one line that is harmless on a terminal.
pub(super) fn said(response: &mut Response<Body>) -> String {
    let mut text = Vec::new();
    // OK to fail: it is only for the message.
    let _ = response.body_mut().as_reader().take(SAID_BYTES_MAX).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let said = match serde_json::from_str::<Errors>(&text) {
        Ok(Errors { errors }) => {
            let words = |error: &One| match error.message.as_deref() {
                Some(message) if !message.is_empty() => format!("{} ({})", message, error.code),
                _ => error.code.clone(),
            };
            errors.iter().map(words).collect::<Vec<_>>().join("; ")
        }
        // A page of HTML says nothing to a person on a terminal.
        Err(_) if text.trim_start().starts_with(['<', '{', '[']) => String::new(),
        Err(_) => text.lines().next().unwrap_or_default().to_owned(),
    };
    harmless(&said)
}

/// A text of somebody else's, short and without what would steer a terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().take(SAID_CHARS_MAX).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = Utc::now() + chrono::Duration::seconds(90);
        let span = after(&later.format("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap();
        assert!((80..=90).contains(&span.as_secs()), "{span:?}");
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(harmless(&"x".repeat(1000)).len(), SAID_CHARS_MAX);
    }
}
