//! `man` and `completions`: the texts that are made from the definition of the command line.
//! They know nothing of what the commands do.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::error::Error;
use crate::exit::Exit;
use crate::print;

/// Writes a manual page for each command into a folder.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn man(folder: &Path) -> Result<Exit, Error> {
    fs_err::create_dir_all(folder)
        .map_err(|error| Error::io("make the folder for the manual pages", error))?;
    clap_mangen::generate_to(Arguments::command(), folder)
        .map_err(|error| Error::io(format!("write the manual pages into {}", folder.display()), error))?;
    Ok(Exit::Done)
}

/// Prints the completions of a shell.
///
/// # Errors
/// [`Error::Output`].
pub(crate) fn completions(shell: Shell) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "opsrun", &mut text);
    print::data(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
