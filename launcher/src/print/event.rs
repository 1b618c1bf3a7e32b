//! An event as a line that a person can scan: when, which service, which generation, what, and why.
//! It knows nothing of where events come from.

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeZone};
use runtime::events::{By, Changed, Kind, Line};
use runtime::limits::size_text;

use super::amount::span;
use super::printable;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const ODD: Style = AnsiColor::Yellow.on_default();

/// As wide as the longest kind.
const EVENT_WIDTH: usize = "start failed".len();

/// How wide the columns are whose content differs: as wide as anything that stood in them so far.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    service: usize,
    release: usize,
}

impl Columns {
    /// A line, with its colours and its newline; the time is in `zone`.
    pub(crate) fn render<Z: TimeZone>(&self, line: &Line, zone: &Z) -> String
    where
        Z::Offset: std::fmt::Display,
    {
        let time =
            i64::try_from(line.at_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        let time = time.with_timezone(zone).format("%Y-%m-%d %H:%M:%S");
        let style = line.kind.as_ref().map_or(Style::new(), style);
        let event = printable(&line.event.replace('-', " "));
        let text = format!(
            "{time}  {:service$}  {:release$}  {style}{event}{style:#}{:padding$}  {}",
            printable(&line.service),
            release(line),
            "",
            printable(&details(line)),
            service = self.service,
            release = self.release,
            padding = EVENT_WIDTH.saturating_sub(event.chars().count()),
        );
        text.trim_end().to_owned() + "\n"
    }

    /// Makes room for lines.
    pub(crate) fn widen(&mut self, lines: &[Line]) {
        for line in lines {
            self.service = self.service.max(printable(&line.service).chars().count());
            self.release = self.release.max(release(line).chars().count());
        }
    }
}

fn release(line: &Line) -> String {
    match (&line.release, line.generation) {
        (Some(release), Some(generation)) => printable(&format!("{release} ({generation})")),
        (Some(release), None) => printable(release),
        _ => "-".to_owned(),
    }
}

fn details(line: &Line) -> String {
    let what = match &line.kind {
        Ok(kind) => words(kind),
        // Of a newer opsrun: better shown as it is than not at all.
        Err(serde_json::Value::Null) => String::new(),
        Err(details) => details.to_string(),
    };
    let who = line.by.as_ref().map_or_else(String::new, by);
    [what, who].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

fn style(kind: &Kind) -> Style {
    match kind {
        Kind::Healthy {} | Kind::Swapped { .. } => GOOD,
        Kind::Exited { status: Some(0), .. } => Style::new(),
        Kind::Exited { .. }
        | Kind::Oom { .. }
        | Kind::CrashLoop { .. }
        | Kind::NeitherServes { .. }
        | Kind::StartFailed { .. }
        | Kind::Unhealthy { .. } => BAD,
        Kind::Restarting { .. } | Kind::WentBack { .. } | Kind::Trouble { .. } => ODD,
        _ => Style::new(),
    }
}

/// Nothing where something served all the time.
fn silence(gap_ms: u64) -> String {
    if gap_ms == 0 { String::new() } else { format!("; nothing served for {}", span(gap_ms)) }
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::SwapBegan { from, way } => format!("in place of generation {from}, {}", way.text()),
        Kind::Canary { from, share_ppm: share, for_ms } => {
            format!(
                "{share} of new connections for {}, the others stay with generation {from}",
                span(*for_ms)
            )
        }
        Kind::Swapped { from, gap_ms, left } => {
            let cut = match left.connections {
                0 => String::new(),
                1 => "; it had 1 connection left".to_owned(),
                count => format!("; it had {count} connections left"),
            };
            format!("in place of generation {from}{}{cut}", silence(*gap_ms))
        }
        Kind::WentBack { from, gap_ms, causes } => {
            format!("from generation {from}{}; {}", silence(*gap_ms), causes.join(": "))
        }
        Kind::NeitherServes { candidate, causes, back } => {
            format!("nor generation {candidate}: {}; and then: {}", causes.join(": "), back.join(": "))
        }
        Kind::SwapCancelled { candidate } => format!("for generation {candidate}, which is removed"),
        Kind::Supervised { process, cleared: false } => format!("process {process}"),
        Kind::Supervised { process, cleared: true } => {
            format!("process {process}; a supervisor that died had left a container, which is removed")
        }
        Kind::Adopted { process } => format!("process {process} goes on"),
        Kind::Started { process } => format!("process {process}"),
        Kind::Starting {} | Kind::Healthy {} => String::new(),
        Kind::StartFailed { causes } | Kind::Unhealthy { causes } | Kind::Trouble { causes } => {
            causes.join(": ")
        }
        Kind::Exited { signal: Some(signal), .. } => format!("ended by {signal}"),
        Kind::Exited { status: Some(status), .. } => format!("with status {status}"),
        Kind::Exited { .. } => "while no supervisor was there, so how is not known".to_owned(),
        Kind::Oom { processes: 1, message } => message.clone(),
        Kind::Oom { processes, message } => format!("{message} ({processes} processes)"),
        Kind::Restarting { attempt, backoff_ms, causes } => {
            format!("attempt {attempt} in {}; {}", span(*backoff_ms), causes.join(": "))
        }
        Kind::CrashLoop { causes, .. } => causes.join(": "),
        Kind::Stopping { host_down: true, .. } => "the host goes down".to_owned(),
        Kind::Stopping { signal, grace_ms, .. } => format!("{signal}, SIGKILL after {}", span(*grace_ms)),
        Kind::Stopped { status: Some(status) } => format!("status {status}"),
        Kind::Stopped { status: None } => String::new(),
        Kind::Updated { limits } => {
            limits.iter().map(|(file, changed)| limit(file, changed)).collect::<Vec<_>>().join(", ")
        }
    }
}

/// `memory.max 512 MiB → 1 GiB`.
fn limit(file: &str, Changed { before, after }: &Changed) -> String {
    let shown = |value: &str| match value.parse() {
        Ok(bytes) if file.starts_with("memory.") && file != "memory.oom.group" => size_text(bytes),
        _ => value.replace('\n', ", "),
    };
    let before = if before.is_empty() { "-".to_owned() } else { shown(before) };
    format!("{file} {before} → {}", shown(after))
}

fn by(by: &By) -> String {
    match by {
        By::Opsrun {} => String::new(),
        By::Systemd {} => "by systemd".to_owned(),
        By::Operator { uid, user, sudo_user, command, .. } => {
            let user = user.clone().unwrap_or_else(|| format!("uid {uid}"));
            let sudo = sudo_user.as_ref().map_or_else(String::new, |user| format!(" (sudo: {user})"));
            let command = command.as_ref().map_or_else(String::new, |command| format!(", {command}"));
            format!("by {user}{sudo}{command}")
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn line(service: &str, details: &str) -> Line {
        let text = format!(
            r#"{{"version":1,"at":"2026-11-23T09:31:02.120Z","service":"{service}","release":"zed","generation":3,{details}}}"#
        );
        Line::parse(&text).expect(&text)
    }

    fn plain(lines: &[Line]) -> String {
        let mut columns = Columns::default();
        columns.widen(lines);
        let text: String = lines.iter().map(|line| columns.render(line, &Utc)).collect();
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn lines_can_be_scanned() {
        let own = r#""by":{"who":"opsrun"}"#;
        let alice = r#""by":{"who":"operator","uid":0,"user":"root","sudo_user":"alice","process":9,"command":"opsrun stop"}"#;
        let failure = r#""causes":["it exited with status 1","killed: out of memory, limit 512 MiB"]"#;
        let events = [
            ("supervised", r#"{"process":7,"cleared":true}"#, r#""by":{"who":"systemd"}"#),
            ("starting", "{}", own),
            ("started", r#"{"process":8}"#, own),
            ("healthy", "{}", own),
            ("exited", r#"{"status":137,"signal":"SIGKILL"}"#, own),
            ("exited", r#"{"status":1,"signal":null}"#, own),
            ("oom", r#"{"processes":2,"message":"killed: out of memory, limit 512 MiB, peak 512 MiB"}"#, own),
            ("restarting", &format!(r#"{{"attempt":2,"backoff_ms":2000,{failure}}}"#), own),
            ("crash-loop", &format!(r#"{{"failures":5,{failure}}}"#), own),
            (
                "updated",
                r#"{"limits":{"memory.max":{"before":"max","after":"536870912"},"cpu.max":{"before":"max 100000","after":"50000 100000"}}}"#,
                alice,
            ),
            ("stopping", r#"{"signal":"SIGTERM","grace_ms":30000,"host_down":false}"#, alice),
            ("stopped", r#"{"status":0}"#, alice),
            // Of the future.
            ("moved-on", r#"{"to":"the \u001b[31mmoon"}"#, own),
        ];
        let mut lines: Vec<Line> = events
            .iter()
            .map(|(event, details, by)| {
                line("keystone", &format!(r#""event":"{event}","details":{details},{by}"#))
            })
            .collect();
        lines.push(line("db", &format!(r#""event":"healthy","details":{{}},{own}"#)));
        insta::assert_snapshot!(plain(&lines));
    }

    #[test]
    fn what_went_wrong_is_red_and_the_rest_is_not() {
        let text = |event: &str, details: &str| {
            let line =
                line("x", &format!(r#""event":"{event}","details":{details},"by":{{"who":"opsrun"}}"#));
            Columns::default().render(&line, &Utc)
        };
        assert!(text("exited", r#"{"status":1,"signal":null}"#).contains("\u{1b}[31m"));
        for (event, details) in [("exited", r#"{"status":0,"signal":null}"#), ("starting", "{}")] {
            assert!(!text(event, details).contains('\u{1b}'), "{event}");
        }
    }
}
