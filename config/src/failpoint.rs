//! Named places at which a test kills the process, or holds it while something else is killed, so that recovery is proved
//! at that very instruction.
//!
//! A build without debug assertions has none of them: a release binary ignores the variables.

/// Ends the process at once, as `kill -9` would, where the environment variable `CHANGEOVER_FAILPOINT`
/// names this place. Nothing is flushed and no destructor runs.
///
/// Where the file that `CHANGEOVER_HOLD` names holds the name of this place, it is renamed to `….reached`, and this thread
/// waits until that is removed.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    static WANTED: OnceLock<(Option<String>, Option<PathBuf>)> = OnceLock::new();
    let (wanted, hold) = WANTED.get_or_init(|| {
        let hold = std::env::var_os("CHANGEOVER_HOLD").map(PathBuf::from);
        (std::env::var("CHANGEOVER_FAILPOINT").ok(), hold)
    });
    if wanted.as_deref() == Some(name) {
        std::process::abort();
    }
    let Some(hold) = hold else { return };
    let reached = hold.with_extension("reached");
    if std::fs::read_to_string(hold).is_ok_and(|place| place == name)
        && std::fs::rename(hold, &reached).is_ok()
    {
        while reached.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_name: &str) {}
