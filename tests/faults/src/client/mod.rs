//! A client that keeps its session through all faults: when its connection breaks it resumes on
//! another edge (XEP-0198), sends unacknowledged stanzas again, and logs everything that it
//! receives.
//!
//! - `line`: the connection, up to SASL
//! - `session`: the task that keeps the session

mod line;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use parking_lot::Mutex;
use sestina_xmpp::xml::Element;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::settings::HOST;

/// A stanza from the server.
#[derive(Clone, Debug)]
pub struct Heard {
    /// A stanza.
    pub element: Element,
    /// The time of its arrival.
    pub at: Instant,
}

impl Heard {
    /// The bare address of the sender; empty if the server named none.
    pub fn sender(&self) -> &str {
        let from = self.element.attr("from").unwrap_or_default();
        from.split('/').next().unwrap_or_default()
    }
}

/// The ids, in order, of those messages among the wanted ones whose id begins with the prefix.
pub fn message_ids(log: &[Heard], prefix: &str, wanted: impl Fn(&Heard) -> bool) -> Vec<String> {
    log.iter()
        .filter(|heard| heard.element.name == "message" && wanted(heard))
        .filter_map(|heard| heard.element.attr("id"))
        .filter(|id| id.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// A connection that ended although the test did not end it.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The edge of the connection.
    pub edge: usize,
    /// The reason for its end.
    pub how: String,
    /// The time of its end.
    pub at: Instant,
}

/// The state of a client.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) jid: String,
    pub(crate) sm_id: String,
    pub(crate) edge: Option<usize>,
    pub(crate) log: Vec<Heard>,
    pub(crate) broken: Vec<Broken>,
    /// Resumptions that the server refused, and other ends of a session.
    pub(crate) lost: Vec<String>,
    /// Does not answer requests for an acknowledgement.
    pub(crate) mute: bool,
    /// Why the last attempt to connect failed.
    pub(crate) attempt: String,
    pub(crate) unacked: VecDeque<(u32, String)>,
    pub(crate) sent: u32,
    pub(crate) received: u32,
    pub(crate) closed: bool,
}

#[derive(Debug)]
pub(crate) enum Order {
    Send(String),
    /// Acknowledges stanzas, or stops acknowledging them.
    Acknowledge(bool),
    /// Breaks the connection, and stays unavailable until the next order.
    Unavailable,
    /// Connects to that edge.
    Go(usize),
    /// Resumes on that edge, and closes the older connection afterwards.
    Roam(usize),
    /// Closes the stream.
    Close,
}

pub(crate) struct Shared {
    pub(crate) user: String,
    pub(crate) ports: Vec<u16>,
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Notify,
}

/// See the module.
pub struct Client {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
    /// Its name in errors.
    pub name: String,
}

/// The most orders that wait for a connection; no test has as many.
const ORDERS: usize = 4096;

impl Client {
    /// Binds a session of a user on an edge. It is available only after the test sends presence. A
    /// connection that breaks before the session is bound is tried again.
    pub async fn login(user: &str, resource: &str, edge: usize, ports: &[u16]) -> Result<Client> {
        let shared = Arc::new(Shared {
            user: user.to_owned(),
            ports: ports.to_vec(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let (orders, taken) = mpsc::channel(ORDERS);
        let task = tokio::spawn(session::run(
            shared.clone(),
            taken,
            resource.to_owned(),
            edge,
        ));
        let name = format!("{user}/{resource}");
        let client = Client {
            shared,
            orders,
            task,
            name,
        };
        client
            .wait("to be logged in", Duration::from_secs(20), |state| {
                (!state.sm_id.is_empty()).then_some(())
            })
            .await?;
        Ok(client)
    }

    /// Waits until `look` returns a value for the state of this client.
    async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&State) -> Option<T>,
    ) -> Result<T> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&self.shared.state.lock()) {
                return Ok(found);
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                let state = self.shared.state.lock();
                return Err(anyhow!(
                    "{} waits {what}: not within {limit:?} (on edge {:?}, {} not acknowledged, \
                     broken {:?}, lost {:?}, last attempt {:?})",
                    self.name,
                    state.edge.map(|edge| edge + 1),
                    state.unacked.len(),
                    state.broken.last().map(|b| &b.how),
                    state.lost,
                    state.attempt
                ));
            }
        }
    }

    /// Waits until `look` returns a value for the log from that place on.
    pub async fn hears<T>(
        &self,
        what: &str,
        from: usize,
        limit: Duration,
        look: impl Fn(&[Heard]) -> Option<T>,
    ) -> Result<T> {
        self.wait(&format!("for {what}"), limit, |state| {
            look(state.log.get(from..).unwrap_or_default())
        })
        .await
    }

    /// Waits until the server has acknowledged all stanzas that were sent.
    pub async fn acknowledged(&self, limit: Duration) -> Result<()> {
        self.wait("for acknowledgements", limit, |state| {
            (state.edge.is_some() && state.unacked.is_empty()).then_some(())
        })
        .await
    }

    /// Waits until the client has a session on a connection.
    pub async fn connected(&self, limit: Duration) -> Result<usize> {
        self.wait("to be connected", limit, |state| state.edge)
            .await
    }

    /// Waits until the client has a session on a connection to that edge.
    pub async fn arrived(&self, edge: usize, limit: Duration) -> Result<()> {
        self.wait("to be connected there", limit, |state| {
            (state.edge == Some(edge)).then_some(())
        })
        .await
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders
            .try_send(order)
            .map_err(|error| anyhow!("{} takes no orders: {error}", self.name))
    }

    /// Sends a stanza.
    pub fn send(&self, stanza: impl Into<String>) -> Result<()> {
        self.order(Order::Send(stanza.into()))
    }

    /// Whether the client acknowledges stanzas (XEP-0198 §4). It does by default.
    pub fn acknowledges(&self, whether: bool) -> Result<()> {
        self.order(Order::Acknowledge(whether))
    }

    /// Breaks the connection, and stays unavailable until `go` or `roam`.
    pub fn away(&self) -> Result<()> {
        self.order(Order::Unavailable)
    }

    /// Breaks the connection if there is one, and resumes on that edge.
    pub fn go(&self, edge: usize) -> Result<()> {
        self.order(Order::Go(edge))
    }

    /// Resumes on that edge while the older connection still exists, like a client whose address
    /// has changed. The older connection ends once the session is on the new one.
    pub fn roam(&self, edge: usize) -> Result<()> {
        self.order(Order::Roam(edge))
    }

    /// Closes the stream, which ends the session.
    pub async fn close(&self) -> Result<()> {
        self.order(Order::Close)?;
        self.wait(
            "for its stream to be closed",
            Duration::from_secs(20),
            |state| state.closed.then_some(()),
        )
        .await
    }

    /// Its full JID.
    pub fn jid(&self) -> String {
        self.shared.state.lock().jid.clone()
    }

    /// Its bare JID.
    pub fn bare(&self) -> String {
        format!("{}@{HOST}", self.shared.user)
    }

    /// Its user name.
    pub fn user(&self) -> &str {
        &self.shared.user
    }

    /// The edge to which it is connected now.
    pub fn edge(&self) -> Option<usize> {
        self.shared.state.lock().edge
    }

    /// How many stanzas it has received.
    pub fn heard(&self) -> usize {
        self.shared.state.lock().log.len()
    }

    /// The stanzas that it has received, from that place on.
    pub fn log(&self, from: usize) -> Vec<Heard> {
        self.shared
            .state
            .lock()
            .log
            .get(from..)
            .unwrap_or_default()
            .to_vec()
    }

    /// Its connections that broke.
    pub fn broken(&self) -> Vec<Broken> {
        self.shared.state.lock().broken.clone()
    }

    /// Why it has lost its session; empty if it has one.
    pub fn lost(&self) -> Vec<String> {
        self.shared.state.lock().lost.clone()
    }

    /// Fails if one of its connections broke.
    pub fn kept_its_connection(&self) -> Result<()> {
        let broken = self.broken();
        ensure!(
            broken.is_empty(),
            "{} was disconnected: {broken:?}",
            self.name
        );
        Ok(())
    }

    /// Fails if it has lost its session.
    pub fn kept_its_session(&self) -> Result<()> {
        let lost = self.lost();
        ensure!(
            lost.is_empty(),
            "{} has lost its session: {lost:?}",
            self.name
        );
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}
