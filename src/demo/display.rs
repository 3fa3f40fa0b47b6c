//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A plain line of one bar at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// What a bar stands for, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    /// The shop is filled.
    Fill,
    /// Rows copied.
    Copy,
    /// What came in meanwhile is applied.
    CatchUp,
    /// Rows compared.
    Verify,
}

const NAMES: [&str; 4] = ["fill the shop", "copy", "catch up", "verify"];

/// Everything the demo shows while it works.
pub(crate) struct Display {
    bars: Option<(MultiProgress, [ProgressBar; NAMES.len()], ProgressBar)>,
    said: Mutex<[(Option<Instant>, u64); NAMES.len() + 1]>,
}

impl Display {
    /// Bars where stderr is a terminal.
    pub(crate) fn new() -> Self {
        let said = Mutex::new([(None, u64::MAX); NAMES.len() + 1]);
        if !std::io::stderr().is_terminal() {
            return Self { bars: None, said };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("  {prefix:14} [{bar:32}] {percent:>3}%  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bars = NAMES.map(|name| all.add(ProgressBar::new(1).with_style(style.clone()).with_prefix(name)));
        let text = ProgressStyle::with_template("  {prefix:14} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let pulse = all.add(ProgressBar::new_spinner().with_style(text).with_prefix("application"));
        Self { bars: Some((all, bars, pulse)), said }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bars {
            Some((all, ..)) => all.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Moves a bar. A full one is shown at once, once.
    pub(crate) fn bar(&self, which: Bar, done: u64, of: u64, message: &str) {
        let (index, of) = (which as usize, of.max(1));
        let done = done.min(of);
        if let Some((_, bars, _)) = &self.bars {
            if let Some(bar) = bars.get(index) {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            return;
        }
        let percent = done * 100 / of;
        if self.due(index, percent, percent == 100) {
            line(&format!("  {:14} {percent:>3}%  {message}", NAMES.get(index).unwrap_or(&"")));
        }
    }

    /// How the application is.
    pub(crate) fn pulse(&self, text: &str) {
        match &self.bars {
            Some((_, _, pulse)) => pulse.set_message(text.to_owned()),
            None => {
                if self.due(NAMES.len(), u64::MAX - 1, false) {
                    line(&format!("  {:14} {text}", "application"));
                }
            }
        }
    }

    /// Takes the bars away, so that the report stands alone.
    pub(crate) fn finish(&self) {
        if let Some((all, bars, pulse)) = &self.bars {
            for bar in bars.iter().chain([pulse]) {
                bar.abandon();
            }
            // What is drawn stays on the screen; nothing is drawn any more.
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    /// Whether a plain line is due: when it is full, and now and then while it changes.
    fn due(&self, index: usize, value: u64, full: bool) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((when, last)) = said.get_mut(index) else { return false };
        let changed = *last != value || index == NAMES.len();
        let rested = when.is_none_or(|when| when.elapsed() >= PLAIN_EVERY);
        if changed && (full || rested) {
            (*when, *last) = (Some(Instant::now()), value);
            return true;
        }
        false
    }
}

/// A closed stderr is no reason to stop a migration.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
