//! What can go wrong in this room, and what the other two rooms hand up.
//! The text never repeats its source; chain and hint are printed once, by `print`.

use std::io;
use std::path::PathBuf;

use crate::exit::Exit;
use crate::settings_swap::When;

/// An error as `main` ends with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// From the images' room.
    #[error(transparent)]
    Bundles(#[from] bundles::Error),
    /// From the services' room.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// A system call failed while doing something.
    #[error("could not {doing}")]
    Io {
        /// What was being done, as in "could not …".
        doing: String,
        /// Why not; it names the path where there is one.
        source: io::Error,
    },
    /// Standard output cannot be written to.
    #[error("could not write to standard output")]
    Output {
        /// Why not; a broken pipe is no error to a person.
        source: io::Error,
    },
    /// `commit` finds no container of the service.
    #[error("there is nothing to commit: generation {generation} of {service} is gone")]
    NothingToCommit {
        /// The service.
        service: String,
        /// Its active generation.
        generation: u32,
    },
    /// `save` would fill a terminal with an archive.
    #[error("an archive cannot be written to a terminal")]
    ArchiveToTerminal,
    /// The command needs to be root.
    #[error("`{command}` must be run as root")]
    NotRoot {
        /// The command as it was typed.
        command: String,
        /// `OPSRUN_ROOT`, when it is set.
        root: Option<PathBuf>,
    },
    /// `OPSRUN_ROOT` cannot be worked in.
    #[error("OPSRUN_ROOT={path} cannot be used: {reason}")]
    Root {
        /// Its value.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A settings file is wrong.
    #[error("{path}, line {line}: {reason}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The line's text.
        shown: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image and the settings together make no rules that can be followed.
    #[error("{service} cannot be watched or stopped as it should be: {reason}")]
    Rules {
        /// The service.
        service: String,
        /// Its settings file, whether it is there or not.
        settings: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A limit makes no sense, on this host or together with another one.
    #[error("the limit {name} = {value} cannot be: {reason}")]
    Limits {
        /// Its name in the settings; the flag has dashes.
        name: String,
        /// As it was said.
        value: String,
        /// Why not.
        reason: String,
    },
    /// `update` was told nothing to change.
    #[error("no limit of {service} is named, so there is nothing to change")]
    NoLimits {
        /// The service.
        service: String,
    },
    /// Nothing is known of a service: it was never started.
    #[error("there is no service {service}")]
    NoService {
        /// The name that was typed.
        service: String,
        /// The services that there are.
        have: Vec<String>,
    },
    /// A generation that never was.
    #[error("{service} has no generation {generation}; there are {}", .have.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))]
    NoGeneration {
        /// The service.
        service: String,
        /// The number that was typed.
        generation: u32,
        /// Those that are kept.
        have: Vec<u32>,
    },
    /// A generation of which only the history is left.
    #[error("generation {generation} of {service} is gone; there are {}", .have.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))]
    GenerationGone {
        /// The service.
        service: String,
        /// The number that was typed.
        generation: u32,
        /// Those that are kept.
        have: Vec<u32>,
    },
    /// A service that listens nowhere.
    #[error("{service} has no port that clients could ask")]
    NothingToAsk {
        /// The service.
        service: String,
    },
    /// What was typed for `swap` is not understood.
    #[error("these options of swap make no sense: {reason}")]
    SwapOptions {
        /// Why.
        reason: String,
    },
    /// Nothing served before what serves.
    #[error("nothing of {service} served before generation {active}")]
    NothingBefore {
        /// The service.
        service: String,
        /// What serves.
        active: u32,
    },
    /// The image of a generation is not in the store any more.
    #[error("generation {generation} of {service} needs {image}, which is not loaded any more")]
    ImageGone {
        /// The service.
        service: String,
        /// The generation.
        generation: u32,
        /// Name and tag that it had.
        image: String,
        /// Its id, `sha256:…`.
        image_id: String,
    },
    /// A rollback to what runs.
    #[error("{service} runs generation {generation} already, with the configuration that it began with")]
    AlreadyActive {
        /// The service.
        service: String,
        /// What serves.
        generation: u32,
    },
    /// A configuration for a service that sees none.
    #[error("{service} has no folder for a configuration in its container")]
    NoPlaceForConfiguration {
        /// The service.
        service: String,
    },
    /// What was typed is no folder.
    #[error("{path} is no folder", path = .path.display())]
    NotAFolder {
        /// What was typed.
        path: PathBuf,
    },
    /// No image of a service is loaded.
    #[error("no image for {service} is loaded")]
    NoImage {
        /// The service.
        service: String,
        /// The image that was looked for.
        image: String,
        /// What `pull` could be told, when it is known from where.
        pull: Option<String>,
    },
    /// The release of a service is not loaded.
    #[error("{service} has no release {release}; loaded: {}", .have.join(", "))]
    NoRelease {
        /// The service.
        service: String,
        /// The release that was typed.
        release: String,
        /// The releases that are loaded.
        have: Vec<String>,
        /// The command as it could have been typed.
        line: String,
    },
    /// Several releases are loaded and none was named.
    #[error("several releases of {service} are loaded: {}", .have.join(", "))]
    WhichRelease {
        /// The service.
        service: String,
        /// The releases.
        have: Vec<String>,
        /// The command as it could have been typed.
        line: String,
    },
    /// The configuration folder of a service is missing or empty.
    #[error("{service} has no configuration: {file} is missing", file = .file.display())]
    NoConfiguration {
        /// The service.
        service: String,
        /// The file, or the folder when no file is known.
        file: PathBuf,
        /// Whether the folder has other files.
        others: bool,
    },
    /// `config init` would overwrite something.
    #[error("{folder} is not empty; nothing was changed", folder = .folder.display())]
    ConfigurationNotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The image has no configuration to begin with.
    #[error("{image} has no configuration of its own{}", .folder.as_ref().map(|folder| format!(" in {}", folder.display())).unwrap_or_default())]
    ImageWithoutConfiguration {
        /// The image.
        image: String,
        /// The folder in the image, when it is known.
        folder: Option<PathBuf>,
        /// Where the configuration would be.
        into: PathBuf,
    },
    /// The service's user cannot use one of its files.
    #[error("{path} cannot be {verb} by uid {uid}{name}, which {service} runs as", path = .path.display(),
            verb = .access.participle(), name = .user.as_ref().map(|user| format!(" ({user})")).unwrap_or_default())]
    Access {
        /// The service.
        service: String,
        /// The file or folder.
        path: PathBuf,
        /// What the service must be able to do with it.
        access: Access,
        /// Its user.
        uid: u32,
        /// Its user's group.
        gid: u32,
        /// Its user's name, if the image has one.
        user: Option<String>,
        /// What `chmod` would have to be told, beside a `chown`.
        mode: u32,
    },
    /// A one-shot container of that name runs.
    #[error("a container called {name} is running")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A service that runs cannot be removed.
    #[error("{service} is running {release}")]
    StillRunning {
        /// The service.
        service: String,
        /// What it runs.
        release: String,
    },
    /// Services wait for each other.
    #[error("these services come after each other in a circle: {}", .services.join(", "))]
    Cycle {
        /// Each comes after the next one, the last after the first.
        services: Vec<String>,
    },
    /// `boot` has nothing to do here.
    #[error("systemd starts what is enabled on this host")]
    BootUnderSystemd,
    /// The host cannot run services.
    #[error("this host cannot run services: {missing} of what opsrun needs is missing")]
    Unfit {
        /// How many facts.
        missing: usize,
    },
    /// The store has broken images or layers; each was listed already.
    #[error("{broken} in the store {}", if *.broken == 1 { "is broken" } else { "are broken" }, broken = counted(*.broken, *.in_use))]
    StoreBroken {
        /// How many things.
        broken: usize,
        /// Whether these are left after a repair, because they are in use.
        in_use: bool,
    },
    /// Of several things that were asked for, some could not be done; each was said already.
    #[error("{failed} of {asked} failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// Before a swap was begun, something was found that speaks against it; each was said already.
    #[error("{service} {release} is not put in place: {}", refusals(*.checks))]
    Refused {
        /// The service.
        service: String,
        /// The release that was to run.
        release: String,
        /// How many checks refuse.
        checks: usize,
    },
    /// A hook did not do what it was to do.
    #[error(transparent)]
    HookFailed(#[from] Box<HookFailed>),
    /// The new generation failed and the old one serves again.
    #[error("{service} {wanted} could not be started; generation {generation} ({serves}) serves again")]
    WentBack {
        /// The service.
        service: String,
        /// The release that was tried.
        wanted: String,
        /// The release that serves.
        serves: String,
        /// Its generation.
        generation: u32,
        /// Why the new one failed.
        source: Box<Error>,
    },
    /// The new generation failed, and so did the old one.
    #[error("{service} is down: {wanted} could not be started, nor could {before}, which ran before")]
    NeitherServes {
        /// The service.
        service: String,
        /// The release that was tried.
        wanted: String,
        /// The release that ran before.
        before: String,
        /// Why the new one failed.
        source: Box<Error>,
        /// Why the old one failed.
        back: Box<Error>,
    },
}

fn refusals(checks: usize) -> String {
    if checks == 1 { "one check refuses it".to_owned() } else { format!("{checks} checks refuse it") }
}

/// A hook that did not do what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("{service} {release} {}: its hook `{command}` {how}", .when.outcome())]
pub(crate) struct HookFailed {
    /// The service.
    pub service: String,
    /// The release that it was run for.
    pub release: String,
    /// When.
    pub when: When,
    /// The hook.
    pub command: String,
    /// As in "ended with status 1".
    pub how: String,
    /// Its last lines.
    pub output: Vec<String>,
    /// Why it could not be run.
    pub source: Option<Box<Error>>,
}

/// As in "2 things in the store are broken".
fn counted(broken: usize, in_use: bool) -> String {
    let things = if broken == 1 { "thing" } else { "things" };
    format!("{broken} {things}{}", if in_use { " that a service or a command runs from" } else { "" })
}

/// What a service must be able to do with a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read a file.
    Read,
    /// List and search a folder.
    Search,
    /// Make and remove files in a folder.
    Write,
}

impl Access {
    /// As in "cannot be read by".
    pub(crate) fn participle(self) -> &'static str {
        match self {
            Self::Read | Self::Search => "read",
            Self::Write => "written to",
        }
    }
}

impl Error {
    /// An I/O error while doing something (as in "could not …").
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// The status opsrun ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::WentBack { .. } => Exit::WentBack,
            Self::NeitherServes { .. } => Exit::NeitherServes,
            Self::HookFailed(failed) if failed.when == When::PostCommit => Exit::HookFailed,
            _ => Exit::Failed,
        }
    }

    /// The status `exec` and `run` end with, as Docker has it.
    pub(crate) fn exit_of_command(&self) -> Exit {
        match self {
            Self::Runtime(runtime::Error::Execute { missing: true, .. })
            | Self::Bundles(bundles::Error::NoEntrypoint { .. }) => Exit::NoSuchCommand,
            Self::Runtime(runtime::Error::Execute { .. })
            | Self::Bundles(bundles::Error::NotExecutable { .. } | bundles::Error::NoInterpreter { .. }) => {
                Exit::CannotExecute
            }
            _ => Exit::BeforeCommand,
        }
    }

    /// Whether the only thing wrong is that nobody reads standard output any more.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
