//! The names of images as people type them and as archives carry them.
//! Does not know which images there are: the store says what a reference means.
//!
//! An image built by podman or buildah is called `localhost/keystone:zed`, one saved by Docker
//! `docker.io/library/keystone:zed` or just `keystone:zed`. On a controller these all mean the same to the
//! person who types, so [`Reference::name`] is the shortest form, and references are compared by it.
//! The form that was written is kept beside it ([`Reference::written`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::Error;

/// Prefixes that say nothing on the host where the image is: Docker's default registry and namespace, and the
/// one that podman and buildah give to what was built here. The longer one first.
const IMPLIED: [&str; 5] =
    ["docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/", "localhost/"];

/// The longest name that the distribution specification allows, registry included.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// The name of an image: `keystone`, `keystone:zed`, `host:5000/a/b:tag`, `keystone@sha256:…`, or an id, `sha256:…`.
/// Equal are references with equal name, tag and digest, however they were written.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The name without tag, digest and implied registry: `keystone`, `quay.io/openstack/keystone`.
    /// Empty when the reference is an id alone.
    pub name: String,
    /// The tag, which is the release of a service: `zed`.
    pub tag: Option<String>,
    /// The digest of the image's configuration (its id) or manifest.
    pub digest: Option<Digest>,
    written_name: String,
}

impl Reference {
    /// The reference that names one release: `keystone` and `zed` are `keystone:zed`.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] if either part is no such thing.
    pub fn tagged(name: &str, tag: &str) -> Result<Self, Error> {
        format!("{name}:{tag}").parse()
    }

    /// The id of an image as a reference.
    pub fn id(digest: Digest) -> Self {
        Self { name: String::new(), tag: None, digest: Some(digest), written_name: String::new() }
    }

    /// The reference with the registry that it was written with: `localhost/keystone:zed`.
    pub fn written(&self) -> String {
        join(&self.written_name, self.tag.as_deref(), self.digest.as_ref())
    }

    /// The registry that it was written with: `host:5000`, `localhost`, `docker.io`.
    pub fn registry(&self) -> Option<&str> {
        self.written_name.split_once('/').map(|(first, _)| first).filter(|first| is_registry(first))
    }

    /// The name as it was written, without the registry: `a/b`.
    pub fn repository(&self) -> &str {
        match self.registry() {
            Some(registry) => &self.written_name[registry.len() + 1..],
            None => &self.written_name,
        }
    }

    /// This reference with a tag: its own, or else the given one.
    pub(crate) fn with_tag_or(mut self, tag: &str) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(tag.to_owned());
        }
        self
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::InvalidReference { text: text.to_owned(), reason })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(&self.name, self.tag.as_deref(), self.digest.as_ref()))
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Reference {}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reference {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for Reference {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Reference {
    fn key(&self) -> (&str, Option<&str>, Option<&Digest>) {
        (&self.name, self.tag.as_deref(), self.digest.as_ref())
    }
}

fn join(name: &str, tag: Option<&str>, digest: Option<&Digest>) -> String {
    let mut text = name.to_owned();
    if let Some(tag) = tag {
        text.push(':');
        text.push_str(tag);
    }
    if let Some(digest) = digest {
        if !text.is_empty() {
            text.push('@');
        }
        text.push_str(&digest.to_string());
    }
    text
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if let Some(id) = text.parse().ok().or_else(|| Digest::from_hex(text)) {
        return Ok(Reference::id(id));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "what follows @ is not a sha256 digest")?))
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_at..].split_once(':') {
        Some((last, tag)) => (&rest[..path_at + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag consists of letters, digits, '_', '.' and '-', at most 128, and begins with neither '.' nor '-'",
        );
    }
    check_name(name)?;
    let is_id = |text: &str| Digest::from_hex(text).is_some() || text.parse::<Digest>().is_ok();
    // Written without the registry it would mean whatever image has that id; Docker refuses such names too.
    if is_id(shortest(name)) || is_id(&join(shortest(name), tag, None)) {
        return Err("without its registry it would be the id of an image");
    }
    Ok(Reference {
        name: shortest(name).to_owned(),
        tag: tag.map(str::to_owned),
        digest,
        written_name: name.to_owned(),
    })
}

/// Whether this can be a tag (distribution-spec, "Pulling manifests").
pub(crate) fn is_tag(tag: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(first)
        && tag.bytes().all(|byte| first(byte) || byte == b'.' || byte == b'-')
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("it is longer than 255 bytes");
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    };
    if registry.is_some_and(|registry| !is_host_and_port(registry)) {
        return Err("the registry before the first '/' is not a host name");
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a name is written in lower case");
    }
    if !path.split('/').all(is_component) {
        return Err("a name consists of lower-case letters and digits, separated by '/', '.', '_' or '-'");
    }
    Ok(())
}

/// Whether the first part of a name is a registry, by Docker's rule: it has a dot or a port, or is localhost.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn is_host_and_port(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let port_is_right =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port_is_right && host.split('.').all(is_label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let mut at = 0;
    loop {
        let letters = bytes[at..].iter().take_while(|byte| alphanumeric(byte)).count();
        if letters == 0 {
            return false;
        }
        at += letters;
        if at == bytes.len() {
            return true;
        }
        let separator = bytes[at..].iter().take_while(|byte| !alphanumeric(byte)).count();
        let part = &bytes[at..at + separator];
        if !matches!(part, b"." | b"_" | b"__") && !part.iter().all(|&byte| byte == b'-') {
            return false;
        }
        at += separator;
    }
}

/// The name without its implied prefix, unless what remains would be read as another registry's.
fn shortest(name: &str) -> &str {
    for prefix in IMPLIED {
        if let Some(rest) = name.strip_prefix(prefix) {
            return match rest.split_once('/') {
                Some((first, _)) if is_registry(first) => name,
                _ => rest,
            };
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_typed_and_what_it_means() {
        for (text, name, tag, written) in [
            ("keystone", "keystone", None, "keystone"),
            ("keystone:zed", "keystone", Some("zed"), "keystone:zed"),
            ("localhost/keystone:zed", "keystone", Some("zed"), "localhost/keystone:zed"),
            ("docker.io/library/keystone:zed", "keystone", Some("zed"), "docker.io/library/keystone:zed"),
            ("docker.io/kolla/keystone:zed", "kolla/keystone", Some("zed"), "docker.io/kolla/keystone:zed"),
            ("localhost:5000/keystone", "localhost:5000/keystone", None, "localhost:5000/keystone"),
            ("host:5000/a/b:tag", "host:5000/a/b", Some("tag"), "host:5000/a/b:tag"),
            (
                "quay.io/openstack/keystone:2024.1",
                "quay.io/openstack/keystone",
                Some("2024.1"),
                "quay.io/openstack/keystone:2024.1",
            ),
            ("localhost/quay.io/a:1", "localhost/quay.io/a", Some("1"), "localhost/quay.io/a:1"),
            ("Example.COM/a__b-c.d---e", "Example.COM/a__b-c.d---e", None, "Example.COM/a__b-c.d---e"),
            ("3f2a9c1b", "3f2a9c1b", None, "3f2a9c1b"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.name, name, "{text}");
            assert_eq!(reference.tag.as_deref(), tag, "{text}");
            assert_eq!(reference.digest, None, "{text}");
            assert_eq!(reference.written(), written, "{text}");
        }
    }

    #[test]
    fn ids_and_digests() {
        let digest = Digest::of(b"x");
        for text in [digest.to_string(), digest.hex()] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference, Reference::id(digest));
            assert_eq!(reference.to_string(), digest.to_string());
        }
        let reference: Reference = format!("localhost/keystone@{digest}").parse().unwrap();
        assert_eq!((reference.name.as_str(), reference.digest), ("keystone", Some(digest)));
        assert_eq!(reference.to_string(), format!("keystone@{digest}"));
    }

    #[test]
    fn spellings_of_one_name_are_equal() {
        let typed: Reference = "keystone:zed".parse().unwrap();
        assert_eq!(typed, "localhost/keystone:zed".parse().unwrap());
        assert_eq!(typed, "docker.io/library/keystone:zed".parse().unwrap());
        assert_ne!(typed, "quay.io/keystone:zed".parse().unwrap());
        assert_ne!(typed, "keystone:epoxy".parse().unwrap());
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            ":",
            ":zed",
            "/",
            "a/",
            "/a",
            "a//b",
            "../a",
            "a/../b",
            "..",
            ".",
            "-a",
            "a-",
            "a..b",
            "a_-b",
            "a___b",
            "Keystone",
            "keystone:",
            "keystone:-zed",
            "keystone:.zed",
            "keystone:a b",
            "keystone:a:b",
            "keystone@",
            "keystone@zed",
            "a b",
            "a\0b",
            "host:port/a",
            "ho_st.x/a",
            ".x/a",
            "keystone:zed\n",
            "käse",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!("a".repeat(256).parse::<Reference>().is_err());
        assert!(format!("a:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same(text in "(([a-z]{1,5}\\.)?[a-z]{1,5}(:[0-9]{1,4})?/)?[a-z0-9]{1,4}([._-][a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,4}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.written(), &text);
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(!reference.name.contains(".."));
            }
        }
    }

    /// Found by fuzzing: what was a name with its registry was another image's id without it.
    #[test]
    fn a_name_that_reads_as_an_id_is_none() {
        let hex = "a".repeat(64);
        for text in
            [format!("docker.io/library/{hex}"), format!("localhost/sha256:{hex}"), format!("{hex}:zed")]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(format!("quay.io/{hex}").parse::<Reference>().is_ok());
    }
}
