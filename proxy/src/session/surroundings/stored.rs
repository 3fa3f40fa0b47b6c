//! What the server's own code (routines, triggers) may leave behind in a session that makes it run.
//!
//! No answer says that a trigger has set a user variable, or that a function took a lock. So the bodies are read
//! beforehand: which names stand in them, and through which statements they can be reached. All of it errs on the
//! side of caution; what it makes of a body is a question too many to the server, or a pin that says why.

use std::collections::BTreeSet;

use crate::session::detail;
use crate::session::state::USER_VARIABLES_MAX;
use crate::session::tokens::{Kind, Tokens};

/// Names of locks that are asked for one by one.
const LOCKS_MAX: usize = 256;

/// A routine, a trigger or a view.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// By what a statement reaches it: the routine's name, the trigger's table, the view's name.
    pub(crate) reached_by: Vec<u8>,
    /// `None`: the service account may not read it.
    pub(crate) body: Option<Vec<u8>>,
}

/// What the bodies of one server say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredCode {
    /// User variables that stand in it, in lower case.
    pub(crate) user_variables: BTreeSet<Vec<u8>>,
    /// A statement with one of these names may take a lock by GET_LOCK, or let it go.
    takers: BTreeSet<Vec<u8>>,
    /// The locks' names; `None`: they are worked out when it runs.
    pub(crate) locks: Option<BTreeSet<Vec<u8>>>,
    /// Procedures that prepare text, which may come from anywhere.
    dynamic: BTreeSet<Vec<u8>>,
    /// Procedures that make temporary tables.
    table_makers: BTreeSet<Vec<u8>>,
    /// A statement with one of these names may set session variables.
    setters: BTreeSet<Vec<u8>>,
    /// There is code that couldn't be read.
    pub(crate) unreadable: bool,
}

/// What a statement may do by way of stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reaches {
    /// GET_LOCK.
    pub(crate) locks: bool,
    /// Session variables.
    pub(crate) variables: bool,
}

impl StoredCode {
    /// Of routines and triggers.
    pub(crate) fn read(pieces: &[Piece]) -> Self {
        let mut code = Self { locks: Some(BTreeSet::new()), ..Self::default() };
        for piece in pieces {
            match &piece.body {
                Some(body) => code.add(&piece.reached_by.to_ascii_lowercase(), body),
                None => code.unreadable = true,
            }
        }
        if code.user_variables.len() > USER_VARIABLES_MAX {
            code.unreadable = true;
            code.user_variables.clear();
        }
        code.locks = code.locks.filter(|locks| locks.len() <= LOCKS_MAX);
        code.reach_through(pieces);
        code
    }

    /// Nothing is known of it.
    pub(crate) fn unknown() -> Self {
        Self { unreadable: true, ..Self::default() }
    }

    fn add(&mut self, name: &[u8], body: &[u8]) {
        self.user_variables.extend(user_variables(body));
        let lower = body.to_ascii_lowercase();
        let mentions = |name: &[u8]| lower.windows(name.len()).filter(|window| *window == name).count();
        if mentions(b"release_lock") + mentions(b"release_all_locks") > 0 {
            self.takers.insert(name.to_vec());
        }
        if mentions(b"temporary") > 0 {
            self.table_makers.insert(name.to_vec());
        }
        let mentioned = mentions(b"get_lock");
        if mentioned > 0 {
            self.takers.insert(name.to_vec());
            for plain_backslash in [false, true] {
                // One that stands within quotes is text that is prepared.
                let calls = Tokens::new(body, plain_backslash).filter(|token| token.is("GET_LOCK")).count();
                let names = detail::lock_names(body, "GET_LOCK", plain_backslash);
                match (names.filter(|_| calls == mentioned), &mut self.locks) {
                    (Some(names), Some(locks)) => locks.extend(names),
                    _ => self.locks = None,
                }
            }
        }
        if Tokens::new(body, false).any(|token| token.is("PREPARE") || token.is("IMMEDIATE")) {
            self.dynamic.insert(name.to_vec());
        }
        if sets_variables(body) {
            self.setters.insert(name.to_vec());
        }
    }

    /// What one piece may do, those may do that name it.
    pub(crate) fn reach_through(&mut self, pieces: &[Piece]) {
        for names in [&mut self.takers, &mut self.dynamic, &mut self.table_makers, &mut self.setters] {
            while !names.is_empty() {
                let before = names.len();
                for Piece { reached_by, body } in pieces {
                    let reached_by = reached_by.to_ascii_lowercase();
                    if !names.contains(&reached_by) && names_any(body.as_deref().unwrap_or_default(), names) {
                        names.insert(reached_by);
                    }
                }
                if names.len() == before {
                    break;
                }
            }
        }
    }

    /// Some statement may leave something by way of it, so that statements have to be looked at.
    pub(crate) fn matters(&self) -> bool {
        !self.takers.is_empty() || !self.setters.is_empty()
    }

    /// Some of it may take locks.
    pub(crate) fn takes_locks(&self) -> bool {
        !self.takers.is_empty()
    }

    /// What `text` may make it do.
    pub(crate) fn reached_by(&self, text: &[u8]) -> Reaches {
        Reaches { locks: names_any(text, &self.takers), variables: names_any(text, &self.setters) }
    }

    /// After CALLs of these (`None`: of nobody knows which) there may be things that only the session knows of.
    pub(crate) fn hides_from(&self, called: Option<&BTreeSet<Vec<u8>>>) -> bool {
        self.may_run(called, &self.dynamic)
    }

    /// After CALLs of these there may be temporary tables.
    pub(crate) fn makes_tables(&self, called: Option<&BTreeSet<Vec<u8>>>) -> bool {
        self.may_run(called, &self.table_makers)
    }

    fn may_run(&self, called: Option<&BTreeSet<Vec<u8>>>, names: &BTreeSet<Vec<u8>>) -> bool {
        match called {
            Some(called) => {
                !called.is_empty() && (self.unreadable || called.iter().any(|name| names.contains(name)))
            }
            None => self.unreadable || !names.is_empty(),
        }
    }
}

/// Whether a name in `text` is one of `names`. Text within quotes counts as well: it may be a name under
/// ANSI_QUOTES, or be prepared.
fn names_any(text: &[u8], names: &BTreeSet<Vec<u8>>) -> bool {
    if names.is_empty() {
        return false;
    }
    let is_one = |text: &[u8]| names.contains(&text.to_ascii_lowercase());
    Tokens::new(text, false).any(|token| match token.kind {
        Kind::Word | Kind::Backticked => is_one(token.text),
        Kind::Quoted => is_one(token.text) || Tokens::new(token.text, true).any(|inner| is_one(inner.text)),
        _ => false,
    })
}

/// Every user variable that stands in it, also within quotes and comments. More names than there are do no harm.
fn user_variables(body: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut rest = body;
    while let Some(at) = rest.iter().position(|byte| *byte == b'@') {
        rest = rest.get(at + 1..).unwrap_or_default();
        let name = match rest.first() {
            Some(b'@') => {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            Some(quote @ (b'\'' | b'"' | b'`')) => {
                let inside = rest.get(1..).unwrap_or_default();
                let end = inside.iter().position(|byte| byte == quote).unwrap_or(0);
                inside.get(..end)
            }
            _ => {
                let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.' | 0x80..);
                let end = rest.iter().position(|byte| !of_name(byte)).unwrap_or(rest.len());
                rest.get(..end)
            }
        };
        names.extend(name.filter(|name| !name.is_empty()).map(<[u8]>::to_ascii_lowercase));
        if names.len() > USER_VARIABLES_MAX {
            break;
        }
    }
    names
}

/// Whether it may set session variables. Under their bare names only those count that stand behind SET.
fn sets_variables(body: &[u8]) -> bool {
    let mut behind_set = false;
    Tokens::new(body, false).any(|token| {
        let bare = std::mem::replace(&mut behind_set, token.is("SET"));
        let name = String::from_utf8_lossy(token.text).to_ascii_lowercase();
        token.kind == Kind::SystemVariable
            || token.is("SESSION")
            || token.is("LOCAL")
            || (bare && (super::LASTING.contains(&name.as_str()) || BARE.contains(&name.as_str())))
    })
}

/// What SET takes beside the variables of [`super::LASTING`].
const BARE: &[&str] = &[
    "names",
    "character",
    "sql_mode",
    "time_zone",
    "group_concat_max_len",
    "collation_connection",
    "timestamp",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn piece(name: &str, body: &str) -> Piece {
        Piece { reached_by: name.into(), body: Some(body.into()) }
    }

    fn set(names: &[&str]) -> BTreeSet<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn user_variables_are_found_wherever_they_stand() {
        let check = |body: &str, names: &[&str]| {
            assert_eq!(StoredCode::read(&[piece("p", body)]).user_variables, set(names), "{body}");
        };
        check("SET @A = 1, @@session.x = 2, @`b c` := @d.e", &["a", "b c", "d.e"]);
        check("PREPARE s FROM 'SET @in_text = 1' -- @c", &["in_text", "c"]);
        check("SELECT 'a@b.com' INTO @ü", &["b.com", "ü"]);
        check("SELECT 1", &[]);
    }

    #[test]
    fn what_leads_to_a_lock_is_known() {
        let code = StoredCode::read(&[
            piece("takes", "RETURN GET_LOCK('one', 5)"),
            piece("orders", "SET NEW.n = shop.Takes(1)"),
            piece("fills", "INSERT INTO `orders` VALUES (1)"),
            piece("other", "RETURN 1"),
        ]);
        assert_eq!(code.locks, Some(set(&["one"])));
        for (text, locks) in [
            ("SELECT takes(1)", true),
            ("INSERT INTO shop.ORDERS VALUES (1)", true),
            ("CALL \"fills\"()", true),
            ("SELECT other(1), takes_not FROM t", false),
        ] {
            assert_eq!(code.reached_by(text.as_bytes()).locks, locks, "{text}");
        }
        for body in ["DO GET_LOCK(CONCAT('a', n), 1)", "PREPARE s FROM 'DO GET_LOCK(''a'', 1)'"] {
            let code = StoredCode::read(&[piece("p", body)]);
            assert!(code.takes_locks() && code.locks.is_none(), "{body}");
        }
        assert!(!StoredCode::read(&[piece("p", "SELECT 1")]).matters());
    }

    #[test]
    fn a_call_may_make_tables() {
        let code =
            StoredCode::read(&[piece("makes", "CREATE TEMPORARY TABLE t (n INT)"), piece("p", "SELECT 1")]);
        assert!(code.makes_tables(Some(&set(&["makes"]))) && code.makes_tables(None));
        assert!(!code.makes_tables(Some(&set(&["p"]))));
        assert!(
            StoredCode::read(&[piece("gives", "RETURN RELEASE_LOCK('a')")]).reached_by(b"DO gives()").locks
        );
    }

    #[test]
    fn a_call_hides_what_prepared_text_does() {
        let code = StoredCode::read(&[piece("runs", "PREPARE s FROM @t"), piece("calls", "CALL runs()")]);
        assert!(code.hides_from(Some(&set(&["calls"]))) && code.hides_from(None));
        assert!(!code.hides_from(Some(&set(&["other"]))) && !code.hides_from(Some(&set(&[]))));
        let closed = StoredCode::read(&[Piece { reached_by: b"p".to_vec(), body: None }]);
        assert!(closed.hides_from(Some(&set(&["other"]))) && !closed.hides_from(Some(&set(&[]))));
    }

    #[test]
    fn session_variables_are_seen() {
        for (body, sets) in [
            ("SET SESSION sql_select_limit = 1", true),
            ("SET @@sql_mode = ''", true),
            ("BEGIN SET sql_safe_updates = 1; END", true),
            ("BEGIN DECLARE n INT; SET n = 1; END", false),
        ] {
            let code = StoredCode::read(&[piece("f", body)]);
            assert_eq!(code.reached_by(b"SELECT f()").variables, sets, "{body}");
        }
    }
}
