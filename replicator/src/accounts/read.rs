//! Accounts and what they may do, from the servers.

use config::{AccountName, Family, Side};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use super::account::{Account, field};
use super::creation::Abilities;
use super::grant::{Grant, parse, role_sql};
use crate::error::{Error, Result};
use crate::server::ServerInfo;

/// More of a server aren't looked at (invariant 7).
const ACCOUNTS_MAX: usize = 10_000;
const PLACE: &str = "reading the accounts";
/// What a server without that table, or one that doesn't show it, answers.
const NOT_THERE: [u16; 4] = [1109, 1142, 1143, 1146];
/// What a server answers about an account that it doesn't count.
const NO_SUCH_GRANT: u16 = 1141;

/// Every account of a server, sorted by name.
pub(super) async fn accounts(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<Vec<Account>> {
    let database = |error: mysql_async::Error| Error::database(side, PLACE, &error);
    let limit = ACCOUNTS_MAX + 1;
    let mut accounts: Vec<Account> = if info.dialect().family == Family::MariaDb {
        let sql = format!("SELECT Host, User, Priv FROM mysql.global_priv LIMIT {limit}");
        let rows: Vec<Row> = conn.query(sql).await.map_err(database)?;
        let document = |row: &Row| {
            let text = |name: &str| String::from_utf8_lossy(field(row, name)).into_owned();
            let name = AccountName { user: text("User"), host: text("Host") };
            let strange = format!("the account {name} isn't kept as this version of MariaDB does; report it");
            Account::of_document(name, field(row, "Priv"))
                .ok_or_else(|| Error::definite(side, PLACE, strange))
        };
        rows.iter().map(document).collect::<Result<_>>()?
    } else {
        let sql = format!("SELECT * FROM mysql.user LIMIT {limit}");
        let rows: Vec<Row> = conn.query(sql).await.map_err(database)?;
        rows.iter().map(Account::of_row).collect()
    };
    if accounts.len() > ACCOUNTS_MAX {
        let what = format!(
            "there are more than {ACCOUNTS_MAX} accounts; make them on the target by hand, without migration.accounts"
        );
        return Err(Error::definite(side, PLACE, what));
    }
    default_roles(side, conn, &mut accounts).await?;
    accounts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(accounts)
}

/// MySQL's, which are in a table of their own.
async fn default_roles(side: Side, conn: &mut Conn, accounts: &mut [Account]) -> Result<()> {
    let sql = "SELECT USER, HOST, DEFAULT_ROLE_USER, DEFAULT_ROLE_HOST FROM mysql.default_roles";
    let rows: Vec<(String, String, String, String)> = match conn.query(sql).await {
        Ok(rows) => rows,
        Err(mysql_async::Error::Server(error)) if NOT_THERE.contains(&error.code) => return Ok(()),
        Err(error) => return Err(Error::database(side, PLACE, &error)),
    };
    for (user, host, role_user, role_host) in rows {
        let name = AccountName { user, host };
        let role = AccountName { user: role_user, host: role_host };
        if let Some(account) = accounts.iter_mut().find(|account| account.name == name) {
            account.default_roles.push(role);
        }
    }
    Ok(())
}

/// What an account may do by itself, without what its roles add; and how many lines of it weren't understood. `None`: the server
/// doesn't count it as an account, such as one of a named host where it resolves no names.
pub(super) async fn grants(
    side: Side,
    conn: &mut Conn,
    account: &Account,
) -> Result<Option<(Vec<Grant>, usize)>> {
    let place = || format!("the privileges of {}", account.name);
    let sql = format!("SHOW GRANTS FOR {}", role_sql(&account.name));
    let lines: Vec<Vec<u8>> = match conn.query(sql).await {
        Ok(lines) => lines,
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_GRANT => return Ok(None),
        Err(error) => return Err(Error::database(side, place(), &error)),
    };
    let (mut grants, mut strange) = (Vec::new(), 0);
    for line in lines {
        let line = String::from_utf8_lossy(&line);
        match parse(&line) {
            // MariaDB shows what roles have beside what the account has.
            Some(grant) if is_of(&grant.grantee, &account.name) => grants.push(grant),
            Some(_) => {}
            None if line.starts_with("SET ") => {}
            None => strange += 1,
        }
    }
    Ok(Some((grants, strange)))
}

fn is_of(grantee: &AccountName, account: &AccountName) -> bool {
    grantee.user == account.user && grantee.host.eq_ignore_ascii_case(&account.host)
}

/// What new accounts of a server can have.
pub(super) async fn abilities(side: Side, info: &ServerInfo, conn: &mut Conn) -> Result<Abilities> {
    let sql = "SELECT PLUGIN_NAME FROM information_schema.PLUGINS \
               WHERE PLUGIN_TYPE = 'AUTHENTICATION' AND PLUGIN_STATUS = 'ACTIVE'";
    let plugins: Vec<String> = match conn.query(sql).await {
        Ok(plugins) => plugins,
        Err(mysql_async::Error::Server(error)) if NOT_THERE.contains(&error.code) => Vec::new(),
        Err(error) => return Err(Error::database(side, PLACE, &error)),
    };
    Ok(Abilities { dialect: info.dialect(), plugins: plugins.into_iter().collect() })
}

/// True where wildcards in the schemas of grants aren't any.
pub(super) async fn schemas_are_literal(side: Side, conn: &mut Conn) -> Result<bool> {
    let found: Option<(String, String)> = conn
        .query_first("SHOW GLOBAL VARIABLES LIKE 'partial_revokes'")
        .await
        .map_err(|error| Error::database(side, PLACE, &error))?;
    Ok(found.is_some_and(|(_, value)| value.eq_ignore_ascii_case("ON")))
}

/// The name of the machine that a server is on.
pub(super) async fn hostname(side: Side, conn: &mut Conn) -> Result<String> {
    let name: Option<Option<String>> = conn
        .query_first("SELECT @@GLOBAL.hostname")
        .await
        .map_err(|error| Error::database(side, PLACE, &error))?;
    Ok(name.flatten().unwrap_or_default())
}

/// The account that a connection is.
pub(super) async fn own(side: Side, conn: &mut Conn) -> Result<AccountName> {
    let own: Option<String> = conn
        .query_first("SELECT CURRENT_USER()")
        .await
        .map_err(|error| Error::database(side, PLACE, &error))?;
    let own = own.unwrap_or_default();
    let (user, host) = own.rsplit_once('@').unwrap_or((&own, ""));
    Ok(AccountName { user: user.to_owned(), host: host.to_owned() })
}
