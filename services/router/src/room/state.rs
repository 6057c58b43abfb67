//! A room: occupants, subject, history, and their form in the state store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{IdempotencyKey, join, split};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::joining::Joining;
use super::logged_event::LoggedEvent;
use super::occupant::{Occupant, RoomSession};
use super::presence::retain_own;
use crate::rng::{HashMap, HashSet};
use crate::worker::core::Core;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    pub(super) jid: Jid,
    /// The origin of its events.
    pub(super) identity: u128,
    pub(super) seq: u64,
    pub(super) occupants: BTreeMap<String, Occupant>,
    pub(super) by_session: HashMap<u128, String>,
    pub(super) subject: Option<Stanza>,
    pub(super) subject_at_ms: i64,
    /// New: its owner has not accepted its configuration, and no other session has entered.
    pub(super) unconfigured: bool,
    /// (event number, message, time)
    pub(super) history: VecDeque<(u64, Stanza, i64)>,
    pub(super) event_log: BTreeMap<u64, LoggedEvent>,
    /// Sessions that are being sent the occupants.
    pub(super) joining: Vec<Joining>,
    /// Slots that missed an event: sent again in order at the next tick or map.
    pub(super) stalled: HashSet<u16>,
    /// Session -> the last event sent to it.
    pub(super) last_sent: HashMap<u128, u64>,
    /// Of these, some may have left.
    pub(super) any_left: bool,
    /// Keys of stanzas that made events, until their origin's watermark.
    pub(super) keys: BTreeSet<(u128, u64, u32)>,
    /// Fields to remove from the replica with the next change.
    pub(super) stale_fields: Vec<String>,
    /// Events up to here are held by all their receivers.
    pub(super) trimmed: u64,
    /// The same, and the state store has them no more: they can never be sent again.
    pub(super) watermark: u64,
    pub(super) watermark_reported: u64,
    /// Slots that got events since all of them were sent the watermark.
    pub(super) watermark_targets: BTreeSet<u16>,
    pub(super) deleted: bool,
    /// Sessions of which it is not known whether they are in, and when they were asked for last.
    pub(super) to_check: BTreeSet<u128>,
    pub(super) checked_ms: u64,
}

impl Room {
    /// Its numbers are above `after`: rooms of that name were there before, and some may not have
    /// heard that they are over.
    pub(super) fn new(jid: Jid, slot: u16, after: u64) -> Room {
        Room {
            jid,
            identity: crate::worker::slot::new_origin(slot),
            seq: after,
            occupants: BTreeMap::new(),
            by_session: HashMap::default(),
            subject: None,
            subject_at_ms: 0,
            unconfigured: false,
            history: VecDeque::new(),
            event_log: BTreeMap::new(),
            joining: Vec::new(),
            stalled: HashSet::default(),
            last_sent: HashMap::default(),
            // An owner before may have sent something to some.
            any_left: true,
            keys: BTreeSet::new(),
            stale_fields: Vec::new(),
            trimmed: after,
            watermark: after,
            watermark_reported: after,
            watermark_targets: BTreeSet::new(),
            deleted: false,
            to_check: BTreeSet::new(),
            checked_ms: 0,
        }
    }

    pub(crate) fn jid(&self) -> &Jid {
        &self.jid
    }

    pub(crate) fn occupant_count(&self) -> usize {
        self.occupants.len()
    }

    /// All its events are everywhere.
    pub(crate) fn is_flushed(&self) -> bool {
        self.event_log.is_empty()
    }

    /// Whether the state store has no outdated fields of it any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.stale_fields.is_empty()
    }

    /// Keys that the state store still has although they are forgotten here.
    pub(crate) fn stale_keys(&self) -> impl Iterator<Item = (String, Bytes)> {
        let keys = self.stale_fields.iter().filter(|f| f.starts_with("k:"));
        keys.map(|field| (field.clone(), Bytes::new()))
    }

    /// Events up to here will never be sent again, whichever process dies.
    pub(super) fn watermark(&self) -> u64 {
        self.watermark
    }

    pub(super) fn occupant_of(&self, session: u128) -> Option<&Occupant> {
        self.by_session
            .get(&session)
            .and_then(|nick| self.occupants.get(nick))
    }

    /// Address of an occupant, as others see it.
    pub(super) fn address(&self, nick: &str) -> String {
        format!("{}/{nick}", self.jid)
    }

    /// The nick, role and session identity of every session in the room.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn inside(&self) -> Vec<(String, &'static str, u128)> {
        let all = self.occupants.values().flat_map(|occupant| {
            let sessions = occupant.sessions();
            sessions.map(|s| (occupant.nick.clone(), occupant.role.name(), s.session))
        });
        all.collect()
    }

    /// All sessions in the room, each with its occupant.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Occupant, &RoomSession)> {
        let occupants = self.occupants.values();
        occupants.flat_map(|occupant| occupant.sessions().map(move |s| (occupant, s)))
    }

    /// Whether these bytes occur in its history, or in an event that some receiver has not confirmed.
    #[cfg(feature = "simulation")]
    pub(crate) fn holds(&self, part: &[u8]) -> bool {
        let is = |payload: &[u8]| crate::simulation::contains(payload, part);
        let told = || self.event_log.values().flat_map(|event| &event.variants);
        self.history.iter().any(|(_, said, _)| is(&said.payload)) || told().any(|v| is(&v.payload))
    }

    /// Counts what the room still keeps for work under way, and its history. In this order:
    ///
    /// 1. sessions that are entering
    /// 2. slots that have missed events, which are to be sent again
    /// 3. sessions that have left, of which it still knows the last event that was sent to them
    /// 4. idempotency keys
    /// 5. fields that are to be removed from its object in the state store
    /// 6. messages in its history
    #[cfg(feature = "simulation")]
    pub(crate) fn open_ends(&self) -> (usize, usize, usize, usize, usize, usize) {
        let left = |session: &&u128| !self.by_session.contains_key(*session);
        (
            self.joining.len(),
            self.stalled.len(),
            self.last_sent.keys().filter(left).count(),
            self.keys.len(),
            self.stale_fields.len(),
            self.history.len(),
        )
    }

    /// All occupants.
    #[cfg(feature = "simulation")]
    pub(crate) fn seen(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.values()
    }

    /// All sessions that get the messages of the room.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &RoomSession> {
        self.occupants.values().flat_map(Occupant::sessions)
    }

    /// The presence of an occupant's session as the room sends it (XEP-0045 §7.2.3).
    pub(super) fn presence_of(
        &self,
        occupant: &Occupant,
        session: &RoomSession,
        show_jid: bool,
        statuses: &[u16],
    ) -> Stanza {
        let mut stanza = session.presence.clone();
        stanza.from = self.address(&occupant.nick);
        stanza.to = String::new();
        stanza.push_element(&user_element(
            occupant.affiliation.name(),
            occupant.role.name(),
            show_jid.then_some(session.jid.as_str()),
            None,
            statuses,
        ));
        stanza
    }

    /// A session's last presence (§7.14), or the last under this nick (§7.6), which keeps the
    /// role.
    pub(super) fn unavailable_of(
        &self,
        occupant: &Occupant,
        session: &RoomSession,
        show_jid: bool,
        status: Option<&Stanza>,
        new_nick: Option<&str>,
        statuses: &[u16],
    ) -> Stanza {
        let mut stanza = Stanza::new(Kind::Presence);
        if let Some(said) = status {
            stanza.payload = said.payload.clone();
            stanza.index = said.index.clone();
            stanza.lang = said.lang.clone();
            retain_own(&mut stanza, &self.jid);
        }
        stanza.type_ = "unavailable".to_owned();
        stanza.from = self.address(&occupant.nick);
        stanza.push_element(&user_element(
            occupant.affiliation.name(),
            new_nick.map_or("none", |_| occupant.role.name()),
            show_jid.then_some(session.jid.as_str()),
            new_nick,
            statuses,
        ));
        stanza
    }

    // ---- the state store

    pub(super) fn meta_field(&self) -> (String, Bytes) {
        let (identity_hi, identity_lo) = split(self.identity);
        let meta = proto::RoomState {
            jid: self.jid.as_str().to_owned(),
            identity_hi,
            identity_lo,
            seq: self.seq,
            subject: self.subject.clone().map(Into::into),
            subject_at_ms: self.subject_at_ms,
            unconfigured: self.unconfigured,
        };
        ("meta".to_owned(), meta.encode_to_vec().into())
    }

    pub(super) fn history_field(seq: u64, stanza: &Stanza, at_ms: i64) -> (String, Bytes) {
        let item = proto::HistoryItem {
            stanza: Some(stanza.clone().into()),
            at_ms,
        };
        (format!("h:{seq}"), item.encode_to_vec().into())
    }

    pub(super) fn key_field(key: IdempotencyKey) -> (String, Bytes) {
        (
            format!("k:{:032x}:{}:{}", key.origin, key.n, key.purpose),
            Bytes::new(),
        )
    }

    /// Everything, for an object of the state store written whole.
    pub(crate) fn replica_fields(&self) -> Vec<(String, Bytes)> {
        let mut fields = vec![self.meta_field()];
        fields.extend(self.occupants.values().map(Occupant::field));
        fields.extend(
            self.history
                .iter()
                .map(|(seq, s, at)| Room::history_field(*seq, s, *at)),
        );
        fields.extend(self.event_log.iter().map(|(seq, event)| event.field(*seq)));
        fields.extend(self.keys.iter().map(|(origin, n, purpose)| {
            Room::key_field(IdempotencyKey {
                origin: *origin,
                n: *n,
                purpose: *purpose,
            })
        }));
        fields
    }

    /// A room as the state store has it; none without its head (the object was half gone).
    pub(crate) fn from_replica(fields: Vec<(String, Bytes)>) -> Option<Room> {
        let meta = fields
            .iter()
            .find(|(f, _)| f == "meta")
            .map(|(_, v)| v.clone())?;
        let meta = proto::RoomState::decode(meta).ok()?;
        let mut room = Room::new(Jid::from_wire(&meta.jid), 0, 0);
        room.identity = join(meta.identity_hi, meta.identity_lo);
        room.seq = meta.seq;
        room.subject = meta.subject.map(Stanza::from);
        room.subject_at_ms = meta.subject_at_ms;
        room.unconfigured = meta.unconfigured;
        let mut history = Vec::new();
        for (field, value) in fields {
            match field.split_at_checked(2) {
                Some(("o:", _)) => room.restore_occupant(value),
                Some(("h:", seq)) => {
                    let item = proto::HistoryItem::decode(value).ok();
                    if let (Ok(seq), Some(item)) = (seq.parse::<u64>(), item)
                        && let Some(stanza) = item.stanza
                    {
                        history.push((seq, Stanza::from(stanza), item.at_ms));
                    }
                }
                Some(("e:", _)) => {
                    if let Ok(event) = proto::RoomLoggedEvent::decode(value) {
                        room.seq = room.seq.max(event.seq);
                        room.event_log
                            .insert(event.seq, LoggedEvent::restored(event));
                    }
                }
                Some(("k:", key)) => {
                    if let Some(key) = parse_key(key) {
                        room.keys.insert(key);
                    }
                }
                _ => {}
            }
        }
        // All receivers have the events that the state store does not have any more.
        let first = room.event_log.keys().next();
        room.trimmed = first.map_or(room.seq, |first| first - 1);
        room.watermark = room.trimmed;
        history.sort_by_key(|(seq, ..)| *seq);
        room.history = history.into();
        Some(room)
    }

    fn restore_occupant(&mut self, value: Bytes) {
        if let Some(occupant) = Occupant::restored(value) {
            for session in occupant.sessions() {
                self.by_session
                    .insert(session.session, occupant.nick.clone());
            }
            self.occupants.insert(occupant.nick.clone(), occupant);
        }
    }
}

fn parse_key(text: &str) -> Option<(u128, u64, u32)> {
    let mut parts = text.split(':');
    let origin = u128::from_str_radix(parts.next()?, 16).ok()?;
    Some((
        origin,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    ))
}

/// `<x xmlns='…muc#user'>` with its item and status codes.
pub(super) fn user_element(
    affiliation: &str,
    role: &str,
    jid: Option<&str>,
    nick: Option<&str>,
    statuses: &[u16],
) -> Element {
    let mut item = Element::new("item", ns::MUC_USER)
        .with_attr("affiliation", affiliation)
        .with_attr("role", role);
    if let Some(jid) = jid {
        item = item.with_attr("jid", jid);
    }
    if let Some(nick) = nick {
        item = item.with_attr("nick", nick);
    }
    let mut x = Element::new("x", ns::MUC_USER).with_child(item);
    for status in statuses {
        x.push(Element::new("status", ns::MUC_USER).with_attr("code", status.to_string()));
    }
    x
}

/// Which receiver gets which variant of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) slot: u16,
    pub(super) session: u128,
    /// Its index.
    pub(super) variant: u32,
    /// See `RoomTarget.affiliation_and_role`.
    pub(super) affiliation_and_role: u32,
}

/// An event that a room is about to send: its variants, and which receiver gets which.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    pub(super) variants: Vec<Arc<proto::Stanza>>,
    pub(super) targets: Vec<Receiver>,
    pub(super) fields: Vec<(String, Bytes)>,
    pub(super) removed: Vec<String>,
}

impl Broadcast {
    /// Adds a variant for these sessions.
    pub(super) fn add<'a>(
        &mut self,
        stanza: Stanza,
        to: impl IntoIterator<Item = &'a RoomSession>,
    ) -> &mut Self {
        let variant = u32::try_from(self.variants.len()).unwrap_or(u32::MAX);
        let before = self.targets.len();
        self.targets.extend(to.into_iter().map(|s| Receiver {
            slot: s.slot,
            session: s.session,
            variant,
            affiliation_and_role: 0,
        }));
        if self.targets.len() > before {
            self.variants.push(Arc::new(stanza.into()));
        }
        self
    }

    /// Adds a session's own presence: it remembers what it is here.
    pub(super) fn add_own(&mut self, own: Stanza, occupant: &Occupant, to: &RoomSession) {
        self.add_as(own, occupant.affiliation_and_role(), to);
    }

    /// The same for a receiver that is no occupant.
    pub(super) fn add_as(&mut self, own: Stanza, affiliation_and_role: u32, to: &RoomSession) {
        self.add(own, [to]);
        if let Some(target) = self.targets.last_mut() {
            target.affiliation_and_role = affiliation_and_role;
        }
    }

    /// Writes an occupant to the state store together with the event.
    pub(super) fn write(&mut self, core: &Core, occupant: &Occupant) {
        if core.config.state_store {
            self.fields.push(occupant.field());
        }
    }
}
