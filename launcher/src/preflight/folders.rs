//! Whether whoever the new generation runs as can read its configuration and use its data, logs and keys.
//! It looks at owners and mode bits of what is there; what is missing is made later, as the image has it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Proposal, Verdict};
use crate::access::{User, permits};
use crate::error::{Access, Error};

/// So many entries of a service's folders are looked at; a database of images has more, all of one owner.
const ENTRIES_MAX: usize = 50_000;
/// So many places are named.
const NAMED_MAX: usize = 4;

/// That the configuration is there, with what is required, and can be read.
pub(super) fn configuration(proposal: &Proposal<'_>) -> Vec<Finding> {
    let name = "configuration";
    let Some(mount) = proposal.own.configuration() else {
        return vec![Finding::ok(name, "it has no folder for one")];
    };
    if let Err(error) = proposal.own.check_configuration() {
        return vec![Finding::error(name, &error)];
    }
    let problems = proposal.own.problems(&proposal.user);
    let of_configuration = |error: &&Error| !matches!(error, Error::Access { access: Access::Write, .. });
    let refusals: Vec<Finding> =
        problems.iter().filter(of_configuration).map(|error| Finding::error(name, error)).collect();
    if !refusals.is_empty() {
        return refusals;
    }
    vec![Finding::ok(
        name,
        format!("{} can be read by {}", proposal.own.source(mount).display(), proposal.user),
    )]
}

/// That the user can use what the one before it owns. In another image a user of the same name often has another id, and
/// then the new release cannot open its own database.
pub(super) fn user(proposal: &Proposal<'_>) -> Vec<Finding> {
    let name = "user";
    let user = &proposal.user;
    let old = proposal.old_ids();
    let (found, is_all) = belongings(proposal);
    if let Some((uid, gid)) = old.filter(|(uid, _)| *uid != user.uid && user.uid != 0) {
        let locked: Vec<&Belonging> =
            found.iter().filter(|it| it.uid == uid && !it.is_usable_by(user)).collect();
        if !locked.is_empty() {
            return vec![other_owner(proposal, user, (uid, gid), &locked, Verdict::Refused)];
        }
    }
    // What belongs to somebody else altogether.
    let problems = proposal.own.problems(user);
    let of_data = |error: &&Error| matches!(error, Error::Access { access: Access::Write, .. });
    let refusals: Vec<Finding> =
        problems.iter().filter(of_data).map(|error| Finding::error(name, error)).collect();
    if !refusals.is_empty() {
        return refusals;
    }
    // A program that begins as root and then becomes the user called like the service.
    if let Some(namesake) =
        proposal.namesake.as_ref().filter(|_| user.uid == 0 && proposal.said.both.user.is_none())
    {
        let as_it = User::from(namesake);
        let foreign = |it: &&Belonging| it.uid != 0 && it.uid != as_it.uid && !it.is_usable_by(&as_it);
        let locked: Vec<&Belonging> = found.iter().filter(foreign).collect();
        if let Some(first) = locked.first() {
            let owner = (first.uid, first.gid);
            return vec![other_owner(proposal, &as_it, owner, &locked, Verdict::Warning)];
        }
    }
    let all = if is_all { "" } else { "; not all of it was looked at" };
    vec![Finding::ok(name, format!("{user} can use its data, logs and keys{all}"))]
}

fn other_owner(
    proposal: &Proposal<'_>,
    user: &User,
    (uid, gid): (u32, u32),
    locked: &[&Belonging],
    verdict: Verdict,
) -> Finding {
    let mut tops: Vec<&Path> = locked.iter().map(|it| it.top.as_path()).collect();
    tops.dedup();
    let named = |paths: &[&Path]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let mut named_files =
        named(&locked.iter().map(|it| it.path.as_path()).take(NAMED_MAX).collect::<Vec<_>>());
    if locked.len() > NAMED_MAX {
        named_files.push(format!("{} more", locked.len() - NAMED_MAX));
    }
    let (from, image) = (&proposal.before.release, &proposal.definition.image);
    let runs = if verdict == Verdict::Refused { "runs as" } else { "may become" };
    let whose = if proposal.old_ids().is_some_and(|(old, _)| old == uid) {
        format!("uid {uid}, as which {from} runs")
    } else {
        format!("uid {uid}")
    };
    let detail = format!(
        "{image} {runs} {user}, which cannot use what belongs to {whose}: {}",
        named_files.join(", ")
    );
    let settings = proposal.layout.settings(proposal.service);
    let chown = format!("chown -R --from={uid} {}:{} {}", user.uid, user.gid, named(&tops).join(" "));
    let hint = match verdict {
        Verdict::Refused => format!(
            "user = \"{uid}:{gid}\" in {} keeps it as it is; or, once {from} is stopped: {chown}",
            settings.display()
        ),
        _ => format!("if it does, once {from} is stopped: {chown}"),
    };
    Finding::new("user", verdict, detail).hint(hint)
}

/// An entry of the service's folders for data and logs, or one of its keys.
struct Belonging {
    path: PathBuf,
    /// The service's folder it is in.
    top: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
    needed: u32,
}

impl Belonging {
    fn is_usable_by(&self, user: &User) -> bool {
        user.uid == 0 || permits(self.mode, self.uid, self.gid, user, self.needed)
    }
}

/// What the service has, as far as [`ENTRIES_MAX`] goes, and whether that is all.
fn belongings(proposal: &Proposal<'_>) -> (Vec<Belonging>, bool) {
    let mut found = Vec::new();
    for (top, is_written) in proposal.own.live_folders() {
        let mut waiting = vec![top.clone()];
        while let Some(path) = waiting.pop() {
            if found.len() >= ENTRIES_MAX {
                return (found, false);
            }
            // What is gone meanwhile was not in the way.
            let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
            let kind = metadata.file_type();
            if kind.is_dir() {
                waiting.extend(
                    fs_err::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()),
                );
            }
            let needed = match (kind.is_dir(), is_written) {
                (true, true) => 0o7,
                (true, false) => 0o5,
                (false, true) => 0o6,
                (false, false) => 0o4,
            };
            // A link has no rights of its own; sockets and the like are made anew.
            if kind.is_dir() || kind.is_file() {
                let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
                found.push(Belonging { path, top: top.clone(), uid, gid, mode, needed });
            }
        }
    }
    (found, true)
}
