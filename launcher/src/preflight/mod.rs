//! What is looked at before one generation takes another's place, while nothing is touched yet.
//! It changes nothing, and knows nothing of what is done when all is well.
//!
//! Every check is made whatever the others say, so that a person has all that is wrong at once. A refusal is what cannot end
//! well; what may is a warning.

mod folders;
mod host;
mod order;

use std::collections::BTreeMap;
use std::path::Path;

use bundles::account::{self, Account};
use bundles::bundle::Unpacked;
use bundles::store::Store;
use runtime::definition::Definition;
use runtime::history::Cause;
use runtime::record::{Record, Way};
use runtime::swap::Canary;
use runtime::way;
use serde::Serialize;
use serde_json::Value;

use crate::access::User;
use crate::arguments::Terms;
use crate::error::Error;
use crate::generation::{self, Made};
use crate::hint::hint;
use crate::hooks;
use crate::layout::Layout;
use crate::own_folders::OwnFolders;
use crate::prepare::{self, Said};
use crate::print::amount::short_id;
use crate::print::{self, sentence};
use crate::release::Release;
use crate::service_name::ServiceName;
use crate::settings_swap;
use crate::wishes::Wishes;

/// One generation that is proposed in another's place.
pub(crate) struct Proposal<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// Of which service.
    pub service: &'a ServiceName,
    /// Which command it is for.
    pub by: Cause,
    /// What runs.
    pub before: &'a Record,
    /// What that was made with; `None` when its folder is gone.
    pub old: Option<Made>,
    /// Where its image is.
    pub store: &'a Store,
    /// The rules it is to have; its number is not taken yet.
    pub definition: Definition,
    /// Whom it is to run as.
    pub user: User,
    /// The user of its image that is called like the service.
    pub namesake: Option<Account>,
    /// The folders it is to see; its configuration is copied from where these have it.
    pub own: OwnFolders,
    /// Its limits, by file of the cgroup.
    pub limits: BTreeMap<String, String>,
    /// What is said about the service.
    pub said: &'a Said,
    /// On which terms.
    pub terms: &'a Terms,
    /// The share of the connections that it is to get first.
    pub canary: Option<Canary>,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about: a word or two.
    pub name: &'static str,
    /// What follows from it.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What follows from a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Nothing.
    Ok,
    /// It may go wrong, and is done all the same.
    Warning,
    /// It is not done.
    Refused,
}

impl Finding {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { name, verdict, detail: detail.into(), hint: None }
    }

    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail)
    }

    /// A refusal for the reason that an error gives, with its way out.
    fn error(name: &'static str, error: &Error) -> Self {
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let text = error.to_string();
            // A transparent error has its own text as its source once more.
            if !detail.ends_with(&text) {
                detail = format!("{detail}: {text}");
            }
            cause = error.source();
        }
        Self { hint: hint(error), ..Self::new(name, Verdict::Refused, detail) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Makes every check.
pub(crate) fn look(proposal: &Proposal<'_>) -> Vec<Finding> {
    let mut findings = vec![image(proposal)];
    findings.extend(order::releases(proposal));
    findings.push(order::no_return(proposal));
    findings.extend(folders::configuration(proposal));
    findings.extend(folders::user(proposal));
    findings.extend(host::ports(proposal));
    findings.push(host::memory(proposal));
    findings.push(host::disk(proposal));
    findings.extend(host::stop_signal(proposal));
    findings.extend(canary(proposal));
    findings.extend(pending_hooks(proposal));
    findings
}

/// Makes every check and says what is not as it should be.
///
/// # Errors
/// [`Error::Refused`] when it must not be done.
pub(crate) fn pass(proposal: &Proposal<'_>) -> Result<(), Error> {
    let findings = look(proposal);
    for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Ok) {
        print::finding(finding);
    }
    match refused(&findings) {
        0 => Ok(()),
        checks => Err(Error::Refused {
            service: proposal.service.to_string(),
            release: proposal.definition.release.clone(),
            checks,
        }),
    }
}

/// How many checks refuse.
pub(crate) fn refused(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.verdict == Verdict::Refused).count()
}

impl<'a> Proposal<'a> {
    /// A release, with the configuration and settings as they are now.
    ///
    /// # Errors
    /// When the image cannot be looked into, or it and the settings make no rules that can be followed.
    pub(crate) fn of_release(
        (layout, service, store): (&'a Layout, &'a ServiceName, &'a Store),
        before: &'a Record,
        release: &Release,
        said: &'a Said,
        wishes: &Wishes,
        terms: &'a Terms,
    ) -> Result<Self, Error> {
        let (facts, view) = (release.image.facts()?, release.image.view()?);
        let account = account::resolve(&view, said.both.user.as_deref().or(facts.user.as_deref()))?;
        let limits = prepare::limits_in_files(&said.limits(wishes))?;
        Ok(Self {
            layout,
            service,
            by: Cause::Swap,
            before,
            old: generation::read(&layout.service(service).generation(before.generation)),
            store,
            definition: prepare::definition(layout, service, release, said, &facts)?,
            user: User::from(&account),
            namesake: account::resolve(&view, Some(service.as_str())).ok(),
            own: OwnFolders::of(
                layout,
                service,
                &view,
                &facts,
                (&said.own, &said.listed),
                &said.volumes(wishes),
            )?,
            limits,
            said,
            terms,
            canary: said.both.swap.canary(terms.canary, terms.canary_for),
        })
    }

    /// An earlier generation once more, with the configuration in a folder.
    ///
    /// # Errors
    /// When the image cannot be looked into.
    pub(crate) fn of_generation(
        (layout, service, store): (&'a Layout, &'a ServiceName, &'a Store),
        before: &'a Record,
        (made, image, configuration): (&Made, &Unpacked, &Path),
        said: &'a Said,
        terms: &'a Terms,
    ) -> Result<Self, Error> {
        let (facts, view) = (image.facts()?, image.view()?);
        let id = |name| made.specification.pointer(&format!("/process/user/{name}")).and_then(Value::as_u64);
        let id = |name| id(name).and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
        let groups = made.specification.pointer("/process/user/additionalGids").and_then(Value::as_array);
        let groups = groups.into_iter().flatten().filter_map(|gid| u32::try_from(gid.as_u64()?).ok());
        let uid = id("uid");
        let known = account::resolve(&view, Some(&uid.to_string())).ok();
        let name = known.and_then(|account| account.name);
        let own = OwnFolders::of(
            layout,
            service,
            &view,
            &facts,
            (&said.own, &said.listed),
            &said.volumes(&made.wishes),
        )?;
        // One without a configuration has none to go back to.
        let configuration =
            Some(configuration).filter(|folder| folder.is_dir() && own.configuration().is_some());
        Ok(Self {
            layout,
            service,
            by: Cause::Rollback,
            before,
            old: generation::read(&layout.service(service).generation(before.generation)),
            store,
            definition: made.definition.clone(),
            user: User { uid, gid: id("gid"), groups: groups.collect(), name },
            namesake: account::resolve(&view, Some(service.as_str())).ok(),
            own: own.with_configuration(configuration)?,
            limits: made.limits.clone(),
            said,
            terms,
            // Who goes back wants to be back, unless it is typed.
            canary: settings_swap::Terms::default().canary(terms.canary, terms.canary_for),
        })
    }

    /// The way it would go, and why.
    pub(crate) fn way(&self) -> (Way, String) {
        let (way, reason) = self.way_by_itself();
        match way {
            Way::StopFirst => (way, reason),
            _ if self.terms.stop_first => (Way::StopFirst, "it is asked for".to_owned()),
            _ => (way, reason),
        }
    }

    fn way_by_itself(&self) -> (Way, String) {
        let Some(old) = &self.old else {
            // Of what runs nothing is known but its ports.
            return (Way::StopFirst, "of what runs nothing is known but its ports".to_owned());
        };
        let folders = self.layout.service(self.service);
        way::choose_here(&folders, &old.definition, &self.definition).unwrap_or_else(|error| {
            (Way::StopFirst, format!("the kernel does not tell who listens: {error}"))
        })
    }

    /// The user and group that the old generation runs as.
    fn old_ids(&self) -> Option<(u32, u32)> {
        let specification = &self.old.as_ref()?.specification;
        let id = |pointer| u32::try_from(specification.pointer(pointer)?.as_u64()?).ok();
        Some((id("/process/user/uid")?, id("/process/user/gid")?))
    }
}

/// That the image is in the store, whole as far as a short look can tell: `fsck` reads every file.
fn image(proposal: &Proposal<'_>) -> Finding {
    let Definition { image, image_id, .. } = &proposal.definition;
    let looked = image_id.parse().and_then(|id| proposal.store.look_at(id));
    match looked.map_err(Error::from) {
        Ok(layers) => {
            let layers = if layers == 1 { "1 layer".to_owned() } else { format!("{layers} layers") };
            Finding::ok("image", format!("{image} ({}) is there, with {layers}", short_id(image_id)))
        }
        Err(error) => Finding::error("image", &error),
    }
}

/// That a share of the connections can go to it first, where that is wanted.
fn canary(proposal: &Proposal<'_>) -> Option<Finding> {
    let Canary { share, .. } = proposal.canary?;
    Some(match proposal.way() {
        (Way::Steered, _) => Finding::ok("canary", format!("{share} of new connections can go to it first")),
        (way, reason) => {
            let detail = format!(
                "no share of the connections can go to it first: it would go {}, since {reason}",
                way.text()
            );
            Finding::new("canary", Verdict::Refused, detail).hint("with --canary 0% it is done without")
        }
    })
}

/// Hooks of the generation that runs, which nobody has run yet.
fn pending_hooks(proposal: &Proposal<'_>) -> Option<Finding> {
    let Record { generation, release, .. } = proposal.before;
    let folder = proposal.layout.service(proposal.service).generation(*generation);
    let pending = hooks::pending(&folder);
    // To the same release it is what runs them, or a generation of which they are run all.
    if pending.is_empty() || *release == proposal.definition.release {
        return None;
    }
    let (detail, hint) = sentence::hooks_pending(proposal.service.as_str(), release, &pending);
    Some(Finding::new("hooks", Verdict::Warning, detail).hint(hint))
}
