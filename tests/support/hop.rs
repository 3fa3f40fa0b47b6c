//! A TCP hop that breaks: it passes bytes on to a server until a fault says what becomes of the connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// In which direction bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Both ends are closed.
    Close,
    /// Both ends are reset.
    Reset,
    /// Nothing more goes in this direction, and the receiver is told so; the other one goes on.
    HalfClose,
    /// Nothing more is read in this direction until [`Hop::resume`].
    Stall,
    /// From there on byte by byte.
    Drip,
}

/// A fault of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Where it counts.
    pub way: Way,
    /// So many bytes still pass.
    pub after: u64,
    /// And then.
    pub what: Break,
}

/// Bytes that one connection has passed on.
#[derive(Debug, Default)]
pub struct Line {
    up: AtomicU64,
    down: AtomicU64,
    /// What had come from the server when the client first spoke.
    greeting: AtomicU64,
    spoke: AtomicBool,
    /// Whether it is one of those that faults meet.
    named: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// Ends it.
    over: CancellationToken,
}

impl Line {
    /// Bytes so far in one direction.
    pub fn passed(&self, way: Way) -> u64 {
        self.counter(way).load(SeqCst)
    }

    /// Bytes of the server's greeting.
    pub fn greeting(&self) -> u64 {
        self.greeting.load(SeqCst)
    }

    fn counter(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    fn fault(&self, way: Way) -> Option<Fault> {
        self.fault.lock().unwrap().filter(|fault| fault.way == way)
    }
}

#[derive(Debug)]
struct Shared {
    to: u16,
    /// Only connections whose login holds this are counted and broken.
    of: Option<Vec<u8>>,
    faults: Mutex<VecDeque<Fault>>,
    at_once: Mutex<Option<Fault>>,
    latest: Mutex<Arc<Line>>,
    hits: AtomicUsize,
    /// The request whose answer is lost next.
    unanswered: Mutex<Option<Vec<u8>>>,
    /// Those that faults meet, as long as they last.
    named: Mutex<Vec<Arc<Line>>>,
    resumed: watch::Sender<bool>,
}

/// A listener that passes on to a port of 127.0.0.1. Ends with everything that goes through it when dropped.
#[derive(Debug)]
pub struct Hop {
    port: u16,
    shared: Arc<Shared>,
    over: CancellationToken,
}

impl Hop {
    /// Faults meet every connection, or those of the user `of` only.
    pub async fn to(port: u16, of: Option<&str>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: port,
            of: of.map(|user| [user.as_bytes(), b"\0"].concat()),
            faults: Mutex::default(),
            at_once: Mutex::default(),
            latest: Mutex::default(),
            hits: AtomicUsize::new(0),
            unanswered: Mutex::default(),
            named: Mutex::default(),
            resumed: watch::channel(false).0,
        });
        let over = CancellationToken::new();
        let (house, end) = (Arc::clone(&shared), over.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = end.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                tokio::spawn(serve(Arc::clone(&house), client, end.child_token()));
            }
        });
        Self { port: address.port(), shared, over }
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One of the next logins meets this.
    pub fn arm(&self, fault: Fault) {
        self.shared.faults.lock().unwrap().push_back(fault);
    }

    /// The next connection meets this, whoever's it is.
    pub fn arm_at_once(&self, fault: Fault) {
        *self.shared.at_once.lock().unwrap() = Some(fault);
    }

    /// Nobody else meets anything.
    pub fn disarm(&self) {
        self.shared.faults.lock().unwrap().clear();
        *self.shared.at_once.lock().unwrap() = None;
    }

    /// Closes every connection that faults meet; how many these were.
    pub fn cut(&self) -> usize {
        let lines = std::mem::take(&mut *self.shared.named.lock().unwrap());
        lines.iter().for_each(|line| line.over.cancel());
        lines.len()
    }

    /// The next statement that begins with this is passed on, and its connection closed instead of its answer.
    pub fn lose_answer_to(&self, sql: &str) {
        // COM_QUERY.
        *self.shared.unanswered.lock().unwrap() = Some([b"\x03", sql.as_bytes()].concat());
    }

    /// Faults that have happened.
    pub fn hits(&self) -> usize {
        self.shared.hits.load(SeqCst)
    }

    /// What stalls goes on.
    pub fn resume(&self) {
        self.shared.resumed.send_replace(true);
    }

    /// The connection that logged in last.
    pub fn latest(&self) -> Arc<Line> {
        Arc::clone(&self.shared.latest.lock().unwrap())
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream, over: CancellationToken) {
    let line = Arc::new(Line { over, ..Line::default() });
    *line.fault.lock().unwrap() = shared.at_once.lock().unwrap().take();
    if shared.of.is_none() {
        shared.named(&line);
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = Pump { shared: &shared, line: &line, way: Way::Up };
    let down = Pump { way: Way::Down, ..up };
    tokio::join!(up.run(from_client, to_server), down.run(from_server, to_client));
    shared.named.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &line));
}

impl Shared {
    fn named(&self, line: &Arc<Line>) {
        *self.latest.lock().unwrap() = Arc::clone(line);
        line.named.store(true, SeqCst);
        self.named.lock().unwrap().push(Arc::clone(line));
        let mut fault = line.fault.lock().unwrap();
        if fault.is_none() {
            *fault = self.faults.lock().unwrap().pop_front();
        }
    }
}

#[derive(Clone, Copy)]
struct Pump<'a> {
    shared: &'a Shared,
    line: &'a Arc<Line>,
    way: Way,
}

impl Pump<'_> {
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        tokio::select! {
            () = self.line.over.cancelled() => {}
            () = self.pass_on(&mut from, &mut to) => {}
        }
    }

    async fn pass_on(self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut bytes = vec![0; 16 * 1024];
        let mut dripping = false;
        loop {
            let Ok(count @ 1..) = from.read(&mut bytes).await else {
                let _ = to.shutdown().await;
                return;
            };
            let mut part = &bytes[..count];
            self.look(part);
            self.lose_answer(part);
            if let Some(fault) = self.line.fault(self.way) {
                let left = fault.after.saturating_sub(self.line.passed(self.way));
                if left <= part.len() as u64 && !dripping {
                    let (last, rest) = part.split_at(left as usize);
                    self.write(to, last).await;
                    self.shared.hits.fetch_add(1, SeqCst);
                    part = rest;
                    match fault.what {
                        Break::Drip => dripping = true,
                        what => {
                            if !self.happen(what, from, to).await {
                                return;
                            }
                            *self.line.fault.lock().unwrap() = None;
                        }
                    }
                }
            }
            if dripping {
                for byte in part {
                    self.write(to, &[*byte]).await;
                    tokio::task::yield_now().await;
                }
            } else {
                self.write(to, part).await;
            }
        }
    }

    /// The client's first bytes say whose connection it is.
    fn look(self, part: &[u8]) {
        if self.way != Way::Up || self.line.spoke.swap(true, SeqCst) {
            return;
        }
        self.line.greeting.store(self.line.passed(Way::Down), SeqCst);
        if let Some(of) = &self.shared.of
            && part.windows(of.len()).any(|window| window == of.as_slice())
        {
            self.shared.named(self.line);
        }
    }

    /// Nothing more comes down, where this is the request whose answer is to be lost.
    fn lose_answer(self, part: &[u8]) {
        if self.way != Way::Up || !self.line.named.load(SeqCst) {
            return;
        }
        let request = part.get(4..).unwrap_or_default();
        let lost = self.shared.unanswered.lock().unwrap().take_if(|wanted| request.starts_with(wanted));
        if lost.is_some() {
            let after = self.line.passed(Way::Down);
            *self.line.fault.lock().unwrap() = Some(Fault { way: Way::Down, after, what: Break::Close });
        }
    }

    async fn write(self, to: &mut OwnedWriteHalf, bytes: &[u8]) {
        // Counted first: whoever has seen an answer finds it counted.
        self.line.counter(self.way).fetch_add(bytes.len() as u64, SeqCst);
        let _ = to.write_all(bytes).await;
    }

    /// True where the connection goes on.
    async fn happen(self, what: Break, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> bool {
        match what {
            Break::Stall => {
                let resumed = self.shared.resumed.subscribe().wait_for(|resumed| *resumed).await.is_ok();
                return resumed;
            }
            Break::HalfClose => {
                let _ = to.shutdown().await;
                // It goes on being read, so that nobody is held back.
                let mut rest = vec![0; 16 * 1024];
                while matches!(from.read(&mut rest).await, Ok(1..)) {}
            }
            Break::Reset => {
                let stream: &TcpStream = from.as_ref();
                let _ = stream.set_zero_linger();
                let stream: &TcpStream = to.as_ref();
                let _ = stream.set_zero_linger();
                self.line.over.cancel();
            }
            Break::Close | Break::Drip => self.line.over.cancel(),
        }
        false
    }
}
