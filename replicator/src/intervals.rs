//! Sets of numbers that are mostly stretches: transactions above a low water, bytes of a transaction.

use std::fmt;
use std::str::FromStr;

/// A set of numbers as sorted, disjoint, not adjacent stretches; `5-9,12` as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// True where there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `first..=last`.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // Everything that overlaps or touches the new stretch becomes one with it.
        let from = self.0.partition_point(|&(_, l)| l < first.saturating_sub(1));
        let to = self.0.partition_point(|&(f, _)| f <= last.saturating_add(1));
        let merged = self.0.get(from..to).unwrap_or_default();
        let first = merged.first().map_or(first, |&(f, _)| f.min(first));
        let last = merged.last().map_or(last, |&(_, l)| l.max(last));
        self.0.splice(from..to.max(from), [(first, last)]);
    }

    /// Adds every number of `other`.
    pub(crate) fn add_all(&mut self, other: &Self) {
        for &(first, last) in &other.0 {
            self.add(first, last);
        }
    }

    /// Drops every number up to `low`.
    pub(crate) fn drop_up_to(&mut self, low: u64) {
        self.0.retain_mut(|(first, last)| {
            *first = (*first).max(low.saturating_add(1));
            first <= last
        });
    }

    /// True where the number is in it.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < number);
        self.0.get(at).is_some_and(|&(first, _)| first <= number)
    }
}

impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// The text isn't one of intervals.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotIntervals;

impl FromStr for Intervals {
    type Err = NotIntervals;

    fn from_str(text: &str) -> Result<Self, NotIntervals> {
        let mut out = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u64>().map_err(|_| NotIntervals);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(NotIntervals);
            }
            out.add(first, last);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_none_are_refused() {
        for text in ["x", "1-", "-1", "5-4", "1 2", "1--2"] {
            assert_eq!(text.parse::<Intervals>(), Err(NotIntervals), "{text}");
        }
        assert_eq!("".parse::<Intervals>().unwrap(), Intervals::default());
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_its_numbers(
            adds in proptest::collection::vec((1u64..60, 0u64..6), 0..20), low in 0u64..60)
        {
            let (mut intervals, mut model) = (Intervals::default(), BTreeSet::new());
            for (first, more) in adds {
                intervals.add(first, first + more);
                model.extend(first..=first + more);
            }
            intervals.drop_up_to(low);
            model.retain(|n| *n > low);
            for n in 0..80 {
                prop_assert_eq!(intervals.contains(n), model.contains(&n));
            }
            prop_assert!(intervals.0.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{}", intervals);
            prop_assert_eq!(intervals.0.is_empty(), model.is_empty());
            prop_assert_eq!(intervals.to_string().parse::<Intervals>(), Ok(intervals));
        }
    }
}
