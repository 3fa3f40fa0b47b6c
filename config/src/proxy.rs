//! Listeners and backends.

use std::path::PathBuf;

use rustls::pki_types::{InvalidDnsNameError, ServerName};

use crate::{BackendTls, EntranceConfig, Secret, SentHeader};

/// The proxy that applications connect to.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// `host:port` to listen on. Port 0 asks the system for one.
    pub listen: String,
    /// Worker threads; 0 is one a core.
    pub workers: usize,
    /// How sessions read and write.
    pub io: Io,
    /// Of the workers that carry sessions on io_uring.
    pub scheduling: Scheduling,
    /// Clients at once; one more is answered with error 1040.
    pub max_connections: usize,
    /// How long a shutdown waits for statements and transactions to end.
    pub drain_ms: u64,
    /// For tests: every session is moved to the other backend after so many commands; 0 never. Both backends
    /// are one server then.
    pub move_every: u32,
    /// Whether clients may, must or can't use TLS.
    pub tls: TlsMode,
    /// Certificate chain (PEM). `None`: one is made on first start, in `state_dir`.
    pub cert: Option<PathBuf>,
    /// Private key (PEM) of `cert`.
    pub key: Option<PathBuf>,
    /// Whether clients are asked for certificates.
    pub client_certificates: ClientCertificates,
    /// Who may come in, and how fast.
    pub entrance: EntranceConfig,
}

/// Whether clients are asked for certificates, and the file (PEM) with the authorities that sign them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// No client is.
    #[default]
    NotAsked,
    /// A client may have none; one that it shows has to be of these.
    Optional(PathBuf),
    /// Every client has to show one of these.
    Required(PathBuf),
}

/// How sessions read and write their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// By io_uring where the system has it (Linux 6.1, and not forbidden), else by epoll.
    Auto,
    /// By readiness, one system call for each read and write.
    Epoll,
    /// By io_uring; where that can't be had the proxy doesn't start.
    IoUring,
}

/// What the system does when something comes for a relay worker while its core runs something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// The worker waits for its turn, as `SCHED_BATCH` of sched(7) has it, and then finds more to do at once.
    Batch,
    /// It interrupts what runs there, as any other thread.
    Normal,
}

/// Whether a listener speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// The capability isn't offered.
    Off,
    /// Offered, and up to the client.
    Preferred,
    /// A client without it is refused with error 3159.
    Required,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// `host:port` to listen on. Port 0 asks the system for one.
    pub listen: String,
    /// The only account.
    pub user: String,
    /// Its password. Empty is allowed on a loopback address only.
    pub password: Secret,
}

/// The HTTP console.
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// True where the operator named it, so that nothing listens where nobody asked for it.
    pub named: bool,
}

/// A database server and the service account Changeover uses on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The service account's name.
    pub user: String,
    /// The service account's password.
    pub password: Secret,
    /// The PROXY header that connections of the application begin with.
    pub proxy_protocol: SentHeader,
    /// TLS of every connection to it.
    pub tls: BackendTls,
}

impl BackendConfig {
    /// What its certificate has to be made out for, where that is verified.
    pub fn server_name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(self.host.clone())
    }

    /// `host:port`, with brackets around an IPv6 address; for dialling and for messages.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
