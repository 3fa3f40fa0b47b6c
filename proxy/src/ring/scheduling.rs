//! How the system's scheduler treats a worker's thread.
#![allow(unsafe_code)]

use tracing::debug;

/// Makes the calling thread wait for its turn where something comes for it while another thread has its core (`SCHED_BATCH`
/// of sched(7)), instead of interrupting that thread.
///
/// Whoever sends a packet to a session mostly goes to sleep right behind it: a client for the answer, a server for the next
/// statement. A worker that interrupts them finds one packet, handles it, sleeps, and is woken for the next. One that waits for
/// that moment finds what the others have sent by then as well. On cores that have nothing else to do nothing changes: it
/// runs at once. docs/benchmarks.md has what it brings.
pub(super) fn wait_for_turn() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the kernel only reads the structure, which outlives the call.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0;
    if refused {
        // Nothing is lost but speed: some containers forbid the call.
        debug!(area = "proxy", "a worker keeps its scheduling: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_waits_for_its_turn() {
        let policy = std::thread::spawn(|| {
            super::wait_for_turn();
            // SAFETY: 0 is the calling thread; nothing is written.
            unsafe { libc::sched_getscheduler(0) }
        });
        assert_eq!(policy.join().ok(), Some(libc::SCHED_BATCH));
    }
}
