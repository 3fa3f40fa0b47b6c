//! How many files may be open: every client takes some of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A client's connection, its backend's, and the other backend's while a cutover prepares its session there.
const PER_CLIENT: u64 = 3;
/// What else is open: listeners, logs, the spool, replication's connections, operators.
const RESERVED: u64 = 200;

/// Raises the soft limit of this process to the hard one, and says so where `max_connections` doesn't fit.
pub(crate) fn raise(max_connections: usize) {
    let now = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    if let Err(error) = raised {
        tracing::warn!(area = "proxy", "the limit of open files can't be raised: {error}");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && let Some(fits) = too_few(limit, max_connections as u64)
    {
        tracing::warn!(
            area = "proxy",
            "this process may open {limit} files, and proxy.max_connections = {max_connections} needs {} during a \
             cutover ({PER_CLIENT} a client): set it to {fits}, or raise the hard limit (ulimit -Hn, LimitNOFILE=)",
            max_connections as u64 * PER_CLIENT + RESERVED
        );
    }
}

/// How many connections fit, where that is fewer than may come.
fn too_few(limit: u64, max_connections: u64) -> Option<u64> {
    let fits = limit.saturating_sub(RESERVED) / PER_CLIENT;
    (fits < max_connections).then_some(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        assert_eq!(too_few(1024, 10_000), Some(274));
        assert_eq!(too_few(20_000, 10_000), Some(6600));
        assert_eq!(too_few(30_200, 10_000), None);
        assert_eq!(too_few(100, 1), Some(0));
    }
}
