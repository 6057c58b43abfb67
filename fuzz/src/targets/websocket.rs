//! WebSocket messages, one per line of the input.

use sestina_xmpp::xml::{Limits, StreamEvent, WsParser};

use super::check_event;
use crate::oracle;

/// See the module.
pub fn run(data: &[u8]) {
    let mut parser = WsParser::new(Limits {
        bytes: 8192,
        ..Limits::default()
    });
    for message in data.split(|&byte| byte == b'\n') {
        let Ok(event) = parser.frame(message) else {
            break;
        };
        if let Err(error) = oracle::tree(message) {
            panic!("the oracle refuses an accepted message: {error}");
        }
        assert_ne!(event, StreamEvent::Whitespace);
        check_event(&event);
    }
}
