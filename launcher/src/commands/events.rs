//! `events`: what has happened to services, and what happens to them. No supervisor has to be alive for that.
//! It changes nothing, and does not know how the files are laid out.

use std::ffi::OsStr;

use runtime::events::{self, Line, Lines};
use runtime::status;

use crate::arguments::Events;
use crate::commands::{service_names, unknown};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::event::Columns;
use crate::print::{self, sentence};
use crate::service_name::ServiceName;

/// Shows the events of the services that are named, or of all.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`].
pub(crate) fn events(layout: &Layout, arguments: &Events) -> Result<Exit, Error> {
    for name in &arguments.services {
        let folders = layout.service(name);
        // One whose only start failed has events and no record.
        if !folders.log.is_dir() && status::look(&folders)?.is_none() {
            return Err(unknown(layout, name)?);
        }
    }
    let mut view = View { arguments, columns: Columns::default(), began: false };
    let wanted = |name: &ServiceName| arguments.services.is_empty() || arguments.services.contains(name);
    if arguments.follow {
        let service = |name: &OsStr| {
            let name: ServiceName = name.to_str()?.parse().ok()?;
            wanted(&name).then(|| layout.service(&name))
        };
        events::follow(&layout.logs(), &service, &mut |lines| view.show(lines))?;
        return Ok(Exit::Done);
    }
    let mut all = Lines::default();
    for name in service_names(&layout.logs())?.iter().filter(|name| wanted(name)) {
        all.append(events::read(&layout.service(name))?);
    }
    all.sort();
    view.show(all)?;
    Ok(Exit::Done)
}

struct View<'a> {
    arguments: &'a Events,
    columns: Columns,
    /// Whether what there was before was shown.
    began: bool,
}

impl View<'_> {
    fn show(&mut self, mut found: Lines) -> Result<(), Error> {
        if !std::mem::replace(&mut self.began, true) {
            self.select(&mut found.lines);
        }
        if found.unreadable > 0 {
            print::warning(&sentence::unreadable_events(found.unreadable));
        }
        if self.arguments.form.json {
            return print::data(
                &found.lines.iter().map(|line| format!("{}\n", line.text)).collect::<String>(),
            );
        }
        self.columns.widen(&found.lines);
        let render = |line: &Line| self.columns.render(line, &chrono::Local);
        print::coloured(&found.lines.iter().map(render).collect::<String>())
    }

    fn select(&self, lines: &mut Vec<Line>) {
        if let Some(since) = self.arguments.since {
            lines.retain(|line| line.at_ms >= since.at_ms);
        }
        if let Some(last) = self.arguments.last {
            lines.drain(..lines.len().saturating_sub(last));
        }
    }
}
