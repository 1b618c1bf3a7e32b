//! What a registry wants to see before it gives anything: by its `WWW-Authenticate` header.
//! Sends nothing itself.

use http_auth::parse_challenges;
use serde::Deserialize;
use ureq::http::HeaderMap;

/// How a registry wants to know who one is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request (RFC 7617).
    Basic,
    /// A token that a realm gives (distribution's token specification).
    Bearer { realm: String, service: Option<String> },
}

/// The challenge to be met; a token is preferred, since it tells the password less often.
pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.get_all("www-authenticate") {
        for challenge in header.to_str().ok().and_then(|text| parse_challenges(text).ok()).unwrap_or_default()
        {
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// What a realm gives.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// The token in a realm's answer.
pub(super) fn token(answer: &[u8]) -> Option<String> {
    let given: Given = serde_json::from_slice(answer).ok()?;
    let token = if given.token.is_empty() { given.access_token } else { given.token };
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for text in headers {
            map.append("www-authenticate", text.parse().unwrap());
        }
        of(&map)
    }

    #[test]
    fn what_registries_want() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (headers, expected) in [
            (&[r#"Basic realm="x""#][..], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#],
                bearer("https://a/t", Some("s")),
            ),
            (&[r#"Basic realm="x", bearer Realm="https://a/t""#], bearer("https://a/t", None)),
            (&[r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#], bearer("https://a/t", None)),
            (&["Bearer"], None),
            (&["Negotiate"], None),
            (&["\"\"\",,,="], None),
            (&[], None),
        ] {
            assert_eq!(challenge(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_realms_give() {
        assert_eq!(token(br#"{"token": "abc", "access_token": "def"}"#).as_deref(), Some("abc"));
        assert_eq!(token(br#"{"access_token": "def", "expires_in": 300}"#).as_deref(), Some("def"));
        for answer in ["{}", "[]", "", r#"{"token": "a\r\nX: y"}"#] {
            assert_eq!(token(answer.as_bytes()), None);
        }
    }
}
