//! Sending and receiving of a session.

use std::future::Future;

use anyhow::Result;
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;

use super::line::{Event, footer};
use super::{Client, Heard, PATIENCE, written};

impl Client {
    /// Writes text as it is.
    pub async fn write(&mut self, text: &str) -> Result<()> {
        self.note("->", text);
        let done = self.line.write(text).await;
        done.map_err(|error| self.failure(&format!("cannot write: {error}")))
    }

    /// Sends a stanza, counted by XEP-0198.
    pub async fn send(&mut self, stanza: &str) -> Result<()> {
        if let Some(management) = &mut self.management {
            management.sent = management.sent.wrapping_add(1);
            let number = management.sent;
            management.unacked.push_back((number, stanza.to_owned()));
        }
        self.write(stanza).await
    }

    /// Closes the stream and waits until the server has closed its own.
    pub async fn close(&mut self) -> Result<()> {
        let footer = footer(self.line.is_websocket());
        self.write(&footer).await?;
        loop {
            match self.heard().await? {
                Heard::Closed => return Ok(()),
                Heard::Ended => return Err(self.failure("the stream was not closed")),
                Heard::Element(_) => {}
            }
        }
    }

    /// Whether `<r/>` is answered automatically (the default).
    pub fn answers(&mut self, answers: bool) {
        self.answers = answers;
    }

    /// The next event from the server, except acknowledgements.
    pub async fn heard(&mut self) -> Result<Heard> {
        let waited = tokio::time::timeout(PATIENCE, self.listen()).await;
        match waited {
            Ok(heard) => heard,
            Err(_) => Err(self.failure(&format!("nothing came within {PATIENCE:?}"))),
        }
    }

    /// The next event from the server, without a time limit.
    pub async fn listen(&mut self) -> Result<Heard> {
        loop {
            if let Some(heard) = self.step().await? {
                return Ok(heard);
            }
        }
    }

    /// Answers the `<r/>` that [`Client::step`] left unanswered.
    pub async fn answer_if_asked(&mut self) -> Result<()> {
        if std::mem::take(&mut self.asked) {
            self.acknowledge().await?;
        }
        Ok(())
    }

    /// One event of the connection; none for an acknowledgement or a request for one. If `<r/>` is
    /// not answered automatically, no event is lost when the future is dropped.
    pub async fn step(&mut self) -> Result<Option<Heard>> {
        let heard = match self.line.read().await {
            Err(error) => return Err(self.failure(&format!("{error:#}"))),
            Ok(Event::Opened) => {
                self.note("<-", "(stream opened)");
                return Ok(None);
            }
            Ok(Event::Asked) => {
                self.note("<-", "<r/>");
                if self.answers {
                    self.acknowledge().await?;
                } else {
                    self.asked = true;
                }
                return Ok(None);
            }
            Ok(Event::Acknowledged(h)) => {
                self.note("<-", &format!("<a h='{h}'/>"));
                self.acknowledged(h);
                return Ok(None);
            }
            Ok(Event::Heard(heard)) => heard,
        };
        match &heard {
            Heard::Element(element) => {
                self.note("<-", &written(element));
                if element.ns == ns::CLIENT
                    && let Some(management) = &mut self.management
                {
                    management.received = management.received.wrapping_add(1);
                }
            }
            Heard::Closed => self.note("<-", "(stream closed)"),
            Heard::Ended => self.note("<-", "(connection ended)"),
        }
        Ok(Some(heard))
    }

    /// Sends an acknowledgement of all received stanzas.
    pub async fn acknowledge(&mut self) -> Result<()> {
        let h = self.management.as_ref().map_or(0, |m| m.received);
        let sm = ns::SM;
        self.write(&format!("<a xmlns='{sm}' h='{h}'/>")).await
    }

    pub(super) fn acknowledged(&mut self, h: u32) {
        if let Some(management) = &mut self.management {
            management
                .unacked
                .retain(|(number, _)| number.wrapping_sub(h).wrapping_sub(1) < u32::MAX / 2);
        }
    }

    /// How many stanzas the server has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.management.as_ref().map_or(0, |m| m.unacked.len())
    }

    /// Asks for an acknowledgement and waits until all stanzas are acknowledged. Returns the
    /// elements that come meanwhile.
    pub async fn settle(&mut self) -> Result<Vec<Element>> {
        let sm = ns::SM;
        self.write(&format!("<r xmlns='{sm}'/>")).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut came = Vec::new();
        while self.unacknowledged() > 0 {
            match tokio::time::timeout_at(deadline, self.step()).await {
                Err(_) => return Err(self.failure("not everything was acknowledged")),
                Ok(heard) => match heard? {
                    None => {}
                    Some(Heard::Element(element)) => came.push(element),
                    Some(_) => return Err(self.failure("the connection ended")),
                },
            }
        }
        Ok(came)
    }

    /// The next event, which must be an element.
    pub async fn element(&mut self) -> Result<Element> {
        match self.heard().await? {
            Heard::Element(element) => Ok(element),
            other => Err(self.failure(&format!("expected an element and got {other:?}"))),
        }
    }

    /// The next event, which must be an element of that name.
    pub async fn expect_named(&mut self, name: &str, namespace: &str) -> Result<Element> {
        let element = self.element().await?;
        if element.is(name, namespace) {
            Ok(element)
        } else {
            Err(self.failure(&format!("expected <{name} xmlns='{namespace}'/>")))
        }
    }

    /// Receives elements until one is found; the others are dropped.
    pub async fn until(&mut self, what: &str, found: impl Fn(&Element) -> bool) -> Result<Element> {
        self.within(what, async |client: &mut Client| {
            loop {
                let element = client.element().await?;
                if found(&element) {
                    return Ok(element);
                }
            }
        })
        .await
    }

    async fn within<T>(
        &mut self,
        what: &str,
        work: impl AsyncFnOnce(&mut Client) -> Result<T>,
    ) -> Result<T> {
        let done: Option<Result<T>> = timeout(work(self)).await;
        done.unwrap_or_else(|| Err(self.failure(&format!("{what}: not within {PATIENCE:?}"))))
    }

    /// Sends an IQ with this payload; returns its answer, which must be the next stanza.
    pub async fn ask(&mut self, kind: &str, to: &str, payload: &str) -> Result<Element> {
        let id = format!("ask-{:08x}", rand::random::<u32>());
        let to = if to.is_empty() {
            String::new()
        } else {
            format!(" to='{to}'")
        };
        self.send(&format!(
            "<iq xmlns='jabber:client' type='{kind}' id='{id}'{to}>{payload}</iq>"
        ))
        .await?;
        let answer = self.element().await?;
        if answer.name == "iq" && answer.attr("id") == Some(&id) {
            Ok(answer)
        } else {
            Err(self.failure("something came before the answer"))
        }
    }

    /// Checks that no stanza waits for this client: the server answers a ping with nothing before
    /// it.
    pub async fn hears_nothing(&mut self) -> Result<()> {
        let ping = ns::PING;
        let answer = self
            .ask("get", "", &format!("<ping xmlns='{ping}'/>"))
            .await?;
        if answer.attr("type") == Some("result") {
            Ok(())
        } else {
            Err(self.failure("a ping was refused"))
        }
    }

    /// Checks that the stream ends with that error; then it is closed, and the connection ends.
    pub async fn is_ended_with(&mut self, condition: &str) -> Result<Element> {
        let error = self
            .until("a stream error", |element| element.is("error", ns::STREAM))
            .await?;
        if error.child(condition, ns::STREAM_ERRORS).is_none() {
            return Err(self.failure(&format!("expected the stream error {condition}")));
        }
        loop {
            match self.heard().await? {
                Heard::Closed => {}
                Heard::Ended => return Ok(error),
                Heard::Element(_) => return Err(self.failure("something follows a stream error")),
            }
        }
    }
}

async fn timeout<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, work).await.ok()
}
