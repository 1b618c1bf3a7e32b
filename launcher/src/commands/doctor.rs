//! `doctor`: whether this host can run services, and what is missing.
//! It does not know how a fact is found out.

use runtime::host::{Fact, Verdict, facts};

use crate::arguments::Doctor;
use crate::commands::services;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{Host, VERSION};
use crate::print::{self, sentence, table::table};
use crate::service_name::ServiceName;

const HEADER: [&str; 3] = ["VERDICT", "FACT", "FOUND"];

/// Shows the facts, those that stand in the way with what to do about them.
///
/// # Errors
/// [`Error::Unfit`] when something is missing without which opsrun does not work.
pub(crate) fn doctor(layout: &Layout, arguments: &Doctor) -> Result<Exit, Error> {
    let mut facts = facts(&layout.store(), &layout.run());
    facts.extend(supervisors(layout));
    let missing = facts.iter().filter(|fact| fact.verdict == Verdict::Missing).count();
    if arguments.form.json {
        print::json(&Host { version: VERSION, facts })?;
    } else {
        print::data(&table(&HEADER, facts.iter().map(row).collect()))?;
        for fact in &facts {
            if let Some(hint) = &fact.hint {
                print::hint(&format!("{}: {hint}", fact.name));
            }
        }
    }
    if missing > 0 { Err(Error::Unfit { missing }) } else { Ok(Exit::Done) }
}

fn row(fact: &Fact) -> Vec<String> {
    let verdict = match fact.verdict {
        Verdict::Good => "good",
        Verdict::Limited => "limited",
        Verdict::Missing => "MISSING",
    };
    vec![verdict.to_owned(), fact.name.to_owned(), fact.detail.clone()]
}

/// Supervisors that run another program than the one that is installed; `None` when there are none.
fn supervisors(layout: &Layout) -> Option<Fact> {
    let names = services(layout).ok()?.into_iter();
    let replaced = |name: &ServiceName| {
        let status = runtime::status::look(&layout.service(name)).ok().flatten();
        status.and_then(|status| status.replaced) == Some(true)
    };
    let found: Vec<String> = names.filter(replaced).map(|name| name.as_str().to_owned()).collect();
    (!found.is_empty()).then(|| Fact {
        name: "supervisors",
        verdict: Verdict::Limited,
        detail: sentence::programs_replaced(&found),
        hint: Some(
            "have them go on as the new one, which no service notices: opsrun reexec --all".to_owned(),
        ),
    })
}
