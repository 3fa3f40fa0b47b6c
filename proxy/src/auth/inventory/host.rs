//! Whether the host part of an account takes a client in.
//!
//! The server decides that, and it may know more of the client than we do (its name, its address). So the answer here
//! is "it may": false only where it can't be.

use std::net::IpAddr;

use config::pattern::like;

/// False where an account with the host `pattern` surely doesn't take in a client that the server calls `seen`. Nothing
/// is sure of a client of which nothing is known.
pub(crate) fn may_take(pattern: &str, seen: &str) -> bool {
    let is_like = || like(&pattern.to_ascii_lowercase(), &seen.to_ascii_lowercase());
    if pattern.is_empty() || seen.is_empty() || is_like() {
        return true;
    }
    let looks_like_address =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':');
    let Ok(address) = seen.parse::<IpAddr>() else {
        // The server turned the address into a name; the address behind it isn't known here.
        return looks_like_address(pattern);
    };
    match pattern.split_once('/') {
        Some((network, mask)) => in_network(address, network, mask),
        // A server that resolves no names may still know this one.
        None => address.is_loopback() && pattern.eq_ignore_ascii_case("localhost"),
    }
}

/// True where it can't be told.
fn in_network(address: IpAddr, network: &str, mask: &str) -> bool {
    match (address, network.parse(), mask.parse::<IpAddr>(), mask.parse::<u32>()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(network)), Ok(IpAddr::V4(mask)), _) => {
            address.to_bits() & mask.to_bits() == network.to_bits()
        }
        (IpAddr::V4(address), Ok(IpAddr::V4(network)), _, Ok(bits @ 0..=32)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V4(_), Ok(IpAddr::V6(_)), ..) | (IpAddr::V6(_), Ok(IpAddr::V4(_)), ..) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_is_ruled_out() {
        let check = |pattern: &str, seen: &str, may: bool| {
            assert_eq!(may_take(pattern, seen), may, "{pattern} {seen}");
        };
        check("%", "10.0.0.9", true);
        check("", "10.0.0.9", true);
        check("10.0.0.9", "", true);
        check("10.0.0.9", "10.0.0.9", true);
        check("10.0.0.8", "10.0.0.9", false);
        check("10.0.%", "10.0.0.9", true);
        check("10.1.%", "10.0.0.9", false);
        check("10.0.0._", "10.0.0.9", true);
        check("10.0.0._", "10.0.0.19", false);
        check("%.example.com", "app.EXAMPLE.com", true);
        check("%.example.com", "app.example.org", false);
        check("10.0.0.8", "app.example.com", true);
        check("app.example.com", "10.0.0.9", false);
        check("localhost", "127.0.0.1", true);
        check("127.0.0.1", "localhost", true);
        check("localhost", "10.0.0.9", false);
        check("10.0.0.0/255.255.255.0", "10.0.0.9", true);
        check("10.0.1.0/255.255.255.0", "10.0.0.9", false);
        check("10.0.0.0/24", "10.0.0.9", true);
        check("10.0.1.0/24", "10.0.0.9", false);
        check("0.0.0.0/0", "10.0.0.9", true);
        check("::1", "10.0.0.9", false);
        check("a\\_b", "a_b", true);
        check("a\\_b", "axb", false);
        check("%a%b%c%", "xxaxxbxxcxx", true);
        check("%a%b%c", "xxaxxbxxcxx", false);
    }
}
