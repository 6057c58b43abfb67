//! The task of a socket. It reads; what is written to a bound stream is written by the threads
//! that read the lanes, and by this one only in answer to the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_xmpp::ext::sm::Nonza;
use sestina_xmpp::ns;
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::{StreamEvent, StreamFault};

use super::Session;
use crate::attachment::inbound::Flow;
use crate::limits::ByteBucket;
use crate::listen::Accepted;
use crate::metrics::{Count, Level};
use crate::shared::Shared;
use crate::stream::connection::Connection;
use crate::stream::parser::{Parser, length};
use crate::stream::stream_end::{End, StreamEnd};
use crate::stream::{c2s, write};
use crate::transport::{Chunk, CloseKind, WireReader};

/// How long a client has to end its side after the last word.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Counts a socket while it lives, and keeps it where it can be cut.
struct Counted {
    shared: Arc<Shared>,
    id: u64,
    /// Not bound yet.
    login: bool,
}

impl Counted {
    fn bound(&mut self) {
        if std::mem::take(&mut self.login) {
            self.shared.logins.lock().remove(&self.id);
            self.shared.metrics.level(Level::Logins, -1);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.bound();
        self.shared.metrics.level(Level::Sockets, -1);
    }
}

/// Drives one connection to its end.
pub(crate) async fn run(shared: Arc<Shared>, accepted: Box<Accepted>) {
    shared.metrics.count(Count::Connections, 1);
    shared.metrics.level(Level::Sockets, 1);
    shared.metrics.level(Level::Logins, 1);
    accepted.writer.measure(Arc::clone(&shared.metrics));
    let mut counted = Counted {
        id: shared.next_number(),
        shared: Arc::clone(&shared),
        login: true,
    };
    shared
        .logins
        .lock()
        .insert(counted.id, Arc::clone(&accepted.writer));
    if !shared.await_lease().await || shared.is_draining() {
        accepted.writer.close(CloseKind::Abort);
        return;
    }
    let Some((session, socket)) = login(&shared, accepted).await else {
        return;
    };
    counted.bound();
    serve(&shared, &session, socket).await;
}

/// What remains of a connection once it is bound.
struct Socket {
    reader: WireReader,
    parser: Parser,
    bucket: ByteBucket,
}

/// The login, in a box of its own that is gone when the session begins.
async fn login(
    shared: &Arc<Shared>,
    accepted: Box<Accepted>,
) -> Option<(Arc<Session>, Box<Socket>)> {
    let shared = Arc::clone(shared);
    let work = Box::pin(async move {
        let mut connection = Connection::new(&shared, *accepted);
        let limit = shared.config.login.time;
        let shed = connection.stream.reader.shed();
        let result = tokio::select! {
            () = shed.cancelled() => {
                shared.metrics.count(Count::ConnectionShed, 1);
                Err(End::Lost)
            }
            () = shared.stop.cancelled() => {
                Err(End::Fault(StreamCondition::SystemShutdown, "this server is being shut down"))
            }
            result = tokio::time::timeout(limit, c2s::run(&shared, &mut connection)) => {
                result.unwrap_or_else(|_| {
                    shared.metrics.login_late();
                    let text = "the login took too long";
                    Err(End::Fault(StreamCondition::ConnectionTimeout, text))
                })
            }
        };
        match result {
            Ok(session) => {
                let StreamEnd {
                    reader,
                    parser,
                    bucket,
                    ..
                } = connection.stream;
                Some((
                    session,
                    Box::new(Socket {
                        reader,
                        parser,
                        bucket,
                    }),
                ))
            }
            Err(end) => {
                connection.end(&shared, end).await;
                None
            }
        }
    });
    work.await
}

/// A bound stream, until it ends.
async fn serve(shared: &Arc<Shared>, session: &Arc<Session>, mut socket: Box<Socket>) {
    loop {
        // What came with the bind, or was left by a pause.
        let mut flow = drain(shared, session, &mut socket.parser);
        if flow == Flow::Continue {
            session.finish_reading(shared);
            let chunk = match socket.reader.read().await {
                Ok(Chunk::Eof) => break,
                Ok(chunk) => chunk,
                Err(error) => {
                    if let Some((condition, text)) = write::of_broken_frame(&error) {
                        session.fail(shared, condition, text);
                    }
                    break;
                }
            };
            if !shared.await_lease().await {
                break;
            }
            let now = Instant::now();
            shared.metrics.count(Count::BytesIn, length(&chunk) as u64);
            let pause = socket.bucket.take(now, length(&chunk));
            flow = match socket.parser.push(&chunk) {
                Ok(Some(event)) => take(shared, session, event, now),
                Ok(None) => Flow::Continue,
                Err(fault) => refuse(shared, session, &fault),
            };
            if let (Some(pause), Flow::Continue) = (pause, flow) {
                shared.metrics.count(Count::PausedByRate, 1);
                flow = drain(shared, session, &mut socket.parser);
                session.finish_reading(shared);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = socket.reader.drive() => break,
                }
            }
        }
        match flow {
            Flow::Continue => {}
            Flow::Stop => break,
            Flow::Pause => {
                session.finish_reading(shared);
                if !pause(shared, session, &mut socket.reader).await {
                    break;
                }
            }
        }
    }
    // Nothing happens here if the stream was closed in order.
    session.lose(shared);
    let Socket { reader, .. } = *socket;
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = reader.finish(LAST_WORD) => {}
    }
}

/// Waits until half of what is unsettled has been settled. False if the connection ended.
async fn pause(shared: &Shared, session: &Session, reader: &mut WireReader) -> bool {
    while !session.has_room(shared) {
        tokio::select! {
            () = session.room.notified() => {}
            _ = reader.drive() => return false,
        }
    }
    true
}

/// Takes all events that are buffered.
fn drain(shared: &Arc<Shared>, session: &Arc<Session>, parser: &mut Parser) -> Flow {
    let now = Instant::now();
    loop {
        match parser.buffered() {
            Ok(None) => return Flow::Continue,
            Ok(Some(event)) => match take(shared, session, event, now) {
                Flow::Continue => {}
                other => return other,
            },
            Err(fault) => return refuse(shared, session, &fault),
        }
    }
}

fn refuse(shared: &Shared, session: &Session, fault: &StreamFault) -> Flow {
    session.fail(shared, fault.condition, fault.text);
    Flow::Stop
}

fn take(shared: &Arc<Shared>, session: &Arc<Session>, event: StreamEvent, read: Instant) -> Flow {
    match event {
        StreamEvent::Stanza(stanza) => session.take_stanza(shared, stanza, "", read),
        StreamEvent::BadStanza { stanza, condition } => {
            session.take_stanza(shared, stanza, condition.name(), read)
        }
        StreamEvent::SmRequest => session.asked(shared),
        StreamEvent::SmAck(h) => session.acknowledged(shared, h),
        StreamEvent::Whitespace => Flow::Continue,
        StreamEvent::Close => {
            session.closed_by_client(shared);
            Flow::Stop
        }
        StreamEvent::Nonza(element) => match Nonza::parse(&element) {
            Some(Ok(Nonza::Enable { resume, max_s })) => {
                session.enable(shared, resume, max_s.unwrap_or(0))
            }
            Some(Ok(Nonza::Resume { .. })) => {
                session.refuse_request();
                Flow::Continue
            }
            Some(Ok(Nonza::Request)) => session.asked(shared),
            Some(Ok(Nonza::Ack { h })) => session.acknowledged(shared, h),
            Some(Err(_)) => {
                session.fail(
                    shared,
                    StreamCondition::BadFormat,
                    "malformed stream management",
                );
                Flow::Stop
            }
            // RFC 6120 §4.9.1.1: its last word; errors are not answered by errors.
            None if element.is("error", ns::STREAM) => {
                session.closed_by_client(shared);
                Flow::Stop
            }
            None if element.ns == ns::SASL => {
                session.fail(
                    shared,
                    StreamCondition::PolicyViolation,
                    "this stream is logged in",
                );
                Flow::Stop
            }
            None => {
                let text = "this element is not known here";
                session.fail(shared, StreamCondition::UnsupportedStanzaType, text);
                Flow::Stop
            }
        },
        StreamEvent::Open(_) => {
            session.fail(
                shared,
                StreamCondition::BadFormat,
                "the stream is open already",
            );
            Flow::Stop
        }
    }
}
