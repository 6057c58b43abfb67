//! Rooms (XEP-0045): live state and its events, owned by the slot of the room's JID.
//!
//! Everything that occupants see is an event with a number. An event is in the state store before its
//! first frame leaves, and in the event log until every session owner has it; so a new owner continues
//! where the old one died, and all occupants see one order.
//!
//! - [`state`]: occupants, subject, history, and their form in the state store
//! - [`occupant`]: a nick, and the sessions of one user under it
//! - [`input`]: what occupants send
//! - [`join`]: entering a room
//! - [`presence`]: new presence, nick changes, leaving
//! - [`iq`]: IQs to the room, and to one of its occupants
//! - [`owner`]: what its owner asks of it
//! - [`event_log`]: numbering, commit, fan-out, acknowledgement of events; [`logged_event`]: one of them
//! - [`reconcile`]: a room's new owner learns from sessions who is in it; [`announce`]: and tells the others
//! - [`receive`]: a room's event at the owner of its receivers' sessions
//! - [`incoming`]: the points that a message of a room passes there

mod announce;
mod event_log;
mod incoming;
mod input;
mod iq;
mod join;
mod joining;
mod logged_event;
mod occupant;
mod owner;
mod presence;
mod receive;
mod reconcile;
mod state;

pub(crate) use input::Origin;
pub(crate) use iq::ANSWERS;
pub(crate) use receive::{room_ack, room_event};
pub(crate) use state::Room;
