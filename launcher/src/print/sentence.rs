//! What opsrun says when something is done: every such sentence, side by side.
//! It knows nothing of how it was done.

use std::path::Path;
use std::time::Duration;

use runtime::client::Swapped;
use runtime::record::Way;
use runtime::swap::{Canary, Left, Step};

use crate::listing::MeasuredSwap;
use crate::print::amount::{bytes, span};

/// `start` and `restart`.
pub(crate) fn healthy(service: &str, release: &str, generation: u32, process: i32, took_ms: u64) -> String {
    let took = seconds(took_ms);
    format!("{service} {release} is healthy (generation {generation}, process {process}, {took})")
}

/// `bench-swap`.
pub(crate) fn measured_swap(measured: &MeasuredSwap) -> String {
    let MeasuredSwap { clients, address, path, requests, gap_ms, swap_ms, .. } = measured;
    let how = if measured.keep_alive { "a connection each" } else { "a connection for each request" };
    let failed = match measured.failed.values().sum::<u64>() {
        0 => "0".to_owned(),
        all => {
            let kinds: Vec<_> =
                measured.failed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            format!("{all}: {}", kinds.join(", "))
        }
    };
    let again = match measured.sent_again {
        0 => String::new(),
        count => format!("sent again  {count}, on connections that were closed while idle\n"),
    };
    let slowest = measured.slowest_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
    let median = measured.median_us.map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
    format!(
        "requests    {requests} for http://{address}{path}, by {clients} clients with {how}\n\
         failed      {failed}\n\
         {again}\
         slowest     {slowest}, half of them within {median}\n\
         gap         {gap_ms} ms at most without an answer\n\
         swap        {}\n",
        seconds(*swap_ms)
    )
}

/// `reexec`.
pub(crate) fn reexecuted(service: &str, process: i32) -> String {
    format!("the supervisor of {service} (process {process}) goes on as opsrun {}", env!("CARGO_PKG_VERSION"))
}

/// `status` of a service whose supervisor runs a program that is not the one installed any more.
pub(crate) fn program_replaced(service: &str, process: i32) -> String {
    format!(
        "process {process}; opsrun was replaced since it began: `opsrun reexec {service}` has it go on as the new one"
    )
}

/// `doctor`, when there are such supervisors.
pub(crate) fn programs_replaced(services: &[String]) -> String {
    format!("opsrun was replaced since the supervisors of these began: {}", services.join(", "))
}

/// `stop`.
pub(crate) fn stopped(service: &str, release: &str, took_ms: u64) -> String {
    format!("{service} {release} is stopped ({})", seconds(took_ms))
}

/// `start`, `stop` and `rm` of a service whose record cannot be read.
pub(crate) fn record_set_aside(service: &str, aside: &Path) -> String {
    format!(
        "the record of {service} was corrupt; it is {} now, and what ran of {service} was ended",
        aside.display()
    )
}

/// `enable`.
pub(crate) fn enabled(service: &str) -> String {
    format!("{service} is started when this host starts")
}

/// `disable`.
pub(crate) fn disabled(service: &str) -> String {
    format!("{service} is no longer started when this host starts")
}

/// `start`, on a host whose systemd does not know opsrun.
pub(crate) const NO_UNIT: &str = "systemd does not know opsrun here: the service runs in the background of this session, \
     and ends with it where systemd is told to end sessions; `scripts/install` makes it a unit";

/// `update`.
pub(crate) fn updated(service: &str, release: &str, changed: &[String]) -> String {
    match changed {
        [] => format!("{service} {release} has these limits already"),
        changed => format!("{service} {release} is limited anew: {}", changed.join(", ")),
    }
}

/// `stats`, below its figures.
pub(crate) const HOW_TO_END: &str = "q ends";

/// `events`.
pub(crate) fn unreadable_events(count: usize) -> String {
    match count {
        1 => "1 line of the event files is no event and is left out".to_owned(),
        count => format!("{count} lines of the event files are no events and are left out"),
    }
}

/// `diff`.
pub(crate) fn no_difference(service: &str, from: &str, to: &str) -> String {
    format!("{service}: {from} and {to} do not differ")
}

/// `history`, when lines of it cannot be read.
pub(crate) fn damaged_history(lines: usize, file: &Path) -> String {
    let what = if lines == 1 { "1 line is" } else { &format!("{lines} lines are") };
    format!("{what} damaged in {} and left out", file.display())
}

/// `rm`.
pub(crate) fn removed_service(service: &str, kept: Option<&Path>) -> String {
    match kept {
        Some(folder) => format!("{service} is forgotten; its own files stay in {}", folder.display()),
        None => format!("{service} is forgotten"),
    }
}

/// `load`, for each image.
pub(crate) fn loaded(names: &str, id: &str, size_bytes: u64) -> String {
    format!("{names} is loaded ({id}, {})", bytes(size_bytes))
}

/// `pull`, when an attempt failed: the next one comes, or there is somebody else to ask.
pub(crate) fn not_yet(error: &dyn std::error::Error, next_in: Option<Duration>) -> String {
    let why = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match next_in {
        Some(wait) => format!("{why}; trying again in {:.1} s", wait.as_secs_f32()),
        None => format!("{why}; asking the next one"),
    }
}

/// `load`, after all images.
pub(crate) fn layers_unpacked(layers: usize) -> String {
    match layers {
        0 => "every layer was there already".to_owned(),
        1 => "1 layer was unpacked".to_owned(),
        layers => format!("{layers} layers were unpacked"),
    }
}

/// `images`, of what was made by `commit`.
pub(crate) fn committed_from(service: &str, image: &str) -> String {
    format!("committed: {service} on {image}")
}

/// `commit`.
pub(crate) fn committed(service: &str, name: &str, id: &str, entries: u64, layer_bytes: u64) -> String {
    let entries = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
    format!("{service} is committed as {name} ({id}; its layer has {entries}, {})", bytes(layer_bytes))
}

/// `commit`, on a host that cannot freeze.
pub(crate) fn not_paused(service: &str) -> String {
    format!("{service} is not paused, which this host cannot do: what it writes now may be half in the image")
}

/// `commit`, of a service whose supervisor has died.
pub(crate) fn not_paused_unsupervised(service: &str) -> String {
    format!(
        "{service} is not paused, since it has no supervisor: what it writes now may be half in the image"
    )
}

/// `commit`, about what no layer can hold.
pub(crate) fn sockets_left_out(sockets: u64) -> String {
    match sockets {
        1 => "1 socket was left out: no layer can hold one".to_owned(),
        sockets => format!("{sockets} sockets were left out: no layer can hold one"),
    }
}

/// `save`.
pub(crate) fn saved(names: &str, into: &str) -> String {
    format!("{names} is saved to {into}")
}

/// `load`, while another process changes the store.
pub(crate) fn waiting_for_store(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("waiting for {} (pid {pid}), which uses the store", command_of(pid)),
        None => "waiting for another process, which is using the store".to_owned(),
    }
}

/// What a process is called, as far as it can be seen: `opsrun load`.
fn command_of(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    match (words.next(), words.next()) {
        (Some(program), Some(command)) if program.rsplit('/').next() == Some("opsrun") => {
            format!("opsrun {}", command.escape_debug())
        }
        _ => "another process".to_owned(),
    }
}

/// `rmi`, when only a name is gone.
pub(crate) fn untagged(name: &str, still: &str) -> String {
    format!("{name} is removed; the image is still called {still}")
}

/// `rmi`, when the image is gone.
pub(crate) fn removed_image(name: &str, layers: usize, size_bytes: u64) -> String {
    let plural = if layers == 1 { "" } else { "s" };
    format!("{name} is removed, with {layers} layer{plural} ({})", bytes(size_bytes))
}

/// `prune`, when all is done, or with `dry_run` what would be.
pub(crate) fn pruned(images: usize, layers: usize, size_bytes: u64, dry_run: bool) -> String {
    if images == 0 && layers == 0 {
        return "nothing is unneeded".to_owned();
    }
    let count = |count: usize, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
    let counts = [(images, "image"), (layers, "layer")].into_iter().filter(|(number, _)| *number > 0);
    let what = counts.map(|(number, of)| count(number, of)).collect::<Vec<_>>().join(" and ");
    let verb = if dry_run { "would be removed" } else { "removed" };
    format!("{what} {verb} ({})", bytes(size_bytes))
}

/// `fsck`, when all is done.
pub(crate) fn checked(images: usize, layers: usize, files: u64, size_bytes: u64) -> String {
    let count = |count: u64, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
    let [images, layers] = [(images, "image"), (layers, "layer")].map(|(n, of)| count(n as u64, of));
    format!("{images}, {layers} and {} checked ({})", count(files, "file"), bytes(size_bytes))
}

/// Who uses an image when it is no service.
pub(crate) fn one_shot(id: &str) -> String {
    format!("the container {id}, in which a command runs")
}

/// Who uses an image that a service ran in the past.
pub(crate) fn past_generation(service: &str) -> String {
    format!("{service}, which can go back to it")
}

/// `run`, when the service has no configuration on the host.
pub(crate) fn image_configuration(service: &str, folder: &Path) -> String {
    format!("{} is empty: the command sees the image's own configuration of {service}", folder.display())
}

/// `config init`.
pub(crate) fn configured(folder: &Path, image: &str, inside: &Path) -> String {
    format!("{} has the configuration of {image}, from its {}", folder.display(), inside.display())
}

/// Before `restart` starts again what ran before.
pub(crate) fn going_back(service: &str, release: &str, generation: u32) -> String {
    format!("{service} did not come up; starting {release} (generation {generation}) again")
}

/// `swap`, when there is nothing to swap for.
pub(crate) fn nothing_to_swap(service: &str, release: &str, generation: u32) -> String {
    format!(
        "{service} runs {release} with this configuration already (generation {generation}); nothing was done"
    )
}

/// How far a swap is; `None` for what is over at once.
pub(crate) fn swap_step(service: &str, wanted: &str, before: &str, step: Step) -> Option<String> {
    Some(match step {
        Step::Made | Step::Proving => return None,
        Step::Way { way: Way::StopFirst, reason } => {
            format!("{before} is stopped before {wanted} starts, since {reason}")
        }
        Step::Way { way: Way::Gated, reason } => {
            format!(
                "{wanted} is started, and waits to take its port until {before} has ended, since {reason}"
            )
        }
        Step::Way { way: Way::SideBySide, reason } => {
            format!("{before} and {wanted} run side by side for a while, since {reason}")
        }
        Step::Way { way: Way::Steered, reason } => {
            format!("{before} serves until {wanted} is proven beside it, since {reason}")
        }
        Step::Sharing(Canary { share, for_ms }) => {
            let time = span(for_ms);
            format!("{service} {wanted} is healthy; {share} of new connections go to it for {time}")
        }
        Step::Withdrawing => format!("{wanted} failed; {before} serves again"),
        Step::StoppingOld => format!("{service} {wanted} is ready to start; stopping {before}"),
        Step::Soaking { gap_ms, waited, soak_ms } => {
            let gap = gap(gap_ms, waited);
            format!("{service} {wanted} is healthy and serves{gap}; watching it for {}", span(soak_ms))
        }
        Step::Retiring(left) => match open_still(&left) {
            Some((open, unhandled)) => {
                let time = span(left.after_ms);
                format!("stopping {before}, which has {open} after {time}{unhandled}")
            }
            None => format!("stopping {before}"),
        },
        Step::Cut(left) => {
            let (open, _) = open_still(&left)?;
            format!("{open} that {wanted} had not ended went with it")
        }
        Step::Returning => format!("{wanted} failed; starting {before} again"),
    })
}

/// What a generation has left, and what that means when it ends now.
fn open_still(left: &Left) -> Option<(String, String)> {
    let open = match (left.connections, left.idle) {
        (0, _) => return None,
        (1, 1) => "1 idle connection".to_owned(),
        (1, _) => "1 connection".to_owned(),
        (all, idle) if all == idle => format!("{all} idle connections"),
        (all, 0) => format!("{all} connections"),
        (all, idle) => format!("{all} connections, {idle} of them idle,"),
    };
    let unhandled = left.unhandled.as_ref();
    let unhandled = unhandled
        .map_or(String::new(), |signal| format!("; it does not handle {signal}, so they are cut off"));
    Some((open, unhandled))
}

/// `swap`, when the new generation serves.
pub(crate) fn swapped(
    service: &str,
    release: &str,
    before: &str,
    generation: u32,
    swapped: &Swapped,
) -> String {
    let serves = serves_now(service, &format!("{release} has taken over"), generation, swapped);
    let left = &swapped.left;
    let Some((open, _)) = open_still(left) else { return serves };
    let verb = if left.connections == 1 { "was" } else { "were" };
    let time = span(left.after_ms);
    format!("{serves}; {open} {verb} still open when {service} {before} was asked to end, after {time}")
}

/// `restart`.
pub(crate) fn restarted(service: &str, release: &str, generation: u32, swapped: &Swapped) -> String {
    serves_now(service, &format!("{release} is healthy"), generation, swapped)
}

fn serves_now(service: &str, what: &str, generation: u32, swapped: &Swapped) -> String {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (process, gap, took) = (swapped.pid, gap(ms(swapped.gap), swapped.waited), seconds(ms(swapped.took)));
    // A service never goes a worse way without a word.
    let way = match &swapped.way {
        Some((way @ (Way::StopFirst | Way::Gated), reason)) => format!("; {}, since {reason}", way.text()),
        _ => String::new(),
    };
    format!("{service} {what}{gap}{way} (generation {generation}, process {process}, {took})")
}

/// `swap`, when the old generation serves after the new one has failed.
pub(crate) fn serves_again(service: &str, before: &str, gap: Duration) -> String {
    let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
    format!("{service} {before} serves again{}", self::gap(ms, false))
}

/// `swap`, when the new generation serves and its supervisor is another one by now.
pub(crate) fn taken_over(service: &str, release: &str, generation: u32) -> String {
    format!("{service} {release} has taken over (generation {generation})")
}

/// `rollback`, when the operator's configuration is that of what serves.
pub(crate) fn put_back(home: &Path, generation: u32, kept: Option<u32>) -> String {
    let kept = kept.map_or(String::new(), |kept| format!("; what it was is kept as generation {kept}"));
    format!("{} is as in generation {generation}{kept}", home.display())
}

/// `rollback`, when it cannot be made so.
pub(crate) fn not_put_back(home: &Path, error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    format!("{} is not as in the generation that serves: {error}{causes}", home.display())
}

/// `swap`, before a hook is run.
pub(crate) fn hook_runs(service: &str, release: &str, key: &str, command: &str) -> String {
    format!("{service} {release}: running the {key} hook `{command}`")
}

/// What is wrong with hooks that nobody has run yet, and what to type.
pub(crate) fn hooks_pending(service: &str, release: &str, commands: &[Vec<String>]) -> (String, String) {
    let commands: Vec<String> = commands.iter().map(|command| format!("`{}`", command.join(" "))).collect();
    let plural = if commands.len() == 1 { "has" } else { "have" };
    let detail = format!("{} of {release} {plural} not been run yet, or not to the end", commands.join(", "));
    (detail, format!("opsrun swap {service} {release} runs what is left"))
}

/// `swap`, when what was reported cannot be seen.
pub(crate) fn not_seen_to_serve(service: &str, reason: &str) -> String {
    format!("{service} did not answer a probe right after: {reason}")
}

fn gap(ms: u64, waited: bool) -> String {
    match (ms, waited) {
        (0, _) => String::new(),
        (_, true) => format!("; nothing served for {}, and who connected then has waited", seconds(ms)),
        (_, false) => format!("; nothing served for {}", seconds(ms)),
    }
}

/// Seconds with one decimal for short times.
fn seconds(ms: u64) -> String {
    if ms >= 60_000 { span(ms) } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_read_well() {
        insta::assert_snapshot!(
            [
                healthy("keystone", "zed", 3, 4711, 1_840),
                healthy("mariadb", "11.4", 1, 4711, 75_000),
                stopped("keystone", "zed", 340),
                updated("keystone", "zed", &["cpu.max = 20000 100000".into(), "pids.max = 50".into()]),
                updated("keystone", "zed", &[]),
                removed_service("keystone", Some(Path::new("/opt/keystone"))),
                removed_service("x", None),
                loaded("keystone:zed, keystone:latest", "0123456789ab", 312_400_000),
                layers_unpacked(0),
                layers_unpacked(1),
                layers_unpacked(4),
                untagged("keystone:zed", "keystone:latest"),
                removed_image("keystone:zed", 1, 312_400_000),
                pruned(1, 2, 312_400_000, true),
                pruned(0, 1, 4_096, false),
                pruned(0, 0, 0, false),
                checked(1, 2, 30_000, 812_400_000),
            ]
            .join("\n")
        );
    }
}
