//! Offline messages (XEP-0160): kept until delivered, each key once.
//!
//! A delivered row loses its stanza but keeps its key until maintenance removes it: a replay of
//! the message that was delivered meanwhile finds the key and is done.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use prost::Message;
use sestina_api::store::StoreError;
use sestina_proto as proto;

use super::{checked, fits, instant, key_bytes, key_of, number, stanza_bytes};
use crate::dialect::dialects;
use crate::error::Fault;
use crate::fence::{Epochs, fence as fence_of};

/// Rows in one listing.
const PAGE: u32 = 1000;

/// A row to insert.
pub(crate) struct NewRow {
    /// Its place in the request.
    index: u32,
    key: Vec<u8>,
    epoch: i64,
    counter: i64,
    at_ms: i64,
    stanza: Vec<u8>,
    /// Rows of its user that do not count against the limit.
    queued: i64,
}

/// The rows to insert, by user.
type ByUser<'a> = BTreeMap<&'a str, Vec<NewRow>>;

/// A row as it is read: key, epoch, counter, `at_ms`, stanza.
type Row = (Vec<u8>, i64, i64, i64, Vec<u8>);

/// A user with messages: the id of its rows and how many are undelivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    id: i64,
    waiting: i64,
}

fn slots(request: &proto::OfflineAppendRequest) -> Result<BTreeSet<u32>, StoreError> {
    request
        .rows
        .iter()
        .map(|row| fence_of(row.fence.as_ref()).map(|(slot, _)| slot))
        .collect()
}

/// The rows that may be written, by user, and the slots of the others.
fn admit<'a>(
    request: &'a proto::OfflineAppendRequest,
    epochs: &Epochs,
) -> Result<(ByUser<'a>, BTreeSet<u32>), StoreError> {
    let mut admitted = ByUser::new();
    let mut fenced = BTreeSet::new();
    for (index, row) in (0..).zip(&request.rows) {
        if row.bare.is_empty() {
            return Err(StoreError::Invalid("the row names no user".to_owned()));
        }
        let new = NewRow {
            index,
            key: key_bytes(row.key.as_ref())?,
            epoch: number(row.epoch)?,
            counter: number(row.counter)?,
            at_ms: instant(row.at_ms)?,
            stanza: stanza_bytes(row.stanza.as_ref())?,
            queued: i64::from(row.queued),
        };
        let at = fence_of(row.fence.as_ref())?;
        if epochs.admit(at) {
            admitted.entry(checked(&row.bare)?).or_default().push(new);
        } else {
            fenced.insert(at.0);
        }
    }
    Ok((admitted, fenced))
}

/// Takes out what the user already has, then what is beyond the limit (its indexes are returned).
fn select(rows: &mut Vec<NewRow>, known: HashSet<Vec<u8>>, waiting: i64, max: u32) -> Vec<u32> {
    let mut seen = known;
    rows.retain(|row| seen.insert(row.key.clone()));
    if max == 0 {
        return Vec::new();
    }
    let mut waiting = waiting;
    let full = rows.extract_if(.., |row| {
        let refused = waiting.saturating_sub(row.queued) >= i64::from(max);
        waiting += i64::from(!refused);
        refused
    });
    full.map(|row| row.index).collect()
}

dialects! {
    with super::rows as rows;
    items:

    /// Appends messages, each fenced.
    pub(crate) async fn append(
        conn: &mut Conn,
        request: &proto::OfflineAppendRequest,
    ) -> Result<proto::FencedReply, Fault> {
        let epochs = fence::hold(conn, &slots(request)?).await?;
        let (admitted, fenced) = admit(request, &epochs)?;
        let jids: Vec<&str> = admitted.keys().copied().collect();
        let users = rows::lock_users(conn, &jids).await?;
        let mut full = Vec::new();
        for (jid, mut new) in admitted {
            let user = *users.get(jid).ok_or_else(|| {
                StoreError::Unavailable(format!("the account {jid} was deleted at the same time"))
            })?;
            let keys: Vec<Vec<u8>> = new.iter().map(|row| row.key.clone()).collect();
            let known = rows::known(conn, user.id, &keys).await?;
            full.extend(select(&mut new, known, user.waiting, request.max_rows));
            rows::insert(conn, user.id, &new).await?;
        }
        full.sort_unstable();
        Ok(proto::FencedReply { fenced_slots: fenced.into_iter().collect(), full })
    }

    /// The undelivered messages of a user behind a place, in order, as far as a page goes.
    pub(crate) async fn list(
        conn: &mut Conn,
        request: &proto::OfflineListRequest,
    ) -> Result<proto::OfflineListReply, Fault> {
        let limit = if request.limit == 0 { PAGE } else { request.limit.min(PAGE) };
        let after = (number(request.after_epoch)?, number(request.after_counter)?);
        // Sizes first: what does not fit is not read.
        let sizes: Vec<i64> = sqlx::query_scalar(
            "SELECT CAST(length(o.stanza) AS BIGINT)
             FROM offline o JOIN offline_user u ON u.id = o.owner
             WHERE u.bare = $1 AND o.delivered_ms IS NULL AND (o.epoch, o.counter) > ($3, $4)
             ORDER BY o.epoch, o.counter, o.key LIMIT $2",
        )
        .bind(checked(&request.bare)?)
        .bind(i64::from(limit) + 1)
        .bind(after.0)
        .bind(after.1)
        .fetch_all(&mut *conn)
        .await?;
        let (count, more) = fits(&sizes, limit, request.max_bytes);
        let mut reply = proto::OfflineListReply { rows: Vec::with_capacity(count), more };
        if count == 0 {
            return Ok(reply);
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT o.key, o.epoch, o.counter, o.at_ms, o.stanza
             FROM offline o JOIN offline_user u ON u.id = o.owner
             WHERE u.bare = $1 AND o.delivered_ms IS NULL AND (o.epoch, o.counter) > ($3, $4)
             ORDER BY o.epoch, o.counter, o.key LIMIT $2",
        )
        .bind(&request.bare)
        .bind(count as i64)
        .bind(after.0)
        .bind(after.1)
        .fetch_all(conn)
        .await?;
        for (key, epoch, counter, at_ms, stanza) in rows {
            reply.rows.push(proto::OfflineRow {
                fence: None,
                bare: request.bare.clone(),
                epoch: epoch as u64,
                counter: counter as u64,
                key: key_of(&key),
                at_ms,
                stanza: Some(proto::Stanza::decode(&stanza[..])?),
                queued: 0,
            });
        }
        Ok(reply)
    }

    /// Which of these keys a user has, delivered ones included.
    pub(crate) async fn known(
        conn: &mut Conn,
        request: &proto::OfflineKnownRequest,
    ) -> Result<proto::OfflineKnownReply, Fault> {
        let keys: Result<Vec<_>, _> = request.keys.iter().map(|key| key_bytes(Some(key))).collect();
        let user: Option<i64> = sqlx::query_scalar("SELECT id FROM offline_user WHERE bare = $1")
            .bind(checked(&request.bare)?)
            .fetch_optional(&mut *conn)
            .await?;
        let mut reply = proto::OfflineKnownReply::default();
        if let Some(user) = user {
            let known = rows::known(conn, user, &keys?).await?;
            reply.keys.extend(known.iter().filter_map(|key| key_of(key)));
        }
        Ok(reply)
    }

    /// Marks messages as delivered; keys that are not there are ignored.
    pub(crate) async fn remove(
        conn: &mut Conn,
        request: &proto::OfflineRemoveRequest,
    ) -> Result<proto::FencedReply, Fault> {
        let at = fence_of(request.fence.as_ref())?;
        if !fence::hold(conn, &BTreeSet::from([at.0])).await?.admit(at) {
            return Ok(proto::FencedReply { fenced_slots: vec![at.0], full: Vec::new() });
        }
        let keys: Result<Vec<_>, _> = request.keys.iter().map(|key| key_bytes(Some(key))).collect();
        // A write locks the row on both databases.
        let user: Option<i64> = sqlx::query_scalar(
            "UPDATE offline_user SET waiting = waiting WHERE bare = $1 RETURNING id",
        )
        .bind(checked(&request.bare)?)
        .fetch_optional(&mut *conn)
        .await?;
        if let Some(user) = user {
            let now = now_ms(conn).await?;
            rows::deliver(conn, user, &keys?, now).await?;
        }
        Ok(proto::FencedReply::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u32, key: u8) -> NewRow {
        NewRow {
            index,
            key: vec![key],
            epoch: 1,
            counter: 1,
            at_ms: 1,
            stanza: Vec::new(),
            queued: 0,
        }
    }

    #[test]
    fn what_sessions_have_in_their_queues_takes_no_room() {
        let queued = |index, key, queued| NewRow {
            queued,
            ..row(index, key)
        };
        let mut rows = vec![queued(0, 1, 2), queued(1, 2, 2), queued(2, 3, 2)];
        assert_eq!(select(&mut rows, HashSet::new(), 10, 10), [2]);
        let mut rows = vec![queued(0, 1, 0), queued(1, 2, 1)];
        assert_eq!(select(&mut rows, HashSet::new(), 10, 10), [0]);
    }

    #[test]
    fn replays_take_no_room_and_the_rest_is_named() {
        let batch = || vec![row(0, 1), row(1, 2), row(2, 2), row(3, 3), row(4, 4)];
        let known = HashSet::from([vec![1]]);
        let mut rows = batch();
        assert_eq!(select(&mut rows, known.clone(), 8, 10), [4]);
        assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), [1, 3]);
        let mut rows = batch();
        assert_eq!(select(&mut rows, known.clone(), 12, 10), [1, 3, 4]);
        assert!(rows.is_empty());
        let mut rows = batch();
        assert!(select(&mut rows, known, 1000, 0).is_empty());
        assert_eq!(rows.len(), 3);
    }
}
