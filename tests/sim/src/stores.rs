//! Storage as its contract describes it: archives, offline messages and data of entities, with fences and
//! idempotency keys.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::client::number_in;
use super::commits::{Commits, Undo};

/// An archived message.
#[derive(Clone, Debug)]
pub(super) struct Archived {
    pub(super) place: (u64, u64),
    pub(super) id: Bytes,
    pub(super) row: proto::ArchiveRow,
}

/// An offline message: its place (two numbers), the row, and whether it was delivered.
pub(super) type OfflineRow = (u64, u64, proto::OfflineRow, bool);

/// An idempotency key, as it is ordered.
pub(super) type KeyOf = (u64, u64, u64, u32);

/// A user's offline messages by key.
type OfflineRows = BTreeMap<KeyOf, OfflineRow>;

/// What storage holds.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) away: bool,
    pub(super) map: proto::SlotMap,
    pub(super) archives: BTreeMap<String, Vec<Archived>>,
    pub(super) offline: BTreeMap<String, OfflineRows>,
    pub(super) accounts: BTreeSet<String>,
    /// Values by entity and name.
    pub(super) data: BTreeMap<(String, String), Bytes>,
    /// Answers of the requests that have written data.
    pub(super) answers: BTreeMap<KeyOf, proto::Stanza>,
    /// Epoch and counter of the last write of each entity.
    pub(super) order: BTreeMap<String, (u64, u64)>,
    /// Writes of data that their router has given up, each with the number of requests that come before it.
    pub(super) late: Vec<(u64, proto::EntityDataPutRequest)>,
    pub(super) commits: Commits,
    /// Users whose offline messages could not be read: they receive new messages before those.
    pub(super) unread: BTreeSet<String>,
}

/// The owner of a slot in a slot table.
pub(super) fn owner_in(map: &proto::SlotMap, slot: u16) -> Option<&proto::Node> {
    let place = (map.owners[usize::from(slot)] as usize).checked_sub(1)?;
    Some(&map.routers[place])
}

fn key_of(key: Option<&proto::Key>) -> KeyOf {
    key.map_or((0, 0, 0, 0), |k| (k.origin_hi, k.origin_lo, k.n, k.purpose))
}

impl Storage {
    pub(super) fn new(map: proto::SlotMap) -> Storage {
        Storage {
            away: false,
            map,
            archives: BTreeMap::new(),
            offline: BTreeMap::new(),
            accounts: BTreeSet::new(),
            data: BTreeMap::new(),
            answers: BTreeMap::new(),
            order: BTreeMap::new(),
            late: Vec::new(),
            commits: Commits::default(),
            unread: BTreeSet::new(),
        }
    }

    /// The owner of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&proto::Node> {
        owner_in(&self.map, slot)
    }

    /// What is read from storage; an error if it is unavailable.
    pub(super) fn if_there<T>(&self, read: impl FnOnce(&Storage) -> T) -> Result<T, ()> {
        if self.away { Err(()) } else { Ok(read(self)) }
    }

    /// Whether a fence is that of the slot's owner.
    fn admits(&self, fence: Option<&proto::Fence>) -> bool {
        let Some(fence) = fence else { return false };
        let newest = self
            .map
            .epochs
            .get(fence.slot as usize)
            .copied()
            .unwrap_or(0);
        (fence.epoch == newest && newest > 0) || !guard!("epoch")
    }

    /// Appends archive rows; returns the slots whose rows were refused.
    pub(super) fn archive(&mut self, rows: &[proto::ArchiveRow]) -> Vec<u32> {
        let mut fenced = BTreeSet::new();
        let mut commit = Vec::new();
        for row in rows {
            if !self.admits(row.fence.as_ref()) {
                fenced.insert(row.fence.as_ref().map_or(0, |f| f.slot));
                continue;
            }
            let archive = self.archives.entry(row.archive.clone()).or_default();
            let place = (row.epoch, row.counter);
            let moves = |a: &mut Archived| row.moves && a.id == row.stanza_id && a.place < place;
            let moved: Vec<Archived> = archive.extract_if(.., moves).collect();
            if archive.iter().any(|a| a.id == row.stanza_id) {
                continue;
            }
            archive.push(Archived {
                place,
                id: row.stanza_id.clone(),
                row: row.clone(),
            });
            archive.sort_by_key(|a| a.place);
            commit.push(Undo::Archived {
                archive: row.archive.clone(),
                id: row.stanza_id.clone(),
                moved,
            });
        }
        self.commits.note(commit);
        fenced.into_iter().collect()
    }

    /// A page of an archive, of six messages at the most.
    pub(super) fn page(&self, request: &proto::ArchiveQueryRequest) -> proto::ArchiveQueryReply {
        let rows: Vec<proto::ArchiveRow> = self
            .archives
            .get(&request.archive)
            .into_iter()
            .flatten()
            .map(|a| a.row.clone())
            .collect();
        let count = rows.len();
        let mut bytes = 0;
        let fits = |row: &proto::ArchiveRow| {
            let fits = bytes < request.max_bytes;
            bytes += row.stanza.as_ref().map_or(0, |s| s.payload.len() as u64);
            fits
        };
        let rows: Vec<_> = rows.into_iter().take(6).take_while(fits).collect();
        proto::ArchiveQueryReply {
            count: count as u64,
            complete: rows.len() == count,
            rows,
            ..Default::default()
        }
    }

    /// Appends offline rows; returns the slots whose rows were refused.
    pub(super) fn offline_append(&mut self, rows: &[proto::OfflineRow]) -> Vec<u32> {
        let mut fenced = BTreeSet::new();
        let mut commit = Vec::new();
        for row in rows {
            if self.admits(row.fence.as_ref()) {
                let key = key_of(row.key.as_ref());
                let rows = self.offline.entry(row.bare.clone()).or_default();
                if let Entry::Vacant(place) = rows.entry(key) {
                    place.insert((row.epoch, row.counter, row.clone(), false));
                    let bare = row.bare.clone();
                    commit.push(Undo::Stored { bare, key });
                }
            } else {
                fenced.insert(row.fence.as_ref().map_or(0, |f| f.slot));
            }
        }
        self.commits.note(commit);
        fenced.into_iter().collect()
    }

    /// A page of the undelivered messages of a user behind a place, in order.
    pub(super) fn offline_list(
        &self,
        request: &proto::OfflineListRequest,
    ) -> proto::OfflineListReply {
        const PAGE: usize = 5;
        let after = (request.after_epoch, request.after_counter);
        let rows = self.offline.get(&request.bare);
        let rows = rows.into_iter().flat_map(|u| u.values());
        let mut rows: Vec<&OfflineRow> = rows.filter(|r| !r.3 && (r.0, r.1) > after).collect();
        rows.sort_by_key(|r| (r.0, r.1));
        let mut bytes = 0;
        let mut page = rows.iter().take(PAGE).take_while(|row| {
            let fits = bytes < request.max_bytes;
            bytes += row.2.stanza.as_ref().map_or(0, |s| s.payload.len() as u64);
            fits
        });
        let page: Vec<proto::OfflineRow> = page.by_ref().map(|row| row.2.clone()).collect();
        let more = page.len() < rows.len();
        proto::OfflineListReply { rows: page, more }
    }

    /// The places of a user's messages, delivered ones included, by message number.
    pub(super) fn offline_places(&self, bare: &str) -> BTreeMap<u64, (u64, u64)> {
        let rows = self.offline.get(bare).into_iter().flat_map(|u| u.values());
        let place = |row: &OfflineRow| {
            let number = number_in(row.2.stanza.as_ref())?;
            Some((number, (row.0, row.1)))
        };
        rows.filter_map(place).collect()
    }

    /// All undelivered messages of a user.
    pub(super) fn offline_all(&self, bare: &str) -> impl Iterator<Item = &proto::OfflineRow> {
        let rows = self.offline.get(bare).into_iter().flat_map(|u| u.values());
        rows.filter(|r| !r.3).map(|r| &r.2)
    }

    /// Which of these keys a user has, delivered ones included.
    pub(super) fn offline_known(&self, bare: &str, keys: &[proto::Key]) -> Vec<IdempotencyKey> {
        let user = self.offline.get(bare);
        let has = |key: &&proto::Key| user.is_some_and(|u| u.contains_key(&key_of(Some(key))));
        keys.iter().filter(has).map(IdempotencyKey::from).collect()
    }

    /// Marks messages as delivered; false if the fence refuses that.
    pub(super) fn offline_remove(&mut self, request: &proto::OfflineRemoveRequest) -> bool {
        if !self.admits(request.fence.as_ref()) {
            return false;
        }
        let mut commit = Vec::new();
        if let Some(user) = self.offline.get_mut(&request.bare) {
            for key in request.keys.iter().map(|key| key_of(Some(key))) {
                if let Some(row) = user.get_mut(&key).filter(|row| !row.3) {
                    row.3 = true;
                    let bare = request.bare.clone();
                    commit.push(Undo::Delivered { bare, key });
                }
            }
        }
        self.commits.note(commit);
        true
    }

    /// Writes that their routers have given up arrive, each after some other requests, or all of them.
    pub(super) fn late_writes(&mut self, all: bool) {
        self.late
            .iter_mut()
            .for_each(|(wait, _)| *wait = wait.saturating_sub(1));
        let arrived: Vec<_> = self
            .late
            .extract_if(.., |(wait, _)| *wait == 0 || all)
            .collect();
        for (_, request) in arrived {
            self.entity_data_put(&request);
        }
    }

    /// The items of an entity with these names that exist.
    pub(super) fn entity_data_get(
        &self,
        request: &proto::EntityDataGetRequest,
    ) -> proto::EntityDataReply {
        let item = |name: &String| {
            let value = self.data.get(&(request.entity.clone(), name.clone()))?;
            Some(proto::EntityDataItem {
                name: name.clone(),
                value: value.clone(),
            })
        };
        proto::EntityDataReply {
            items: request.names.iter().filter_map(item).collect(),
        }
    }

    /// Writes data of an entity with the request's key and answer, or returns the answer stored before. A request
    /// that arrives after a later one changes nothing.
    pub(super) fn entity_data_put(
        &mut self,
        request: &proto::EntityDataPutRequest,
    ) -> proto::EntityDataPutReply {
        let mut reply = proto::EntityDataPutReply::default();
        if !self.admits(request.fence.as_ref()) {
            reply.fenced = true;
            return reply;
        }
        let key = key_of(request.key.as_ref());
        if let Some(stored) = self.answers.get(&key) {
            reply.replayed = true;
            reply.answer = Some(stored.clone());
            return reply;
        }
        let mut commit = vec![Undo::Answered { key }];
        if request.counter > 0 {
            let at = (request.fence.map_or(0, |f| f.epoch), request.counter);
            let entity = request.entity.clone();
            let before = self.order.get(&entity).copied();
            if before.is_some_and(|before| before >= at) {
                reply.overtaken = true;
                return reply;
            }
            self.order.insert(entity.clone(), at);
            commit.push(Undo::Order { entity, before });
        }
        let answer = request.answer.clone().unwrap_or_default();
        self.answers.insert(key, answer);
        for item in &request.items {
            let place = (request.entity.clone(), item.name.clone());
            let before = self.data.remove(&place);
            if !item.value.is_empty() {
                self.data.insert(place.clone(), item.value.clone());
            }
            commit.push(Undo::Data { place, before });
        }
        self.commits.note(commit);
        reply
    }
}

#[cfg(test)]
#[path = "stores_tests.rs"]
mod tests;
