//! `update`: changes the limits of a service that runs, without a restart, and in its generation.
//! It does not know how a limit is put into effect.

use std::collections::BTreeMap;

use runtime::client;

use crate::arguments::Update;
use crate::commands::look;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::layout::Layout;
use crate::limits;
use crate::limits::Limits;
use crate::prepare::limits_in_files;
use crate::print::{self, sentence};
use crate::wishes;

/// Changes limits. What is not named stays; a later `restart` keeps what was changed, as what was typed at a start.
///
/// # Errors
/// [`Error::NoLimits`] when none is named, [`Error::Limits`], [`Error::NoService`], [`Error::Runtime`]; nothing has
/// changed then.
pub(crate) fn update(layout: &Layout, arguments: Update) -> Result<Exit, Error> {
    let service = arguments.service;
    let (folders, status) = look(layout, &service)?;
    if arguments.limits == Limits::default() {
        return Err(Error::NoLimits { service: service.to_string() });
    }
    let not_running = || runtime::Error::NotRunning { service: service.to_string() };
    if !status.alive {
        return Err(not_running().into());
    }
    let made = generation::read(&folders.generation(status.record.generation)).ok_or_else(not_running)?;
    let said = arguments.limits.clone().over(made.said_limits);
    let files = limits_in_files(&said)?;
    let mut typed = made.wishes;
    typed.limits = arguments.limits.over(typed.limits);
    let annotations = BTreeMap::from([
        (limits::ANNOTATION.to_owned(), said.to_annotation()),
        (wishes::ANNOTATION.to_owned(), typed.to_annotation()),
    ]);
    let changed = client::update(&folders, &files, &annotations)?;
    let changed: Vec<String> = changed.iter().map(|file| format!("{file} = {}", files[file])).collect();
    print::note(&sentence::updated(service.as_str(), &status.record.release, &changed));
    Ok(Exit::Done)
}
