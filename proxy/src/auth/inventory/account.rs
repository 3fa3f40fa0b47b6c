//! What an account of a server is, as far as moving its sessions goes.

use std::fmt;

use config::AccountName;

use crate::auth::Credential;
use crate::auth::plugin::{Plugin, parse_stored_hash};
use crate::auth::sha_crypt;

/// Accounts that belong to the server itself.
const OWN: &[&str] = &["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];

/// One of the ways into an account: a plugin, and what the server keeps to check it with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) plugin: String,
    pub(crate) stored: Vec<u8>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // invariant 8: a hash is as good as a secret.
        f.debug_struct("Way").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// Whether a credential opens a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// Only SHA1 of the password is known, and the plugin needs the password.
    NeedsPassword,
    /// The stored form isn't understood.
    Unknown,
}

impl Way {
    /// The plugin, where Changeover speaks it and some password opens this way.
    pub(super) fn usable(&self) -> Option<Plugin> {
        let plugin = Plugin::of_account(&self.plugin)?;
        let opens = plugin != Plugin::Native || self.is_open() || self.native_hash().is_some();
        opens.then_some(plugin)
    }

    /// True where the server knows by itself that it doesn't fit a TCP connection.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.plugin.as_str(), "unix_socket" | "auth_socket")
    }

    /// True where there is no password.
    pub(super) fn is_open(&self) -> bool {
        self.stored.is_empty()
    }

    pub(super) fn native_hash(&self) -> Option<[u8; 20]> {
        parse_stored_hash(std::str::from_utf8(&self.stored).ok()?)
    }

    /// Works out, without a login, whether `credential` opens it.
    pub(super) fn fit(&self, credential: &Credential) -> Fit {
        let said = |fits: bool| if fits { Fit::Yes } else { Fit::No };
        match (self.usable(), credential) {
            (None, _) => Fit::No,
            (_, Credential::Empty) => said(self.is_open()),
            _ if self.is_open() => Fit::No,
            (Some(Plugin::Native), _) => {
                said(credential.native_hash().is_some() && credential.native_hash() == self.native_hash())
            }
            (Some(_), Credential::Sha1(_)) => Fit::NeedsPassword,
            (Some(_), Credential::Clear(password)) => {
                sha_crypt::fits(password, &self.stored).map_or(Fit::Unknown, said)
            }
        }
    }
}

/// An account.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) host: String,
    /// Each of them alone lets a session in. Empty: none does.
    pub(crate) ways: Vec<Way>,
    /// Further factors are asked for.
    pub(crate) factors: bool,
    pub(crate) locked: bool,
    pub(crate) expired: bool,
    /// REQUIRE SSL, where Changeover dials without it, or a certificate (X509, SUBJECT, ISSUER) or cipher, where it
    /// shows none.
    pub(crate) requires_tls: bool,
    /// REQUIRE of more than SSL.
    pub(crate) requires_certificate: bool,
    /// REQUIRE of SUBJECT, ISSUER or CIPHER, where Changeover shows a certificate: whether it fits isn't looked at.
    pub(crate) names_certificate: bool,
    /// The privileges that let it write in spite of `read_only`.
    pub(crate) past_read_only: Vec<String>,
}

impl Account {
    /// `'user'@'host'`, fit to be pasted.
    pub(crate) fn name(&self) -> String {
        AccountName { user: self.user.clone(), host: self.host.clone() }.to_string()
    }

    /// The names of its plugins.
    pub(super) fn plugins(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for way in &self.ways {
            if !names.contains(&way.plugin.as_str()) {
                names.push(&way.plugin);
            }
        }
        names.join(" or ")
    }

    /// The ways that Changeover gets to. The server goes through them in their order, so behind the first that asks
    /// the client for a plugin that isn't spoken here none is reached.
    pub(super) fn usable_ways(&self) -> impl Iterator<Item = &Way> {
        let reached = |way: &&Way| way.is_silent() || Plugin::of_account(&way.plugin).is_some();
        self.ways.iter().take_while(reached).filter(|way| way.usable().is_some())
    }

    pub(crate) fn is_servers_own(&self) -> bool {
        OWN.contains(&self.user.as_str())
    }

    pub(super) fn is(&self, user: &str, host: &str) -> bool {
        self.user == user && self.host.eq_ignore_ascii_case(host)
    }
}
