use super::super::frame::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT};
use super::*;

/// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

/// Feeds `input` in pieces of `step` bytes.
fn run(input: &[u8], step: usize, limit: usize) -> Result<Vec<Event>, WsError> {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for mut piece in input.chunks(step) {
        loop {
            let (used, event) = decoder.decode(piece);
            piece = &piece[used..];
            match event? {
                Some(event) => events.push(event),
                None => break,
            }
        }
        assert!(piece.is_empty());
    }
    Ok(events)
}

fn all(input: &[u8]) -> Result<Vec<Event>, WsError> {
    let whole = run(input, input.len().max(1), 1000);
    for step in [1, 2, 3, 7] {
        assert_eq!(run(input, step, 1000), whole, "in pieces of {step}");
    }
    whole
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

#[test]
fn the_masked_example_of_the_rfc() {
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(all(&hello), Ok(vec![text("Hello")]));
}

#[test]
fn the_unmasked_example_of_the_rfc_is_refused_from_a_client() {
    let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(all(&hello), Err(WsError::Protocol("frame is not masked")));
}

#[test]
fn the_fragmented_example_of_the_rfc_with_a_ping_in_between() {
    let mut input = masked(TEXT, b"Hel");
    input.extend(masked(0x80 | PING, b"Hello"));
    input.extend(masked(CONTINUATION, b""));
    input.extend(masked(0x80 | CONTINUATION, b"lo"));
    input.extend(masked(0x80 | TEXT, b"next"));
    assert_eq!(
        all(&input),
        Ok(vec![
            Event::Ping(b"Hello".to_vec()),
            text("Hello"),
            text("next")
        ])
    );
}

#[test]
fn every_length_form_and_an_empty_message() {
    for len in [0, 125, 126, 65_535, 65_536] {
        let body = "y".repeat(len);
        let events = run(&masked(0x80 | TEXT, body.as_bytes()), 4096, 70_000);
        assert_eq!(events, Ok(vec![text(&body)]));
    }
}

#[test]
fn broken_order_and_bits() {
    for (input, error) in [
        (
            masked(0x80 | CONTINUATION, b"x"),
            "continuation without a message",
        ),
        (
            [masked(TEXT, b"x"), masked(TEXT, b"y")].concat(),
            "message begins inside another",
        ),
        (masked(0xc0 | TEXT, b"x"), "reserved bits are set"),
        (masked(0x83, b"x"), "opcode is unknown"),
        (masked(0x8b, b"x"), "opcode is unknown"),
        (masked(PING, b"x"), "control frame is fragmented"),
        (masked(0x80 | PING, &[0; 126]), "control frame is too long"),
        (masked(0x80 | CLOSE, b"x"), "close frame has half a code"),
        (
            masked(0x80 | CLOSE, &1005u16.to_be_bytes()),
            "close code is reserved",
        ),
        (
            masked(0x80 | CLOSE, &999u16.to_be_bytes()),
            "close code is reserved",
        ),
    ] {
        let result = all(&input);
        assert_eq!(result, Err(WsError::Protocol(error)));
        assert_eq!(result.map_err(WsError::code), Err(1002));
    }
    assert_eq!(all(&masked(0x80 | BINARY, b"x")), Err(WsError::Binary));
}

#[test]
fn close_and_pong() {
    assert_eq!(
        all(&masked(0x80 | CLOSE, b"")),
        Ok(vec![Event::Close(None)])
    );
    let mut payload = 1000u16.to_be_bytes().to_vec();
    payload.extend_from_slice("tschüß".as_bytes());
    assert_eq!(
        all(&masked(0x80 | CLOSE, &payload)),
        Ok(vec![Event::Close(Some(1000))])
    );
    payload.push(0xff);
    assert_eq!(all(&masked(0x80 | CLOSE, &payload)), Err(WsError::Utf8));
    assert_eq!(all(&masked(0x80 | PONG, b"old")), Ok(vec![Event::Pong]));
}

#[test]
fn utf8_may_be_cut_by_fragments_but_must_be_whole_in_the_end() {
    let text_bytes = "€".as_bytes();
    let mut input = masked(TEXT, &text_bytes[..1]);
    input.extend(masked(0x80 | CONTINUATION, &text_bytes[1..]));
    assert_eq!(all(&input), Ok(vec![text("€")]));
    assert_eq!(
        all(&masked(0x80 | TEXT, &text_bytes[..2])),
        Err(WsError::Utf8)
    );
}

#[test]
fn the_limit_counts_the_message_not_the_frame() {
    let fits = [
        masked(TEXT, b"12345"),
        masked(0x80 | CONTINUATION, b"67890"),
    ]
    .concat();
    assert_eq!(run(&fits, 100, 10), Ok(vec![text("1234567890")]));
    assert_eq!(run(&fits, 100, 9), Err(WsError::TooBig(9)));
    // A length that no machine can hold is refused by its header alone.
    let mut huge = vec![0x80 | TEXT, 0x80 | 127];
    huge.extend_from_slice(&u64::MAX.to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    assert_eq!(run(&huge, 100, 10), Err(WsError::TooBig(10)));
}
