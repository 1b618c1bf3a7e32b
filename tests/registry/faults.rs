//! A registry that fails: what can be mended by asking again is, and else nothing is left and the next pull works.

use std::sync::Arc;

use serde_json::Value;

use super::{Seen, fsck_is_clean, host, nothing_is_there, pull, settings};
use crate::support::Host;
use crate::support::registry::Registry;
use crate::support::server::{Act, Answer, Asked, Server, forward};

/// One image in a registry, before which stands one that can fail.
struct Failing {
    registry: Registry,
    server: Server,
    layers: Arc<Vec<String>>,
}

/// What the registry is about to answer, how often it was asked for that, and whether it is the second layer.
struct About {
    asked: Asked,
    answer: Answer,
    nth: usize,
    is_layer: bool,
    is_second: bool,
    is_manifest: bool,
    behind: u16,
    layers: Arc<Vec<String>>,
}

impl Failing {
    fn new() -> Self {
        let registry = Registry::new();
        let layers = Arc::new(registry.layers("os/three", "1"));
        let server = Server::before(registry.port, |_, _| None);
        Self { registry, server, layers }
    }

    fn reference(&self) -> String {
        format!("127.0.0.1:{}/os/three:1", self.server.port)
    }

    fn fails_so(&self, act: impl Fn(About) -> Act + Send + Sync + 'static) {
        let (behind, layers) = (self.registry.port, Arc::clone(&self.layers));
        self.server.rule(move |asked, nth| {
            let is = |layer: &String| asked.path.ends_with(layer.as_str());
            act(About {
                answer: forward(behind, asked),
                nth,
                is_layer: layers.iter().any(is),
                is_second: is(&layers[1]),
                is_manifest: asked.path.contains("/manifests/"),
                asked: asked.clone(),
                behind,
                layers: Arc::clone(&layers),
            })
        });
        self.server.asked();
    }

    fn recovers(&self) {
        let behind = self.registry.port;
        self.server.rule(move |asked, _| Act::Whole(forward(behind, asked)));
        self.server.asked();
    }

    fn whole(&self, host: &Host) {
        fsck_is_clean(host);
        assert!(host.opsrun(["images"]).stdout.contains(&self.reference().replace(":1", "")), "it is there");
    }

    /// The requests for one layer, and where they began.
    fn asked_for_second(&self) -> Vec<Option<String>> {
        let of_second = self.server.asked().into_iter().filter(|asked| asked.path.ends_with(&self.layers[1]));
        of_second.map(|asked| asked.header("range").map(str::to_owned)).collect()
    }
}

type Rule = Box<dyn Fn(About) -> Act + Send + Sync>;

#[test]
fn what_a_registry_does_wrong_for_good_leaves_nothing_behind() {
    let failing = Failing::new();
    let own = format!("127.0.0.1:{}", failing.server.port);
    // Compressed, chance has as many bytes each time as chance will have it.
    let (manifest, _) = failing.registry.manifest("os/three/manifests/1");
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
    let bytes = manifest["layers"][1]["size"].as_u64().expect("a size");
    let (longer, bytes) = ((bytes + 100).to_string(), bytes.to_string());
    let faults: Vec<(&str, Rule)> = vec![
        (
            "500 for a manifest",
            Box::new(|it| match it.is_manifest {
                true => Act::Whole(Answer::new(
                    500,
                    r#"{"errors": [{"code": "UNKNOWN", "message": "out of order"}]}"#,
                )),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "502 with a page for a layer",
            Box::new(|it| match it.is_second {
                true => Act::Whole(Answer::new(502, "<html><h1>502 Bad Gateway</h1></html>")),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "429 for longer than anybody waits",
            Box::new(|it| match it.is_second {
                true => Act::Whole(Answer::new(429, "").with("retry-after", "3600")),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "404 for a layer",
            Box::new(|it| match it.is_second {
                true => Act::Whole(Answer::new(404, r#"{"errors": [{"code": "BLOB_UNKNOWN"}]}"#)),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a layer that never comes on",
            Box::new(|it| match it.is_second {
                true => Act::Stall(it.answer, 1000),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a manifest that never comes",
            Box::new(|it| match it.is_manifest {
                true => Act::Silence(it.answer),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a layer that always breaks off",
            Box::new(|it| match it.is_second {
                true => Act::Cut(it.answer, 1000),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "another layer of the same size",
            Box::new(|it| match it.is_second {
                true => {
                    let path = it.asked.path.replace(&it.layers[1], &it.layers[0]);
                    let mut other = forward(it.behind, &Asked { path, ..it.asked });
                    // A comment in the head (RFC 1952) makes up for what is missing.
                    let missing = it.answer.body.len() - other.body.len();
                    assert_eq!(other.body[..4], [0x1f, 0x8b, 8, 0]);
                    other.body[3] = 0x10;
                    let comment = std::iter::repeat_n(b'c', missing - 1).chain([0]);
                    other.body.splice(10..10, comment);
                    Act::Whole(Answer { body: other.body, ..it.answer })
                }
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a byte that is another one",
            Box::new(|mut it| {
                if it.is_second {
                    it.answer.body[150_000] ^= 1;
                }
                Act::Whole(it.answer)
            }),
        ),
        (
            "a configuration that is another one",
            Box::new(|mut it| {
                if it.asked.is_blob() && !it.is_layer {
                    let last = it.answer.body.len() - 2;
                    it.answer.body[last] = b' ';
                }
                Act::Whole(it.answer)
            }),
        ),
        (
            "a manifest of another digest",
            Box::new(|it| match it.is_manifest {
                true => {
                    let other = format!("sha256:{}", "0".repeat(64));
                    Act::Whole(it.answer.with("docker-content-digest", other))
                }
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a layer that is said to be longer",
            Box::new(|mut it| {
                if it.is_second {
                    it.answer.body.extend([0; 100]);
                    let bytes = it.answer.body.len().to_string();
                    it.answer = it.answer.with("content-length", bytes);
                }
                Act::Whole(it.answer)
            }),
        ),
        (
            "a layer that is said to be shorter",
            Box::new(|mut it| {
                if it.is_second {
                    it.answer.body.truncate(1000);
                    it.answer = it.answer.with("content-length", "1000");
                }
                Act::Whole(it.answer)
            }),
        ),
        (
            "a layer that does not end",
            Box::new(|mut it| {
                if it.is_second {
                    it.answer.body.extend([0; 100]);
                    it.answer.headers.retain(|(name, _)| name != "content-length");
                    it.answer = it.answer.with("transfer-encoding", "identity");
                }
                Act::Whole(it.answer)
            }),
        ),
        (
            "another part than was asked for",
            Box::new(|it| match (it.is_second, it.nth) {
                (true, 0) => Act::Cut(it.answer, 1000),
                (true, _) => Act::Whole(it.answer.with("content-range", "bytes 0-9/300572")),
                _ => Act::Whole(it.answer),
            }),
        ),
        (
            "a page instead of a manifest",
            Box::new(|it| match it.is_manifest {
                true => Act::Whole(
                    Answer::new(200, "<html>Please log in</html>").with("content-type", "text/html"),
                ),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "redirects without end",
            Box::new(|it| match it.is_second {
                true => Act::Whole(Answer::new(302, "").with("location", it.asked.path)),
                false => Act::Whole(it.answer),
            }),
        ),
        (
            "a redirect to no address",
            Box::new(|it| match it.is_second {
                true => Act::Whole(Answer::new(302, "").with("location", "file:///etc/passwd?X=secret")),
                false => Act::Whole(it.answer),
            }),
        ),
    ];
    let mut seen = Seen::default();
    for (what, rule) in faults {
        let host = host();
        let stall = if what.contains("never") { "300ms" } else { "10s" };
        settings(&host, "", stall);
        failing.fails_so(rule);
        let done = pull(&host, &failing.reference());
        assert_eq!(done.status, 1, "{what}: {done}");
        seen.see(what, &done, &host, &[(&own, "REGISTRY"), (&longer, "100 more"), (&bytes, "so many")]);
        nothing_is_there(&host);
        failing.recovers();
        settings(&host, "", "10s");
        pull(&host, &failing.reference()).succeeds();
        failing.whole(&host);
    }
    seen.is("registry_faults");
}

#[test]
fn what_passes_is_waited_for() {
    let failing = Failing::new();
    let faults: Vec<(&str, Rule, &str)> = vec![
        (
            "500 twice",
            Box::new(|it| match it.nth {
                0 | 1 => Act::Whole(Answer::new(500, "")),
                _ => Act::Whole(it.answer),
            }),
            "answered 500; trying again in 0.0 s",
        ),
        (
            "429 once",
            Box::new(|it| match it.nth {
                0 => Act::Whole(Answer::new(429, "").with("retry-after", "1")),
                _ => Act::Whole(it.answer),
            }),
            "answered 429; trying again in 1.0 s",
        ),
        (
            "silence once",
            Box::new(|it| match (it.is_second, it.nth) {
                (true, 0) => Act::Silence(it.answer),
                _ => Act::Whole(it.answer),
            }),
            "sent nothing for 0.3 s; trying again",
        ),
    ];
    for (what, rule, said) in faults {
        let host = host();
        settings(&host, "", if what.contains("silence") { "300ms" } else { "10s" });
        failing.fails_so(rule);
        let began = std::time::Instant::now();
        let done = pull(&host, &failing.reference());
        done.succeeds();
        assert!(done.stderr.contains(said), "{what}: {done}");
        assert!(what != "429 once" || began.elapsed().as_secs() >= 1, "it came again too soon");
        failing.whole(&host);
    }
}

#[test]
fn a_layer_that_breaks_off_is_resumed_where_it_did() {
    let failing = Failing::new();
    let host = host();
    failing.fails_so(|it| match (it.is_second, it.nth) {
        (true, 0) => Act::Cut(it.answer, 100_000),
        _ => Act::Whole(it.answer),
    });
    let done = pull(&host, &failing.reference());
    assert!(done.succeeds().stderr.contains("broke off after 100000 bytes"), "{done}");
    assert_eq!(failing.asked_for_second(), [None, Some("bytes=100000-".to_owned())]);
    failing.whole(&host);

    // One that stops in the middle too.
    let host = self::host();
    settings(&host, "", "300ms");
    failing.fails_so(|it| match (it.is_second, it.nth) {
        (true, 0) => Act::Stall(it.answer, 200_000),
        _ => Act::Whole(it.answer),
    });
    pull(&host, &failing.reference()).succeeds();
    assert_eq!(failing.asked_for_second(), [None, Some("bytes=200000-".to_owned())]);
    failing.whole(&host);

    // Who knows no ranges sends all of it again, of which only what is missing is taken.
    let host = self::host();
    failing.fails_so(|mut it| match (it.is_second, it.nth) {
        (true, 0) => Act::Cut(it.answer, 100_000),
        (true, 1) => {
            it.asked.headers.retain(|(name, _)| name != "range");
            Act::Cut(forward(it.behind, &it.asked), 200_000)
        }
        _ => Act::Whole(it.answer),
    });
    pull(&host, &failing.reference()).succeeds();
    let ranges = failing.asked_for_second();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
    failing.whole(&host);
}
