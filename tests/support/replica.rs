//! Servers that replicate from another one, from the beginning of its binary log.

use super::{Engine, Server};

/// Makes `replica`, which is empty, follow `source`: with its schemas it gets its accounts.
pub async fn follow(source: &Server, replica: &Server) {
    source.run(&["CREATE USER replica@'%' IDENTIFIED BY 'replica-Secret_9'"]).await;
    source.run(&["GRANT REPLICATION SLAVE ON *.* TO replica@'%'"]).await;
    let port = source.port();
    let change = match source.engine() {
        Engine::MariaDb => format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='replica', \
             MASTER_PASSWORD='replica-Secret_9', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1"
        ),
        _ => format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='replica', \
             SOURCE_PASSWORD='replica-Secret_9', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1"
        ),
    };
    replica.run(&[&change]).await;
    run(replica, true, "").await;
}

/// Waits until it has applied everything that the source has logged so far.
pub async fn catch_up(source: &Server, replica: &Server) {
    let (logged, wait) = match source.engine() {
        Engine::MariaDb => ("SELECT @@GLOBAL.gtid_binlog_pos", "MASTER_GTID_WAIT"),
        _ => ("SELECT @@GLOBAL.gtid_executed", "WAIT_FOR_EXECUTED_GTID_SET"),
    };
    let gtids: String = source.value(logged).await;
    replica.wait_value(&format!("SELECT {wait}('{gtids}', 1)"), "0").await;
}

/// Starts or stops it; `what` is one of its threads, or nothing for both.
pub async fn run(replica: &Server, goes: bool, what: &str) {
    let verb = if goes { "START" } else { "STOP" };
    let word = if replica.engine() == Engine::MariaDb { "SLAVE" } else { "REPLICA" };
    replica.run(&[&format!("{verb} {word} {what}")]).await;
}

/// From here on it applies what it gets so many seconds later.
pub async fn delay(replica: &Server, seconds: u32) {
    run(replica, false, "SQL_THREAD").await;
    let change = match replica.engine() {
        Engine::MariaDb => format!("CHANGE MASTER TO MASTER_DELAY = {seconds}"),
        _ => format!("CHANGE REPLICATION SOURCE TO SOURCE_DELAY = {seconds}"),
    };
    if replica.engine() == Engine::MariaDb {
        run(replica, false, "").await;
    }
    replica.run(&[&change]).await;
    run(replica, true, "").await;
}
