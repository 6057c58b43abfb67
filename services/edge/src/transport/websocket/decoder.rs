//! Frames from a client: masked, perhaps fragmented, control frames in between.
//!
//! The decoder keeps no input: a payload is unmasked into its message as it arrives.

use super::frame;

/// What a client said, when a frame or message is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole text message.
    Text(String),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
}

/// Why a connection cannot go on. [`WsError::code`] is what to close it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// A frame that RFC 6455 forbids.
    #[error("client broke the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// A binary message (RFC 7395 §3.2 knows text only).
    #[error("client sent a binary message, XMPP over WebSocket uses text")]
    Binary,
    /// Text that is not UTF-8.
    #[error("client sent a text message that is not utf-8")]
    Utf8,
    /// A message above the limit.
    #[error("client sent a message of more than {0} bytes")]
    TooBig(usize),
}

impl WsError {
    /// The status code for the close frame (RFC 6455 §7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Binary => 1003,
            Self::Utf8 => 1007,
            Self::TooBig(_) => 1009,
        }
    }
}

/// Longest header of a masked frame.
const HEADER_BYTES: usize = 14;

/// Decodes the frames of one client.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    header: [u8; HEADER_BYTES],
    have: usize,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    message: Vec<u8>,
    /// A message has begun and its last frame was not seen.
    in_message: bool,
    control: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    phase: usize,
    left: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            header: [0; HEADER_BYTES],
            have: 0,
            frame: None,
            message: Vec::new(),
            in_message: false,
            control: Vec::new(),
        }
    }

    /// Changes the limit for messages, from the next frame on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes bytes from the front of `input` until something is complete or nothing is left.
    /// Returns how many were taken. After an error the connection is to be closed.
    pub fn decode(&mut self, input: &[u8]) -> (usize, Result<Option<Event>, WsError>) {
        let mut used = 0;
        loop {
            let Some(frame) = &mut self.frame else {
                let wanted = self.header_bytes();
                if self.have < wanted {
                    let n = (wanted - self.have).min(input.len() - used);
                    if n == 0 {
                        return (used, Ok(None));
                    }
                    self.header[self.have..self.have + n].copy_from_slice(&input[used..used + n]);
                    self.have += n;
                    used += n;
                    continue;
                }
                match self.begin() {
                    Ok(frame) => self.frame = Some(frame),
                    Err(error) => return (used, Err(error)),
                }
                self.have = 0;
                continue;
            };
            let n = frame.left.min(input.len() - used);
            let target = if frame.opcode >= frame::CLOSE {
                &mut self.control
            } else {
                &mut self.message
            };
            frame.unmask(&input[used..used + n], target);
            used += n;
            if frame.left > 0 {
                return (used, Ok(None));
            }
            let (opcode, last) = (frame.opcode, frame.last);
            self.frame = None;
            match self.end(opcode, last) {
                Ok(None) => {}
                done => return (used, done),
            }
        }
    }

    /// Bytes that the header has, as far as it can be told.
    fn header_bytes(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    /// The header is complete: checks it.
    fn begin(&mut self) -> Result<Frame, WsError> {
        let (first, second) = (self.header[0], self.header[1]);
        let (last, opcode) = (first & frame::FIN != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(WsError::Protocol("reserved bits are set"));
        }
        if second & 0x80 == 0 {
            return Err(WsError::Protocol("frame is not masked"));
        }
        let (len, mask_at) = match second & 0x7f {
            126 => (
                u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
                4,
            ),
            127 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.header[2..10]);
                (u64::from_be_bytes(bytes), 10)
            }
            short => (u64::from(short), 2),
        };
        match opcode {
            frame::CLOSE | frame::PING | frame::PONG => {
                if !last {
                    return Err(WsError::Protocol("control frame is fragmented"));
                }
                if len > frame::CONTROL_BYTES as u64 {
                    return Err(WsError::Protocol("control frame is too long"));
                }
                self.control.clear();
            }
            frame::BINARY => return Err(WsError::Binary),
            frame::TEXT if self.in_message => {
                return Err(WsError::Protocol("message begins inside another"));
            }
            frame::CONTINUATION if !self.in_message => {
                return Err(WsError::Protocol("continuation without a message"));
            }
            frame::TEXT | frame::CONTINUATION => self.in_message = true,
            _ => return Err(WsError::Protocol("opcode is unknown")),
        }
        let left = usize::try_from(len).unwrap_or(usize::MAX);
        if opcode < frame::CLOSE && left > self.limit.saturating_sub(self.message.len()) {
            return Err(WsError::TooBig(self.limit));
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.header[mask_at..mask_at + 4]);
        Ok(Frame {
            last,
            opcode,
            mask,
            phase: 0,
            left,
        })
    }

    /// The payload is complete.
    fn end(&mut self, opcode: u8, last: bool) -> Result<Option<Event>, WsError> {
        match opcode {
            frame::PING => Ok(Some(Event::Ping(std::mem::take(&mut self.control)))),
            frame::PONG => {
                self.control = Vec::new();
                Ok(Some(Event::Pong))
            }
            frame::CLOSE => close_code(&self.control).map(|code| Some(Event::Close(code))),
            _ if !last => Ok(None),
            _ => {
                self.in_message = false;
                let text = String::from_utf8(std::mem::take(&mut self.message));
                text.map(|text| Some(Event::Text(text)))
                    .map_err(|_| WsError::Utf8)
            }
        }
    }
}

impl Frame {
    fn unmask(&mut self, masked: &[u8], target: &mut Vec<u8>) {
        let start = target.len();
        target.extend_from_slice(masked);
        let mut mask = self.mask;
        mask.rotate_left(self.phase);
        let mut words = target[start..].chunks_exact_mut(4);
        for word in &mut words {
            for (byte, key) in word.iter_mut().zip(mask) {
                *byte ^= key;
            }
        }
        for (byte, key) in words.into_remainder().iter_mut().zip(mask) {
            *byte ^= key;
        }
        self.phase = (self.phase + masked.len()) % 4;
        self.left -= masked.len();
    }
}

/// RFC 6455 §5.5.1 and §7.4: an optional code that may appear on the wire, then UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, WsError> {
    let Some((code, reason)) = payload.split_at_checked(2) else {
        return match payload {
            [] => Ok(None),
            _ => Err(WsError::Protocol("close frame has half a code")),
        };
    };
    let code = u16::from_be_bytes([code[0], code[1]]);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::Protocol("close code is reserved"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(WsError::Utf8),
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
