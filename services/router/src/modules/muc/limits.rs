//! The number of sessions in a room is bounded (XEP-0045 §7.2.9).

use sestina_xmpp::stanza::error::{Condition, StanzaError};

use crate::hooks::{Bounce, Registrar, Stage};

pub(super) fn register(registrar: &mut Registrar<'_>) {
    registrar.room_pre_join(Stage::Policy, |context, entrance| {
        let room = context.room;
        if room.is_inside(entrance.session)
            || room.session_count() < context.config.limits.max_room_occupants
        {
            return Ok(());
        }
        let full = StanzaError::new(Condition::ServiceUnavailable);
        Err(Bounce::with(full.with_text("the room is full")))
    });
}
