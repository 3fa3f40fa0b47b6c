//! What the service accounts may do, from SHOW GRANTS.
//!
//! A table that an account may not read is invisible to it, and would be left behind in silence (invariant 5), so
//! SELECT has to cover whole schemas.

use std::collections::{BTreeSet, HashMap};

use config::progress::{Finding, Severity};
use config::{Config, FencePolicy, Flavor, Side};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::error::{Error, Result};
use crate::schema::discover::Discovery;
use crate::server::ServerInfo;

/// What a target account needs in every schema of the migration, and in `changeover`.
const TARGET_PRIVILEGES: [&str; 7] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "REFERENCES"];

/// Privileges by scope. Of the lines, which may hold password hashes, only names are kept (invariant 8).
#[derive(Debug, Default)]
pub(super) struct Grants {
    global: BTreeSet<String>,
    /// By schema pattern, as in the grant: `%` and `_` are wildcards unless escaped.
    schemas: HashMap<String, BTreeSet<String>>,
    /// MySQL's partial revokes, by schema.
    revoked: HashMap<String, BTreeSet<String>>,
}

impl Grants {
    pub(super) async fn read(side: Side, conn: &mut Conn) -> Result<Self> {
        let database = |e: mysql_async::Error| Error::database(side, "reading the account's privileges", &e);
        // MySQL shows what roles give only when asked for each of them; an old server knows no roles.
        let role: Option<Option<String>> = match conn.query_first("SELECT CURRENT_ROLE()").await {
            Ok(role) => role,
            Err(mysql_async::Error::Server(_)) => None,
            Err(error) => return Err(database(error)),
        };
        let role = role.flatten().filter(|role| !role.eq_ignore_ascii_case("NONE") && role.contains('@'));
        let using = role.map(|role| format!(" FOR CURRENT_USER() USING {role}")).unwrap_or_default();
        let lines: Vec<Vec<u8>> = conn.query(format!("SHOW GRANTS{using}")).await.map_err(database)?;
        let mut grants = Self::default();
        for line in lines {
            grants.add(&String::from_utf8_lossy(&line));
        }
        Ok(grants)
    }

    /// Reads one line. Grants on single tables and columns are left out: they don't cover a schema.
    fn add(&mut self, line: &str) {
        let (revoke, rest) = match (line.strip_prefix("GRANT "), line.strip_prefix("REVOKE ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return,
        };
        let Some((privileges, scope)) = rest.split_once(" ON ") else { return };
        let scope = scope.split(" TO ").next().unwrap_or_default();
        let scope = scope.split(" FROM ").next().unwrap_or_default().trim();
        let privileges = privileges.split(',').map(|name| name.trim().to_ascii_uppercase());
        let place = match scope.strip_suffix(".*") {
            Some("*") => &mut self.global,
            Some(schema) => {
                let schema = schema.trim_matches('`').replace("``", "`");
                let map = if revoke { &mut self.revoked } else { &mut self.schemas };
                map.entry(schema).or_default()
            }
            None => return,
        };
        place.extend(privileges);
    }

    pub(super) fn has_global(&self, privilege: &str) -> bool {
        let all = |set: &BTreeSet<String>| set.contains("ALL PRIVILEGES") || set.contains("ALL");
        all(&self.global) || self.global.contains(privilege)
    }

    pub(super) fn has(&self, privilege: &str, schema: &str) -> bool {
        let holds = |set: &BTreeSet<String>| {
            set.contains("ALL PRIVILEGES") || set.contains("ALL") || set.contains(privilege)
        };
        let revoked = self.revoked.get(schema).is_some_and(holds);
        (self.has_global(privilege) && !revoked)
            || self.schemas.iter().any(|(pattern, set)| holds(set) && config::pattern::like(pattern, schema))
    }

    pub(super) fn may_ask_for_positions(&self, flavor: Flavor) -> bool {
        position_privileges(flavor).0.iter().any(|privilege| self.has_global(privilege))
    }

    /// Whether the account may stop and start the replication of its server.
    pub(super) fn may_stop_replication(&self, flavor: Flavor) -> bool {
        let own = match flavor {
            Flavor::MariaDb => "REPLICATION SLAVE ADMIN",
            Flavor::MySql => "REPLICATION_SLAVE_ADMIN",
        };
        [own, "SUPER"].into_iter().any(|privilege| self.has_global(privilege))
    }

    pub(super) fn judge_source(
        &self,
        config: &Config,
        info: &ServerInfo,
        schemas: &[String],
    ) -> Vec<Finding> {
        let mut missing = Vec::new();
        if !self.has_global("REPLICATION SLAVE") {
            missing.push(("REPLICATION SLAVE", "*.*".to_owned(), "fetch the binlog"));
        }
        if !self.may_ask_for_positions(info.version.flavor) {
            let (_, named) = position_privileges(info.version.flavor);
            missing.push((named, "*.*".to_owned(), "ask for binlog positions"));
        }
        for schema in schemas {
            if !self.has("SELECT", schema) {
                missing.push(("SELECT", scope(schema), "see and read every table"));
            }
        }
        match config.cutover.fence {
            FencePolicy::ReadOnly => {
                let (privileges, named) = fence_privileges(info.version.flavor);
                if !privileges.iter().any(|privilege| self.has_global(privilege)) {
                    missing.push((named, "*.*".to_owned(), "set read_only at the cutover"));
                }
            }
            FencePolicy::Accounts => missing.extend(self.lacks_for_accounts(info.version.flavor)),
            FencePolicy::None => {}
        }
        let mut findings = report(Side::Source, &config.source.user, missing);
        if config.migration.schemas.is_empty() && !self.has_global("SELECT") {
            findings.push(Finding {
                severity: Severity::Warning,
                subject: "source, privileges".to_owned(),
                message:
                    "The account sees only the schemas it has a grant on, and no others are moved; name the \
                          schemas in migration.schemas to be sure."
                        .to_owned(),
            });
        }
        findings
    }

    /// What `cutover.fence = "accounts"` needs on the side that is left, which either is in its time.
    fn lacks_for_accounts(&self, flavor: Flavor) -> Vec<(&'static str, String, &'static str)> {
        let everywhere = || "*.*".to_owned();
        let mut missing = Vec::new();
        if !self.has_global("CREATE USER") && !self.has("UPDATE", "mysql") {
            missing.push(("CREATE USER", everywhere(), "lock accounts at the cutover"));
        }
        let (privileges, named) = match flavor {
            Flavor::MySql => (["SUPER", "CONNECTION_ADMIN"], "CONNECTION_ADMIN"),
            Flavor::MariaDb => (["SUPER", "CONNECTION ADMIN"], "CONNECTION ADMIN"),
        };
        if !privileges.iter().any(|privilege| self.has_global(privilege)) {
            missing.push((named, everywhere(), "end the connections of locked accounts"));
        }
        missing
    }

    pub(super) fn judge_target(&self, config: &Config, flavor: Flavor, found: &Discovery) -> Vec<Finding> {
        let there = config.migration.rename.on(Side::Target);
        let mut schemas = there.schemas(found.schemas.iter().map(|schema| schema.name.as_str()));
        schemas.push("changeover".to_owned());
        let mut missing = Vec::new();
        if config.cutover.fence == FencePolicy::Accounts && config.migration.reverse {
            missing.extend(self.lacks_for_accounts(flavor));
        }
        for schema in &schemas {
            for privilege in TARGET_PRIVILEGES {
                if !self.has(privilege, schema) {
                    missing.push((privilege, scope(schema), "make and fill the tables"));
                }
            }
        }
        report(Side::Target, &config.target.user, missing)
    }
}

/// Any of these lets an account ask where the binlog stands, and the one to ask for.
fn position_privileges(flavor: Flavor) -> (&'static [&'static str], &'static str) {
    match flavor {
        Flavor::MySql => (&["SUPER", "REPLICATION CLIENT"], "REPLICATION CLIENT"),
        Flavor::MariaDb => (&["SUPER", "BINLOG MONITOR", "REPLICATION CLIENT"], "BINLOG MONITOR"),
    }
}

/// Any of these lets an account set read_only, and the one to ask for.
fn fence_privileges(flavor: Flavor) -> (&'static [&'static str], &'static str) {
    match flavor {
        Flavor::MySql => (&["SUPER", "SYSTEM_VARIABLES_ADMIN"], "SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN"),
        Flavor::MariaDb => (&["READ_ONLY ADMIN"], "READ_ONLY ADMIN"),
    }
}

fn scope(schema: &str) -> String {
    format!("{}.*", config::names::quote_identifier(schema))
}

/// One finding a scope, with the statement that helps.
fn report(side: Side, user: &str, missing: Vec<(&str, String, &str)>) -> Vec<Finding> {
    let mut scopes: Vec<(String, Vec<&str>, &str)> = Vec::new();
    for (privilege, scope, what_for) in missing {
        match scopes.iter_mut().find(|(s, _, w)| *s == scope && *w == what_for) {
            Some((_, privileges, _)) => privileges.push(privilege),
            None => scopes.push((scope, vec![privilege], what_for)),
        }
    }
    scopes
        .into_iter()
        .map(|(scope, privileges, what_for)| Finding {
            severity: Severity::Fatal,
            subject: format!("{side}, privileges"),
            message: format!(
                "The account lacks what it needs to {what_for}; GRANT {} ON {scope} TO '{user}'@….",
                privileges.join(", ")
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        let mut grants = Grants::default();
        lines.iter().for_each(|line| grants.add(line));
        grants
    }

    #[test]
    fn grants_cover_schemas_and_not_tables() {
        let check = |lines: &[&str], privilege: &str, schema: &str, expected: bool| {
            assert_eq!(grants(lines).has(privilege, schema), expected, "{lines:?} {privilege} {schema}");
        };
        check(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"], "SELECT", "s", true);
        check(&["GRANT SELECT, INSERT ON `s`.* TO `a`@`%`"], "INSERT", "s", true);
        check(&["GRANT SELECT, INSERT ON `s`.* TO `a`@`%`"], "DELETE", "s", false);
        check(&["GRANT SELECT, INSERT ON `s`.* TO `a`@`%`"], "SELECT", "t", false);
        check(&["GRANT SELECT ON `s%`.* TO `a`@`%`"], "SELECT", "shop", true);
        check(&["GRANT SELECT ON `s\\_p`.* TO `a`@`%`"], "SELECT", "sxp", false);
        check(&["GRANT SELECT ON `s\\_p`.* TO `a`@`%`"], "SELECT", "s_p", true);
        check(&["GRANT SELECT ON `s`.`t` TO `a`@`%`"], "SELECT", "s", false);
        check(&["GRANT SELECT (`id`) ON `s`.`t` TO `a`@`%`"], "SELECT", "s", false);
        check(&["GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*1'"], "SELECT", "s", false);
        check(
            &["GRANT SELECT ON *.* TO `a`@`%`", "REVOKE SELECT ON `s`.* FROM `a`@`%`"],
            "SELECT",
            "s",
            false,
        );
        check(&["garbage", "GRANT ", "GRANT `r`@`%` TO `a`@`%`"], "SELECT", "s", false);
    }

    #[test]
    fn dynamic_privileges_are_global() {
        let found = grants(&["GRANT BACKUP_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `root`@`localhost`"]);
        assert!(found.has_global("SYSTEM_VARIABLES_ADMIN"));
        assert!(!found.has_global("SUPER"));
    }
}
