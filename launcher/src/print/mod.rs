//! The only place that prints: data to standard output, everything else to standard error.
//! It knows no service and no image, only what is to be said and how it looks.
//!
//! Colours appear on a terminal only, and not when `NO_COLOR` is set (anstream decides that).

pub(crate) mod amount;
pub(crate) mod event;
pub(crate) mod progress;
pub(crate) mod screen;
pub(crate) mod sentence;
pub(crate) mod table;

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::error::Error;
use crate::hint::hint as hint_for;
use crate::preflight::{Finding, Verdict};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Prints lines of data.
///
/// # Errors
/// [`Error::Output`].
pub(crate) fn data(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let ended = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    (out.write_all(text.as_bytes()))
        .and_then(|()| out.write_all(ended.as_bytes()))
        .and_then(|()| out.flush())
        .map_err(|source| Error::Output { source })
}

/// The same with colours, where there may be some.
///
/// # Errors
/// [`Error::Output`].
pub(crate) fn coloured(text: &str) -> Result<(), Error> {
    match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => data(&anstream::adapter::strip_str(text).to_string()),
        _ => data(text),
    }
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    use std::io::IsTerminal;
    io::stdout().is_terminal()
}

/// Prints data as JSON.
///
/// # Errors
/// [`Error::Output`].
pub(crate) fn json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("OK because what is listed has only string keys");
    data(&text)
}

/// Says something to a person: what was done, or is being done.
pub(crate) fn note(text: &str) {
    say(&format!("{text}\n"));
}

/// Says something that is not as it should be, although the command goes on.
pub(crate) fn warning(text: &str) {
    say(&format!("{WARNING}warning:{WARNING:#} {text}\n"));
}

/// Says what to type next.
pub(crate) fn hint(text: &str) {
    say(&format!("{HINT}hint:{HINT:#} {text}\n"));
}

/// Says what a check found before anything is touched.
pub(crate) fn finding(finding: &Finding) {
    let Finding { name, detail, .. } = finding;
    let detail = printable(detail);
    match finding.verdict {
        Verdict::Ok => note(&format!("{name}: {detail}")),
        Verdict::Warning => warning(&format!("{name}: {detail}")),
        Verdict::Refused => say(&format!("{ERROR}refused:{ERROR:#} {name}: {detail}\n")),
    }
    if let Some(text) = &finding.hint {
        hint(&printable(text));
    }
}

/// Says why a command failed: the chain, what the service said, and what to type next.
pub(crate) fn failure(error: &Error) {
    say(&render_failure(error));
}

/// Says what is wrong with a command line, or prints the help or version that was asked for.
pub(crate) fn usage(error: &clap::Error, command: &str) {
    let ends_well = error.exit_code() == 0;
    if ends_well || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // What cannot be written can be said nowhere.
        let _ = error.print();
        return;
    }
    let mut text = String::new();
    for line in error.render().to_string().lines() {
        match line.strip_prefix("error:") {
            Some(rest) => text.push_str(&format!("{ERROR}error:{ERROR:#}{rest}\n")),
            // clap's last line says the same as the hint, but not what to type.
            None if line.starts_with("For more information") || line.is_empty() => {}
            None => text.push_str(&format!("{}\n", without_hidden(line))),
        }
    }
    say(&text);
    hint(&format!("{command} --help"));
}

/// clap suggests what is spelled alike, also the commands that nobody is meant to type.
fn without_hidden(line: &str) -> String {
    ["create", "supervise", "man", "completions"]
        .iter()
        .fold(line.to_owned(), |line, hidden| line.replace(&format!("'{hidden}', "), ""))
}

/// What one writes to standard error. That it cannot be written to can be said nowhere, so it is left unsaid.
fn say(text: &str) {
    let stream = io::stderr();
    let colours = AutoStream::choice(&stream);
    let _ = AutoStream::new(stream.lock(), colours).write_all(text.as_bytes());
}

fn render_failure(error: &Error) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{ERROR}error:{ERROR:#} {}", printable(&error.to_string()));
    render_causes(&mut text, error);
    if let Error::NeitherServes { back, .. } = error {
        let _ = writeln!(text, "  and then: {}", printable(&back.to_string()));
        render_causes(&mut text, back);
    }
    if let Error::Settings { line, shown, .. } = error {
        let _ = writeln!(text, "  {line} | {}", printable(shown));
    }
    if let Some(output) = last_output(error) {
        let _ = writeln!(text, "its last lines of output:");
        for line in output {
            let _ = writeln!(text, "  | {}", printable(line));
        }
    }
    if let Some(hint) = hint_for(error) {
        let _ = writeln!(text, "{HINT}hint:{HINT:#} {hint}");
    }
    text
}

fn render_causes(text: &mut String, error: &Error) {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A failure that crossed a process boundary is a list that displays as one line.
        let lines = match error.downcast_ref::<runtime::Failure>() {
            Some(failure) => failure.causes.clone(),
            None => vec![error.to_string()],
        };
        for line in lines {
            // A transparent error has its own text as its source once more.
            if line != said {
                let _ = writeln!(text, "  caused by: {}", printable(&line));
                said = line;
            }
        }
        cause = error.source();
    }
}

/// The last lines of a service that did not become healthy, wherever in the chain they are.
fn last_output(error: &Error) -> Option<&[String]> {
    match error {
        Error::Runtime(runtime::Error::StartFailed { output, .. }) if !output.is_empty() => Some(output),
        Error::Runtime(runtime::Error::CandidateFailed { output, .. }) if !output.is_empty() => Some(output),
        Error::HookFailed(failed) if !failed.output.is_empty() => Some(&failed.output),
        Error::WentBack { source, .. } | Error::NeitherServes { source, .. } => last_output(source),
        _ => None,
    }
}

/// The text without what could move a terminal's cursor or change its colours: images and services choose some of it.
pub(crate) fn printable(text: &str) -> String {
    let is_hidden = |character: char| character.is_control() && character != '\t';
    if text.contains(is_hidden) { text.replace(is_hidden, "\u{fffd}") } else { text.to_owned() }
}

/// Standard output for what is written as it comes, such as logs.
pub(crate) fn stream() -> io::StdoutLock<'static> {
    io::stdout().lock()
}

/// Whether standard error is a terminal on which something can be drawn and redrawn.
pub(crate) fn can_draw() -> bool {
    use std::io::IsTerminal;
    io::stderr().is_terminal() && AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use runtime::Failure;

    use super::*;

    fn plain(error: &Error) -> String {
        anstream::adapter::strip_str(&render_failure(error)).to_string()
    }

    fn start_failed() -> Error {
        Error::Runtime(runtime::Error::StartFailed {
            service: "keystone".into(),
            source: Failure { causes: vec!["it ended with status 1".into(), "the outermost cause".into()] },
            output: vec!["Traceback (most recent call last):".into(), "\u{1b}[31mred\u{7}".into()],
        })
    }

    #[test]
    fn a_failed_start_shows_chain_output_and_hint() {
        insta::assert_snapshot!(plain(&start_failed()));
    }

    #[test]
    fn going_back_shows_why_it_had_to() {
        let went_back = Error::WentBack {
            service: "keystone".into(),
            wanted: "epoxy".into(),
            serves: "zed".into(),
            generation: 3,
            source: Box::new(start_failed()),
        };
        insta::assert_snapshot!(plain(&went_back));
        let neither = Error::NeitherServes {
            service: "keystone".into(),
            wanted: "epoxy".into(),
            before: "zed".into(),
            source: Box::new(start_failed()),
            back: Box::new(Error::Runtime(runtime::Error::PortTaken {
                port: 5000,
                holder: "nginx (process 7)".into(),
            })),
        };
        insta::assert_snapshot!(plain(&neither));
    }

    #[test]
    fn a_settings_error_shows_the_line() {
        let error = crate::settings::parse_toml::<crate::settings::Settings>(
            "ports = [5000]\nprot = 5000\n",
            std::path::Path::new("/etc/opsrun/keystone.toml"),
        )
        .unwrap_err();
        insta::assert_snapshot!(plain(&error));
    }

    #[test]
    fn an_error_is_said_once() {
        let source = io::Error::from_raw_os_error(13);
        let error = Error::Bundles(bundles::Error::Io { doing: "open the store".into(), source });
        assert_eq!(
            plain(&error),
            "error: could not open the store\n  caused by: Permission denied (os error 13)\n"
        );
    }
}
