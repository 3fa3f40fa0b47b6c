//! The statements of the admin port: which there are, and which one a text is.

use std::fmt;
use std::time::Duration;

use config::{AccountName, TableName};

use super::talk::{self, Talk};
use super::token::{Token, tokens};
use crate::cutover::coordinator::Asked;
use crate::cutover::phase::Direction;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// SHOW MIGRATION STATUS
    ShowMigrationStatus,
    /// SHOW MIGRATION TABLES
    ShowMigrationTables,
    /// SHOW SESSIONS
    ShowSessions,
    /// SHOW CONVERSIONS
    ShowConversions,
    /// SHOW ACCOUNTS
    ShowAccounts,
    /// SHOW DIFFERENCES
    ShowDifferences,
    /// SHOW CUTOVERS
    ShowCutovers,
    /// SHOW STRAY WRITES
    ShowStrayWrites,
    /// ACKNOWLEDGE STRAY WRITES
    AcknowledgeStrayWrites,
    /// SHOW EVENTS [LIMIT n]
    ShowEvents {
        /// Rows, at most.
        limit: usize,
    },
    /// START, PAUSE or RESUME MIGRATION
    Migration(Verb),
    /// VERIFY [TABLE s.t]
    Verify(Option<TableName>),
    /// REPAIR [TABLE s.t] [DRY RUN]
    Repair {
        /// One table only.
        table: Option<TableName>,
        /// Says what it would do.
        dry_run: bool,
    },
    /// CUTOVER or ROLLBACK CUTOVER, [WITHOUT ROLLBACK] [DRY RUN] [TIMEOUT n MS]
    Cutover {
        /// Checks only.
        dry_run: bool,
        /// What is asked for.
        asked: Asked,
    },
    /// KILL SESSION id
    KillSession(u32),
    /// ADOPT ACCOUNT 'user'@'host' [BY HAND]
    AdoptAccount {
        /// Which.
        account: AccountName,
        /// The operator runs the statement on the target.
        by_hand: bool,
    },
    /// RELEASE ACCOUNT 'user'@'host'
    ReleaseAccount(AccountName),
    /// HELP
    Help,
    /// A statement of the contract that isn't built yet.
    NotYet(&'static str),
    /// What clients send by themselves.
    Talk(Talk),
}

/// What is done to the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// START MIGRATION
    Start,
    /// PAUSE MIGRATION
    Pause,
    /// RESUME MIGRATION
    Resume,
    /// ABANDON MIGRATION
    Abandon,
    /// FINISH MIGRATION
    Finish,
}

/// A row of HELP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement {
    /// As it is typed.
    pub(super) form: &'static str,
    /// What it does.
    pub(super) does: &'static str,
    /// False: it answers error 1235.
    pub(super) built: bool,
}

const fn built(form: &'static str, does: &'static str) -> Statement {
    Statement { form, does, built: true }
}

const fn later(form: &'static str, does: &'static str) -> Statement {
    Statement { form, does, built: false }
}

/// Every statement of the contract, in its order.
pub(super) const STATEMENTS: &[Statement] = &[
    built("SHOW MIGRATION STATUS", "One row: phase, route, progress, positions, lag, differences, sessions"),
    built("SHOW MIGRATION TABLES", "A row a table: phase, rows copied and verified, differences"),
    built("SHOW CONVERSIONS", "What is defined otherwise on the target, and what that loses"),
    built("SHOW DIFFERENCES", "A row a differing row: its key, its columns, SQL that repairs it"),
    built("SHOW SESSIONS", "A row a client of the proxy: backend, state, and what keeps it from moving"),
    built(
        "SHOW ACCOUNTS",
        "A row an account of the source: whether its sessions can move, or why not (NULL: not known)",
    ),
    built("SHOW CUTOVERS", "A row a cutover: outcome, pause, sessions moved, positions, reason"),
    built(
        "SHOW STRAY WRITES",
        "A row a table that others wrote to on the side that doesn't serve: transactions, rows, positions",
    ),
    built("SHOW EVENTS [LIMIT n]", "What happened, the newest first"),
    later("SHOW REHEARSAL", "How the target answers what the application asks the source"),
    built("START MIGRATION", "Checks everything, then copies and follows in the background"),
    built("PAUSE MIGRATION", "Stops copying and following; RESUME goes on where it stopped"),
    built("RESUME MIGRATION", "Goes on after a pause or a failure"),
    built(
        "ABANDON MIGRATION",
        "Ends the migration for good while the source serves, and leaves both servers as they are",
    ),
    built("VERIFY [TABLE s.t]", "Begins to compare every row of all tables, or of one"),
    built(
        "REPAIR [TABLE s.t] [DRY RUN]",
        "Makes differing rows of the side that doesn't serve equal; DRY RUN only says how",
    ),
    built(
        "ACKNOWLEDGE STRAY WRITES",
        "Says that they were seen, once their tables are equal again: a rollback is possible then",
    ),
    later("START REHEARSAL [SAMPLE p PERCENT]", "Begins to send a sample of reads to the target as well"),
    later("STOP REHEARSAL", "Ends the rehearsal"),
    built(
        "CUTOVER [WITHOUT ROLLBACK] [DRY RUN] [TIMEOUT n MS]",
        "Moves the application to the target; DRY RUN only checks. WITHOUT ROLLBACK: the target isn't followed back",
    ),
    built(
        "ROLLBACK CUTOVER [DRY RUN] [TIMEOUT n MS]",
        "Moves the application back to the source, with everything written since; CUTOVER is possible again then",
    ),
    built(
        "FINISH MIGRATION",
        "Ends the reverse replication for good while the target serves; the route stays",
    ),
    built("KILL SESSION id", "Closes a client of the proxy and its backend connection"),
    built(
        ADOPT,
        "Gives an account of mysql_native_password a password of Changeover's own on a target without that plugin; BY HAND \
         prints the SQL",
    ),
    built(RELEASE, "Ends that: clients log in on the target with their own password again"),
    built("HELP", "This list; SHOW HELP is the same, for clients with a HELP of their own"),
];

const ADOPT: &str = "ADOPT ACCOUNT 'user'@'host' [BY HAND]";
const RELEASE: &str = "RELEASE ACCOUNT 'user'@'host'";
/// Rows of SHOW EVENTS without a LIMIT.
const EVENTS: usize = 100;
/// What a timeout may be, in milliseconds: long enough for any use, short enough for arithmetic.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Characters of a statement that an error repeats.
const ECHO_MAX: usize = 60;

/// A text that is no statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    typed: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    Empty,
    Unknown(Option<&'static str>),
    Wrong { form: &'static str, hint: &'static str },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = &self.typed;
        match &self.why {
            Why::Empty => f.write_str("the statement is empty; HELP lists what there is"),
            Why::Unknown(Some(form)) => {
                write!(f, "{typed:?} is no statement of Changeover; did you mean {form}? HELP lists all")
            }
            Why::Unknown(None) => {
                write!(
                    f,
                    "{typed:?} is no statement of Changeover, whose admin port isn't a database; HELP lists all"
                )
            }
            Why::Wrong { form, hint } => write!(f, "{typed:?} doesn't fit {form}: {hint}"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Which statement a text is.
pub fn parse(text: &str) -> Result<Command, ParseError> {
    let tokens = tokens(text);
    let error = |why| ParseError { typed: text.trim().chars().take(ECHO_MAX).collect(), why };
    if tokens.is_empty() {
        return Err(error(Why::Empty));
    }
    match statement(&tokens) {
        Some(Ok(command)) => Ok(command),
        Some(Err((form, hint))) => Err(error(Why::Wrong { form, hint })),
        None => match not_yet(&tokens) {
            Some(form) => Ok(Command::NotYet(form)),
            None => match talk::parse(&tokens) {
                Some(talk) => Ok(Command::Talk(talk)),
                None => Err(error(Why::Unknown(nearest(&tokens)))),
            },
        },
    }
}

type Parsed = Option<Result<Command, (&'static str, &'static str)>>;

/// What is behind these words, where the tokens begin with them.
fn after<'t>(tokens: &'t [Token], words: &str) -> Option<&'t [Token]> {
    words.split(' ').try_fold(tokens, |rest, word| {
        rest.split_first().and_then(|(first, rest)| first.is(word).then_some(rest))
    })
}

fn statement(tokens: &[Token]) -> Parsed {
    const PLAIN: &[(&str, Command)] = &[
        ("SHOW MIGRATION STATUS", Command::ShowMigrationStatus),
        ("SHOW MIGRATION TABLES", Command::ShowMigrationTables),
        ("SHOW SESSIONS", Command::ShowSessions),
        ("SHOW CONVERSIONS", Command::ShowConversions),
        ("SHOW ACCOUNTS", Command::ShowAccounts),
        ("SHOW DIFFERENCES", Command::ShowDifferences),
        ("SHOW CUTOVERS", Command::ShowCutovers),
        ("SHOW STRAY WRITES", Command::ShowStrayWrites),
        ("ACKNOWLEDGE STRAY WRITES", Command::AcknowledgeStrayWrites),
        ("START MIGRATION", Command::Migration(Verb::Start)),
        ("PAUSE MIGRATION", Command::Migration(Verb::Pause)),
        ("RESUME MIGRATION", Command::Migration(Verb::Resume)),
        ("ABANDON MIGRATION", Command::Migration(Verb::Abandon)),
        ("FINISH MIGRATION", Command::Migration(Verb::Finish)),
        ("SHOW HELP", Command::Help),
        ("HELP", Command::Help),
    ];
    if let Some((_, command)) =
        PLAIN.iter().find(|(words, _)| after(tokens, words).is_some_and(<[Token]>::is_empty))
    {
        return Some(Ok(command.clone()));
    }
    if let Some(rest) = after(tokens, "SHOW EVENTS") {
        return Some(events(rest));
    }
    if let Some(rest) = after(tokens, "VERIFY") {
        return Some(verify(rest));
    }
    if let Some(rest) = after(tokens, "REPAIR") {
        return Some(repair(rest));
    }
    if let Some(rest) = after(tokens, "CUTOVER") {
        return Some(cutover(Direction::Forward, rest));
    }
    if let Some(rest) = after(tokens, "ROLLBACK CUTOVER") {
        return Some(cutover(Direction::Rollback, rest));
    }
    if let Some(rest) = after(tokens, "ADOPT ACCOUNT") {
        return Some(adopt(rest));
    }
    if let Some(rest) = after(tokens, "RELEASE ACCOUNT") {
        return Some(account(rest).map(Command::ReleaseAccount).ok_or((RELEASE, ACCOUNT_HINT)));
    }
    after(tokens, "KILL SESSION").map(kill)
}

const ACCOUNT_HINT: &str = "an account is written as SHOW ACCOUNTS shows it, with quotes";

fn adopt(rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    let (named, by_hand) = match rest {
        [named @ .., by, hand] if by.is("BY") && hand.is("HAND") => (named, true),
        named => (named, false),
    };
    let account = account(named).ok_or((ADOPT, ACCOUNT_HINT))?;
    Ok(Command::AdoptAccount { account, by_hand })
}

/// `'user'@'host'`; a user alone is of every host, as the servers have it.
fn account(tokens: &[Token]) -> Option<AccountName> {
    let part = |token: &Token| match token {
        Token::Text(text) => Some(text.clone()),
        other => other.name().map(str::to_owned),
    };
    match tokens {
        [user] => Some(AccountName { user: part(user)?, host: "%".to_owned() }),
        [user, Token::Symbol('@'), host] => Some(AccountName { user: part(user)?, host: part(host)? }),
        _ => None,
    }
}

fn events(rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    let limit = match rest {
        [] => Some(EVENTS),
        [word, limit] if word.is("LIMIT") => limit.number().and_then(|n| usize::try_from(n).ok()),
        _ => None,
    };
    let limit = limit.ok_or(("SHOW EVENTS [LIMIT n]", "n is a whole number"))?;
    Ok(Command::ShowEvents { limit })
}

fn verify(rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    const WRONG: (&str, &str) = (
        "VERIFY [TABLE s.t]",
        "a table has its schema before it, and names with other characters have backticks",
    );
    match rest {
        [] => Ok(Command::Verify(None)),
        [word, schema, Token::Symbol('.'), table] if word.is("TABLE") => {
            let (schema, table) = schema.name().zip(table.name()).ok_or(WRONG)?;
            Ok(Command::Verify(Some(TableName::new(schema, table))))
        }
        _ => Err(WRONG),
    }
}

fn repair(rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    const WRONG: (&str, &str) = (
        "REPAIR [TABLE s.t] [DRY RUN]",
        "a table has its schema before it, and names with other characters have backticks",
    );
    let (rest, dry_run) = match rest {
        [rest @ .., dry, run] if dry.is("DRY") && run.is("RUN") => (rest, true),
        _ => (rest, false),
    };
    match verify(rest) {
        Ok(Command::Verify(table)) => Ok(Command::Repair { table, dry_run }),
        _ => Err(WRONG),
    }
}

fn cutover(direction: Direction, rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    const HINT: &str = "n is a whole number of milliseconds from 1 to 3600000";
    let wrong = match direction {
        Direction::Forward => ("CUTOVER [WITHOUT ROLLBACK] [DRY RUN] [TIMEOUT n MS]", HINT),
        Direction::Rollback => ("ROLLBACK CUTOVER [DRY RUN] [TIMEOUT n MS]", HINT),
    };
    let (without_rollback, rest) = match after(rest, "WITHOUT ROLLBACK") {
        Some(rest) if direction == Direction::Forward => (true, rest),
        _ => (false, rest),
    };
    let (dry_run, rest) = after(rest, "DRY RUN").map_or((false, rest), |rest| (true, rest));
    let timeout = match rest {
        [] => None,
        [word, n, unit] if word.is("TIMEOUT") && unit.is("MS") => {
            let ms = n.number().filter(|ms| (1..=TIMEOUT_MAX_MS).contains(ms)).ok_or(wrong)?;
            Some(Duration::from_millis(ms))
        }
        _ => return Err(wrong),
    };
    Ok(Command::Cutover { dry_run, asked: Asked { direction, timeout, without_rollback } })
}

fn kill(rest: &[Token]) -> Result<Command, (&'static str, &'static str)> {
    let id = match rest {
        [id] => id.number().and_then(|id| u32::try_from(id).ok()),
        _ => None,
    };
    id.map(Command::KillSession).ok_or(("KILL SESSION id", "SHOW SESSIONS lists the ids"))
}

/// The words that a form of the contract begins with.
fn fixed_words(form: &'static str) -> &'static str {
    form.split(" [").next().unwrap_or(form)
}

fn not_yet(tokens: &[Token]) -> Option<&'static str> {
    let later = STATEMENTS.iter().filter(|statement| !statement.built);
    later.map(|statement| fixed_words(statement.form)).find(|words| after(tokens, words).is_some())
}

/// The statement that is nearest to what was typed, where one is near.
fn nearest(tokens: &[Token]) -> Option<&'static str> {
    let words: Vec<String> = tokens.iter().filter_map(Token::name).map(str::to_ascii_uppercase).collect();
    let typed: Vec<char> = words.join(" ").chars().take(ECHO_MAX).collect();
    STATEMENTS
        .iter()
        .filter_map(|statement| {
            let fixed = fixed_words(statement.form).trim_end_matches(" id");
            let form: Vec<char> = fixed.chars().collect();
            let distance = distance(&typed, &form);
            let verb = fixed.split(' ').next();
            let same_verb = verb == words.first().map(String::as_str);
            // Further away than half of its letters it isn't what was meant, unless it begins with a rare word.
            let near = distance <= form.len() / 2 || (same_verb && verb != Some("SHOW"));
            // A wrong first word is a bigger slip than some letters.
            near.then_some((distance + if same_verb { 0 } else { 5 }, statement.form))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, form)| form)
}

/// Levenshtein's distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_statement_is_understood() {
        let check = |text: &str, command: Command| assert_eq!(parse(text), Ok(command), "{text}");
        check("show migration status", Command::ShowMigrationStatus);
        check("SHOW MIGRATION TABLES;", Command::ShowMigrationTables);
        check("Show  Sessions ;\n", Command::ShowSessions);
        check("SHOW DIFFERENCES", Command::ShowDifferences);
        check("show accounts;", Command::ShowAccounts);
        check("show conversions", Command::ShowConversions);
        check("SHOW /* all */ CUTOVERS", Command::ShowCutovers);
        check("SHOW EVENTS", Command::ShowEvents { limit: 100 });
        check("SHOW EVENTS LIMIT 5", Command::ShowEvents { limit: 5 });
        check("START MIGRATION", Command::Migration(Verb::Start));
        check("PAUSE MIGRATION", Command::Migration(Verb::Pause));
        check("RESUME MIGRATION", Command::Migration(Verb::Resume));
        check("REPAIR", Command::Repair { table: None, dry_run: false });
        let table = Some(TableName::new("a", "b"));
        check("repair table a.b dry run;", Command::Repair { table: table.clone(), dry_run: true });
        check("REPAIR TABLE a.b", Command::Repair { table, dry_run: false });
        check("REPAIR DRY RUN", Command::Repair { table: None, dry_run: true });
        check("VERIFY", Command::Verify(None));
        check("VERIFY TABLE shop.orders", Command::Verify(Some(TableName::new("shop", "orders"))));
        check("verify table `a-b`.`c``d`", Command::Verify(Some(TableName::new("a-b", "c`d"))));
        check("VERIFY TABLE y.2026", Command::Verify(Some(TableName::new("y", "2026"))));
        let cutover = |direction, without_rollback, dry_run, timeout| Command::Cutover {
            dry_run,
            asked: Asked { direction, timeout, without_rollback },
        };
        let (forward, back) = (Direction::Forward, Direction::Rollback);
        check("CUTOVER", cutover(forward, false, false, None));
        check("CUTOVER DRY RUN", cutover(forward, false, true, None));
        check("CUTOVER WITHOUT ROLLBACK", cutover(forward, true, false, None));
        check("cutover without rollback dry run;", cutover(forward, true, true, None));
        check("ROLLBACK CUTOVER", cutover(back, false, false, None));
        check(
            "rollback cutover dry run timeout 20 ms",
            cutover(back, false, true, Some(Duration::from_millis(20))),
        );
        check("ABANDON MIGRATION", Command::Migration(Verb::Abandon));
        check("FINISH MIGRATION;", Command::Migration(Verb::Finish));
        let timeout = Some(Duration::from_millis(500));
        check("CUTOVER TIMEOUT 500 MS", cutover(forward, false, false, timeout));
        check("cutover dry run timeout 500 ms;", cutover(forward, false, true, timeout));
        check("KILL SESSION 17", Command::KillSession(17));
        let account = |user: &str, host: &str| AccountName { user: user.into(), host: host.into() };
        let adopt = |account, by_hand| Command::AdoptAccount { account, by_hand };
        check("ADOPT ACCOUNT 'app'@'10.%'", adopt(account("app", "10.%"), false));
        check("adopt account app@localhost by hand;", adopt(account("app", "localhost"), true));
        check("ADOPT ACCOUNT 'it''s'", adopt(account("it's", "%"), false));
        check("RELEASE ACCOUNT `app`@`%`", Command::ReleaseAccount(account("app", "%")));
        check("help", Command::Help);
        check("SHOW HELP", Command::Help);
    }

    #[test]
    fn what_is_not_built_yet_is_known() {
        let check =
            |text: &str, form: &'static str| assert_eq!(parse(text), Ok(Command::NotYet(form)), "{text}");
        check("SHOW REHEARSAL", "SHOW REHEARSAL");
        check("START REHEARSAL SAMPLE 5 PERCENT", "START REHEARSAL");
        check("STOP REHEARSAL", "STOP REHEARSAL");
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        let check = |text: &str, part: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("", "empty");
        check(";", "empty");
        check("SHOW MIGRATON STATUS", "did you mean SHOW MIGRATION STATUS?");
        check("SHOW STATUS OF MIGRATION", "HELP lists all");
        check("SHOW MIGRATON", "did you mean SHOW MIGRATION");
        check("SHOW SESSION", "did you mean SHOW SESSIONS?");
        check("CUT OVER", "did you mean CUTOVER [WITHOUT ROLLBACK]");
        check("KILL 5", "did you mean KILL SESSION id?");
        check("KILL SESSION x", "SHOW SESSIONS lists");
        check("KILL SESSION 99999999999", "SHOW SESSIONS lists");
        check("CUTOVER TIMEOUT 5", "whole number of milliseconds");
        check("CUTOVER TIMEOUT 0 MS", "whole number of milliseconds");
        check("CUTOVER NOW", "doesn't fit CUTOVER");
        check("ADOPT ACCOUNT", "with quotes");
        check("ADOPT ACCOUNT app@10.0.0.1", "with quotes");
        check("RELEASE ACCOUNT a@b BY HAND", "with quotes");
        check("ADOPT 'app'@'%'", "did you mean ADOPT ACCOUNT");
        check("VERIFY TABLE orders", "has its schema before it");
        check("SHOW EVENTS LIMIT -1", "n is a whole number");
        check("SELECT * FROM shop.orders", "isn't a database");
        check("DROP TABLE t", "isn't a database");
        check("SHOW SESSIONS WHERE 1", "HELP lists all");
    }

    #[test]
    fn every_form_in_help_parses_or_says_why() {
        for statement in STATEMENTS {
            let words = fixed_words(statement.form).replace(" id", " 1");
            let parsed = parse(&words).unwrap();
            assert_eq!(matches!(parsed, Command::NotYet(_)), !statement.built, "{words}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text).map_err(|error| error.to_string());
        }

        #[test]
        fn near_garbage_never_panics(
            parts in proptest::collection::vec(
                prop::sample::select(vec![
                    "SHOW", "MIGRATION", "EVENTS", "LIMIT", "CUTOVER", "DRY", "RUN", "TIMEOUT", "MS", "VERIFY",
                    "TABLE", "a", ".", "`", "'", "5", "-", "/*", "*/", "--", "#", ";", "SELECT", "@@", "$$",
                    "SET", "(", ")", ",", "AS", "LIKE", "%", "\\", "99999999999999999999", "\u{e4}", "\n",
                ]),
                0..12,
            ),
        ) {
            let _ = parse(&parts.join(" ")).map_err(|error| error.to_string());
            let _ = parse(&parts.concat()).map_err(|error| error.to_string());
        }
    }
}
