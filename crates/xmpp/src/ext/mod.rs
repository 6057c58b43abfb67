//! One file for each XEP: typed reading and building, and the rules that need no state.
//!
//! The server's behaviour lives in the router's modules; what is here is pure.

pub mod archive_rules;
pub mod carbons;
pub mod dataform;
pub mod datetime;
pub mod delay;
pub mod disco;
pub mod forward;
pub mod hints;
pub mod mam;
pub mod muc;
pub mod offline;
pub mod ping;
pub mod rsm;
pub mod sm;
pub mod stanza_id;

#[cfg(test)]
mod testing;
