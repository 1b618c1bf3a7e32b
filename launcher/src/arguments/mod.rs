//! The command line: one definition that gives the parser, the help, the manual pages and the completions.
//! It knows nothing of what the commands do.

mod containers;
mod generations;
mod images;
mod services;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::service_name::ServiceName;

pub(crate) use containers::{Exec, More, Run, Session, Start};
pub(crate) use generations::{BenchSwap, Diff, Rollback, Side, Swap, Terms};
pub(crate) use images::{
    ArchiveFormat, BoundsTyped, Commit, Fsck, Images, Load, Prune, Pull, PullWhen, Rmi, Save,
};
pub(crate) use services::{
    Config, ConfigCommand, ConfigInit, Doctor, Events, Inspect, InspectKind, Logs, Ps, Reexec, Rm,
    ServiceOnly, Stats, Status, Update,
};

/// Runs OpenStack API services from container images, with no container daemon
#[derive(Debug, Parser)]
#[command(
    name = "opsrun",
    bin_name = "opsrun",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Example: from an image file to a running service\n\
        \n  opsrun load keystone-zed.tar\
        \n  opsrun config init keystone\
        \n  opsrun start keystone:zed\
        \n  opsrun ps\n\
        \nOPSRUN_ROOT=DIR puts everything opsrun keeps below DIR.\
        \nExit status: 0 done, 1 could not, 2 usage, 3 tried and went back, 4 nothing serves."
)]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Each subcommand
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load an image from a file, a folder or standard input
    #[command(
        long_about = "Load an image from a file, a folder or standard input: what `docker save`, `podman save`, \
            `buildah push` and `skopeo copy` write. Every digest is checked.",
        after_help = "Examples:\
            \n  opsrun load keystone-zed.tar\
            \n  opsrun load --tag keystone:zed ./oci-layout\
            \n  podman save keystone:zed | opsrun load -"
    )]
    Load(Load),
    /// Save images as an archive that docker, podman and skopeo read
    #[command(
        long_about = "Save images as an archive that docker, podman and skopeo read, and opsrun itself: with the same \
            layers and the same configuration, so with the same id. The archive is there when it is complete, and not \
            before.",
        after_help = "Examples:\
            \n  opsrun save keystone:zed -o keystone-zed.tar\
            \n  opsrun save --format docker-archive keystone:zed keystone:epoxy -o both.tar\
            \n  opsrun save keystone:zed | ssh other opsrun load -"
    )]
    Save(Save),
    /// Make an image of a service's container, with what it has changed as one layer more
    #[command(
        long_about = "Make an image of a service's container, running or stopped: its image, and what the container has \
            changed over it as one layer more. What is mounted into the container, such as configuration, data and logs, \
            is no part of it. A running one stands still while its changes are read. `opsrun images` marks such images.",
        after_help = "Examples:\
            \n  opsrun commit keystone keystone:patched -m 'with the fix for the token cache'\
            \n  opsrun start keystone:patched\
            \n  opsrun save keystone:patched -o keystone-patched.tar"
    )]
    Commit(Commit),
    /// Get an image from a registry
    #[command(
        long_about = "Get an image from a registry. A layer that is here already is not downloaded, and what breaks off \
            is resumed. A name without a registry is one of the default registry in /etc/opsrun/opsrun.toml. \
            Credentials are those of `docker login` and `podman login`.",
        after_help = "Examples:\
            \n  opsrun pull registry.example:5000/openstack/keystone:zed\
            \n  opsrun pull keystone:zed"
    )]
    Pull(Pull),
    /// List the images that are loaded
    #[command(after_help = "Examples:\n  opsrun images\n  opsrun images keystone --json")]
    Images(Images),
    /// Remove images, and the layers that no other image needs
    #[command(after_help = "Example:\n  opsrun rmi keystone:zed")]
    Rmi(Rmi),
    /// Remove the images and layers that nothing needs any more
    #[command(
        long_about = "Remove the images and layers that nothing needs any more: images that have lost their name to a \
            newer one and that no generation of a service and no running container uses, and layers of no image. What \
            has a name goes by `opsrun rmi`.",
        after_help = "Examples:\n  opsrun prune --dry-run\n  opsrun prune"
    )]
    Prune(Prune),
    /// Check every image and layer against what was recorded when it was loaded
    #[command(
        long_about = "Check every image and layer against what was recorded when it was loaded, and name each file that \
            was changed, is missing or was added. Ends with status 1 when something is broken. With --repair what is \
            broken is removed, so that loading the image again brings it back; what a service or a command runs from is \
            never touched.",
        after_help = "Examples:\n  opsrun fsck\n  opsrun fsck --repair && opsrun load keystone-zed.tar"
    )]
    Fsck(Fsck),
    /// Start a service and wait until it is healthy
    #[command(
        long_about = "Start a service and wait until it is healthy. When it does not become healthy it is stopped \
            again, and its last lines of output are shown. Without RELEASE it is the release that ran last, or the \
            only one that is loaded. What -v and -e say counts for this generation and for restarts of it.",
        after_help = "Examples:\n  opsrun start keystone:zed\n  opsrun start keystone -e OS_DEBUG=1 \
            -v /srv/pki:/etc/pki:ro"
    )]
    Start(Start),
    /// Stop a service
    #[command(after_help = "Example:\n  opsrun stop keystone")]
    Stop(ServiceOnly),
    /// Stop a service and start it again with the configuration as it is now
    #[command(
        long_about = "Stop a service and start it again with the configuration as it is now. When it does not become \
            healthy, what ran before is started again (exit status 3).",
        after_help = "Example:\n  opsrun restart keystone"
    )]
    Restart(ServiceOnly),
    /// Put another release in place of the one that runs, and go back when it is not healthy
    #[command(
        long_about = "Put another release in place of the one that runs, with the configuration as it is now. The new \
            generation is made ready first. When it does not become healthy, ends, or does not stay healthy for the \
            soak, the old one serves again (exit status 3). A release that runs already is swapped for itself when its \
            configuration or settings have changed. Before anything is touched, all is looked at that can be known before; \
            what cannot end well is refused (exit status 1). Hooks of the settings are run in the new image: when a \
            post_commit fails, the new one serves all the same (exit status 5).",
        after_help = "Examples:\n  opsrun swap keystone juno --plan\n  opsrun swap keystone juno\n  opsrun swap keystone juno --soak 2m --timeout 5m\
            \n  opsrun swap keystone juno --canary 10% --for 5m\n  opsrun swap keystone juno --config ./keystone-juno"
    )]
    Swap(Swap),
    /// Swap a service while clients ask it, and say what they saw
    #[command(
        long_about = "Swap a service while clients ask it all the time, and say what they saw: how many requests, how many of \
            them failed and how, the slowest, and the longest time without an answer. It is a swap like any other, with its \
            exit status; what it takes besides goes behind `--`.",
        after_help = "Examples:\
            \n  opsrun bench-swap keystone juno\
            \n  opsrun bench-swap keystone juno --clients 64 --keep-alive --path /v3 -- --soak 5s"
    )]
    BenchSwap(BenchSwap),
    /// Put an earlier generation in place of the one that runs, with its image, limits and configuration
    #[command(
        long_about = "Put an earlier generation in place of the one that runs: the one that served before it, or the one with \
            this number. Its image, limits, definition, environment and configuration return together, in a generation of \
            their own, as `swap` does it: it is made ready first, and when it does not become healthy, ends, or does not stay \
            healthy for the soak, what ran serves again (exit status 3). Once it is proven, /opt/NAME/conf becomes as it was \
            then; what had been changed there is kept as a generation, too. Data, logs, and keys that the catalogue \
            knows stay as they are.",
        after_help = "Examples:\n  opsrun rollback keystone\n  opsrun rollback keystone 3 --keep-config"
    )]
    Rollback(Rollback),
    /// Show what services use: processors, memory, processes, disks
    #[command(
        long_about = "Show what services use: processors, memory, processes, disks. On a terminal each second, until \
            q or Ctrl-C; once otherwise. What this host does not count is shown as -.",
        after_help = "Examples:\n  opsrun stats\n  opsrun stats --json keystone"
    )]
    Stats(Stats),
    /// Change the limits of a running service, without a restart
    #[command(
        long_about = "Change the limits of a running service, without a restart. They stay with its generation, and \
            with what `restart` makes of it; `start` takes those of the settings again.",
        after_help = "Examples:\n  opsrun update keystone --memory 1g\n  opsrun update keystone --cpus 1.5 --pids-limit 300"
    )]
    Update(Update),
    /// Forget a service: its record, generations and logs; /opt/NAME stays
    #[command(after_help = "Examples:\n  opsrun rm keystone\n  opsrun rm --force keystone")]
    Rm(Rm),
    /// List the services
    #[command(after_help = "Examples:\n  opsrun ps\n  opsrun ps --json")]
    Ps(Ps),
    /// Show what is known of a service
    #[command(after_help = "Example:\n  opsrun status keystone")]
    Status(Status),
    /// Show the generations of a service: when, by whom, and what became of each
    #[command(
        long_about = "Show the generations of a service, the newest last: when each was made, by whom and by which command, \
            for how long it served, and how it ended. A start, a restart, a swap and a rollback each make one. The last ones \
            are kept with their configuration; of older ones only this line is left, which then ends in \"gone\".",
        after_help = "Examples:\n  opsrun history keystone\n  opsrun history keystone --json"
    )]
    History(Status),
    /// Show in what two generations of a service differ
    #[command(
        long_about = "Show in what two generations of a service differ: image, definition, limits, environment, mounts and \
            configuration. Without numbers it is the one that served before against the active one, with one number that one \
            against the active one. `now` is the configuration as it is on the host. Secrets are hidden: a line whose secret \
            changed is shown as such; private keys are never shown.",
        after_help = "Examples:\n  opsrun diff keystone\n  opsrun diff keystone 3 5\n  opsrun diff keystone 5 now"
    )]
    Diff(Diff),
    /// Show the output of a service
    #[command(
        after_help = "Examples:\n  opsrun logs keystone\n  opsrun logs -f -n 20 keystone\n  opsrun logs --generation 7 keystone"
    )]
    Logs(Logs),
    /// Show what has happened to services: starts, ends, restarts, limits, and by whom
    #[command(
        long_about = "Show what has happened to services, by time: starts, ends, restarts, kills for want of memory, \
            changes of limits, and by whom. Times are the host's; in JSON, one event a line, they are in UTC. What is \
            very long ago is dropped, and `opsrun rm` drops all.",
        after_help = "Examples:\n  opsrun events\n  opsrun events -f keystone glance\n  opsrun events --since 2h --json"
    )]
    Events(Events),
    /// Run a command in the container of a running service
    #[command(
        after_help = "Examples:\n  opsrun exec -it keystone bash\n  opsrun exec keystone keystone-manage --version\n\
            \nThe exit status is the command's; 125: opsrun failed, 126: cannot be executed, 127: no such command."
    )]
    Exec(Exec),
    /// Run a command in a new container, in the foreground
    #[command(
        long_about = "Run a command in a new container, in the foreground; the container is removed when the command \
            ends. When the image is a service's (its name is in the catalogue, or there is an /etc/opsrun/NAME.toml or \
            an /opt/NAME/conf), the command sees that service's own folders, the configuration live.",
        after_help = "Examples:\
            \n  opsrun run --rm keystone:zed keystone-manage db_sync\
            \n  opsrun run --rm -it --entrypoint bash keystone:zed\n\
            \nThe exit status is the command's; 125: opsrun failed, 126: cannot be executed, 127: no such command."
    )]
    Run(Run),
    /// Show everything about a service or an image, as JSON
    #[command(after_help = "Examples:\n  opsrun inspect keystone\n  opsrun inspect keystone:zed")]
    Inspect(Inspect),
    /// Work with the configuration of a service
    Config(Config),
    /// Say whether this host can run services, and what is missing
    #[command(after_help = "Example:\n  opsrun doctor")]
    Doctor(Doctor),

    /// Have a service started when the host starts
    #[command(
        long_about = "Have a service started when the host starts: by systemd where there is systemd, by `opsrun boot` \
            elsewhere. It comes up with the release and generation that it had last. Services that are named by `after` \
            in its settings come first.",
        after_help = "Example:\n  opsrun enable keystone"
    )]
    Enable(ServiceOnly),
    /// Have a service no longer started when the host starts
    #[command(after_help = "Example:\n  opsrun disable keystone")]
    Disable(ServiceOnly),
    /// Start what is enabled, on a host without systemd
    #[command(
        long_about = "Start what is enabled, in the order that `after` in the services' settings gives, and take up \
            what has lost its supervisor since the host started. For the start script of a host without systemd.",
        after_help = "Example, in /etc/rc.local:\n  /usr/local/bin/opsrun boot"
    )]
    Boot,
    /// Have supervisors go on as the opsrun that is installed now, without a restart of any service
    #[command(
        long_about = "Have the supervisor of a service, or of each, go on as this very program: after another version of \
            opsrun was installed. The services do not notice. The program is tried first: one that could not go on with \
            a service changes nothing.",
        after_help = "Example:\n  opsrun reexec --all"
    )]
    Reexec(Reexec),

    /// Hold one service: its supervisor
    #[command(hide = true)]
    Supervise {
        /// As a unit of systemd's
        #[arg(long)]
        unit: bool,
        /// Remove what is left of a service whose supervisor is gone
        #[arg(long, conflicts_with = "unit")]
        clear: bool,
        /// Go on where another supervisor died
        #[arg(long, conflicts_with_all = ["unit", "clear"])]
        again: bool,
        /// Say whether this program could go on as the supervisor
        #[arg(long, conflicts_with_all = ["unit", "clear", "again"])]
        prove: bool,
        /// The service
        service: ServiceName,
    },
    /// Make one container
    #[command(hide = true)]
    Create {
        /// The container, for whoever looks at the host's processes
        id: Option<String>,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Folder to write them into
        folder: PathBuf,
    },
    /// Write the completions of a shell to standard output
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// In which form something is listed
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Form {
    /// As JSON, in a form that does not change
    #[arg(long)]
    pub json: bool,
}

impl Command {
    /// Whether anybody may use it: it changes nothing and reads nothing that is root's.
    pub(crate) fn is_for_everyone(&self) -> bool {
        matches!(self, Self::Man { .. } | Self::Completions { .. } | Self::Doctor(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} is not explained", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            let has_more = command.get_subcommands().next().is_some();
            let example = command.get_after_help().is_some_and(|text| text.to_string().contains("Example"));
            assert!(has_more || command.is_hide_set() || example, "{} has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn dockers_way_of_typing_it_works() {
        let line =
            "opsrun run --rm -it -e A=b -v /a:/b:ro -u keystone keystone:zed keystone-manage -v --help";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = arguments.command else { panic!("not run") };
        assert!(run.session.tty && run.session.interactive);
        assert_eq!(run.more.environment, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(run.command, ["keystone-manage", "-v", "--help"]);

        let line = "opsrun exec -it keystone bash -c ls";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Exec(exec) = arguments.command else { panic!("not exec") };
        assert_eq!(exec.command, ["bash", "-c", "ls"]);
    }
}
