//! The two ends of a login against each other: our front door and our own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use config::ServerVersion;
use proptest::prelude::*;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::auth::client::{LoginError, log_in, read_greeting};
use crate::auth::plugin::sha1_of;
use crate::protocol::packet::OkPacket;

const USER: &str = "app";
const PASSWORD: &str = "sécret";

/// Knows the hash of one password, or none.
struct Stored(Vec<[u8; 20]>);

impl NativeHashes for Stored {
    fn hashes<'a>(&'a self, user: &'a [u8], _: bool) -> NativeHashesFuture<'a> {
        let hashes = if user == USER.as_bytes() { self.0.clone() } else { Vec::new() };
        Box::pin(async move { StoredHashes { hashes, are_all: false } })
    }
}

fn stored(password: &str) -> Keeper {
    let hash = Sha1::digest(*sha1_of(&Secret::new(password))).into();
    Keeper::Backend(Arc::new(Stored(vec![[7; 20], hash])))
}

fn nothing_stored() -> Keeper {
    Keeper::Backend(Arc::new(Stored(Vec::new())))
}

fn door(keeper: Keeper) -> FrontDoor {
    static RSA: std::sync::OnceLock<Arc<RsaKey>> = std::sync::OnceLock::new();
    let rsa = RSA.get_or_init(|| Arc::new(RsaKey::generate().unwrap()));
    FrontDoor { patience: patience(5000), ..FrontDoor::new(Tls::Off, Arc::clone(rsa), keeper) }
}

fn patience(ms: u64) -> Patience {
    let time = Duration::from_millis(ms);
    Patience { first_byte: time, step: time, login: time }
}

fn hello(plugin: Plugin) -> Hello {
    let capabilities = Capabilities::offered(&[Capabilities::from_bits(0xFFFF_FFFF)]);
    Hello {
        server_version: b"8.4.0".to_vec(),
        connection_id: 42,
        status: StatusFlags::AUTOCOMMIT,
        capabilities,
        collation: 255,
        plugin,
        origin: Origin::Socket,
    }
}

fn login(user: &str) -> Login {
    Login {
        user: user.as_bytes().to_vec(),
        schema: Some(b"shop".to_vec()),
        collation: 45,
        capabilities: Capabilities::PROTOCOL_41 | Capabilities::SESSION_TRACK | Capabilities::FOUND_ROWS,
        max_packet: 1 << 24,
        attributes: Some(b"\x01k\x01v".to_vec()),
        client: None,
    }
}

fn pipe() -> (Stream, Stream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    (Stream::Duplex(ours), Stream::Duplex(theirs))
}

fn clear(password: &str) -> Credential {
    Credential::Clear(Secret::new(password))
}

/// The client's side of one login, and what the front door learned.
async fn meet(
    door: &FrontDoor,
    hello: &Hello,
    user: &str,
    credential: &Credential,
) -> (Result<Vec<u8>, LoginError>, Result<(Login, Credential), ClientError>) {
    let (ours, mut theirs) = pipe();
    let client = async {
        let mut frames = Frames::new();
        let greeting = read_greeting(&mut theirs, &mut frames).await?;
        log_in(&mut theirs, &mut frames, &greeting, &login(user), credential).await
    };
    let server = async {
        let accepted = accept(ours, door, hello).await?;
        let ok = OkPacket { info: b"welcome", ..OkPacket::default() }.encode(accepted.login.capabilities);
        let (_, login, credential) = accepted.admit(&ok).await?;
        Ok((login, credential))
    };
    tokio::join!(client, server)
}

fn shown(credential: &Credential) -> String {
    match credential {
        Credential::Empty => "empty".to_owned(),
        Credential::Clear(password) => format!("clear {}", password.expose_str().unwrap()),
        Credential::Sha1(hash) if *hash == sha1_of(&Secret::new(PASSWORD)) => "sha1".to_owned(),
        Credential::Sha1(_) => "another sha1".to_owned(),
    }
}

#[tokio::test]
async fn as_much_of_the_password_as_the_client_gives() {
    let check = async |keeper: Keeper, plugin, credential: Credential, learned: &str| {
        let (client, server) = meet(&door(keeper), &hello(plugin), USER, &credential).await;
        let (login, credential) = server.unwrap();
        assert_eq!(shown(&credential), learned, "{plugin:?}");
        assert_eq!((login.user.as_slice(), login.schema.as_deref()), (&b"app"[..], Some(&b"shop"[..])));
        assert_eq!(login.attributes.as_deref(), Some(&b"\x01k\x01v"[..]));
        assert!(login.capabilities.contains(Capabilities::SESSION_TRACK | Capabilities::FOUND_ROWS));
        assert!(!login.capabilities.contains(Capabilities::DEPRECATE_EOF));
        assert_eq!(OkPacket::parse(&client.unwrap(), login.capabilities).unwrap().info, b"welcome");
    };
    check(nothing_stored(), Plugin::CachingSha2, clear(PASSWORD), "clear sécret").await;
    check(stored(PASSWORD), Plugin::CachingSha2, clear(PASSWORD), "clear sécret").await;
    check(stored(PASSWORD), Plugin::Native, clear(PASSWORD), "sha1").await;
    // A client without the password itself, as the proxy is when it has only seen a native answer.
    check(stored(PASSWORD), Plugin::CachingSha2, Credential::Sha1(sha1_of(&Secret::new(PASSWORD))), "sha1")
        .await;
    check(nothing_stored(), Plugin::Native, clear(PASSWORD), "clear sécret").await;
    check(stored("another"), Plugin::Native, clear(PASSWORD), "clear sécret").await;
    for plugin in [Plugin::Native, Plugin::CachingSha2] {
        check(stored(PASSWORD), plugin, Credential::Empty, "empty").await;
    }
}

#[tokio::test]
async fn a_known_account_is_compared() {
    let check = async |password: &str, user: &str, credential: Credential, enters: bool| {
        for plugin in [Plugin::Native, Plugin::CachingSha2] {
            let keeper = Keeper::Account { user: USER.to_owned(), password: Secret::new(password) };
            let (client, server) = meet(&door(keeper), &hello(plugin), user, &credential).await;
            assert_eq!((client.is_ok(), server.is_ok()), (enters, enters), "{user} {credential:?}");
            if !enters {
                let Err(LoginError::Refused(packet)) = client else { panic!("the client wasn't told") };
                assert_eq!(packet.code, 1045);
            }
        }
    };
    check(PASSWORD, USER, clear(PASSWORD), true).await;
    check(PASSWORD, USER, clear("wrong"), false).await;
    check(PASSWORD, USER, Credential::Empty, false).await;
    check(PASSWORD, "other", clear(PASSWORD), false).await;
    check("", USER, Credential::Empty, true).await;
    check("", USER, clear("x"), false).await;
    check("", "other", Credential::Empty, false).await;
}

#[tokio::test]
async fn a_backend_that_wants_more_than_is_known_is_named() {
    let door = FrontDoor { patience: patience(50), ..door(nothing_stored()) };
    let credential = Credential::Sha1(sha1_of(&Secret::new(PASSWORD)));
    let (client, server) = meet(&door, &hello(Plugin::CachingSha2), USER, &credential).await;
    let Err(LoginError::Credential(packet)) = client else { panic!("{client:?}") };
    assert!(packet.to_string().contains("caching_sha2_password"), "{packet}");
    assert!(!packet.to_string().contains(PASSWORD));
    drop(server);
}

#[tokio::test]
async fn a_capability_that_the_backend_lacks_is_named() {
    let mut hello = hello(Plugin::Native);
    hello.capabilities = hello.capabilities.without(Capabilities::FOUND_ROWS);
    let door = FrontDoor { patience: patience(50), ..door(nothing_stored()) };
    let (client, _) = meet(&door, &hello, USER, &Credential::Empty).await;
    let Err(LoginError::Protocol(reason)) = client else { panic!("{client:?}") };
    assert!(reason.contains("FOUND_ROWS"), "{reason}");
}

#[tokio::test]
async fn without_tls_where_it_is_required() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::ProxyConfig {
        listen: String::new(),
        workers: 0,
        io: config::Io::Epoll,
        scheduling: config::Scheduling::Batch,
        max_connections: 1,
        drain_ms: 0,
        move_every: 0,
        tls: config::TlsMode::Required,
        cert: None,
        key: None,
        client_certificates: Default::default(),
        entrance: Default::default(),
    };
    let required = FrontDoor { tls: Tls::load(&config, folder.path()).unwrap(), ..door(nothing_stored()) };
    let (client, server) = meet(&required, &hello(Plugin::Native), USER, &Credential::Empty).await;
    let Err(LoginError::Refused(packet)) = client else { panic!("{client:?}") };
    assert_eq!(packet.code, 3159);
    assert!(matches!(server, Err(ClientError::Refused(_))));
    config.tls = config::TlsMode::Off;
    assert!(Tls::load(&config, folder.path()).unwrap().offered().is_none());
}

/// What a client that answers the greeting's caching_sha2_password with its token hears first, and then.
async fn after_the_token(door: &FrontDoor, password: &str) -> Vec<Vec<u8>> {
    let (ours, mut theirs) = pipe();
    let client = async {
        let mut frames = Frames::new();
        let greeting = read_greeting(&mut theirs, &mut frames).await.unwrap();
        let mut answer = HandshakeResponse::parse(&a_login().await).unwrap();
        let token = Plugin::CachingSha2.answer(&clear(password), &greeting.scramble).unwrap();
        answer.auth = Secret::new(token.as_slice());
        answer.plugin = Some(Plugin::CachingSha2.name().as_bytes().to_vec());
        frames.write(&mut theirs, &answer.encode()).await.unwrap();
        let first = frames.read(&mut theirs).await.unwrap().to_vec();
        let mut heard = vec![first];
        if heard[0] == [1, 3] {
            heard.push(frames.read(&mut theirs).await.unwrap().to_vec());
        }
        drop(theirs);
        heard
    };
    let server = async {
        if let Ok(accepted) = accept(ours, door, &hello(Plugin::CachingSha2)).await {
            assert_eq!(shown(&accepted.credential), format!("clear {password}"));
            accepted.admit(b"\0the OK").await.unwrap();
        }
    };
    tokio::join!(client, server).0
}

#[tokio::test]
async fn a_known_password_is_not_asked_for_again() {
    let door = door(nothing_stored());
    let asked = vec![vec![1, 4]];
    assert_eq!(after_the_token(&door, PASSWORD).await, asked);
    door.known.accepted(USER.as_bytes(), &clear(PASSWORD));
    assert_eq!(after_the_token(&door, PASSWORD).await, [vec![1, 3], b"\0the OK".to_vec()]);
    assert_eq!(after_the_token(&door, "another").await, asked);
    door.known.refused(USER.as_bytes(), &clear(PASSWORD));
    assert_eq!(after_the_token(&door, PASSWORD).await, asked);
}

#[tokio::test]
async fn a_session_may_change_its_user() {
    let door = door(stored(PASSWORD));
    let mut before = login("other");
    before.capabilities = hello(Plugin::Native).capabilities;
    let (ours, mut theirs) = pipe();
    let client = async {
        let mut frames = Frames::after(0);
        let request = frames.read(&mut theirs).await.unwrap();
        let request = crate::protocol::packet::AuthSwitchRequest::parse(&request).unwrap();
        let plugin = Plugin::from_name(&request.plugin).unwrap();
        let answer = plugin.answer(&clear(PASSWORD), &request.data).unwrap();
        frames.write(&mut theirs, &answer).await.unwrap();
        frames.read(&mut theirs).await.unwrap()
    };
    let command = b"\x11app\0\x00shop\0\x21\x00mysql_native_password\0\x00";
    let server = async {
        let accepted = change_user(ours, &door, &before, command).await.unwrap();
        accepted.admit(&OkPacket::default().encode(before.capabilities)).await.unwrap()
    };
    let (ok, (_, login, credential)) = tokio::join!(client, server);
    assert_eq!(ok.first(), Some(&OkPacket::MARKER));
    assert_eq!(shown(&credential), "sha1");
    assert_eq!((login.user.as_slice(), login.collation), (&b"app"[..], 33));
    assert_eq!(login.capabilities, before.capabilities);
}

#[tokio::test]
async fn silence_is_cut_off() {
    let door = FrontDoor { patience: patience(50), ..door(nothing_stored()) };
    let (ours, _theirs) = pipe();
    assert!(matches!(accept(ours, &door, &hello(Plugin::Native)).await, Err(ClientError::Late { .. })));
}

#[test]
fn two_mariadb_servers_are_greeted_for_with_their_own_plugin() {
    let greeting = |text: &str| Greeting {
        version: ServerVersion::parse(text).unwrap(),
        handshake: greeting(&hello(Plugin::Native), Capabilities::NONE, &[1; 20]),
    };
    let check = |serving: &str, other: &str, plugin| {
        assert_eq!(Hello::new(1, &greeting(serving), &greeting(other)).plugin, plugin);
    };
    check("10.11.19-MariaDB", "11.4.1-MariaDB", Plugin::Native);
    check("10.11.19-MariaDB", "9.7.4", Plugin::CachingSha2);
    check("8.0.36", "9.7.4", Plugin::CachingSha2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is said, the front door ends, and lets nobody in.
    #[test]
    fn garbage_ends_in_an_error(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5),
        framed: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let (ours, mut theirs) = pipe();
            for (number, packet) in packets.iter().enumerate() {
                if framed {
                    let sequence = u8::try_from(2 * number + 1).unwrap();
                    let header = crate::protocol::frame::Header { len: packet.len(), sequence };
                    theirs.write_all(&header.to_bytes()).await.unwrap();
                }
                theirs.write_all(packet).await.unwrap();
            }
            theirs.shutdown().await.unwrap();
            let keeper = Keeper::Account { user: USER.to_owned(), password: Secret::new(PASSWORD) };
            let outcome = accept(ours, &door(keeper), &hello(Plugin::CachingSha2)).await;
            let mut said = Vec::new();
            theirs.read_to_end(&mut said).await.unwrap();
            assert!(said.len() < 4096, "{} bytes", said.len());
            outcome
        });
        prop_assert!(outcome.is_err());
    }
}

/// What a client that sends `bytes` after the greeting, and then nothing, is closed for.
async fn closed_for(patience: Patience, origin: Origin, bytes: &[u8]) -> String {
    let door = FrontDoor { patience, ..door(nothing_stored()) };
    let hello = Hello { origin, ..hello(Plugin::Native) };
    let (ours, mut theirs) = pipe();
    theirs.write_all(bytes).await.unwrap();
    accept(ours, &door, &hello).await.unwrap_err().to_string()
}

#[tokio::test]
async fn every_step_has_its_time() {
    let long = Duration::from_secs(60);
    let short = Duration::from_millis(30);
    let step = Patience { first_byte: long, step: short, login: long };
    let first = Patience { first_byte: short, step: long, login: long };
    let login = Patience { first_byte: long, step: long, login: short };
    let check = async |patience, origin, bytes: &[u8], says: &str| {
        let said = closed_for(patience, origin, bytes).await;
        assert!(said.contains(says), "{said}, not {says}");
    };
    check(first, Origin::Socket, b"", "its first byte").await;
    check(login, Origin::Socket, b"", "its login").await;
    check(step, Origin::Socket, b"\x20", "its first packet").await;
    check(step, Origin::Socket, b"\x20\0\0\x01", "its first packet").await;
    check(step, Origin::MayBeNamed, b"PROXY TCP4", "its PROXY header").await;
    check(first, Origin::MayBeNamed, b"PROXY UNKNOWN\r\n", "its first byte").await;
    let mut response = Vec::new();
    let mut answer = HandshakeResponse::parse(&a_login().await).unwrap();
    answer.auth = Secret::new([1; 20]);
    crate::protocol::frame::put_packet(&mut response, 1, &answer.encode());
    check(step, Origin::Socket, &response, "its next packet").await;
}

/// The response of our own client to our own greeting.
async fn a_login() -> Vec<u8> {
    let (mut ours, mut theirs) = pipe();
    let client = async {
        let mut frames = Frames::new();
        let greeting = read_greeting(&mut theirs, &mut frames).await.unwrap();
        let _ = log_in(&mut theirs, &mut frames, &greeting, &login(USER), &clear(PASSWORD)).await;
    };
    let server = async {
        let mut frames = Frames::new();
        let greeting = greeting(&hello(Plugin::Native), hello(Plugin::Native).capabilities, &[1; 20]);
        frames.write(&mut ours, &greeting.encode()).await.unwrap();
        let response = frames.read(&mut ours).await.unwrap().to_vec();
        drop(ours);
        response
    };
    tokio::join!(client, server).1
}

#[tokio::test]
async fn a_header_before_the_first_packet() {
    let header = "PROXY TCP4 10.9.8.7 1.1.1.1 55 1\r\n";
    let mut response = Vec::new();
    let mut answer = HandshakeResponse::parse(&a_login().await).unwrap();
    answer.auth = Secret::default();
    crate::protocol::frame::put_packet(&mut response, 1, &answer.encode());
    let check = async |origin, bytes: &[u8], client: Option<Option<&str>>| {
        let hello = Hello { origin, ..hello(Plugin::Native) };
        let (ours, mut theirs) = pipe();
        theirs.write_all(bytes).await.unwrap();
        let accepted = accept(ours, &door(nothing_stored()), &hello).await;
        let named = accepted.as_ref().ok().map(|accepted| accepted.login.client);
        assert_eq!(named, client.map(|client| client.map(|text| text.parse().unwrap())), "{accepted:?}");
    };
    let with_header = [header.as_bytes(), &response].concat();
    let named = "10.9.8.7:55";
    check(Origin::MayBeNamed, &with_header, Some(Some(named))).await;
    check(Origin::MayBeNamed, &response, Some(None)).await;
    check(Origin::MayBeNamed, &[b"PROXY UNKNOWN\r\n", response.as_slice()].concat(), Some(None)).await;
    check(Origin::MayBeNamed, &[header.as_bytes(), &with_header].concat(), None).await;
    check(Origin::MayBeNamed, &[b"PROXY NONSENSE\r\n", response.as_slice()].concat(), None).await;
    check(Origin::Socket, &with_header, None).await;
    check(Origin::Named(named.parse().unwrap()), &response, Some(Some(named))).await;
    check(Origin::Named(named.parse().unwrap()), &with_header, None).await;
}
