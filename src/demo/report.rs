//! The short report at the end, and whether everything in it holds.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::application::SESSIONS;
use super::application::pulse::{Pulse, Stage};
use super::audit::Audit;
use super::serve::{Record, cell};

/// The longest pause that the demo takes for unnoticeable.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Everything that the report shows.
pub(crate) struct Report {
    /// Rows copied, and in how long.
    pub(crate) copied: (u64, Duration),
    /// The largest lag seen while it followed, and the one right before the cutover.
    pub(crate) lag_ms: (u64, u64),
    /// Rows that the verifier compared, and rows that differ.
    pub(crate) verified: (u64, u64),
    /// The row of CUTOVER.
    pub(crate) cutover: Record,
    /// Sessions of the application that are on the new server.
    pub(crate) moved: u64,
    /// Reconnects would hide a lost session: connections that the application holds.
    pub(crate) audit: Audit,
    /// Acknowledged transactions, statements, errors.
    pub(crate) application: (u64, u64, u64),
    /// Errors in words.
    pub(crate) errors: Vec<String>,
    /// Longest answer: of all, and at the cutover.
    pub(crate) pause: (Duration, Duration),
    /// What waited longest.
    pub(crate) slowest: String,
}

impl Report {
    /// What the application felt, taken from its pulse.
    pub(crate) fn feel(pulse: &Pulse) -> ((u64, u64, u64), Vec<String>, (Duration, Duration)) {
        (
            (pulse.transactions(), pulse.statements(), pulse.errors()),
            pulse.first_errors(),
            (pulse.slowest(), pulse.slowest_in(Stage::Cutover)),
        )
    }

    /// Everything that doesn't hold, in words.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut expect = |holds: bool, text: String| {
            if !holds {
                failures.push(text);
            }
        };
        let (transactions, _, errors) = self.application;
        expect(transactions > 0, "the application did nothing".to_owned());
        expect(errors == 0, format!("the application saw {errors} errors"));
        expect(self.audit.clean(), "the application's books and the new server don't agree".to_owned());
        expect(self.moved == u64::from(SESSIONS), format!("{} of {SESSIONS} sessions moved", self.moved));
        expect(
            self.pause.0 < PAUSE_MAX,
            format!("the longest pause was {} ({})", ms(self.pause.0), self.slowest),
        );
        expect(self.verified.0 > 0 && self.verified.1 == 0, "the verifier found differences".to_owned());
        failures.extend(self.errors.iter().map(|error| format!("error: {error}")));
        failures.extend(self.audit.findings.iter().cloned());
        failures
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (rows, copy) = self.copied;
        let rate = (rows as f64 / copy.as_secs_f64().max(0.001)) as u64;
        let (transactions, statements, errors) = self.application;
        let verdict = match self.verified {
            (rows, 0) if rows > 0 => format!("equal, {} rows compared", thousands(rows)),
            (_, differences) => format!("{differences} rows differ"),
        };
        let position = cell(&self.cutover, "source_position");
        let mut line = |name: &str, text: String| writeln!(f, "  {name:26} {text}");
        line(
            "copied",
            format!("{} rows in {:.1} s ({} rows/s)", thousands(rows), copy.as_secs_f64(), thousands(rate)),
        )?;
        line(
            "lag",
            format!("{} ms before the cutover, {} ms at most while following", self.lag_ms.1, self.lag_ms.0),
        )?;
        line("verdict", verdict)?;
        line(
            "cutover",
            format!("{}, gate closed {} ms", cell(&self.cutover, "outcome"), cell(&self.cutover, "pause_ms")),
        )?;
        line("at position", position.to_owned())?;
        line(
            "application transactions",
            format!("{} ({} statements)", thousands(transactions), thousands(statements)),
        )?;
        line("application errors", errors.to_string())?;
        line(
            "its books",
            format!(
                "{} entries and {} tables ({} rows) compared with the new server",
                thousands(self.audit.entries),
                self.audit.tables,
                thousands(self.audit.rows)
            ),
        )?;
        line("lost", self.audit.lost.to_string())?;
        line("duplicated", self.audit.duplicated.to_string())?;
        line("wrong in any other way", self.audit.wrong.to_string())?;
        line("sessions moved", format!("{} of {SESSIONS}", self.moved))?;
        line(
            "longest pause felt",
            format!("{} ({}); {} at the cutover", ms(self.pause.0), self.slowest, ms(self.pause.1)),
        )
    }
}

/// Milliseconds with one digit behind the point.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_off() {
        let check = |number, text| assert_eq!(thousands(number), text);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
