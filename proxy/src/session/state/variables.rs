//! Which variables of a session may have to be asked for.

use std::collections::BTreeSet;

use super::{GUESSED_MAX, SET_VARIABLES_MAX, SessionState, USER_VARIABLE_BYTES_MAX, USER_VARIABLES_MAX};

impl SessionState {
    pub(super) fn remember_user_variables(&mut self, names: &BTreeSet<Vec<u8>>) {
        for name in names {
            if self.user_variables.contains(name) {
                continue;
            }
            let bytes = self.user_variable_bytes + name.len();
            if self.user_variables.len() >= USER_VARIABLES_MAX || bytes > USER_VARIABLE_BYTES_MAX {
                self.user_variables_lost = true;
                self.bound_statements();
                return;
            }
            self.user_variable_bytes = bytes;
            self.user_variables.insert(name.clone());
        }
    }

    pub(super) fn remember_guessed_variables(&mut self, names: &BTreeSet<Vec<u8>>) {
        for name in names {
            if self.user_variables.contains(name) {
                continue;
            }
            if self.guessed_variables >= GUESSED_MAX {
                // As code that wasn't seen may set them.
                self.versions.procedures += 1;
                return;
            }
            self.guessed_variables += 1;
            self.remember_user_variables(&BTreeSet::from([name.clone()]));
        }
    }

    /// A server has fewer variables than are kept, so none that exists is forgotten.
    pub(super) fn remember_set_variables(&mut self, names: &[String]) {
        let room = SET_VARIABLES_MAX.saturating_sub(self.set_variables.len());
        self.set_variables.extend(names.iter().take(room).cloned());
    }
}
