//! The history of a room (XEP-0045 §7.2.14): the last messages, for newcomers.

use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ext::muc;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use crate::domain::room::{Remembered, Room};
use crate::hooks::{Registrar, RoomAction, Stage};

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.room_message(Stage::Archive, |context, message, actions| {
        let at_most = context.config.limits.room_history;
        let has_body = message.stanza.child(ns::CLIENT, "body").is_some();
        if has_body && at_most > 0 {
            actions.push(RoomAction::Remember { at_most });
        }
    });
    // Before the subject.
    registrar.room_joined(Stage::Archive, |context, newcomer, stanzas| {
        let room = context.jid().as_str();
        let request = HistoryRequest::of(newcomer.request, context.wall_ms);
        for remembered in request.select(context.room) {
            let mut message = remembered.message.clone();
            message.push_element(&Delay::new(Some(room), remembered.at_ms).to_element());
            stanzas.push(message);
        }
    });
}

/// What a newcomer asks for; all limits apply.
#[derive(Debug, PartialEq, Eq)]
struct HistoryRequest {
    max_stanzas: usize,
    max_chars: usize,
    /// Unix milliseconds.
    since_ms: i64,
}

impl HistoryRequest {
    fn of(presence: &Stanza, wall_ms: i64) -> HistoryRequest {
        let limits = muc::Join::parse(presence).unwrap_or_default().history;
        let number =
            |n: Option<u64>| n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let ago = |s: u64| wall_ms.saturating_sub_unsigned(s.saturating_mul(1_000));
        HistoryRequest {
            max_stanzas: number(limits.maxstanzas),
            max_chars: number(limits.maxchars),
            since_ms: limits
                .since_ms
                .max(limits.seconds.map(ago))
                .unwrap_or(i64::MIN),
        }
    }

    /// The latest messages within all limits, the oldest first.
    fn select<'a>(&self, room: &'a Room) -> impl Iterator<Item = &'a Remembered> {
        let recent = room.history().filter(|m| m.at_ms >= self.since_ms);
        let mut wanted: Vec<&Remembered> = recent.collect();
        let more = wanted.len().saturating_sub(self.max_stanzas);
        wanted.drain(..more);
        let mut chars = 0;
        let fits = wanted.iter().rev().take_while(|m| {
            chars += m.message.payload.len();
            chars <= self.max_chars
        });
        let more = wanted.len() - fits.count();
        wanted.into_iter().skip(more)
    }
}
