//! The buffers that a worker's silent connections share: the kernel takes one when bytes come, and says which.
//!
//! Source: io_uring_register_buf_ring(3). The ring of free buffers is an array of entries in memory that both
//! sides see; its tail lies in a reserved field of the first entry, is written by us and read by the kernel.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The group that reads name.
pub(super) const GROUP: u16 = 1;
/// A power of two. When all are in use reads bring buffers of their own, so this bounds memory and nothing else.
const COUNT: u16 = 64;
/// Bytes of one: nearly every statement and most answers; as much as the servers write at once (net_buffer_length).
pub(super) const SIZE: usize = 16 * 1024;
const PAGE: usize = 4096;

/// Buffers of one ring. Never freed: the kernel may use them for as long as the ring lives, and a worker lives
/// as long as the process.
pub(super) struct Pool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    tail: u16,
}

/// A buffer that the kernel has filled. Not given back by itself.
#[derive(Debug)]
pub(super) struct Taken(u16);

impl Pool {
    /// Makes the buffers known to the ring.
    pub(super) fn register(ring: &IoUring) -> io::Result<Self> {
        let entries = page_aligned(usize::from(COUNT) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let bytes = page_aligned(usize::from(COUNT) * SIZE)?;
        // SAFETY: the memory is zeroed, aligned to a page, as long as COUNT entries need, and never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, COUNT, GROUP, 0)? };
        let mut pool = Self { entries, bytes, tail: 0 };
        (0..COUNT).for_each(|id| pool.give_back(Taken(id)));
        Ok(pool)
    }

    /// The buffer that a completion names; `None` for an id that was never given out.
    pub(super) fn taken(id: u16) -> Option<Taken> {
        (id < COUNT).then_some(Taken(id))
    }

    /// What the kernel wrote. `len` is at most [`SIZE`].
    pub(super) fn bytes(&self, buffer: &Taken, len: usize) -> &[u8] {
        let start = usize::from(buffer.0) * SIZE;
        // SAFETY: the id is below COUNT and the length is cut, so this lies within the allocation, which was
        // zeroed and is never freed. The kernel doesn't write there until the buffer is given back, which takes
        // `&mut self` and the `Taken` itself.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(start), len.min(SIZE)) }
    }

    /// The kernel may fill it again.
    pub(super) fn give_back(&mut self, buffer: Taken) {
        let start = usize::from(buffer.0) * SIZE;
        let place = usize::from(self.tail % COUNT);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `place` is below COUNT, so the entry lies within the allocation; entries between head and tail
        // are the kernel's, and there are at most COUNT - 1 of them while this buffer was out, so this one isn't.
        // The fields are written one by one, because the tail lies within the first entry. The tail is aligned,
        // and the release makes the entry visible before it.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(self.bytes.as_ptr().add(start) as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(buffer.0);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Release);
        }
    }
}

fn page_aligned(size: usize) -> io::Result<NonNull<u8>> {
    let layout = Layout::from_size_align(size, PAGE).map_err(io::Error::other)?;
    // SAFETY: the layout isn't empty.
    let memory = unsafe { alloc_zeroed(layout) };
    Ok(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)))
}
