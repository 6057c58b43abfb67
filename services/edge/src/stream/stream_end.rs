//! One end of a stream while it is negotiated, in either role: one event at a time, answers written at
//! once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_xmpp::stream::{Framing, StreamCondition};
use sestina_xmpp::xml::{StreamEvent, StreamFault, StreamHeader, StreamParser, WsParser};

use super::parser::{Parser, length};
use super::write;
use crate::config::StreamLimits;
use crate::limits::ByteBucket;
use crate::tls::TlsRole;
use crate::transport::{Chunk, CloseKind, TlsError, TlsInfo, WireReader, WireWriter};

/// Which entity of a stream this process is (RFC 6120 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opens the stream, and asks for what is offered.
    Initiating,
    /// It answers the opening with an id, and offers features.
    Receiving,
}

/// How a negotiation ends without its goal.
#[derive(Debug)]
pub(crate) enum End {
    /// The socket is gone.
    Lost,
    /// The peer closed the stream.
    Closed,
    /// The stream ends with an error.
    Fault(StreamCondition, &'static str),
}

impl From<StreamFault> for End {
    fn from(fault: StreamFault) -> End {
        End::Fault(fault.condition, fault.text)
    }
}

/// One end of a stream.
pub struct StreamEnd {
    pub(crate) reader: WireReader,
    pub(crate) writer: Arc<WireWriter>,
    pub(crate) parser: Parser,
    pub(crate) framing: Framing,
    pub(crate) bucket: ByteBucket,
    role: Role,
    /// The header of this end was written on the present stream.
    opened: bool,
}

impl StreamEnd {
    /// An end on which nothing was said, with limits on what the peer may send.
    pub fn new(role: Role, reader: WireReader, limits: StreamLimits) -> StreamEnd {
        let (framing, parser) = if reader.is_websocket() {
            (
                Framing::WebSocket,
                Parser::WebSocket(WsParser::new(limits.xml)),
            )
        } else {
            (Framing::Tcp, Parser::Stream(StreamParser::new(limits.xml)))
        };
        let mut end = StreamEnd {
            writer: Arc::clone(reader.writer()),
            reader,
            parser,
            framing,
            bucket: ByteBucket::new(limits.bytes_per_second, limits.burst_bytes, Instant::now()),
            role,
            opened: false,
        };
        end.reader.set_message_limit(limits.xml.bytes);
        end
    }

    /// What the TLS handshake agreed on; nothing on a stream in clear.
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.reader.tls_info()
    }

    /// Begins a new stream after SASL, with other limits (RFC 6120 §6.4.6).
    pub(crate) fn restart(&mut self, limits: StreamLimits) {
        self.parser.set_limits(limits.xml);
        self.parser.reset();
        self.opened = false;
        self.reader.set_message_limit(limits.xml.bytes);
        self.bucket
            .set_limit(limits.bytes_per_second, limits.burst_bytes, Instant::now());
    }

    /// Starts TLS as the server or the client. A new stream begins under it (RFC 6120 §5.4.3.3).
    pub(crate) async fn start_tls(&mut self, role: &impl TlsRole) -> Result<(), TlsError> {
        self.reader.start_tls(role).await?;
        self.parser.reset_for_tls();
        self.opened = false;
        Ok(())
    }

    /// Queues one element and sends it.
    pub(crate) fn write(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let _ = self.writer.send(None, fill);
    }

    /// Sends the header of this end (RFC 6120 §4.7). The receiving entity alone gives the stream an id.
    pub(crate) fn write_header(&mut self, from: &str, to: &str) {
        self.opened = true;
        self.write(|out| write::write_header(out, self.framing, self.role, from, to));
    }

    /// Reads the header of the peer.
    pub(crate) async fn read_header(&mut self) -> Result<StreamHeader, End> {
        match self.next().await? {
            StreamEvent::Open(header) => Ok(header),
            StreamEvent::Close => Err(End::Closed),
            _ => Err(End::Fault(
                StreamCondition::BadFormat,
                "a stream must be opened first",
            )),
        }
    }

    /// The next event; white space is skipped.
    pub(crate) async fn next(&mut self) -> Result<StreamEvent, End> {
        loop {
            match self.parser.buffered()? {
                Some(StreamEvent::Whitespace) => continue,
                Some(event) => return Ok(event),
                None => {}
            }
            let read = self.reader.read().await;
            let chunk = read.map_err(|error| match write::of_broken_frame(&error) {
                Some((condition, text)) => End::Fault(condition, text),
                None => End::Lost,
            })?;
            if chunk == Chunk::Eof {
                return Err(End::Lost);
            }
            let pause = self.bucket.take(Instant::now(), length(&chunk));
            let event = self.parser.push(&chunk)?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            match event {
                Some(StreamEvent::Whitespace) | None => {}
                Some(event) => return Ok(event),
            }
        }
    }

    /// Ends the stream in order, within `patience`: with what the peer must be told, on behalf of
    /// `from` if that is the first that is written.
    pub(crate) async fn finish(self, end: End, from: &str, patience: Duration) {
        let framing = self.framing;
        match end {
            End::Lost => return self.writer.close(CloseKind::Abort),
            End::Closed => {}
            End::Fault(condition, text) => {
                if !self.opened {
                    // RFC 6120 §4.9.1.2: an error needs a stream to be on.
                    let role = self.role;
                    self.writer
                        .append(|out| write::write_header(out, framing, role, from, ""));
                }
                self.writer
                    .append(|out| write::write_error(out, framing, condition, text));
            }
        }
        self.writer.append(|out| write::write_close(out, framing));
        self.reader.finish(patience).await;
    }
}
