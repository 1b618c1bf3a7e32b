//! `save`: writes images as an archive that other tools read, with a bar on a terminal.
//! It knows no archive's form.

use bundles::archive::Target;
use bundles::store::{SaveFormat, Store};

use crate::arguments::{ArchiveFormat, Save};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};

/// Saves images.
///
/// # Errors
/// [`Error::ArchiveToTerminal`], [`Error::Bundles`]; what was in the place of the archive is still there then.
pub(crate) fn save(layout: &Layout, arguments: &Save) -> Result<Exit, Error> {
    let target = Target::of(&arguments.output);
    if target == Target::Stdout && print::is_terminal() {
        return Err(Error::ArchiveToTerminal);
    }
    let format = match arguments.format {
        ArchiveFormat::OciArchive => SaveFormat::Oci { compressed: !arguments.uncompressed },
        ArchiveFormat::DockerArchive => SaveFormat::Docker,
    };
    let store = Store::open(&layout.store())?;
    let mut bar = LayerBar::new();
    store.save(&arguments.images, format, &target, &mut bar)?;
    drop(bar);
    let titles: Vec<String> = arguments.images.iter().map(ToString::to_string).collect();
    let into = match &target {
        Target::File(path) => path.display().to_string(),
        Target::Stdout => "standard output".to_owned(),
    };
    print::note(&sentence::saved(&titles.join(", "), &into));
    Ok(Exit::Done)
}
