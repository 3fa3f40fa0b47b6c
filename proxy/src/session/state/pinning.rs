//! What pins a session to its backend, and what lets it go again.

use super::super::detail::NamedTable;
use super::{Details, Effects, NAMES_MAX, Pins, Schema, SessionState};

impl SessionState {
    /// The server counts temporary tables that the client didn't make: a procedure did.
    pub(crate) fn pin_hidden_tables(&mut self) {
        self.temporary_blind = true;
        self.pins.set(Pins::TEMPORARY_TABLE, true);
    }

    /// Takes up what a statement that went well may have opened.
    pub(super) fn pin(&mut self, effects: Effects, details: &Details) {
        let direct = [
            (Effects::LOCK_TABLES, Pins::LOCK_TABLES),
            (Effects::READ_LOCK, Pins::READ_LOCK),
            (Effects::BACKUP_LOCK, Pins::BACKUP_LOCK),
            (Effects::XA_START, Pins::XA),
            (Effects::NEXT_TRANSACTION, Pins::NEXT_TRANSACTION),
            (Effects::REPLICATION_VARIABLE, Pins::REPLICATION_VARIABLE),
            (Effects::ROLE, Pins::ROLE),
        ];
        for (effect, pin) in direct {
            if effects.contains(effect) {
                self.pins.set(pin, true);
            }
        }
        if effects.contains(Effects::TEMPORARY_CREATE) {
            // The same name again is the same table again: IF NOT EXISTS, OR REPLACE.
            match self.in_schema(details) {
                Some(tables) if self.temporary_tables.len() < NAMES_MAX => {
                    self.temporary_tables.extend(tables)
                }
                _ => self.temporary_blind = true,
            }
            self.pins.set(Pins::TEMPORARY_TABLE, true);
        }
        if effects.contains(Effects::RENAME_TABLE) && !self.temporary_tables.is_empty() {
            self.temporary_blind = true;
        }
        if effects.contains(Effects::GET_LOCK) {
            match &details.locks {
                Some(locks) if self.locks.len() < NAMES_MAX => self.locks.extend(locks.iter().cloned()),
                _ => self.locks_blind = true,
            }
            self.pins.set(Pins::USER_LOCK, true);
        }
        if effects.contains(Effects::HANDLER_OPEN) {
            self.handlers += 1;
            self.pins.set(Pins::HANDLER, true);
        }
        if effects.contains(Effects::TEXT_PREPARE) {
            self.remember_text(details);
        }
    }

    /// The tables with the schemas that they are in. `None` where that can't be told.
    fn in_schema(&self, details: &Details) -> Option<Vec<NamedTable>> {
        let current = match &self.schema {
            Schema::Known(schema) => Some(schema.as_deref().unwrap_or_default().to_ascii_lowercase()),
            Schema::Ask => None,
        };
        let full = |named: &NamedTable| {
            let schema = named.schema.clone().or_else(|| current.clone())?;
            Some(NamedTable { schema: Some(schema), table: named.table.clone() })
        };
        details.tables.as_ref()?.iter().map(full).collect()
    }

    /// Lets go of what it has closed.
    pub(super) fn unpin(&mut self, effects: Effects, details: &Details) {
        if effects.contains(Effects::UNLOCK_TABLES) {
            self.pins.set(Pins::LOCK_TABLES | Pins::READ_LOCK, false);
        }
        if effects.contains(Effects::BEGIN) {
            // It releases what LOCK TABLES took.
            self.pins.set(Pins::LOCK_TABLES, false);
        }
        if effects.contains(Effects::BACKUP_UNLOCK) {
            self.pins.set(Pins::BACKUP_LOCK, false);
        }
        if effects.contains(Effects::XA_FINISH) {
            self.pins.set(Pins::XA, false);
        }
        if effects.contains(Effects::HANDLER_CLOSE) {
            self.handlers = self.handlers.saturating_sub(1);
            self.pins.set(Pins::HANDLER, self.handlers > 0);
        }
        if effects.contains(Effects::DROP_TABLE) {
            for table in self.in_schema(details).unwrap_or_default() {
                self.temporary_tables.remove(&table);
            }
            self.pins.set(Pins::TEMPORARY_TABLE, self.temporary_blind || !self.temporary_tables.is_empty());
        }
        if effects.contains(Effects::RELEASE_LOCK) && !effects.contains(Effects::GET_LOCK) {
            remove_names(&mut self.locks, details.locks.as_deref());
            self.pins.set(Pins::USER_LOCK, self.locks_blind || !self.locks.is_empty());
        }
        if effects.contains(Effects::RELEASE_ALL_LOCKS) && !effects.contains(Effects::GET_LOCK) {
            self.locks.clear();
            self.locks_blind = false;
            self.pins.set(Pins::USER_LOCK, false);
        }
        if effects.contains(Effects::TEXT_DEALLOCATE)
            && let Some(name) = &details.prepared_name
            && let Some(old) = self.texts.remove(name)
        {
            self.statement_bytes -= old.text.len();
        }
    }
}

/// Takes away each of `gone` where it is there exactly once; a name that is there twice can't be told apart.
fn remove_names(names: &mut Vec<Vec<u8>>, gone: Option<&[Vec<u8>]>) {
    for name in gone.unwrap_or_default() {
        let mut places = names.iter().enumerate().filter(|(_, other)| *other == name).map(|(place, _)| place);
        if let (Some(place), None) = (places.next(), places.next()) {
            names.swap_remove(place);
        }
    }
}
