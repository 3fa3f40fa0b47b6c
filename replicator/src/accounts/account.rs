//! An account as its server keeps it.

use std::fmt;

use config::AccountName;
use mysql_async::{Row, Value};
use serde_json::Value as Json;
use zeroize::Zeroizing;

/// The plugin that an account without a named one has.
pub(super) const NATIVE: &str = "mysql_native_password";

/// One of the ways in: a plugin and what it checks with.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) plugin: String,
    pub(super) stored: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // invariant 8: a hash is as good as a secret.
        f.debug_struct("Way").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// What a connection has to show beside the password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Tls {
    #[default]
    None,
    Any,
    X509,
    /// Cipher, issuer and subject; what is empty isn't asked for.
    Specified([String; 3]),
}

/// What MySQL 8 and newer ask of new passwords and of failed logins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) history: Option<u64>,
    pub(super) reuse_days: Option<u64>,
    pub(super) require_current: Option<bool>,
    pub(super) failed_attempts: Option<u64>,
    /// -1 is for ever.
    pub(super) lock_days: Option<i64>,
}

/// An account, without its privileges.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Account {
    pub(super) name: AccountName,
    /// MariaDB's: it can't log in and has no host.
    pub(super) is_role: bool,
    pub(super) ways: Vec<Way>,
    /// The ways are what it takes together, not what it takes one of.
    pub(super) factors: bool,
    /// RETAIN CURRENT PASSWORD was said.
    pub(super) second_password: bool,
    pub(super) tls: Tls,
    /// Queries, updates and connections an hour, and connections at a time; 0 is no limit.
    pub(super) limits: [i64; 4],
    /// MariaDB's MAX_STATEMENT_TIME in seconds.
    pub(super) statement_s: f64,
    pub(super) locked: bool,
    pub(super) expired: bool,
    /// Days after which the password expires, 0 never; none: what the server says.
    pub(super) lifetime_days: Option<i64>,
    pub(super) policy: Policy,
    /// COMMENT and ATTRIBUTE of MySQL: a JSON object.
    pub(super) metadata: Option<String>,
    pub(super) default_roles: Vec<AccountName>,
}

impl Account {
    /// True where nothing but the name is needed to log in.
    pub(super) fn has_no_password(&self) -> bool {
        let is_open = |way: &Way| {
            way.stored.is_empty()
                && matches!(
                    way.plugin.as_str(),
                    NATIVE | "caching_sha2_password" | "sha256_password" | "ed25519"
                )
        };
        self.ways.iter().any(is_open)
    }

    /// The account from MariaDB's document.
    pub(super) fn of_document(name: AccountName, document: &[u8]) -> Option<Self> {
        let document: Json = serde_json::from_slice(document).ok()?;
        let is = |key: &str| document.get(key).and_then(Json::as_bool).unwrap_or(false);
        let number = |key: &str| document.get(key).and_then(Json::as_i64);
        let text = |key: &str| document.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let way = |of: &Json| {
            let member = |key: &str| of.get(key).and_then(Json::as_str);
            Way {
                plugin: member("plugin").unwrap_or(NATIVE).to_owned(),
                stored: Zeroizing::new(
                    member("authentication_string").unwrap_or_default().as_bytes().to_vec(),
                ),
            }
        };
        let ways = match document.get("auth_or").and_then(Json::as_array) {
            // The empty one stands for the document's own.
            Some(all) => {
                let of = |one| if Json::get(one, "plugin").is_some() { way(one) } else { way(&document) };
                all.iter().map(of).collect()
            }
            None => vec![way(&document)],
        };
        let specified = || [text("ssl_cipher"), text("x509_issuer"), text("x509_subject")];
        let is_role = is("is_role");
        let limit = |key: &str| number(key).unwrap_or_default();
        let default_role = Some(text("default_role")).filter(|role| !role.is_empty());
        Some(Self {
            ways: if is_role { Vec::new() } else { ways },
            name,
            is_role,
            tls: match number("ssl_type").unwrap_or_default() {
                0 => Tls::None,
                1 => Tls::Any,
                2 => Tls::X509,
                _ => Tls::Specified(specified()),
            },
            limits: ["max_questions", "max_updates", "max_connections", "max_user_connections"].map(limit),
            statement_s: document.get("max_statement_time").and_then(Json::as_f64).unwrap_or_default(),
            locked: is("account_locked"),
            expired: number("password_last_changed") == Some(0),
            lifetime_days: number("password_lifetime").filter(|days| *days >= 0),
            default_roles: default_role
                .map(|user| AccountName { user, host: String::new() })
                .into_iter()
                .collect(),
            ..Self::default()
        })
    }

    /// The account from a row of MySQL's `mysql.user`, of any version.
    pub(super) fn of_row(row: &Row) -> Self {
        let text = |name: &str| String::from_utf8_lossy(field(row, name)).into_owned();
        let number = |name: &str| text(name).parse::<i64>().ok();
        let yes = |name: &str| field(row, name) == b"Y";
        let plugin = Some(text("plugin")).filter(|plugin| !plugin.is_empty());
        // Before 5.7 the hash of mysql_native_password has a column of its own.
        let stored = match field(row, "authentication_string") {
            [] => field(row, "Password"),
            stored => stored,
        };
        let attributes: Json = serde_json::from_slice(field(row, "User_attributes")).unwrap_or_default();
        let locking = attributes.get("Password_locking");
        let of_locking = |key: &str| locking.and_then(|locking| locking.get(key)).and_then(Json::as_i64);
        let has_members =
            |key: &str| attributes.get(key).and_then(Json::as_array).is_some_and(|a| !a.is_empty());
        let specified = || [text("ssl_cipher"), text("x509_issuer"), text("x509_subject")];
        let unsigned = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let limit = |name: &str| number(name).unwrap_or_default();
        Self {
            name: AccountName { user: text("User"), host: text("Host") },
            ways: vec![Way {
                plugin: plugin.unwrap_or_else(|| NATIVE.to_owned()),
                stored: Zeroizing::new(stored.to_vec()),
            }],
            factors: has_members("multi_factor_authentication"),
            second_password: attributes.get("additional_password").is_some(),
            tls: match field(row, "ssl_type") {
                b"" => Tls::None,
                b"ANY" => Tls::Any,
                b"X509" => Tls::X509,
                _ => Tls::Specified(specified()),
            },
            limits: ["max_questions", "max_updates", "max_connections", "max_user_connections"].map(limit),
            locked: yes("account_locked"),
            expired: yes("password_expired"),
            lifetime_days: number("password_lifetime"),
            policy: Policy {
                history: unsigned(number("Password_reuse_history")),
                reuse_days: unsigned(number("Password_reuse_time")),
                require_current: (!field(row, "Password_require_current").is_empty())
                    .then(|| yes("Password_require_current")),
                failed_attempts: unsigned(of_locking("failed_login_attempts")),
                lock_days: of_locking("password_lock_time_days"),
            },
            metadata: attributes.get("metadata").map(Json::to_string),
            ..Self::default()
        }
    }
}

/// A column's bytes; none where it is NULL or isn't there.
pub(super) fn field<'a>(row: &'a Row, name: &str) -> &'a [u8] {
    let at = row.columns_ref().iter().position(|column| column.name_str().eq_ignore_ascii_case(name));
    match at.and_then(|at| row.as_ref(at)) {
        Some(Value::Bytes(bytes)) => bytes,
        _ => &[],
    }
}
