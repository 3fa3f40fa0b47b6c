//! The launcher itself: what every other module stands on.

use crate::support::{Engine, Server, accounts};

async fn starts_and_survives_kill_9(engine: Engine) {
    let Some(mut server) = Server::start(engine, &[]).await else { return };
    accounts::create(&server, "shop").await;
    server
        .run(&[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id INT PRIMARY KEY)",
            "INSERT INTO shop.t VALUES (1)",
        ])
        .await;
    let mut app = mysql_async::Conn::new(server.opts(accounts::APP, accounts::APP_PASSWORD, Some("shop")))
        .await
        .unwrap();
    let seen: Option<i32> =
        mysql_async::prelude::Queryable::query_first(&mut app, "SELECT id FROM t").await.unwrap();
    assert_eq!(seen, Some(1));
    server.kill_9();
    server.start_again().await;
    assert_eq!(server.value::<i64>("SELECT COUNT(*) FROM shop.t").await, 1);
    assert_eq!(server.value::<String>("SELECT @@binlog_format").await, "ROW");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql97_starts_and_survives_kill_9() {
    starts_and_survives_kill_9(Engine::MySql97).await;
}
