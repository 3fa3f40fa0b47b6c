//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use crate::metrics::{BOUNDS, Figures};

/// What a family is, in its TYPE line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page of families.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Begins a family: its samples follow. `help` is one line without a backslash.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        debug_assert!(!help.contains(['\n', '\\']));
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample. The values of labels are words of ours, which need no escapes.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (place, (label, word)) in labels.iter().enumerate() {
            debug_assert!(!word.contains(['"', '\\', '\n']));
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{word}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// A family of one sample.
    pub(super) fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A whole histogram, in seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, figures: &Figures) {
        self.family(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (place, more) in figures.buckets.iter().enumerate() {
            count += more;
            let bound = BOUNDS.get(place).copied().unwrap_or("+Inf");
            self.sample(&bucket, &[("le", bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[], Seconds(figures.sum_us));
        self.sample(&format!("{name}_count"), &[], count);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// Microseconds, written as seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds(pub(super) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let mut page = Page::default();
        page.family("x_total", Kind::Counter, "What it is.");
        page.sample("x_total", &[("leg", "client"), ("direction", "sent")], 7);
        page.one("y", Kind::Gauge, "Another.", Seconds(1_500));
        assert_eq!(
            page.into_text(),
            "# HELP x_total What it is.\n# TYPE x_total counter\nx_total{leg=\"client\",direction=\"sent\"} 7\n\
             # HELP y Another.\n# TYPE y gauge\ny 0.001500\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut figures = Figures::default();
        figures.add(Duration::from_micros(90));
        figures.add(Duration::from_millis(1));
        figures.add(Duration::from_secs(60));
        let mut page = Page::default();
        page.histogram("t_seconds", "Time.", &figures);
        let text = page.into_text();
        for line in [
            "t_seconds_bucket{le=\"0.0001\"} 1\n",
            "t_seconds_bucket{le=\"0.0005\"} 1\n",
            "t_seconds_bucket{le=\"0.001\"} 2\n",
            "t_seconds_bucket{le=\"10\"} 2\n",
            "t_seconds_bucket{le=\"+Inf\"} 3\n",
            "t_seconds_sum 60.001090\n",
            "t_seconds_count 3\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
