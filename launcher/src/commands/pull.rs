//! `pull`: takes an image from a registry into the store, and can be ended by Ctrl-C without a trace.
//! It knows no protocol.

use bundles::reference::Reference;
use bundles::registry::{Conversation, Registries};
use bundles::store::{Bounds, Image, LoadOptions, Store};
use nix::sys::signal::{SigSet, Signal};

use crate::arguments::Pull;
use crate::commands::images::Sharing;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{Loaded, VERSION};
use crate::print::amount::short_id;
use crate::print::progress::LayerBar;
use crate::print::{self, sentence};
use crate::registries;

/// Pulls one image.
///
/// # Errors
/// [`Error::Bundles`]; nothing half-made is left in the store. [`Error::Settings`].
pub(crate) fn pull(layout: &Layout, arguments: Pull) -> Result<Exit, Error> {
    let said = registries::read(&layout.registries())?;
    let (bounds, registries) = (said.bounds(arguments.bounds), said.registries());
    let store = Store::open(&layout.store())?;
    let image = fetch(&store, &registries, &arguments.image, arguments.tag, bounds)?;
    if arguments.form.json {
        let sharing = Sharing::of(&store.images()?);
        print::json(&Loaded { version: VERSION, images: vec![sharing.describe(&image)] })?;
    }
    Ok(Exit::Done)
}

/// Pulls an image and says so.
///
/// # Errors
/// [`Error::Bundles`].
pub(crate) fn fetch(
    store: &Store,
    registries: &Registries,
    reference: &Reference,
    tag: Option<Reference>,
    bounds: Bounds,
) -> Result<Image, Error> {
    let mut bar = LayerBar::new();
    let note = bar.notes();
    let conversation = Conversation::telling(move |error, next_in| note(&sentence::not_yet(error, next_in)));
    let interruptions = Interruptions::passed_to(&conversation)?;
    let options = LoadOptions { tag, platform: None, bounds };
    let result = store.pull(registries, reference, &options, &conversation, &mut bar);
    let unpacked = bar.unpacked;
    drop(bar);
    drop(interruptions);
    let image = result?;
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    let called = if names.is_empty() { reference.to_string() } else { names.join(", ") };
    print::note(&sentence::loaded(&called, short_id(&image.id.to_string()), image.bytes()));
    print::note(&sentence::layers_unpacked(unpacked));
    Ok(image)
}

/// While it lives, Ctrl-C and SIGTERM end the pull in order instead of the process at once; a second one ends that too.
struct Interruptions(SigSet);

impl Interruptions {
    fn passed_to(conversation: &Conversation) -> Result<Self, Error> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(|error| Error::io("wait for signals", error.into()))?;
        let conversation = conversation.clone();
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                conversation.stop();
            }
            if let Ok(signal) = signals.wait() {
                std::process::exit(128 + signal as i32);
            }
        });
        Ok(Self(signals))
    }
}

impl Drop for Interruptions {
    /// From now on they end the process again.
    fn drop(&mut self) {
        // OK to fail: then a Ctrl-C has to be typed twice.
        let _ = self.0.thread_unblock();
    }
}
