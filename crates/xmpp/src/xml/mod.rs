//! XML as XMPP restricts it (RFC 6120 §11): strict checking, framing, writing, small trees.
//!
//! - `check`: the resumable checker for all XML from outside
//! - [`StreamParser`]: a TCP stream cut into events
//! - [`WsParser`]: WebSocket messages (RFC 7395), one element each
//! - [`Element`]: an owned tree, for the few elements that a module reads or makes
//! - [`escape`]: escaping and unescaping of text and attribute values

mod chars;
pub(crate) mod check;
mod element;
mod error;
pub mod escape;
mod event;
mod framer;
mod limits;
mod outline;
mod prolog;
mod scope;
mod start_tag;
mod token;
mod tree;
mod ws;

pub use element::{Element, Node};
pub use error::{StreamFault, XmlError};
pub use event::{StreamEvent, StreamHeader};
pub use framer::StreamParser;
pub use limits::Limits;
pub use ws::WsParser;
