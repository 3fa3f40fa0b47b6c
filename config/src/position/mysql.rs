//! MySQL's GTID sets: intervals of numbers for each server uuid and tag.

use std::collections::BTreeMap;
use std::fmt;

use super::Gtid;

/// The highest number a server gives out (`GNO_END - 1`).
pub(super) const NUMBER_MAX: u64 = i64::MAX as u64 - 1;

/// Longest tag.
const TAG_MAX: usize = 32;

type Uuid = [u8; 16];
/// First and last number, both inclusive.
type Interval = (u64, u64);

/// Intervals of numbers for each `(uuid, tag)`, normalised: sorted, disjoint, not adjacent, none of them empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MySqlGtidSet {
    intervals: BTreeMap<(Uuid, String), Vec<Interval>>,
}

impl MySqlGtidSet {
    /// Reads `uuid:1-5:7,uuid:tag:1-3` and, as `gtid_executed` prints tags, `uuid:1-3:tag:5-7`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let uuid = parse_uuid(words.next().unwrap_or_default())?;
            let (mut tag, mut complete) = (String::new(), false);
            for word in words {
                if word.starts_with(|c: char| c.is_ascii_digit()) {
                    set.add_interval(uuid, &tag, parse_interval(word)?);
                    complete = true;
                } else if tag.is_empty() || complete {
                    tag = parse_tag(word)?;
                    complete = false;
                } else {
                    return Err(format!("the tag {tag} has no number"));
                }
            }
            if !complete {
                return Err("a uuid or tag has no number".to_owned());
            }
        }
        Ok(set)
    }

    /// False for a number that no transaction can have.
    pub(super) fn add(&mut self, uuid: Uuid, tag: &str, number: u64) -> bool {
        if number == 0 || number > NUMBER_MAX {
            return false;
        }
        self.add_interval(uuid, tag, (number, number));
        true
    }

    /// Binary search, and for the number behind the last one nothing is moved.
    fn add_interval(&mut self, uuid: Uuid, tag: &str, (first, last): Interval) {
        let list = self.intervals.entry((uuid, tag.to_owned())).or_default();
        // Everything in `from..to` overlaps the new interval or is adjacent to it.
        let from = list.partition_point(|&(_, end)| end + 1 < first);
        let to = list.partition_point(|&(start, _)| start <= last + 1);
        if from == to {
            list.insert(from, (first, last));
            return;
        }
        let merged = list.get(from..to).unwrap_or_default();
        let start = merged.first().map_or(first, |&(start, _)| start.min(first));
        let end = merged.last().map_or(last, |&(_, end)| end.max(last));
        if let Some(kept) = list.get_mut(from) {
            *kept = (start, end);
        }
        list.drain(from + 1..to);
    }

    pub(super) fn contains(&self, uuid: Uuid, tag: &str, number: u64) -> bool {
        self.intervals.get(&(uuid, tag.to_owned())).is_some_and(|list| covers(list, (number, number)))
    }

    pub(super) fn contains_set(&self, other: &Self) -> bool {
        other.intervals.iter().all(|(key, theirs)| {
            self.intervals.get(key).is_some_and(|ours| theirs.iter().all(|&interval| covers(ours, interval)))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    pub(super) fn intervals(&self) -> Vec<(Uuid, String, u64, u64)> {
        let flat = self.intervals.iter().flat_map(|((uuid, tag), list)| {
            list.iter().map(move |&(first, last)| (*uuid, tag.clone(), first, last))
        });
        flat.collect()
    }
}

impl fmt::Display for MySqlGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous: Option<&Uuid> = None;
        for ((uuid, tag), list) in &self.intervals {
            if previous != Some(uuid) {
                if previous.is_some() {
                    f.write_str(",")?;
                }
                write_uuid(f, uuid)?;
                previous = Some(uuid);
            }
            if !tag.is_empty() {
                write!(f, ":{tag}")?;
            }
            for &(first, last) in list {
                if first == last {
                    write!(f, ":{first}")?;
                } else {
                    write!(f, ":{first}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

/// True where one interval of the normalised `list` holds all of `wanted`.
fn covers(list: &[Interval], wanted: Interval) -> bool {
    let at = list.partition_point(|&(_, end)| end < wanted.0);
    list.get(at).is_some_and(|&(start, end)| start <= wanted.0 && wanted.1 <= end)
}

/// `uuid:7` or `uuid:tag:7`.
pub(super) fn parse_gtid(text: &str) -> Result<Gtid, String> {
    let mut words = text.trim().split(':');
    let uuid = parse_uuid(words.next().unwrap_or_default())?;
    let (tag, number) = match (words.next(), words.next(), words.next()) {
        (Some(number), None, None) => (String::new(), number),
        (Some(tag), Some(number), None) => (parse_tag(tag)?, number),
        _ => return Err("it is neither uuid:number nor uuid:tag:number".to_owned()),
    };
    Ok(Gtid::MySql { uuid, tag, number: parse_number(number)? })
}

/// With dashes as servers print it, or without.
fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let wrong = || "it doesn't start with a uuid (8-4-4-4-12 hexadecimal digits)".to_owned();
    let dashes_right = match text.len() {
        36 => text.bytes().enumerate().all(|(i, b)| (b == b'-') == matches!(i, 8 | 13 | 18 | 23)),
        32 => true,
        _ => false,
    };
    let digits: Vec<u32> = text.chars().filter(|c| *c != '-').map_while(|c| c.to_digit(16)).collect();
    if !dashes_right || digits.len() != 32 {
        return Err(wrong());
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |sum, &digit| sum << 4 | digit as u8);
    }
    Ok(uuid)
}

fn parse_tag(text: &str) -> Result<String, String> {
    let tag = text.to_ascii_lowercase();
    let starts = tag.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let goes_on = tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if starts && goes_on && tag.len() <= TAG_MAX {
        Ok(tag)
    } else {
        Err("a part is neither a tag nor a number nor an interval of numbers".to_owned())
    }
}

fn parse_interval(text: &str) -> Result<Interval, String> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (parse_number(first)?, parse_number(last)?),
        None => {
            let number = parse_number(text)?;
            (number, number)
        }
    };
    if last < first {
        return Err(format!("the interval {first}-{last} ends before it begins"));
    }
    Ok((first, last))
}

fn parse_number(text: &str) -> Result<u64, String> {
    match text.trim().parse::<u64>() {
        Ok(number) if (1..=NUMBER_MAX).contains(&number) => Ok(number),
        _ => Err(format!("a number isn't between 1 and {NUMBER_MAX}")),
    }
}

pub(super) fn write_uuid(f: &mut fmt::Formatter<'_>, uuid: &Uuid) -> fmt::Result {
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}
