//! `exec`: one more command in the container of a running service.
//! It does not know how a container is entered.

use bundles::account;
use bundles::reference::Reference;
use bundles::store::Store;
use runtime::attend::Attachment;
use runtime::exec::{self, User};

use crate::arguments::{Exec, Session};
use crate::commands::look;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::release::unpacked;

/// Runs the command and ends as it does.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`]; [`Error::Bundles`] when the image has no such user.
pub(crate) fn exec(layout: &Layout, arguments: Exec) -> Result<Exit, Error> {
    let (folders, status) = look(layout, &arguments.service)?;
    let user = match &arguments.session.user {
        // Only a running service's image is sure to be there; that it runs is what the runtime says better.
        Some(user) if status.alive => Some(resolve(layout, &status.record.image_id, user)?),
        _ => None,
    };
    let environment = arguments.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let status = exec::exec(&exec::Request {
        folders,
        arguments: arguments.command,
        environment,
        user,
        attachment: attachment(&arguments.session),
        working_directory: arguments.session.workdir,
    })?;
    Ok(Exit::of_command(status))
}

/// How the command meets this terminal.
pub(crate) fn attachment(session: &Session) -> Attachment {
    Attachment { interactive: session.interactive, terminal: session.tty }
}

/// A user as the service's image knows it.
fn resolve(layout: &Layout, image_id: &str, user: &str) -> Result<User, Error> {
    let id: Reference = image_id.parse()?;
    let store = Store::open(&layout.store())?;
    let view = unpacked(&store, &store.find(&id)?)?.view()?;
    let account = account::resolve(&view, Some(user))?;
    Ok(User { uid: account.uid, gid: account.gid, groups: account.groups })
}
