//! One worker's ring: operations in flight, and what became of them.
//!
//! Every socket has at most one read and one write in flight. A write owns its bytes, a read owns its buffer or
//! has none until bytes come. A socket that is dropped is shut down, so that its operations end, and its place
//! is freed when the last of them has.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::net::{SendFlags, Shutdown};
use slab::Slab;

use super::pool::{self, Pool, Taken};

/// Operations that are handed over at once; more go in portions.
const ENTRIES: u32 = 1024;
/// Sockets whose file the ring knows by a number, which saves the kernel a look-up for each operation. Others
/// work as well.
const FILES_MAX: u32 = 16 * 1024;
/// What a read of a connection with a lot to say brings along, in bytes.
const LARGE: usize = 64 * 1024;
/// The completion of the worker's bell.
const BELL: u64 = u64::MAX;

/// Which of a socket's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read = 0,
    Write = 1,
}

/// A socket's read.
#[derive(Debug)]
enum Read {
    /// None.
    Idle,
    /// Under way; the buffer is empty where one of the pool's will be taken.
    InFlight(Vec<u8>, Option<Waker>),
    /// Bytes from `start` to `end` are there to be taken.
    Done { place: Place, start: usize, end: usize },
    /// It failed, or the other end has closed (`None`). Both are for good.
    Ended(Option<io::ErrorKind>),
}

/// Where the bytes of a read lie.
#[derive(Debug)]
enum Place {
    Pool(Taken),
    Own(Vec<u8>),
}

/// A socket's write.
#[derive(Debug)]
enum Write {
    /// None.
    Idle,
    /// Under way.
    InFlight { bytes: Vec<u8>, start: usize, end: usize, waker: Option<Waker> },
    /// It went as it went; the buffer is the writer's again.
    Done(Vec<u8>, io::Result<()>),
}

#[derive(Debug)]
struct Entry {
    fd: OwnedFd,
    /// The ring knows its file by the entry's key.
    is_registered: bool,
    read: Read,
    write: Write,
    /// A buffer that an earlier large read has left.
    spare: Vec<u8>,
    /// Its socket was dropped.
    is_closing: bool,
}

impl Entry {
    fn is_in_flight(&self) -> bool {
        matches!(self.read, Read::InFlight(..)) || matches!(self.write, Write::InFlight { .. })
    }
}

/// A ring and the sockets on it.
pub(super) struct Driver {
    ring: IoUring,
    pool: Pool,
    files: u32,
    entries: Slab<Entry>,
    bell: OwnedFd,
    /// What the kernel writes the bell's count to.
    bell_count: Box<[u8; 8]>,
    bell_is_set: bool,
    /// Whoever waited for what is done. Woken by the worker, because a waker may run anything.
    woken: Vec<Waker>,
    /// Memory for the completions of a turn.
    done: Vec<cqueue::Entry>,
    /// The last turn has brought one thing only.
    is_lonely: bool,
}

impl Driver {
    /// Must be called on the thread that will use it.
    pub(super) fn new(bell: OwnedFd) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // One thread only, and the kernel does its part when that thread asks, not in between.
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let ring: IoUring = builder.build(ENTRIES)?;
        let pool = Pool::register(&ring)?;
        let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let wanted =
            open_files.map_or(FILES_MAX, |open| u32::try_from(open).unwrap_or(FILES_MAX)).min(FILES_MAX);
        let files = ring.submitter().register_files_sparse(wanted).map_or(0, |()| wanted);
        let entries = Slab::new();
        Ok(Self {
            ring,
            pool,
            files,
            entries,
            bell,
            bell_count: Box::new([0; 8]),
            bell_is_set: false,
            woken: Vec::new(),
            done: Vec::new(),
            is_lonely: true,
        })
    }

    /// Takes a connected socket over.
    pub(super) fn adopt(&mut self, socket: TcpStream) -> io::Result<usize> {
        // A read of a non-blocking file fails where it should wait.
        socket.set_nonblocking(false)?;
        let entry = Entry {
            fd: socket.into(),
            is_registered: false,
            read: Read::Idle,
            write: Write::Idle,
            spare: Vec::new(),
            is_closing: false,
        };
        let key = self.entries.insert(entry);
        self.register(key);
        Ok(key)
    }

    fn register(&mut self, key: usize) {
        let (Some(entry), Ok(index)) = (self.entries.get_mut(key), u32::try_from(key)) else { return };
        let updated = index < self.files
            && self.ring.submitter().register_files_update(index, &[entry.fd.as_raw_fd()]).is_ok();
        entry.is_registered = updated;
    }

    /// The file, for the few questions that are asked past the ring.
    pub(super) fn file(&self, key: usize) -> Option<&OwnedFd> {
        self.entries.get(key).map(|entry| &entry.fd)
    }

    /// True where bytes, or an end, have come and weren't taken.
    pub(super) fn has_read(&self, key: usize) -> bool {
        matches!(self.entries.get(key).map(|entry| &entry.read), Some(Read::Done { .. } | Read::Ended(_)))
    }

    /// Reads; what has come is given to `take`, which says how much of it it took. With `is_large` the read
    /// brings a large buffer along, and `take` may keep that.
    pub(super) fn poll_read(
        &mut self,
        key: usize,
        cx: &mut Context<'_>,
        is_large: bool,
        take: impl FnOnce(Bytes<'_>) -> usize,
    ) -> Poll<io::Result<usize>> {
        let Some(entry) = self.entries.get_mut(key) else { return Poll::Ready(Err(gone())) };
        match &mut entry.read {
            Read::InFlight(_, waker) => {
                note(waker, cx);
                return Poll::Pending;
            }
            Read::Ended(None) => return Poll::Ready(Ok(0)),
            Read::Ended(Some(kind)) => return Poll::Ready(Err((*kind).into())),
            Read::Done { place, start, end } => {
                let taken = match place {
                    Place::Pool(buffer) => {
                        let bytes = self.pool.bytes(buffer, *end).get(*start..).unwrap_or_default();
                        take(Bytes::Shared(bytes))
                    }
                    Place::Own(buffer) => take(Bytes::Own { buffer, start: *start, end: *end }),
                };
                let taken = taken.min(*end - *start);
                *start += taken;
                if start == end
                    && let Read::Done { place, .. } = std::mem::replace(&mut entry.read, Read::Idle)
                {
                    match place {
                        Place::Pool(buffer) => self.pool.give_back(buffer),
                        Place::Own(buffer) => entry.spare = buffer,
                    }
                }
                return Poll::Ready(Ok(taken));
            }
            Read::Idle => {}
        }
        let buffer = if is_large {
            let mut spare = std::mem::take(&mut entry.spare);
            spare.resize(LARGE, 0);
            spare
        } else {
            Vec::new()
        };
        entry.read = Read::InFlight(buffer, Some(cx.waker().clone()));
        match self.start_read(key) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                self.end_read(key, Read::Idle);
                Poll::Ready(Err(error))
            }
        }
    }

    /// Gives back memory that only a connection with a lot to say needs.
    pub(super) fn release(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.spare = Vec::new();
        }
    }

    /// Writes `bytes[start..end]`. The write before must be done.
    pub(super) fn write(&mut self, key: usize, bytes: Vec<u8>, start: usize, end: usize) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(key) else { return Err(gone()) };
        if !matches!(entry.write, Write::Idle) {
            return Err(io::Error::other("a write began before the one before it was done"));
        }
        let end = end.min(bytes.len());
        let mut start = start.min(end);
        if self.is_lonely {
            // The kernel would do it while it is asked to wait, and come back at once to say so: with nothing else to
            // hand over a call of its own is cheaper. What it doesn't take now, or refuses, is left to the ring.
            let part = bytes.get(start..end).unwrap_or_default();
            start +=
                rustix::net::send(&entry.fd, part, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0);
            if start == end {
                entry.write = Write::Done(bytes, Ok(()));
                return Ok(());
            }
        }
        entry.write = Write::InFlight { bytes, start, end, waker: None };
        self.start_write(key).inspect_err(|_| self.forget_write(key))
    }

    /// Returns the buffer and the outcome of the write that is under way; at once where there is none.
    pub(super) fn poll_written(
        &mut self,
        key: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(Vec<u8>, io::Result<()>)> {
        let Some(entry) = self.entries.get_mut(key) else { return Poll::Ready((Vec::new(), Err(gone()))) };
        if let Write::InFlight { waker, .. } = &mut entry.write {
            note(waker, cx);
            return Poll::Pending;
        }
        match std::mem::replace(&mut entry.write, Write::Idle) {
            Write::Done(bytes, outcome) => Poll::Ready((bytes, outcome)),
            Write::Idle | Write::InFlight { .. } => Poll::Ready((Vec::new(), Ok(()))),
        }
    }

    /// The socket is no longer wanted. What it still has in flight ends first.
    pub(super) fn close(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.is_closing = true;
        if entry.is_in_flight() {
            // Reads and writes that wait return at once.
            let _ = rustix::net::shutdown(&entry.fd, Shutdown::Both);
        } else {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: usize) {
        let Some(entry) = self.entries.try_remove(key) else { return };
        if let Read::Done { place: Place::Pool(buffer), .. } = entry.read {
            self.pool.give_back(buffer);
        }
        if let (true, Ok(index)) = (entry.is_registered, u32::try_from(key)) {
            // The ring's own hold on the file would keep the connection open.
            let _ = self.ring.submitter().register_files_update(index, &[-1 as RawFd]);
        }
    }

    /// Gives everything up, because the ring doesn't work any more. Returns those who wait for something on it: they
    /// have to look, and find nothing.
    pub(super) fn give_up(mut self) -> Vec<Waker> {
        let mut waiting = std::mem::take(&mut self.woken);
        for (_, entry) in &mut self.entries {
            if let Read::InFlight(_, waker) = &mut entry.read {
                waiting.extend(waker.take());
            }
            if let Write::InFlight { waker, .. } = &mut entry.write {
                waiting.extend(waker.take());
            }
        }
        waiting
    }

    /// Hands over what was begun, and, where `wait` says so, sleeps until something is done. Whoever waited for
    /// what is goes to `woken`.
    pub(super) fn turn(&mut self, wait: bool, woken: &mut Vec<Waker>) -> io::Result<()> {
        if !self.bell_is_set {
            self.set_bell()?;
        }
        match self.ring.submit_and_wait(usize::from(wait)) {
            Ok(_) => {}
            // EBUSY: completions have to be taken first, which is what comes now.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc_errno::EINTR | libc_errno::EBUSY | libc_errno::EAGAIN)
                ) => {}
            Err(error) => return Err(error),
        }
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.ring.completion());
        self.is_lonely = done.len() <= 1;
        for completion in done.drain(..) {
            self.complete(&completion);
        }
        self.done = done;
        woken.append(&mut self.woken);
        Ok(())
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        if completion.user_data() == BELL {
            self.bell_is_set = false;
            return;
        }
        let (key, is_write) = ((completion.user_data() >> 1) as usize, completion.user_data() & 1 == 1);
        if is_write {
            self.written(key, completion.result());
        } else {
            let buffer = cqueue::buffer_select(completion.flags()).and_then(Pool::taken);
            self.came(key, completion.result(), buffer);
        }
        if self.entries.get(key).is_some_and(|entry| entry.is_closing && !entry.is_in_flight()) {
            self.remove(key);
        }
    }

    /// A read is done.
    fn came(&mut self, key: usize, result: i32, buffer: Option<Taken>) {
        let again = matches!(-result, libc_errno::EINTR | libc_errno::EAGAIN);
        let Some(Entry { read: Read::InFlight(own, _), .. }) = self.entries.get_mut(key) else {
            if let Some(buffer) = buffer {
                self.pool.give_back(buffer);
            }
            return;
        };
        if -result == libc_errno::ENOBUFS || again {
            // The pool is empty: this one brings a buffer along.
            *own = vec![0; if again { own.len() } else { pool::SIZE }];
            if let Err(error) = self.start_read(key) {
                self.end_read(key, Read::Ended(Some(error.kind())));
            }
            return;
        }
        let own = std::mem::take(own);
        let read = match (usize::try_from(result), buffer) {
            (Err(_), _) => Read::Ended(Some(io::Error::from_raw_os_error(-result).kind())),
            (Ok(0), None) => Read::Ended(None),
            (Ok(0), Some(buffer)) => {
                self.pool.give_back(buffer);
                Read::Ended(None)
            }
            (Ok(end), Some(buffer)) => Read::Done { place: Place::Pool(buffer), start: 0, end },
            (Ok(end), None) => Read::Done { end: end.min(own.len()), place: Place::Own(own), start: 0 },
        };
        self.end_read(key, read);
    }

    fn end_read(&mut self, key: usize, to: Read) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Read::InFlight(_, Some(waker)) = std::mem::replace(&mut entry.read, to) {
            self.woken.push(waker);
        }
    }

    /// A write is done, or a part of it.
    fn written(&mut self, key: usize, result: i32) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Write::InFlight { start, end, .. } = &mut entry.write else { return };
        let outcome = match usize::try_from(result) {
            Ok(0) if start < end => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *start += count;
                Ok(())
            }
            Err(_) if matches!(-result, libc_errno::EINTR | libc_errno::EAGAIN) => Ok(()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let outcome = match outcome {
            Ok(()) if start < end => match self.start_write(key) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            other => other,
        };
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Write::InFlight { bytes, waker, .. } = std::mem::replace(&mut entry.write, Write::Idle) {
            entry.write = Write::Done(bytes, outcome);
            if let Some(waker) = waker {
                self.woken.push(waker);
            }
        }
    }

    fn forget_write(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.write = Write::Idle;
        }
    }

    fn start_read(&mut self, key: usize) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(key) else { return Err(gone()) };
        let Read::InFlight(buffer, _) = &mut entry.read else { return Err(gone()) };
        let (address, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let operation = match entry.is_registered {
            true => opcode::Recv::new(types::Fixed(key as u32), address, len),
            false => opcode::Recv::new(types::Fd(entry.fd.as_raw_fd()), address, len),
        };
        let operation = if len > 0 {
            operation.build()
        } else {
            // Bytes have hardly ever come already, so the kernel needn't look before it waits.
            let operation = operation.ioprio(POLL_FIRST).buf_group(pool::GROUP).build();
            operation.flags(squeue::Flags::BUFFER_SELECT)
        };
        // SAFETY: the buffer lives on the heap, is owned by the entry, and neither moved to another place nor
        // freed before the completion of this operation, since only `came` and `end_read` take it from there.
        // Without a buffer the kernel takes one of the pool's, which is never freed.
        unsafe { self.push(&operation.user_data((key as u64) << 1 | Way::Read as u64)) }
    }

    fn start_write(&mut self, key: usize) -> io::Result<()> {
        let Some(entry) = self.entries.get(key) else { return Err(gone()) };
        let Write::InFlight { bytes, start, end, .. } = &entry.write else { return Err(gone()) };
        let part = bytes.get(*start..*end).unwrap_or_default();
        let (address, len) = (part.as_ptr(), u32::try_from(part.len()).unwrap_or(u32::MAX));
        let operation = match entry.is_registered {
            true => opcode::Send::new(types::Fixed(key as u32), address, len),
            false => opcode::Send::new(types::Fd(entry.fd.as_raw_fd()), address, len),
        };
        let operation = operation.flags(NO_SIGNAL).build();
        // SAFETY: as for a read; only `written` takes the bytes from the entry.
        unsafe { self.push(&operation.user_data((key as u64) << 1 | Way::Write as u64)) }
    }

    fn set_bell(&mut self) -> io::Result<()> {
        let (address, len) = (self.bell_count.as_mut_ptr(), self.bell_count.len() as u32);
        let operation = opcode::Read::new(types::Fd(self.bell.as_raw_fd()), address, len).build();
        // SAFETY: the eight bytes are in a box of the driver's, and nobody else touches them.
        unsafe { self.push(&operation.user_data(BELL))? };
        self.bell_is_set = true;
        Ok(())
    }

    /// # Safety
    /// What the operation points to must stay valid, and be nobody else's to write, until its completion.
    unsafe fn push(&mut self, operation: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        if unsafe { self.ring.submission().push(operation) }.is_ok() {
            return Ok(());
        }
        self.ring.submit()?;
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(operation) }.map_err(|_| io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for (_, entry) in &self.entries {
            let _ = rustix::net::shutdown(&entry.fd, Shutdown::Both);
        }
        // The kernel may still write to what is in flight, so that memory is given up instead of freed.
        std::mem::forget(std::mem::take(&mut self.entries));
        std::mem::forget(std::mem::replace(&mut self.bell_count, Box::new([0; 8])));
    }
}

/// What a read has brought.
pub(crate) enum Bytes<'a> {
    /// To be copied.
    Shared(&'a [u8]),
    /// To be copied, or kept with the buffer where all of it is taken.
    Own { buffer: &'a mut Vec<u8>, start: usize, end: usize },
}

impl Bytes<'_> {
    /// All of them.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own { buffer, start, end } => buffer.get(*start..*end).unwrap_or_default(),
        }
    }
}

/// IORING_RECVSEND_POLL_FIRST.
const POLL_FIRST: u16 = 1;
/// MSG_NOSIGNAL: an error instead of SIGPIPE.
const NO_SIGNAL: i32 = SendFlags::NOSIGNAL.bits() as i32;

/// Error numbers that a completion may hold.
mod libc_errno {
    use rustix::io::Errno;

    pub(super) const EINTR: i32 = Errno::INTR.raw_os_error();
    pub(super) const EAGAIN: i32 = Errno::AGAIN.raw_os_error();
    pub(super) const EBUSY: i32 = Errno::BUSY.raw_os_error();
    pub(super) const ENOBUFS: i32 = Errno::NOBUFS.raw_os_error();
}

fn note(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn gone() -> io::Error {
    io::Error::other("the socket isn't on this worker's ring")
}
