//! What an image's configuration says: the OCI image specification's `config`, and Docker's keys beyond it.
//! It does not know what is made of it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The part of an image's configuration that says how to run it. A key that is null is one that is not there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ImageConfig {
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) user: Option<String>,
    pub(super) working_dir: Option<String>,
    pub(super) stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    healthcheck: Option<RawHealthcheck>,
    shell: Option<Vec<String>>,
}

/// How an image says that its health is checked (Docker's `HEALTHCHECK`). What it leaves out is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageHealthcheck {
    /// The command to run in the container; status 0 is healthy. `CMD-SHELL` is already wrapped in the image's shell.
    pub test: Vec<String>,
    /// Milliseconds between two checks.
    pub interval_ms: Option<u64>,
    /// Milliseconds after which a check has failed.
    pub timeout_ms: Option<u64>,
    /// Milliseconds after the start in which failures do not count.
    pub start_period_ms: Option<u64>,
    /// Milliseconds between two checks in the start period.
    pub start_interval_ms: Option<u64>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    /// Nanoseconds, as all of Go's durations; 0 means "the default".
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Option<ImageConfig>,
}

impl ImageConfig {
    pub(super) fn read(image: &str, configuration: &[u8]) -> Result<Self> {
        let read: Configuration =
            serde_json::from_slice(configuration).map_err(|source| Error::Document {
                origin: image.to_owned(),
                document: "the image's configuration".to_owned(),
                source,
            })?;
        Ok(read.config.unwrap_or_default())
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.clone().unwrap_or_default()
    }

    pub(super) fn volumes(&self) -> Vec<PathBuf> {
        let named = self.volumes.iter().flatten().filter_map(|(path, _)| clean(path));
        // These are the container's own views of the kernel; an image cannot wish to replace them.
        let kernels = [Path::new("/proc"), Path::new("/sys"), Path::new("/dev")];
        let mut volumes: Vec<_> =
            named.filter(|path| !kernels.iter().any(|kernel| path.starts_with(kernel))).collect();
        volumes.retain(|path| path != Path::new("/"));
        volumes.sort();
        volumes.dedup();
        volumes
    }

    pub(super) fn healthcheck(&self) -> Option<ImageHealthcheck> {
        let raw = self.healthcheck.as_ref()?;
        let test = raw.test.as_deref().unwrap_or_default();
        let test = match test.split_first() {
            Some((kind, command)) if kind == "CMD" && !command.is_empty() => command.to_vec(),
            Some((kind, [command])) if kind == "CMD-SHELL" => {
                let shell = self.shell.clone().filter(|shell| !shell.is_empty());
                let mut test = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                test.push(command.clone());
                test
            }
            // "NONE", or nothing that could be run.
            _ => return None,
        };
        let milliseconds = |nanoseconds: Option<i64>| {
            u64::try_from(nanoseconds?).ok().filter(|&n| n > 0).map(|n| n.div_ceil(1_000_000))
        };
        Some(ImageHealthcheck {
            test,
            interval_ms: milliseconds(raw.interval),
            timeout_ms: milliseconds(raw.timeout),
            start_period_ms: milliseconds(raw.start_period),
            start_interval_ms: milliseconds(raw.start_interval),
            retries: raw
                .retries
                .and_then(|retries| u32::try_from(retries).ok())
                .filter(|&retries| retries > 0),
        })
    }
}

/// A path in a container made absolute, without `.`, `..` and doubled slashes, as Docker does it: by its text alone.
/// `None` for one that holds a NUL byte.
pub(super) fn clean(path: &str) -> Option<PathBuf> {
    if path.contains('\0') {
        return None;
    }
    let mut cleaned = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    Some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(config: &str) -> ImageConfig {
        ImageConfig::read("test", format!(r#"{{"architecture": "amd64", "config": {config}}}"#).as_bytes())
            .unwrap()
    }

    #[test]
    fn nulls_and_missing_keys_are_the_same() {
        for text in
            [r#"{}"#, r#"{"config": null}"#, r#"{"config": {"Env": null, "Volumes": null, "Cmd": null}}"#]
        {
            let config = ImageConfig::read("test", text.as_bytes()).unwrap();
            assert!(config.env.is_none() && config.cmd.is_none() && config.volumes().is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_said() {
        for text in ["", "7", r#"{"config": {"Env": "PATH=/bin"}}"#, r#"{"config": "x"}"#] {
            let error = ImageConfig::read("keystone:zed", text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, Error::Document { ref origin, .. } if origin == "keystone:zed"),
                "{text}"
            );
        }
    }

    #[test]
    fn volumes_are_cleaned_and_cannot_hide_the_kernel() {
        let config = config(
            r#"{"Volumes": {"/var/lib/x/": {}, "relative": {}, "/a/../../b": {}, "/": {}, "/proc/self": {}, "/sys": {},
                "/dev/shm": {}, "//var//lib/x": {}, "/processes": {}, "/nul\u0000": {}}}"#,
        );
        let expected: Vec<_> =
            ["/b", "/processes", "/relative", "/var/lib/x"].iter().map(PathBuf::from).collect();
        assert_eq!(config.volumes(), expected);
    }

    #[test]
    fn health_checks_are_read_in_dockers_forms() {
        let check = |text: &str| config(&format!(r#"{{"Healthcheck": {text}}}"#)).healthcheck();
        let full = check(
            r#"{"Test": ["CMD", "curl", "-f", "http://localhost"], "Interval": 30000000000, "Timeout": 1500000,
                "StartPeriod": 0, "StartInterval": -5, "Retries": 3}"#,
        );
        let expected = ImageHealthcheck {
            test: ["curl", "-f", "http://localhost"].map(str::to_owned).to_vec(),
            interval_ms: Some(30_000),
            timeout_ms: Some(2),
            start_period_ms: None,
            start_interval_ms: None,
            retries: Some(3),
        };
        assert_eq!(full, Some(expected));
        let shell = check(r#"{"Test": ["CMD-SHELL", "curl localhost || exit 1"]}"#).unwrap();
        assert_eq!(shell.test, ["/bin/sh", "-c", "curl localhost || exit 1"]);
        for none in [r#"{"Test": ["NONE"]}"#, r#"{"Test": []}"#, r#"{}"#, r#"{"Test": ["CMD"]}"#, "null"] {
            assert_eq!(check(none), None, "{none}");
        }
    }

    #[test]
    fn the_images_own_shell_runs_a_shell_check() {
        let config =
            config(r#"{"Shell": ["/bin/bash", "-ec"], "Healthcheck": {"Test": ["CMD-SHELL", "true"]}}"#);
        assert_eq!(config.healthcheck().unwrap().test, ["/bin/bash", "-ec", "true"]);
    }

    #[test]
    fn cleaning_never_leaves_the_root() {
        for (path, expected) in [("", "/"), ("a/b", "/a/b"), ("/../..", "/"), ("/a/./b/..//c/", "/a/c")] {
            assert_eq!(clean(path), Some(PathBuf::from(expected)), "{path:?}");
        }
    }
}
