//! The bar that `load` shows on a terminal: one line for the layers that are being unpacked.
//! It knows nothing of archives; without a terminal it draws nothing.

use bundles::digest::Digest;
use bundles::store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::print::amount::short_id;

/// Shows layers as they come, and counts them.
#[derive(Debug)]
pub(crate) struct LayerBar {
    bar: Option<ProgressBar>,
    draws: bool,
    /// Layers that the bar stands for, and that are not done.
    under_way: usize,
    /// Layers that had to be unpacked.
    pub unpacked: usize,
}

impl LayerBar {
    /// A bar on standard error, if that is a terminal.
    pub(crate) fn new() -> Self {
        Self { bar: None, draws: super::can_draw(), under_way: 0, unpacked: 0 }
    }

    fn show(&mut self, bar: ProgressBar, form: &str, message: String) {
        self.end();
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(form).expect("OK because each form is written below"));
        bar.set_message(message);
        self.bar = Some(bar);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for LayerBar {
    fn waiting(&mut self, pid: Option<u32>) {
        super::note(&super::sentence::waiting_for_store(pid));
    }

    fn layer_began(&mut self, index: usize, count: usize, diff_id: &Digest, bytes_compressed: Option<u64>) {
        self.unpacked += 1;
        self.under_way += 1;
        if !self.draws {
            return;
        }
        if let (true, Some(bar), Some(bytes)) = (self.under_way > 1, &self.bar, bytes_compressed) {
            bar.inc_length(bytes);
            bar.set_message(format!("layers to {} of {count}", index + 1));
            return;
        }
        let message = format!("layer {} of {count} {}", index + 1, short_id(&diff_id.to_string()));
        match bytes_compressed {
            Some(bytes) => {
                self.show(ProgressBar::new(bytes), "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}", message);
            }
            None => self.show(ProgressBar::no_length(), "{msg} {spinner} {bytes}", message),
        }
    }

    fn advanced(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn layer_done(&mut self, _: &Digest) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0 {
            self.end();
        }
    }

    fn syncing(&mut self) {
        if self.draws {
            self.show(ProgressBar::new_spinner(), "{msg}", "writing to disk".to_owned());
            // Drawn when something advances, and now nothing does.
            self.bar.iter().for_each(ProgressBar::tick);
        }
    }
}

impl Drop for LayerBar {
    /// A load that fails leaves no half a bar above its error.
    fn drop(&mut self) {
        self.end();
    }
}
