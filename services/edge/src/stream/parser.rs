//! The parser of a stream in either framing.

use sestina_xmpp::xml::{Limits, StreamEvent, StreamFault, StreamParser, WsParser};

use crate::transport::Chunk;

/// The parser of either framing.
pub(crate) enum Parser {
    /// RFC 6120: a stream cut anywhere.
    Stream(StreamParser),
    /// RFC 7395: an element in each message.
    WebSocket(WsParser),
}

impl Parser {
    /// Changes the limits, for what is not read yet.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        match self {
            Parser::Stream(parser) => parser.set_limits(limits),
            Parser::WebSocket(parser) => parser.set_limits(limits),
        }
    }

    /// Expects a new stream.
    pub(crate) fn reset(&mut self) {
        match self {
            Parser::Stream(parser) => parser.reset(),
            Parser::WebSocket(parser) => parser.reset(),
        }
    }

    /// Expects a new stream, and forgets what came in clear.
    pub(crate) fn reset_for_tls(&mut self) {
        if let Parser::Stream(parser) = self {
            parser.reset_for_tls();
        }
    }

    /// The next event of what was read.
    pub(crate) fn buffered(&mut self) -> Result<Option<StreamEvent>, StreamFault> {
        match self {
            Parser::Stream(parser) => parser.next(),
            Parser::WebSocket(_) => Ok(None),
        }
    }

    /// Takes what was read.
    pub(crate) fn push(&mut self, chunk: &Chunk<'_>) -> Result<Option<StreamEvent>, StreamFault> {
        match (self, chunk) {
            (Parser::Stream(parser), Chunk::Bytes(bytes)) => {
                parser.push(bytes);
                parser.next()
            }
            (Parser::WebSocket(parser), Chunk::Frame(text)) => {
                parser.frame(text.as_bytes()).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Bytes of a chunk.
pub(crate) fn length(chunk: &Chunk<'_>) -> usize {
    match chunk {
        Chunk::Bytes(bytes) => bytes.len(),
        Chunk::Frame(text) => text.len(),
        Chunk::Eof => 0,
    }
}
