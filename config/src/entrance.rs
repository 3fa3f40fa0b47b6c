//! How clients come in, and how the backends are told who they are.

use crate::network::Network;
use crate::raw::{Problems, Said};

/// Whether a load balancer in front of the proxy says whom it speaks for (`proxy.proxy_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyHeaders {
    /// Nobody does. A header is no login, and closes the connection.
    #[default]
    Off,
    /// Those of `proxy_protocol_from` may; whoever doesn't is the client.
    Optional,
    /// Every connection begins with a header; others than those of `proxy_protocol_from` are turned away.
    Required,
}

/// Which PROXY header a backend is sent (`source.proxy_protocol`, `target.proxy_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SentHeader {
    /// None.
    #[default]
    Off,
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}

impl SentHeader {
    /// As it stands in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Who may come in, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntranceConfig {
    /// Whether PROXY headers are taken.
    pub headers: ProxyHeaders,
    /// From whom.
    pub headers_from: Vec<Network>,
    /// New connections a second, all clients together; 0 is no limit.
    pub max_connects_per_s: u32,
}

pub(crate) const HEADERS: &[(&str, ProxyHeaders)] =
    &[("off", ProxyHeaders::Off), ("optional", ProxyHeaders::Optional), ("required", ProxyHeaders::Required)];

pub(crate) const SENT_HEADERS: &[(&str, SentHeader)] =
    &[("off", SentHeader::Off), ("v1", SentHeader::V1), ("v2", SentHeader::V2)];

/// Reads `proxy.proxy_protocol_from`.
pub(crate) fn networks(said: Option<Said<Vec<String>>>, problems: &mut Problems) -> Vec<Network> {
    let Some(said) = said else { return Vec::new() };
    let mut networks = Vec::new();
    for text in &said.value {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(what) => problems.add(said.place, format!("proxy.proxy_protocol_from: {what}")),
        }
    }
    networks
}
