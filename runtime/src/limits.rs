//! Limits of a container: written into its cgroup before a process is in it, read back, and refused with the reason
//! when the host cannot keep them. It knows neither how a person spells them nor what they are for.
//!
//! A limit is a file of cgroup v2 and what is written to it ("memory.max", "536870912"), as the bundle has them in
//! `linux.resources.unified` (OCI runtime specification, "Unified"; cgroup-v2.rst says what each file means).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::io::Errno;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{Error, Failure};

/// Each limit by the file of the cgroup it is written to.
pub type Limits = BTreeMap<String, String>;

/// The annotation of `config.json` with which limits that this host cannot enforce are let go of, if it is `true`.
pub const ALLOW_UNENFORCED: &str = "org.opsrun.allow-unenforced";

/// The controllers that are turned on for every container: with them its use can be seen, limited or not.
pub(crate) const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// The kernel rounds sizes down to pages, of 64 KiB at most.
const PAGE_BYTES_MAX: u64 = 64 * 1024;

/// Refuses limits for which this host has no controller, or no cgroup that can be written to: what would be found out
/// anyway, but before anything is prepared.
///
/// # Errors
/// [`Error::Limit`] for the first one that cannot be kept, [`Error::CgroupsReadOnly`].
pub fn check(limits: &Limits) -> Result<(), Error> {
    let hierarchy = Hierarchy::open()
        .map_err(|error| Error::Io { doing: "look at the host's cgroups", source: error })?;
    if hierarchy.is_read_only() {
        return Err(Error::CgroupsReadOnly);
    }
    for (file, value) in limits {
        if let Some(reason) = hierarchy.lacks(controller(file)) {
            return Err(refusal(file, value, reason));
        }
    }
    Ok(())
}

/// The limits of a bundle.
pub(crate) fn of(spec: &Spec) -> Limits {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let unified = resources.and_then(|resources| resources.unified().clone());
    unified.unwrap_or_default().into_iter().collect()
}

/// Whether the bundle goes without limits that cannot be enforced.
pub(crate) fn may_be_unenforced(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations.and_then(|all| all.get(ALLOW_UNENFORCED)).is_some_and(|value| value == "true")
}

/// Writes every limit and reads it back. Those that cannot be kept are an error, or, when `may_be_unenforced`, what is
/// returned: each controller that is missing once, and files that are missing although their controller is there.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn enforce(
    leaf: &Cgroup<'_>,
    limits: &Limits,
    may_be_unenforced: bool,
) -> Result<Vec<String>, Error> {
    let mut unenforced = Vec::new();
    for (file, value) in limits {
        match set(leaf, file, value) {
            Ok(()) => {}
            Err(_) if may_be_unenforced => {
                let all_of_it = leaf.lacks(controller(file)).is_some();
                unenforced.push(if all_of_it { controller(file) } else { file.as_str() }.to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    unenforced.sort();
    unenforced.dedup();
    Ok(unenforced)
}

/// Changes limits of a cgroup that is in use: all of them or none.
///
/// # Errors
/// [`Error::Limit`]; the values from before are back then.
pub(crate) fn change(leaf: &Cgroup<'_>, limits: &Limits) -> Result<(), Error> {
    let mut done: Vec<(&str, String)> = Vec::new();
    for (file, value) in limits {
        let before = leaf.read(file).unwrap_or_default();
        let wanted = in_place_of(&before, value, file);
        let changed = refuse_what_kills(leaf, file, value).and_then(|()| set(leaf, file, &wanted));
        done.push((file, before));
        if let Err(error) = changed {
            for (file, before) in done {
                // The best that can be done: the error that led here is the one to report.
                let _ = write_all(leaf, file, &in_place_of(&limits[file], &before, file));
            }
            return Err(error);
        }
    }
    Ok(())
}

/// A limit below what is in use and cannot be given back would have the kernel kill the service at once.
fn refuse_what_kills(leaf: &Cgroup<'_>, file: &str, value: &str) -> Result<(), Error> {
    let Ok(wanted) = value.parse::<u64>() else { return Ok(()) };
    let text = leaf.read("memory.stat").unwrap_or_default();
    let field = |name: &str| keyed(&text, name).unwrap_or(0);
    let in_use = field("anon") + field("shmem");
    if file != "memory.max" || wanted >= in_use {
        return Ok(());
    }
    Err(refusal(
        file,
        value,
        format!("it uses {} that cannot be given back, and would be killed", size_text(in_use)),
    ))
}

fn set(leaf: &Cgroup<'_>, file: &str, value: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| refusal(file, value, why_not(leaf, file, &error));
    write_all(leaf, file, value).map_err(failed)?;
    let found = leaf.read(file).map_err(failed)?;
    match value.lines().find(|line| !holds(&found, line)) {
        None => Ok(()),
        Some(_) => Err(refusal(file, value, format!("the kernel made {} of it", found.trim()))),
    }
}

/// What is to be written so that a file says `wanted` and nothing more. `io.max` keeps what it is not told of: the devices,
/// and the rates of a device, that it said before.
fn in_place_of(before: &str, wanted: &str, file: &str) -> String {
    if file != "io.max" {
        return wanted.to_owned();
    }
    let mut lines: Vec<String> = wanted.lines().map(str::to_owned).collect();
    for line in before.lines() {
        let (device, rates) = line.split_once(' ').unwrap_or((line, ""));
        let now = wanted.lines().find(|line| line.split_whitespace().next() == Some(device)).unwrap_or("");
        let is_said = |key: &str| now.split_whitespace().any(|word| word.split('=').next() == Some(key));
        let keys = rates.split_whitespace().filter_map(|rate| rate.split('=').next());
        let dropped: Vec<String> =
            keys.filter(|key| !is_said(key)).map(|key| format!(" {key}=max")).collect();
        if !dropped.is_empty() {
            lines.push(format!("{device}{}", dropped.concat()));
        }
    }
    lines.join("\n")
}

/// `io.max` takes one device at a time.
fn write_all(leaf: &Cgroup<'_>, file: &str, value: &str) -> std::io::Result<()> {
    value.lines().try_for_each(|line| leaf.write(file, line))
}

/// Whether what was read back says what was written.
fn holds(found: &str, wanted: &str) -> bool {
    let same = |found: &str, wanted: &str| match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) => found <= wanted && wanted - found < PAGE_BYTES_MAX,
        _ => found == wanted,
    };
    // A file with a line for each device: the kernel adds what the line left out.
    if wanted.contains('=') || wanted.starts_with("default ") {
        let mut words = wanted.split_whitespace();
        let device = words.next().unwrap_or("");
        let line = found.lines().find(|line| line.split_whitespace().next() == Some(device));
        // What is unlimited for a device is not listed.
        let listed = |word: &str| line.is_some_and(|line| line.split_whitespace().any(|it| it == word));
        return words.all(|word| listed(word) || word.ends_with("=max"));
    }
    let (found, wanted): (Vec<_>, Vec<_>) =
        (found.split_whitespace().collect(), wanted.split_whitespace().collect());
    found.len() == wanted.len() && found.iter().zip(&wanted).all(|(found, wanted)| same(found, wanted))
}

fn refusal(file: &str, value: &str, reason: String) -> Error {
    Error::Limit {
        file: file.to_owned(),
        value: value.replace('\n', ", "),
        controller: controller(file).to_owned(),
        source: Failure::new(reason),
    }
}

/// The kernel says only "no such file" when a controller is missing.
fn why_not(leaf: &Cgroup<'_>, file: &str, error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ROFS) => "the cgroup file system is mounted read-only".to_owned(),
        Some(Errno::NOENT | Errno::ACCESS) => leaf
            .lacks(controller(file))
            .unwrap_or_else(|| format!("the kernel has the {} controller, but no {file}", controller(file))),
        Some(Errno::NODEV) => "there is no such device".to_owned(),
        Some(Errno::INVAL) => "the kernel takes no such value".to_owned(),
        _ => error.to_string(),
    }
}

/// The controller that a file belongs to: the part before the first point.
pub(crate) fn controller(file: &str) -> &str {
    file.split('.').next().unwrap_or(file)
}

impl Hierarchy {
    /// Why limits of a controller cannot be set anywhere on this host; `None` when they can.
    fn lacks(&self, controller: &str) -> Option<String> {
        let root = self.at(Path::new("/"));
        if root
            .read("cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|it| it == controller))
        {
            return None;
        }
        // Columns: name, hierarchy (0 = v2 or none), cgroups, enabled (cgroups(7)). cgroup v1 calls io blkio.
        let name_v1 = if controller == "io" { "blkio" } else { controller };
        let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|row| row.first() == Some(&name_v1));
        Some(match row.as_deref() {
            Some([_, _, _, "0"]) => {
                format!("the {controller} controller is switched off on the kernel's command line")
            }
            Some([_, hierarchy, ..]) if *hierarchy != "0" => {
                format!(
                    "this host has the {controller} controller in cgroup v1, and opsrun limits by cgroup v2"
                )
            }
            _ => format!("cgroup v2 of this host has no {controller} controller"),
        })
    }
}

impl Cgroup<'_> {
    /// Why a controller is missing in this cgroup; `None` when it is not.
    fn lacks(&self, controller: &str) -> Option<String> {
        let has = |text: &str| text.split_whitespace().any(|it| it == controller);
        if self.read("cgroup.controllers").is_ok_and(|text| has(&text)) {
            return None;
        }
        self.hierarchy().lacks(controller).or_else(|| {
            // Which of those above does not hand it down, and why not, is found out by trying.
            let mut above: Vec<&Path> = self.path().ancestors().skip(1).collect();
            above.reverse();
            let blocked = above.into_iter().find_map(|path| {
                let error = self.hierarchy().at(path).turn_on(controller).err()?;
                Some(format!(
                    "the {controller} controller cannot be turned on in the cgroup /{}: {error}",
                    path.display()
                ))
            });
            blocked.or_else(|| Some(format!("the {controller} controller is not turned on above it")))
        })
    }
}

/// The number behind a name in a file of names and numbers.
pub(crate) fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes as limits are spelled: in binary units, `512 MiB`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| bytes >= *size) else {
        return format!("{bytes} B");
    };
    let tenths = u64::try_from(u128::from(bytes) * 10 / u128::from(size)).unwrap_or(u64::MAX);
    if tenths % 10 == 0 || tenths >= 10_000 {
        return format!("{} {unit}", tenths / 10);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_made_of_a_value_is_noticed() {
        for (found, wanted, same) in [
            ("536870912\n", "536870912", true),
            ("536866816\n", "536870911", true),
            ("max\n", "536870912", false),
            ("1073741824\n", "536870912", false),
            ("20000 100000\n", "20000 100000", true),
            ("max 100000\n", "20000 100000", false),
            ("default 50\n", "default 50", true),
            ("default 100\n", "default 50", false),
            ("8:0 rbps=1048576 wbps=max riops=max wiops=max\n", "8:0 rbps=1048576", true),
            ("8:0 rbps=1048576 wbps=max riops=max wiops=max\n", "8:16 rbps=1048576", false),
            ("8:0 rbps=max wbps=1 riops=max wiops=max\n", "8:0 rbps=1048576", false),
        ] {
            assert_eq!(holds(found, wanted), same, "{found:?} for {wanted:?}");
        }
    }

    #[test]
    fn what_io_max_is_not_told_of_any_more_is_taken_back() {
        let before = "8:0 rbps=max wbps=1 riops=max wiops=max\n8:16 rbps=max wbps=2 riops=max wiops=max\n";
        assert_eq!(
            in_place_of(before, "8:0 riops=5", "io.max"),
            "8:0 riops=5\n8:0 rbps=max wbps=max wiops=max\n8:16 rbps=max wbps=max riops=max wiops=max"
        );
        assert_eq!(in_place_of("", "8:0 wbps=1", "io.max"), "8:0 wbps=1");
        assert_eq!(in_place_of("8:0 wbps=1", "", "io.max"), "8:0 wbps=max");
        assert_eq!(in_place_of("100", "200", "cpu.weight"), "200");
    }

    #[test]
    fn sizes_are_told_as_they_are_typed() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (536_870_912, "512 MiB"),
            (536_866_816, "511.9 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn a_controller_that_no_kernel_has_is_named() {
        let limits = Limits::from([("nonsense.max".to_owned(), "1".to_owned())]);
        let Err(Error::Limit { file, source, .. }) = check(&limits) else {
            // A host on which nothing can be written says that instead.
            assert!(matches!(check(&limits), Err(Error::CgroupsReadOnly | Error::Io { .. })));
            return;
        };
        assert_eq!(file, "nonsense.max");
        assert!(source.to_string().contains("no nonsense controller"), "{source}");
    }

    #[test]
    fn a_host_with_cgroup_v1_refuses_with_that_reason() {
        // The other kind of host is shown in the guest.
        if crate::cgroup::is_v2(Path::new(crate::cgroup::MOUNT)) {
            return;
        }
        let limits = Limits::from([("memory.max".to_owned(), "536870912".to_owned())]);
        let error = Failure::of(&check(&limits).unwrap_err()).to_string();
        assert!(error.contains("memory controller in cgroup v1"), "{error}");
    }
}
