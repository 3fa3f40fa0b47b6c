//! The ring against sockets of the standard library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use config::Scheduling;

use super::{RingSocket, Workers};

const LONG: Duration = Duration::from_secs(20);

/// A worker and what keeps its timers; `None`, loudly, where the system gives no ring.
fn worker() -> Option<(tokio::runtime::Runtime, Workers)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let started = {
        let _inside = runtime.enter();
        Workers::start(1, Scheduling::Batch)
    };
    match started {
        Ok(workers) => Some((runtime, workers)),
        Err(error) => {
            assert!(std::env::var_os("CHANGEOVER_REQUIRE_SERVERS").is_none(), "no io_uring: {error}");
            eprintln!("SKIPPED: no io_uring here: {error}");
            None
        }
    }
}

/// Two ends of a TCP connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(LONG)).unwrap();
    far.set_write_timeout(Some(LONG)).unwrap();
    (near, far)
}

/// Runs something on the worker and returns what comes of it.
fn on<T: Send + 'static>(workers: &Workers, work: impl Future<Output = T> + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    workers.spawn(async move {
        let _ = tell.send(work.await);
    });
    told.recv_timeout(LONG).expect("the worker does it")
}

async fn echo(near: TcpStream) {
    let mut socket = RingSocket::adopt(near).unwrap();
    let mut buffer = vec![0; 3000];
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        if count == 0 {
            return;
        }
        socket.write_all(&buffer[..count]).await.unwrap();
        socket.flush().await.unwrap();
    }
}

#[test]
fn what_comes_in_goes_out_in_order() {
    let Some((_runtime, workers)) = worker() else { return };
    let (near, far) = pair();
    workers.spawn(echo(near));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = far.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    (&far).read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent);
}

/// Reads that wait share a few buffers; when those are out, reads bring their own.
#[test]
fn more_connections_than_buffers_in_the_pool() {
    let Some((_runtime, workers)) = worker() else { return };
    let mut far_ends = Vec::new();
    let (tell, told) = mpsc::channel();
    for _ in 0..200 {
        let (near, mut far) = pair();
        // Bytes come, and nobody takes them for now: each holds what it came in.
        far.write_all(b"held").unwrap();
        let tell = tell.clone();
        workers.spawn(async move {
            let mut socket = RingSocket::adopt(near).unwrap();
            let mut first = [0; 1];
            socket.read_exact(&mut first).await.unwrap();
            tell.send(first[0]).unwrap();
            let mut rest = [0; 4];
            socket.read_exact(&mut rest).await.unwrap();
            socket.write_all(&rest).await.unwrap();
            socket.flush().await.unwrap();
        });
        far_ends.push(far);
    }
    for _ in 0..200 {
        assert_eq!(told.recv_timeout(LONG).unwrap(), b'h');
    }
    for (number, far) in far_ends.iter_mut().enumerate() {
        far.write_all(&[number as u8]).unwrap();
        let mut back = [0; 4];
        far.read_exact(&mut back).unwrap();
        assert_eq!(back, [b'e', b'l', b'd', number as u8]);
    }
}

#[test]
fn a_dropped_socket_closes_whatever_is_under_way() {
    let Some((_runtime, workers)) = worker() else { return };
    // A read that waits.
    let (near, mut far) = pair();
    let waited = on(&workers, async move {
        let mut socket = RingSocket::adopt(near).unwrap();
        tokio::time::timeout(Duration::from_millis(20), socket.read_u8()).await.is_err()
    });
    assert!(waited);
    assert_eq!(far.read(&mut [0; 8]).unwrap(), 0, "closed");
    // A write that nobody takes.
    let (near, far) = pair();
    let stuck = on(&workers, async move {
        let mut socket = RingSocket::adopt(near).unwrap();
        let lot = vec![7; 64 << 20];
        let writing = socket.write_owned(lot, 0, 64 << 20);
        tokio::time::timeout(Duration::from_millis(50), writing).await.is_err()
    });
    assert!(stuck);
    let mut got = Vec::new();
    let _ = (&far).read_to_end(&mut got);
    assert!(!got.is_empty() && got.len() < 64 << 20 && got.iter().all(|byte| *byte == 7));
    // Afterwards the worker serves as before.
    let (near, mut far) = pair();
    workers.spawn(echo(near));
    far.write_all(b"still there").unwrap();
    let mut back = [0; 11];
    far.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there");
}

#[test]
fn a_write_to_one_who_left_fails_and_so_does_the_read() {
    let Some((_runtime, workers)) = worker() else { return };
    let (near, far) = pair();
    drop(far);
    let (read, written) = on(&workers, async move {
        let mut socket = RingSocket::adopt(near).unwrap();
        let read = socket.read(&mut [0; 8]).await;
        let mut written = Ok(());
        for _ in 0..100 {
            written = socket.write_owned(vec![1; 1 << 16], 0, 1 << 16).await.1;
            if written.is_err() {
                break;
            }
        }
        (read.ok(), written)
    });
    assert_eq!(read, Some(0));
    assert!(written.is_err());
}

#[test]
fn quiet_is_who_has_said_nothing() {
    let Some((_runtime, workers)) = worker() else { return };
    for is_read_before in [false, true] {
        let (near, mut far) = pair();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        workers.spawn(async move {
            let mut socket = RingSocket::adopt(near).unwrap();
            if is_read_before {
                let read = tokio::time::timeout(Duration::from_millis(5), socket.read_u8()).await;
                assert!(read.is_err());
            }
            tell.send(socket.is_quiet()).unwrap();
            gone.await.unwrap();
            while socket.is_quiet() {
                tokio::task::yield_now().await;
            }
            tell.send(socket.read_u8().await.unwrap() == b'x').unwrap();
        });
        assert!(told.recv_timeout(LONG).unwrap());
        far.write_all(b"x").unwrap();
        go.send(()).unwrap();
        assert!(told.recv_timeout(LONG).unwrap());
    }
}

#[test]
fn a_panic_ends_its_own_session_only() {
    let Some((_runtime, workers)) = worker() else { return };
    let (near, mut far) = pair();
    workers.spawn(async move {
        let _socket = RingSocket::adopt(near).unwrap();
        panic!("as asked for by the test");
    });
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(on(&workers, async { 7 }), 7);
}

#[test]
fn away_from_its_worker_a_socket_does_nothing_and_still_closes() {
    let Some((runtime, workers)) = worker() else { return };
    let (near, mut far) = pair();
    let mut socket = on(&workers, async move { RingSocket::adopt(near).unwrap() });
    assert!(runtime.block_on(socket.read_u8()).is_err());
    assert!(RingSocket::adopt(pair().0).is_err());
    drop(socket);
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
}

/// What a session holds goes back when it ends, and it ends when its worker's ring does, whatever it waits for.
#[test]
fn a_ring_that_fails_ends_its_sessions() {
    struct Held(mpsc::Sender<&'static str>, &'static str);
    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let Some((runtime, workers)) = worker() else { return };
    let (tell, told) = mpsc::channel();
    let mut far_ends = Vec::new();
    for what in ["reads", "writes", "waits"] {
        let (near, far) = pair();
        let held = Held(tell.clone(), what);
        workers.spawn(async move {
            let held = held;
            let mut socket = RingSocket::adopt(near).unwrap();
            let ended = match what {
                "reads" => socket.read_u8().await.map(drop),
                "writes" => socket.write_owned(vec![7; 64 << 20], 0, 64 << 20).await.1,
                _ => {
                    // Not for its socket, and for longer than the ring lives.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    socket.write_all(b"x").await
                }
            };
            let _ = held.0.send(if ended.is_err() { "an error" } else { "no error" });
        });
        far_ends.push(far);
    }
    assert_eq!(on(&workers, async { 7 }), 7);
    workers.break_rings();
    let mut heard: Vec<&str> = (0..6).map(|_| told.recv_timeout(LONG).expect("they end")).collect();
    heard.sort_unstable();
    assert_eq!(heard, ["an error", "an error", "an error", "reads", "waits", "writes"]);
    for far in &mut far_ends {
        let mut rest = Vec::new();
        let _ = far.read_to_end(&mut rest);
        assert!(!rest.contains(&b'x'), "its connection is closed");
    }
    // Whoever comes later is served without a ring.
    let _inside = runtime.enter();
    assert!(!on(&workers, async { RingSocket::can_adopt() }));
    let began = std::time::Instant::now();
    while workers.sessions() > 0 {
        assert!(began.elapsed() < LONG, "a session is still counted");
        std::thread::yield_now();
    }
}
