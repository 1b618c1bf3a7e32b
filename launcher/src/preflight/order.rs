//! Whether a step from one release to another is one that its makers support, and whether there is a way back from it.
//! It knows tags only, and what is said about them.

use runtime::history::Cause;

use super::{Finding, Proposal, Verdict};
use crate::series::{Series, Step};
use crate::settings_swap::PointOfNoReturn;

/// The order of the two releases; nothing when no series is known.
pub(super) fn releases(proposal: &Proposal<'_>) -> Option<Finding> {
    let series = proposal.said.both.releases.unwrap_or(Series::None);
    if series == Series::None {
        return None;
    }
    let (from, to) = (proposal.before.release.as_str(), proposal.definition.release.as_str());
    Some(step(series, proposal.service.as_str(), from, to, proposal.by))
}

fn step(series: Series, service: &str, from: &str, to: &str, by: Cause) -> Finding {
    let name = "release order";
    let title = |tag: &str| series.title(tag).unwrap_or_else(|| tag.to_owned());
    let both = format!("{} to {}", title(from), title(to));
    match series.step(from, to) {
        Step::Same => Finding::ok(name, format!("it stays with {}", title(to))),
        Step::Next => Finding::ok(name, format!("{both} is the next release")),
        Step::Slurp => Finding::ok(name, format!("{both} is a step from SLURP to SLURP")),
        Step::Skips { missing, way } => {
            let detail = format!("{both} leaves out {}", missing.join(", "));
            let hint = format!("the supported way is one after another: {}", way.join(", "));
            Finding::new(name, Verdict::Warning, detail).hint(hint)
        }
        Step::Back if by == Cause::Rollback => Finding::ok(name, format!("{both} goes back")),
        Step::Back => Finding::new(name, Verdict::Warning, format!("{both} goes back")).hint(format!(
            "opsrun rollback {service} brings back what ran before, with its configuration and limits"
        )),
        Step::Unknown => Finding::ok(name, format!("nothing is known of the order of {from} and {to}")),
    }
}

/// Whether a declared point of no return lies in between.
pub(super) fn no_return(proposal: &Proposal<'_>) -> Finding {
    let series = proposal.said.both.releases.unwrap_or(Series::None);
    let points = proposal.said.both.point_of_no_return.as_deref().unwrap_or_default();
    let (from, to) = (proposal.before.release.as_str(), proposal.definition.release.as_str());
    crossing(series, points, (from, to), proposal.terms.force)
}

fn crossing(series: Series, points: &[PointOfNoReturn], (from, to): (&str, &str), force: bool) -> Finding {
    let name = "way back";
    // By their order where both are known, so that a longer step crosses it too.
    let until = |tag: &str, point: &str| match (series.place(tag), series.place(point)) {
        (Some(tag), Some(point)) => tag <= point,
        _ => tag == point,
    };
    let onwards = |tag: &str, point: &str| match (series.place(tag), series.place(point)) {
        (Some(tag), Some(point)) => tag >= point,
        _ => tag == point,
    };
    let found = points.iter().find_map(|point| {
        let PointOfNoReturn { from: last, to: first, reason } = point;
        if until(from, last) && onwards(to, first) {
            Some(format!("there is no way back from {to} to {from}: {reason}"))
        } else if onwards(from, first) && until(to, last) {
            Some(format!("{from} is past the point from which there is a way to {to}: {reason}"))
        } else {
            None
        }
    });
    match found {
        None => Finding::ok(name, "no point of no return is declared in between"),
        Some(detail) if force => Finding::new(name, Verdict::Warning, detail),
        Some(detail) => {
            Finding::new(name, Verdict::Refused, detail).hint("with --force it is done all the same")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(finding: &Finding) -> String {
        let Finding { name, verdict, detail, hint } = finding;
        format!("{verdict:?} {name}: {detail}\n  {}", hint.as_deref().unwrap_or("-"))
    }

    #[test]
    fn each_step_is_called_what_it_is() {
        let steps = [
            ("zed", "zed", Cause::Swap),
            ("zed", "antelope", Cause::Swap),
            ("antelope", "2024.1-debian", Cause::Swap),
            ("zed", "epoxy", Cause::Swap),
            ("epoxy", "zed", Cause::Swap),
            ("epoxy", "zed", Cause::Rollback),
            ("zed", "mine", Cause::Swap),
        ];
        let shown: Vec<String> = steps
            .into_iter()
            .map(|(from, to, by)| shown(&step(Series::Openstack, "keystone", from, to, by)))
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn a_point_of_no_return_is_crossed_in_both_directions_and_by_longer_steps() {
        let point = |from: &str, to: &str| PointOfNoReturn {
            from: from.into(),
            to: to.into(),
            reason: "the database is contracted".into(),
        };
        let verdict = |points: &[PointOfNoReturn], from, to, force| {
            crossing(Series::Openstack, points, (from, to), force).verdict
        };
        let known = [point("caracal", "epoxy")];
        for (from, to) in
            [("caracal", "epoxy"), ("antelope", "2025.1"), ("epoxy", "caracal"), ("gazpacho", "zed")]
        {
            assert_eq!(verdict(&known, from, to, false), Verdict::Refused, "{from} {to}");
            assert_eq!(verdict(&known, from, to, true), Verdict::Warning, "{from} {to}");
        }
        for (from, to) in [("antelope", "caracal"), ("epoxy", "gazpacho"), ("epoxy", "epoxy"), ("one", "two")]
        {
            assert_eq!(verdict(&known, from, to, false), Verdict::Ok, "{from} {to}");
        }
        let own = [point("1", "2")];
        assert_eq!(verdict(&own, "1", "2", false), Verdict::Refused);
        assert_eq!(verdict(&own, "1", "3", false), Verdict::Ok);
    }
}
