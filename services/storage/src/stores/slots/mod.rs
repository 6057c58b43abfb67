//! The slot table and claims: who owns which slot, under which epoch.
//!
//! A claim is one transaction. It takes, in this order: the table's version row (claims queue
//! there), the planner's row, the lease rows of the holders it takes slots from, the slots' locks.
//! No other transaction holds one of these while it waits for another, so claims cannot deadlock:
//! renewals that begin a timeline, and assertions, take them in the same order.
//!
//! The lease rows are locked before they are judged and marked as ended in the same transaction:
//! a renewal that comes at the same time either is seen by the claim, which then refuses, or waits
//! for it and finds the lease ended. No renewal slips in between.

pub(crate) mod history;
mod rows;
pub(crate) mod table;

use std::collections::{BTreeMap, BTreeSet};

use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_runtime::failpoint;

use super::checked;
use crate::dialect::dialects;
use crate::error::Fault;
use crate::fence::SLOTS;
use table::{Holder, asserted, moved, publish};

/// Refuses requests that make no sense before anything is locked.
fn validate(request: &proto::SlotClaimRequest) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    for step in &request.moves {
        if step.slot >= SLOTS {
            return Err(StoreError::Invalid(format!(
                "there is no slot {}",
                step.slot
            )));
        }
        if !seen.insert(step.slot) {
            return Err(StoreError::Invalid(format!(
                "slot {} is moved twice",
                step.slot
            )));
        }
        checked(&step.from_name)?;
        super::number(step.min_epoch)?;
        if let Some(to) = &step.to {
            checked(&to.name)?;
            checked(&to.address)?;
        }
    }
    match &request.planner {
        Some(planner) if planner.name.is_empty() => {
            Err(StoreError::Invalid("the planner has no name".to_owned()))
        }
        Some(planner) => checked(&planner.name).map(drop),
        None if only_hand_overs(request) => Ok(()),
        None => Err(StoreError::Invalid("the claim names no planner".to_owned())),
    }
}

/// The process that asks, by name and incarnation: the planner, or the holder of the slots that are
/// released. Slots are released by their holder only.
fn speaker(request: &proto::SlotClaimRequest) -> Result<Option<Holder>, StoreError> {
    let planner = request.planner.as_ref();
    let planner = planner.map(|planner| (planner.name.clone(), planner.incarnation));
    let released = request.moves.iter().filter(|step| step.released);
    let releasing = released.map(|step| (step.from_name.clone(), step.from_incarnation));
    let mut speakers: BTreeSet<Holder> = planner.into_iter().chain(releasing).collect();
    match speakers.len() {
        0 | 1 => Ok(speakers.pop_first()),
        _ => Err(StoreError::Invalid(
            "a slot is released by its holder only".to_owned(),
        )),
    }
}

/// The slots that a router asserts, each with its epoch.
fn held(
    holder: &proto::Node,
    request: &proto::SlotAssertRequest,
) -> Result<BTreeMap<u32, u64>, StoreError> {
    if holder.name.is_empty() {
        return Err(StoreError::Invalid(
            "the assertion names no holder".to_owned(),
        ));
    }
    checked(&holder.name)?;
    let mut held = BTreeMap::new();
    for fence in &request.held {
        super::number(fence.epoch)?;
        if fence.slot >= SLOTS || fence.epoch == 0 {
            let text = format!(
                "nobody can hold slot {} under epoch {}",
                fence.slot, fence.epoch
            );
            return Err(StoreError::Invalid(text));
        }
        held.insert(fence.slot, fence.epoch);
    }
    Ok(held)
}

/// Hand-overs by their holders need no planner.
fn only_hand_overs(request: &proto::SlotClaimRequest) -> bool {
    !request.moves.is_empty() && request.moves.iter().all(|step| step.released)
}

/// The holders that slots would be taken from without having released them.
fn robbed(request: &proto::SlotClaimRequest) -> BTreeSet<Holder> {
    let robbed = request
        .moves
        .iter()
        .filter(|step| !step.released && !step.from_name.is_empty());
    robbed
        .map(|step| (step.from_name.clone(), step.from_incarnation))
        .collect()
}

dialects! {
    with super::rows as rows;
    with super::history as history;
    with crate::stores::lease as lease;
    items:

    /// The table, unless the caller knows this one.
    pub(crate) async fn table(
        conn: &mut Conn,
        request: &proto::SlotTableRequest,
    ) -> Result<proto::SlotTableReply, Fault> {
        let at = history::position(conn).await?;
        // A caller that knows a table which was lost gets none either: it keeps that table until it
        // has reported it.
        let known = request.known.unwrap_or_default();
        if at == known || history::is_lost(conn, known).await? {
            return Ok(proto::SlotTableReply { map: None });
        }
        Ok(proto::SlotTableReply { map: Some(map(conn, at).await?) })
    }

    async fn map(conn: &mut Conn, at: proto::Position) -> Result<proto::SlotMap, Fault> {
        let slots = rows::all(conn).await?;
        let (leases, now) = lease::rows(conn).await?;
        Ok(publish(at, &slots, leases, now))
    }

    /// Moves slots.
    pub(crate) async fn claim(
        conn: &mut Conn,
        request: &proto::SlotClaimRequest,
    ) -> Result<proto::SlotClaimReply, Fault> {
        validate(request)?;
        if let Some((name, incarnation)) = speaker(request)? {
            lease::check_speaker(conn, &name, incarnation, &request.secret).await?;
        }
        let at = history::lock(conn).await?;
        let hand_over = only_hand_overs(request);
        let planner = plan(conn, request, !hand_over).await?;
        // A request for the planner's part alone comes often, and is answered without the table.
        if request.moves.is_empty() {
            return Ok(proto::SlotClaimReply { planner, ..Default::default() });
        }
        let known = request.known.unwrap_or_default();
        let allowed = planner || hand_over;
        if !allowed || !history::may_move(conn, at, known).await? {
            let refused_slots = request.moves.iter().map(|step| step.slot).collect();
            let map = Some(map(conn, at).await?);
            return Ok(proto::SlotClaimReply { planner, refused_slots, map });
        }
        let (done, refused_slots) = apply(conn, request).await?;
        // Planners claim nothing most of the time: that is no claim.
        let at = if done > 0 {
            failpoint::hit_async("storage.claim").await;
            history::advance(conn, at, at.timeline).await?
        } else {
            at
        };
        let map = Some(map(conn, at).await?);
        Ok(proto::SlotClaimReply { planner, refused_slots, map })
    }

    /// What an owner holds, on a new timeline.
    pub(crate) async fn assert(
        conn: &mut Conn,
        request: &proto::SlotAssertRequest,
    ) -> Result<proto::SlotAssertReply, Fault> {
        let holder = request.holder.clone().unwrap_or_default();
        let held = held(&holder, request)?;
        let at = history::lock(conn).await?;
        if at.timeline != request.timeline {
            let map = Some(map(conn, at).await?);
            return Ok(proto::SlotAssertReply { map, ..Default::default() });
        }
        let first =
            lease::asserts(conn, &holder, &request.secret, request.timeline as i64).await?;
        let me = (holder.name, holder.incarnation);
        let (changed, refused_slots) = asserted(&rows::all(conn).await?, &me, &held, first);
        let at = if changed.is_empty() {
            at
        } else {
            let slots = changed.iter().map(|row| row.0 as u32).collect();
            fence::seize(conn, &slots).await?;
            rows::store(conn, &changed).await?;
            history::advance(conn, at, at.timeline).await?
        };
        let map = Some(map(conn, at).await?);
        Ok(proto::SlotAssertReply { done: true, refused_slots, map })
    }

    /// Whether the caller is the planner. With `take` it becomes the planner if there is no other.
    async fn plan(
        conn: &mut Conn,
        request: &proto::SlotClaimRequest,
        take: bool,
    ) -> Result<bool, Fault> {
        let Some(node) = &request.planner else { return Ok(false) };
        let now = now_ms(conn).await?;
        if !take {
            let holds: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM planner
                 WHERE name = $1 AND incarnation = $2 AND expires_ms > $3",
            )
            .bind(&node.name)
            .bind(node.incarnation as i64)
            .bind(now)
            .fetch_one(conn)
            .await?;
            return Ok(holds > 0);
        }
        let ends = now + i64::from(request.planner_ttl_ms);
        // An end beyond a whole term: the clock was set back.
        sqlx::query("UPDATE planner SET expires_ms = $1 WHERE expires_ms > $1")
            .bind(ends)
            .execute(&mut *conn)
            .await?;
        let taken = sqlx::query(
            "UPDATE planner SET name = $1, incarnation = $2, expires_ms = $3
             WHERE expires_ms <= $4 OR (name = $1 AND incarnation = $2)",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(ends)
        .bind(now)
        .execute(conn)
        .await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Makes the moves that may be made; returns how many, and the slots of the others.
    async fn apply(
        conn: &mut Conn,
        request: &proto::SlotClaimRequest,
    ) -> Result<(usize, Vec<u32>), Fault> {
        let fresh = lock_leases(conn, robbed(request)).await?;
        let slots: BTreeSet<u32> = request.moves.iter().map(|step| step.slot).collect();
        fence::seize(conn, &slots).await?;
        let table = rows::load(conn, &slots).await?;
        let mut changed = Vec::new();
        let mut refused = Vec::new();
        let mut ended = BTreeSet::new();
        let mut owners = BTreeMap::new();
        for step in &request.moves {
            let row = table.get(&step.slot).and_then(|row| moved(step, row, &fresh));
            let Some(row) = row else {
                refused.push(step.slot);
                continue;
            };
            changed.push(row);
            owners.extend(step.to.as_ref().map(|node| ((&node.name, node.incarnation), node)));
            if !step.released && !step.from_name.is_empty() {
                ended.insert((step.from_name.clone(), step.from_incarnation));
            }
        }
        rows::store(conn, &changed).await?;
        for (name, incarnation) in ended {
            lease::robbed(conn, &name, incarnation).await?;
        }
        for node in owners.into_values() {
            remember(conn, node).await?;
        }
        Ok((changed.len(), refused))
    }

    /// Locks the holders' leases and returns those that are fresh. A write locks a row on both
    /// databases.
    async fn lock_leases(
        conn: &mut Conn,
        holders: BTreeSet<Holder>,
    ) -> Result<BTreeSet<Holder>, Fault> {
        let mut leases = Vec::with_capacity(holders.len());
        for holder in holders {
            let lease: Option<(i64, bool)> = sqlx::query_as(
                "UPDATE lease SET ended = ended WHERE name = $1 AND incarnation = $2
                 RETURNING expires_ms, ended",
            )
            .bind(&holder.0)
            .bind(holder.1 as i64)
            .fetch_optional(&mut *conn)
            .await?;
            leases.extend(lease.map(|(expires_ms, ended)| (holder, expires_ms, ended)));
        }
        let now = now_ms(conn).await?;
        let fresh = leases.into_iter().filter(|(_, expires_ms, ended)| !ended && *expires_ms > now);
        Ok(fresh.map(|(holder, ..)| holder).collect())
    }

    /// Keeps the address of an owner whose lease this database has not seen yet.
    async fn remember(conn: &mut Conn, node: &proto::Node) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended)
             VALUES ($1, $2, $3, $4, $5, 0, FALSE) ON CONFLICT (name, incarnation) DO NOTHING",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(i64::from(node.role))
        .bind(&node.address)
        .bind(node.draining)
        .execute(conn)
        .await?;
        Ok(())
    }
}
