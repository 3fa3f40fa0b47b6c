//! What is fuzzed: a function for each parser that faces a client, a backend or a file. Stable Rust; included by the short
//! run of `./test` (tests/fuzzing.rs) and by libFuzzer (tests/fuzz/libfuzzer.rs). A target panics where something is wrong.
//!
//! Where a parser needs to know more than its bytes (capabilities, a command), that stands in front of them; [`Input`]
//! reads it. The corpus of a target is the folder `corpus/NAME`.

use std::io::Write as _;
use std::task::{Context, Poll, Waker};

use config::load::Overrides;
use config::names::{Flavor, ServerVersion};
use config::{BinlogPosition, Gtid, GtidSet, Secret, TableName};
use proxy::auth::{fuzzing as login, plugin};
use proxy::protocol::capability::Capabilities;
use proxy::protocol::command::Command;
use proxy::protocol::frame::{Frames, LOGIN_PACKET_MAX, put_packet};
use proxy::protocol::packet::auth::{AuthMoreData, AuthSwitchRequest};
use proxy::protocol::packet::change_user::ChangeUser;
use proxy::protocol::packet::{ErrPacket, Handshake, HandshakeResponse, OkPacket, SslRequest};
use proxy::relay::exchange::{ClientData, Exchange, Outcome, Progress};
use proxy::session::fuzzing as session;
use replicator::binlog::fuzzing as binlog;
use replicator::schema::table::{Column, ColumnKind, SchemaSet, TableSchema, UniqueKey};

/// A name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("frames", frames),
    ("handshake", handshake),
    ("handshake_response", handshake_response),
    ("change_user", change_user),
    ("status", status),
    ("exchange", exchange),
    ("client_data", client_data),
    ("question", question),
    ("execute", execute),
    ("statement", statement),
    ("session", session),
    ("admin", admin),
    ("auth", auth),
    ("front_door", front_door),
    ("backend_login", backend_login),
    ("binlog", binlog_events),
    ("json", json),
    ("gtid", gtid),
    ("config", configuration),
];

/// Bytes with something in front of them.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn capabilities(&mut self) -> Capabilities {
        Capabilities::from_bits(u64::from_le_bytes(self.array()))
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// What is asked of memory only is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// Packets of a login, one behind the other.
fn frames(data: &[u8]) {
    let mut rest = data;
    let mut frames = Frames::new();
    let mut payloads = Vec::new();
    while let Ok(payload) = now(frames.read(&mut rest)) {
        assert!(payload.len() <= LOGIN_PACKET_MAX);
        payloads.push(payload);
    }
    let mut bytes = Vec::new();
    let mut sequence = 0;
    for payload in &payloads {
        sequence = put_packet(&mut bytes, sequence, payload);
    }
    assert!(data.starts_with(&bytes), "written again, they are the bytes that were read");
}

fn handshake(data: &[u8]) {
    let Ok(greeting) = Handshake::parse(data) else { return };
    let _ = ServerVersion::parse(&String::from_utf8_lossy(&greeting.server_version));
    let offered = Capabilities::offered(&[greeting.capabilities, greeting.capabilities]);
    let _ = Capabilities::common(offered, greeting.capabilities);
    let again = Handshake::parse(&greeting.encode()).expect("our own greeting is understood");
    assert_eq!(again.server_version, greeting.server_version);
    assert_eq!(again.capabilities, greeting.capabilities);
}

fn handshake_response(data: &[u8]) {
    if let Some(request) = SslRequest::parse(data) {
        let again = SslRequest::parse(&request.encode()).expect("our own request for TLS is understood");
        assert_eq!(again, request);
    }
    // Behind a request for TLS the flags are that one's: here any that stand at the end of the input.
    if let Some(flags) = data.last_chunk::<8>() {
        let capabilities = Capabilities::from_bits(u64::from_le_bytes(*flags));
        let request = SslRequest { capabilities, max_packet: 0, collation: 0 };
        let _ = HandshakeResponse::parse_behind(&request, data);
    }
    let Ok(response) = HandshakeResponse::parse(data) else { return };
    let encoded = response.encode();
    assert!(encoded.len() <= data.len() + 64, "nothing grows");
    let again = HandshakeResponse::parse(&encoded).expect("our own response is understood");
    // What a backend is told is what the client said.
    assert_eq!(again.user, response.user);
    assert_eq!(again.schema, response.schema);
    assert_eq!(again.plugin, response.plugin);
    assert_eq!(again.attributes, response.attributes);
}

fn change_user(data: &[u8]) {
    let mut input = Input(data);
    let capabilities = input.capabilities();
    if let Ok(command) = ChangeUser::parse(input.0, capabilities) {
        assert!(command.user.len() + command.auth.expose().len() <= data.len());
    }
}

/// OK with its session tracking, ERR, a switch of the plugin, more data of a plugin.
fn status(data: &[u8]) {
    let mut input = Input(data);
    let capabilities = input.capabilities();
    if let Ok(ok) = OkPacket::parse(input.0, capabilities) {
        let tracks = ok.tracks().take(data.len() + 1).count();
        assert!(tracks <= data.len(), "an entry takes bytes");
        let encoded = ok.encode(capabilities);
        let again = OkPacket::parse(&encoded, capabilities).expect("our own OK is understood");
        assert_eq!(again.affected_rows, ok.affected_rows);
        assert_eq!(again.last_insert_id, ok.last_insert_id);
    }
    if let Ok(error) = ErrPacket::parse(input.0) {
        assert!(!error.to_string().contains('\n'), "a log line stays one line");
        assert_eq!(ErrPacket::parse(&error.encode()).expect("our own ERR is understood"), error);
    }
    if let Ok(switch) = AuthSwitchRequest::parse(input.0) {
        let again = AuthSwitchRequest::parse(&switch.encode()).expect("our own switch is understood");
        assert_eq!(again, switch);
    }
    let _ = AuthMoreData::parse(input.0);
}

/// Follows an answer in portions; a file that is asked for is sent at once.
fn follow(
    command: Command,
    capabilities: Capabilities,
    answer: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (usize, Outcome) {
    let mut exchange = Exchange::new(command, capabilities);
    let mut at = 0;
    while at < answer.len() && exchange.progress() != Progress::Done {
        let portion = &answer[at..answer.len().min(at + cut().max(1))];
        let taken = exchange.feed(portion);
        assert!(
            taken == portion.len() || exchange.progress() != Progress::More,
            "it stops only where it says so"
        );
        at += taken;
        if exchange.progress() == Progress::ClientData {
            exchange.data_sent();
        }
    }
    (at, exchange.outcome().clone())
}

/// An answer means the same in whatever portions it comes.
fn exchange(data: &[u8]) {
    let mut input = Input(data);
    let (command, capabilities) = (Command::from(input.byte()), input.capabilities());
    let mut seed = u32::from(input.byte()) | 1;
    let answer = input.0;
    let whole = follow(command, capabilities, answer, || answer.len());
    let bytewise = follow(command, capabilities, answer, || 1);
    assert_eq!(whole, bytewise, "byte by byte");
    let cut = follow(command, capabilities, answer, || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 27) as usize
    });
    assert_eq!(whole, cut, "in portions");
    assert!(whole.1.tracks.len() <= answer.len());
}

/// A file of LOAD DATA LOCAL.
fn client_data(data: &[u8]) {
    let mut whole = ClientData::new();
    let taken = whole.feed(data);
    let mut bytewise = ClientData::new();
    let one_by_one: usize = data.iter().map(|byte| bytewise.feed(&[*byte])).sum();
    assert_eq!((taken, whole.ended()), (one_by_one, bytewise.ended()));
}

/// The backend's answer to a question of the proxy's own. Its input is that of `exchange`.
fn question(data: &[u8]) {
    let mut input = Input(data);
    let (_, capabilities, _) = (input.byte(), input.capabilities(), input.byte());
    if let Some(values) = session::question(input.0, capabilities) {
        assert!(values <= input.0.len(), "a value takes bytes");
    }
}

fn execute(data: &[u8]) {
    let mut input = Input(data);
    let (command, params, capabilities) = (Command::from(input.byte()), input.byte(), input.capabilities());
    for params in [u16::from(params), 0, u16::MAX] {
        if let Some(length) = session::execute(input.0, command, params, capabilities) {
            assert!(length <= 2 * input.0.len());
        }
    }
}

/// A statement's text: the lexer, and what may never get out of its quotes.
fn statement(data: &[u8]) {
    for plain_backslash in [false, true] {
        assert!(session::reads_alike(data, plain_backslash), "a second reading only adds");
        assert!(session::quoted_ends(data, plain_backslash), "quoted text stays within its quotes");
    }
    binlog::statement(b"fuzz", data);
}

/// A statement and its answer, as a session's state sees them.
fn session(data: &[u8]) {
    let mut input = Input(data);
    let capabilities = input.capabilities();
    let length = usize::from(u16::from_le_bytes(input.array()));
    let text = input.bytes(length);
    let names = session::statement(text, input.0, capabilities);
    assert!(names <= 8 * text.len() + 8, "{names} names of {} bytes", text.len());
}

/// Admin SQL.
fn admin(data: &[u8]) {
    if let Err(error) = proxy::admin::command::parse(&String::from_utf8_lossy(data)) {
        assert!(error.to_string().len() <= 1024 + 8 * data.len());
    }
}

fn auth(data: &[u8]) {
    let mut input = Input(data);
    let stored: [u8; 20] = input.array();
    let scramble = input.bytes(20);
    let _ = plugin::recover_sha1(input.0, scramble, &stored);
    let _ = plugin::parse_stored_hash(&String::from_utf8_lossy(input.0));
    let password = Secret::new(input.0);
    if !input.0.contains(&0) && !scramble.is_empty() {
        let back = plugin::deobfuscate(&plugin::obfuscate(&password, scramble), scramble);
        assert_eq!(back.map(|secret| secret.expose().to_vec()).as_deref(), Some(input.0));
    }
    for plugin in [plugin::Plugin::Native, plugin::Plugin::CachingSha2] {
        let _ = plugin.verify(&password, scramble, &stored);
    }
}

/// A whole login at the front door, or what follows a COM_CHANGE_USER.
fn front_door(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let length = usize::from(u16::from_le_bytes(input.array()));
    let command = input.bytes(length);
    let seen = login::front_door(flags, command, input.0).expect("a login ends");
    assert!(flags & 1 == 0 || !seen.let_in, "nobody knows the password");
    assert!(seen.said.len() <= 4096, "{} bytes for a stranger", seen.said.len());
}

/// A whole login at a backend that may say anything.
fn backend_login(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let seen = login::backend(flags, input.0).expect("a login ends");
    assert!(seen.said.len() <= 64 * 1024, "{} bytes for a backend", seen.said.len());
    let password = login::PASSWORD.as_bytes();
    assert!(
        !seen.said.windows(password.len()).any(|part| part == password),
        "the password goes out in clear"
    );
}

/// True where a login of the corpus ends well: what is refused at its first byte isn't fuzzed.
pub fn login_reaches(target: &str, data: &[u8]) -> bool {
    let mut input = Input(data);
    let flags = input.byte();
    let seen = if target == "front_door" {
        let length = usize::from(u16::from_le_bytes(input.array()));
        login::front_door(flags, input.bytes(length), input.0)
    } else {
        login::backend(flags, input.0)
    };
    seen.is_ok_and(|seen| seen.let_in)
}

/// `fuzz.every` of the corpus: a column of each type. MariaDB's JSON is a text.
fn tables(mariadb: bool) -> SchemaSet {
    let integer = |bytes, unsigned| ColumnKind::Integer { bytes, unsigned };
    let kinds = vec![
        integer(4, true),
        integer(1, false),
        integer(2, true),
        integer(3, false),
        integer(8, false),
        ColumnKind::Decimal { precision: 30, scale: 10 },
        ColumnKind::Float,
        ColumnKind::Double,
        ColumnKind::Bit { bits: 13 },
        ColumnKind::Year,
        ColumnKind::Date,
        ColumnKind::Time { fraction: 3 },
        ColumnKind::Datetime { fraction: 6 },
        ColumnKind::Timestamp { fraction: 2 },
        ColumnKind::Text,
        ColumnKind::Text,
        ColumnKind::Text,
        ColumnKind::Binary { length: 8 },
        ColumnKind::Blob,
        ColumnKind::Enum { members: 3 },
        ColumnKind::Set { members: 3 },
        if mariadb { ColumnKind::Text } else { ColumnKind::Json },
        ColumnKind::Geometry,
    ];
    let column = |(place, kind): (usize, ColumnKind)| Column {
        name: format!("c{place}"),
        kind,
        column_type: String::new(),
        charset: None,
        collation: None,
        nullable: place > 0,
        generated: false,
    };
    SchemaSet::new(vec![TableSchema {
        name: TableName::new("fuzz", "every"),
        columns: kinds.into_iter().enumerate().map(column).collect(),
        unique_keys: vec![UniqueKey { name: "PRIMARY".to_owned(), columns: vec![0], prefixes: vec![None] }],
        foreign_keys: Vec::new(),
        has_cascading_children: false,
        rows_estimate: 0,
        create_sql: String::new(),
        keyless: false,
        target: None,
        stored_as: None,
        filter: None,
        left_out: Default::default(),
    }])
}

/// Events of a binlog; the first byte says of which family, and whether they end with a checksum.
fn binlog_events(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let _ = binlog::events(tables(flags & 1 != 0), input.0, flags & 2 != 0);
}

/// How many rows and transactions an input of the corpus holds: what isn't reached isn't fuzzed.
pub fn binlog_reaches(data: &[u8]) -> binlog::Seen {
    let mut input = Input(data);
    let flags = input.byte();
    binlog::events(tables(flags & 1 != 0), input.0, flags & 2 != 0)
}

fn json(data: &[u8]) {
    if let Some(text) = binlog::json(data) {
        assert!(text.len() <= 64 * data.len() + 256, "{} bytes of {}", text.len(), data.len());
    }
}

fn gtid(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for flavor in [Flavor::MySql, Flavor::MariaDb] {
        let Ok(mut set) = GtidSet::parse(flavor, &text) else { continue };
        let again = GtidSet::parse(flavor, &set.to_string()).expect("our own text is understood");
        assert_eq!(again, set);
        assert!(set.contains_set(&again));
        for (uuid, tag, first, last) in set.intervals() {
            let gtid = Gtid::MySql { uuid, tag, number: last };
            assert!(set.contains(&gtid) && first <= last);
            set.add(&gtid);
        }
        assert_eq!(again, set, "what is in it already changes nothing");
    }
    if let Ok(gtid) = text.parse::<Gtid>() {
        assert_eq!(gtid.to_string().parse::<Gtid>().expect("our own text is understood"), gtid);
    }
    if let Ok(position) = text.parse::<BinlogPosition>() {
        assert_eq!(
            position.to_string().parse::<BinlogPosition>().expect("our own text is understood"),
            position
        );
    }
}

/// A configuration file, and its text as the URL of a flag.
fn configuration(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("a temporary file is written");
    let flags = Overrides {
        source: std::str::from_utf8(data).ok().map(str::to_owned).filter(|text| text.starts_with("mysql://")),
        config: Some(file.path().to_owned()),
        ..Overrides::default()
    };
    if let Err(errors) = config::load::load(&flags, &|_| None) {
        let length = errors.to_string().len();
        assert!(length <= 4096 + 64 * data.len(), "{length} bytes of complaint about {}", data.len());
    }
}
