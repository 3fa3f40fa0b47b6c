//! The admin port as clients meet it: a real listener, a real client library, raw bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use config::events::{EventLog, EventRow};
use config::progress::{
    Conversion, Difference, DifferenceKind, MigrationStatus, Phase, Repaired, ReplicationPosition,
    StrayWrites, TableStatus, Verdict,
};
use config::{
    AdminConfig, BackendConfig, CutoverConfig, FencePolicy, OpenTransactions, PastFence, Secret, Side,
    TableName,
};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::AdminContext;
use super::server::AdminServer;
use crate::cutover::coordinator::{Coordinator, CutoverParts};
use crate::cutover::journal::Journal;
use crate::cutover::port::{PortError, PortFuture, Replication};
use crate::protocol::frame::{Frames, put_packet};
use crate::protocol::packet::Handshake;
use crate::route::gate::Gate;
use crate::route::table::{Backend, RouteTable};
use crate::session::registry::SessionRegistry;
use crate::tls::{RsaKey, Tls};

struct Fake;

impl Replication for Fake {
    fn status(&self) -> MigrationStatus {
        MigrationStatus {
            name: "shop".into(),
            phase: Phase::Following,
            tables_total: 2,
            tables_copied: 2,
            rows_copied: 10,
            rows_estimate: 9,
            copy_rows_per_s: 0,
            eta_s: None,
            source_position: None,
            applied_position: None,
            lag_ms: Some(2000),
            lag_bytes: 0,
            apply_rows_per_s: 0,
            rows_applied: 0,
            rows_verified: 10,
            differences: 1,
            stray_writes: 0,
            stray_writes_total: 0,
            last_error: None,
            throttled_by: None,
            throttled_ms: 0,
            staged_rows: 0,
            staged_bytes: 0,
        }
    }
    fn tables(&self) -> Vec<TableStatus> {
        vec![TableStatus {
            table: TableName::new("shop", "orders"),
            phase: "different",
            rows_copied: 10,
            rows_estimate: 9,
            rows_verified: 10,
            differences: 1,
            note: String::new(),
        }]
    }
    fn differences(&self) -> Vec<Difference> {
        vec![Difference {
            table: TableName::new("shop", "orders"),
            key: "`id` = 7".into(),
            kind: DifferenceKind::Different,
            columns: vec!["a".into(), "b".into()],
            repair_sql: "UPDATE `shop`.`orders` SET `a` = 1 WHERE `id` = 7".into(),
        }]
    }
    fn conversions(&self) -> PortFuture<'_, Vec<Conversion>> {
        let conversion = Conversion {
            schema: "shop".into(),
            object: "orders.facts".into(),
            kind: "type".into(),
            source_definition: "json".into(),
            target_definition: "longtext".into(),
            lossy: false,
        };
        Box::pin(async { Ok(vec![conversion]) })
    }
    fn start(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Err(PortError("the source's binlog is off".into())) })
    }
    fn pause(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn resume(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn verify(&self, _: Option<TableName>) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn repair(&self, table: Option<TableName>, dry_run: bool) -> PortFuture<'_, Vec<Repaired>> {
        let table = table.unwrap_or_else(|| TableName::new("shop", "orders"));
        let sql = if dry_run { "UPDATE 1" } else { "UPDATE 2" }.to_owned();
        Box::pin(async { Ok(vec![Repaired { table, rows: 1, sql }]) })
    }
    fn refusals(&self, max_lag_ms: u64) -> Vec<String> {
        vec![format!("the lag is over {max_lag_ms} ms"), "1 row differs".into()]
    }
    fn hurry(&self) {}
    fn final_position(&self) -> PortFuture<'_, ReplicationPosition> {
        Box::pin(async { Err(PortError("never asked".into())) })
    }
    fn wait_applied<'a>(&'a self, _: &'a ReplicationPosition) -> PortFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn verdict(&self) -> PortFuture<'_, Verdict> {
        Box::pin(async { Ok(Verdict::Equal { rows: 1 }) })
    }
    fn way_back(&self) -> PortFuture<'_, bool> {
        Box::pin(async { Err(PortError("its binlog is off".into())) })
    }
    fn stray_writes(&self) -> Vec<StrayWrites> {
        Vec::new()
    }
    fn acknowledge_stray_writes(&self) -> Result<u64, PortError> {
        Err(PortError("there are none".into()))
    }
    fn watch_ahead(&self) -> Result<(), PortError> {
        Ok(())
    }
    fn let_go_of_watch(&self) {}
    fn touched_behind<'a>(
        &'a self,
        _: &'a ReplicationPosition,
        _: &'a ReplicationPosition,
    ) -> PortFuture<'a, u64> {
        Box::pin(async { Ok(0) })
    }
    fn left_alone(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn end_watch(&self) {}
    fn watch(&self, _: Side, _: &str) -> Result<(), PortError> {
        Ok(())
    }
    fn unwatch(&self) {}
    fn prepared(&self) -> PortFuture<'_, String> {
        Box::pin(async { Ok("no XA transaction is left prepared".into()) })
    }
    fn hold(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn prepare_activation(&self, _: Side) -> PortFuture<'_, String> {
        Box::pin(async { Ok("there are none".into()) })
    }
    fn activate(&self, _: Side) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn start_reverse(&self) -> PortFuture<'_, ReplicationPosition> {
        Box::pin(async { Err(PortError("never asked".into())) })
    }
    fn turn_back(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn finish(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn abandon(&self) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn seal(&self, _: Side) -> PortFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct Port {
    number: u16,
    _folder: tempfile::TempDir,
    _stop: DropGuard,
}

/// An admin port whose backends don't answer.
async fn port() -> Port {
    let folder = tempfile::tempdir().unwrap();
    let backend = |side| {
        let config = BackendConfig {
            host: "127.0.0.1".into(),
            port: 1,
            user: "x".into(),
            password: Secret::default(),
            proxy_protocol: Default::default(),
            tls: Default::default(),
        };
        Backend::new(side, config)
    };
    let routes = RouteTable::new(backend(Side::Source), backend(Side::Target), Side::Source);
    let registry = Arc::new(SessionRegistry::default());
    let coordinator = Coordinator::new(CutoverParts {
        journal: Journal::open(folder.path()).unwrap().0,
        routes: Arc::clone(&routes),
        gate: Gate::new(),
        registry: Arc::clone(&registry),
        replication: Arc::new(Fake),
        config: CutoverConfig {
            max_lag_ms: 1000,
            pause_ms: 500,
            open_transactions: OpenTransactions::Abort,
            fence: FencePolicy::ReadOnly,
            fence_accounts: Vec::new(),
            past_fence: PastFence::Watch,
        },
        schemas: Vec::new(),
    });
    let events = Arc::new(EventLog::default());
    for message in ["first", "second"] {
        events.push(EventRow {
            at: std::time::SystemTime::now(),
            level: "info",
            area: "test".into(),
            message: message.into(),
        });
    }
    let context = AdminContext { replication: Arc::new(Fake), coordinator, registry, routes, events };
    let config =
        AdminConfig { listen: "127.0.0.1:0".into(), user: "admin".into(), password: Secret::new("secret") };
    let rsa = Arc::new(RsaKey::generate().unwrap());
    let server = AdminServer::bind(&config, Tls::Off, rsa, Arc::new(context)).await.unwrap();
    let number = server.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    // Ends with the guard; the test's runtime outlives it.
    tokio::spawn(server.run(stop.clone()));
    Port { number, _folder: folder, _stop: stop.drop_guard() }
}

impl Port {
    async fn log_in(&self, user: &str, password: &str) -> Result<Conn, mysql_async::Error> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.number)
            .user(Some(user))
            .pass(Some(password))
            .prefer_socket(Some(false));
        Conn::new(opts).await
    }

    async fn connect(&self) -> Conn {
        self.log_in("admin", "secret").await.unwrap()
    }
}

fn code<T>(result: Result<T, mysql_async::Error>) -> u16 {
    match result {
        Err(mysql_async::Error::Server(error)) => error.code,
        Err(error) => panic!("{error}"),
        Ok(_) => 0,
    }
}

#[tokio::test]
async fn only_the_right_password_enters() {
    let port = port().await;
    assert_eq!(code(port.log_in("admin", "secret").await), 0);
    for (user, password) in [("admin", "wrong"), ("admin", ""), ("root", "secret"), ("", "")] {
        assert_eq!(code(port.log_in(user, password).await), 1045, "{user}");
    }
}

#[tokio::test]
async fn the_columns_are_those_of_the_contract() {
    let port = port().await;
    let mut conn = port.connect().await;
    for (statement, columns) in [
        (
            "SHOW MIGRATION STATUS",
            "name, phase, route, source, target, tables_total, tables_copied, rows_copied, rows_estimate, percent, \
             copy_rows_per_s, eta_s, source_position, applied_position, lag_ms, lag_bytes, apply_rows_per_s, \
             rows_verified, differences, sessions, sessions_pinned, last_error, throttled_by, \
             staged_rows, staged_bytes",
        ),
        (
            "SHOW MIGRATION TABLES",
            "schema, table, phase, rows_copied, rows_estimate, percent, rows_verified, differences, note",
        ),
        ("REPAIR DRY RUN", "schema, table, rows, sql"),
        ("SHOW DIFFERENCES", "schema, table, key, kind, columns, repair_sql"),
        (
            "SHOW SESSIONS",
            "id, user, client, schema, backend, state, in_transaction, pinned_by, statements, idle_ms, mapped",
        ),
        (
            "SHOW CUTOVERS",
            "id, direction, started_at, outcome, pause_ms, sessions_moved, transactions_killed, source_position, \
             target_position, reason",
        ),
        ("SHOW STRAY WRITES", "side, schema, table, transactions, rows, first_position, last_position, note"),
        ("SHOW EVENTS LIMIT 1", "at, level, area, message"),
        ("CUTOVER DRY RUN", "step, ok, note"),
        ("HELP", "statement, does"),
    ] {
        let result = conn.query_iter(statement).await.unwrap();
        let names: Vec<_> = result.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
        assert_eq!(names.join(", "), columns, "{statement}");
        result.drop_result().await.unwrap();
    }
    let status: Row = conn.query_first("show migration status;").await.unwrap().unwrap();
    assert_eq!(status.get::<String, _>("phase").unwrap(), "following");
    assert_eq!(status.get::<u64, _>("lag_ms").unwrap(), 2000);
    let event: Row = conn.query_first("SHOW EVENTS LIMIT 1").await.unwrap().unwrap();
    assert_eq!(event.get::<String, _>("message").unwrap(), "second");
}

#[tokio::test]
async fn statements_that_do_not_fit_are_refused_with_all_reasons() {
    let port = port().await;
    let mut conn = port.connect().await;
    let Err(mysql_async::Error::Server(refused)) = conn.query_drop("CUTOVER TIMEOUT 100 MS").await else {
        panic!("not refused");
    };
    for part in ["over 1000 ms", "1 row differs", "the target can't be asked", "the source can't be fenced"] {
        assert!(refused.message.contains(part), "{part}: {}", refused.message);
    }
    assert_eq!(code(conn.query_drop("START MIGRATION").await), 1105);
    assert_eq!(code(conn.query_drop("SHOW ACCOUNTS").await), 1105);
    let row: Option<(String, String, String, String, String, u8)> =
        conn.query_first("SHOW CONVERSIONS").await.unwrap();
    let (schema, object, kind, source, target, lossy) = row.unwrap();
    assert_eq!([schema, object, kind, source, target].join(" "), "shop orders.facts type json longtext");
    assert_eq!(lossy, 0);
    assert_eq!(code(conn.query_drop("SHOW SESSIONZ").await), 1064);
    assert_eq!(code(conn.query_drop("KILL SESSION 9").await), 1094);
    assert_eq!(code(conn.query_drop("VERIFY TABLE shop.orders").await), 0);
    assert_eq!(code(conn.exec_drop("HELP", ()).await), 1295);
    assert_eq!(code(conn.ping().await), 0);
    assert_eq!(code(conn.query_drop("USE shop").await), 0);
}

/// A logged-in connection of raw bytes.
async fn raw(port: &Port) -> TcpStream {
    use crate::auth::Credential;
    use crate::auth::plugin::Plugin;
    use crate::protocol::packet::HandshakeResponse;
    let mut stream = TcpStream::connect(("127.0.0.1", port.number)).await.unwrap();
    let mut frames = Frames::new();
    let greeting = Handshake::parse(&frames.read(&mut stream).await.unwrap()).unwrap();
    let password = Credential::Clear(Secret::new("secret"));
    let token = Plugin::CachingSha2.answer(&password, &greeting.scramble).unwrap();
    let response = HandshakeResponse {
        capabilities: super::gateway::OFFERED,
        max_packet: 1 << 24,
        collation: 45,
        user: b"admin".to_vec(),
        auth: Secret::new(token.to_vec()),
        schema: None,
        plugin: Some(b"caching_sha2_password".to_vec()),
        attributes: None,
        zstd_level: None,
    };
    frames.write(&mut stream, &response.encode()).await.unwrap();
    assert_eq!(frames.read(&mut stream).await.unwrap().first(), Some(&1), "fast authentication");
    assert_eq!(frames.read(&mut stream).await.unwrap().first(), Some(&0), "OK");
    stream
}

async fn read_until_silence(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut chunk = vec![0; 65536];
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut chunk)).await {
        if read == 0 {
            break;
        }
        said.extend_from_slice(&chunk[..read]);
    }
    said
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let port = port().await;
    let mut one = raw(&port).await;
    let mut request = Vec::new();
    put_packet(&mut request, 0, b"\x03SHOW EVENTS");
    one.write_all(&request).await.unwrap();
    let answer = read_until_silence(&mut one).await;
    let mut many = raw(&port).await;
    many.write_all(&request.repeat(200)).await.unwrap();
    assert!(read_until_silence(&mut many).await == answer.repeat(200));
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection_and_nothing_else() {
    let port = port().await;
    let packet = |sequence, payload: &[u8]| {
        let mut out = Vec::new();
        put_packet(&mut out, sequence, payload);
        out
    };
    let too_long = [&[0xFF, 0xFF, 0xFF, 0][..], &[b'x'; 100]].concat();
    for bytes in [
        packet(255, b"\x03HELP"),
        packet(1, b"\x03HELP"),
        packet(0, b""),
        packet(0, &vec![3; super::gateway::PACKET_MAX + 1]),
        too_long,
    ] {
        let mut stream = raw(&port).await;
        let _ = stream.write_all(&bytes).await;
        read_until_silence(&mut stream).await;
        let ended = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 8])).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "still open after {:?}", &bytes[..4]);
    }
    for command in 0..=255u8 {
        let mut stream = raw(&port).await;
        stream.write_all(&packet(0, &[command, 0xFF, 0, 1])).await.unwrap();
    }
    assert_eq!(code(port.connect().await.query_drop("HELP").await), 0);
}
