//! Frames from the server: never masked, never fragmented (RFC 6455 §5.1, §5.2).

/// Opcode of a continuation frame.
pub const CONTINUATION: u8 = 0x0;
/// Opcode of a text frame.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 0x2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;
/// Opcode of a pong.
pub const PONG: u8 = 0xa;

/// Set on the last frame of a message.
pub(super) const FIN: u8 = 0x80;

/// Longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_BYTES: usize = 125;

/// Room left before the payload: the header of most stanzas, 126 to 65,535 bytes long.
const RESERVED: usize = 4;

/// Appends one text message with the payload that `fill` appends. Nothing if it appends nothing.
pub fn text(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[FIN | TEXT, 126, 0, 0]);
    let payload = start + RESERVED;
    fill(out);
    let len = out.len().saturating_sub(payload);
    match len {
        0 => out.truncate(start),
        1..=125 => {
            out.copy_within(payload.., start + 2);
            out.truncate(start + 2 + len);
            out[start + 1] = len as u8;
        }
        126..=0xffff => out[start + 2..payload].copy_from_slice(&(len as u16).to_be_bytes()),
        _ => {
            out.extend_from_slice(&[0; 6]);
            out.copy_within(payload..payload + len, payload + 6);
            out[start + 1] = 127;
            out[start + 2..start + 10].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a control frame. A payload beyond [`CONTROL_BYTES`] is cut.
pub fn control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES)];
    out.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(len: usize) -> Vec<u8> {
        let mut out = b"before".to_vec();
        text(&mut out, |b| b.extend(std::iter::repeat_n(b'x', len)));
        assert!(out.starts_with(b"before"));
        out.split_off(6)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut out = Vec::new();
        text(&mut out, |b| b.extend_from_slice(b"Hello"));
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        let mut out = Vec::new();
        control(&mut out, PING, b"Hello");
        assert_eq!(out, [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[test]
    fn each_form_of_the_length() {
        for (len, header) in [
            (1, vec![0x81, 1]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let out = encoded(len);
            assert_eq!(&out[..header.len()], header);
            assert_eq!(out.len(), header.len() + len);
            assert!(out[header.len()..].iter().all(|&b| b == b'x'));
        }
        assert!(encoded(0).is_empty());
    }
}
