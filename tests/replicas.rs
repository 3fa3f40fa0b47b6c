//! A server that replicates through the proxy: its connection is the application's like any other, up to the binary log
//! without an end.

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use crate::support::{Changeover, Engine, Pair, Server};

/// What the replica is told, and how it then stands.
async fn follow(pair: &Pair, changeover: &Changeover) {
    let (source, replica) = (&pair.source, &pair.target);
    source.run(&["CREATE USER replica@'%' IDENTIFIED BY 'replica-Secret_9'"]).await;
    source.run(&["GRANT REPLICATION SLAVE ON *.* TO replica@'%'"]).await;
    let port = changeover.port();
    match source.engine() {
        Engine::MariaDb => {
            let position: String = source.value("SELECT @@gtid_binlog_pos").await;
            replica
                .run(&[
                    "RESET MASTER",
                    &format!("SET GLOBAL gtid_slave_pos = '{position}'"),
                    &format!(
                        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='replica', \
                         MASTER_PASSWORD='replica-Secret_9', MASTER_USE_GTID=slave_pos"
                    ),
                    "START SLAVE",
                ])
                .await;
        }
        _ => {
            let executed: String = source.value("SELECT @@gtid_executed").await;
            replica
                .run(&[
                    &format!("SET GLOBAL gtid_purged = '+{}'", executed.replace('\n', "")),
                    &format!(
                        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='replica', \
                         SOURCE_PASSWORD='replica-Secret_9', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
                    ),
                    "START REPLICA",
                ])
                .await;
        }
    }
}

async fn state(replica: &Server) -> String {
    let sql = if replica.engine() == Engine::MariaDb { "SHOW SLAVE STATUS" } else { "SHOW REPLICA STATUS" };
    let row: Option<Row> = replica.root().await.query_first(sql).await.unwrap();
    format!("{row:?}")
}

async fn replicates(engine: Engine) {
    let Some(pair) = Pair::start(engine, 100).await else { return };
    let changeover = pair.changeover().await;
    follow(&pair, &changeover).await;
    pair.source
        .run(&[
            "CREATE DATABASE followed",
            "CREATE TABLE followed.t (id INT PRIMARY KEY, v LONGBLOB)",
            "INSERT INTO followed.t VALUES (1, 'first'), (2, REPEAT('x', 3000000))",
        ])
        .await;
    let sum = "SELECT IFNULL(SUM(LENGTH(v)), 0) FROM followed.t";
    let arrived = async |wanted: &str| {
        println!("{}", state(&pair.target).await);
        pair.target
            .wait_value("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'followed'", "1")
            .await;
        pair.target.wait_value(sum, wanted).await;
    };
    arrived("3000005").await;
    // The stream holds the session where it is, which is said.
    let sessions = changeover.admin("SHOW SESSIONS").await;
    let of_replica = sessions.iter().find(|row| row["user"] == "replica").expect("its session");
    assert!(!of_replica["pinned_by"].is_empty(), "{of_replica:?}");
    // A stream that is cut off goes on where it was.
    changeover.admin(&format!("KILL SESSION {}", of_replica["id"])).await;
    let again = if engine == Engine::MariaDb {
        ["STOP SLAVE", "START SLAVE"]
    } else {
        ["STOP REPLICA", "START REPLICA"]
    };
    pair.target.run(&again).await;
    pair.source.run(&["INSERT INTO followed.t VALUES (3, 'third')"]).await;
    arrived("3000010").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_replicates_through_the_proxy() {
    replicates(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql97_replicates_through_the_proxy() {
    replicates(Engine::MySql97).await;
}
