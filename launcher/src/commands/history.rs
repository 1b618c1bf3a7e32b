//! `history`: every generation of a service, also those that are gone: what, when, by whom, how it ended.
//! It changes nothing, and needs no supervisor to be alive.

use runtime::history::{Cause, End, Entry, History, Kind, Person};
use runtime::status;

use crate::arguments::Status;
use crate::commands::{now_ms, unknown};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::listing::{self, PastGeneration, PastRun, VERSION};
use crate::print::amount::{short_id, span, timestamp};
use crate::print::{self, sentence, table::table};

const HEADER: [&str; 8] =
    ["GENERATION", "RELEASE", "IMAGE", "MADE", "COMMAND", "BY", "SERVED", "WHAT BECAME OF IT"];

/// What is known of the service now.
struct Now {
    active: Option<u32>,
    is_up: bool,
    at_ms: u64,
    folders: Vec<u32>,
}

/// Shows the generations of a service, the newest last.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`], [`Error::Io`].
pub(crate) fn history(layout: &Layout, arguments: &Status) -> Result<Exit, Error> {
    let folders = layout.service(&arguments.service);
    let looked = status::look(&folders)?;
    let past = History::of(&folders).read()?;
    if looked.is_none() && past.entries.is_empty() {
        return Err(unknown(layout, &arguments.service)?);
    }
    if past.damaged > 0 {
        print::warning(&sentence::damaged_history(past.damaged, &folders.history()));
    }
    let now = Now {
        active: looked.as_ref().map(|looked| looked.record.generation),
        is_up: looked.is_some_and(|looked| looked.alive || looked.supervisor.is_some()),
        at_ms: now_ms(),
        folders: generation::numbers(&folders)?,
    };
    if arguments.form.json {
        print::json(&listing::History {
            version: VERSION,
            service: arguments.service.to_string(),
            generations: past.entries.iter().map(|entry| listed(entry, &now)).collect(),
        })?;
    } else {
        print::data(&table(&HEADER, past.entries.iter().map(|entry| row(entry, &now)).collect()))?;
    }
    Ok(Exit::Done)
}

fn listed(entry: &Entry, now: &Now) -> PastGeneration {
    let runs = entry.runs.iter().map(|run| PastRun {
        began_at: run.began_at_ms.map(timestamp),
        ended_at: run.ended.as_ref().map(|(at_ms, _)| timestamp(*at_ms)),
        end: run.ended.as_ref().map(|(_, end)| end.clone()),
    });
    PastGeneration {
        generation: entry.generation,
        active: now.active == Some(entry.generation),
        kept: now.folders.contains(&entry.generation),
        made_at: entry.made_at_ms.map(timestamp),
        made: entry.made.clone(),
        runs: runs.collect(),
    }
}

fn row(entry: &Entry, now: &Now) -> Vec<String> {
    let unknown = || "-".to_owned();
    let made = entry.made.as_ref();
    let served: u64 = entry.runs.iter().filter_map(|run| served_ms(run, entry, now)).sum();
    let is_gone = !now.folders.contains(&entry.generation);
    vec![
        entry.generation.to_string(),
        made.map_or_else(unknown, |made| made.release.clone()),
        made.map_or_else(unknown, |made| short_id(&made.image_id).to_owned()),
        // Seconds are enough for a person, and the zone is plain.
        entry.made_at_ms.map_or_else(unknown, |at_ms| format!("{}Z", &timestamp(at_ms)[..19])),
        made.map_or_else(unknown, |made| match (made.by, made.from) {
            (Cause::Start, _) => "start".to_owned(),
            (Cause::Restart, _) => "restart".to_owned(),
            (Cause::Swap, _) => "swap".to_owned(),
            (Cause::Rollback, Some(from)) if made.kind == Kind::Run => format!("rollback to {from}"),
            (Cause::Rollback, _) => "rollback".to_owned(),
        }),
        made.map_or_else(unknown, |made| person(&made.person)),
        if served > 0 { span(served) } else { unknown() },
        format!("{}{}", became(entry, now), if is_gone { "; gone" } else { "" }),
    ]
}

/// For how long a run served; of one whose end nobody saw that is not known.
fn served_ms(run: &runtime::history::Run, entry: &Entry, now: &Now) -> Option<u64> {
    let serves = now.is_up && now.active == Some(entry.generation);
    let ended = run.ended.as_ref().map(|(at_ms, _)| *at_ms).or(serves.then_some(now.at_ms))?;
    Some(ended.saturating_sub(run.began_at_ms?))
}

fn became(entry: &Entry, now: &Now) -> String {
    let kind = entry.made.as_ref().map(|made| made.kind);
    match entry.runs.last() {
        None if kind == Some(Kind::Kept) => "never ran: keeps the edited configuration".to_owned(),
        None => "was never started".to_owned(),
        Some(run) => match &run.ended {
            Some((_, end)) => ended(end),
            None if now.is_up && now.active == Some(entry.generation) => "serves".to_owned(),
            None => "ended, and nobody saw how".to_owned(),
        },
    }
}

fn ended(end: &End) -> String {
    match end {
        End::Stopped { person: Some(by) } => format!("stopped by {}", person(by)),
        End::Stopped { person: None } => "stopped".to_owned(),
        End::Replaced { by } => format!("replaced by {by}"),
        End::NeverHealthy { reason } => format!("never became healthy: {reason}"),
        End::WentBack { reason } => format!("was taken back: {reason}"),
        End::ByItself { status: Some(status) } => format!("ended with status {status}"),
        End::ByItself { status: None } => "ended by itself".to_owned(),
        End::CrashLoop { reason } => format!("crash loop: {reason}"),
        End::HostDown => "the host went down".to_owned(),
        End::SupervisorLost => "its supervisor was lost".to_owned(),
        End::RecordCorrupt => "the service's record was corrupt".to_owned(),
    }
}

fn person(person: &Person) -> String {
    let name = person.user.clone().unwrap_or_else(|| person.uid.to_string());
    match &person.sudo_user {
        Some(sudo_user) => format!("{name} (sudo by {sudo_user})"),
        None => name,
    }
}
