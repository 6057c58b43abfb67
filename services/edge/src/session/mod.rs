//! Sessions: from the first byte of a socket to the end of what the edge holds for its client.
//!
//! - [`driver`]: the task of a socket, which reads
//! - [`login`]: everything before a session exists: stream, TLS, SASL, bind, resume
//! - [`state`]: a session and its counters
//! - [`inbound`]: stanzas of the client, numbered and held until settled
//! - [`outbound`]: deliveries, written by the lane's thread and held until acknowledged
//! - [`management`]: XEP-0198 `<enable/>`, `<r/>` and `<a/>`, both ways
//! - [`link`]: which lane a session speaks on, and what is sent again on a new one
//! - [`pending`]: binds and resumptions that wait for their owner
//! - [`rooms`]: which sessions are in which rooms, for a room that nobody else knows any more
//! - [`end`]: the ways a session ends
//! - [`silence`]: clients that have gone without a word
//! - [`timers`]: two shared queues instead of timers per session

pub(crate) mod driver;
pub(crate) mod end;
pub(crate) mod inbound;
pub(crate) mod link;
pub(crate) mod login;
pub(crate) mod management;
pub(crate) mod outbound;
pub(crate) mod pending;
pub(crate) mod rooms;
pub(crate) mod silence;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod timers;
