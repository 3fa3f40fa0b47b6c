//! Networks of addresses, as an operator writes them: `10.0.0.0/8`, `::1`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and how many of its first bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// True where `address` is one of its own. An IPv4 address is the same when it comes mapped into IPv6, as
    /// it does on a socket that serves both.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                ((own.to_bits() ^ other.to_bits()) & mask_v4(self.prefix)) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                ((own.to_bits() ^ other.to_bits()) & mask_v6(self.prefix)) == 0
            }
            _ => false,
        }
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} isn't a network; write 10.0.0.0/8, 127.0.0.1 or ::1");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        if address.to_canonical() != address {
            return Err(format!("{text:?}: write {} instead", address.to_canonical()));
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|n| *n <= bits).ok_or_else(wanted)?
            }
            Some(_) => return Err(wanted()),
        };
        let base: IpAddr = match address {
            IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() & mask_v4(prefix)).into(),
            IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() & mask_v6(prefix)).into(),
        };
        if base != address {
            // A typing error in either half would trust others than were meant.
            return Err(format!("{text:?} has bits behind its prefix; write {base}/{prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_address_is_in_its_network() {
        let check = |network: &str, address: &str, inside: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        };
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("10.0.0.0/8", "a00::", false);
        check("192.168.4.0/22", "192.168.7.255", true);
        check("192.168.4.0/22", "192.168.8.0", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("::1", "::1", true);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe00::1", false);
        check("::/0", "fe00::1", true);
        check("::/0", "::ffff:1.2.3.4", false);
    }

    #[test]
    fn what_is_no_network_says_so() {
        let check = |text: &str, says: &str| {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        for text in
            ["", "/", "10", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/8/8", "localhost"]
        {
            check(text, "isn't a network");
        }
        check("10.0.0.1/8", "write 10.0.0.0/8");
        check("fd00::1/8", "write fd00::/8");
        check("::ffff:10.0.0.1", "write 10.0.0.1");
    }

    proptest::proptest! {
        #[test]
        fn reading_never_fails_badly_and_a_network_holds_its_own(text in "[0-9a-f:./]{0,24}") {
            if let Ok(network) = text.parse::<Network>() {
                assert!(network.contains(network.address));
                assert_eq!(network.to_string().parse(), Ok(network));
            }
        }
    }
}
