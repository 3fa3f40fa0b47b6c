//! Keys and constraints of a definition.

use config::Family;

use super::token::{Kind, Token, closing, items, text};
use super::{Rewriter, top_level};

impl Rewriter {
    /// Rewrites a key or constraint; `None` where it is left out.
    pub(super) fn key(&mut self, part: Vec<Token>) -> Option<Vec<Token>> {
        if self.from == self.to {
            return Some(part);
        }
        let has = |word: &str| part.iter().any(|token| token.is(word));
        if has("PERIOD") || has("OVERLAPS") {
            self.problem(format!(
                "It has {}, which the target doesn't know; exclude the table with exclude_tables.",
                text(&part)
            ));
            return Some(part);
        }
        let name = name_of(&part);
        if has("CHECK") && !has("FOREIGN") {
            return self.check(&name, part);
        }
        if part.first().is_some_and(|token| token.is("VECTOR")) {
            self.record(&name, "index", &text(&part), "", false);
            return None;
        }
        if self.is_functional(&part) && !self.to.is_mysql_8() && self.to.family != Family::OceanBase {
            if has("UNIQUE") {
                self.problem(format!(
                    "Its unique key {name} is over an expression, which the target doesn't know; make it one of \
                     columns, or exclude the table with exclude_tables."
                ));
                return Some(part);
            }
            self.record(&name, "index", &text(&part), "", false);
            return None;
        }
        let part = self.visibility(&name, part);
        let part = self.without_parser(&name, part);
        let part =
            if self.to.is_mysql_8() { part } else { self.without(&name, part, &["ENGINE_ATTRIBUTE"], 1) };
        Some(match self.to.family {
            Family::MariaDb => part,
            Family::MySql => self.without(&name, part, &["CLUSTERING"], 1),
            Family::OceanBase => self.without(&name, part, &["KEY_BLOCK_SIZE"], 1),
        })
    }

    fn check(&mut self, name: &str, mut part: Vec<Token>) -> Option<Vec<Token>> {
        let before_checks = self.to.family == Family::MySql && !self.to.is_mysql_8();
        let enforced = top_level(&part).find(|i| part.get(*i).is_some_and(|token| token.is("ENFORCED")));
        let not_enforced =
            enforced.and_then(|i| part.get(i.checked_sub(1)?)).is_some_and(|token| token.is("NOT"));
        if before_checks {
            self.record(name, "check", &text(&part), "", true);
            return None;
        }
        match enforced {
            Some(_) if not_enforced && self.to.family == Family::MariaDb => {
                // What isn't enforced may not hold, so it can't become a check that is.
                self.record(name, "check", &text(&part), "", false);
                return None;
            }
            Some(i) if self.to.family == Family::MariaDb => drop(part.remove(i)),
            _ => {}
        }
        Some(part)
    }

    /// A part that is an expression in brackets: `((a + 1))`.
    fn is_functional(&self, part: &[Token]) -> bool {
        let Some(open) = part.iter().position(|token| token.is_mark("(")) else { return false };
        let Some(close) = closing(part, open) else { return false };
        let inner = part.get(open + 1..close).unwrap_or_default();
        items(inner).iter().any(|item| item.first().is_some_and(|token| token.is_mark("(")))
    }

    /// An index that the optimizer doesn't use has a word of its own in each family.
    fn visibility(&mut self, name: &str, mut part: Vec<Token>) -> Vec<Token> {
        let at = |part: &[Token], word: &str| {
            top_level(part).skip(1).find(|i| part.get(*i).is_some_and(|token| token.is(word)))
        };
        let found = at(&part, "INVISIBLE").or_else(|| at(&part, "IGNORED"));
        let Some(token) = found.and_then(|i| part.get_mut(i)) else { return part };
        let wanted = match self.to.family {
            Family::MariaDb if self.to.version >= (10, 6) => "IGNORED",
            Family::MySql if self.to.is_mysql_8() => "INVISIBLE",
            Family::OceanBase => "INVISIBLE",
            Family::MariaDb | Family::MySql => "",
        };
        let old = std::mem::replace(&mut token.text, wanted.to_owned());
        if wanted.is_empty() {
            part.retain(|token| !token.text.is_empty());
        }
        if !old.eq_ignore_ascii_case(wanted) {
            self.record(name, "index", &old, wanted, false);
        }
        part
    }

    /// A parser of a full-text index is a plugin of one family.
    fn without_parser(&mut self, name: &str, part: Vec<Token>) -> Vec<Token> {
        if self.from.family == self.to.family {
            part
        } else {
            self.without(name, part, &["WITH", "PARSER"], 1)
        }
    }
}

/// The name of a key or constraint; what it is where it has none.
pub(super) fn name_of(part: &[Token]) -> String {
    let before = part.iter().take_while(|token| !token.is_mark("("));
    let named: Vec<&Token> = before.collect();
    match named.iter().find(|token| token.kind == Kind::Name) {
        Some(name) => name.name(),
        None => named.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" "),
    }
}
