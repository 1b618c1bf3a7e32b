//! `ps`: every service, from its record and the process table; no supervisor has to be alive for that.
//! It changes nothing.

use runtime::status;

use crate::arguments::Ps;
use crate::commands::enable::is_enabled;
use crate::commands::status::{configuration, outlook};
use crate::commands::{now_ms, services};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::listing::{ListedService, Service, Services, VERSION, health_text};
use crate::print::amount::span;
use crate::print::{self, table::table};

const HEADER: [&str; 8] =
    ["SERVICE", "RELEASE", "STATE", "HEALTH", "UPTIME", "RESTARTS", "PORTS", "GENERATION"];

/// Lists the services.
///
/// # Errors
/// [`Error::Some`] when a record cannot be read; the other services are listed all the same.
pub(crate) fn ps(layout: &Layout, arguments: &Ps) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let names = services(layout)?;
    let mut listed = Vec::new();
    let mut failed = 0;
    for name in &names {
        let folders = layout.service(name);
        match status::look(&folders) {
            Ok(Some(status)) => listed.push(Service::of(&status, is_enabled(&folders), now_ms)),
            // A first start that is under way.
            Ok(None) => {}
            Err(error) => {
                failed += 1;
                print::failure(&error.into());
            }
        }
    }
    if arguments.form.json {
        let with_drift = |service: Service| {
            // Of one whose files cannot be read the rest is worth knowing.
            let found = service
                .service
                .parse()
                .ok()
                .and_then(|name| configuration(layout, &name, service.generation).ok()?);
            let definition = service.service.parse().ok().and_then(|name| {
                Some(generation::read(&layout.service(&name).generation(service.generation))?.definition)
            });
            let swap = outlook(layout, &service, definition.as_ref());
            ListedService { service, drift: found.map(|found| found.changes), swap }
        };
        let services = listed.into_iter().map(with_drift).collect();
        print::json(&Services { version: VERSION, services })?;
    } else if arguments.quiet {
        print::data(&listed.iter().map(|service| format!("{}\n", service.service)).collect::<String>())?;
    } else {
        print::data(&table(&HEADER, listed.iter().map(row).collect()))?;
    }
    if failed > 0 { Err(Error::Some { failed, asked: names.len() }) } else { Ok(Exit::Done) }
}

fn row(service: &Service) -> Vec<String> {
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    vec![
        service.service.clone(),
        service.release.clone(),
        state(service),
        health_text(service.health).to_owned(),
        service.uptime_s.map_or("-".to_owned(), |seconds| span(seconds * 1000)),
        match service.oom_kills {
            0 => service.restarts.to_string(),
            kills => format!("{} ({kills} oom)", service.restarts),
        },
        if ports.is_empty() { "-".to_owned() } else { ports.join(",") },
        service.generation.to_string(),
    ]
}

/// What it does, and what there is to say against that.
fn state(service: &Service) -> String {
    let mut text = service.state.text().to_owned();
    if !service.unenforced.is_empty() {
        text.push_str(&format!(" (unenforced: {})", service.unenforced.join(", ")));
    }
    if service.program_replaced == Some(true) {
        text.push_str(" (under a replaced opsrun)");
    }
    text
}
