//! The command a person types: arguments in, sentences and an exit status out.
//! It knows neither libcontainer nor layers; images are the `bundles` room's business, services the `runtime` room's.

mod access;
mod arguments;
mod catalogue;
mod clients;
mod commands;
mod configuration;
mod definition;
mod drift;
mod error;
mod exit;
mod generation;
mod hint;
mod hooks;
mod image_users;
mod layout;
mod limits;
mod limits_value;
mod listing;
mod mounts;
mod one_shot;
mod own_folders;
mod plan;
mod preflight;
mod prepare;
mod print;
mod put_back;
mod quick;
mod registries;
mod release;
mod remake;
mod replacement;
mod secrets;
mod series;
mod service_name;
mod settings;
mod settings_swap;
mod settings_value;
mod since;
mod time_span;
mod wishes;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::arguments::{Arguments, Command, ConfigCommand};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::{Layout, ROOT_VARIABLE};

/// musl's own asks the kernel for memory, and gives it back, every now and then: 660 of the 3,500 system calls of a start.
/// Processes that go on after a fork(2) without exec(2) had one thread, so that its lock is free then.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    runtime::lacking::pretend();
    if std::env::args_os().nth(1).is_some_and(|word| word == "self-test") {
        return Exit::of_command(runtime::abilities::run_self_test()).into();
    }
    // Before anything else: a keeper costs a service no more memory than it touches.
    if let Some(status) = keep() {
        return Exit::of_command(status).into();
    }
    if quick::asks_for_version() {
        return match print::data(&format!("opsrun {}", env!("CARGO_PKG_VERSION"))) {
            Err(error) if !error.is_closed_output() => error.exit().into(),
            _ => Exit::Done.into(),
        };
    }
    let parsed = quick::command().map_or_else(|| Arguments::try_parse().map(|parsed| parsed.command), Ok);
    let command = match parsed {
        Ok(command) => command,
        Err(error) => {
            print::usage(&error, &typed_command());
            // Help and version are "errors" as well, which clap gives the status 0.
            return if error.exit_code() == 0 { Exit::Done } else { Exit::Usage }.into();
        }
    };
    let is_of_command = matches!(command, Command::Exec(_) | Command::Run(_));
    match perform(command) {
        Ok(exit) => exit.into(),
        // Whoever read the output has seen enough: `opsrun ps | head -1` is no failure.
        Err(error) if error.is_closed_output() => Exit::Done.into(),
        Err(error) => {
            print::failure(&error);
            if is_of_command { error.exit_of_command().into() } else { error.exit().into() }
        }
    }
}

/// The hidden command `keep`, which only a supervisor can start.
fn keep() -> Option<i32> {
    let mut words = std::env::args_os().skip(1);
    let service =
        words.next().filter(|word| word == "keep").and_then(|_| words.next()?.into_string().ok())?;
    runtime::keep::run(&service)
}

fn perform(command: Command) -> Result<Exit, Error> {
    if !command.is_for_everyone() && !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot {
            command: typed(),
            root: std::env::var_os(ROOT_VARIABLE).map(Into::into),
        });
    }
    let layout = Layout::from_environment()?;
    match command {
        Command::Load(arguments) => commands::load::load(&layout, arguments),
        Command::Commit(arguments) => commands::commit::commit(&layout, arguments),
        Command::Save(arguments) => commands::save::save(&layout, &arguments),
        Command::Pull(arguments) => commands::pull::pull(&layout, arguments),
        Command::Images(arguments) => commands::images::images(&layout, &arguments),
        Command::Rmi(arguments) => commands::rmi::rmi(&layout, &arguments),
        Command::Prune(arguments) => commands::prune::prune(&layout, &arguments),
        Command::Fsck(arguments) => commands::fsck::fsck(&layout, &arguments),
        Command::Start(arguments) => commands::start::start(&layout, arguments),
        Command::Stop(arguments) => commands::stop::stop(&layout, arguments),
        Command::Stats(arguments) => commands::stats::stats(&layout, &arguments),
        Command::Update(arguments) => commands::update::update(&layout, arguments),
        Command::Swap(arguments) => commands::swap::swap(&layout, arguments),
        Command::BenchSwap(arguments) => commands::bench_swap::bench_swap(&layout, arguments),
        Command::Rollback(arguments) => commands::rollback::rollback(&layout, arguments),
        Command::Restart(arguments) => commands::restart::restart(&layout, arguments),
        Command::Rm(arguments) => commands::rm::rm(&layout, arguments),
        Command::Ps(arguments) => commands::ps::ps(&layout, &arguments),
        Command::Status(arguments) => commands::status::status(&layout, &arguments),
        Command::Diff(arguments) => commands::diff::diff(&layout, &arguments),
        Command::History(arguments) => commands::history::history(&layout, &arguments),
        Command::Logs(arguments) => commands::logs::logs(&layout, &arguments),
        Command::Events(arguments) => commands::events::events(&layout, &arguments),
        Command::Exec(arguments) => commands::exec::exec(&layout, arguments),
        Command::Run(arguments) => commands::run::run(&layout, arguments),
        Command::Inspect(arguments) => commands::inspect::inspect(&layout, &arguments),
        Command::Config(config) => match config.command {
            ConfigCommand::Init(arguments) => commands::config_init::config_init(&layout, &arguments),
        },
        Command::Doctor(arguments) => commands::doctor::doctor(&layout, &arguments),
        Command::Enable(arguments) => commands::enable::enable(&layout, arguments),
        Command::Disable(arguments) => commands::enable::disable(&layout, arguments),
        Command::Boot => commands::boot::boot(&layout),
        Command::Reexec(arguments) => commands::reexec::reexec(&layout, &arguments),
        Command::Supervise { unit, clear, again, prove, service } => {
            let role = commands::supervise::Role::of(unit, clear, again, prove);
            commands::supervise::supervise(&layout.service(&service), role)
        }
        Command::Create { .. } => Ok(Exit::of_command(runtime::create::run())),
        Command::Man { folder } => commands::texts::man(&folder),
        Command::Completions { shell } => commands::texts::completions(shell),
    }
}

/// The command line as it was typed, quoted where a shell would need it.
fn typed() -> String {
    let plain =
        |word: &str| word.chars().all(|char| char.is_ascii_alphanumeric() || "-_./:=,@%+".contains(char));
    let quote = |word: String| {
        if plain(&word) && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words = std::env::args_os().skip(1).map(|word| quote(word.to_string_lossy().into_owned()));
    ["opsrun".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// `opsrun start`, when the first word is one of the commands that help knows; `opsrun` otherwise.
fn typed_command() -> String {
    let first = std::env::args().nth(1).unwrap_or_default();
    let known = Arguments::command();
    match known.get_subcommands().find(|command| command.get_name() == first && !command.is_hide_set()) {
        Some(command) => format!("opsrun {}", command.get_name()),
        None => "opsrun".to_owned(),
    }
}
