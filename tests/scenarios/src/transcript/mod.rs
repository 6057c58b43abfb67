//! Scenarios as text: what clients say and hear, one step a line.
//!
//! ```text
//! # RFC 6121 §8.5.3.1: a message to a full JID
//! accounts: alice bob
//!
//! alice logs in
//! bob/phone logs in
//! alice sends: <message to='bob@example.org/phone' type='chat'><body>Hi</body></message>
//! bob/phone receives: <message from='{alice}' type='chat'><body>Hi</body>{...}</message>
//! ```
//!
//! A session is named `user` (its resource is `home`) or `user/resource`; `~2` behind that tells it
//! from another of the same address. XML may go on over indented lines. In what is received `{name}` stands for a value, which is remembered and must
//! be the same afterwards; `{*}` stands for any, `{...}` for any further children. The full JID of
//! a session that logged in is in `{user}` or `{user/resource}`. `to` need not be written where it
//! is the receiver's own address, nor `xml:lang`.
//!
//! `is available` sends presence, hears it, and waits until what was stored for the session has been
//! delivered.
//!
//! Users and rooms get names of their own in every run, so that scenarios can share a server.
//!
//! - `parse`: text to steps; `matching`: patterns; `run`: performs the steps

mod matching;
mod parse;
mod run;

pub use matching::{Bindings, matches};
pub use parse::{Script, Step, What, parse};
pub use run::{Transcript, run};
