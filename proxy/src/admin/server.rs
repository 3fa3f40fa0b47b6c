//! The listener for operators: the front door, the limits, and a [`super::gateway`] for each client.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use config::AdminConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AdminContext;
use super::gateway::{self, OFFERED};
use super::talk::VERSION;
use crate::auth::arrival::Origin;
use crate::auth::plugin::Plugin;
use crate::auth::server::{FrontDoor, Hello, Keeper, accept};
use crate::error::ClientError;
use crate::protocol::packet::{ErrPacket, OkPacket, StatusFlags};
use crate::protocol::stream::Stream;
use crate::tls::{RsaKey, Tls};

/// Operators at once.
const CLIENTS_MAX: usize = 64;
/// Connections at once that haven't logged in yet: a port scan can't take the operators' places.
const STRANGERS_MAX: usize = 256;
/// How long a shutdown waits for answers that are being written.
const DRAIN: Duration = Duration::from_secs(1);
/// How long accepting rests after the system refused (no file descriptors, most likely).
const REST: Duration = Duration::from_millis(100);
/// utf8mb4_general_ci
const COLLATION: u8 = 45;

/// The admin port.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    context: Arc<AdminContext>,
    door: Arc<FrontDoor>,
    strangers: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    next_id: AtomicU32,
}

impl std::fmt::Debug for AdminContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminContext")
    }
}

impl AdminServer {
    /// Listens. Clients are served once [`AdminServer::run`] runs.
    pub async fn bind(
        config: &AdminConfig,
        tls: Tls,
        rsa: Arc<RsaKey>,
        context: Arc<AdminContext>,
    ) -> io::Result<Self> {
        let keeper = Keeper::Account { user: config.user.clone(), password: config.password.clone() };
        Ok(Self {
            listener: TcpListener::bind(&config.listen).await?,
            context,
            door: Arc::new(FrontDoor::new(tls, rsa, keeper)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            next_id: AtomicU32::new(1),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until cancelled. A cutover that a client asked for goes on without it.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                // Ended ones are taken out, so that the set holds only the living.
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.receive(stream, &mut tasks),
                Err(error) => {
                    tracing::warn!(area = "admin", "a client can't be accepted: {error}");
                    tokio::time::sleep(REST).await;
                }
            }
        }
        drop(self.listener);
        let _ = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    }

    fn receive(&self, stream: TcpStream, tasks: &mut JoinSet<()>) {
        let Ok(stranger) = Arc::clone(&self.strangers).try_acquire_owned() else {
            // Dropped, without a word: whoever holds the places isn't an operator.
            return;
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (door, context, clients) =
            (Arc::clone(&self.door), Arc::clone(&self.context), Arc::clone(&self.clients));
        tasks.spawn(async move {
            let Ok(stream) = Stream::tcp(stream) else { return };
            let Some(client) = welcome(stream, &door, id, &clients).await else { return };
            drop(stranger);
            if let Err(error) = gateway::serve(client.stream, context, id).await {
                tracing::debug!("admin client {id}: {error}");
            }
            drop(client.place);
        });
    }
}

struct Client {
    stream: Stream,
    place: tokio::sync::OwnedSemaphorePermit,
}

/// Lets a client in that knows the password, where there is room.
async fn welcome(stream: Stream, door: &FrontDoor, id: u32, clients: &Arc<Semaphore>) -> Option<Client> {
    // Without the port, so that repeats are one row of SHOW EVENTS.
    let peer = stream.peer_addr().map_or_else(String::new, |peer| peer.ip().to_string());
    let hello = Hello {
        server_version: VERSION.as_bytes().to_vec(),
        connection_id: id,
        status: StatusFlags::AUTOCOMMIT,
        capabilities: OFFERED,
        collation: COLLATION,
        plugin: Plugin::CachingSha2,
        origin: Origin::Socket,
    };
    let accepted = match accept(stream, door, &hello).await {
        Ok(accepted) => accepted,
        Err(ClientError::Refused(_)) => {
            tracing::warn!(area = "admin", "a login from {peer} was refused");
            return None;
        }
        Err(error) => {
            tracing::debug!("admin port, {peer}: {error}");
            return None;
        }
    };
    let Ok(place) = Arc::clone(clients).try_acquire_owned() else {
        accepted.refuse(&ErrPacket::new(1040, b"08004", "Too many connections")).await;
        return None;
    };
    let ok = OkPacket { status: StatusFlags::AUTOCOMMIT, ..OkPacket::default() };
    let (stream, ..) = accepted.admit(&ok.encode(OFFERED)).await.ok()?;
    Some(Client { stream, place })
}
