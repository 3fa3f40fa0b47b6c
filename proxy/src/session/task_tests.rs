#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use config::{BackendConfig, Scheduling, Secret, ServerVersion, Side};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::server::Keeper;
use crate::protocol::capability::Capabilities;
use crate::protocol::packet::ok::StatusFlags;
use crate::protocol::stream::Stream;
use crate::ring::Workers;
use crate::route::table::{Backend, Epoch};
use crate::session::replay::{Snapshot, UserValue};
use crate::session::state::Attempts;
use crate::tls::{RsaKey, Tls};

const SESSION: u32 = 7;
const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const OK_IN_TRANSACTION: &[u8] = &[0, 0, 0, 3, 0, 0, 0];
const PATIENCE: Duration = Duration::from_secs(5);

/// A session between a client and a backend that the test plays, and nobody to dial.
struct Stage {
    client: DuplexStream,
    backend: DuplexStream,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

fn stage() -> Stage {
    let (session, client, backend) = session();
    let shared = Arc::clone(&session.shared);
    Stage { client, backend, shared, task: tokio::spawn(session.run()) }
}

fn session() -> (Session, DuplexStream, DuplexStream) {
    let (client, far_client) = tokio::io::duplex(1 << 16);
    let (far_backend, backend) = tokio::io::duplex(1 << 16);
    (session_of(Stream::Duplex(far_client), Stream::Duplex(far_backend)), client, backend)
}

fn session_of(client: Stream, server: Stream) -> Session {
    let backend = |side| {
        let config = BackendConfig {
            host: "127.0.0.1".into(),
            port: 1,
            user: "nobody".into(),
            password: Secret::default(),
            proxy_protocol: Default::default(),
            tls: Default::default(),
        };
        Backend::new(side, config)
    };
    let shared = Arc::new(Shared {
        gate: Gate::new(),
        routes: RouteTable::new(backend(Side::Source), backend(Side::Target), Side::Source),
        registry: Arc::default(),
        door: FrontDoor::new(
            Tls::Off,
            Arc::new(RsaKey::generate().unwrap()),
            Keeper::Account { user: "app".to_owned(), password: Secret::default() },
        ),
        servers: Default::default(),
        turns: Default::default(),
        move_every: None,
    });
    let capabilities = Capabilities::PROTOCOL_41 | Capabilities::MULTI_STATEMENTS;
    let login = Login {
        user: b"app".to_vec(),
        schema: None,
        collation: 45,
        capabilities,
        max_packet: 1 << 24,
        attributes: None,
        client: None,
    };
    let connection = Connection {
        leg: Leg::new(server),
        side: Side::Source,
        names: config::SideNames::default(),
        epoch: Epoch(0),
        id: 1,
        version: ServerVersion::parse("10.11.6-MariaDB").unwrap(),
        capabilities,
        status: StatusFlags::AUTOCOMMIT,
        statements: HashMap::new(),
        attempts: Attempts::default(),
        asked: 0,
        mapped: Vec::new(),
        crossing: false,
        inherited: Default::default(),
    };
    let greeted = shared.registry.greet(SESSION).unwrap();
    let registered = shared.registry.register(greeted, "app".into(), String::new(), (Side::Source, SESSION));
    Session::new(shared, registered, login, Credential::Empty, Leg::new(client), connection)
}

async fn read_packet(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut header)).await.expect("a packet").unwrap();
    let mut payload = vec![0; Header::parse(&header).unwrap().len];
    from.read_exact(&mut payload).await.unwrap();
    payload
}

async fn write_packets(to: &mut (impl AsyncWrite + Unpin), first: u8, payloads: &[&[u8]]) {
    let (mut bytes, mut sequence) = (Vec::new(), first);
    for payload in payloads {
        sequence = put_packet(&mut bytes, sequence, payload);
    }
    to.write_all(&bytes).await.unwrap();
}

impl Stage {
    async fn ask(&mut self, payload: &[u8]) {
        write_packets(&mut self.client, 0, &[payload]).await;
        assert_eq!(read_packet(&mut self.backend).await, payload);
    }

    async fn answer(&mut self, payloads: &[&[u8]]) {
        write_packets(&mut self.backend, 1, payloads).await;
    }

    async fn begin(&mut self) {
        self.ask(b"\x03BEGIN").await;
        self.answer(&[OK_IN_TRANSACTION]).await;
        assert_eq!(read_packet(&mut self.client).await, OK_IN_TRANSACTION);
    }

    async fn ends(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the session ends").unwrap();
        assert_eq!(self.shared.gate.outstanding(), 0);
    }
}

#[tokio::test]
async fn a_client_that_stalls_in_a_packet_does_not_keep_its_permit() {
    let mut stage = stage();
    stage.begin().await;
    stage.client.write_all(b"\x20\x00\x00\x00\x03UPD").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.shared.gate.close();
    assert_eq!(stage.shared.registry.kill_permit_holders().await, 1);
    tokio::time::timeout(PATIENCE, stage.shared.gate.drained()).await.expect("the gate drains");
    stage.ends().await;
}

#[tokio::test]
async fn a_client_that_stalls_in_a_packet_can_be_killed() {
    let mut stage = stage();
    stage.client.write_all(b"\x20\x00\x00\x00\x03SEL").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stage.shared.registry.kill(SESSION));
    stage.ends().await;
}

#[tokio::test]
async fn a_prepare_that_waits_for_a_lock_can_be_killed() {
    let mut stage = stage();
    stage.ask(b"\x16SELECT 1 FROM t").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(stage.shared.registry.kill(SESSION));
    stage.ends().await;
}

/// What a client gets when its statement is interrupted by a cutover.
async fn interrupted(query: &[u8], answer: &[&[u8]]) -> Vec<u8> {
    let mut stage = stage();
    stage.ask(query).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.shared.registry.kill_permit_holders().await, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.answer(answer).await;
    read_packet(&mut stage.client).await
}

#[tokio::test]
async fn nobody_is_told_of_a_rollback_that_was_none() {
    let error = b"\xff\x25\x05#70100Query execution was interrupted";
    let code = |packet: Vec<u8>| u16::from_le_bytes([packet[1], packet[2]]);
    assert_eq!(code(interrupted(b"\x03INSERT INTO t VALUES (1)", &[error]).await), 1213);
    // The first of these may be committed.
    let more: &[u8] = &[0, 1, 0, 0x0A, 0, 0, 0];
    let several = b"\x03INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)";
    assert_eq!(interrupted(several, &[more, error]).await, more);
    assert_eq!(code(interrupted(b"\x03CALL p()", &[error]).await), 1317);
}

#[tokio::test]
async fn a_stream_goes_on_where_a_wake_up_found_it() {
    let mut stage = stage();
    stage.ask(b"\x12dump").await;
    let sent: Vec<u8> = (0..400_000_u32).map(|n| (n / 7) as u8).collect();
    let expected = sent.clone();
    let mut backend = stage.backend;
    let write = async move {
        backend.write_all(&sent).await.unwrap();
        backend
    };
    let registry = Arc::clone(&stage.shared.registry);
    let mut client = stage.client;
    let read = async move {
        let mut got = Vec::new();
        while got.len() < expected.len() {
            // The pipe is full, so a part of the buffer is written when the wake-up comes.
            tokio::time::sleep(Duration::from_millis(5)).await;
            registry.wake_in_turn().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut part = vec![0; 50_000];
            let count = client.read(&mut part).await.unwrap();
            got.extend_from_slice(&part[..count]);
        }
        assert!(got == expected, "nothing twice, nothing missing");
        client
    };
    let _ends = tokio::time::timeout(PATIENCE * 4, async { tokio::join!(write, read) }).await.unwrap();
}

#[tokio::test]
async fn a_statement_too_long_to_be_looked_at_pins_once_it_was_sent() {
    let mut stage = stage();
    stage.shared.gate.close();
    let text = [&b"\x03SELECT '"[..], &vec![b'x'; 2 << 20], b"'"].concat();
    let (mut client, mut backend) = (stage.client, stage.backend);
    let write = tokio::spawn(async move {
        write_packets(&mut client, 0, &[&text]).await;
        client
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    // It waits: nothing of it would be lost by a move.
    assert_eq!(stage.shared.registry.pinned(), 0);
    stage.shared.gate.open();
    let read = read_packet(&mut backend).await;
    assert_eq!(read.len(), (2 << 20) + 10);
    write_packets(&mut backend, 1, &[OK]).await;
    stage.client = write.await.unwrap();
    stage.backend = backend;
    assert_eq!(read_packet(&mut stage.client).await, OK);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.shared.registry.pinned(), 1);
}

/// What waits at the gate isn't sent yet, so it moves with its session. Nobody can be dialled here, so that is
/// what ends it, and not a bug.
#[tokio::test]
async fn a_statement_too_long_to_be_looked_at_does_not_stand_in_the_way_of_a_move() {
    let mut stage = stage();
    stage.shared.gate.close();
    let head = [&Header { len: 2 << 20, sequence: 0 }.to_bytes()[..], b"\x03SELECT '"].concat();
    stage.client.write_all(&head).await.unwrap();
    let (mut client, shared) = (stage.client, Arc::clone(&stage.shared));
    let fill = async move {
        client.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        shared.routes.swap(Side::Target);
        shared.gate.open();
        client
    };
    let mut client = fill.await;
    let answer = read_packet(&mut client).await;
    assert_ne!(u16::from_le_bytes([answer[1], answer[2]]), 1105);
    tokio::time::timeout(PATIENCE, stage.task).await.expect("the session ends").unwrap();
}

/// Answers the questions of a move: one row of NULLs for state, nothing set, nothing done by procedures.
async fn answer_questions(mut backend: DuplexStream) {
    let definition = [&b"\x03def\0\0\0\x01a\0\x0c\x21\0\0\x01\0\0\xfd\0\0\0"[..], b"\0\0"].concat();
    let eof: &[u8] = &[0xFE, 0, 0, 2, 0];
    loop {
        let question = read_packet(&mut backend).await;
        let text = String::from_utf8_lossy(&question[1..]).into_owned();
        let (columns, rows): (u8, &[&[u8]]) = if text.starts_with("SELECT HEX(CONVERT(DATABASE()") {
            (10, &[&[0xFB; 10]])
        } else if text.starts_with("SHOW SESSION STATUS") {
            (2, &[b"\x1aCom_create_temporary_table\x010", b"\x0fCom_prepare_sql\x010"])
        } else {
            (2, &[])
        };
        let mut packets: Vec<&[u8]> = vec![std::slice::from_ref(&columns)];
        packets.extend(std::iter::repeat_n(&definition[..], usize::from(columns)));
        packets.push(eof);
        packets.extend(rows);
        packets.push(eof);
        write_packets(&mut backend, 1, &packets).await;
    }
}

#[tokio::test]
async fn a_reset_takes_user_variables_from_what_was_prepared_ahead() {
    let (mut session, _client, backend) = session();
    let questions = tokio::spawn(answer_questions(backend));
    let ahead = Snapshot {
        user_variables: [(b"a".to_vec(), UserValue::Plain("1".to_owned()))].into(),
        ..Snapshot::default()
    };
    session.between = Some(Between::twins(Side::Target));
    session.state.user_variables.insert(b"a".to_vec());
    let versions = session.state.versions;
    let done = crate::relay::exchange::Outcome {
        status: Some(StatusFlags::AUTOCOMMIT),
        results: 1,
        ..Default::default()
    };
    session.state.answered(&Request::plain(Command::ResetConnection), &done, None);
    let wanted = session.snapshot(Some((&ahead, versions))).await.unwrap();
    assert!(wanted.user_variables.is_empty());
    questions.abort();
}

#[tokio::test]
async fn an_insert_too_long_to_be_looked_at_may_return_ids() {
    let (mut session, mut client, _backend) = session();
    session.login.capabilities = Capabilities::PROTOCOL_41;
    let text = [&b"\x03INSERT INTO t VALUES ('"[..], &vec![b'x'; 2 << 20], b"') RETURNING id"].concat();
    let write = tokio::spawn(async move { write_packets(&mut client, 0, &[&text]).await });
    session.client.fill().await.unwrap();
    let request = session.understand().await.unwrap();
    assert!(request.effects.contains(Effects::LAST_ID) && !request.unseen);
    write.abort();
}

/// Two ends of a TCP connection; one of them as a leg of a session.
async fn tcp() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Stream::tcp(near.unwrap()).unwrap(), far.unwrap().0)
}

/// In the middle of a statement, in a transaction: neither the permit nor the place in the registry stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_fails_takes_nothing_along() {
    let workers = match Workers::start(1, Scheduling::Batch) {
        Ok(workers) => workers,
        Err(error) => {
            assert!(std::env::var_os("CHANGEOVER_REQUIRE_SERVERS").is_none(), "no io_uring: {error}");
            eprintln!("SKIPPED: no io_uring here: {error}");
            return;
        }
    };
    let ((of_client, mut client), (of_backend, mut backend)) = tokio::join!(tcp(), tcp());
    let session = session_of(of_client, of_backend);
    let shared = Arc::clone(&session.shared);
    workers.spawn(session.run());
    write_packets(&mut client, 0, &[b"\x03BEGIN"]).await;
    assert_eq!(read_packet(&mut backend).await, b"\x03BEGIN");
    write_packets(&mut backend, 1, &[OK_IN_TRANSACTION]).await;
    assert_eq!(read_packet(&mut client).await, OK_IN_TRANSACTION);
    write_packets(&mut client, 0, &[b"\x03SELECT SLEEP(1000)"]).await;
    assert_eq!(read_packet(&mut backend).await, b"\x03SELECT SLEEP(1000)");
    assert_eq!((shared.registry.len(), shared.gate.outstanding()), (1, 1));
    workers.break_rings();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(6 * PATIENCE, client.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(rest.is_empty());
    let gone = async {
        while (shared.registry.len(), shared.gate.outstanding()) != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(6 * PATIENCE, gone).await.expect("nothing is left of it");
}
