//! WebSocket frames (RFC 6455 §5): the result does not depend on how the bytes are cut, and no
//! message is longer than the limit.

use sestina_edge::transport::websocket::{Decoder, Event, WsError};

use super::Cuts;

const LIMIT: usize = 1024;

fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<WsError>) {
    let mut decoder = Decoder::new(LIMIT);
    let mut events = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            let (used, event) = decoder.decode(piece);
            assert!(used <= piece.len());
            match event {
                Ok(Some(event)) => events.push(event),
                Ok(None) => assert_eq!(used, piece.len(), "all is taken if nothing is complete"),
                Err(error) => return (events, Some(error)),
            }
            piece = &piece[used..];
        }
    }
    (events, None)
}

/// See the module.
pub fn run(data: &[u8]) {
    let whole = feed(std::iter::once(data));
    for event in &whole.0 {
        match event {
            Event::Text(text) => assert!(text.len() <= LIMIT),
            Event::Ping(payload) => assert!(payload.len() <= 125),
            Event::Pong | Event::Close(_) => {}
        }
    }
    assert_eq!(feed(data.chunks(1)), whole, "bytewise");
    assert_eq!(feed(Cuts::of(data)), whole, "in pieces");
}
