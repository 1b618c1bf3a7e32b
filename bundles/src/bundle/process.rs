//! What a container runs: command, environment, user and working folder, by Docker's rules.
//! It does not start anything.

use std::path::PathBuf;

use oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};

use crate::account::Account;
use crate::bundle::image::{ImageConfig, clean};
use crate::bundle::mounts::Mounts;
use crate::bundle::program::Lookup;
use crate::bundle::{BundleRequest, capabilities};
use crate::error::{Error, Result};
use crate::rootfs::RootView;

/// Docker's, for an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The usual one. It is said because the caller's may be another one.
const UMASK: u32 = 0o022;

pub(super) fn describe(
    request: &BundleRequest,
    config: &ImageConfig,
    view: &RootView,
    account: &Account,
    mounts: &Mounts,
) -> Result<Process> {
    let image = &request.image.name;
    let mut arguments = command(request, config);
    let environment = environment(request, config, account);
    for (what, texts) in [("an argument", &arguments), ("an environment variable", &environment)] {
        if texts.iter().any(|text| text.contains('\0')) {
            return Err(Error::NulByte { image: image.clone(), what });
        }
    }
    let working_directory = working_directory(request, config)?;
    let program = arguments.first_mut().ok_or_else(|| Error::NothingToRun { image: image.clone() })?;
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let lookup = Lookup { image, view, mounts, account, working_directory: &working_directory };
    *program = lookup.program(program, path)?;

    let user = UserBuilder::default()
        .uid(account.uid)
        .gid(account.gid)
        .additional_gids(account.groups.clone())
        .umask(UMASK);
    let sets = capabilities::sets(account.uid, &request.capabilities_add, &request.capabilities_drop)?;
    let mut process = ProcessBuilder::default()
        .terminal(request.terminal)
        // OK, here and below, because every field of these builders has a default.
        .user(user.build().expect("a user"))
        .args(arguments)
        .env(environment)
        .cwd(working_directory)
        .capabilities(sets)
        .no_new_privileges(request.no_new_privileges)
        .build()
        .expect("a process");
    // The builder's own default is a limit of open files; the caller's is inherited.
    process.set_rlimits(None);
    if !request.no_new_privileges {
        // libcontainer takes a false one for a true one when it decides when to load the filter.
        process.set_no_new_privileges(None);
    }
    Ok(process)
}

/// An entrypoint that is given resets the image's `Cmd`; arguments that are given replace it.
fn command(request: &BundleRequest, config: &ImageConfig) -> Vec<String> {
    let given = request.entrypoint.as_ref();
    // `--entrypoint ""` is Docker's way to say "none".
    let entrypoint = given.or(config.entrypoint.as_ref()).filter(|words| *words != &[""]);
    let arguments = match (&request.arguments, given) {
        (Some(arguments), _) => Some(arguments),
        (None, Some(_)) => None,
        (None, None) => config.cmd.as_ref(),
    };
    entrypoint.into_iter().chain(arguments).flatten().cloned().collect()
}

/// `PATH` first, then the image's variables, then the caller's new ones; who sets one again replaces it in its place.
/// `TERM` and `HOME` are set when nobody else did.
fn environment(request: &BundleRequest, config: &ImageConfig, account: &Account) -> Vec<String> {
    let mut variables: Vec<(&str, &str)> = vec![("PATH", DEFAULT_PATH)];
    let image = config.env.iter().flatten().map(|variable| match variable.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        // As with Docker: a name alone takes the variable away.
        None => (variable.as_str(), None),
    });
    let callers = request.environment.iter().map(|(name, value)| (name.as_str(), Some(value.as_str())));
    for (name, value) in image.chain(callers).filter(|(name, _)| !name.is_empty()) {
        let place = variables.iter().position(|(other, _)| *other == name);
        match (place, value) {
            (Some(place), Some(value)) => variables[place].1 = value,
            (None, Some(value)) => variables.push((name, value)),
            (Some(place), None) if name != "PATH" => {
                variables.remove(place);
            }
            _ => {}
        }
    }
    let mut default = |name, value| {
        if variables.iter().all(|(other, _)| *other != name) {
            variables.push((name, value));
        }
    };
    if request.terminal {
        default("TERM", "xterm");
    }
    default("HOME", &account.home);
    variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn working_directory(request: &BundleRequest, config: &ImageConfig) -> Result<PathBuf> {
    let image = &request.image.name;
    let wanted = match &request.working_directory {
        Some(folder) => folder.to_str().ok_or_else(|| Error::WorkingDirectory {
            image: image.clone(),
            path: folder.clone(),
            reason: "is not UTF-8".to_owned(),
        })?,
        None => config.working_dir.as_deref().unwrap_or_default(),
    };
    clean(wanted).ok_or_else(|| Error::NulByte { image: image.clone(), what: "the working folder" })
}
