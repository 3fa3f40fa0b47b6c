//! MariaDB's UUID, INET4 and INET6 to the text that the server prints.

use std::fmt::Write as _;

use super::cursor::Malformed;

/// The trailing zeros that the binlog leaves out.
fn whole<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    let mut whole = [0; N];
    match whole.get_mut(..bytes.len()) {
        Some(head) => head.copy_from_slice(bytes),
        None => return Err(Malformed::new("a UUID or INET value is longer than its type")),
    }
    Ok(whole)
}

/// UUID: in the order in which it is printed.
pub(crate) fn uuid(bytes: &[u8]) -> Result<String, Malformed> {
    let bytes = whole::<16>(bytes)?;
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        // Writing to a String can't fail.
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}

/// INET4.
pub(crate) fn inet4(bytes: &[u8]) -> Result<String, Malformed> {
    Ok(std::net::Ipv4Addr::from(whole::<4>(bytes)?).to_string())
}

/// INET6. The longest run of zero words becomes `::`, be it a single one; the first of two equal ones. What holds
/// an address of version 4 ends with that.
pub(crate) fn inet6(bytes: &[u8]) -> Result<String, Malformed> {
    let address = std::net::Ipv6Addr::from(whole::<16>(bytes)?);
    let words = address.segments();
    let (mut at, mut length) = (0, 0);
    for begin in 0..words.len() {
        let run = words.iter().skip(begin).take_while(|word| **word == 0).count();
        if run > length {
            (at, length) = (begin, run);
        }
    }
    let [.., high, low] = words;
    let version_4 = at == 0 && (length == 6 || (length == 5 && words.get(5) == Some(&0xffff)));
    let mut out = String::with_capacity(39);
    let mut index = 0;
    while index < words.len() {
        if index == at && length > 0 {
            out.push_str("::");
            index += length;
            continue;
        }
        if !out.is_empty() && !out.ends_with(':') {
            out.push(':');
        }
        if index == 6 && version_4 {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            let _ = write!(out, "{}", std::net::Ipv4Addr::new(a, b, c, d));
            break;
        }
        let _ = write!(out, "{:x}", words.get(index).copied().unwrap_or_default());
        index += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_are_printed_as_the_server_prints_them() {
        let check = |text: &str, expected: &str| {
            let bytes = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let stored = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            assert_eq!(inet6(&bytes[..stored]).unwrap(), expected);
        };
        // Each as MariaDB 10.11 printed it.
        check("::", "::");
        check("::1", "::1");
        check("1:0:2:3:4:5:6:7", "1::2:3:4:5:6:7");
        check("0:1:2:3:4:5:6:7", "::1:2:3:4:5:6:7");
        check("1:0:0:4:5:0:0:7", "1::4:5:0:0:7");
        check("::7:7", "::0.7.0.7");
        check("::1:7:7", "::1:7:7");
        check("1:2:3:4:5:6:7:0", "1:2:3:4:5:6:7::");
        check("::ffff:0:0", "::ffff:0.0.0.0");
        check("::1:0", "::0.1.0.0");
        check("::ffff:1.2.3.4", "::ffff:1.2.3.4");
        check("fe80::1:0:0:1", "fe80::1:0:0:1");
        check("1:0:0:2::3", "1:0:0:2::3");
        check("2001:db8::", "2001:db8::");
    }

    #[test]
    fn the_zeros_that_were_left_out_come_back() {
        assert_eq!(inet4(&[10]).unwrap(), "10.0.0.0");
        assert_eq!(uuid(&[0x12, 0x3e]).unwrap(), "123e0000-0000-0000-0000-000000000000");
        assert!(inet4(&[1, 2, 3, 4, 5]).is_err());
    }
}
