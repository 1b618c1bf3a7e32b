//! One more command in the container of a running service, as confined as the service itself.
//! It knows nothing of how the service was started.

use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, UserBuilder};

use crate::attend::{Attachment, attend};
use crate::channel::Request as Made;
use crate::container;
use crate::enter::process_like_the_service;
use crate::error::Error;
use crate::folders::ServiceFolders;
use crate::status;

/// What to execute.
#[derive(Debug, Clone)]
pub struct Request {
    /// The service's folders.
    pub folders: ServiceFolders,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// `KEY=value`, each winning over the service's own.
    pub environment: Vec<String>,
    /// Another user than the service's.
    pub user: Option<User>,
    /// Another working directory than the service's.
    pub working_directory: Option<PathBuf>,
    /// What its input is.
    pub attachment: Attachment,
}

/// A user inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further group ids.
    pub groups: Vec<u32>,
}

/// Executes it and waits; the command's exit status as a shell gives it.
///
/// # Errors
/// [`Error::NotRunning`], [`Error::Container`], [`Error::Execute`].
pub fn exec(request: &Request) -> Result<i32, Error> {
    let not_running = || Error::NotRunning { service: request.folders.name().to_owned() };
    let status = status::look(&request.folders)?.ok_or_else(not_running)?;
    if !status.alive {
        return Err(not_running());
    }
    let bundle = request.folders.generation(status.record.generation);
    let process = container::read_process(&bundle)?;
    let mut process = process_like_the_service(process, request.arguments.clone(), &request.environment);
    if let Some(user) = &request.user {
        let built = UserBuilder::default()
            .uid(user.uid)
            .gid(user.gid)
            .additional_gids(user.groups.clone())
            .build()
            .map_err(|error| Error::Definition { reason: error.to_string() })?;
        process.set_user(built);
        if let Some(mut capabilities) = process.capabilities().clone() {
            // As Docker does: root has the container's set, everyone else nothing but its bounds.
            let bounds = capabilities.bounding().clone().unwrap_or_default();
            let own = if user.uid == 0 { bounds } else { Capabilities::default() };
            capabilities.set_effective(Some(own.clone())).set_permitted(Some(own));
            process.set_capabilities(Some(capabilities));
        }
    }
    if let Some(folder) = &request.working_directory {
        process.set_cwd(folder.clone());
    }
    if request.attachment.terminal {
        process.set_terminal(Some(true));
        let mut environment = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|entry| entry.starts_with("TERM=")) {
            environment.push("TERM=xterm".to_owned());
        }
        process.set_env(Some(environment));
    }
    let process_1 = status.record.process.ok_or_else(not_running)?;
    let enter = Made::Enter {
        bundle,
        run: request.folders.run.clone(),
        cgroup: process_1.cgroup.into(),
        process: Box::new(process),
    };
    attend(&enter, request.attachment)
}
