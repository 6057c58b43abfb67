//! The task that keeps a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;
use tokio::sync::mpsc;

use super::line::{Event, Line, text};
use super::{Broken, Heard, Order, Shared};

/// How long an attempt to get a session may take: longer than the takeover of a dead router's
/// slots.
const ATTEMPT: Duration = Duration::from_secs(7);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The reason for the end of a connection.
enum End {
    Broke(String),
    /// The session leaves its connection and connects to another edge, or, with no edge named,
    /// waits until the test names one.
    Left(Option<usize>),
    /// The session moves to another edge; the connection ends when the session is there.
    Roams(usize),
    Finished,
}

/// The reason why an attempt failed.
enum Failed {
    Again(String),
    Lost(String),
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Failed {
        Failed::Again(format!("{error:#}"))
    }
}

pub(super) async fn run(
    shared: Arc<Shared>,
    mut orders: mpsc::Receiver<Order>,
    resource: String,
    first: usize,
) {
    let mut edge = first;
    let mut waiting = Vec::new();
    let mut older = None;
    loop {
        let established = tokio::time::timeout(ATTEMPT, establish(&shared, &resource, edge)).await;
        let mut line = match established {
            Ok(Ok(line)) => line,
            Ok(Err(Failed::Lost(why))) => return lost(&shared, why),
            failed => {
                let why = match failed {
                    Ok(Err(Failed::Again(why))) => why,
                    _ => format!("no session within {ATTEMPT:?}"),
                };
                shared.state.lock().attempt = why;
                edge = (edge + 1) % shared.ports.len();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        drop(older.take());
        shared.state.lock().edge = Some(edge);
        shared.changed.notify_waiters();
        let end = talk(&shared, &mut line, &mut orders, &mut waiting).await;
        shared.state.lock().edge = None;
        shared.changed.notify_waiters();
        older = matches!(end, Ok(End::Roams(_))).then_some(line);
        match end {
            Ok(End::Broke(how)) => {
                shared.state.lock().broken.push(Broken {
                    edge,
                    how,
                    at: Instant::now(),
                });
                edge = (edge + 1) % shared.ports.len();
            }
            Ok(End::Left(Some(to)) | End::Roams(to)) => edge = to,
            Ok(End::Left(None)) => loop {
                match orders.recv().await {
                    Some(Order::Go(to)) => {
                        edge = to;
                        break;
                    }
                    Some(order) => waiting.push(order),
                    None => return,
                }
            },
            Ok(End::Finished) => {
                shared.state.lock().closed = true;
                return shared.changed.notify_waiters();
            }
            Err(error) => return lost(&shared, format!("{error:#}")),
        }
    }
}

fn lost(shared: &Shared, why: String) {
    shared.state.lock().lost.push(why);
    shared.changed.notify_waiters();
}

/// A connection with the session: the first time a new session, then always the same.
async fn establish(shared: &Shared, resource: &str, edge: usize) -> Result<Line, Failed> {
    let port = *shared.ports.get(edge).context("no such edge")?;
    let mut line = Line::open(port, &shared.user).await?;
    let (id, received) = {
        let state = shared.state.lock();
        (state.sm_id.clone(), state.received)
    };
    let sm = ns::SM;
    if id.is_empty() {
        let bind = ns::BIND;
        line.write(&format!(
            "<iq type='set' id='bind'><bind xmlns='{bind}'><resource>{resource}</resource></bind></iq>"
        ))
        .await?;
        let bound = line.element().await?;
        let jid = bound
            .child("bind", bind)
            .and_then(|bind| bind.child("jid", ns::BIND))
            .map(Element::text)
            .with_context(|| format!("was not bound: {}", text(&bound)))?;
        line.write(&format!("<enable xmlns='{sm}' resume='true'/>"))
            .await?;
        let enabled = line.element().await?;
        let id = enabled
            .attr("id")
            .filter(|_| enabled.is("enabled", sm))
            .with_context(|| format!("was not enabled: {}", text(&enabled)))?;
        let mut state = shared.state.lock();
        state.jid = jid;
        state.sm_id = id.to_owned();
        return Ok(line);
    }
    line.write(&format!(
        "<resume xmlns='{sm}' h='{received}' previd='{id}'/>"
    ))
    .await?;
    let answer = line.element().await?;
    if answer.is("error", ns::STREAM) {
        return Err(Failed::Again(text(&answer)));
    }
    let h = answer
        .attr("h")
        .filter(|_| answer.is("resumed", sm))
        .and_then(|h| h.parse().ok());
    let Some(h) = h else {
        return Err(Failed::Lost(format!(
            "the resumption was refused: {}",
            text(&answer)
        )));
    };
    let again: Vec<String> = {
        let mut state = shared.state.lock();
        acknowledged(&mut state.unacked, h);
        state
            .unacked
            .iter()
            .map(|(_, stanza)| stanza.clone())
            .collect()
    };
    for stanza in again {
        line.write(&stanza).await?;
    }
    line.write(&format!("<r xmlns='{sm}'/>")).await?;
    Ok(line)
}

fn acknowledged(unacked: &mut std::collections::VecDeque<(u32, String)>, h: u32) {
    unacked.retain(|(number, _)| number.wrapping_sub(h).wrapping_sub(1) < u32::MAX / 2);
}

async fn talk(
    shared: &Shared,
    line: &mut Line,
    orders: &mut mpsc::Receiver<Order>,
    waiting: &mut Vec<Order>,
) -> Result<End> {
    for order in waiting.drain(..) {
        if let Some(end) = obey(shared, line, order).await? {
            return Ok(end);
        }
    }
    loop {
        tokio::select! {
            event = line.read() => match event {
                Err(error) => return Ok(End::Broke(format!("{error:#}"))),
                Ok(Event::Asked) => acknowledge(shared, line).await,
                Ok(Event::Acknowledged(h)) => acknowledged(&mut shared.state.lock().unacked, h),
                Ok(Event::Element(element)) => {
                    if element.is("error", ns::STREAM) {
                        return Ok(End::Broke(text(&element)));
                    }
                    if element.ns != ns::CLIENT {
                        bail!("unexpected: {}", text(&element));
                    }
                    let mut state = shared.state.lock();
                    state.received = state.received.wrapping_add(1);
                    state.log.push(Heard { element, at: Instant::now() });
                }
            },
            order = orders.recv() => {
                let Some(order) = order else { return Ok(End::Finished) };
                if let Some(end) = obey(shared, line, order).await? {
                    return Ok(end);
                }
            }
        }
        shared.changed.notify_waiters();
    }
}

async fn acknowledge(shared: &Shared, line: &mut Line) {
    let (h, mute) = {
        let state = shared.state.lock();
        (state.received, state.mute)
    };
    if !mute {
        let sm = ns::SM;
        // A broken connection shows when reading.
        line.write(&format!("<a xmlns='{sm}' h='{h}'/>")).await.ok();
    }
}

async fn obey(shared: &Shared, line: &mut Line, order: Order) -> Result<Option<End>> {
    match order {
        Order::Send(stanza) => {
            {
                let mut state = shared.state.lock();
                state.sent = state.sent.wrapping_add(1);
                let number = state.sent;
                state.unacked.push_back((number, stanza.clone()));
            }
            let sm = ns::SM;
            // A broken connection shows when reading; the stanza is sent again then.
            line.write(&format!("{stanza}<r xmlns='{sm}'/>")).await.ok();
            Ok(None)
        }
        Order::Acknowledge(whether) => {
            shared.state.lock().mute = !whether;
            acknowledge(shared, line).await;
            Ok(None)
        }
        Order::Unavailable => Ok(Some(End::Left(None))),
        Order::Go(edge) => Ok(Some(End::Left(Some(edge)))),
        Order::Roam(edge) => Ok(Some(End::Roams(edge))),
        Order::Close => {
            line.write("</stream:stream>").await.ok();
            let end = async { while line.read().await.is_ok() {} };
            // If the server dies just now, the session ends by itself.
            tokio::time::timeout(ATTEMPT, end).await.ok();
            Ok(Some(End::Finished))
        }
    }
}
