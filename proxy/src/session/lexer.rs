//! A single pass over statement text: what may it change in the session?
//!
//! The answer errs on the side of caution: a flag too many costs a question to the server when the session
//! moves, or pins it; a flag too few would lose state in silence (invariant 3). Nothing is allocated here.
//! What the flags don't say (names, texts) is read by `detail` in a second pass, which only the
//! few statements that carry such a flag get.

use super::tokens::{Kind, Token, Tokens};

/// What a statement may do to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects(u64);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Effects {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }
        #[cfg(test)]
        const NAMES: &[(Effects, &str)] = &[$((Effects::$name, stringify!($name))),*];
    };
}

effects! {
    /// Session variables.
    VARIABLES = 0;
    /// What later prepared statements are prepared under: schema, sql_mode, character sets.
    CONTEXT = 1;
    /// Names of user variables stand in it.
    USER_VARIABLES = 2;
    /// Code that isn't seen here runs: CALL, compound statements, EXECUTE IMMEDIATE.
    PROCEDURE = 3;
    /// The current schema.
    SCHEMA = 4;
    /// LAST_INSERT_ID(expression), SET last_insert_id.
    LAST_ID = 5;
    /// It asks how the statement before it went.
    ASKS_LAST = 6;
    /// The next statement is likely to ask: SQL_CALC_FOUND_ROWS.
    LEAVES_FOUND_ROWS = 7;
    /// CREATE TEMPORARY TABLE.
    TEMPORARY_CREATE = 8;
    /// DROP TABLE, of either sort.
    DROP_TABLE = 9;
    /// A table gets another name.
    RENAME_TABLE = 10;
    /// LOCK TABLES.
    LOCK_TABLES = 11;
    /// UNLOCK TABLES.
    UNLOCK_TABLES = 12;
    /// FLUSH TABLES WITH READ LOCK and its kin.
    READ_LOCK = 13;
    /// LOCK INSTANCE, BACKUP STAGE.
    BACKUP_LOCK = 14;
    /// UNLOCK INSTANCE.
    BACKUP_UNLOCK = 15;
    /// HANDLER … OPEN.
    HANDLER_OPEN = 16;
    /// HANDLER … CLOSE.
    HANDLER_CLOSE = 17;
    /// GET_LOCK().
    GET_LOCK = 18;
    /// RELEASE_LOCK().
    RELEASE_LOCK = 19;
    /// RELEASE_ALL_LOCKS().
    RELEASE_ALL_LOCKS = 20;
    /// XA START.
    XA_START = 21;
    /// XA COMMIT, XA ROLLBACK.
    XA_FINISH = 22;
    /// SET TRANSACTION without SESSION.
    NEXT_TRANSACTION = 23;
    /// Uses up a SET TRANSACTION, also outside a transaction: a write, COMMIT, ROLLBACK.
    WRITES = 24;
    /// PREPARE name FROM …
    TEXT_PREPARE = 25;
    /// EXECUTE name …
    TEXT_EXECUTE = 26;
    /// DEALLOCATE PREPARE name.
    TEXT_DEALLOCATE = 27;
    /// timestamp, insert_id, rand_seed, gtid_next, pseudo_…; BINLOG.
    REPLICATION_VARIABLE = 28;
    /// SET ROLE, SET RESOURCE GROUP.
    ROLE = 29;
    /// BEGIN, START TRANSACTION.
    BEGIN = 30;
    /// More than one statement.
    MULTIPLE = 31;
    /// It can't be told where quotes end; anything may be in it.
    UNSURE = 32;
    /// It reads nothing but asks (SELECT, SHOW, GET DIAGNOSTICS), so a fenced backend answers it.
    READS = 33;
    /// SET autocommit; the status flags say what came of it.
    SET_AUTOCOMMIT = 34;
    /// CREATE [TEMPORARY] TABLE.
    CREATE_TABLE = 35;
    /// SAVEPOINT, ROLLBACK TO.
    SAVEPOINT = 36;
    /// Routines, triggers or views are created or changed.
    STORED_CODE = 37;
}

impl Effects {
    /// None.
    pub const NONE: Self = Self(0);

    /// True where every effect of `other` is in it.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True where any effect of `other` is in it.
    #[inline]
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// True where nothing has to be remembered once the server has answered: the fast path.
    #[inline]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.0 & !(Self::READS.0 | Self::WRITES.0 | Self::BEGIN.0 | Self::SET_AUTOCOMMIT.0) == 0
    }

    /// What code that isn't seen may do. The servers put schema, sql_mode and character sets back at the end of a
    /// procedure, but for the one of results, and statements aren't prepared under that.
    const INVISIBLE: Self = Self(Self::PROCEDURE.0 | Self::VARIABLES.0 | Self::LAST_ID.0 | Self::WRITES.0);
    /// What a statement may do that isn't understood.
    const ANYTHING: Self =
        Self(Self::INVISIBLE.0 | Self::CONTEXT.0 | Self::SCHEMA.0 | Self::USER_VARIABLES.0 | Self::UNSURE.0);
}

/// What the statement's first word says about the words to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    Plain,
    Set,
    Create,
    Alter,
    Drop,
    Lock,
    Unlock,
    Flush,
    Show,
    Handler,
    Xa,
    Begin,
    StartTransaction,
    Execute,
    Rollback,
}

/// In a SET: what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// A name, without a scope so far.
    Bare,
    /// A name behind SESSION or LOCAL.
    Session,
    /// A name behind GLOBAL or PERSIST.
    Global,
    /// No name: a value.
    Value,
}

struct Scan {
    effects: Effects,
    kind: Verb,
    target: Target,
    depth: u32,
    words: u32,
    statements: u32,
}

/// Looks at a statement text, or at several with semicolons between. `plain_backslash` is the session's
/// NO_BACKSLASH_ESCAPES.
#[must_use]
pub fn scan(text: &[u8], plain_backslash: bool) -> Effects {
    let mut tokens = Tokens::new(text, plain_backslash);
    let mut scan = Scan {
        effects: Effects::NONE,
        kind: Verb::Start,
        target: Target::Value,
        depth: 0,
        words: 0,
        statements: 0,
    };
    loop {
        if scan.kind == Verb::Plain {
            tokens.skip_dull();
        }
        let Some(token) = tokens.next() else { break };
        match token.kind {
            Kind::Word => {
                if scan.word(token, &tokens) {
                    scan.unseen_behind(tokens.rest());
                    break;
                }
            }
            Kind::UserVariable => {
                scan.effects.add(Effects::USER_VARIABLES);
                scan.target = Target::Value;
            }
            Kind::SystemVariable => scan.system_variable(token.text),
            Kind::Backticked if scan.kind == Verb::Set && scan.target != Target::Value => {
                scan.set_word(token.text);
            }
            Kind::Sign(sign) => scan.sign(sign),
            Kind::Number | Kind::Quoted | Kind::Backticked => {}
        }
    }
    if tokens.unterminated {
        scan.effects.add(Effects::ANYTHING);
    }
    if scan.statements > 1 {
        scan.effects.add(Effects::MULTIPLE);
    }
    scan.effects
}

impl Scan {
    #[inline]
    fn sign(&mut self, sign: u8) {
        match sign {
            b';' => {
                self.kind = Verb::Start;
                self.target = Target::Value;
                self.depth = 0;
                self.words = 0;
            }
            b'(' => self.depth += 1,
            b')' => self.depth = self.depth.saturating_sub(1),
            b',' if self.kind == Verb::Set && self.depth == 0 => self.target = Target::Bare,
            _ => {}
        }
    }

    /// True where the rest of the text is the body of something that is only being created.
    #[inline]
    fn word(&mut self, token: Token<'_>, tokens: &Tokens<'_>) -> bool {
        self.words += 1;
        match self.kind {
            Verb::Plain => {}
            Verb::Start => {
                self.statements += 1;
                self.first_word(token.text);
                return false;
            }
            Verb::Set => {
                if self.target != Target::Value {
                    self.set_word(token.text);
                    return false;
                }
            }
            Verb::Create => return self.create_word(token),
            _ => self.later_word(token),
        }
        self.function(token.text, tokens);
        false
    }

    /// Behind a semicolon the body goes on, or another statement begins: nobody can tell but the server.
    fn unseen_behind(&mut self, rest: &[u8]) {
        let semicolon = rest.iter().position(|byte| *byte == b';');
        let behind = semicolon.and_then(|at| rest.get(at + 1..)).unwrap_or_default();
        if !behind.trim_ascii().is_empty() {
            self.effects.add(Effects::ANYTHING.and(Effects::MULTIPLE));
        }
    }

    fn first_word(&mut self, word: &[u8]) {
        let mut upper = [0; 12];
        let Some(upper) = upper.get_mut(..word.len()) else {
            self.effects.add(Effects::ANYTHING);
            self.kind = Verb::Plain;
            return;
        };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        let (kind, effects) = match &*upper {
            b"SELECT" | b"WITH" | b"VALUES" | b"TABLE" | b"EXPLAIN" | b"DESC" | b"DESCRIBE" => {
                (Verb::Plain, Effects::READS)
            }
            b"INSERT" | b"UPDATE" | b"DELETE" | b"REPLACE" | b"COMMIT" | b"LOAD" | b"TRUNCATE" => {
                (Verb::Plain, Effects::WRITES)
            }
            b"ROLLBACK" => (Verb::Rollback, Effects::WRITES),
            b"SAVEPOINT" => (Verb::Plain, Effects::SAVEPOINT),
            b"RELEASE" | b"DO" | b"ANALYZE" | b"OPTIMIZE" | b"CHECK" | b"CHECKSUM" | b"REPAIR" | b"GRANT"
            | b"REVOKE" | b"KILL" | b"HELP" | b"PURGE" | b"RESET" | b"CHANGE" | b"STOP" | b"CACHE"
            | b"INSTALL" | b"UNINSTALL" | b"IMPORT" | b"SIGNAL" | b"RESTART" | b"SHUTDOWN" | b"CLONE" => {
                (Verb::Plain, Effects::NONE)
            }
            b"SET" => {
                self.target = Target::Bare;
                (Verb::Set, Effects::NONE)
            }
            b"BEGIN" => (Verb::Begin, Effects::BEGIN),
            b"START" => (Verb::StartTransaction, Effects::NONE),
            b"CREATE" => (Verb::Create, Effects::WRITES),
            b"ALTER" => (Verb::Alter, Effects::WRITES),
            b"DROP" => (Verb::Drop, Effects::WRITES),
            b"RENAME" => (Verb::Plain, Effects::RENAME_TABLE.and(Effects::WRITES)),
            b"USE" => (Verb::Plain, Effects::SCHEMA.and(Effects::CONTEXT)),
            b"SHOW" => (Verb::Show, Effects::READS),
            b"GET" => (Verb::Plain, Effects::ASKS_LAST.and(Effects::READS)),
            b"CALL" => (Verb::Plain, Effects::INVISIBLE),
            b"LOCK" => (Verb::Lock, Effects::NONE),
            b"UNLOCK" => (Verb::Unlock, Effects::NONE),
            b"FLUSH" => (Verb::Flush, Effects::NONE),
            b"BACKUP" => (Verb::Plain, Effects::BACKUP_LOCK),
            b"HANDLER" => (Verb::Handler, Effects::NONE),
            b"XA" => (Verb::Xa, Effects::NONE),
            b"PREPARE" => (Verb::Plain, Effects::TEXT_PREPARE),
            b"EXECUTE" => (Verb::Execute, Effects::TEXT_EXECUTE),
            b"DEALLOCATE" => (Verb::Plain, Effects::TEXT_DEALLOCATE),
            b"BINLOG" => (Verb::Plain, Effects::REPLICATION_VARIABLE),
            _ => (Verb::Plain, Effects::ANYTHING),
        };
        self.kind = kind;
        self.effects.add(effects);
    }

    /// A word behind CREATE, up to the one that says what is created.
    fn create_word(&mut self, token: Token<'_>) -> bool {
        if token.is("TEMPORARY") {
            self.effects.add(Effects::TEMPORARY_CREATE);
        }
        if ["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"].iter().any(|object| token.is(object)) {
            // Its body runs later; that's what [`Effects::PROCEDURE`] of a CALL is for.
            self.effects.add(Effects::STORED_CODE);
            return true;
        }
        if token.is("TABLE") {
            self.effects.add(Effects::CREATE_TABLE);
        }
        if token.is("VIEW") {
            self.effects.add(Effects::STORED_CODE);
        }
        if ["TABLE", "VIEW", "INDEX", "DATABASE", "SCHEMA", "USER", "ROLE", "SEQUENCE", "SERVER"]
            .iter()
            .any(|object| token.is(object))
        {
            self.kind = Verb::Plain;
        }
        false
    }

    /// A word behind a first word that leaves something open.
    fn later_word(&mut self, token: Token<'_>) {
        let second = self.words == 2;
        let effects = match self.kind {
            Verb::Alter if token.is("RENAME") => Effects::RENAME_TABLE,
            Verb::Alter if token.is("VIEW") => Effects::STORED_CODE,
            Verb::Drop if second && token.is("PREPARE") => Effects::TEXT_DEALLOCATE,
            Verb::Drop if second && (token.is("DATABASE") || token.is("SCHEMA")) => {
                Effects::SCHEMA.and(Effects::CONTEXT)
            }
            Verb::Drop if second && ["TABLE", "TABLES", "TEMPORARY"].iter().any(|w| token.is(w)) => {
                Effects::DROP_TABLE
            }
            Verb::Lock if second && (token.is("TABLES") || token.is("TABLE")) => Effects::LOCK_TABLES,
            Verb::Lock if second => Effects::BACKUP_LOCK,
            Verb::Unlock if second && (token.is("TABLES") || token.is("TABLE")) => Effects::UNLOCK_TABLES,
            Verb::Unlock if second => Effects::BACKUP_UNLOCK,
            Verb::Flush if token.is("READ") || token.is("EXPORT") => Effects::READ_LOCK,
            Verb::Show if token.is("WARNINGS") || token.is("ERRORS") => Effects::ASKS_LAST,
            Verb::Handler if token.is("OPEN") => Effects::HANDLER_OPEN,
            Verb::Handler if token.is("CLOSE") => Effects::HANDLER_CLOSE,
            Verb::Xa if second && (token.is("START") || token.is("BEGIN")) => Effects::XA_START,
            Verb::Xa if second && (token.is("COMMIT") || token.is("ROLLBACK")) => {
                Effects::XA_FINISH.and(Effects::WRITES)
            }
            Verb::Rollback if token.is("TO") => Effects::SAVEPOINT,
            // BEGIN NOT ATOMIC … END
            Verb::Begin if second && !token.is("WORK") => Effects::ANYTHING,
            Verb::StartTransaction if second && token.is("TRANSACTION") => Effects::BEGIN,
            Verb::Execute if second && token.is("IMMEDIATE") => Effects::ANYTHING,
            _ => Effects::NONE,
        };
        self.effects.add(effects);
    }

    /// Functions and options with an effect, wherever they stand.
    #[inline]
    fn function(&mut self, word: &[u8], tokens: &Tokens<'_>) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let effects = match word.len() {
            8 if is("GET_LOCK") => Effects::GET_LOCK,
            9 if is("ROW_COUNT") => Effects::ASKS_LAST,
            // The rows come in place of the OK that would have told the generated id.
            9 if is("RETURNING") => Effects::LAST_ID,
            10 if is("FOUND_ROWS") => Effects::ASKS_LAST,
            12 if is("RELEASE_LOCK") => Effects::RELEASE_LOCK,
            14 if is("LAST_INSERT_ID") => {
                // Without an argument it only reads.
                let mut ahead = tokens.clone();
                match (ahead.next(), ahead.next()) {
                    (Some(open), Some(close)) if open.text == b"(" && close.text != b")" => Effects::LAST_ID,
                    _ => Effects::NONE,
                }
            }
            17 if is("RELEASE_ALL_LOCKS") => Effects::RELEASE_ALL_LOCKS,
            19 if is("SQL_CALC_FOUND_ROWS") => Effects::LEAVES_FOUND_ROWS,
            _ => return,
        };
        self.effects.add(effects);
    }

    /// A word where SET expects what is set.
    fn set_word(&mut self, word: &[u8]) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("GLOBAL") || is("PERSIST") || is("PERSIST_ONLY") {
            self.target = Target::Global;
            return;
        }
        if is("SESSION") || is("LOCAL") {
            self.target = Target::Session;
            return;
        }
        let scope = std::mem::replace(&mut self.target, Target::Value);
        let effects = match scope {
            Target::Global => Effects::NONE,
            _ if is("TRANSACTION") && scope == Target::Bare => Effects::NEXT_TRANSACTION,
            _ if is("TRANSACTION") => Effects::VARIABLES,
            _ if is("NAMES") || is("CHARACTER") || is("CHARSET") => Effects::VARIABLES.and(Effects::CONTEXT),
            _ if is("PASSWORD") || is("DEFAULT") => Effects::NONE,
            _ if is("ROLE") || is("RESOURCE") => Effects::ROLE,
            // MariaDB's SET STATEMENT … FOR, whose statement isn't looked at.
            _ if is("STATEMENT") => Effects::ANYTHING,
            _ => variable(word),
        };
        self.effects.add(effects);
    }

    fn system_variable(&mut self, text: &[u8]) {
        let (scope, name) = match text.iter().position(|b| *b == b'.') {
            Some(dot) => (text.get(..dot).unwrap_or_default(), text.get(dot + 1..).unwrap_or_default()),
            None => (&b""[..], text),
        };
        let is = |text: &[u8], name: &str| text.eq_ignore_ascii_case(name.as_bytes());
        if is(name, "warning_count") || is(name, "error_count") {
            self.effects.add(Effects::ASKS_LAST);
        }
        if self.kind != Verb::Set || self.target == Target::Value {
            return;
        }
        self.target = Target::Value;
        if ["global", "persist", "persist_only"].iter().any(|global| is(scope, global)) {
            return;
        }
        self.effects.add(variable(name));
        let of_transaction =
            ["transaction_isolation", "tx_isolation", "transaction_read_only", "tx_read_only"];
        if scope.is_empty() && of_transaction.iter().any(|variable| is(name, variable)) {
            self.effects.add(Effects::NEXT_TRANSACTION);
        }
    }
}

/// What setting a session variable means.
fn variable(name: &[u8]) -> Effects {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let begins = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if is("autocommit") {
        // Status flags say it.
        Effects::SET_AUTOCOMMIT
    } else if is("sql_mode") || begins("character_set") || begins("collation") {
        Effects::VARIABLES.and(Effects::CONTEXT)
    } else if is("last_insert_id") || is("identity") {
        Effects::LAST_ID
    } else if ["timestamp", "insert_id", "gtid_next", "gtid_seq_no", "gtid_domain_id", "server_id"]
        .iter()
        .any(|name| is(name))
        || begins("pseudo_")
        || begins("rand_seed")
    {
        Effects::REPLICATION_VARIABLE
    } else {
        Effects::VARIABLES
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn names(effects: Effects) -> String {
        NAMES
            .iter()
            .filter(|(effect, _)| {
                effects.contains(*effect) && !Effects::READS.and(Effects::WRITES).contains(*effect)
            })
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(names(scan(text.as_bytes(), false)), expected, "{text}");
    }

    #[test]
    fn ordinary_statements_have_no_effect() {
        for text in [
            "SELECT c FROM sbtest1 WHERE id=?",
            "select * from t where a = 'SET x; @y' and b = \"GET_LOCK\" -- @z",
            "INSERT INTO t (a, b) VALUES (1, 'it''s @home')",
            "(SELECT 1) UNION (SELECT 2)",
            "COMMIT",
            "SELECT LAST_INSERT_ID()",
            "SELECT @@version_comment LIMIT 1",
            "SET GLOBAL max_connections = 5",
            "SET @@global.max_connections = 5",
            "SET PASSWORD = 'x'",
            "",
            "/* nothing */ ;",
        ] {
            check(text, "");
        }
        check("CREATE TABLE event (a int)", "CREATE_TABLE");
        check("SET autocommit=0", "SET_AUTOCOMMIT");
        check("BEGIN", "BEGIN");
        check("start transaction read only", "BEGIN");
    }

    #[test]
    fn variables() {
        check("SET NAMES utf8mb4", "VARIABLES CONTEXT");
        check("SET character set latin1", "VARIABLES CONTEXT");
        check("SET SESSION sql_mode = 'ANSI'", "VARIABLES CONTEXT");
        check("set `sql_mode`=''", "VARIABLES CONTEXT");
        check("/*!40103 SET TIME_ZONE='+00:00' */;", "VARIABLES");
        check("SET @@session.group_concat_max_len = 5, autocommit = 1", "VARIABLES SET_AUTOCOMMIT");
        check(
            "SET autocommit = 0, @a = GREATEST(1, 2), wait_timeout = 9",
            "VARIABLES USER_VARIABLES SET_AUTOCOMMIT",
        );
        check("SET GLOBAL a = 1, SESSION b = 2", "VARIABLES");
        check("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "NEXT_TRANSACTION");
        check("SET SESSION TRANSACTION READ ONLY", "VARIABLES");
        check("SET @@transaction_isolation = 'SERIALIZABLE'", "VARIABLES NEXT_TRANSACTION");
        check("SET timestamp = 5", "REPLICATION_VARIABLE");
        check("SET rand_seed1 = 5", "REPLICATION_VARIABLE");
        check("SET ROLE r", "ROLE");
        check("SET last_insert_id = 4", "LAST_ID");
        check("USE shop", "CONTEXT SCHEMA");
        check("DROP DATABASE shop", "CONTEXT SCHEMA");
    }

    #[test]
    fn user_variables() {
        check("SET @a = 1", "USER_VARIABLES");
        check("SELECT @a := b FROM t", "USER_VARIABLES");
        check("SELECT 1 INTO @`x y`", "USER_VARIABLES");
        check("CALL p(@out)", "VARIABLES USER_VARIABLES PROCEDURE LAST_ID");
    }

    #[test]
    fn what_pins() {
        check("CREATE TEMPORARY TABLE t (a int)", "TEMPORARY_CREATE CREATE_TABLE");
        check("create or replace temporary table t select 1", "TEMPORARY_CREATE CREATE_TABLE");
        check("DROP TEMPORARY TABLE IF EXISTS t", "DROP_TABLE");
        check("RENAME TABLE a TO b", "RENAME_TABLE");
        check("ALTER TABLE a RENAME b", "RENAME_TABLE");
        check("LOCK TABLES t WRITE", "LOCK_TABLES");
        check("UNLOCK TABLES", "UNLOCK_TABLES");
        check("LOCK INSTANCE FOR BACKUP", "BACKUP_LOCK");
        check("FLUSH TABLES WITH READ LOCK", "READ_LOCK");
        check("FLUSH TABLES", "");
        check("HANDLER t OPEN", "HANDLER_OPEN");
        check("HANDLER t READ FIRST", "");
        check("SELECT GET_LOCK('a', 1)", "GET_LOCK");
        check("SELECT release_all_locks()", "RELEASE_ALL_LOCKS");
        check("XA START 'x'", "XA_START");
        check("XA COMMIT 'x'", "XA_FINISH");
        check("XA RECOVER", "");
        check("PREPARE s FROM 'SELECT 1'", "TEXT_PREPARE");
        check("EXECUTE s USING @a", "USER_VARIABLES TEXT_EXECUTE");
        check("DROP PREPARE s", "TEXT_DEALLOCATE");
    }

    #[test]
    fn what_looks_back() {
        check("SELECT SQL_CALC_FOUND_ROWS * FROM t LIMIT 1", "LEAVES_FOUND_ROWS");
        check("SELECT FOUND_ROWS()", "ASKS_LAST");
        check("select row_count()", "ASKS_LAST");
        check("SHOW WARNINGS", "ASKS_LAST");
        check("SHOW COUNT(*) ERRORS", "ASKS_LAST");
        check("SAVEPOINT a", "SAVEPOINT");
        check("ROLLBACK WORK TO SAVEPOINT a", "SAVEPOINT");
        check("ROLLBACK", "");
        check("RELEASE SAVEPOINT a", "");
        check("SHOW TABLES LIKE 'warnings'", "");
        check("SELECT @@warning_count", "ASKS_LAST");
        check("GET DIAGNOSTICS @n = NUMBER", "USER_VARIABLES ASKS_LAST");
        check("UPDATE t SET id = LAST_INSERT_ID(id + 1)", "LAST_ID");
        check("INSERT INTO t (a) VALUES (1) RETURNING id", "LAST_ID");
    }

    #[test]
    fn several_statements_and_what_is_not_understood() {
        check("SELECT 1; SELECT 2", "MULTIPLE");
        check("CREATE PROCEDURE p() SET sql_mode = '';", "STORED_CODE");
        check("CREATE OR REPLACE VIEW v AS SELECT 1", "STORED_CODE");
        check("ALTER ALGORITHM = MERGE VIEW v AS SELECT 1", "STORED_CODE");
        check("SELECT 1;", "");
        check("BEGIN; SET NAMES latin1; COMMIT", "VARIABLES CONTEXT BEGIN MULTIPLE");
        for text in ["SELECT 'a", "FROBNICATE", "BEGIN NOT ATOMIC SET @a = 1; END", "EXECUTE IMMEDIATE 'x'"] {
            assert!(scan(text.as_bytes(), false).contains(Effects::ANYTHING), "{text}");
        }
        for text in ["CREATE PROCEDURE p() SELECT 1; BEGIN", "CREATE TRIGGER t BEGIN SET @a = 1; END"] {
            let expected = Effects::ANYTHING.and(Effects::MULTIPLE);
            assert!(scan(text.as_bytes(), false).contains(expected), "{text}");
        }
        assert!(scan(b"SELECT 'a\\', @b, '", true).contains(Effects::USER_VARIABLES));
    }

    proptest! {
        /// What is skipped as dull has no effect.
        #[test]
        fn words_mean_the_same_anywhere(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "a.b", "(", ")", ",", "= 5", "x'41'", "\"q\"", "`n`", "@v", "get_lock(1)", "FOUND_ROWS()",
                    "row_count()", "release_lock('a')", "LAST_INSERT_ID(5)", "release_all_locks()", "1e5", "-- c\n",
                    "SQL_CALC_FOUND_ROWS", "_get_lock", "get_lock_", "*", "/* c */", "/*! @w */", "é", "1get_lock",
                ]),
                0..12,
            ),
        ) {
            let separated = format!("SELECT {}", words.join(" "));
            let mut expected = scan(b"SELECT", false);
            for word in &words {
                expected = expected.and(scan(format!("SELECT {word}").as_bytes(), false));
            }
            prop_assert_eq!(scan(separated.as_bytes(), false), expected);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, plain: bool) {
            let _ = scan(&bytes, plain);
        }

        #[test]
        fn sql_soup_never_panics(text in "[SETset@'\"`/*!;#\\\\ a-c=(),.-]{0,80}", plain: bool) {
            let _ = scan(text.as_bytes(), plain);
        }
    }
}
