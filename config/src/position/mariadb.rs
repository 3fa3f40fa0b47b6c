//! MariaDB's GTID positions: the last GTID of each replication domain.

use std::collections::BTreeMap;
use std::fmt;

use super::Gtid;

/// The last `(server, sequence)` of each domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MariaDbGtidSet {
    domains: BTreeMap<u32, (u32, u64)>,
}

impl MariaDbGtidSet {
    /// Reads `0-1-100,1-2-5`. A domain that is there twice (as in `@@gtid_binlog_state`) isn't a position.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (domain, server, sequence) = parse_parts(part)?;
            if set.domains.insert(domain, (server, sequence)).is_some() {
                return Err(format!("the domain {domain} is in it twice"));
            }
        }
        Ok(set)
    }

    pub(super) fn add(&mut self, domain: u32, server: u32, sequence: u64) {
        self.domains.insert(domain, (server, sequence));
    }

    pub(super) fn reaches(&self, domain: u32, sequence: u64) -> bool {
        self.domains.get(&domain).is_some_and(|&(_, last)| last >= sequence)
    }

    pub(super) fn contains_set(&self, other: &Self) -> bool {
        other.domains.iter().all(|(&domain, &(_, sequence))| self.reaches(domain, sequence))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }
}

impl fmt::Display for MariaDbGtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, (server, sequence))) in self.domains.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}

/// `0-1-100`.
pub(super) fn parse_gtid(text: &str) -> Result<Gtid, String> {
    let (domain, server, sequence) = parse_parts(text.trim())?;
    Ok(Gtid::MariaDb { domain, server, sequence })
}

fn parse_parts(text: &str) -> Result<(u32, u32, u64), String> {
    let mut words = text.split('-');
    let parts = (words.next(), words.next(), words.next(), words.next());
    let (Some(domain), Some(server), Some(sequence), None) = parts else {
        return Err("a GTID has three numbers: domain-server-sequence".to_owned());
    };
    Ok((number(domain)?, number(server)?, number(sequence)?))
}

fn number<T: std::str::FromStr>(digits: &str) -> Result<T, String> {
    // `parse` would take a leading plus sign.
    let wrong = || "a part isn't a number in range".to_owned();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map_err(|_| wrong())
}
