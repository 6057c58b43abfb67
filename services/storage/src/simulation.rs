//! The door for the simulation (`tests/sim`): what a claim does to a row of the slot table, without a
//! database.
//!
//! Only with the feature `simulation`, which the server is not built with.

use std::collections::BTreeSet;

use sestina_proto as proto;

use crate::stores::slots::table;

/// The holder of a slot: name and incarnation; the name is empty if there is none.
pub type Holder = (String, u64);

/// The holder and epoch of a slot after a move, or none if the move is refused: the slot is not as the
/// claimer has read it, or its holder is among those with a `fresh` lease and has not released it.
pub fn moved(
    step: &proto::SlotMove,
    (holder, epoch): (&Holder, u64),
    fresh: &BTreeSet<Holder>,
) -> Option<(Holder, u64)> {
    let row = (
        i64::from(step.slot),
        holder.0.clone(),
        holder.1 as i64,
        epoch as i64,
    );
    let (_, name, incarnation, epoch) = table::moved(step, &row, fresh)?;
    Some(((name, incarnation as u64), epoch as u64))
}
