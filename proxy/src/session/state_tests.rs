#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::relay::exchange::Prepared;

const AUTOCOMMIT: StatusFlags = StatusFlags::AUTOCOMMIT;
const IN_TRANSACTION: StatusFlags = StatusFlags(0x0003);

fn session() -> SessionState {
    SessionState::new(AUTOCOMMIT, None)
}

fn ok() -> Outcome {
    Outcome { status: Some(AUTOCOMMIT), results: 1, ..Outcome::default() }
}

fn error() -> Outcome {
    Outcome { error: Some(1064), ..Outcome::default() }
}

fn run(state: &mut SessionState, text: &str, outcome: &Outcome) -> bool {
    let request = state.query(text.as_bytes());
    state.answered(&request, outcome, None)
}

/// After these statements, all answered with OK, the session is pinned by this.
fn check(texts: &[&str], expected: Pins) {
    let mut state = session();
    for text in texts {
        run(&mut state, text, &ok());
    }
    assert_eq!(state.pins, expected, "{texts:?}");
}

#[test]
fn pins_come_and_go() {
    check(&["SELECT 1", "SET NAMES latin1", "SET @a = 1"], Pins::NONE);
    check(&["CREATE TEMPORARY TABLE a (i int)"], Pins::TEMPORARY_TABLE);
    check(&["USE x", "CREATE TEMPORARY TABLE a (i int)", "DROP TABLE X.A"], Pins::NONE);
    check(&["USE x", "CREATE TEMPORARY TABLE a (i int)", "DROP TABLE y.a"], Pins::TEMPORARY_TABLE);
    check(
        &["USE x", "CREATE TEMPORARY TABLE a (i int)", "USE y", "DROP TABLE a", "DROP TABLE IF EXISTS x.b"],
        Pins::TEMPORARY_TABLE,
    );
    let again = "CREATE TEMPORARY TABLE IF NOT EXISTS a (i int)";
    check(&[again, again, "DROP TEMPORARY TABLE a"], Pins::NONE);
    check(&["CREATE TEMPORARY TABLE a (i int)", "DROP TABLE b"], Pins::TEMPORARY_TABLE);
    check(
        &["CREATE TEMPORARY TABLE x.a (i int)", "CREATE TEMPORARY TABLE y.a (i int)", "DROP TABLE a"],
        Pins::TEMPORARY_TABLE,
    );
    check(
        &["CREATE TEMPORARY TABLE a (i int)", "ALTER TABLE a RENAME b", "DROP TABLE a"],
        Pins::TEMPORARY_TABLE,
    );
    // With autocommit on a savepoint outside of a transaction is nothing.
    check(&["SAVEPOINT a"], Pins::NONE);
    check(&["LOCK TABLES t READ"], Pins::LOCK_TABLES);
    check(&["LOCK TABLES t READ", "UNLOCK TABLES"], Pins::NONE);
    check(&["LOCK TABLES t READ", "START TRANSACTION"], Pins::NONE);
    check(&["FLUSH TABLES WITH READ LOCK", "START TRANSACTION"], Pins::READ_LOCK);
    check(&["UNLOCK TABLES; LOCK TABLES t READ"], Pins::LOCK_TABLES);
    check(&["SELECT GET_LOCK('a', 1)", "SELECT GET_LOCK('B', 1)", "DO RELEASE_LOCK('b')"], Pins::USER_LOCK);
    check(&["SELECT GET_LOCK('a', 1)", "DO RELEASE_LOCK('A')"], Pins::NONE);
    check(&["SELECT GET_LOCK(@a, 1)", "DO RELEASE_LOCK(@a)"], Pins::USER_LOCK);
    check(&["SELECT GET_LOCK(@a, 1)", "DO RELEASE_ALL_LOCKS()"], Pins::NONE);
    check(&["HANDLER a OPEN", "HANDLER b OPEN", "HANDLER a CLOSE"], Pins::HANDLER);
    check(&["HANDLER a OPEN", "HANDLER a CLOSE"], Pins::NONE);
    check(&["XA START 'a'", "XA END 'a'", "XA PREPARE 'a'"], Pins::XA);
    check(&["XA START 'a'", "XA END 'a'", "XA ROLLBACK 'a'"], Pins::NONE);
    check(&["SET timestamp = 5"], Pins::REPLICATION_VARIABLE);
    check(&["PREPARE s FROM @a"], Pins::PREPARED_TEXT);
    check(&["PREPARE s FROM 'CREATE TEMPORARY TABLE a (i int)'"], Pins::NONE);
    check(&["PREPARE s FROM 'CREATE TEMPORARY TABLE a (i int)'", "EXECUTE s"], Pins::TEMPORARY_TABLE);
    check(&["SET TRANSACTION READ ONLY"], Pins::NEXT_TRANSACTION);
    check(&["SET TRANSACTION READ ONLY", "SELECT 1"], Pins::NEXT_TRANSACTION);
    check(&["SET TRANSACTION READ ONLY", "COMMIT"], Pins::NONE);
}

#[test]
fn what_failed_changes_nothing() {
    let mut state = session();
    run(&mut state, "CREATE TEMPORARY TABLE a (i int)", &error());
    run(&mut state, "LOCK TABLES t READ", &error());
    run(&mut state, "USE nowhere", &error());
    assert_eq!((state.pins, &state.schema), (Pins::NONE, &Schema::Known(None)));
    run(&mut state, "CREATE TEMPORARY TABLE a (i int)", &ok());
    run(&mut state, "DROP TABLE a", &error());
    assert_eq!(state.pins, Pins::TEMPORARY_TABLE);
    // Of several statements some may have succeeded.
    run(&mut state, "LOCK TABLES t READ; SELECT", &error());
    assert!(state.pins.contains(Pins::LOCK_TABLES));
}

#[test]
fn a_one_shot_isolation_lasts_for_one_transaction() {
    let mut state = session();
    run(&mut state, "SET TRANSACTION READ ONLY", &ok());
    run(&mut state, "BEGIN", &Outcome { status: Some(IN_TRANSACTION), ..ok() });
    run(&mut state, "UPDATE t SET a = 1", &Outcome { status: Some(IN_TRANSACTION), ..ok() });
    assert!(state.pins.contains(Pins::NEXT_TRANSACTION) && state.in_transaction());
    run(&mut state, "COMMIT", &ok());
    assert!(state.is_movable());
}

#[test]
fn an_error_leaves_the_transaction_in_doubt_only_where_there_may_be_one() {
    let mut state = session();
    assert!(!run(&mut state, "SELECT", &error()));
    assert!(run(&mut state, "BEGIN; SELECT", &error()));
    assert!(run(&mut state, "CALL p()", &error()));
    run(&mut state, "BEGIN", &Outcome { status: Some(IN_TRANSACTION), ..ok() });
    assert!(run(&mut state, "SELECT", &error()));
    let mut state = session();
    run(&mut state, "SET autocommit = 0", &Outcome { status: Some(StatusFlags(0)), ..ok() });
    assert!(state.is_movable(), "autocommit off is no transaction");
    assert!(run(&mut state, "SELECT", &error()));
}

#[test]
fn versions_count_what_may_have_changed() {
    let mut state = session();
    let before = state.versions;
    run(&mut state, "SELECT a FROM t", &ok());
    assert_eq!(state.versions, before);
    run(&mut state, "SELECT @a := 1", &ok());
    assert!(state.versions.user_variables > before.user_variables);
    assert!(state.user_variables.contains(&b"a"[..]));
    run(&mut state, "SET sql_mode = ''", &ok());
    assert!(state.variables_touched && state.versions.context > before.context);
    run(&mut state, "INSERT INTO t VALUES ()", &Outcome { last_insert_id: 7, ..ok() });
    assert!(state.versions.last_id > before.last_id);
    let last_id = state.versions.last_id;
    let bulk = state.execute(Command::StmtBulkExecute, ClientStatementId(1));
    state.answered(&bulk, &ok(), None);
    assert!(state.versions.last_id > last_id);
    run(&mut state, "USE shop", &ok());
    assert_eq!(state.schema, Schema::Known(Some(b"shop".to_vec())));
    run(&mut state, "DROP DATABASE shop", &ok());
    assert_eq!(state.schema, Schema::Ask);
    let tracks = vec![1, 5, 4, b'm', b'o', b'r', b'e'];
    run(&mut state, "SELECT 1", &Outcome { tracks, ..ok() });
    assert_eq!(state.schema, Schema::Known(Some(b"more".to_vec())));
}

fn prepare(state: &mut SessionState, text: &str) -> ClientStatementId {
    let request = state.prepare(text.as_bytes());
    let id = state.new_statement_id();
    let prepared = Some(Prepared { id: 99, columns: 1, params: 2 });
    state.answered(&request, &Outcome { prepared, ..ok() }, Some(id));
    id
}

#[test]
fn prepared_statements_are_remembered_until_they_are_closed() {
    let mut state = session();
    let select = prepare(&mut state, "SELECT ?, ?");
    let create = prepare(&mut state, "CREATE TEMPORARY TABLE a (i int)");
    assert_eq!((select, create), (ClientStatementId(1), ClientStatementId(2)));
    assert!(state.is_movable());
    let request = state.execute(Command::StmtExecute, create);
    state.answered(&request, &ok(), None);
    assert_eq!(state.pins, Pins::TEMPORARY_TABLE);
    let request = state.about(Command::StmtClose, select);
    state.answered(&request, &Outcome::default(), None);
    assert_eq!(state.statements.keys().collect::<Vec<_>>(), [&create]);
}

#[test]
fn cursors_and_long_data_pin_until_they_end() {
    let mut state = session();
    let id = prepare(&mut state, "SELECT ?, ?");
    let step = |state: &mut SessionState, command, status: u16| {
        let request = match command {
            Command::StmtExecute => Request { asks_for_cursor: true, ..state.execute(command, id) },
            _ => state.about(command, id),
        };
        state.answered(&request, &Outcome { status: Some(StatusFlags(status)), ..ok() }, None);
        state.pins
    };
    assert_eq!(step(&mut state, Command::StmtSendLongData, 2), Pins::LONG_DATA);
    assert_eq!(step(&mut state, Command::StmtExecute, 0x42), Pins::CURSOR);
    assert_eq!(step(&mut state, Command::StmtFetch, 0x42), Pins::CURSOR);
    assert_eq!(step(&mut state, Command::StmtFetch, 0x82), Pins::NONE);
    assert_eq!(step(&mut state, Command::StmtExecute, 0x42), Pins::CURSOR);
    assert_eq!(step(&mut state, Command::StmtReset, 2), Pins::NONE);
    assert_eq!(step(&mut state, Command::StmtSendLongData, 2), Pins::LONG_DATA);
    assert_eq!(step(&mut state, Command::StmtClose, 2), Pins::NONE);
}

#[test]
fn a_cursor_that_nobody_asked_for_pins_nothing() {
    let mut state = session();
    let id = prepare(&mut state, "SELECT has_a_cursor()");
    let request = state.execute(Command::StmtExecute, id);
    state.answered(&request, &Outcome { status: Some(StatusFlags(0x42)), ..ok() }, None);
    assert_eq!(state.pins, Pins::NONE);
}

#[test]
fn a_context_is_noted_before_it_is_lost() {
    let mut state = session();
    let noted = BTreeMap::<u64, ()>::new();
    let request = state.query(b"SET NAMES latin1");
    assert!(!state.loses_context(&request, &noted), "nothing was prepared");
    prepare(&mut state, "SELECT ?, ?");
    assert!(state.loses_context(&request, &noted));
    assert!(!state.loses_context(&state.query(b"SET autocommit = 0"), &noted));
    assert!(!state.loses_context(&request, &[(state.versions.context, ())].into()));
    state.answered(&request, &ok(), None);
    assert!(!state.loses_context(&state.query(b"USE shop"), &noted), "it belongs to the one before");
}

#[test]
fn a_reset_forgets_everything() {
    let mut state = session();
    prepare(&mut state, "SELECT ?, ?");
    run(&mut state, "CREATE TEMPORARY TABLE a (i int)", &ok());
    run(&mut state, "SET @a = 1", &ok());
    state.answered(&Request::plain(Command::ResetConnection), &ok(), None);
    assert!(state.is_movable() && state.statements.is_empty() && state.user_variables.is_empty());
    assert_eq!(prepare(&mut state, "SELECT ?, ?"), ClientStatementId(2), "ids aren't used twice");
}

#[test]
fn a_backslash_may_be_half_a_character() {
    let mut state = session();
    // In GBK 0xBF5C is one character, so the quote behind it ends the text.
    let request = state.query(b"SELECT '\xbf\\', @a := 1, '");
    assert!(request.effects.contains(Effects::USER_VARIABLES));
    state.answered(&request, &ok(), None);
    assert!(state.user_variables.contains(&b"a"[..]));
    // In UTF-8 it is an escape.
    let request = state.query("SELECT 'é\\'s', @b".as_bytes());
    state.answered(&request, &ok(), None);
    assert!(state.user_variables.contains(&b"b"[..]) && state.is_movable());
    assert!(state.query("SELECT 'é', 'a\\'b'".as_bytes()).effects.is_plain());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut state = session();
    for _ in 0..5_000 {
        run(&mut state, "CREATE TEMPORARY TABLE IF NOT EXISTS a (i int)", &ok());
        run(&mut state, "DO GET_LOCK('a', 0)", &ok());
    }
    assert!(state.temporary_tables.len() == 1 && state.locks.len() <= NAMES_MAX);

    let mut state = session();
    let text = format!("SELECT '{}'", "x".repeat(1 << 20));
    let ids: Vec<_> = (0..40).map(|_| prepare(&mut state, &text)).collect();
    let kept = |state: &SessionState| state.statements.values().map(Statement::bytes).sum::<usize>();
    assert!(kept(&state) <= STATEMENT_BYTES_MAX && state.pins == Pins::STATEMENTS);
    state.remember_types(ids[0], &vec![0; STATEMENT_BYTES_MAX]);
    assert!(kept(&state) <= STATEMENT_BYTES_MAX && kept(&state) == state.statement_bytes);
    // What isn't kept pins for as long as it lives.
    for id in ids.iter().skip(1) {
        let request = state.about(Command::StmtClose, *id);
        state.answered(&request, &Outcome::default(), None);
    }
    assert_eq!(state.pins, Pins::STATEMENTS);
    let request = state.about(Command::StmtClose, ids[0]);
    state.answered(&request, &Outcome::default(), None);
    assert_eq!((state.pins, state.statement_bytes), (Pins::NONE, 0));

    for n in 0..5_000 {
        run(&mut state, &format!("SET @a{n} = 1"), &ok());
    }
    assert_eq!((state.user_variables.len(), state.pins), (USER_VARIABLES_MAX, Pins::STATEMENTS));
    let id = prepare(&mut state, "SELECT 1");
    let request = state.about(Command::StmtClose, id);
    state.answered(&request, &Outcome::default(), None);
    assert_eq!(state.pins, Pins::STATEMENTS, "another statement's end brings no variable back");
}

/// A list that was searched for each of them would take minutes here.
#[test]
fn many_names_are_one_pass() {
    let state = session();
    let names: Vec<_> = (0..150_000).map(|n| format!("@a{n}")).collect();
    let request = state.query(format!("SELECT {}", names.join(",")).as_bytes());
    let found = request.details.map_or(0, |details| details.user_variables.len());
    assert!(found >= USER_VARIABLES_MAX, "{found}");
}

#[test]
fn functions_and_triggers_may_set_user_variables() {
    let mut state = session();
    run(&mut state, "SET @a = 1", &ok());
    let before = state.versions.user_variables;
    run(&mut state, "INSERT INTO has_a_trigger VALUES ()", &ok());
    assert!(state.versions.user_variables > before);
}

#[test]
fn what_could_not_be_parsed_is_not_counted_against_procedures() {
    let mut state = session();
    run(&mut state, "CREATE TEMPORARY TABLE a (", &error());
    run(&mut state, "PREPARE s FROM", &error());
    assert_eq!(state.attempts, Attempts::default());
    run(&mut state, "CREATE TABLE a (i int)", &Outcome { error: Some(1050), ..Outcome::default() });
    assert_eq!(state.attempts.create_table, 1);
}

#[test]
fn a_transaction_behind_a_routine_is_not_overlooked() {
    assert!(run(&mut session(), "CREATE PROCEDURE p() SELECT 1; BEGIN; SELECT nothing", &error()));
}

#[test]
fn the_end_of_a_statement_leaves_its_outcome_to_be_asked_for() {
    let mut state = session();
    let id = prepare(&mut state, "INSERT INTO t VALUES (?, ?)");
    let request = state.execute(Command::StmtExecute, id);
    state.answered(&request, &Outcome { warnings: 1, affected_rows: 1, ..ok() }, None);
    let request = state.about(Command::StmtClose, id);
    state.answered(&request, &Outcome::default(), None);
    assert!(state.looks_back && state.wrote);
}

/// As MariaDB answers: the warnings are counted by EXECUTE and not by FETCH, but they can be asked for after both.
#[test]
fn commands_that_run_nothing_leave_the_outcome_to_be_asked_for() {
    let mut state = session();
    let id = prepare(&mut state, "SELECT CAST('a' AS SIGNED)");
    let request = state.execute(Command::StmtExecute, id);
    state.answered(&request, &Outcome { warnings: 1, status: Some(StatusFlags(0x42)), ..ok() }, None);
    for command in [Command::StmtFetch, Command::Ping, Command::Statistics, Command::StmtReset] {
        state.answered(&state.about(command, id), &ok(), None);
        assert!(state.looks_back, "{command:?}");
    }
    prepare(&mut state, "SHOW WARNINGS");
    assert!(state.looks_back);
    run(&mut state, "SELECT 1", &ok());
    assert!(!state.looks_back);
}

#[test]
fn data_for_a_statement_that_is_not_there_is_not_kept() {
    let mut state = session();
    for number in 1..100 {
        let unknown = state.about(Command::StmtSendLongData, ClientStatementId(number));
        state.answered(&unknown, &Outcome::default(), None);
    }
    assert!(state.long_data.is_empty() && state.is_movable());
}

#[test]
fn a_prepare_that_fails_has_dropped_its_name() {
    let check = |failing: &str, code: u16, left: usize| {
        let mut state = session();
        run(&mut state, "PREPARE s FROM 'SELECT 1'", &ok());
        run(&mut state, failing, &Outcome { error: Some(code), ..Outcome::default() });
        assert_eq!(state.texts.len(), left, "{failing}");
    };
    check("PREPARE s FROM 'SELECT nonsense FROM nowhere'", 1146, 0);
    check("PREPARE s FROM 'SELEC'", 1064, 0);
    check("PREPARE s FROM 'SELECT 1' AND MORE", 1064, 1);
    check("PREPARE t FROM 'SELEC'", 1064, 1);
}

#[test]
fn what_was_set_is_remembered_by_name() {
    let mut state = session();
    run(&mut state, "SET SESSION lock_wait_timeout = 5, GLOBAL x = 1", &ok());
    run(&mut state, "SET SESSION nonsense = 5", &error());
    assert_eq!(state.set_variables.iter().map(String::as_str).collect::<Vec<_>>(), ["lock_wait_timeout"]);
    state.begin_again(AUTOCOMMIT, None);
    assert!(state.set_variables.is_empty());
}

#[test]
fn a_savepoint_waits_for_its_transaction() {
    let manual = || SessionState::new(StatusFlags(0), None);
    let idle = Outcome { status: Some(StatusFlags(0)), results: 1, ..Outcome::default() };
    let open = Outcome { status: Some(StatusFlags(0x0001)), results: 1, ..Outcome::default() };
    for (texts, end, pinned) in [
        (&["SAVEPOINT a", "SELECT 1"][..], &idle, true),
        (&["SAVEPOINT a", "ROLLBACK TO a"], &idle, true),
        (&["SAVEPOINT a", "ROLLBACK"], &idle, false),
        (&["SAVEPOINT a", "COMMIT"], &idle, false),
        (&["SAVEPOINT a", "SELECT 1 FROM t"], &open, false),
        (&["SAVEPOINT a", "SET autocommit = 1"], &ok(), false),
        (&["SAVEPOINT a", "SELECT broken"], &error(), true),
    ] {
        let mut state = manual();
        let (last, before) = texts.split_last().unwrap();
        for text in before {
            run(&mut state, text, &idle);
        }
        run(&mut state, last, end);
        assert_eq!(state.pins.contains(Pins::SAVEPOINT), pinned, "{texts:?}");
    }
}

/// Read as GBK, random bytes between quotes are full of `@…`; a client that inserts pictures is no client with thousands
/// of variables.
#[test]
fn bytes_between_quotes_are_no_variables() {
    let mut state = session();
    let mut seed = 7_u32;
    for _ in 0..3 {
        let mut text = b"INSERT INTO t VALUES (_binary '".to_vec();
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match (seed >> 24) as u8 {
                byte @ (b'\'' | b'\\') => text.extend([b'\\', byte]),
                byte => text.push(byte),
            }
        }
        text.extend_from_slice(b"')");
        let request = state.query(&text);
        state.answered(&request, &ok(), None);
    }
    assert_eq!(state.pins, Pins::NONE);
    assert!(state.user_variables.len() <= GUESSED_MAX, "{}", state.user_variables.len());
    assert!(state.user_variables.iter().all(|name| !name.contains(&0)));
    // It may be GBK after all, so the server is asked.
    assert!(state.versions.procedures > 0);
}

#[test]
fn a_variable_behind_the_second_half_of_a_character_is_kept() {
    let mut state = session();
    let request = state.query(b"SET @a = '\x95\\', @b = '1'");
    state.answered(&request, &ok(), None);
    assert_eq!(state.user_variables, [b"a".to_vec(), b"b".to_vec()].into());
}
