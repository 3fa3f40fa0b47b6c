//! What may not be left behind by sessions that have ended.

use std::time::Duration;

use super::wait::until;
use super::{Changeover, Server};

/// Waits until no session is left but `sessions`, on the proxy and on the server, and no more files are open than
/// `files` were (with as many sessions).
pub async fn nothing_is_left(server: &Server, changeover: &Changeover, sessions: usize, files: usize) {
    until("no session of those that ended", Duration::from_secs(30), async || {
        let now = changeover.admin("SHOW SESSIONS").await;
        if now.len() == sessions { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    until("no backend connection of the application", Duration::from_secs(30), async || {
        let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER IN ('app', 'unauthenticated user')";
        let left: usize = server.value(sql).await;
        if left == sessions { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    until("every descriptor closed", Duration::from_secs(30), async || {
        let now = changeover.open_files();
        if now.len() <= files { Ok(()) } else { Err(format!("{} of {files}: {now:?}", now.len())) }
    })
    .await;
}
