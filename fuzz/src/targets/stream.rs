//! The stream parser: the result does not depend on how the bytes are cut, and the oracle accepts
//! all accepted documents.

use sestina_xmpp::xml::{Limits, StreamEvent, StreamFault, StreamParser};

use super::{Cuts, check_event};
use crate::oracle;

/// The result, and how many bytes of the input it used.
struct Outcome {
    events: Vec<StreamEvent>,
    fault: Option<StreamFault>,
    consumed: usize,
}

fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = StreamParser::new(Limits {
        bytes: 8192,
        ..Limits::default()
    });
    let mut out = Outcome {
        events: Vec::new(),
        fault: None,
        consumed: 0,
    };
    let mut pushed = 0;
    for piece in pieces {
        parser.push(piece);
        pushed += piece.len();
        loop {
            match parser.next() {
                Ok(None) => break,
                Ok(Some(StreamEvent::Whitespace)) => out.consumed = pushed - parser.buffered(),
                Ok(Some(event)) => {
                    let closed = event == StreamEvent::Close;
                    out.events.push(event);
                    if closed {
                        return out;
                    }
                    out.consumed = pushed - parser.buffered();
                }
                Err(fault) => {
                    assert_eq!(parser.next(), Err(fault.clone()), "a fault is for good");
                    out.fault = Some(fault);
                    return out;
                }
            }
        }
    }
    out
}

/// See the module.
pub fn run(data: &[u8]) {
    let whole = feed(std::iter::once(data));
    let bytewise = feed(data.chunks(1));
    let cut = feed(Cuts::of(data));
    for other in [bytewise, cut] {
        assert_eq!(other.fault, whole.fault, "the same fault however it is cut");
        assert_eq!(
            other.events, whole.events,
            "the same events however it is cut"
        );
    }
    if matches!(whole.events.first(), Some(StreamEvent::Open(_))) {
        // White space may come before a header without a declaration; rxml does not accept that.
        let mut document = data[..whole.consumed].trim_ascii_start().to_vec();
        document.extend_from_slice(b"</stream:stream>");
        if let Err(error) = oracle::tree(&document) {
            panic!("the oracle refuses an accepted stream: {error}");
        }
    }
    whole.events.iter().for_each(check_event);
}
