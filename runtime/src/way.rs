//! Which way one generation takes another's place, and why that one: the only place where it is decided.
//! It changes nothing; both the supervisor, which goes that way, and a command that says what would be done ask here.

use std::collections::BTreeSet;
use std::io;

use crate::abilities::Abilities;
use crate::definition::{Definition, Probe};
use crate::folders::ServiceFolders;
use crate::record::Way;
use crate::steering;

/// The way for these two, and why, as in "…, since …", by what they promise. Steered it goes only when the old one's
/// listeners turn out to be steerable, on a host that can do that: [`choose_here`].
///
/// Two generations can run at the same time where neither a port nor the question which of them a probe has met stands
/// between them, and where connections to the port can be steered.
#[must_use]
pub fn choose(old: &Definition, new: &Definition) -> (Way, &'static str) {
    let ports = |definition: &Definition| definition.ports.iter().copied().collect::<BTreeSet<u16>>();
    let asked_inside = |definition: &Definition| {
        matches!(definition.health.probe, Probe::Runs { .. } | Probe::Command { .. })
    };
    if old.stop_first || new.stop_first {
        return (Way::StopFirst, "two of it must not run at the same time");
    }
    if old.ports.is_empty() && new.ports.is_empty() {
        if !asked_inside(old) || !asked_inside(new) {
            return (Way::StopFirst, "its health check could be answered by either of the two");
        }
        return (Way::SideBySide, "it has no port");
    }
    if new.ports.is_empty() {
        return (Way::StopFirst, "only the one that serves has a port");
    }
    match &new.health.probe {
        Probe::Runs { .. } => (Way::StopFirst, "its health check says nothing about its port"),
        Probe::Command { .. } => {
            (Way::StopFirst, "its health check is a command, which may reach either of the two")
        }
        Probe::Tcp { port, .. } | Probe::Http { port, .. } if !new.ports.contains(port) => {
            (Way::StopFirst, "its health check asks a port that is not among its own")
        }
        _ if ports(old) != ports(new) => (Way::Gated, "the two do not have the same ports"),
        _ => (Way::Steered, "connections to its port can be steered"),
    }
}

/// The same for a service that runs, looked at from outside: its listeners as they are now.
///
/// # Errors
/// When the kernel cannot be asked for its sockets.
pub fn choose_here(
    folders: &ServiceFolders,
    old: &Definition,
    new: &Definition,
) -> io::Result<(Way, String)> {
    let (promised, reason) = choose(old, new);
    let (way, reason) = on_this_host(folders, promised, reason.to_owned(), is_handed(old, new));
    if promised == Way::Steered
        && way != Way::StopFirst
        && let Err(reason) = steering::owned(&folders.run, &old.ports)?
    {
        return Ok((Way::StopFirst, reason));
    }
    if !new.listen_stream.is_empty()
        && matches!(way, Way::Steered | Way::Gated)
        && let Some(difference) = steering::differs(&folders.run, &old.ports, &new.listen_stream)?
    {
        return Ok((Way::StopFirst, difference));
    }
    Ok((way, reason))
}

/// Whether both get their listeners handed when they start: the one can be started with the other's, and nothing need be heard of.
pub(crate) fn is_handed(old: &Definition, new: &Definition) -> bool {
    !old.listen_stream.is_empty() && !new.listen_stream.is_empty()
}

/// The same way and reason, or those that are left on this host.
pub(crate) fn on_this_host(
    folders: &ServiceFolders,
    way: Way,
    reason: String,
    handed: bool,
) -> (Way, String) {
    if matches!(way, Way::StopFirst | Way::SideBySide) {
        return (way, reason);
    }
    let run = folders.run.parent().unwrap_or(&folders.run);
    match Abilities::of_host(run).best_for(way, handed) {
        (way, None) => (way, reason),
        (way, Some(reason)) => (way, reason),
    }
}
