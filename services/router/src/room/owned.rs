//! A room with its events, as the owner of its slot has it, and its form in the state store.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::event_log::EventLog;
use super::joining::Joining;
use super::logged_event::LoggedEvent;
use super::record::parse_key;
use crate::domain::room::{Changed, Occupant, Remembered, Room};
use crate::worker::slot::new_origin;

/// See the module.
#[derive(Debug)]
pub(crate) struct OwnedRoom {
    pub(super) room: Room,
    pub(super) log: EventLog,
    /// Requests to enter that are under way, by session.
    pub(super) joining: BTreeMap<u128, Joining>,
    /// When the owners of sessions were asked last whether these are in.
    pub(super) checked_ms: u64,
}

impl OwnedRoom {
    /// Its numbers are above `after`: rooms of that name were there before, and some sessions may not have
    /// heard that they are over.
    pub(super) fn new(jid: Jid, slot: u16, after: u64) -> OwnedRoom {
        OwnedRoom::of(Room::new(jid), EventLog::new(new_origin(slot), after))
    }

    fn of(room: Room, log: EventLog) -> OwnedRoom {
        OwnedRoom {
            room,
            log,
            joining: BTreeMap::new(),
            checked_ms: 0,
        }
    }

    pub(crate) fn jid(&self) -> &Jid {
        self.room.jid()
    }

    pub(crate) fn occupant_count(&self) -> usize {
        self.room.occupant_count()
    }

    /// Its watermark, if it is that origin.
    pub(crate) fn watermark_of(&self, origin: u128) -> Option<u64> {
        (self.log.identity == origin).then_some(self.log.watermark)
    }

    /// The room itself.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// All its events are everywhere.
    pub(crate) fn is_flushed(&self) -> bool {
        self.log.events.is_empty()
    }

    /// Whether the state store has no outdated fields of it any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.log.stale_fields.is_empty()
    }

    /// Keys that the state store still has although they are forgotten here.
    pub(crate) fn stale_keys(&self) -> impl Iterator<Item = (String, Bytes)> {
        let keys = self.log.stale_fields.iter().filter(|f| f.starts_with("k:"));
        keys.map(|field| (field.clone(), Bytes::new()))
    }

    // ---- the state store

    pub(super) fn meta_field(&self) -> (String, Bytes) {
        let (identity_hi, identity_lo) = split(self.log.identity);
        let subject = self.room.subject();
        let meta = proto::RoomState {
            jid: self.jid().as_str().to_owned(),
            identity_hi,
            identity_lo,
            seq: self.log.seq,
            subject: subject.map(|(subject, _)| subject.clone().into()),
            subject_at_ms: subject.map_or(0, |(_, at_ms)| at_ms),
            unconfigured: self.room.is_unconfigured(),
        };
        ("meta".to_owned(), meta.encode_to_vec().into())
    }

    /// The fields of what an event has changed: those to write, and the names of those to remove.
    pub(super) fn changed_fields(
        &self,
        changed: &[Changed],
    ) -> (Vec<(String, Bytes)>, Vec<String>) {
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        for changed in changed {
            match changed {
                Changed::Occupant(nick) => match self.room.occupants.get(nick) {
                    Some(occupant) => set.push(occupant.field()),
                    None => remove.push(Occupant::field_name(nick)),
                },
                Changed::History(seq) => match self.room.remembered(*seq) {
                    Some(message) => set.push(message.field()),
                    None => remove.push(Remembered::field_name(*seq)),
                },
            }
        }
        (set, remove)
    }

    /// Everything, for an object of the state store written whole.
    pub(crate) fn replica_fields(&self) -> Vec<(String, Bytes)> {
        let mut fields = vec![self.meta_field()];
        fields.extend(self.room.occupants.values().map(Occupant::field));
        fields.extend(self.room.history.iter().map(Remembered::field));
        fields.extend(self.log.fields());
        fields
    }

    /// A room as the state store has it; none without its head (the object was half gone).
    pub(crate) fn from_replica(fields: Vec<(String, Bytes)>) -> Option<OwnedRoom> {
        let meta = fields
            .iter()
            .find(|(f, _)| f == "meta")
            .map(|(_, v)| v.clone())?;
        let meta = proto::RoomState::decode(meta).ok()?;
        let mut log = EventLog::new(join(meta.identity_hi, meta.identity_lo), meta.seq);
        let mut room = Room::new(Jid::from_wire(&meta.jid));
        room.subject = meta.subject.map(Stanza::from);
        room.subject_at_ms = meta.subject_at_ms;
        room.unconfigured = meta.unconfigured;
        let mut history = Vec::new();
        for (field, value) in fields {
            match field.split_at_checked(2) {
                Some(("o:", _)) => {
                    if let Some(occupant) = Occupant::restored(value) {
                        room.restore(occupant);
                    }
                }
                Some(("h:", seq)) => history.extend(Remembered::restored(seq, value)),
                Some(("e:", _)) => {
                    if let Ok(event) = proto::RoomLoggedEvent::decode(value) {
                        log.restore(event.seq, LoggedEvent::restored(event));
                    }
                }
                Some(("k:", key)) => log.keys.extend(parse_key(key)),
                _ => {}
            }
        }
        log.restored();
        history.sort_by_key(|message| message.seq);
        room.history = history.into();
        Some(OwnedRoom::of(room, log))
    }
}

#[cfg(feature = "simulation")]
impl OwnedRoom {
    /// Whether it waits for no answer about the sessions in it.
    pub(crate) fn is_checked(&self) -> bool {
        self.room.to_check.is_empty()
    }

    /// Whether these bytes occur in its history, or in an event that some receiver has not confirmed.
    pub(crate) fn holds(&self, part: &[u8]) -> bool {
        let is = |payload: &[u8]| crate::simulation::contains(payload, part);
        let mut remembered = self.room.history.iter();
        let told = || self.log.events.values().flat_map(|event| &event.variants);
        remembered.any(|m| is(&m.message.payload)) || told().any(|v| is(&v.payload))
    }

    /// Counts what the room still keeps for work under way, and its history. In this order:
    ///
    /// 1. sessions that are entering
    /// 2. slots that have missed events, which are to be sent again
    /// 3. sessions that have left, of which it still knows the last event that was sent to them
    /// 4. idempotency keys
    /// 5. fields that are to be removed from its object in the state store
    /// 6. messages in its history
    pub(crate) fn open_ends(&self) -> (usize, usize, usize, usize, usize, usize) {
        let left = |session: &&u128| !self.room.by_session.contains_key(*session);
        (
            self.joining.len(),
            self.log.stalled.len(),
            self.log.last_sent.keys().filter(left).count(),
            self.log.keys.len(),
            self.log.stale_fields.len(),
            self.room.history.len(),
        )
    }
}
