//! The history of a room (XEP-0045 §7.2.14): the last messages, for newcomers.

use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::xml::Element;

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

/// `<history/>` in the presence with which a session enters.
#[derive(Debug, PartialEq, Eq)]
struct HistoryRequest {
    max_stanzas: usize,
    max_chars: usize,
    /// Unix milliseconds.
    since_ms: i64,
}

impl HistoryRequest {
    fn of(presence: &Stanza, wall_ms: i64) -> HistoryRequest {
        let history = presence
            .element(ns::MUC, "x")
            .and_then(|x| x.child("history", ns::MUC).cloned())
            .unwrap_or_else(|| Element::new("history", ns::MUC));
        let number = |name: &str| history.attr(name).and_then(|v| v.parse::<u32>().ok());
        let since = history.attr("since");
        let since = since.and_then(sestina_xmpp::ext::datetime::parse);
        let seconds = number("seconds").map(|s| wall_ms - i64::from(s) * 1000);
        HistoryRequest {
            max_stanzas: number("maxstanzas").map_or(usize::MAX, |n| n as usize),
            max_chars: number("maxchars").map_or(usize::MAX, |n| n as usize),
            since_ms: since.max(seconds).unwrap_or(i64::MIN),
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
