//! `accounts.json` in state_dir: the accounts that this migration made on the target, and what the source's were then.
//!
//! A password isn't in it, nor its hash: four bytes of a digest say whether an account has changed (invariant 8).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use config::{AccountName, durable};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE: &str = "accounts.json";
const NAME: &str = "accounts";
const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// User and host of each account that was made, or was about to be.
    made: BTreeSet<(String, String)>,
    /// Of each account of the source, a digest of all that its server kept of it.
    digests: BTreeMap<String, u32>,
}

impl Book {
    /// Reads the file; an empty book where there is none.
    pub(super) fn read(state_dir: &Path) -> Result<Self> {
        let unreadable = |why: String| Error::definite(None, FILE, why);
        let bytes = durable::read(&state_dir.join(FILE), NAME, VERSION)
            .map_err(|error| unreadable(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("it can't be read ({error}); restore it from a backup")))
    }

    /// Replaces the file durably.
    pub(super) fn write(&self, state_dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::bug(FILE, error.to_string()))?;
        durable::write(&state_dir.join(FILE), NAME, VERSION, &bytes)
            .map_err(|error| Error::definite(None, FILE, error.to_string()))
    }

    /// The accounts that were made.
    pub(super) fn made(&self) -> BTreeSet<AccountName> {
        let name = |(user, host): &(String, String)| AccountName { user: user.clone(), host: host.clone() };
        self.made.iter().map(name).collect()
    }

    /// These are about to be made, from what the source has.
    pub(super) fn begin(&mut self, names: impl Iterator<Item = AccountName>, digests: BTreeMap<String, u32>) {
        self.made.extend(names.map(|name| (name.user, name.host)));
        // What an attempt before has seen counts: it may have made accounts from it.
        for (name, digest) in digests {
            self.digests.entry(name).or_insert(digest);
        }
    }

    /// What the source's accounts were when those on the target were made from them.
    pub(super) fn digests(&self) -> &BTreeMap<String, u32> {
        &self.digests
    }
}
