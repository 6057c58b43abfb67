//! Rooms (XEP-0045): live state and its events, owned by the slot of the room's JID.
//!
//! Everything that occupants see is an event with a number. An event is in the state store before its
//! first frame leaves, and in the event log until every session owner has it; so a new owner continues
//! where the old one died, and all occupants see one order.
//!
//! The room itself is a pure type, which decides about each stanza: [`crate::domain::room`]. Here is what the slot that
//! owns it does with that:
//!
//! - [`owned`]: a room with its events; [`record`]: its form in the state store
//! - [`input`]: stanzas come in, and what the room decides is done; [`joining`]: requests to enter that are under way
//! - [`event_log`]: the numbers of events, and those that not all receivers have; [`logged_event`]: one of them
//! - [`fanout`]: commit, sending, acknowledgement of events
//! - [`reconcile`]: a room's new owner learns from sessions which of them are in it
//! - [`receive`]: a room's event at the owner of its receivers' sessions
//! - [`incoming`]: the points that a message of a room passes there

mod event_log;
mod fanout;
mod incoming;
mod input;
mod joining;
mod logged_event;
mod owned;
mod receive;
mod reconcile;
mod record;

pub(crate) use owned::OwnedRoom;
pub(crate) use receive::{room_ack, room_event};

#[cfg(test)]
mod announce_tests;
