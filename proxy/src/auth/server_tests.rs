//! The two ends of a login against each other: our front door and our own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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
    fn hashes<'a>(&'a self, user: &'a [u8]) -> NativeHashesFuture<'a> {
        let hashes = if user == USER.as_bytes() { self.0.clone() } else { Vec::new() };
        Box::pin(async move { hashes })
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
    FrontDoor { timeout: Duration::from_secs(5), ..FrontDoor::new(Tls::Off, Arc::clone(rsa), keeper) }
}

fn hello(plugin: Plugin) -> Hello {
    let capabilities = Capabilities::offered(&[Capabilities::from_bits(0xFFFF_FFFF)]);
    Hello { server_version: b"8.4.0".to_vec(), connection_id: 42, capabilities, collation: 255, plugin }
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
    let door = FrontDoor { timeout: Duration::from_millis(50), ..door(nothing_stored()) };
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
    let door = FrontDoor { timeout: Duration::from_millis(50), ..door(nothing_stored()) };
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
        max_connections: 1,
        drain_ms: 0,
        move_every: 0,
        tls: config::TlsMode::Required,
        cert: None,
        key: None,
    };
    let required = FrontDoor { tls: Tls::load(&config, folder.path()).unwrap(), ..door(nothing_stored()) };
    let (client, server) = meet(&required, &hello(Plugin::Native), USER, &Credential::Empty).await;
    let Err(LoginError::Refused(packet)) = client else { panic!("{client:?}") };
    assert_eq!(packet.code, 3159);
    assert!(matches!(server, Err(ClientError::Refused(_))));
    config.tls = config::TlsMode::Off;
    assert!(Tls::load(&config, folder.path()).unwrap().offered().is_none());
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
    let door = FrontDoor { timeout: Duration::from_millis(50), ..door(nothing_stored()) };
    let (ours, _theirs) = pipe();
    assert!(matches!(accept(ours, &door, &hello(Plugin::Native)).await, Err(ClientError::Timeout(50))));
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
