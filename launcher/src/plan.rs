//! What putting one generation in another's place would do, step by step, without doing any of it.
//! It decides nothing: the way comes from where the supervisor has it, and what speaks against it from `preflight`.

use runtime::definition::{Definition, Probe};
use runtime::history::Cause;
use runtime::record::Way;
use runtime::swap::Canary;
use serde::Serialize;

use crate::arguments::Terms;
use crate::commands::status::health_check;
use crate::drift;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::hooks;
use crate::listing::VERSION;
use crate::preflight::{self, Finding, Proposal, Verdict};
use crate::print::amount::span;
use crate::print::{self, table::table};
use crate::settings_swap::HookCommand;

/// `swap --plan --json`, and that of `rollback`.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// The service.
    pub service: String,
    /// `swap` or `rollback`.
    pub command: &'static str,
    /// What runs.
    pub from: Side,
    /// What would run.
    pub to: Side,
    /// Whether it would be done, would be refused, or there is nothing to do.
    pub outcome: Outcome,
    /// The way it would go.
    pub way: Way,
    /// Why that way.
    pub way_reason: String,
    /// The share of the connections that the new one would get first; null when it would get all at once.
    pub canary: Option<Canary>,
    /// For how long nothing would serve, in words.
    pub gap: String,
    /// What was found, check by check.
    pub checks: Vec<Finding>,
    /// What would be done, in this order.
    pub steps: Vec<Step>,
}

/// One of the two generations.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    /// Its number; of the new one, the one it would get.
    pub generation: u32,
    /// Its release.
    pub release: String,
    /// Name and tag of its image.
    pub image: String,
    /// Id of its image.
    pub image_id: String,
}

/// What would come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It would be done.
    Done,
    /// It would be refused.
    Refused,
    /// What runs is what is asked for.
    NothingToDo,
}

/// One thing that would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// A word for programs.
    pub step: &'static str,
    /// A sentence for people.
    pub text: String,
}

/// Shows the plan.
///
/// # Errors
/// When it cannot be looked at what is there.
pub(crate) fn show(proposal: &Proposal<'_>, terms: &Terms) -> Result<Exit, Error> {
    let plan = make(proposal, terms)?;
    match terms.json {
        true => print::json(&plan)?,
        false => print::data(&render(&plan))?,
    }
    Ok(if plan.outcome == Outcome::Refused { Exit::Failed } else { Exit::Done })
}

fn make(proposal: &Proposal<'_>, terms: &Terms) -> Result<Plan, Error> {
    let checks = preflight::look(proposal);
    let nothing_to_do = proposal.is_what_runs()?;
    let (way, way_reason) = proposal.way();
    let number = generation::next_number(&proposal.layout.service(proposal.service))?;
    let before = proposal.before;
    let new = &proposal.definition;
    let outcome = match (preflight::refused(&checks), nothing_to_do) {
        (1.., _) => Outcome::Refused,
        (0, true) => Outcome::NothingToDo,
        (0, false) => Outcome::Done,
    };
    Ok(Plan {
        version: VERSION,
        service: proposal.service.to_string(),
        command: if proposal.by == Cause::Rollback { "rollback" } else { "swap" },
        from: Side {
            generation: before.generation,
            release: before.release.clone(),
            image: before.image.clone(),
            image_id: before.image_id.clone(),
        },
        to: Side {
            generation: number,
            release: new.release.clone(),
            image: new.image.clone(),
            image_id: new.image_id.clone(),
        },
        outcome,
        way,
        way_reason,
        canary: proposal.canary,
        gap: gap(way, &before.release, &new.release),
        checks,
        steps: steps(proposal, terms, way, number)?,
    })
}

fn gap(way: Way, old: &str, new: &str) -> String {
    match way {
        Way::StopFirst => {
            format!(
                "while {old} ends and {new} starts, which takes as long as it takes; it is told afterwards"
            )
        }
        Way::Gated => format!(
            "while {old} ends and {new}, started already, takes its port; who connects then waits where both listen alike, and is refused elsewhere; it is told afterwards"
        ),
        Way::SideBySide | Way::Steered => format!("none: {old} serves until {new} does"),
    }
}

fn steps(proposal: &Proposal<'_>, terms: &Terms, way: Way, number: u32) -> Result<Vec<Step>, Error> {
    let (old, new) = (&proposal.before.release, &proposal.definition.release);
    let before = proposal.before.generation;
    let mut steps = Vec::new();
    let mut add = |step, text| steps.push(Step { step, text });
    let configuration = match proposal.own.configuration() {
        Some(mount) => format!(", with a copy of {}", proposal.own.source(mount).display()),
        None => String::new(),
    };
    add("prepare", format!("generation {number} is made of {}{configuration}", proposal.definition.image));
    let hooks = &proposal.said.both.hooks;
    // An older release's tools may not understand what the newer one did.
    let has_hooks = proposal.by != Cause::Rollback;
    let at_most = span(hooks.timeout().ms);
    let run = |hook: &HookCommand, when_it_fails: &str| {
        let command = hook.words().join(" ");
        format!(
            "the hook `{command}` is run in a container of {new}, for at most {at_most}; when it fails, {when_it_fails}"
        )
    };
    for hook in hooks.pre_swap.iter().flatten().filter(|_| has_hooks) {
        add("pre-swap", run(hook, "nothing else is done"));
    }
    let proven = proven(&proposal.definition, terms);
    let back = format!("or generation {before} ({old}) serves again (exit status 3)");
    let stop = proposal.old.as_ref().map(|old| {
        format!("by {}, and killed after {}", old.definition.stop.signal, span(old.definition.stop.grace_ms))
    });
    let stop = format!("generation {before} ({old}) is asked to end {}", stop.unwrap_or_default());
    match way {
        Way::StopFirst => {
            add("park", format!("the container of generation {number} is made, and waits"));
            add("stop-old", format!("{stop}; nothing serves from here on"));
            add(
                "start",
                format!("generation {number} ({new}) is started, and must be healthy {proven}; {back}"),
            );
        }
        Way::Gated => {
            add(
                "start",
                format!(
                    "generation {number} ({new}) is started beside generation {before} ({old}), and waits when it binds its port; if it does not within {}, it is removed (exit status 3)",
                    span(terms.timeout.map_or(proposal.definition.health.start_timeout_ms, |it| it.ms))
                ),
            );
            add("stop-old", format!("{stop}; nothing serves from here on"));
            add("let-in", format!("generation {number} gets the port, and must be healthy {proven}; {back}"));
        }
        Way::SideBySide | Way::Steered => {
            add(
                "start",
                format!(
                    "generation {number} ({new}) is started beside generation {before} ({old}), and must be healthy {proven}, or it is removed (exit status 3)"
                ),
            );
        }
    }
    if let (Way::Steered, Some(Canary { share, for_ms })) = (way, proposal.canary) {
        let time = span(for_ms);
        add(
            "canary",
            format!(
                "{share} of new connections go to generation {number} for {time}; when it ends or one probe fails, they go back (exit status 3)"
            ),
        );
    }
    if way == Way::Steered {
        add("turn", format!("new connections go to generation {number}, all from one moment on"));
    }
    add("commit", format!("the record goes over to generation {number}: {new} serves"));
    if way == Way::Steered {
        let drain = span(proposal.said.both.swap.drain_ms(terms.drain).max(terms.soak.ms));
        add("drain", format!("generation {before} has {drain} to end the connections that it has left"));
    }
    add("soak", format!("for {} it must stay up and healthy; {back}", span(terms.soak.ms)));
    if matches!(way, Way::SideBySide | Way::Steered) {
        add("stop-old", stop);
    }
    for hook in hooks.post_commit.iter().flatten().filter(|_| has_hooks) {
        add("post-commit", run(hook, &format!("{new} serves all the same (exit status 5)")));
    }
    add("keep", kept(proposal, number)?);
    Ok(steps)
}

/// What the new one is asked, and for how long.
fn proven(new: &Definition, terms: &Terms) -> String {
    let within = span(terms.timeout.map_or(new.health.start_timeout_ms, |timeout| timeout.ms));
    match new.health.probe {
        Probe::Runs { for_ms } => format!("within {within}: it has been running for {}", span(for_ms)),
        _ => format!("within {within}: {}", health_check(new)),
    }
}

fn kept(proposal: &Proposal<'_>, number: u32) -> Result<String, Error> {
    let folders = proposal.layout.service(proposal.service);
    let gone = generation::would_go(&folders, &proposal.said.both.generations, number)?;
    let stays = format!(
        "generation {} ({}) is kept to go back to",
        proposal.before.generation, proposal.before.release
    );
    Ok(match gone.as_slice() {
        [] => stays,
        gone => {
            let gone: Vec<String> = gone.iter().map(u32::to_string).collect();
            format!("{stays}; what is kept of generation {} is removed", gone.join(", "))
        }
    })
}

fn render(plan: &Plan) -> String {
    let Side { generation, release, .. } = &plan.from;
    let mut text = format!(
        "{} {}: {} (generation {}) in place of {release} (generation {generation})\n\n",
        plan.command, plan.service, plan.to.release, plan.to.generation
    );
    let row = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "WARNING",
            Verdict::Refused => "REFUSED",
        };
        vec![verdict.to_owned(), finding.name.to_owned(), finding.detail.clone()]
    };
    text.push_str(&table(&["VERDICT", "CHECK", "FOUND"], plan.checks.iter().map(row).collect()));
    text.push('\n');
    for finding in &plan.checks {
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("hint: {}: {}\n", finding.name, print::printable(hint)));
        }
    }
    let steps = plan.steps.iter().enumerate();
    let steps =
        steps.map(|(number, step)| vec![(number + 1).to_string(), step.step.to_owned(), step.text.clone()]);
    text.push_str(&format!("\n{}\n\n", table(&["", "STEP", "WHAT IS DONE"], steps.collect())));
    text.push_str(&format!("the way: {}, since {}\n", plan.way.text(), plan.way_reason));
    text.push_str(&format!("nothing serves: {}\n", plan.gap));
    text.push_str(&match plan.outcome {
        Outcome::Done => "it would be done; nothing was changed\n".to_owned(),
        Outcome::NothingToDo => {
            format!("{release} runs with this configuration already: nothing would be done\n")
        }
        Outcome::Refused => match preflight::refused(&plan.checks) {
            1 => "it would be refused by one check; nothing was changed\n".to_owned(),
            checks => format!("it would be refused by {checks} checks; nothing was changed\n"),
        },
    });
    text
}

impl Proposal<'_> {
    /// Whether what runs is what is proposed, as far as it can be told without making it: the same image, rules, limits,
    /// variables, user and configuration.
    fn is_what_runs(&self) -> Result<bool, Error> {
        let folders = self.layout.service(self.service);
        let folder = folders.generation(self.before.generation);
        let Some(old) = &self.old else { return Ok(false) };
        let rules = Definition { generation: self.definition.generation, ..old.definition.clone() };
        let has = |(name, value): &(String, String)| {
            let variables = old.specification.pointer("/process/env").and_then(|list| list.as_array());
            let wanted = format!("{name}={value}");
            variables.is_some_and(|list| list.iter().any(|variable| variable.as_str() == Some(&wanted)))
        };
        let same = rules == self.definition
            && old.limits == self.limits
            && old.specification.pointer("/process/user/uid").and_then(|uid| uid.as_u64())
                == Some(self.user.uid.into())
            && self.said.environment(&old.wishes).iter().all(has)
            && hooks::pending(&folder).is_empty();
        if !same {
            return Ok(false);
        }
        let Some(mount) = self.own.configuration() else { return Ok(true) };
        let live: Vec<_> = self.own.live().map(ToOwned::to_owned).collect();
        Ok(drift::changes(self.own.source(mount), &generation::configuration(&folder), &live)?.is_empty())
    }
}
