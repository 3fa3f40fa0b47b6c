//! What `time_zone = SYSTEM` means on a server: which offsets from UTC it has at many moments.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 86_400;

/// The offsets of a server's own zone, in minutes with commas between; `None`: the server has no such zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone(pub(crate) Option<String>);

/// What SYSTEM of one server is on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SystemZone {
    /// The same.
    Same,
    /// It goes by this name there.
    As(String),
    /// It has none there.
    Missing,
}

impl Zone {
    /// Where the offset never changes, as `+02:00`.
    pub(crate) fn constant(&self) -> Option<String> {
        let mut offsets = self.0.as_deref()?.split(',');
        let first: i32 = offsets.next()?.parse().ok()?;
        if !offsets.all(|offset| offset.parse() == Ok(first)) {
            return None;
        }
        let (sign, minutes) = if first < 0 { ('-', -first) } else { ('+', first) };
        Some(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60))
    }
}

/// Days since 1970 at which zones are compared: each January and July, and each week of about three years, in
/// which two zones would change their clocks at different times. The same for as long as the process lives.
fn probed() -> &'static [u64] {
    static DAYS: OnceLock<Vec<u64>> = OnceLock::new();
    DAYS.get_or_init(|| {
        let today =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY_SECONDS);
        // January 2038 is the end of what the servers convert.
        let half_years = (0..67).flat_map(|year| [year * 1461 / 4 + 15, year * 1461 / 4 + 196]);
        let weeks = (today.saturating_sub(400)..today + 800).step_by(7);
        let end = 67 * 1461 / 4;
        half_years.chain(weeks).filter(|day| *day < end).collect()
    })
}

/// An expression for the offsets of a zone: `zone` is an expression, too.
pub(crate) fn offsets(zone: &str) -> String {
    let offset = |day: &u64| {
        let at = format!("'1970-01-01 12:00:00' + INTERVAL {day} DAY");
        format!("TIMESTAMPDIFF(MINUTE, {at}, CONVERT_TZ({at}, '+00:00', {zone}))")
    };
    // One that can't be told makes all of it unknown.
    format!("CONCAT({})", probed().iter().map(offset).collect::<Vec<_>>().join(", ',', "))
}

/// Asks for a zone of the server's tables that has these offsets.
pub(crate) fn search(zone: &Zone) -> Option<String> {
    let wanted = zone.0.as_deref()?;
    // Most zones differ in these.
    let mut first = String::new();
    let moments: Vec<_> = probed().iter().zip(wanted.split(',')).collect();
    for (day, offset) in moments.into_iter().rev().step_by(26).take(4) {
        let at = format!("'1970-01-01 12:00:00' + INTERVAL {day} DAY");
        let offset: i32 = offset.parse().ok()?;
        first.push_str(&format!(
            "TIMESTAMPDIFF(MINUTE, {at}, CONVERT_TZ({at}, '+00:00', Name)) = {offset} AND "
        ));
    }
    // Those with a place in their name are kept up to date; `CET` and its like may be links to one or rules of old.
    Some(format!(
        "SELECT Name FROM mysql.time_zone_name WHERE {first}{} = '{wanted}' \
         ORDER BY Name LIKE 'posix/%' OR Name LIKE 'right/%', Name NOT LIKE '%/%', Name LIMIT 1",
        offsets("Name")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_without_summer_is_an_offset() {
        let check = |offsets: &str, expected: Option<&str>| {
            assert_eq!(Zone(Some(offsets.to_owned())).constant().as_deref(), expected, "{offsets}");
        };
        check("0,0", Some("+00:00"));
        check("330,330", Some("+05:30"));
        check("-210,-210", Some("-03:30"));
        check("60,120", None);
        assert_eq!(Zone(None).constant(), None);
    }

    #[test]
    fn moments_lie_where_servers_convert() {
        let days = probed();
        assert!(days.len() > 200 && days.iter().all(|day| day * DAY_SECONDS < 0x7FFF_FFFF), "{days:?}");
    }
}
