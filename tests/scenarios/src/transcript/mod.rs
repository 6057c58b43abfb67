//! Scenarios as text: the stanzas that clients send and receive, one step per line.
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
//! A session is named `user` (its resource is `home`) or `user/resource`; `~2` behind that
//! distinguishes it from another session of the same address. XML may continue on indented lines.
//! In received XML, `{name}` stands for a value that is remembered and must be the same afterwards;
//! `{*}` stands for any value, `{...}` for any further children. The full JID of a session that
//! logged in is in `{user}` or `{user/resource}`. `to` may be left out if it is the receiver's own
//! address, and so may `xml:lang`.
//!
//! `is available` sends presence, receives it, and waits until the stored messages of the session
//! have been delivered.
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
