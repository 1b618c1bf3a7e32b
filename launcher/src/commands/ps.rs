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
use crate::service_name::ServiceName;

const HEADER: [&str; 8] =
    ["SERVICE", "RELEASE", "STATE", "HEALTH", "UPTIME", "RESTARTS", "PORTS", "GENERATION"];

/// So many services make up for the start of a thread.
const THREADS_FROM: usize = 64;

/// Lists the services.
///
/// # Errors
/// [`Error::Some`] when a record cannot be read; the other services are listed all the same.
pub(crate) fn ps(layout: &Layout, arguments: &Ps) -> Result<Exit, Error> {
    let now_ms = now_ms();
    let names = services(layout)?;
    let mut listed = Vec::new();
    let mut failed = 0;
    for looked in look_at(layout, &names, now_ms) {
        match looked {
            Ok(Some(service)) => listed.push(service),
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

/// Looks at each, in their order. It is the kernel that takes the time, with each service's files by themselves: where there are
/// many, two threads wait for it.
fn look_at(
    layout: &Layout,
    names: &[ServiceName],
    now_ms: u64,
) -> Vec<Result<Option<Service>, runtime::Error>> {
    let look = |name: &ServiceName| {
        let folders = layout.service(name);
        let status = status::look(&folders)?;
        Ok(status.map(|status| Service::of(&status, is_enabled(&folders), now_ms)))
    };
    if names.len() < THREADS_FROM {
        return names.iter().map(look).collect();
    }
    let (first, second) = names.split_at(names.len() / 2);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| second.iter().map(look).collect::<Vec<_>>());
        let mut looked: Vec<_> = first.iter().map(look).collect();
        looked.extend(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        looked
    })
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
