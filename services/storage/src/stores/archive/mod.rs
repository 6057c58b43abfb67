//! Archives (XEP-0313, paged by XEP-0059).
//!
//! - `place`: where a new row goes; the rules, without a database
//! - `postgres`, `sqlite`: appending
//! - `tail`: reading the times of the last rows
//! - `query`: reading pages
//! - `window`: which part of an archive a query asks for
//!
//! The order of an archive is (epoch, counter). Its times are those of the routers' clocks: they
//! follow the order but where a clock was wrong, and no longer than it was. Small steps back are
//! levelled out (`steady_ms`), so that who asks for what came since a time misses nothing.

mod place;
mod postgres;
mod query;
mod sqlite;
mod tail;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sestina_api::store::StoreError;
use sestina_proto as proto;

use super::{checked, instant, number, stanza_bytes};
use crate::fence::{Epochs, fence};

pub(crate) use postgres::{Months, append as append_pg, make_month, months_ahead};
pub(crate) use query::{lite, pg};
pub(crate) use sqlite::append as append_lite;

/// The length of a stanza-id.
const ID_LEN: usize = 16;

/// What one caller appends, in one slot shard.
pub(crate) type Rows = Vec<proto::ArchiveRow>;

/// For each caller, the slots whose rows were refused.
pub(crate) type Fenced = Vec<BTreeSet<u32>>;

/// Refuses rows that make no sense before they join others in a batch.
pub(crate) fn validate(rows: &[proto::ArchiveRow]) -> Result<(), StoreError> {
    for row in rows {
        fence(row.fence.as_ref())?;
        if row.archive.is_empty() {
            return Err(StoreError::Invalid("the row names no archive".to_owned()));
        }
        checked(&row.archive)?;
        checked(&row.with_bare)?;
        checked(&row.with_resource)?;
        number(row.epoch)?;
        number(row.counter)?;
        instant(row.at_ms)?;
        if row.stanza_id.len() != ID_LEN {
            return Err(StoreError::Invalid(format!(
                "a stanza-id has {ID_LEN} bytes, not {}",
                row.stanza_id.len()
            )));
        }
        if row.stanza.is_none() {
            return Err(StoreError::Invalid("the row carries no stanza".to_owned()));
        }
    }
    Ok(())
}

/// About how many bytes the rows are.
pub(crate) fn weight(rows: &[proto::ArchiveRow]) -> usize {
    let size = |row: &proto::ArchiveRow| {
        256 + row
            .stanza
            .as_ref()
            .map_or(0, |stanza| stanza.payload.len() + stanza.attrs.len())
    };
    rows.iter().map(size).sum()
}

/// All slots of a batch.
fn slots(batch: &[Arc<Rows>]) -> BTreeSet<u32> {
    let fences = batch
        .iter()
        .flat_map(|rows| rows.iter())
        .filter_map(|row| row.fence.as_ref());
    fences.map(|fence| fence.slot).collect()
}

/// The rows that may be written, by archive, and what to tell each caller of the others.
fn admit<'a>(
    batch: &'a [Arc<Rows>],
    epochs: &Epochs,
) -> Result<(BTreeMap<&'a str, Vec<&'a proto::ArchiveRow>>, Fenced), StoreError> {
    let mut admitted: BTreeMap<&str, Vec<&proto::ArchiveRow>> = BTreeMap::new();
    let mut fenced = Vec::with_capacity(batch.len());
    for rows in batch {
        let mut refused = BTreeSet::new();
        for row in rows.iter() {
            let at = fence(row.fence.as_ref())?;
            if epochs.admit(at) {
                admitted.entry(&row.archive).or_default().push(row);
            } else {
                refused.insert(at.0);
            }
        }
        fenced.push(refused);
    }
    Ok((admitted, fenced))
}

/// The other sides named by the rows.
fn peers<'a>(admitted: &BTreeMap<&'a str, Vec<&'a proto::ArchiveRow>>) -> BTreeSet<&'a str> {
    admitted
        .values()
        .flatten()
        .map(|row| row.with_bare.as_str())
        .collect()
}

/// The stanza of a row as it is stored.
fn blob(row: &proto::ArchiveRow) -> Result<Vec<u8>, StoreError> {
    stanza_bytes(row.stanza.as_ref())
}
