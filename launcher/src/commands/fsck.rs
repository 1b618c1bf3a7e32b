//! `fsck`: checks the store against what was recorded, and takes out what is broken.
//! It does not know how a layer is checked.

use bundles::store::{Broken, Checked, Difference, Repair, Store, Subject};

use crate::arguments::Fsck;
use crate::error::Error;
use crate::exit::Exit;
use crate::image_users;
use crate::layout::Layout;
use crate::listing::{self, BrokenFile, VERSION};
use crate::print::amount::short_id;
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};

/// Checks, repairs if that is wished for, and lists what is broken.
///
/// # Errors
/// [`Error::StoreBroken`] when something is broken and was not removed; [`Error::Bundles`] when it cannot be checked.
pub(crate) fn fsck(layout: &Layout, arguments: &Fsck) -> Result<Exit, Error> {
    let store = Store::open(&layout.store())?;
    let mut bar = LayerBar::new();
    let checked = match arguments.repair {
        true => store.repair(|| image_users::running(layout), &mut bar)?,
        false => store.check(&mut bar)?,
    };
    drop(bar);
    if arguments.form.json {
        print::json(&describe(&checked))?;
    } else {
        print::data(&checked.broken.iter().map(lines).collect::<String>())?;
        let Checked { images, layers, files, bytes, .. } = checked;
        print::note(&sentence::checked(images, layers, files, bytes));
    }
    let left = checked.broken.iter().filter(|broken| broken.repair != Repair::Removed).count();
    match left {
        0 => Ok(Exit::Done),
        broken => Err(Error::StoreBroken { broken, in_use: arguments.repair }),
    }
}

/// What is wrong with one thing, as text.
fn lines(broken: &Broken) -> String {
    let what = match &broken.subject {
        Subject::Names => "names".to_owned(),
        Subject::Image(id) => format!("image {}", short_id(&id.to_string())),
        Subject::Layer(id) => format!("layer {}", short_id(&id.to_string())),
        Subject::Stranger(name) => print::printable(&name.to_string_lossy()),
    };
    let needed = match broken.images.as_slice() {
        [] => String::new(),
        images => format!(" (of {})", images.join(", ")),
    };
    let mut text = format!("{what}{needed}");
    if let Some(reason) = &broken.reason {
        text.push_str(&format!(": {}", print::printable(reason)));
    }
    text.push('\n');
    for (difference, path) in &broken.files {
        let (word, detail) = words(difference);
        let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
        text.push_str(&format!("  {word:10}  {}{detail}\n", print::printable(path)));
    }
    if broken.files_unnamed > 0 {
        text.push_str(&format!("  and {} more\n", broken.files_unnamed));
    }
    match &broken.repair {
        Repair::None => {}
        Repair::Removed => text.push_str("  removed: load the image again to have it back\n"),
        Repair::InUse(by) => text.push_str(&format!("  left as it is: {by} runs from it\n")),
    }
    text
}

fn words(difference: &Difference) -> (&'static str, Option<String>) {
    match difference {
        Difference::Changed(what) => ("changed", Some(what.join(", "))),
        Difference::Missing => ("missing", None),
        Difference::Extra => ("extra", None),
        Difference::Unreadable(why) => ("unreadable", Some(why.clone())),
    }
}

fn describe(checked: &Checked) -> listing::Checked {
    let file = |(difference, path): &(Difference, String)| {
        let (difference, detail) = words(difference);
        BrokenFile { path: path.clone(), difference, detail }
    };
    let broken = |broken: &Broken| {
        let (kind, id) = match &broken.subject {
            Subject::Names => ("names", None),
            Subject::Image(id) => ("image", Some(id.to_string())),
            Subject::Layer(id) => ("layer", Some(id.to_string())),
            Subject::Stranger(name) => ("stranger", Some(name.to_string_lossy().into_owned())),
        };
        let (repair, in_use_by) = match &broken.repair {
            Repair::None => (None, None),
            Repair::Removed => (Some("removed"), None),
            Repair::InUse(by) => (Some("in-use"), Some(by.clone())),
        };
        listing::Broken {
            kind,
            id,
            reason: broken.reason.clone(),
            files: broken.files.iter().map(file).collect(),
            files_unnamed: broken.files_unnamed,
            images: broken.images.clone(),
            repair,
            in_use_by,
        }
    };
    listing::Checked {
        version: VERSION,
        images: checked.images,
        layers: checked.layers,
        files: checked.files,
        read_bytes: checked.bytes,
        broken: checked.broken.iter().map(broken).collect(),
    }
}
