//! SASL (RFC 6120 §6): SCRAM with and without channel binding, PLAIN, ANONYMOUS.

use std::sync::Arc;

use sestina_cluster::slots;
use sestina_proto as proto;
use sestina_xmpp::ext::sm::SmId;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::sasl::keys::authenticated_jid;
use sestina_xmpp::sasl::scram::{ScramServer, random_nonce};
use sestina_xmpp::sasl::{Mechanism, SaslFailure, anonymous, plain, wire};
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::{Element, StreamEvent};

use super::c2s::{offered, unexpected};
use super::connection::Connection;
use super::stream_end::End;
use super::{credentials, turn, write};
use crate::config::HostConfig;
use crate::shared::Shared;

/// The user that logged in.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// Bare JID.
    pub(crate) bare: Jid,
    /// By ANONYMOUS: nothing was proved.
    pub(crate) anonymous: bool,
}

/// Why one attempt ended.
enum Failed {
    /// The client may try again.
    Sasl(SaslFailure),
    /// The stream is over.
    Stream(End),
}

impl From<SaslFailure> for Failed {
    fn from(failure: SaslFailure) -> Failed {
        Failed::Sasl(failure)
    }
}

impl From<End> for Failed {
    fn from(end: End) -> Failed {
        Failed::Stream(end)
    }
}

/// What became known in the course of an attempt, for the log.
#[derive(Default)]
struct Attempt {
    mechanism: Option<Mechanism>,
    /// The account, where there is one of that name. What else was sent as the name stays unknown:
    /// people type passwords there.
    account: Option<Jid>,
}

impl Attempt {
    fn asked(&mut self, bare: &Jid, reply: &proto::CredentialsReply) {
        self.account = reply.exists.then(|| bare.clone());
    }
}

/// Until one attempt succeeds, or too many have failed.
pub(crate) async fn authenticate(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    host: &Arc<HostConfig>,
) -> Result<User, End> {
    let (mut failures, mut guesses) = (0, 0);
    loop {
        let event = match connection.first.take() {
            Some(event) => event,
            None => connection.next_of_login().await?,
        };
        let auth = match &event {
            StreamEvent::Nonza(element) if element.is("auth", ns::SASL) => element,
            StreamEvent::Nonza(element) if element.is("abort", ns::SASL) => {
                shared.metrics.login_failed(SaslFailure::Aborted);
                report(
                    shared,
                    connection,
                    host,
                    &Attempt::default(),
                    SaslFailure::Aborted,
                );
                connection
                    .stream
                    .write(|out| write::write_sasl_failure(out, SaslFailure::Aborted));
                continue;
            }
            other => return Err(unexpected(other)),
        };
        let mut known = Attempt::default();
        let tried = match turn::take(shared).await {
            true => attempt(shared, connection, host, auth, &mut known).await,
            false => Err(SaslFailure::TemporaryAuthFailure.into()),
        };
        match tried {
            Ok((user, last)) => {
                connection
                    .stream
                    .write(|out| write::write_success(out, &last));
                return Ok(user);
            }
            Err(Failed::Stream(end)) => return Err(end),
            Err(Failed::Sasl(failure)) => {
                shared.metrics.login_failed(failure);
                failures += 1;
                report(shared, connection, host, &known, failure);
                // Nothing was tried by what the mechanism could not even begin with, or where this
                // server could not.
                if !matches!(
                    failure,
                    SaslFailure::MalformedRequest
                        | SaslFailure::InvalidMechanism
                        | SaslFailure::TemporaryAuthFailure
                ) {
                    guesses += 1;
                    tokio::time::sleep(shared.config.login.delay * guesses).await;
                }
                connection
                    .stream
                    .write(|out| write::write_sasl_failure(out, failure));
                if failures >= shared.config.login.tries {
                    let text = "too many failed logins";
                    return Err(End::Fault(StreamCondition::PolicyViolation, text));
                }
            }
        }
    }
}

/// The line about a failed attempt.
fn report(
    shared: &Shared,
    connection: &Connection,
    host: &HostConfig,
    known: &Attempt,
    failure: SaslFailure,
) {
    let mechanism = known
        .mechanism
        .map_or("unknown", |mechanism| mechanism.name());
    let account = known
        .account
        .as_ref()
        .map_or("unknown", |bare| bare.as_str());
    shared
        .failed_logins
        .report(connection.peer, &host.domain, account, mechanism, failure);
}

async fn attempt(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    host: &Arc<HostConfig>,
    auth: &Element,
    known: &mut Attempt,
) -> Result<(User, Vec<u8>), Failed> {
    let mechanism = auth
        .attr("mechanism")
        .and_then(Mechanism::parse)
        .ok_or(SaslFailure::InvalidMechanism)?;
    known.mechanism = Some(mechanism);
    let offered = offered(connection, host);
    if !offered.contains(&mechanism) {
        let weak = mechanism == Mechanism::Plain && !connection.secure;
        let failure = if weak {
            SaslFailure::EncryptionRequired
        } else {
            SaslFailure::InvalidMechanism
        };
        return Err(failure.into());
    }
    let first = match wire::decode_initial(&auth.text())? {
        Some(message) => message,
        // XEP-0175 §2: a client need not leave a trace.
        None if mechanism == Mechanism::Anonymous => Vec::new(),
        None => challenge(connection, b"").await?,
    };
    match mechanism {
        Mechanism::Anonymous => {
            anonymous::parse(&first)?;
            let user = name_anonymous(shared, connection, host)?;
            Ok((user, Vec::new()))
        }
        Mechanism::Plain => {
            let message = plain::parse(&first)?;
            let bare =
                authenticated_jid(&message.username, &host.domain, message.authzid.as_deref())?;
            let reply = credentials::ask(shared, &bare).await?;
            known.asked(&bare, &reply);
            let right = credentials::check(shared, &reply, message.password).await?;
            finish(&reply, right)?;
            Ok((
                User {
                    bare,
                    anonymous: false,
                },
                Vec::new(),
            ))
        }
        _ => {
            let plus_offered = offered.iter().any(|m| m.is_plus());
            let bindings = connection.bindings();
            let server = ScramServer::new(mechanism, &host.domain, plus_offered, bindings)
                .ok_or(SaslFailure::InvalidMechanism)?;
            let (bare, needs_keys) = server.client_first(&first)?;
            let reply = credentials::ask(shared, &bare).await?;
            known.asked(&bare, &reply);
            let keys = credentials::keys_for(&reply, needs_keys.hash())
                .ok_or(SaslFailure::TemporaryAuthFailure)?;
            let (message, needs_proof) = needs_keys.with_keys(keys, &random_nonce())?;
            let proof = challenge(connection, &message).await?;
            let last = needs_proof.client_final(&proof)?;
            finish(&reply, true)?;
            Ok((
                User {
                    bare,
                    anonymous: false,
                },
                last,
            ))
        }
    }
}

/// A disabled account says so only to who knows its password.
fn finish(reply: &proto::CredentialsReply, right: bool) -> Result<(), SaslFailure> {
    match (right, reply.disabled) {
        (false, _) => Err(SaslFailure::NotAuthorized),
        (true, true) => Err(SaslFailure::AccountDisabled),
        (true, false) => Ok(()),
    }
}

async fn challenge(connection: &mut Connection, message: &[u8]) -> Result<Vec<u8>, Failed> {
    connection
        .stream
        .write(|out| write::write_challenge(out, message));
    match connection.next_of_login().await? {
        StreamEvent::Nonza(element) if element.is("response", ns::SASL) => {
            Ok(wire::decode(&element.text())?)
        }
        StreamEvent::Nonza(element) if element.is("abort", ns::SASL) => {
            Err(SaslFailure::Aborted.into())
        }
        other => Err(unexpected(&other).into()),
    }
}

/// XEP-0175. The name is chosen in the slot of the room that the client is going to join, so that
/// both live on one router. A client that comes back to a session it had gets that name again.
fn name_anonymous(
    shared: &Shared,
    connection: &Connection,
    host: &HostConfig,
) -> Result<User, SaslFailure> {
    let user = |bare| {
        Ok(User {
            bare,
            anonymous: true,
        })
    };
    if let Some(id) = connection
        .query("previd")
        .and_then(|previd| shared.read_sm_id(previd))
        && let bare = Jid::from_wire(&id.bare)
        && bare.domain() == host.domain
    {
        return user(bare);
    }
    let slot = connection
        .query("room")
        .and_then(|room| room_slot(shared, connection, host, room));
    let slot = slot.unwrap_or_else(|| rand::random_range(0..slots::SLOTS as u16));
    let name = slots::name_in_slot(slot, rand::random());
    user(Jid::new(Some(&name), &host.domain, None).map_err(|_| SaslFailure::TemporaryAuthFailure)?)
}

fn room_slot(
    shared: &Shared,
    connection: &Connection,
    host: &HostConfig,
    room: &str,
) -> Option<u16> {
    let muc = host.muc_domains.first()?;
    let name = match connection.query("prefix") {
        Some(prefix) => format!("[{prefix}]{room}"),
        None => room.to_owned(),
    };
    let room = Jid::new(Some(&name), muc, None).ok()?;
    Some(shared.config.slots.slot_of_jid(&room))
}

impl Shared {
    /// Reads an XEP-0198 id that this cluster gave; nothing else passes.
    pub(crate) fn read_sm_id(&self, id: &str) -> Option<SmId> {
        let key = self.sm_key.load_full()?;
        SmId::decode(id, &key)
    }
}
