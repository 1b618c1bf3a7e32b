//! Any bytes as a service's file: it is understood, or refused with a line that it has.
//!
//! The launcher is a program without a library, so its modules are taken in by their path.
#![no_main]
#![allow(dead_code, unused_imports, reason = "only one way through these modules is tried")]

#[path = "../../../launcher/src/error.rs"]
mod error;
#[path = "../../../launcher/src/exit.rs"]
mod exit;
#[path = "../../../launcher/src/layout.rs"]
mod layout;
#[path = "../../../launcher/src/limits.rs"]
mod limits;
#[path = "../../../launcher/src/limits_value.rs"]
mod limits_value;
#[path = "../../../launcher/src/mounts.rs"]
mod mounts;
#[path = "../../../launcher/src/series.rs"]
mod series;
#[path = "../../../launcher/src/service_name.rs"]
mod service_name;
#[path = "../../../launcher/src/settings.rs"]
mod settings;
#[path = "../../../launcher/src/settings_swap.rs"]
mod settings_swap;
#[path = "../../../launcher/src/settings_value.rs"]
mod settings_value;
#[path = "../../../launcher/src/time_span.rs"]
mod time_span;

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use error::Error;
use libfuzzer_sys::fuzz_target;
use settings::Settings;

fuzz_target!(|input: &[u8]| {
    let file = place::file_of(input);
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match Settings::read(&path) {
        Ok(settings) => {
            // Over nothing, and under nothing, it stays what it is.
            assert_eq!(settings.clone().over(Settings::default()), settings);
            assert_eq!(Settings::default().over(settings.clone()), settings);
        }
        Err(Error::Settings { line, shown, reason, .. }) => {
            let lines = 1 + input.iter().filter(|&&byte| byte == b'\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
            assert!(!reason.is_empty());
            let text = String::from_utf8_lossy(input);
            assert_eq!(text.lines().nth(line - 1).unwrap_or(""), shown);
        }
        Err(error) => panic!("{error:?}"),
    }
});
