//! The PROXY header: texts of the specification, everything that isn't one, and never a byte too many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn whole(bytes: &[u8], client: Option<&str>) {
    let client = client.map(|text| text.parse().unwrap());
    assert_eq!(parse(bytes).unwrap(), Start::Whole { len: bytes.len(), client }, "{}", bytes.escape_ascii());
}

fn wrong(bytes: &[u8], says: &str) {
    let error = parse(bytes).unwrap_err();
    assert!(error.0.contains(says), "{}: {}", bytes.escape_ascii(), error.0);
}

#[test]
fn lines_of_version_1() {
    whole(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", Some("192.168.0.1:56324"));
    whole(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535"));
    whole(b"PROXY TCP4 1.1.1.1 1.1.1.1 0 1\r\n", Some("1.1.1.1:0"));
    whole(b"PROXY TCP6 2001:db8::1 ::1 5 6\r\n", Some("[2001:db8::1]:5"));
    whole(V1_UNKNOWN, None);
    whole(b"PROXY UNKNOWN ffff::1 whatever else stands here\r\n", None);
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(line.len(), V1_MAX);
    whole(line.as_bytes(), None);
    for line in [
        "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        "PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
        "PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n",
        "PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 ::1 ::1 1 1\r\n         ",
        "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 here 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 \r\n",
        "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY UNKNOWN\n\n",
        "PROXY UNKNOWN \0",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\r\r\n",
        "PROXY UNKNOWN \u{e9}\r\n",
    ] {
        wrong(line.as_bytes(), "malformed");
    }
    wrong(format!("PROXY UNKNOWN {}", "x".repeat(92)).as_bytes(), "doesn't end");
    wrong(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes(), "malformed");
    for text in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXY\tTCP4", "PROX\r", "\r\n\r\n\0\r\nQUIT\r"] {
        wrong(text.as_bytes(), "doesn't begin");
    }
}

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn binaries_of_version_2() {
    let v4 = [10, 1, 2, 3, 127, 0, 0, 1, 0x30, 0x39, 0x0C, 0xEA];
    whole(&binary(0x21, 0x11, &v4), Some("10.1.2.3:12345"));
    whole(&binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()), Some("10.1.2.3:12345"));
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[33]) = (0xfd, 7, 9);
    whole(&binary(0x21, 0x21, &v6), Some("[fd00::7]:9"));
    whole(&binary(0x21, 0x31, &[0; 216]), None);
    whole(&binary(0x21, 0x00, &[]), None);
    whole(&binary(0x20, 0x11, &v4), None);
    whole(&binary(0x20, 0xFF, &[]), None);
    whole(&v2_local(), None);
    whole(&binary(0x20, 0x00, &[1; V2_REST_MAX]), None);
    wrong(&binary(0x20, 0x00, &[1; V2_REST_MAX + 1]), "too long");
    wrong(&binary(0x21, 0x11, &v4[..11]), "too short");
    wrong(&binary(0x21, 0x21, &v4), "too short");
    wrong(&binary(0x21, 0x31, &v4), "too short");
    for family in [0x12, 0x22, 0x32, 0x01, 0x10, 0x41, 0xFF] {
        wrong(&binary(0x21, family, &[0; 216]), "no stream");
    }
    for command in [0x22, 0x11, 0x01, 0x31, 0xFF] {
        wrong(&binary(command, 0x11, &v4), "version or command");
    }
}

/// A stream that counts what was taken from it.
async fn read_all(bytes: &[u8], begun: usize) -> (Result<Option<SocketAddr>, ReadError>, usize) {
    let (start, mut rest) = bytes.split_at(begun);
    let outcome = read(&mut rest, start).await;
    (outcome, rest.len())
}

#[tokio::test]
async fn reading_stops_where_the_header_ends() {
    let login = b"\x20\0\0\x01 and so on";
    let (client, server) = ("[fd00::1]:77".parse().unwrap(), "[::1]:3306".parse().unwrap());
    for header in [
        v1(client, server),
        v2(client, server),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
        b"PROXY TCP6 :: :: 1 1\r\n".to_vec(),
        binary(0x20, 0, &[]),
        binary(0x21, 0x11, &[9; 400]),
    ] {
        for begun in [0, 4] {
            let (outcome, left) = read_all(&[&header[..], login].concat(), begun).await;
            assert!(outcome.is_ok());
            assert_eq!(left, login.len(), "{}", header.escape_ascii());
        }
        for cut in 0..header.len() {
            let (outcome, _) = read_all(&header[..cut], 0).await;
            assert!(matches!(outcome, Err(ReadError::Io(_))), "{cut} of {}", header.escape_ascii());
        }
    }
    assert!(matches!(read_all(b"GET / HTTP/1.1\r\n\r\n", 0).await.0, Err(ReadError::Malformed(_))));
}

#[test]
fn what_is_sent_is_in_one_family() {
    let check = |client: &str, server: &str, line: &str| {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        assert_eq!(String::from_utf8(v1(client, server)).unwrap(), format!("{line}\r\n"));
    };
    check("10.0.0.1:5", "10.0.0.2:3306", "PROXY TCP4 10.0.0.1 10.0.0.2 5 3306");
    check("[::ffff:10.0.0.1]:5", "10.0.0.2:3306", "PROXY TCP4 10.0.0.1 10.0.0.2 5 3306");
    check("10.0.0.1:5", "[fd00::2]:3306", "PROXY TCP4 10.0.0.1 0.0.0.0 5 3306");
    check("[fd00::1]:5", "[fd00::2]:3306", "PROXY TCP6 fd00::1 fd00::2 5 3306");
    check("[fd00::1]:5", "10.0.0.2:3306", "PROXY TCP6 fd00::1 ::ffff:10.0.0.2 5 3306");
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from)
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(client in address(), server in address()) {
        let named = SocketAddr::new(client.ip().to_canonical(), client.port());
        for header in [v1(client, server), v2(client, server)] {
            prop_assert!(header.len() <= V1_MAX);
            prop_assert_eq!(parse(&header).unwrap(), Start::Whole { len: header.len(), client: Some(named) });
        }
    }

    /// Any split of any bytes: a verdict, once there, doesn't change with what follows, and what is asked for is
    /// never more than the header has.
    #[test]
    fn a_verdict_stands(
        start in prop_oneof![Just(&b"PROXY "[..]), Just(&b"PROXY TCP4 "[..]), Just(&V2_SIGNATURE[..]), Just(&b""[..])],
        rest in prop_oneof![
            "[0-9a-fUNKOW:. ]{0,120}(\r\n)?.{0,3}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..120),
            prop::collection::vec(prop_oneof![Just(0x21), Just(0x20), Just(0x11), Just(0), Just(12)], 0..40),
        ],
    ) {
        let bytes = [start, &rest].concat();
        let mut known: Option<Result<Start, ()>> = None;
        let mut least = 0;
        for len in 0..=bytes.len() {
            let verdict = parse(&bytes[..len]).map_err(drop);
            match (&known, &verdict) {
                (Some(known), _) => prop_assert_eq!(known, &verdict),
                (None, Ok(Start::More(count))) => {
                    prop_assert!(*count > 0 && *count <= V2_FIXED + V2_REST_MAX);
                    least = least.max(len + count);
                }
                (None, Ok(Start::Whole { len: whole, .. })) => {
                    prop_assert_eq!(*whole, len);
                    prop_assert!(least <= len);
                    known = Some(verdict);
                }
                (None, Err(())) => known = Some(verdict),
            }
        }
    }
}
