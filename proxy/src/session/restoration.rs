//! Gives a connection a session's state, in the terms of its server.
//!
//! It asks nothing of the old server, so it can go on beside the session's own statements: what they change meanwhile has
//! other versions than what was restored, and is made up for when the session moves.

use std::collections::BTreeMap;

use config::SideNames;

use super::connection::{Connection, RestoreError};
use super::mapping::{self, Dialect};
use super::replay::{Context, Snapshot, plan};
use super::state::SessionState;
use super::surroundings::SystemZone;
use crate::protocol::packet::ok::StatusFlags;

/// What of a session a restoration goes by, besides the state that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// How the server that is left is spoken to.
    pub(super) from: Dialect,
    /// What schemas are called there.
    pub(super) names: &'a SideNames,
    /// What its SYSTEM zone is on the other one.
    pub(super) zone: &'a SystemZone,
    /// What statements of older contexts were prepared under.
    pub(super) contexts: &'a BTreeMap<u64, Context>,
    /// The session's own state: the texts of what it has prepared.
    pub(super) state: &'a SessionState,
}

/// The same of a moment ago, for a restoration that the session doesn't wait for.
#[derive(Debug)]
pub(super) struct FormerOrigin {
    from: Dialect,
    names: SideNames,
    zone: SystemZone,
    contexts: BTreeMap<u64, Context>,
    state: SessionState,
}

impl Origin<'_> {
    /// Keeps it. Texts of statements are shared, not copied.
    pub(super) fn keep(self) -> FormerOrigin {
        let (zone, contexts, state) = (self.zone.clone(), self.contexts.clone(), self.state.clone());
        FormerOrigin { from: self.from, names: self.names.clone(), zone, contexts, state }
    }
}

impl FormerOrigin {
    pub(super) fn origin(&self) -> Origin<'_> {
        Origin {
            from: self.from,
            names: &self.names,
            zone: &self.zone,
            contexts: &self.contexts,
            state: &self.state,
        }
    }
}

/// Gives `connection` the wanted state. `have`: what it was given before, in the terms of the server that is left; `None`
/// for a fresh one.
///
/// After an error, or dropped in the middle, the connection has a part of it and is of no use any more.
pub(super) async fn restore(
    connection: &mut Connection,
    have: Option<Snapshot>,
    wanted: &Snapshot,
    origin: Origin<'_>,
) -> Result<(), RestoreError> {
    // The first question to a server also says what kind it is.
    let fresh = match have {
        Some(_) => None,
        None => Some(
            connection
                .fresh_snapshot()
                .await
                .map_err(|error| RestoreError::Write { what: "its first state".to_owned(), error })?,
        ),
    };
    let (from, to) = (origin.from, connection.dialect());
    connection.crossing = !from.is_same(to);
    let mut notes = Vec::new();
    let names = connection.names.clone();
    let in_terms = |snapshot: &Snapshot, notes: &mut Vec<String>| {
        let mut there = mapping::snapshot(snapshot, from, to, notes)?;
        if let Some(schema) = &mut there.schema {
            *schema = mapping::schema(schema, origin.names, &names)?;
        }
        mapping::time_zone(&mut there.variables, origin.zone, notes).map(|()| there)
    };
    let in_terms = |snapshot: &Snapshot, notes: &mut Vec<String>| {
        in_terms(snapshot, notes).map_err(RestoreError::Unmapped)
    };
    let wanted = in_terms(wanted, &mut notes)?;
    let mut contexts = mapping::contexts(origin.contexts, from, to).map_err(RestoreError::Unmapped)?;
    mapping::schemas_of_contexts(&mut contexts, origin.names, &names).map_err(RestoreError::Unmapped)?;
    connection.mapped = notes;
    connection.inherited.clone_from(&wanted.inherited);
    let have = match have {
        Some(have) => in_terms(&have, &mut Vec::new())?,
        None => fresh.unwrap_or_default(),
    };
    let steps = plan(&wanted, &have, &contexts, origin.state.versions.context)
        .map_err(|_| RestoreError::Unreachable)?;
    for step in &steps {
        connection.carry_out(step, origin.state).await?;
    }
    // invariant 3: nothing that was done to restore it has opened anything.
    debug_assert!(!connection.status.contains(StatusFlags::IN_TRANSACTION), "invariant 3");
    Ok(())
}
