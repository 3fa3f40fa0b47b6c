//! Legs: stretches of replication in one direction, numbered from 1 on.
//!
//! The first leg copies the source and follows it into the target. A cutover ends it and begins the second, which follows
//! the target into the source, a rollback begins the third, and so on: odd legs read the source. Only one leg runs, each
//! from a position that was taken at the swap, when the one before it had ended, so there are no loops to filter.
//!
//! Inside a leg, in spool, apply and verifier, `Side::Source` means the side that is read and `Side::Target` the one that
//! is written. [`crate::Error::in_leg`] puts that into the operator's terms, in which the source is always the old backend.

use config::{BackendConfig, Config, Side};
use serde::{Deserialize, Serialize};

/// Folder of the first leg's spool, in state_dir; the others have their number behind it.
const SPOOL: &str = "spool";

/// The number of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Leg(u32);

impl Leg {
    /// The one that begins with a copy.
    pub const FIRST: Self = Self(1);

    /// The one behind the next swap.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The side that is followed, which is the one that serves.
    pub(crate) fn reads(self) -> Side {
        if self.0 % 2 == 1 { Side::Source } else { Side::Target }
    }

    /// The side that rows are applied to.
    pub(crate) fn writes(self) -> Side {
        self.reads().other()
    }

    /// True for the one that begins with a copy.
    pub(crate) fn copies(self) -> bool {
        self == Self::FIRST
    }

    /// The backend that is followed.
    pub(crate) fn from(self, config: &Config) -> &BackendConfig {
        backend(config, self.reads())
    }

    /// The backend that rows are applied to.
    pub(crate) fn to(self, config: &Config) -> &BackendConfig {
        backend(config, self.writes())
    }

    /// Folder of its spool, in state_dir.
    pub(crate) fn spool_folder(self) -> String {
        if self.copies() { SPOOL.to_owned() } else { format!("{SPOOL}-{}", self.0) }
    }

    /// True for the spool of another leg.
    pub(crate) fn is_others_spool(self, folder: &str) -> bool {
        let is_spool = folder
            .strip_prefix(SPOOL)
            .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_number));
        is_spool && folder != self.spool_folder()
    }

    /// What its checkpoint is called in the schema `changeover`. No migration's own name has a space in it.
    pub(crate) fn checkpoint_name(self, migration: &str) -> String {
        if self.copies() { migration.to_owned() } else { format!("{migration} {}", self.0) }
    }

    /// The leg before it.
    pub(crate) fn previous(self) -> Option<Self> {
        (self.0 > 1).then(|| Self(self.0 - 1))
    }

    /// The leg before it that wrote to the same side.
    pub(crate) fn former(self) -> Option<Self> {
        (self.0 > 2).then(|| Self(self.0 - 2))
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl std::fmt::Display for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} to {})", self.0, self.reads(), self.writes())
    }
}

/// The configuration of a side.
pub(crate) fn backend(config: &Config, side: Side) -> &BackendConfig {
    match side {
        Side::Source => &config.source,
        Side::Target => &config.target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leg_turns_around_and_keeps_its_things_apart() {
        let (first, second) = (Leg::FIRST, Leg::FIRST.next());
        let third = second.next();
        assert_eq!(
            [first.reads(), second.reads(), third.reads()],
            [Side::Source, Side::Target, Side::Source]
        );
        assert_eq!([first.writes(), second.writes()], [Side::Target, Side::Source]);
        assert_eq!((first.former(), second.former(), third.former()), (None, None, Some(first)));
        assert_eq!(
            (first.checkpoint_name("shop"), third.checkpoint_name("shop")),
            ("shop".into(), "shop 3".into())
        );
        assert_eq!((first.spool_folder(), second.spool_folder()), ("spool".into(), "spool-2".into()));
        assert!(second.is_others_spool("spool") && !second.is_others_spool("spool-2"));
        assert!(
            third.is_others_spool("spool-2")
                && !third.is_others_spool("spool-x")
                && !third.is_others_spool("lock")
        );
    }
}
