//! User variables as the server has them: which there are, and their values with their types.

use std::collections::{BTreeMap, BTreeSet};

use config::{BackendConfig, Flavor};

use super::connection::Connection;
use super::question::{QuestionError, backticked};
use super::replay::{UserValue, user_value};
use super::surroundings::as_service;
use crate::protocol::packet::ErrPacket;

/// User variables asked for at once.
const USER_VARIABLES_AT_ONCE: usize = 64;
/// One more column, of a user variable that no client has. OceanBase takes no name but a plain word.
const NEVER_SET: &[u8] = b", @changeover_never_set";
/// ER_ILLEGAL_USER_VAR (MySQL takes names of up to 64 characters) and ER_INVALID_CHARACTER_STRING.
const ILLEGAL_NAMES: [u16; 2] = [3061, 1300];
/// ER_PARSE_ERROR: what OceanBase says of a name that isn't a plain word; so no session there has it.
const UNREADABLE_NAME: u16 = 1064;

impl Connection {
    /// Whether the server can say which user variables a session has.
    pub(crate) fn lists_user_variables(&self) -> bool {
        let version = self.version;
        version.flavor == Flavor::MariaDb || !version.ocean_base && version.at_least(Flavor::MySql, 5, 7)
    }

    /// Every user variable that the server knows of, where it can be asked. MySQL tells it only to accounts
    /// that may read its performance schema, so the service account is asked there.
    pub(crate) async fn user_variable_names(
        &mut self,
        service: &BackendConfig,
    ) -> Result<BTreeSet<Vec<u8>>, QuestionError> {
        let answer = match self.version.flavor {
            Flavor::MariaDb => {
                let sql = b"SELECT VARIABLE_NAME FROM information_schema.USER_VARIABLES LIMIT 100000";
                self.query_tables(sql).await
            }
            // What routines and triggers mention is known by other means.
            Flavor::MySql if !self.lists_user_variables() => return Ok(BTreeSet::new()),
            Flavor::MySql => {
                let sql = format!(
                    "SELECT v.VARIABLE_NAME FROM performance_schema.user_variables_by_thread v \
                     JOIN performance_schema.threads t ON t.THREAD_ID = v.THREAD_ID \
                     WHERE t.PROCESSLIST_ID = {} LIMIT 100000",
                    self.id
                );
                as_service(service, &sql).await
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_transient() && self.version.flavor == Flavor::MariaDb => {
                return Err(error);
            }
            // The plugin isn't there, or the account may not ask: the names that the lexer saw remain.
            Err(error) => {
                tracing::warn!(
                    area = "proxy",
                    "user variables that were set within procedures can't be found: {error}; grant the service \
                     account SELECT on performance_schema"
                );
                return Ok(BTreeSet::new());
            }
        };
        let names = answer.rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
        Ok(names.map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Values of user variables, as expressions. `Err` names none of them.
    pub(crate) async fn user_variables(
        &mut self,
        names: &BTreeSet<Vec<u8>>,
    ) -> Result<BTreeMap<Vec<u8>, UserValue>, QuestionError> {
        let names: Vec<_> = names.iter().collect();
        let ocean_base = self.version.ocean_base;
        let illegal = |code: u16| ILLEGAL_NAMES.contains(&code) || (ocean_base && code == UNREADABLE_NAME);
        let mut values = BTreeMap::new();
        for names in names.chunks(USER_VARIABLES_AT_ONCE) {
            match self.values_of(names, &mut values).await {
                // A name that the server doesn't take: the statement that had it failed, too.
                Err(QuestionError::Refused(packet)) if illegal(packet.code) => {}
                done => {
                    done?;
                    continue;
                }
            }
            for name in names {
                match self.values_of(&[*name], &mut values).await {
                    Err(QuestionError::Refused(packet)) if illegal(packet.code) => {}
                    done => done?,
                }
            }
        }
        Ok(values)
    }

    async fn values_of(
        &mut self,
        names: &[&Vec<u8>],
        values: &mut BTreeMap<Vec<u8>, UserValue>,
    ) -> Result<(), QuestionError> {
        let mut sql = b"SELECT ".to_vec();
        for (place, name) in names.iter().enumerate() {
            let name = backticked(name);
            for part in [&b"@"[..], b", HEX(@", b"), CHARSET(@", b"), COLLATION(@"] {
                if place > 0 && part == b"@" {
                    sql.extend_from_slice(b", ");
                }
                sql.extend_from_slice(part);
                sql.extend_from_slice(&name);
            }
            sql.push(b')');
        }
        // A variable that was set to NULL looks different from one that was never set.
        sql.extend_from_slice(NEVER_SET);
        let answer = self.query(&sql).await?;
        let never_set = answer.columns.last();
        for (place, name) in names.iter().enumerate() {
            let at = place * 4;
            let Some(column) = answer.columns.get(at) else { continue };
            let Some(text) = answer.value(at) else {
                if never_set != Some(column) {
                    values.insert((*name).clone(), user_value::null(*column));
                }
                continue;
            };
            let (hex, charset, collation) =
                (answer.value(at + 1), answer.value(at + 2), answer.value(at + 3));
            let Some(expression) = user_value::expression(*column, text, hex, charset, collation) else {
                let message = "a user variable's value can't be read exactly";
                return Err(QuestionError::Refused(ErrPacket::new(1105, b"HY000", message)));
            };
            values.insert((*name).clone(), expression);
        }
        Ok(())
    }
}
