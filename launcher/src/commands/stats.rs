//! `stats`: what the services use, once, or each second on a terminal.
//! It changes nothing, and does not know where the figures come from.

use std::path::Path;
use std::time::{Duration, Instant};

use runtime::stats::{Usage, look as usage_of};
use runtime::{limits::size_text, status};

use crate::arguments::Stats;
use crate::commands::{look, services};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{Stats as Listing, StatsOfService, VERSION};
use crate::print::screen::{Screen, Turn};
use crate::print::{self, sentence, table::table};
use crate::service_name::ServiceName;

const HEADER: [&str; 9] = [
    "SERVICE",
    "CPU",
    "CPU TIME",
    "MEMORY",
    "PEAK",
    "LIMIT",
    "PIDS",
    "READ / WRITTEN",
    "PRESSURE CPU/MEM/IO",
];
/// Between two looks, whose difference is the use of the processors.
const BETWEEN: Duration = Duration::from_millis(500);
/// The same on a terminal.
const REFRESH: Duration = Duration::from_secs(1);

/// Shows what the services use that run: those that are named, or all.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`].
pub(crate) fn stats(layout: &Layout, arguments: &Stats) -> Result<Exit, Error> {
    for name in &arguments.services {
        look(layout, name)?;
    }
    let names = if arguments.services.is_empty() { services(layout)? } else { arguments.services.clone() };
    if !arguments.form.json && print::is_terminal() {
        return live(layout, &names);
    }
    let before = measure(layout, &names)?;
    std::thread::sleep(BETWEEN);
    let listed = since(&measure(layout, &names)?, &before);
    match arguments.form.json {
        true => print::json(&Listing { version: VERSION, services: listed })?,
        false => print::data(&render(&listed))?,
    }
    Ok(Exit::Done)
}

/// Until a person has seen enough.
fn live(layout: &Layout, names: &[ServiceName]) -> Result<Exit, Error> {
    let mut screen = Screen::take()?;
    let mut before = Vec::new();
    loop {
        let now = measure(layout, names)?;
        let text = render(&since(&now, &before));
        // The first figures that can be shown come soon.
        let next = Instant::now() + if before.is_empty() { BETWEEN } else { REFRESH };
        let turn = loop {
            screen.draw(&text, sentence::HOW_TO_END)?;
            match screen.wait(next)? {
                Turn::Redraw => {}
                turn => break turn,
            }
        };
        if turn == Turn::End {
            return Ok(Exit::Done);
        }
        before = now;
    }
}

fn since(now: &[Measured], before: &[Measured]) -> Vec<StatsOfService> {
    now.iter().map(|it| it.since(before)).collect()
}

fn render(listed: &[StatsOfService]) -> String {
    table(&HEADER, listed.iter().map(row).collect())
}

struct Measured {
    service: String,
    at: Instant,
    usage: Usage,
}

impl Measured {
    fn since(&self, before: &[Self]) -> StatsOfService {
        let then = before.iter().find(|it| it.service == self.service);
        let percent = then.and_then(|then| {
            let used = self.usage.cpu_us?.checked_sub(then.usage.cpu_us?)?;
            let passed = u64::try_from(self.at.duration_since(then.at).as_micros()).ok()?;
            (used * 100).checked_div(passed)
        });
        StatsOfService { service: self.service.clone(), cpu_percent: percent, usage: self.usage.clone() }
    }
}

/// Those that do not run use nothing and are left out.
fn measure(layout: &Layout, names: &[ServiceName]) -> Result<Vec<Measured>, Error> {
    let mut all = Vec::new();
    for name in names {
        let Some(status) = status::look(&layout.service(name))? else { continue };
        let Some(process) = status.record.process.filter(|_| status.alive) else { continue };
        if let Some(usage) = usage_of(Path::new(&process.cgroup)) {
            all.push(Measured { service: name.to_string(), at: Instant::now(), usage });
        }
    }
    Ok(all)
}

fn row(stats: &StatsOfService) -> Vec<String> {
    let usage = &stats.usage;
    let dash = || "-".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(dash, size_text);
    let pressure =
        |part: Option<u64>| part.map_or_else(dash, |part| format!("{}.{:02}%", part / 100, part % 100));
    let pids = match (usage.pids, usage.pids_limit) {
        (Some(pids), Some(limit)) => format!("{pids} / {limit}"),
        (Some(pids), None) => pids.to_string(),
        (None, _) => dash(),
    };
    vec![
        stats.service.clone(),
        stats.cpu_percent.map_or_else(dash, |percent| format!("{percent}%")),
        usage.cpu_us.map_or_else(dash, |us| print::amount::span(us / 1000)),
        size(usage.memory_bytes),
        size(usage.memory_peak_bytes),
        size(usage.memory_limit_bytes),
        pids,
        format!("{} / {}", size(usage.io_read_bytes), size(usage.io_written_bytes)),
        [usage.cpu_pressure, usage.memory_pressure, usage.io_pressure].map(pressure).join(" "),
    ]
}
