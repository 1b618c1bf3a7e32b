//! Turns what libcontainer logs as errors into reports: it logs causes that its results do not carry.
//! It knows nothing of containers.

use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::channel::{Channel, Report};

/// From here on, in this process and those it forks, each error that is logged is sent over the channel.
pub(crate) fn report_errors_over(channel: Channel) {
    // OK to ignore: it fails only when a subscriber is set already, and then errors are reported by that one.
    let _ = tracing::subscriber::set_global_default(ErrorReports { channel });
}

struct ErrorReports {
    channel: Channel,
}

impl Subscriber for ErrorReports {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Sentence::default();
        event.record(&mut text);
        // OK to ignore: when the asker is gone, nobody is left to tell.
        let _ = self.channel.send(&Report::Cause(text.message + &text.fields), &[]);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An event as one sentence: its message, then its fields.
#[derive(Default)]
struct Sentence {
    message: String,
    fields: String,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, ", {}: {value:?}", field.name())
        };
        written.expect("OK because writing to a String does not fail");
    }
}
