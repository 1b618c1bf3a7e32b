//! The bars that `load` and `pull` show on a terminal: a line for each layer that is being unpacked.
//! It knows nothing of archives; without a terminal it draws nothing.

use bundles::digest::Digest;
use bundles::store::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::print::amount::short_id;

/// Shows layers as they come, and counts them.
#[derive(Debug)]
pub(crate) struct LayerBar {
    lines: MultiProgress,
    draws: bool,
    /// The layers that are under way.
    layers: Vec<(Digest, ProgressBar)>,
    /// Of what comes when all of them are done.
    last: Option<ProgressBar>,
    /// Layers that had to be unpacked.
    pub unpacked: usize,
}

impl LayerBar {
    /// Bars on standard error, if that is a terminal.
    pub(crate) fn new() -> Self {
        let lines = MultiProgress::new();
        Self { lines, draws: super::can_draw(), layers: Vec::new(), last: None, unpacked: 0 }
    }

    /// Says something while they are shown, from any thread.
    pub(crate) fn notes(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let lines = self.lines.clone();
        move |text| lines.suspend(|| super::note(text))
    }

    fn line(&self, bar: ProgressBar, form: &str, message: String) -> ProgressBar {
        // OK because each form is written below.
        bar.set_style(ProgressStyle::with_template(form).expect("a form"));
        bar.set_message(message);
        let bar = self.lines.add(bar);
        // Drawn when something advances, which can take a while.
        bar.tick();
        bar
    }

    fn end(&mut self) {
        let layers = self.layers.drain(..).map(|(_, bar)| bar);
        layers.chain(self.last.take()).for_each(|bar| bar.finish_and_clear());
    }
}

impl Progress for LayerBar {
    fn waiting(&mut self, pid: Option<u32>) {
        (self.notes())(&super::sentence::waiting_for_store(pid));
    }

    fn layer_began(&mut self, index: usize, count: usize, diff_id: &Digest, bytes_compressed: Option<u64>) {
        self.unpacked += 1;
        if !self.draws {
            return;
        }
        let message = format!("layer {} of {count} {}", index + 1, short_id(&diff_id.to_string()));
        let bar = match bytes_compressed {
            Some(bytes) => {
                self.line(ProgressBar::new(bytes), "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}", message)
            }
            None => self.line(ProgressBar::no_length(), "{msg} {spinner} {bytes}", message),
        };
        self.layers.push((*diff_id, bar));
    }

    fn layer_advanced(&mut self, diff_id: &Digest, bytes: u64) {
        if let Some((_, bar)) = self.layers.iter().find(|(layer, _)| layer == diff_id) {
            bar.inc(bytes);
        }
    }

    /// Who looks through layers has one under way.
    fn advanced(&mut self, bytes: u64) {
        if let Some((_, bar)) = self.layers.last() {
            bar.inc(bytes);
        }
    }

    fn layer_done(&mut self, diff_id: &Digest) {
        if let Some(at) = self.layers.iter().position(|(layer, _)| layer == diff_id) {
            self.layers.swap_remove(at).1.finish_and_clear();
        }
    }

    fn syncing(&mut self) {
        if self.draws {
            self.end();
            self.last = Some(self.line(ProgressBar::new_spinner(), "{msg}", "writing to disk".to_owned()));
        }
    }
}

impl Drop for LayerBar {
    /// A load that fails leaves no half a bar above its error.
    fn drop(&mut self) {
        self.end();
    }
}
