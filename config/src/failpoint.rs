//! Named places at which a test kills the process, so that recovery is proved at that very instruction.
//!
//! A build without debug assertions has none of them: a release binary ignores the variable.

/// Ends the process at once, as `kill -9` would, where the environment variable `CHANGEOVER_FAILPOINT`
/// names this place. Nothing is flushed and no destructor runs.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("CHANGEOVER_FAILPOINT").ok());
    if wanted.as_deref() == Some(name) {
        std::process::abort();
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_name: &str) {}
