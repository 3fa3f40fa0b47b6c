//! Sessions on io_uring: worker threads that each own a ring, and sockets whose reads and writes are operations
//! of that ring.
//!
//! A relay's work is system calls: two reads and two writes a statement. With a ring, a worker hands the kernel
//! everything that its sessions want to read and write in one call, and waits for what has come in the same
//! call (docs/benchmarks.md has what that saves). Where the kernel has no ring to give (before 6.1, or forbidden
//! in a container), sessions run on tokio's workers and its epoll as they would without this room.
//!
//! Only sockets of sessions live here, from the end of the login. Timers, dialling and everything else use the
//! drivers of the program's tokio runtime, from which a session's task is woken across threads.
//!
//! **Memory.** The kernel works on buffers while nobody looks. So a buffer belongs to the operation from the
//! moment that it is handed over until the kernel has said that it is done, whatever becomes of the future that
//! waits ([`driver`]); reads of silent connections hold no buffer at all, but take one of the worker's pool when
//! something comes ([`pool`]). But for one call that sets up the allocator,
//! the only unsafe code of the program is in these two files, and one call of [`scheduling`].

mod driver;
mod pool;
mod scheduling;
mod socket;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use driver::Bytes;
pub(crate) use socket::RingSocket;
pub(crate) use worker::Workers;
