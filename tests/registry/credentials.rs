//! Who one is to a registry: whatever wrote it down, whatever way the registry asks for it, and nobody else hears it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Seen, command, host, nothing_is_there, pull, settings};
use crate::support::registry::{Certificates, Registry, Settings, files_with};
use crate::support::server::{Act, Answer, Asked, Server, forward};
use crate::support::{Done, Host, done};

/// In no file and no process but those that a test puts it in.
const PASSWORD: &str = "s3cret-Pa:ss-76fe1c";

fn auth(user: &str, password: &str) -> Value {
    json!({"auth": STANDARD.encode(format!("{user}:{password}"))})
}

/// A registry that wants a password, which only `ann` has.
fn closed_registry(folder: &Path) -> Registry {
    let file = folder.join("htpasswd");
    let mut command = Command::new("sh");
    // Not as an argument: those are looked through.
    command.args(["-euc", "printf %s \"$PASSWORD\" | htpasswd -niB ann > \"$1\"", "-"]).arg(&file);
    done({
        command.env("PASSWORD", PASSWORD);
        command
    })
    .succeeds();
    let auth = json!({"htpasswd": {"realm": "test", "path": file}});
    Registry::with(&Settings { auth, ..Settings::default() })
}

/// Neither what was printed nor any file below the root has it, but those that the test itself wrote; nor in the form
/// in which it is sent.
#[track_caller]
fn is_nowhere(host: &Host, secrets: &[&str], done: &Done) {
    let sent = ["ann", "bob"]
        .into_iter()
        .flat_map(|user| secrets.iter().map(move |secret| STANDARD.encode(format!("{user}:{secret}"))));
    let sent: Vec<String> = sent.collect();
    let secrets: Vec<&str> = secrets.iter().copied().chain(sent.iter().map(String::as_str)).collect();
    for secret in &secrets {
        assert!(!done.stdout.contains(secret) && !done.stderr.contains(secret), "{done}");
    }
    for folder in ["var", "run", "etc", "opt"] {
        assert_eq!(files_with(&host.path(folder), &secrets), Vec::<PathBuf>::new());
    }
}

/// The processes that have it in their arguments.
fn processes_with(secret: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(secret)).collect()
}

fn write(path: PathBuf, value: &Value) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make it");
    std::fs::write(path, value.to_string()).expect("write it");
}

#[test]
fn a_password_is_found_wherever_a_login_wrote_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = closed_registry(folder.path());
    let own = registry.name();
    let reference = format!("{own}/os/three:1");
    let mut seen = Seen::default();
    let stranger = host();
    seen.see("nobody", &pull(&stranger, &reference), &stranger, &[(&own, "REGISTRY")]);
    nothing_is_there(&stranger);

    let good = json!({"auths": {(own.clone()): auth("ann", PASSWORD)}});
    let other = json!({"auths": {"registry.example": auth("ann", "x")}});
    for (place, variable) in [
        ("home/.docker/config.json", None),
        ("home/.config/containers/auth.json", None),
        ("runtime/containers/auth.json", None),
        ("elsewhere/config.json", Some(("DOCKER_CONFIG", "elsewhere"))),
        ("elsewhere/auth.json", Some(("REGISTRY_AUTH_FILE", "elsewhere/auth.json"))),
        ("elsewhere/containers/auth.json", Some(("XDG_CONFIG_HOME", "elsewhere"))),
    ] {
        let host = host();
        // One that does not know the registry is passed over.
        write(host.path("runtime/containers/auth.json"), &other);
        write(host.path(place), &good);
        let mut command = command(&host, &["pull", &reference]);
        if let Some((name, value)) = variable {
            command.env(name, host.path(value));
        }
        command.env("RUST_LOG", "trace");
        let pulled = done(command);
        pulled.succeeds();
        is_nowhere(&host, &[PASSWORD], &pulled);
    }

    let host = host();
    let file = host.path("home/.docker/config.json");
    for (what, auths) in [
        ("a wrong password", json!({(own.clone()): auth("ann", "wr0ng-Pass")})),
        ("a wrong user", json!({(own.clone()): auth("bob", PASSWORD)})),
        ("an entry that is broken", json!({(own.clone()): {"auth": PASSWORD}})),
        ("a file that is broken", json!(PASSWORD)),
    ] {
        write(file.clone(), &json!({"auths": auths}));
        let done = pull(&host, &reference);
        seen.see(what, &done, &host, &[(&own, "REGISTRY")]);
        is_nowhere(&host, &[PASSWORD, "wr0ng-Pass"], &done);
        nothing_is_there(&host);
    }
    // podman's files can be more special than a registry.
    let special = json!({"auths": {
        (own.clone()): auth("bob", "x"), (format!("{own}/os")): auth("ann", PASSWORD),
    }});
    write(file, &special);
    pull(&host, &reference).succeeds();
    seen.is("registry_passwords");
}

#[test]
fn who_typed_sudo_is_known_by_the_own_login() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = closed_registry(folder.path());
    let host = host();
    let home = host.path("home-of-ann");
    let good = json!({"auths": {(registry.name()): auth("ann", PASSWORD)}});
    write(home.join(".docker/config.json"), &good);
    // A user of that home, for this one command.
    let users = host.path("passwd");
    std::fs::write(
        &users,
        format!("root:x:0:0::/root:/bin/sh\nann:x:4242:4242::{}:/bin/sh\n", home.display()),
    )
    .expect("write it");
    let reference = format!("{}/os/three:1", registry.name());
    let pull = command(&host, &["pull", &reference]);
    for (user, status) in [("nobody-we-know", 1), ("ann", 0)] {
        let mut unshare = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
        unshare.args(["--mount", "sh", "-euc", script]).arg(&users).arg(pull.get_program());
        unshare.args(pull.get_args());
        for (name, value) in pull.get_envs() {
            match value {
                Some(value) => unshare.env(name, value),
                None => unshare.env_remove(name),
            };
        }
        let done = done({
            unshare.env("SUDO_USER", user);
            unshare
        });
        assert_eq!(done.status, status, "{done}");
        is_nowhere(&host, &[PASSWORD], &done);
    }
}

#[test]
fn a_program_that_keeps_secrets_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = closed_registry(folder.path());
    let own = registry.name();
    let host = host();
    let reference = format!("{own}/os/three:1");
    let bin = host.path("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let helper = |name: &str, script: &str| {
        let path = bin.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write it");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("chmod");
    };
    let given = json!({"ServerURL": own, "Username": "ann", "Secret": PASSWORD});
    let asked = bin.join("asked");
    helper("good", &format!("{{ echo \"$@\"; cat; }} > {}\ncat <<'END'\n{given}\nEND", asked.display()));
    helper("unknowing", "echo credentials not found in native keychain; exit 1");
    helper("broken", &format!("echo {PASSWORD}"));
    helper("failing", &format!("echo {PASSWORD}; echo {PASSWORD} >&2; exit 3"));
    let mut seen = Seen::default();
    let mut attempt = |what: &str, file: Value| {
        write(host.path("home/.docker/config.json"), &file);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
        let mut command = command(&host, &["pull", &reference]);
        let done = done({
            command.env("PATH", path);
            command
        });
        is_nowhere(&host, &[PASSWORD], &done);
        match done.status {
            0 => drop(host.opsrun(["rmi", &reference])),
            _ => {
                seen.see(what, &done, &host, &[(&own, "REGISTRY")]);
                nothing_is_there(&host);
            }
        }
        done.status
    };
    let helpers = |name: &str| json!({"credHelpers": {(own.clone()): name}});
    assert_eq!(attempt("good", helpers("good")), 0);
    assert_eq!(std::fs::read_to_string(&asked).expect("what it was asked"), format!("get\n{own}"));
    assert_eq!(attempt("for all registries", json!({"credsStore": "good"})), 0);
    // One that knows nothing leaves it to the file.
    let both = json!({"credsStore": "unknowing", "auths": {(own.clone()): auth("ann", PASSWORD)}});
    assert_eq!(attempt("beside a file", both), 0);
    assert_eq!(attempt("one that knows nothing", helpers("unknowing")), 1);
    assert_eq!(attempt("one that gives no answer", helpers("broken")), 1);
    assert_eq!(attempt("one that fails", helpers("failing")), 1);
    assert_eq!(attempt("one that is not there", helpers("nowhere")), 1);
    seen.is("registry_credential_programs");
}

/// Gives tokens that Debian's registry believes, to whoever knows the password or the identity token.
struct TokenServer {
    certificates: Certificates,
    server: Server,
}

const IDENTITY: &str = "identity-Tok3n-0c2f";

impl TokenServer {
    fn new(certificates: Certificates) -> Self {
        certificates.run("openssl x509 -in ca.pem -outform DER -out ca.der");
        let key = certificates.path("ca.key");
        let der = std::fs::read(certificates.path("ca.der")).expect("the certificate");
        let server = Server::new(move |asked, _| {
            assert_eq!(processes_with(PASSWORD), Vec::<String>::new());
            assert_eq!(processes_with(IDENTITY), Vec::<String>::new());
            let expected = format!("Basic {}", STANDARD.encode(format!("ann:{PASSWORD}")));
            let is_ann = asked.header("authorization") == Some(&expected)
                || asked.method == "POST" && asked.body.contains(&format!("refresh_token={IDENTITY}"));
            Act::Whole(match is_ann {
                true => token_for(asked, &key, &der),
                false => Answer::new(401, r#"{"details": "incorrect username or password"}"#),
            })
        });
        Self { certificates, server }
    }

    fn registry(&self, realm: &str, tls: Value) -> Registry {
        let auth = json!({"token": {
            "realm": realm, "service": "the registry", "issuer": "test", "rootcertbundle": self.certificates.path("ca.pem"),
        }});
        Registry::with(&Settings { tls, auth })
    }

    fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.server.port)
    }
}

/// A token as docker's token specification has it; the scope is the one that was asked for.
fn token_for(asked: &Asked, key: &Path, der: &[u8]) -> Answer {
    let (_, parameters) = asked.path.split_once('?').unwrap_or(("", &asked.body));
    let parameters =
        parameters.replace("%3A", ":").replace("%2F", "/").replace(['+'], " ").replace("%20", " ");
    let parameter = |name: &str| {
        let mut all = parameters.split('&').filter_map(|pair| pair.split_once('='));
        all.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    assert_eq!(parameter("service"), "the registry", "{asked:?}");
    let scope = parameter("scope");
    let [kind, name, action] = scope.split(':').collect::<Vec<_>>()[..] else { panic!("{scope}") };
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(der)]});
    let claims = json!({
        "iss": "test", "sub": "ann", "aud": "the registry", "exp": 4_102_444_800_u64, "nbf": 0, "iat": 0, "jti": "1",
        "access": [{"type": kind, "name": name, "actions": [action]}],
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let mut openssl = Command::new("sh");
    openssl.args(["-euc", "printf %s \"$1\" | openssl dgst -sha256 -sign \"$2\"", "-", &signed]).arg(key);
    let signature = openssl.output().expect("run openssl");
    assert!(signature.status.success(), "{signature:?}");
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.stdout));
    let answer =
        if asked.method == "POST" { json!({"access_token": token}) } else { json!({"token": token}) };
    Answer::new(200, answer.to_string()).with("content-type", "application/json")
}

#[test]
fn a_token_is_got_for_a_password_or_for_an_identity_token() {
    let tokens = TokenServer::new(Certificates::new());
    let registry = tokens.registry(&tokens.realm(), Value::Null);
    let own = registry.name();
    let reference = format!("{own}/os/three:1");
    let mut seen = Seen::default();
    for (what, entry, status) in [
        ("a password", Some(auth("ann", PASSWORD)), 0),
        ("an identity token", Some(json!({"auth": "eDp5", "identitytoken": IDENTITY})), 0),
        ("a wrong password", Some(auth("ann", "wr0ng-Pass")), 1),
        ("a wrong identity token", Some(json!({"identitytoken": "wr0ng-Tok3n"})), 1),
        ("nothing", None, 1),
    ] {
        let host = host();
        let entries: serde_json::Map<String, Value> =
            entry.into_iter().map(|entry| (own.clone(), entry)).collect();
        write(host.path("home/.docker/config.json"), &json!({"auths": entries}));
        let done = pull(&host, &reference);
        assert_eq!(done.status, status, "{what}: {done}");
        // The last is how a token begins.
        is_nowhere(&host, &[PASSWORD, IDENTITY, "wr0ng", "eyJhbGci"], &done);
        if status != 0 {
            nothing_is_there(&host);
            seen.see(what, &done, &host, &[(&own, "REGISTRY")]);
        }
        let asked = tokens.server.asked();
        assert_eq!(asked.len(), 1, "one token does for all of it: {asked:#?}");
    }
    seen.is("registry_tokens");
}

#[test]
fn nobody_is_told_credentials_without_tls_by_a_registry_with_tls() {
    let tokens = TokenServer::new(Certificates::new());
    let registry = tokens.registry(&tokens.realm(), tokens.certificates.tls());
    let own = registry.name();
    let host = host();
    let ca = tokens.certificates.path("ca.pem");
    settings(&host, &format!("[registry.\"{own}\"]\nca = \"{}\"\n", ca.display()), "10s");
    write(host.path("home/.docker/config.json"), &json!({"auths": {(own.clone()): auth("ann", PASSWORD)}}));
    let realm = format!("127.0.0.1:{}", tokens.server.port);
    let done = pull(&host, &format!("{own}/os/three:1"));
    let mut seen = Seen::default();
    seen.see("a realm without TLS", &done, &host, &[(&own, "REGISTRY"), (&realm, "REALM")]);
    seen.is("registry_realm_without_tls");
    assert_eq!(tokens.server.asked().len(), 0);
    nothing_is_there(&host);
}

#[test]
fn whoever_a_registry_points_to_is_not_told_credentials() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = closed_registry(folder.path());
    let host = host();
    let open = Registry::new();
    // The store behind the registry, which others than the registry can be.
    let behind = open.port;
    let store = Arc::new(Server::before(behind, |_, _| None));
    let (there, to) = (registry.port, store.port);
    let server = Server::before(there, move |asked, _| {
        let answer = forward(there, asked);
        // To another host, as far as names go.
        let location = format!("http://localhost:{to}{}", asked.path);
        (asked.is_blob() && answer.status == 200)
            .then(|| Act::Whole(Answer::new(307, "").with("location", location)))
    });
    let own = format!("127.0.0.1:{}", server.port);
    write(host.path("home/.docker/config.json"), &json!({"auths": {(own.clone()): auth("ann", PASSWORD)}}));
    let pulled = pull(&host, &format!("{own}/os/three:1"));
    pulled.succeeds();
    is_nowhere(&host, &[PASSWORD], &pulled);
    let asked = store.asked();
    assert_eq!(asked.len(), 4, "{asked:#?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:#?}");
    assert!(server.asked().iter().any(|asked| asked.header("authorization").is_some()));
    // Nor does it get what it asks for.
    store.rule(|_, _| Act::Whole(Answer::new(401, "").with("www-authenticate", "Basic realm=\"mine\"")));
    host.opsrun(["rmi", "three:1"]).succeeds();
    pull(&host, &format!("{own}/os/three:1")).fails(1, &["answered 401"]);
    let asked = store.asked();
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:#?}");
    nothing_is_there(&host);
}
