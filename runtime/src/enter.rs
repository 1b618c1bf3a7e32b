//! The process that a command in a running container becomes: as confined as the service itself.
//! It only builds the description; [`crate::create`] makes the process of it.

use oci_spec::runtime::Process;

/// `own`, the service's process, with other arguments: its user, groups, environment, folder, capabilities and limits.
/// `environment` entries win over the service's.
pub(crate) fn process_like_the_service(
    own: Process,
    arguments: Vec<String>,
    environment: &[String],
) -> Process {
    let mut process = own;
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged = process.env().clone().unwrap_or_default();
    merged.retain(|entry| !environment.iter().any(|wins| key(wins) == key(entry)));
    merged.extend(environment.iter().cloned());
    process.set_args(Some(arguments)).set_env(Some(merged)).set_terminal(Some(false));
    process
}
