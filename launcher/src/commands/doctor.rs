//! `doctor`: whether this host can run services, and what is missing.
//! It does not know how a fact is found out.

use runtime::host::{Fact, Verdict, facts};

use crate::arguments::Doctor;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{Host, VERSION};
use crate::print::{self, table::table};

const HEADER: [&str; 3] = ["VERDICT", "FACT", "FOUND"];

/// Shows the facts, those that stand in the way with what to do about them.
///
/// # Errors
/// [`Error::Unfit`] when something is missing without which opsrun does not work.
pub(crate) fn doctor(layout: &Layout, arguments: &Doctor) -> Result<Exit, Error> {
    let facts = facts(&layout.store(), &layout.run());
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
