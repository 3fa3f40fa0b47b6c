//! The right name nearest to a wrong one.

/// The candidate with the fewest edits from `name`, where that is few enough to have been meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.to_lowercase().replace('-', "_").chars().take(64).collect();
    let measured = candidates.map(|candidate| (distance(&name, candidate), candidate));
    let (edits, best) = measured.min_by_key(|(edits, _)| *edits)?;
    let enough = (best.chars().count().max(name.len()) / 3).max(1);
    (edits <= enough).then_some(best)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut edits =
                (at(&previous, j) + usize::from(x != y)).min(at(&previous, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(&y) && b.get(j - 1) == Some(&x);
            if swapped {
                edits = edits.min(at(&before, j - 1) + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let check = |name: &str, expected: Option<&str>| {
            let names = ["listen", "workers", "max_connections", "drain_ms"];
            assert_eq!(nearest(name, names.into_iter()), expected, "{name}");
        };
        check("lisen", Some("listen"));
        check("lsiten", Some("listen"));
        check("Listen", Some("listen"));
        check("max-connection", Some("max_connections"));
        check("worker", Some("workers"));
        check("frobnicate", None);
        check("", None);
    }
}
