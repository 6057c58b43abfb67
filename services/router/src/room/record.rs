//! The fields of a room's object in the state store: occupants, messages of the history, idempotency keys.

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{IdempotencyKey, join, split};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use crate::domain::room::{Affiliation, Home, Occupant, Remembered, Role, RoomSession};

impl Occupant {
    /// The name of its field in the room's object.
    pub(super) fn field_name(nick: &str) -> String {
        format!("o:{nick}")
    }

    /// Its field in the room's object.
    pub(super) fn field(&self) -> (String, Bytes) {
        let record = proto::RoomOccupant {
            nick: self.nick.clone(),
            affiliation: self.affiliation as u32,
            role: self.role as u32,
            sessions: self.sessions().map(RoomSession::record).collect(),
        };
        let name = Occupant::field_name(&self.nick);
        (name, record.encode_to_vec().into())
    }

    /// Reads the value that [`Occupant::field`] wrote.
    pub(super) fn restored(value: Bytes) -> Option<Occupant> {
        let record = proto::RoomOccupant::decode(value).ok()?;
        let mut sessions = record
            .sessions
            .into_iter()
            .filter_map(RoomSession::restored);
        let mut occupant = Occupant::new(
            record.nick,
            Affiliation::from_number(record.affiliation),
            Role::from_number(record.role),
            sessions.next()?,
        );
        occupant.others = sessions.collect();
        Some(occupant)
    }
}

impl RoomSession {
    fn record(&self) -> proto::RoomSession {
        let (session_hi, session_lo) = split(self.session);
        proto::RoomSession {
            jid: self.jid.as_str().to_owned(),
            session_hi,
            session_lo,
            slot: u32::from(self.home.0),
            presence: Some(self.presence.clone().into()),
            seq: self.seq,
        }
    }

    fn restored(record: proto::RoomSession) -> Option<RoomSession> {
        Some(RoomSession {
            jid: Jid::from_wire(&record.jid),
            session: join(record.session_hi, record.session_lo),
            home: Home(u16::try_from(record.slot).ok()?),
            presence: Stanza::from(record.presence?),
            seq: record.seq,
        })
    }
}

impl Remembered {
    pub(super) fn field_name(seq: u64) -> String {
        format!("h:{seq}")
    }

    pub(super) fn field(&self) -> (String, Bytes) {
        let item = proto::HistoryItem {
            stanza: Some(self.message.clone().into()),
            at_ms: self.at_ms,
        };
        let name = Remembered::field_name(self.seq);
        (name, item.encode_to_vec().into())
    }

    pub(super) fn restored(seq: &str, value: Bytes) -> Option<Remembered> {
        let item = proto::HistoryItem::decode(value).ok()?;
        Some(Remembered {
            seq: seq.parse().ok()?,
            message: Stanza::from(item.stanza?),
            at_ms: item.at_ms,
        })
    }
}

/// The field of an idempotency key.
pub(super) fn key_field(key: IdempotencyKey) -> (String, Bytes) {
    (
        format!("k:{:032x}:{}:{}", key.origin, key.n, key.purpose),
        Bytes::new(),
    )
}

pub(super) fn parse_key(text: &str) -> Option<(u128, u64, u32)> {
    let mut parts = text.split(':');
    let origin = u128::from_str_radix(parts.next()?, 16).ok()?;
    Some((
        origin,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::room::session_named as session;

    #[test]
    fn an_occupant_is_restored_as_it_was_written() {
        let nick = "Romeo".to_owned();
        let phone = session("phone", 1);
        let mut romeo = Occupant::new(nick, Affiliation::Owner, Role::Moderator, phone);
        romeo.enter(session("laptop", 2));
        let (name, field) = romeo.field();
        assert_eq!(name, "o:Romeo");
        let restored = Occupant::restored(field).expect("an occupant");
        let sessions = restored.sessions();
        let sessions: Vec<_> = sessions
            .map(|s| (s.session, s.presence.id.as_str()))
            .collect();
        assert_eq!(sessions, [(1, "phone"), (2, "laptop")]);
        assert_eq!(restored.role, Role::Moderator);
        assert_eq!(restored.affiliation, Affiliation::Owner);
        assert_eq!(restored.main.home, Home(7));
    }

    #[test]
    fn a_broken_record_is_no_occupant() {
        let nobody = proto::RoomOccupant {
            nick: "Nobody".to_owned(),
            ..Default::default()
        };
        assert!(Occupant::restored(nobody.encode_to_vec().into()).is_none());
        assert!(Occupant::restored(Bytes::from_static(b"\xff")).is_none());
    }
}
