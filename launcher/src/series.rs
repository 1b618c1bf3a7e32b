//! Series of releases in their order, and which step from one to another leaves out what must not be left out.
//! It knows no image: a release here is a tag, as it was given or typed.

use serde::Deserialize;

/// A series whose order is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Series {
    /// OpenStack's, from 2010 on.
    Openstack,
    /// None: the order of the tags means nothing.
    None,
}

/// A release of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    name: &'static str,
    version: &'static str,
    /// Whether one may go on from here to the next one of this kind, over the one in between.
    slurp: bool,
}

/// releases.openstack.org. From liberty to yoga the projects numbered themselves.
const OPENSTACK: [Known; 35] = [
    known("austin", "2010.1"),
    known("bexar", "2011.1"),
    known("cactus", "2011.2"),
    known("diablo", "2011.3"),
    known("essex", "2012.1"),
    known("folsom", "2012.2"),
    known("grizzly", "2013.1"),
    known("havana", "2013.2"),
    known("icehouse", "2014.1"),
    known("juno", "2014.2"),
    known("kilo", "2015.1"),
    known("liberty", ""),
    known("mitaka", ""),
    known("newton", ""),
    known("ocata", ""),
    known("pike", ""),
    known("queens", ""),
    known("rocky", ""),
    known("stein", ""),
    known("train", ""),
    known("ussuri", ""),
    known("victoria", ""),
    known("wallaby", ""),
    known("xena", ""),
    known("yoga", ""),
    known("zed", "2022.2"),
    slurp("antelope", "2023.1"),
    known("bobcat", "2023.2"),
    slurp("caracal", "2024.1"),
    known("dalmatian", "2024.2"),
    slurp("epoxy", "2025.1"),
    known("flamingo", "2025.2"),
    slurp("gazpacho", "2026.1"),
    known("hibiscus", "2026.2"),
    slurp("indri", "2027.1"),
];

const fn known(name: &'static str, version: &'static str) -> Known {
    Known { name, version, slurp: false }
}

const fn slurp(name: &'static str, version: &'static str) -> Known {
    Known { name, version, slurp: true }
}

/// What a step from one release to another is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It stays with the release.
    Same,
    /// To the one that comes next.
    Next,
    /// Over the one in between, from one release that is meant for it to the next such one.
    Slurp,
    /// These are left out. The way that leaves out nothing goes by `way`, which ends with the release itself.
    Skips {
        /// All in between, in order.
        missing: Vec<&'static str>,
        /// As few as possible.
        way: Vec<&'static str>,
    },
    /// To an older one.
    Back,
    /// One of the two is not of the series.
    Unknown,
}

impl Series {
    fn releases(self) -> &'static [Known] {
        match self {
            Self::Openstack => &OPENSTACK,
            Self::None => &[],
        }
    }

    /// The place in the series of the release that a tag stands for: its name or its version, perhaps with more behind it,
    /// as in `2025.1-debian-bookworm`.
    pub(crate) fn place(self, tag: &str) -> Option<usize> {
        let is = |word: &str| {
            let rest = if word.is_empty() { None } else { tag.strip_prefix(word) };
            // "2014.1.5" is of 2014.1, and "2014.10" is not.
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
        };
        self.releases().iter().position(|release| is(release.name) || is(release.version))
    }

    /// What a tag stands for, in the words of the series.
    pub(crate) fn title(self, tag: &str) -> Option<String> {
        let Known { name, version, slurp } = self.releases()[self.place(tag)?];
        let detail = match (version, slurp) {
            ("", _) => return Some(name.to_owned()),
            (version, true) => format!("{version}, SLURP"),
            (version, false) => version.to_owned(),
        };
        Some(format!("{name} ({detail})"))
    }

    /// What the step from one tag to another is.
    pub(crate) fn step(self, from: &str, to: &str) -> Step {
        let (Some(from), Some(to)) = (self.place(from), self.place(to)) else { return Step::Unknown };
        if to == from {
            return Step::Same;
        }
        if to < from {
            return Step::Back;
        }
        let way = self.way(from, to);
        let name = |place: usize| self.releases()[place].name;
        match (way.len(), to - from) {
            (1, 1) => Step::Next,
            (1, _) => Step::Slurp,
            _ => Step::Skips {
                missing: (from + 1..to).map(name).collect(),
                way: way.into_iter().map(name).collect(),
            },
        }
    }

    /// The places one after another from `from`, which is not among them, to `to`.
    fn way(self, from: usize, to: usize) -> Vec<usize> {
        let releases = self.releases();
        let mut way = Vec::new();
        let mut at = from;
        while at < to {
            let far = (at + 1..=to).find(|&next| releases[at].slurp && releases[next].slurp);
            at = far.unwrap_or(at + 1);
            way.push(at);
        }
        way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(from: &str, to: &str) -> Step {
        Series::Openstack.step(from, to)
    }

    #[test]
    fn a_step_to_the_next_one_or_from_slurp_to_slurp_leaves_out_nothing() {
        for (from, to) in
            [("icehouse", "juno"), ("zed", "antelope"), ("yoga", "2022.2"), ("bobcat", "2024.1-x")]
        {
            assert_eq!(step(from, to), Step::Next, "{from} {to}");
        }
        for (from, to) in [("antelope", "caracal"), ("2024.1", "epoxy"), ("2025.1-debian", "gazpacho")] {
            assert_eq!(step(from, to), Step::Slurp, "{from} {to}");
        }
        assert_eq!(step("2025.1", "epoxy"), Step::Same);
        assert_eq!(step("epoxy", "zed"), Step::Back);
    }

    #[test]
    fn what_is_left_out_is_named_and_so_is_the_way() {
        let missing = vec!["antelope", "bobcat", "caracal", "dalmatian"];
        let way = vec!["antelope", "caracal", "epoxy"];
        assert_eq!(step("zed", "epoxy"), Step::Skips { missing, way });
        let (missing, way) = (vec!["bobcat", "caracal", "dalmatian"], vec!["caracal", "epoxy"]);
        assert_eq!(step("antelope", "epoxy"), Step::Skips { missing, way });
        // Over one release, but not from one that is meant for it.
        let (missing, way) = (vec!["caracal"], vec!["caracal", "dalmatian"]);
        assert_eq!(step("bobcat", "dalmatian"), Step::Skips { missing, way });
        assert_eq!(
            step("mitaka", "ocata"),
            Step::Skips { missing: vec!["newton"], way: vec!["newton", "ocata"] }
        );
    }

    #[test]
    fn a_tag_may_say_more_than_the_release() {
        let place = |tag| Series::Openstack.place(tag).map(|place| OPENSTACK[place].name);
        assert_eq!(place("zed-rocky-9"), Some("zed"));
        assert_eq!(place("2014.1.5"), Some("icehouse"));
        assert_eq!(place("2025.1-debian-bookworm"), Some("epoxy"));
        assert_eq!((place("2014.10"), place("latest"), place("zedd"), place("")), (None, None, None, None));
        assert_eq!(Series::None.place("zed"), None);
        assert_eq!(Series::Openstack.title("2025.1-x").as_deref(), Some("epoxy (2025.1, SLURP)"));
        assert_eq!(Series::Openstack.title("victoria").as_deref(), Some("victoria"));
    }
}
