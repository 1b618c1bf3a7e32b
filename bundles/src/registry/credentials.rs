//! Finds who one is to a registry: what `docker login` and `podman login` wrote, and the programs that keep secrets.
//! Sends nothing, and no message has anything of what it reads.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::place::{Repository, credential_keys};
use crate::error::{Error, Result};

/// Who one is. Deliberately without Debug: nothing of it can get into a message.
pub(super) struct Credentials {
    pub(super) secret: Secret,
    /// Where they are from, for messages.
    pub(super) from: PathBuf,
}

pub(super) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// What a registry gave in exchange for a password: a refresh token of OAuth 2.
    Token(String),
}

impl Secret {
    /// The value of an `Authorization` header (RFC 7617).
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Token(_) => None,
        }
    }
}

/// The files that can have credentials, the first that knows a registry counts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthFiles(Vec<PathBuf>);

impl fmt::Debug for AuthFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl AuthFiles {
    /// The files of whoever runs this, in podman's order; those of who typed sudo come after root's own.
    pub fn of_environment() -> Self {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self(vec![file]);
        }
        let uid = rustix::process::getuid().as_raw();
        let mut files = vec![match variable("XDG_RUNTIME_DIR") {
            Some(folder) => folder.join("containers/auth.json"),
            None => format!("/run/containers/{uid}/auth.json").into(),
        }];
        let home = variable("HOME");
        let configuration =
            variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        files.extend(configuration.map(|folder| folder.join("containers/auth.json")));
        let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        files.extend(docker.map(|folder| folder.join("config.json")));
        let typed = std::env::var("SUDO_USER").ok().filter(|_| uid == 0);
        if let Some(Ok(Some(user))) = typed.map(|name| nix::unistd::User::from_name(&name)) {
            files.push(format!("/run/user/{}/containers/auth.json", user.uid).into());
            files.push(user.dir.join(".config/containers/auth.json"));
            files.push(user.dir.join(".docker/config.json"));
        }
        Self(files)
    }

    /// Where a login would be written, for hints.
    pub fn first(&self) -> Option<&Path> {
        self.0.first().map(PathBuf::as_path)
    }

    /// Who one is to a repository's registry; nothing if no file knows it.
    pub(super) fn find(&self, repository: &Repository) -> Result<Option<Credentials>> {
        let keys = credential_keys(repository);
        for path in &self.0 {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                // What is not there, and what is nobody's to read, has none.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
            };
            if let Some(secret) = in_file(&text, path, &keys)? {
                return Ok(Some(Credentials { secret, from: path.clone() }));
            }
        }
        Ok(None)
    }
}

/// The form of docker's `config.json` and podman's `auth.json`. Other keys are other programs' business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

fn in_file(text: &[u8], path: &Path, keys: &[String]) -> Result<Option<Secret>> {
    let wrong = |reason: String| Error::Credentials { path: path.to_owned(), reason };
    // serde's own words could quote a secret, so only the place is told.
    let file: File = serde_json::from_slice(text).map_err(|error| {
        wrong(format!("line {}, column {} is not as it should be", error.line(), error.column()))
    })?;
    for key in keys {
        // docker: a registry's own program comes before the one for all, and that before what the file has.
        if let Some(program) = file.cred_helpers.get(key) {
            return ask(program, key, path);
        }
        if let Some(program) = &file.creds_store
            && let Some(secret) = ask(program, key, path)?
        {
            return Ok(Some(secret));
        }
        // Old files have addresses.
        let fits = |name: &str| {
            let name = name.strip_prefix("https://").or(name.strip_prefix("http://")).unwrap_or(name);
            name.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2") == key
        };
        let entry = file
            .auths
            .get(key)
            .or_else(|| file.auths.iter().find(|(name, _)| fits(name)).map(|(_, entry)| entry));
        match entry {
            Some(Entry { identitytoken: Some(token), .. }) if !token.is_empty() => {
                return Ok(Some(Secret::Token(token.clone())));
            }
            Some(Entry { auth: Some(auth), .. }) if !auth.is_empty() => {
                let secret = decoded(auth).ok_or_else(|| wrong(format!("the entry for {key} is broken")))?;
                return Ok(Some(secret));
            }
            // docker leaves an empty entry where a program has the secret.
            _ => {}
        }
    }
    Ok(None)
}

fn decoded(auth: &str) -> Option<Secret> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // Old versions of docker padded it.
    let password = password.trim_end_matches('\0').to_owned();
    Some(Secret::Password { user: user.to_owned(), password })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    username: String,
    secret: String,
}

/// Asks a program that keeps secrets, by the protocol of docker-credential-helpers.
fn ask(name: &str, key: &str, path: &Path) -> Result<Option<Secret>> {
    let program = format!("docker-credential-{name}");
    let wrong = |reason: String| Error::CredentialProgram {
        program: program.clone(),
        path: path.to_owned(),
        host: key.to_owned(),
        reason,
    };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(wrong("is not the name of a program".to_owned()));
    }
    let mut command = Command::new(&program);
    let command = command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong("is not installed".to_owned()),
        _ => wrong(format!("cannot be run: {error}")),
    })?;
    // OK to fail: a program that does not want to know says so by its status.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(key.as_bytes()));
    let output = child.wait_with_output().map_err(|error| wrong(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        // The helpers' own library says it in these words.
        return match String::from_utf8_lossy(&output.stdout).contains("credentials not found") {
            true => Ok(None),
            false => Err(wrong(format!("ended with {}", output.status))),
        };
    }
    let given: Given = serde_json::from_slice(&output.stdout)
        .map_err(|_| wrong("gave an answer that is not as it should be".to_owned()))?;
    // "<token>" is the user of a token.
    Ok(Some(match given.username.as_str() {
        "<token>" => Secret::Token(given.secret),
        _ => Secret::Password { user: given.username, password: given.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, keys: &[&str]) -> String {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        match in_file(text.as_bytes(), Path::new("/auth.json"), &keys) {
            Ok(Some(Secret::Password { user, password })) => format!("{user}/{password}"),
            Ok(Some(Secret::Token(token))) => format!("token {token}"),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_auth_files_say() {
        let auth = STANDARD.encode("ann:s3cret:x");
        let file = format!(
            r#"{{"auths": {{"r.example": {{"auth": "{auth}"}}, "https://old.example/v1/": {{"auth": "{auth}"}},
                "t.example": {{"auth": "eDp5", "identitytoken": "abc"}}, "e.example": {{}}}}, "HttpHeaders": {{}}}}"#
        );
        assert_eq!(found(&file, &["r.example/a/b", "r.example"]), "ann/s3cret:x");
        assert_eq!(found(&file, &["old.example"]), "ann/s3cret:x");
        assert_eq!(found(&file, &["t.example"]), "token abc");
        assert_eq!(found(&file, &["e.example"]), "none");
        assert_eq!(found(&file, &["other.example"]), "none");
        assert_eq!(found("{}", &["r.example"]), "none");
    }

    #[test]
    fn no_message_has_a_secret() {
        for text in [
            r#"{"auths": "s3cret"}"#,
            r#"{"auths": {"r.example": "s3cret"}}"#,
            r#"{"auths": {"r.example": {"auth": "s3cret"}}}"#,
            r#"{"auths": {"r.example": {"auth": 53}}"#,
        ] {
            let said = found(text, &["r.example"]);
            assert!(said.contains("/auth.json") && !said.contains("s3cret"), "{said}");
        }
        let said = found(r#"{"credsStore": "no-such-program"}"#, &["r.example"]);
        assert!(
            said.contains("docker-credential-no-such-program") && said.contains("not installed"),
            "{said}"
        );
        assert!(found(r#"{"credHelpers": {"r.example": "../x"}}"#, &["r.example"]).contains("not the name"));
    }
}
