//! Packets sent to the server and through the proxy, and the answers compared to the byte.

use std::process::Command;

use super::{
    BULK, DEPRECATE_EOF, LONG_PASSWORD, OPTIONAL_METADATA, PAYLOAD_MAX, QUERY_ATTRIBUTES, SESSION_TRACK,
    command, packets, query, quit, transcript,
};
use crate::support::server::mysql97_client;
use crate::support::{Changeover, Engine, Pair};

/// What is sent, and what must stand in the answer, lest two refusals be taken for a proof.
struct Case {
    what: &'static str,
    capabilities: u64,
    requests: Vec<Vec<u8>>,
    answer: &'static [u8],
}

fn case(what: &'static str, capabilities: u64, requests: Vec<Vec<u8>>, answer: &'static [u8]) -> Case {
    Case { what, capabilities, requests, answer }
}

async fn started(engine: Engine) -> Option<(Pair, Changeover)> {
    let pair = Pair::start(engine, 600).await?;
    pair.source
        .run(&[
            "SET GLOBAL max_allowed_packet = 67108864, local_infile = ON",
            "CREATE USER raw@'%'",
            "GRANT ALL ON shop.* TO raw@'%'",
            "CREATE TABLE shop.lines (a VARCHAR(50) PRIMARY KEY)",
            "CREATE PROCEDURE shop.both_ways(IN a INT, OUT b INT) BEGIN SELECT a; SELECT a + 1; SET b = a + 2; END",
            "CREATE PROCEDURE shop.looped() BEGIN DECLARE i INT; DECLARE c CURSOR FOR SELECT id FROM shop.bulk WHERE id < 4; \
             OPEN c; FETCH c INTO i; SELECT i; FETCH c INTO i; SELECT i, 'second'; CLOSE c; END",
            "CREATE FUNCTION shop.first_id() RETURNS INT DETERMINISTIC READS SQL DATA BEGIN DECLARE i INT; \
             DECLARE c CURSOR FOR SELECT id FROM shop.bulk WHERE id < 4; OPEN c; FETCH c INTO i; RETURN i; END",
        ])
        .await;
    let changeover = pair.changeover().await;
    Some((pair, changeover))
}

async fn the_same(pair: &Pair, changeover: &Changeover, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for Case { what, capabilities, mut requests, answer } in cases {
        requests.push(quit());
        let direct = unnumbered(transcript(pair.source.port(), capabilities, &requests).await);
        let through = unnumbered(transcript(changeover.port(), capabilities, &requests).await);
        let text = |bytes: &[u8]| bytes.escape_ascii().take(1200).collect::<Vec<u8>>();
        let [d, t] = [text(&direct), text(&through)].map(|text| String::from_utf8(text).unwrap());
        if !direct.windows(answer.len()).any(|part| part == answer) {
            wrong.push(format!("{what}: the server doesn't do it: {d}"));
        } else if direct != through {
            wrong.push(format!("{what}:\n  {d}\n  {t}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without the ids in the answers to COM_STMT_PREPARE: MariaDB goes on counting where another connection left off.
fn unnumbered(mut transcript: Vec<u8>) -> Vec<u8> {
    const PREPARED: &[u8] = b"\x0C\0\0\x01\0";
    let found = transcript.windows(PREPARED.len()).position(|part| part == PREPARED);
    if let Some(id) = found.and_then(|at| transcript.get_mut(at + PREPARED.len()..at + PREPARED.len() + 4)) {
        id.fill(0);
    }
    transcript
}

/// COM_STMT_EXECUTE's head for statement `id`.
fn execute(id: u32, cursor: u8, rest: &[u8]) -> Vec<u8> {
    command(0x17, [&id.to_le_bytes()[..], &[cursor, 1, 0, 0, 0], rest].concat())
}

fn about(code: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    command(code, [&id.to_le_bytes()[..], rest].concat())
}

fn plain_commands() -> Vec<Case> {
    let mut cases = vec![
        case(
            "several in one go",
            LONG_PASSWORD,
            vec![query("SELECT 'one'"), command(14, ""), query("SELECT 'two'")],
            b"two",
        ),
        case(
            "more than 256 packets",
            LONG_PASSWORD,
            vec![query("SELECT id, id FROM bulk ORDER BY id")],
            b"600",
        ),
        case(
            "the same without EOF",
            LONG_PASSWORD | DEPRECATE_EOF,
            vec![query("SELECT id FROM bulk ORDER BY id")],
            b"600",
        ),
        case(
            "several results, an error last",
            LONG_PASSWORD | DEPRECATE_EOF,
            vec![query("SELECT 1; DO 2; SELECT id FROM bulk LIMIT 3; SELECT nothing"), command(14, "")],
            b"nothing",
        ),
        case(
            "session track",
            LONG_PASSWORD | SESSION_TRACK,
            vec![query("USE shop"), query("SET autocommit = 0")],
            b"shop",
        ),
        case(
            "the multi-statement option",
            LONG_PASSWORD,
            vec![
                command(0x1B, [1, 0]),
                query("SELECT 1; SELECT 2"),
                command(0x1B, [0, 0]),
                query("SELECT 1"),
            ],
            b"\x05\0\0\x01\xfe\0\0",
        ),
        case("COM_INIT_DB", LONG_PASSWORD, vec![command(2, "shop"), command(2, "elsewhere")], b"elsewhere"),
        case(
            "COM_RESET_CONNECTION",
            LONG_PASSWORD,
            vec![query("SET @a = 1"), command(0x1F, ""), query("SELECT @a")],
            b"@a",
        ),
        case(
            "FOUND_ROWS",
            LONG_PASSWORD,
            vec![query("SELECT SQL_CALC_FOUND_ROWS id FROM bulk LIMIT 1"), query("SELECT FOUND_ROWS()")],
            b"600",
        ),
    ];
    for (what, code) in [
        ("COM_SLEEP", 0x00),
        ("COM_CREATE_DB", 0x05),
        ("COM_DROP_DB", 0x06),
        ("COM_REFRESH", 0x07),
        ("COM_SHUTDOWN", 0x08),
        ("COM_CONNECT", 0x0B),
        ("COM_DEBUG", 0x0D),
        ("COM_TIME", 0x0F),
        ("COM_DELAYED_INSERT", 0x10),
        ("COM_CONNECT_OUT", 0x14),
        ("COM_DAEMON", 0x1D),
        ("a command that nobody knows", 0x55),
        ("another", 0xF0),
    ] {
        cases.push(case(what, LONG_PASSWORD, vec![command(code, [1]), command(14, "")], b"\xFF"));
    }
    cases
}

fn statements(engine: Engine) -> Vec<Case> {
    // At MariaDB the statement that was prepared last, whose number isn't known.
    let id = if engine == Engine::MariaDb { u32::MAX } else { 1 };
    let prepare = |sql: &str| command(0x16, sql);
    vec![
        case(
            "a cursor and COM_STMT_FETCH",
            LONG_PASSWORD,
            vec![
                prepare("SELECT id FROM bulk ORDER BY id"),
                execute(id, 1, b""),
                about(0x1C, id, &5_u32.to_le_bytes()),
                about(0x1C, id, &2_u32.to_le_bytes()),
                about(0x1A, id, b""),
                query("SELECT 'after'"),
            ],
            b"after",
        ),
        case(
            "long data, reset, close",
            LONG_PASSWORD,
            vec![
                prepare("SELECT LENGTH(?)"),
                about(0x18, id, b"\0\0abcdef"),
                about(0x18, id, b"\0\0ghi"),
                execute(id, 0, b"\0\x01\xfc\0"),
                about(0x18, id, b"\0\0forgotten"),
                about(0x1A, id, b""),
                execute(id, 0, b"\0\x01\xfd\0\x04four"),
                about(0x18, id, b"\0\0forgotten"),
                about(0x19, id, b""),
                execute(id, 0, b"\0\x01\xfd\0\x04four"),
                query("SELECT 'after'"),
            ],
            b"after",
        ),
        case(
            "CALL with an OUT parameter",
            LONG_PASSWORD,
            vec![
                prepare("CALL both_ways(?, ?)"),
                execute(id, 0, b"\x02\x01\x03\0\x06\0\x07\0\0\0"),
                query("SELECT 'after'"),
            ],
            b"after",
        ),
        case(
            "CALL in text",
            LONG_PASSWORD,
            vec![query("CALL both_ways(1, @b)"), query("SELECT @b, 'after'")],
            b"after",
        ),
        case(
            "results while a routine's cursor is open",
            LONG_PASSWORD,
            vec![
                query("CALL looped()"),
                query("SELECT first_id(), first_id() + 1"),
                prepare("CALL looped()"),
                execute(id, 0, b""),
                execute(id, 1, b""),
                query("SELECT 'after'"),
            ],
            b"after",
        ),
        case(
            "a function's cursor beside one that the client asks for",
            LONG_PASSWORD,
            vec![
                prepare("SELECT first_id(), id FROM bulk WHERE id < 5 ORDER BY id"),
                execute(id, 0, b""),
                execute(id, 1, b""),
                about(0x1C, id, &9_u32.to_le_bytes()),
                about(0x1A, id, b""),
                query("SELECT 'after'"),
            ],
            b"after",
        ),
        case(
            "a statement that doesn't exist",
            LONG_PASSWORD,
            vec![prepare("SELECT * FROM nowhere")],
            b"nowhere",
        ),
    ]
}

fn infile() -> Vec<Case> {
    let load = || query("LOAD DATA LOCAL INFILE 'a file' INTO TABLE `lines`");
    let undo = || query("DELETE FROM `lines`");
    vec![
        case(
            "LOAD DATA LOCAL",
            LONG_PASSWORD,
            vec![
                load(),
                packets(2, b"one\ntwo\n"),
                packets(3, b"three\n"),
                packets(4, b""),
                query("SELECT a FROM `lines` ORDER BY a"),
                undo(),
            ],
            b"three",
        ),
        case(
            "the client refuses",
            LONG_PASSWORD,
            vec![load(), packets(2, b""), query("SELECT 'after'")],
            b"after",
        ),
        case(
            "an error in the middle",
            LONG_PASSWORD,
            vec![query("LOAD DATA LOCAL INFILE 'a file' INTO TABLE no_such_table"), query("SELECT 'after'")],
            b"no_such_table",
        ),
        case(
            "several results with a file among them",
            LONG_PASSWORD,
            vec![
                query("SELECT 1; LOAD DATA LOCAL INFILE 'a file' INTO TABLE `lines`; SELECT 'last'"),
                packets(7, b"x\n"),
                packets(8, b""),
                undo(),
            ],
            b"last",
        ),
    ]
}

/// 16 MiB less one is a whole packet and an empty one; so are its multiples.
fn large() -> Vec<Case> {
    let text = |len: usize| {
        let (head, tail) = ("SELECT LENGTH('", "'), 'end'");
        let filler = len - 1 - head.len() - tail.len();
        query([head.as_bytes(), &vec![b'x'; filler], tail.as_bytes()].concat())
    };
    let row = |len: usize| query(format!("SELECT REPEAT('x', {len})"));
    vec![
        case("a request of 0xFFFFFE", LONG_PASSWORD, vec![text(PAYLOAD_MAX - 1)], b"end"),
        case(
            "a request of 0xFFFFFF",
            LONG_PASSWORD,
            vec![text(PAYLOAD_MAX), query("SELECT 'after'")],
            b"after",
        ),
        case(
            "a request of twice that",
            LONG_PASSWORD,
            vec![text(2 * PAYLOAD_MAX), query("SELECT 'after'")],
            b"after",
        ),
        case(
            "a row of 0xFFFFFF",
            LONG_PASSWORD,
            vec![row(PAYLOAD_MAX - 4), query("SELECT 'after'")],
            b"after",
        ),
        case(
            "a row of twice that",
            LONG_PASSWORD,
            vec![row(2 * PAYLOAD_MAX - 9), query("SELECT 'after'")],
            b"after",
        ),
    ]
}

async fn farewells(engine: Engine) {
    let Some((pair, changeover)) = started(engine).await else { return };
    // What it says is of the moment; that it is one packet of text isn't.
    for port in [pair.source.port(), changeover.port()] {
        let said = transcript(port, LONG_PASSWORD, &[command(9, ""), quit()]).await;
        assert!(said[4..].starts_with(b"Uptime: "), "{said:?}");
    }
    // wait_timeout's farewell: MySQL's is a packet (4031), what MariaDB sends is compared as well. No quit here.
    for requests in [query("SET SESSION wait_timeout = 1"), query("KILL CONNECTION_ID()")] {
        let requests = [requests];
        let direct = transcript(pair.source.port(), LONG_PASSWORD | 1 << 10, &requests).await;
        let through = transcript(changeover.port(), LONG_PASSWORD | 1 << 10, &requests).await;
        assert_eq!(direct, through);
    }
}

async fn compared(engine: Engine, cases: Vec<Case>) {
    let Some((pair, changeover)) = started(engine).await else { return };
    the_same(&pair, &changeover, cases).await;
}

macro_rules! on_both {
    ($($name:ident($engine:ident) $cases:expr;)*) => {
        $(mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mariadb() {
                let $engine = Engine::MariaDb;
                $cases.await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mysql97() {
                let $engine = Engine::MySql97;
                $cases.await;
            }
        })*
    };
}

on_both! {
    commands(engine) compared(engine, plain_commands());
    prepared(engine) compared(engine, statements(engine));
    files(engine) compared(engine, infile());
    large_packets(engine) compared(engine, large());
    its_own(engine) compared(engine, of_engine(engine));
    ends(engine) farewells(engine);
}

fn of_engine(engine: Engine) -> Vec<Case> {
    let prepare = |sql: &str| command(0x16, sql);
    match engine {
        Engine::MySql56 | Engine::Seekdb => Vec::new(),
        Engine::MariaDb => vec![
            case("COM_FIELD_LIST", LONG_PASSWORD, vec![command(4, "bulk\0%"), command(14, "")], b"bulk"),
            case(
                "bulk execution, of the statement prepared last",
                BULK,
                vec![
                    prepare("INSERT INTO `lines` VALUES (?)"),
                    command(0xFA, b"\x01\0\0\0\x80\0\xfd\0\0\x05first\0\x06second"),
                    command(0xFA, b"\xFF\xFF\xFF\xFF\x80\0\xfd\0\0\x05third"),
                    query("SELECT a FROM `lines` ORDER BY a"),
                    query("DELETE FROM `lines`"),
                ],
                b"third",
            ),
            case(
                "one request for prepare and execute",
                BULK,
                vec![prepare("SELECT 'prepared last'"), execute(u32::MAX, 0, b""), query("SELECT 'after'")],
                b"after",
            ),
        ],
        _ => vec![
            case(
                "optional metadata",
                LONG_PASSWORD | OPTIONAL_METADATA,
                vec![
                    query("SET resultset_metadata = NONE"),
                    query("SELECT id FROM bulk LIMIT 2"),
                    query("SELECT 'after'"),
                ],
                b"after",
            ),
            case(
                "query attributes",
                LONG_PASSWORD | QUERY_ATTRIBUTES,
                vec![
                    query(b"\x01\x01\0\x01\xfe\0\x04name\x05valueSELECT 'attributed'"),
                    query(b"\0\x01SELECT 'without'"),
                ],
                b"without",
            ),
            case("COM_FIELD_LIST", LONG_PASSWORD, vec![command(4, "bulk\0%"), command(14, "")], b"bulk"),
        ],
    }
}

/// A binary log, read from a server at this port.
fn binlog(engine: Engine, port: u16, how: &[&str]) -> Vec<u8> {
    let mut program = match engine {
        Engine::MySql56 | Engine::Seekdb => panic!("its binary log isn't read here"),
        Engine::MariaDb => Command::new("mariadb-binlog"),
        _ => {
            let client = mysql97_client().unwrap();
            let mut program = Command::new(client.get_program());
            program.args(client.get_args().map(|argument| {
                let text = argument.to_string_lossy();
                text.strip_suffix("/bin/mysql")
                    .map_or(text.clone().into_owned(), |bin| format!("{bin}/bin/mysqlbinlog"))
            }));
            program
        }
    };
    program.args(["--host=127.0.0.1", "--protocol=tcp", "--user=raw_reader", "--to-last-log", "bin.000001"]);
    let output = program.arg(format!("--port={port}")).args(how).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

async fn binary_logs(engine: Engine) {
    let Some((pair, changeover)) = started(engine).await else { return };
    pair.source
        .run(&["CREATE USER raw_reader@'%'", "GRANT REPLICATION SLAVE ON *.* TO raw_reader@'%'"])
        .await;
    if engine == Engine::MariaDb {
        pair.source.run(&["GRANT BINLOG MONITOR ON *.* TO raw_reader@'%'"]).await;
    } else {
        pair.source.run(&["GRANT REPLICATION CLIENT ON *.* TO raw_reader@'%'"]).await;
    }
    let ways: &[&[&str]] = match engine {
        Engine::MySql56 | Engine::Seekdb => &[],
        Engine::MariaDb => &[&["--read-from-remote-server"]],
        _ => &[&["--read-from-remote-server"], &["--read-from-remote-source=BINLOG-DUMP-GTIDS"]],
    };
    for how in ways {
        let direct = binlog(engine, pair.source.port(), how);
        let through = binlog(engine, changeover.port(), how);
        assert!(direct.len() > 10_000, "{how:?}: {} bytes", direct.len());
        assert!(direct == through, "{how:?}: {} and {} bytes", direct.len(), through.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logs_of_mariadb() {
    binary_logs(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logs_of_mysql97() {
    binary_logs(Engine::MySql97).await;
}
