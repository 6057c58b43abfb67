//! The client's half of WebSocket (RFC 6455) as far as RFC 7395 needs it: text messages whole or
//! in fragments, ping, pong and close.

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// Larger messages are refused; XMPP stanzas are much smaller.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const MAX_HEADER: usize = 16 * 1024;
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// The HTTP request that asks for the upgrade; the key is needed to check the answer.
#[must_use]
pub fn request(host: &str, path: &str, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: xmpp\r\n\r\n"
    )
}

/// A fresh random key.
#[must_use]
pub fn key() -> String {
    STANDARD.encode(rand::random::<[u8; 16]>())
}

/// Looks for the complete answer to [`request`] at the start of `buffer` and returns its length,
/// or `None` while it is incomplete.
///
/// # Errors
/// When the server does not switch protocols as asked.
pub fn check_response(buffer: &[u8], key: &str) -> Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        ensure!(
            buffer.len() <= MAX_HEADER,
            "the answer to the WebSocket request is too long"
        );
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("101"),
        "the server refused the WebSocket upgrade: {status}"
    );
    let mut accept = None;
    let mut protocol = None;
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            match name.trim().to_ascii_lowercase().as_str() {
                "sec-websocket-accept" => accept = Some(value.trim()),
                "sec-websocket-protocol" => protocol = Some(value.trim()),
                _ => {}
            }
        }
    }
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(ACCEPT_SUFFIX);
    let expected = STANDARD.encode(hash.finalize());
    ensure!(
        accept == Some(expected.as_str()),
        "wrong Sec-WebSocket-Accept in the answer"
    );
    ensure!(
        protocol == Some("xmpp"),
        "the server did not choose the sub-protocol 'xmpp'"
    );
    Ok(Some(end + 4))
}

/// Appends one text frame.
pub fn text(payload: &[u8], out: &mut Vec<u8>) {
    frame(TEXT, payload, out);
}

fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    // The mask protects proxies from scripts in browsers; there is no script here, so a constant is
    // as good as a random number.
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    out.extend_from_slice(&mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// The result of a step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    NeedMore,
    /// A frame was consumed; text was appended to the output.
    Progress,
    /// These bytes must be sent to the peer (a pong).
    Answer(Vec<u8>),
    /// The peer closes, with this status code if it gave one.
    Closed(Option<u16>),
}

/// Decodes frames from a server.
#[derive(Debug, Default)]
pub struct Decoder {
    in_message: bool,
    length: usize,
}

impl Decoder {
    /// Consumes one frame of `raw` from `at`; the text goes to `out`.
    ///
    /// # Errors
    /// When the peer violates the protocol.
    pub fn step(&mut self, raw: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<Step> {
        let input = &raw[*at..];
        let [first, second, rest @ ..] = input else {
            return Ok(Step::NeedMore);
        };
        ensure!(
            first & 0x70 == 0,
            "a WebSocket frame uses an extension that was not negotiated"
        );
        ensure!(second & 0x80 == 0, "the server masks its WebSocket frames");
        let (length, header) = match second & 0x7F {
            126 => match rest {
                [a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
                _ => return Ok(Step::NeedMore),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => {
                    let length = usize::try_from(u64::from_be_bytes(*bytes)).unwrap_or(usize::MAX);
                    (length, 10)
                }
                None => return Ok(Step::NeedMore),
            },
            n => (usize::from(n), 2),
        };
        ensure!(
            length <= MAX_MESSAGE,
            "a WebSocket frame of {length} bytes is too large"
        );
        let Some(payload) = input.get(header..header + length) else {
            return Ok(Step::NeedMore);
        };
        *at += header + length;
        let last = first & 0x80 != 0;
        match first & 0x0F {
            opcode @ (TEXT | BINARY | CONTINUATION) => {
                ensure!(
                    (opcode == CONTINUATION) == self.in_message,
                    "a WebSocket message is fragmented wrongly"
                );
                self.length += length;
                ensure!(
                    self.length <= MAX_MESSAGE,
                    "a WebSocket message is too large"
                );
                out.extend_from_slice(payload);
                self.in_message = !last;
                if last {
                    self.length = 0;
                }
                Ok(Step::Progress)
            }
            PING => {
                let mut answer = Vec::new();
                frame(PONG, payload, &mut answer);
                Ok(Step::Answer(answer))
            }
            PONG => Ok(Step::Progress),
            CLOSE => {
                let code = payload
                    .first_chunk::<2>()
                    .map(|bytes| u16::from_be_bytes(*bytes));
                Ok(Step::Closed(code))
            }
            opcode => bail!("unknown WebSocket opcode {opcode}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        if payload.len() < 126 {
            out.push(payload.len() as u8);
        } else {
            out.push(126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn text_fragments_pings_and_close_are_decoded_at_any_cut() {
        let long = vec![b'x'; 300];
        let mut raw = server_frame(0x81, b"<a/>");
        raw.extend(server_frame(0x01, b"<b>"));
        raw.extend(server_frame(0x89, b"hi"));
        raw.extend(server_frame(0x80, b"</b>"));
        raw.extend(server_frame(0x81, &long));
        raw.extend(server_frame(0x88, &1012u16.to_be_bytes()));
        for cut in 0..raw.len() {
            let mut decoder = Decoder::default();
            let (mut at, mut out, mut pongs, mut closed) = (0, Vec::new(), 0, None);
            for end in [cut, raw.len()] {
                loop {
                    match decoder.step(&raw[..end], &mut at, &mut out).unwrap() {
                        Step::NeedMore => break,
                        Step::Progress => {}
                        Step::Answer(_) => pongs += 1,
                        Step::Closed(code) => closed = code,
                    }
                }
            }
            let mut expected = b"<a/><b></b>".to_vec();
            expected.extend_from_slice(&long);
            assert_eq!(
                (out, pongs, closed),
                (expected, 1, Some(1012)),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn masked_or_misfragmented_frames_are_refused() {
        let mut masked = Vec::new();
        text(b"<a/>", &mut masked);
        for bad in [masked, server_frame(0x80, b"x"), server_frame(0xC1, b"x")] {
            assert!(
                Decoder::default()
                    .step(&bad, &mut 0, &mut Vec::new())
                    .is_err()
            );
        }
    }

    #[test]
    fn the_accept_value_of_the_rfc_is_believed_and_others_are_not() {
        // The example of RFC 6455 §1.3.
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                      Sec-WebSocket-Protocol: xmpp\r\n\r\n";
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!(
            check_response(answer.as_bytes(), key).unwrap(),
            Some(answer.len())
        );
        assert_eq!(check_response(&answer.as_bytes()[..40], key).unwrap(), None);
        assert!(check_response(answer.as_bytes(), "AAAA").is_err());
        assert!(check_response(b"HTTP/1.1 404 Not Found\r\n\r\n", key).is_err());
    }
}
