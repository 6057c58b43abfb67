//! One file for each XEP: typed parsing and building, and the rules that need no state.
//!
//! The server's behaviour is in the router's modules; this code is pure.

pub mod archive_rules;
pub mod blocking;
pub mod carbons;
pub mod dataform;
pub mod datetime;
pub mod delay;
pub mod disco;
pub mod forward;
pub mod hints;
pub mod mam;
pub mod muc;
pub mod muc_invite;
pub mod offline;
pub mod ping;
pub mod rsm;
pub mod sm;
pub mod stanza_id;
pub mod vcard;

#[cfg(test)]
mod testing;
