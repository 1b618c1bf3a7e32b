//! `boot`: what the init of a host without systemd runs once at its start, and a person after a supervisor has died.
//! It does not know how a service is started.

use std::collections::BTreeMap;

use runtime::client;
use runtime::systemd;

use crate::commands::enable::is_enabled;
use crate::commands::services;
use crate::commands::start::healthy;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::prepare::Said;
use crate::print;
use crate::service_name::ServiceName;

/// What each service that is to be started comes after.
type After = BTreeMap<ServiceName, Vec<ServiceName>>;

/// Starts what is enabled, one after the other as `after` in their settings says, and takes up what was wanted up in this
/// same boot and lost its supervisor.
///
/// # Errors
/// [`Error::BootUnderSystemd`]; [`Error::Cycle`] before anything is started; [`Error::Some`] when some could not be
/// started: the others are all the same, and those are tried on.
pub(crate) fn boot(layout: &Layout) -> Result<Exit, Error> {
    if layout.is_host() && systemd::is_running() && systemd::is_installed() {
        return Err(Error::BootUnderSystemd);
    }
    let mut down = After::new();
    for service in services(layout)? {
        if is_to_be_started(layout, &service)? {
            let after = Said::about(layout, &service)?.both.after.unwrap_or_default();
            down.insert(service, after);
        }
    }
    let order = in_order(&down)
        .map_err(|services| Error::Cycle { services: services.iter().map(ToString::to_string).collect() })?;
    let mut failed = 0;
    for service in &order {
        match client::resume(&layout.service(service)) {
            Ok(started) => print::note(&healthy(service, &started)),
            // Its keeper was faster.
            Err(runtime::Error::AlreadyRunning { .. }) => {}
            Err(error) => {
                failed += 1;
                print::failure(&error.into());
            }
        }
    }
    if failed > 0 { Err(Error::Some { failed, asked: order.len() }) } else { Ok(Exit::Done) }
}

fn is_to_be_started(layout: &Layout, service: &ServiceName) -> Result<bool, Error> {
    let folders = layout.service(service);
    let Some(status) = runtime::status::look(&folders)? else { return Ok(false) };
    Ok(runtime::status::is_lost(&folders, &status)? || status.supervisor.is_none() && is_enabled(&folders))
}

/// The services in an order in which each comes after those it names; those that are not to be started do not count.
///
/// # Errors
/// The services of a cycle, each coming after the next one, the last after the first.
fn in_order(after: &After) -> Result<Vec<ServiceName>, Vec<ServiceName>> {
    let mut order: Vec<ServiceName> = Vec::new();
    let mut way = Vec::new();
    for service in after.keys() {
        place(service, after, &mut order, &mut way)?;
    }
    Ok(order)
}

fn place(
    service: &ServiceName,
    after: &After,
    order: &mut Vec<ServiceName>,
    way: &mut Vec<ServiceName>,
) -> Result<(), Vec<ServiceName>> {
    let Some(earlier) = after.get(service).filter(|_| !order.contains(service)) else { return Ok(()) };
    if let Some(at) = way.iter().position(|passed| passed == service) {
        return Err(way.split_off(at));
    }
    way.push(service.clone());
    for other in earlier {
        place(other, after, order, way)?;
    }
    way.pop();
    order.push(service.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(after: &[(&str, &[&str])]) -> Result<Vec<String>, Vec<String>> {
        let after = after.iter().map(|(service, others)| {
            (service.parse().unwrap(), others.iter().map(|other| other.parse().unwrap()).collect())
        });
        let names = |services: Vec<ServiceName>| services.iter().map(ToString::to_string).collect();
        in_order(&after.collect()).map(names).map_err(names)
    }

    #[test]
    fn what_others_come_after_is_first() {
        let order = ordered(&[
            ("glance", &["keystone", "mariadb"]),
            ("keystone", &["mariadb", "memcached"]),
            ("mariadb", &[]),
        ]);
        assert_eq!(order.unwrap(), ["mariadb", "keystone", "glance"]);
    }

    #[test]
    fn a_cycle_is_named() {
        let order = ordered(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
        assert_eq!(order.unwrap_err(), ["b", "c", "d"]);
        assert_eq!(ordered(&[("a", &["a"])]).unwrap_err(), ["a"]);
    }
}
