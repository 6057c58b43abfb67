//! Resource binding (RFC 6120 §7) and resumption (XEP-0198 §5).

use std::sync::Arc;
use std::time::Instant;

use sestina_proto as proto;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::{Element, StreamEvent};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::sasl::User;
use super::stream_end::End;
use super::write;
use crate::attachment::pending::Ask;
use crate::config::HostConfig;
use crate::metrics::Count;
use crate::session::{Answer, Pending, Session};
use crate::shared::Shared;

/// How often a client may ask before it is sent away.
const TRIES: u32 = 5;

/// Until the client has a session.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    host: &HostConfig,
    user: &User,
) -> Result<Arc<Session>, End> {
    for _ in 0..TRIES {
        let session = match connection.stream.next().await? {
            StreamEvent::Stanza(iq)
                if iq.kind == Kind::Iq
                    && iq.type_ == "set"
                    && iq.child(ns::BIND, "bind").is_some() =>
            {
                bind(shared, connection, user, &iq).await
            }
            StreamEvent::Nonza(element) if element.is("resume", ns::SM) => {
                resume(shared, connection, host, user, &element).await
            }
            StreamEvent::Nonza(element) if element.ns == ns::SM => {
                failed(connection, "unexpected-request", None);
                None
            }
            StreamEvent::SmRequest | StreamEvent::SmAck(_) => {
                failed(connection, "unexpected-request", None);
                None
            }
            StreamEvent::Close => return Err(End::Closed),
            StreamEvent::Stanza(_) | StreamEvent::BadStanza { .. } => {
                let text = "bind a resource before sending stanzas";
                return Err(End::Fault(StreamCondition::NotAuthorized, text));
            }
            other => return Err(super::c2s::unexpected(&other)),
        };
        if let Some(session) = session {
            return Ok(session);
        }
    }
    Err(End::Fault(
        StreamCondition::PolicyViolation,
        "too many attempts to bind",
    ))
}

fn failed(connection: &Connection, condition: &str, h: Option<u32>) {
    connection
        .stream
        .write(|out| write::write_failed(out, condition, h));
}

async fn bind(
    shared: &Arc<Shared>,
    connection: &Connection,
    user: &User,
    iq: &Stanza,
) -> Option<Arc<Session>> {
    let resource = iq
        .element(ns::BIND, "bind")
        .and_then(|bind| bind.child("resource", ns::BIND).map(Element::text))
        .unwrap_or_default();
    let slot = shared.config.slots.slot_of_jid(&user.bare);
    let handle = shared.next_handle(slot);
    let frame = proto::Bind {
        handle,
        bare: user.bare.as_str().to_owned(),
        resource,
        anonymous: user.anonymous,
        transport: connection.transport.to_owned(),
        remote: connection.peer.ip().to_string(),
        query: connection.query.iter().cloned().collect(),
    };
    let ask = Ask::Bind {
        frame,
        iq_id: iq.id.clone(),
    };
    let (condition, text) = match wait(shared, connection, slot, handle, ask).await {
        Ok(Answer::Session(session)) => return Some(session),
        Ok(Answer::Refused(refused)) => {
            let condition =
                Condition::parse(&refused.condition).unwrap_or(Condition::InternalServerError);
            (condition, refused.text)
        }
        Err(NoAnswer) => (
            Condition::ResourceConstraint,
            "no server can take this session now".to_owned(),
        ),
    };
    let text = (!text.is_empty()).then_some(text.as_str());
    let reply = iq.error_reply(condition, text);
    let declares = connection.stream.framing.declares_content();
    connection
        .stream
        .write(|out| reply.write_to(out, None, declares));
    None
}

async fn resume(
    shared: &Arc<Shared>,
    connection: &Connection,
    host: &HostConfig,
    user: &User,
    element: &Element,
) -> Option<Arc<Session>> {
    let (Some(previd), Some(h)) = (
        element.attr("previd"),
        element.attr("h").and_then(|h| h.parse::<u32>().ok()),
    ) else {
        failed(connection, "bad-request", None);
        return None;
    };
    let Some(id) = shared
        .read_sm_id(previd)
        .filter(|id| may_resume(user, host, &id.bare))
    else {
        shared.metrics.count(Count::ResumeForged, 1);
        failed(connection, "item-not-found", None);
        return None;
    };
    if usize::from(id.slot) >= shared.attachments.slots.len() {
        failed(connection, "item-not-found", None);
        return None;
    }
    let handle = shared.next_handle(id.slot);
    let (session_hi, session_lo) = sestina_api::key::split(id.nonce);
    let frame = proto::Resume {
        handle,
        session_hi,
        session_lo,
        bare: id.bare.clone(),
        h,
        transport: connection.transport.to_owned(),
        remote: connection.peer.ip().to_string(),
    };
    let ask = Ask::Resume {
        frame,
        previd: previd.to_owned(),
    };
    match wait(shared, connection, id.slot, handle, ask).await {
        Ok(Answer::Session(session)) => return Some(session),
        Ok(Answer::Refused(refused)) => failed(connection, &refused.condition, refused.h),
        Err(NoAnswer) => {
            shared.metrics.count(Count::ResumeUnanswered, 1);
            failed(connection, "resource-constraint", None);
        }
    }
    None
}

/// A session is resumed by its user. The names of anonymous users prove nothing, but the id does:
/// it cannot be guessed, and only the client that was given it knows it.
fn may_resume(user: &User, host: &HostConfig, bare: &str) -> bool {
    if user.bare.as_str() == bare {
        return true;
    }
    user.anonymous
        && bare
            .split_once('@')
            .is_some_and(|(_, domain)| domain == host.domain)
}

struct NoAnswer;

async fn wait(
    shared: &Arc<Shared>,
    connection: &Connection,
    slot: u16,
    handle: u64,
    ask: Ask,
) -> Result<Answer, NoAnswer> {
    let Ok(_turn) = shared.pending_turns.try_acquire() else {
        return Err(NoAnswer);
    };
    let (answer, answered) = oneshot::channel();
    let pending = Pending {
        ask,
        wire: Arc::clone(&connection.stream.writer),
        framing: connection.stream.framing,
        transport: connection.transport,
        remote: connection.peer.ip().to_string().into_boxed_str(),
        since: Instant::now(),
        answer,
    };
    let mut waiting = Waiting {
        shared,
        slot,
        handle,
        answered: false,
    };
    shared.attachments.ask_owner(shared, slot, handle, pending);
    match tokio::time::timeout(shared.config.login.bind_deadline, answered).await {
        Ok(Ok(answer)) => {
            waiting.answered = true;
            Ok(answer)
        }
        _ => Err(NoAnswer),
    }
}

/// Takes the question back however the wait ends.
struct Waiting<'a> {
    shared: &'a Shared,
    slot: u16,
    handle: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let attachments = &self.shared.attachments;
            attachments.forget_pending(self.shared, self.slot, self.handle);
        }
    }
}
