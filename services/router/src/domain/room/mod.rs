//! A room (XEP-0045) as a pure type: it decides about each stanza. [`crate::room`] has it together with its events, in
//! the slot that owns it; the features of rooms are in `modules/muc`.
//!
//! - [`state`]: occupants, subject, history; what a room decides
//! - [`occupant`]: a nick, and the sessions of one user under it
//! - [`join`]: entering a room, and [`entering`]: with more presences than are sent at once
//! - [`presence`]: new presence, nick changes, leaving
//! - [`message`]: messages to all occupants, and to one
//! - [`iq`]: IQs to the room, and to one of its occupants
//! - [`broadcast`]: an event that it is about to send
//! - [`reconcile`]: a room learns from sessions which of them are in it; [`announce`]: and tells the others

mod announce;
mod broadcast;
mod entering;
mod iq;
mod join;
mod message;
mod occupant;
mod presence;
mod reconcile;
mod state;

pub(crate) use announce::Left;
pub(crate) use broadcast::{Broadcast, Changed, Receiver};
#[cfg(test)]
pub(crate) use occupant::session_named;
pub(crate) use occupant::{Affiliation, Home, Occupant, Role, RoomSession};
pub(crate) use presence::not_inside;
pub(crate) use reconcile::{Admitted, Member};
pub(crate) use state::{Decision, Environment, Origin, Remembered, Room};
