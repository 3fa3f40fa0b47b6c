//! The allocator's one setting.
#![allow(unsafe_code)]

/// From this size on a freed block goes back to the system at once.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 4 << 20;

/// Makes freed large blocks leave the process (invariant 7). Left to itself, glibc keeps freed blocks of up to 32 MiB once
/// it has seen one (mallopt(3), `M_MMAP_THRESHOLD`), in an arena for each thread: a few large rows would stay for ever, once
/// for every thread that had one.
pub(crate) fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers and sets one of the allocator's own variables, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}
