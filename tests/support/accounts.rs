//! Accounts with exactly the privileges that the README documents: what isn't granted here isn't needed.

use super::{Engine, Server};

/// Name of the service account.
pub const SERVICE: &str = "changeover";
/// Its password.
pub const SERVICE_PASSWORD: &str = "service-Secret_1";
/// Name of the application's account.
pub const APP: &str = "app";
/// Its password.
pub const APP_PASSWORD: &str = "app-Secret_2";

/// Creates the service account and the application's account, the latter with all rights on `schema` and none
/// beyond it.
pub async fn create(server: &Server, schema: &str) {
    let service: &[&str] = match server.engine() {
        Engine::MariaDb => &[
            "CREATE USER changeover@'%' IDENTIFIED BY 'service-Secret_1'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, TRIGGER, EVENT, \
             CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, LOCK TABLES, RELOAD, PROCESS, \
             REPLICATION SLAVE, BINLOG MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN, SET USER ON *.* TO changeover@'%'",
        ],
        Engine::MySql97 => &[
            "CREATE USER changeover@'%' IDENTIFIED BY 'service-Secret_1'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, TRIGGER, EVENT, \
             CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, LOCK TABLES, RELOAD, PROCESS, \
             REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO changeover@'%'",
            "GRANT SYSTEM_VARIABLES_ADMIN, SESSION_VARIABLES_ADMIN, CONNECTION_ADMIN, SET_ANY_DEFINER, \
             ALLOW_NONEXISTENT_DEFINER, XA_RECOVER_ADMIN ON *.* TO changeover@'%'",
        ],
        Engine::MySql56 => &[
            "CREATE USER changeover@'%' IDENTIFIED BY 'service-Secret_1'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, TRIGGER, EVENT, \
             CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, LOCK TABLES, RELOAD, PROCESS, \
             REPLICATION SLAVE, REPLICATION CLIENT, SUPER ON *.* TO changeover@'%'",
        ],
        Engine::Seekdb => &[
            "CREATE USER changeover@'%' IDENTIFIED BY 'service-Secret_1'",
            "GRANT ALL ON *.* TO changeover@'%'",
        ],
    };
    server.run(service).await;
    server
        .run(&[
            "CREATE USER app@'%' IDENTIFIED BY 'app-Secret_2'",
            &format!("GRANT ALL ON `{schema}`.* TO app@'%'"),
        ])
        .await;
}
