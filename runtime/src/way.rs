//! Which way one generation takes another's place, and why that one: the only place where it is decided.
//! It touches nothing; both the supervisor, which goes that way, and a command that says what would be done ask here.

use crate::definition::{Definition, Probe};
use crate::record::Way;

/// The way for these two, and why, as in "…, since …".
///
/// Two generations can run at the same time only where neither a port nor the question which of them a probe has met
/// stands between them.
#[must_use]
pub fn choose(old: &Definition, new: &Definition) -> (Way, &'static str) {
    if !old.ports.is_empty() || !new.ports.is_empty() {
        return (Way::StopFirst, "only one of the two can listen on its port");
    }
    let asked_inside = |definition: &Definition| {
        matches!(definition.health.probe, Probe::Runs { .. } | Probe::Command { .. })
    };
    if !asked_inside(old) || !asked_inside(new) {
        return (Way::StopFirst, "its health check could be answered by either of the two");
    }
    (Way::SideBySide, "it has no port")
}
