//! `status`: everything a person wants to know of one service, from its record, its generation and its folders.
//! It changes nothing.

use runtime::definition::{Definition, Probe};
use runtime::record::{Canary, Other, Swapping};
use runtime::status::Status as Looked;
use runtime::way;

use crate::arguments::Status;
use crate::commands::enable::is_enabled;
use crate::commands::{look, now_ms};
use crate::drift::{self, Change, ChangeKind};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::hooks;
use crate::layout::Layout;
use crate::listing::{
    Configuration, Service, ServiceStatus, ShownState, SwapOutlook, SwapUnderWay, VERSION, health_text,
};
use crate::prepare::Said;
use crate::print::amount::{ago, short_id, span};
use crate::print::{self, sentence, table::pairs};
use crate::service_name::ServiceName;

/// So many differences of the configuration are listed; the JSON form has all.
const CHANGES_SHOWN: usize = 10;

/// Shows a service.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`], [`Error::Io`].
pub(crate) fn status(layout: &Layout, arguments: &Status) -> Result<Exit, Error> {
    let (_, looked) = look(layout, &arguments.service)?;
    let status = describe(layout, &arguments.service, &looked)?;
    match arguments.form.json {
        true => print::json(&status)?,
        false => print::data(&render(&status, &looked, now_ms()))?,
    }
    Ok(Exit::Done)
}

/// Everything known of a service.
///
/// # Errors
/// [`Error::Io`], [`Error::Settings`].
pub(crate) fn describe(layout: &Layout, name: &ServiceName, looked: &Looked) -> Result<ServiceStatus, Error> {
    let folders = layout.service(name);
    let record = &looked.record;
    let generation = folders.generation(record.generation);
    let made = generation::read(&generation);
    let service = Service::of(looked, is_enabled(&folders), now_ms());
    Ok(ServiceStatus {
        version: VERSION,
        outlook: outlook(layout, &service, made.as_ref().map(|made| &made.definition)),
        service,
        last_exit: record.last_exit.map(Into::into),
        last_failure: record.last_failure.as_ref().map(|failure| failure.causes.clone()),
        limits: made.as_ref().map(|made| made.limits.clone()).unwrap_or_default(),
        definition: made.map(|made| made.definition),
        configuration: configuration(layout, name, record.generation)?,
        swap: record.swap.as_ref().map(SwapUnderWay::from),
        pending_hooks: hooks::pending(&generation),
        output: folders.output(record.generation),
        settings: layout.settings(name),
    })
}

/// The way a swap to a release like the one that runs would go.
pub(crate) fn outlook(layout: &Layout, service: &Service, runs: Option<&Definition>) -> SwapOutlook {
    let (Some(runs), Some(_), Ok(name)) = (runs, service.process, service.service.parse()) else {
        return SwapOutlook::default();
    };
    match way::choose_here(&layout.service(&name), runs, runs) {
        Ok((way, reason)) => SwapOutlook { swap_way: Some(way), swap_way_reason: Some(reason) },
        Err(_) => SwapOutlook::default(),
    }
}

/// A service's configuration and what has been changed of it since a generation began; `None` when that has none.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn configuration(
    layout: &Layout,
    name: &ServiceName,
    generation: u32,
) -> Result<Option<Configuration>, Error> {
    let copy = generation::configuration(&layout.service(name).generation(generation));
    if !copy.is_dir() {
        return Ok(None);
    }
    let folder = layout.own(name).configuration();
    // A settings file that is wrong by now must not hide how the service does.
    let live = Said::about(layout, name).map(|said| said.live()).unwrap_or_default();
    Ok(Some(Configuration { changes: drift::changes(&folder, &copy, &live)?, folder, copy }))
}

fn render(status: &ServiceStatus, looked: &Looked, now_ms: u64) -> String {
    let service = &status.service;
    let record = &looked.record;
    let mut lines = vec![("state", state(service))];
    if let Some(swap) = &record.swap {
        lines.push(("swap", under_way(swap, now_ms)));
    }
    lines.push(("image", format!("{} ({})", service.image, short_id(&service.image_id))));
    lines.push(("generation", service.generation.to_string()));
    if let (Some(process), Some(uptime_s)) = (service.process, service.uptime_s) {
        lines.push(("process", format!("{process}, up {}", span(uptime_s * 1000))));
    }
    if let (Some(supervisor), Some(true)) = (service.supervisor, service.program_replaced) {
        lines.push(("supervisor", sentence::program_replaced(&service.service, supervisor)));
    }
    lines.push(("at boot", if service.enabled { "started" } else { "not started" }.to_owned()));
    lines.push(("restarts", service.restarts.to_string()));
    if service.oom_kills > 0 {
        lines.push(("oom kills", service.oom_kills.to_string()));
    }
    if !status.limits.is_empty() {
        let limits = status.limits.iter().map(|(file, value)| format!("{file} = {value}"));
        lines.push(("limits", limits.collect::<Vec<_>>().join("\n")));
    }
    if !service.unenforced.is_empty() {
        lines.push((
            "unenforced",
            format!("{}: this host does not keep such limits", service.unenforced.join(", ")),
        ));
    }
    if !service.ports.is_empty() {
        let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
        lines.push(("ports", ports.join(", ")));
    }
    if let Some(definition) = &status.definition {
        lines.push(("health check", health_check(definition)));
    }
    if let SwapOutlook { swap_way: Some(way), swap_way_reason: Some(reason) } = &status.outlook {
        lines.push(("next swap", format!("{}, since {reason}", way.text())));
    }
    if let Some(exit) = record.last_exit {
        let signal =
            if exit.status > 128 { format!(" (signal {})", exit.status - 128) } else { String::new() };
        lines.push(("last exit", format!("status {}{signal}, {}", exit.status, ago(exit.at_ms, now_ms))));
    }
    if let Some(causes) = &status.last_failure {
        lines.push(("last failure", causes.join("\ncaused by: ")));
    }
    if let Some(configuration) = &status.configuration {
        lines.push(("configuration", drifted(service, configuration)));
    }
    if !status.pending_hooks.is_empty() {
        let (detail, hint) =
            sentence::hooks_pending(&service.service, &service.release, &status.pending_hooks);
        lines.push(("hooks", format!("{detail}\n{hint}")));
    }
    lines.push(("output", status.output.display().to_string()));
    pairs(&format!("{} {}", service.service, service.release), &lines)
}

/// The other generation.
fn under_way(swap: &Swapping, now_ms: u64) -> String {
    let Swapping { way, generation, release, .. } = swap;
    match (swap.other, swap.canary) {
        (Other::Candidate, Some(Canary { share, until_ms })) => {
            let left = span(until_ms.saturating_sub(now_ms));
            format!(
                "{release} (generation {generation}) is tried; {share} of new connections go to it, and all in {left}"
            )
        }
        (Other::Candidate, None) => format!("{release} (generation {generation}) is tried, {}", way.text()),
        (Other::Previous, _) => format!("{release} (generation {generation}) is not given up yet"),
    }
}

fn state(service: &Service) -> String {
    let text = service.state.text();
    let (start, restart) =
        (format!("opsrun start {}", service.service), format!("opsrun restart {}", service.service));
    match service.state {
        ShownState::Starting | ShownState::Running => format!("{text}, {}", health_text(service.health)),
        ShownState::CrashLoop => format!("{text}: it failed too often in a row and is left alone; {start}"),
        ShownState::Unsupervised => format!("{text}: it runs, and nobody watches it; {restart}"),
        ShownState::Interrupted => format!("{text}: it should be up, and nothing of it runs; {start}"),
        ShownState::BackingOff | ShownState::Stopping | ShownState::Stopped => text.to_owned(),
    }
}

/// What a probe asks, in words.
pub(crate) fn health_check(definition: &Definition) -> String {
    let health = &definition.health;
    let url_host =
        |address: &str| if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let what = match &health.probe {
        Probe::Runs { for_ms } => return format!("it has been running for {}", span(*for_ms)),
        Probe::Tcp { address, port } => format!("connect to {}:{port}", url_host(address)),
        Probe::Http { address, port, path } => format!("GET http://{}:{port}{path}", url_host(address)),
        Probe::Command { arguments } => arguments.join(" "),
    };
    format!("{what}, every {}", span(health.interval_ms))
}

fn drifted(service: &Service, configuration: &Configuration) -> String {
    let folder = configuration.folder.display();
    if configuration.changes.is_empty() {
        return format!("as in {folder}");
    }
    let next = if service.process.is_some() { "restart" } else { "start" };
    let mut text = format!("{folder} has changed; `opsrun {next} {}` puts it to use", service.service);
    for Change { path, kind } in configuration.changes.iter().take(CHANGES_SHOWN) {
        let kind = match kind {
            ChangeKind::Added => "added",
            ChangeKind::Changed => "changed",
            ChangeKind::Removed => "removed",
        };
        text.push_str(&format!("\n{kind} {}", path.display()));
    }
    if let more @ 1.. = configuration.changes.len().saturating_sub(CHANGES_SHOWN) {
        text.push_str(&format!("\nand {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use bundles::bundle::ImageFacts;
    use runtime::Failure;
    use runtime::record::{Exit, State};

    use super::*;
    use crate::definition::{Subject, decide};
    use crate::listing::tests::looked;
    use crate::settings::Settings;

    fn pending_hooks(state: State) -> Vec<Vec<String>> {
        let hook = ["keystone-manage", "db_sync", "--contract"].map(str::to_owned).to_vec();
        if state == State::CrashLoop { vec![hook] } else { Vec::new() }
    }

    fn shown(state: State, supervisor: Option<i32>, alive: bool, changes: Vec<Change>) -> String {
        let mut looked = looked(state, supervisor, alive);
        looked.replaced = supervisor.map(|_| !changes.is_empty());
        looked.record.last_exit = Some(Exit { at_ms: 500, status: 137 });
        looked.record.last_failure = Some(Failure { causes: vec!["it ended".into(), "by signal 9".into()] });
        let subject = Subject {
            service: "keystone".into(),
            release: "zed".into(),
            image: "keystone:zed".into(),
            image_id: "sha256:00".into(),
            generation: 3,
        };
        let facts = ImageFacts::default();
        let listed = crate::catalogue::entry(&"keystone".parse().unwrap()).unwrap();
        let status = ServiceStatus {
            version: VERSION,
            service: Service::of(&looked, state == State::Running, 61_000),
            last_exit: looked.record.last_exit.map(Into::into),
            last_failure: looked.record.last_failure.clone().map(|failure| failure.causes),
            limits: [("memory.max".to_owned(), "536870912".to_owned())].into(),
            definition: Some(decide(subject, &Settings::default(), &listed, &facts).unwrap()),
            configuration: Some(Configuration {
                folder: "/opt/keystone/conf".into(),
                copy: "/var/lib/opsrun/services/keystone/generations/3/conf".into(),
                changes,
            }),
            swap: looked.record.swap.as_ref().map(SwapUnderWay::from),
            outlook: SwapOutlook::default(),
            pending_hooks: pending_hooks(state),
            output: "/var/log/opsrun/keystone/3.log".into(),
            settings: "/etc/opsrun/keystone.toml".into(),
        };
        render(&status, &looked, 61_000)
    }

    #[test]
    fn a_service_that_runs_one_that_lost_its_supervisor_and_one_that_is_left_alone() {
        let changed = Change { path: "keystone.conf".into(), kind: ChangeKind::Changed };
        let many = (0..12)
            .map(|number| Change { path: format!("policy.d/{number}").into(), kind: ChangeKind::Added });
        insta::assert_snapshot!(
            [
                shown(State::Running, Some(4700), true, Vec::new()),
                shown(State::Running, Some(4700), true, vec![changed.clone()]),
                shown(State::Running, None, true, vec![changed]),
                shown(State::CrashLoop, None, false, many.collect()),
            ]
            .join("\n")
        );
    }
}
