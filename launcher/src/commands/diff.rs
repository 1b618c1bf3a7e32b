//! `diff`: in what two generations of a service differ, or one and the configuration as it is on the host.
//! It changes nothing, and shows no secret unless it is told to.

use std::collections::BTreeMap;
use std::path::Path;

use runtime::history::History;
use serde_json::Value;
use similar::TextDiff;

use crate::arguments::{Diff, Side};
use crate::commands::look;
use crate::drift::{self, Change, ChangeKind};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::{self, Made};
use crate::layout::Layout;
use crate::listing::{self, DifferentFile, DifferentValue, VERSION};
use crate::prepare::Said;
use crate::print::{self, sentence};
use crate::secrets;

/// A bigger file is said to differ, and not shown.
const SHOWN_BYTES_MAX: u64 = 1 << 20;

/// Shows the differences.
///
/// # Errors
/// [`Error::NoService`], [`Error::NoGeneration`], [`Error::GenerationGone`], [`Error::Io`].
pub(crate) fn diff(layout: &Layout, arguments: &Diff) -> Result<Exit, Error> {
    let service = &arguments.service;
    let (folders, status) = look(layout, service)?;
    let past = History::of(&folders).read()?;
    let active = status.record.generation;
    let to = arguments.to.unwrap_or(Side::Generation(active));
    let from = match arguments.from {
        Some(from) => from,
        None => Side::Generation(
            past.before(active)
                .ok_or_else(|| Error::NothingBefore { service: service.to_string(), active })?,
        ),
    };
    let made = |side: Side| match side {
        // Only the configuration is looked at on the host; everything else is as in what serves.
        Side::Now => generation::find(&folders, service, active).map(|_| None),
        Side::Generation(number) => generation::find(&folders, service, number).map(Some),
    };
    let values = match (made(from)?, made(to)?) {
        (Some(one), Some(two)) => {
            different_values(&folders.generations(), &one, &two, arguments.show_secrets)
        }
        _ => Vec::new(),
    };
    let place = |side: Side| match side {
        Side::Now => layout.own(service).configuration(),
        Side::Generation(number) => generation::configuration(&folders.generation(number)),
    };
    let live = Said::about(layout, service)?.live();
    let (old, new) = (place(from), place(to));
    let changes = drift::changes(&new, &old, &live)?;
    let files = changes.into_iter().map(|change| file(&old, &new, change, arguments.show_secrets));
    let found = listing::Diff {
        version: VERSION,
        service: service.to_string(),
        from: from.to_string(),
        to: to.to_string(),
        values,
        files: files.collect::<Result<_, _>>()?,
    };
    if arguments.form.json {
        print::json(&found)?;
    } else if found.values.is_empty() && found.files.is_empty() {
        print::note(&sentence::no_difference(service.as_str(), &found.from, &found.to));
    } else {
        print::data(&render(&found))?;
    }
    Ok(Exit::Done)
}

fn render(found: &listing::Diff) -> String {
    let mut text = format!("{}: {} to {}\n", found.service, found.from, found.to);
    for value in &found.values {
        text.push_str(&format!("{}\n", value.name));
        for (sign, value) in [('-', &value.old), ('+', &value.new)] {
            if let Some(value) = value {
                text.push_str(&format!("  {sign} {}\n", print::printable(value)));
            }
        }
    }
    for file in &found.files {
        text.push_str(&format!("configuration: {} {}", file.change, file.path.display()));
        text.push_str(&file.attributes.as_ref().map_or(String::new(), |changed| format!(" ({changed})")));
        text.push('\n');
        for line in file.diff.iter().flat_map(|diff| diff.lines()) {
            text.push_str(&format!("  {}\n", print::printable(line)));
        }
    }
    text
}

fn different_values(generations: &Path, one: &Made, two: &Made, show: bool) -> Vec<DifferentValue> {
    let (one, two) = (values(generations, one), values(generations, two));
    let names: std::collections::BTreeSet<&String> = one.keys().chain(two.keys()).collect();
    let differing = names.into_iter().filter(|name| one.get(*name) != two.get(*name));
    let shown = |name: &str, value: Option<&String>| {
        let last = name.rsplit(' ').next().unwrap_or(name);
        value.map(|value| if show { value.clone() } else { secrets::hide_value(last, value) })
    };
    differing
        .map(|name| DifferentValue {
            name: name.clone(),
            old: shown(name, one.get(name)),
            new: shown(name, two.get(name)),
        })
        .collect()
}

/// Everything that a generation was made with, by name; what differs between any two generations is left out.
fn values(generations: &Path, made: &Made) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let definition = serde_json::to_value(&made.definition).unwrap_or_default();
    for (name, value) in definition.as_object().into_iter().flatten() {
        match name.as_str() {
            "version" | "generation" | "service" => {}
            "release" | "image" | "image_id" => flatten(name, value, &mut values),
            _ => flatten(&format!("definition {name}"), value, &mut values),
        }
    }
    for (file, limit) in &made.limits {
        values.insert(format!("limit {file}"), limit.clone());
    }
    let at = |pointer: &str| made.specification.pointer(pointer).cloned().unwrap_or_default();
    for variable in at("/process/env").as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        values.insert(format!("environment {name}"), value.to_owned());
    }
    for mount in at("/mounts").as_array().into_iter().flatten() {
        let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
        let is_copy = Path::new(&text("source")).starts_with(generations);
        let source = if is_copy { "the generation's configuration".to_owned() } else { text("source") };
        values.insert(format!("mount {}", text("destination")), format!("{source} {}", mount["options"]));
    }
    for (name, pointer) in [
        ("program", "/process/args"),
        ("user", "/process/user"),
        ("working folder", "/process/cwd"),
        ("capabilities", "/process/capabilities/bounding"),
        ("no new privileges", "/process/noNewPrivileges"),
        ("read-only root", "/root/readonly"),
    ] {
        values.insert(name.to_owned(), at(pointer).to_string());
    }
    values
}

fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, into));
        }
        Value::String(text) => {
            into.insert(name.to_owned(), text.clone());
        }
        other => {
            into.insert(name.to_owned(), other.to_string());
        }
    }
}

fn file(old: &Path, new: &Path, change: Change, show: bool) -> Result<DifferentFile, Error> {
    let (old, new) = (old.join(&change.path), new.join(&change.path));
    let (before, after) = (text(&old)?, text(&new)?);
    let diff = match (before, after) {
        (Some(before), Some(after)) if before != after => {
            let name = change.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // A whole file may be a secret without a name: server.key.
            Some(unified(&before, &after, show, secrets::is_secret(name)))
        }
        _ => None,
    };
    let verb = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Removed => "removed",
    };
    Ok(DifferentFile { change: verb, attributes: attributes(&old, &new), diff, path: change.path })
}

/// The text of a file, empty when there is none; `None` when it is no text or too big.
fn text(path: &Path) -> Result<Option<String>, Error> {
    let failed = |error| Error::io("compare the configurations", error);
    match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(String::new())),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.is_file() || found.len() > SHOWN_BYTES_MAX => Ok(None),
        Ok(_) => {
            let bytes = fs_err::read(path).map_err(failed)?;
            Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
        }
    }
}

/// A unified diff of what is there, each line of which is shown as it may be: so a secret that changed is two lines.
fn unified(before: &str, after: &str, show: bool, all_secret: bool) -> String {
    let shown = |text: &str| match (show, all_secret) {
        // A private key is never shown.
        _ if text.contains("PRIVATE KEY-----") => secrets::hide(text),
        (true, _) => text.lines().map(str::to_owned).collect(),
        (false, true) => text.lines().map(|_| secrets::HIDDEN.to_owned()).collect(),
        (false, false) => secrets::hide(text),
    };
    let (old, new) = (shown(before), shown(after));
    let (lines_before, lines_after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let diff = TextDiff::from_slices(&lines_before, &lines_after);
    let mut text = String::new();
    for group in diff.grouped_ops(3) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range =
            |begin: usize, end: usize| format!("{},{}", begin + usize::from(end > begin), end - begin);
        let before = range(first.old_range().start, last.old_range().end);
        let after = range(first.new_range().start, last.new_range().end);
        text.push_str(&format!("@@ -{before} +{after} @@\n"));
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let line = match (change.new_index(), change.old_index()) {
                (Some(at), _) => new.get(at),
                (None, Some(at)) => old.get(at),
                (None, None) => None,
            };
            text.push_str(&format!("{}{}\n", change.tag(), line.map_or("", String::as_str)));
        }
    }
    text
}

/// In what two files differ beside their content.
fn attributes(old: &Path, new: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let (old, new) = (old.symlink_metadata().ok()?, new.symlink_metadata().ok()?);
    let mut changed = Vec::new();
    if old.mode() != new.mode() {
        changed.push(format!("mode {:o} to {:o}", old.mode(), new.mode()));
    }
    let owner = |found: &std::fs::Metadata| format!("{}:{}", found.uid(), found.gid());
    if owner(&old) != owner(&new) {
        changed.push(format!("owner {} to {}", owner(&old), owner(&new)));
    }
    (!changed.is_empty()).then(|| changed.join(", "))
}
