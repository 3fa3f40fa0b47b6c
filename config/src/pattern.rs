//! Patterns as LIKE has them: `exclude_tables` on `schema.table`, accounts on `user@host`, the schemas of grants.

/// True where `text` matches `pattern`: `%` is any run of characters, `_` any one, a backslash takes the next
/// character as it is. Case counts: leaving too little out is seen at once, leaving too much out is not.
#[must_use]
pub fn like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // The classic walk with one place to go back to: linear in practice, never exponential.
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(t) {
        match (pattern.get(p), pattern.get(p + 1)) {
            (Some('%'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some('_'), _) => {
                p += 1;
                t += 1;
                continue;
            }
            (Some('\\'), Some(&escaped)) if escaped == c => {
                p += 2;
                t += 1;
                continue;
            }
            (Some('\\'), Some(_)) => {}
            (Some(&literal), _) if literal == c => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((after_percent, from)) = retry else { return false };
        retry = Some((after_percent, from + 1));
        p = after_percent;
        t = from + 1;
    }
    pattern.iter().skip(p).all(|&c| c == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_like_does() {
        let check = |pattern: &str, text: &str, matches: bool| {
            assert_eq!(like(pattern, text), matches, "{pattern} {text}");
        };
        check("shop.tmp_%", "shop.tmp_1", true);
        check("shop.tmp_%", "shop.tmpx1", true);
        check("shop.tmp\\_%", "shop.tmpx1", false);
        check("shop.tmp\\_%", "shop.tmp_", true);
        check("%.log", "a.log", true);
        check("%.log", "a.log.log", true);
        check("%.log", "a.logs", false);
        check("%a%b%", "xxaxxbxx", true);
        check("%a%b%", "xxbxxaxx", false);
        check("", "", true);
        check("%", "", true);
        check("_", "", false);
        check("shop.T", "shop.t", false);
        check("shop.ä_", "shop.äö", true);
    }
}
