//! The business's accounts on a server that it shares with others: which they are, and their locks.
//!
//! By default the accounts are those that may write in the migration's schemas and nowhere else, by themselves or by their roles.
//! Whoever may write elsewhere too is another business's as well, or an operator, and isn't locked unless he is named.

use std::collections::{BTreeMap, BTreeSet};

use config::pattern::like;
use config::{AccountName, ServerVersion};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::bypass::split;
use super::connections::Owner;
use super::fence::{MARK, Trouble};
use crate::auth::inventory;

/// Rows of privileges, and of roles, at most: with a part of them it couldn't be said whom a fence holds.
const ROWS_MAX: usize = 20_000;
/// Accounts in one statement.
const AT_ONCE: usize = 100;
/// ER_NO_SUCH_TABLE: the server is too old for roles.
const NO_SUCH_TABLE: u16 = 1146;
/// What changes a row, or may do so by its owner's rights: columns of `mysql.user` and `mysql.db`.
const WRITES: &str = "Insert_priv, Update_priv, Delete_priv, Create_priv, Drop_priv, Alter_priv, Index_priv, Trigger_priv, \
                      Event_priv, Execute_priv, Create_routine_priv, Alter_routine_priv, Create_view_priv";
/// The same of `mysql.tables_priv`.
const TABLE_WRITES: &str = "Insert|Update|Delete|Create|Drop|Alter|Index|Trigger";
/// Schemas in which nothing can be written.
const UNWRITABLE: [&str; 2] = ["information_schema", "performance_schema"];

/// What the configuration says of them.
#[derive(Debug, Clone, Default)]
pub struct Business {
    /// `migration.schemas`, as the server calls them; empty: every schema.
    pub schemas: Vec<String>,
    /// `cutover.fence_accounts`; empty: by their privileges.
    pub named: Vec<String>,
}

/// The accounts of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Roll {
    /// The business's, and whether each is locked.
    pub(super) held: Vec<(AccountName, bool)>,
    /// Others that may write in the migration's schemas.
    pub(super) past: Vec<Owner>,
    /// All of them.
    pub(super) everybody: Vec<AccountName>,
}

impl Roll {
    /// The business's that a fence locks.
    pub(super) fn open(&self) -> Vec<AccountName> {
        self.held.iter().filter(|(_, locked)| !locked).map(|(name, _)| name.clone()).collect()
    }
}

/// A right to write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    to: AccountName,
    /// A pattern; `None` is every schema.
    schema: Option<String>,
}

/// What a server says of its accounts.
#[derive(Debug, Default)]
struct Census {
    /// With whether each is locked.
    accounts: Vec<(AccountName, bool)>,
    grants: Vec<Grant>,
    /// Who has which role.
    roles: Vec<(AccountName, AccountName)>,
    /// Those that we may not alter.
    out_of_reach: Vec<AccountName>,
    schemas: Vec<String>,
}

/// Calls the roll. `service` is the user whom nobody locks: ourselves.
pub(super) async fn roll(conn: &mut Conn, of: &Business, service: &str) -> Result<Roll, Trouble> {
    Ok(weigh(&census(conn, service).await?, of))
}

/// Makes sure that this server can lock accounts, and that we may, by altering one that doesn't exist.
pub(super) async fn try_lock(conn: &mut Conn) -> Result<(), Trouble> {
    let text: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let version = text.as_deref().and_then(ServerVersion::parse);
    if !version.is_some_and(ServerVersion::locks_accounts) {
        let server = version.map_or_else(String::new, |version| format!(" ({version})"));
        return Err(Trouble::Said(format!(
            "this server{server} is none whose accounts Changeover can lock: that takes MySQL 5.7 or MariaDB 10.4; use \
             cutover.fence = \"read_only\" or \"none\""
        )));
    }
    let nobody = AccountName { user: "changeover.nobody".to_owned(), host: "0.0.0.0".to_owned() };
    Ok(conn.query_drop(format!("ALTER USER IF EXISTS {nobody} ACCOUNT LOCK {MARK}")).await?)
}

/// Locks them; one that is gone isn't missed.
pub(super) async fn lock(conn: &mut Conn, all: &[AccountName]) -> Result<(), mysql_async::Error> {
    alter(conn, all, "LOCK").await
}

/// Unlocks them; one that is gone isn't missed.
pub(super) async fn unlock(conn: &mut Conn, all: &[AccountName]) -> Result<(), mysql_async::Error> {
    alter(conn, all, "UNLOCK").await
}

async fn alter(conn: &mut Conn, all: &[AccountName], how: &str) -> Result<(), mysql_async::Error> {
    for some in all.chunks(AT_ONCE) {
        let names: Vec<String> = some.iter().map(ToString::to_string).collect();
        conn.query_drop(format!("ALTER USER IF EXISTS {} ACCOUNT {how} {MARK}", names.join(", "))).await?;
        config::failpoint::hit("fence.accounts.altered");
    }
    Ok(())
}

/// All accounts, and whether each is locked.
pub(super) async fn locks(conn: &mut Conn) -> Result<Vec<(AccountName, bool)>, Trouble> {
    let accounts = inventory::accounts(conn).await.map_err(Trouble::Said)?;
    let own = |account: &inventory::Account| account.is_servers_own();
    let accounts = accounts.into_iter().filter(|account| !own(account));
    Ok(accounts
        .map(|account| (AccountName { user: account.user, host: account.host }, account.locked))
        .collect())
}

async fn census(conn: &mut Conn, service: &str) -> Result<Census, Trouble> {
    let accounts = locks(conn).await?.into_iter().filter(|(name, _)| name.user != service).collect();
    let sql = format!(
        "SELECT User, Host, CAST(NULL AS CHAR) FROM mysql.user WHERE 'Y' IN ({WRITES}) \
         UNION ALL SELECT User, Host, Db FROM mysql.db WHERE 'Y' IN ({WRITES}) \
         UNION ALL SELECT User, Host, REPLACE(REPLACE(Db, '_', '\\\\_'), '%', '\\\\%') FROM mysql.tables_priv \
         WHERE CONCAT(Table_priv, ',', Column_priv) REGEXP '{TABLE_WRITES}' \
         UNION ALL SELECT User, Host, REPLACE(REPLACE(Db, '_', '\\\\_'), '%', '\\\\%') FROM mysql.procs_priv \
         LIMIT {}",
        ROWS_MAX + 1
    );
    let grants: Vec<(String, String, Option<String>)> = whole("privileges", conn.query(sql).await?)?;
    let grant = |(user, host, schema): (String, String, _)| Grant { to: AccountName { user, host }, schema };
    let system = format!(
        "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SYSTEM_USER' LIMIT {}",
        ROWS_MAX + 1
    );
    let system: Vec<String> = whole("accounts with SYSTEM_USER", conn.query(system).await?)?;
    let system: Vec<AccountName> = system.iter().filter_map(|grantee| split(grantee)).collect();
    let we_reach_them = system.iter().any(|name| name.user == service);
    let schemas = conn.query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA").await?;
    Ok(Census {
        accounts,
        grants: grants.into_iter().map(grant).collect(),
        roles: roles(conn).await?,
        out_of_reach: if we_reach_them { Vec::new() } else { system },
        schemas,
    })
}

/// All that there are, or the reason why the fence can't be trusted.
fn whole<T>(what: &str, rows: Vec<T>) -> Result<Vec<T>, Trouble> {
    if rows.len() <= ROWS_MAX {
        return Ok(rows);
    }
    Err(Trouble::Said(format!(
        "it has more than {ROWS_MAX} {what}, and with a part of them it can't be said which accounts are the business's; use \
         cutover.fence = \"read_only\" or \"none\""
    )))
}

/// MySQL keeps roles as accounts, MariaDB as names without a host.
async fn roles(conn: &mut Conn) -> Result<Vec<(AccountName, AccountName)>, Trouble> {
    let tables = [
        "SELECT TO_USER, TO_HOST, FROM_USER, FROM_HOST FROM mysql.role_edges",
        "SELECT User, Host, Role, '' FROM mysql.roles_mapping",
    ];
    for sql in tables {
        let sql = format!("{sql} LIMIT {}", ROWS_MAX + 1);
        match conn.query::<(String, String, String, String), _>(sql).await {
            Ok(rows) => {
                let name = |user, host| AccountName { user, host };
                return Ok(whole("grants of roles", rows)?
                    .into_iter()
                    .map(|(a, b, c, d)| (name(a, b), name(c, d)))
                    .collect());
            }
            Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_TABLE => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Vec::new())
}

fn weigh(census: &Census, of: &Business) -> Roll {
    let is_moved = |schema: &str| {
        if of.schemas.is_empty() { !is_servers_own(schema) } else { of.schemas.iter().any(|s| s == schema) }
    };
    let (moved, elsewhere): (Vec<&str>, Vec<&str>) =
        census.schemas.iter().map(String::as_str).partition(|schema| is_moved(schema));
    let elsewhere: Vec<&str> = elsewhere.into_iter().filter(|schema| !UNWRITABLE.contains(schema)).collect();
    let mut roll =
        Roll { everybody: census.accounts.iter().map(|(name, _)| name.clone()).collect(), ..Roll::default() };
    for (name, locked) in &census.accounts {
        let grants = grants_of(census, name);
        let into = |schema: &&str| grants.iter().any(|grant| like(grant, schema));
        let writes_here = grants.contains("%") || moved.iter().any(&into);
        let also = elsewhere.iter().find(|schema| into(schema));
        let named = of.named.iter().any(|pattern| like(pattern, &format!("{}@{}", name.user, name.host)));
        let held = named || (of.named.is_empty() && writes_here && also.is_none());
        let why = if census.out_of_reach.contains(name) {
            "SYSTEM_USER, which it takes to lock it".to_owned()
        } else if held {
            roll.held.push((name.clone(), *locked));
            continue;
        } else if grants.contains("%") {
            "it may write everywhere".to_owned()
        } else {
            also.map_or_else(String::new, |schema| format!("it may write in {schema:?} too"))
        };
        if writes_here {
            roll.past.push(Owner {
                name: name.clone(),
                with: vec![why].into_iter().filter(|w| !w.is_empty()).collect(),
            });
        }
    }
    roll
}

/// The patterns of schemas that an account may write in, by itself and by its roles.
fn grants_of<'a>(census: &'a Census, account: &'a AccountName) -> BTreeSet<&'a str> {
    let mut by: BTreeMap<&AccountName, Vec<&AccountName>> = BTreeMap::new();
    census.roles.iter().for_each(|(member, role)| by.entry(member).or_default().push(role));
    let (mut are, mut todo) = (BTreeSet::from([account]), vec![account]);
    while let Some(next) = todo.pop() {
        for role in by.get(next).into_iter().flatten() {
            if are.insert(role) {
                todo.push(role);
            }
        }
    }
    let theirs = census.grants.iter().filter(|grant| are.contains(&grant.to));
    theirs.map(|grant| grant.schema.as_deref().unwrap_or("%")).collect()
}

fn is_servers_own(schema: &str) -> bool {
    matches!(schema, "mysql" | "information_schema" | "performance_schema" | "sys" | "changeover")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AccountName {
        let (user, host) = text.split_once('@').unwrap_or((text, ""));
        AccountName { user: user.into(), host: host.into() }
    }

    fn census() -> Census {
        let accounts = ["app@%", "own@%", "read@%", "root@%", "both@%", "boss@%", "wild@%", "other@%"];
        let grant = |to: &str, schema: &str| Grant {
            to: name(to),
            schema: Some(schema.to_owned()).filter(|schema| schema != "*"),
        };
        Census {
            accounts: accounts.iter().map(|account| (name(account), *account == "own@%")).collect(),
            grants: vec![
                grant("app@%", "shop"),
                grant("own@%", "shop"),
                grant("root@%", "*"),
                grant("writer", "shop"),
                grant("both@%", "shop"),
                grant("both@%", "blog"),
                grant("wild@%", "sh_p"),
                grant("other@%", "blog"),
                grant("boss@%", "shop"),
            ],
            roles: vec![(name("read@%"), name("staff")), (name("staff"), name("writer"))],
            out_of_reach: vec![name("boss@%")],
            schemas: ["mysql", "shop", "blog", "information_schema"].map(str::to_owned).to_vec(),
        }
    }

    fn held(roll: &Roll) -> Vec<String> {
        roll.held
            .iter()
            .map(|(name, locked)| format!("{}{}", name.user, if *locked { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn who_may_write_here_and_nowhere_else_is_held() {
        let business = Business { schemas: vec!["shop".to_owned()], named: Vec::new() };
        let roll = weigh(&census(), &business);
        assert_eq!(held(&roll), ["app", "own!", "read", "wild"]);
        assert_eq!(roll.open().len(), 3);
        let past: Vec<String> =
            roll.past.iter().map(|owner| format!("{} {}", owner.name.user, owner.with.join(", "))).collect();
        assert_eq!(
            past,
            [
                "root it may write everywhere",
                "both it may write in \"blog\" too",
                "boss SYSTEM_USER, which it takes to lock it"
            ]
        );
        let all = weigh(&census(), &Business::default());
        assert_eq!(held(&all), ["app", "own!", "read", "both", "wild", "other"]);
    }

    #[test]
    fn who_is_named_is_held_and_nobody_else() {
        let business = Business { schemas: vec!["shop".to_owned()], named: vec!["bots@%".to_owned()] };
        assert!(held(&weigh(&census(), &business)).is_empty());
        let business = Business { named: vec!["bo__@%".to_owned(), "root@\\%".to_owned()], ..business };
        let roll = weigh(&census(), &business);
        assert_eq!(held(&roll), ["root", "both"]);
        assert_eq!(
            roll.past.iter().map(|owner| owner.name.user.as_str()).collect::<Vec<_>>(),
            ["app", "own", "read", "boss", "wild"]
        );
    }
}
