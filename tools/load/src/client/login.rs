//! From a connection to a bound session, and XEP-0198's enable and resume.

use anyhow::{Context as _, Result, bail, ensure};

use super::endpoint::Endpoint;
use super::sasl::{Credentials, authenticate};
use super::stream::{Stream, condition};
use crate::xml::tree::{Element, escape};

/// Namespace of XEP-0198.
pub const SM: &str = "urn:xmpp:sm:3";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
const CLIENT: &str = "jabber:client";

/// An authenticated stream, not yet bound.
#[derive(Debug)]
pub struct Authenticated {
    /// The stream.
    pub stream: Stream,
    features: Element,
}

/// The server's answer to `<enable/>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enabled {
    /// Identifies the session when it is resumed; absent if the server does not resume.
    pub id: Option<String>,
    /// How long the server keeps the session, in seconds.
    pub max: Option<u32>,
    /// The address at which the server prefers to be resumed.
    pub location: Option<String>,
}

/// The server's answer to `<resume/>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumption {
    /// The session continues; the server has handled this many of the client's stanzas.
    Resumed(u32),
    /// The session is not resumed; the server may say how many of the client's stanzas it handled.
    Refused {
        /// The condition of the error.
        reason: String,
        /// Stanzas handled.
        handled: Option<u32>,
    },
}

/// Connects and authenticates.
///
/// # Errors
/// When any step fails.
pub async fn login(endpoint: &Endpoint, address: &str, who: &Credentials) -> Result<Authenticated> {
    let mut stream = Stream::connect(endpoint, address).await?;
    let features = stream.open().await?;
    authenticate(&mut stream, &features, who).await?;
    let features = stream.open().await?;
    Ok(Authenticated { stream, features })
}

impl Authenticated {
    /// Binds a resource (chosen by the server for `None`) and returns the full JID. Establishes a
    /// session in the old sense if the server requires it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn bind(&mut self, resource: Option<&str>) -> Result<String> {
        let inner = resource
            .map(|resource| format!("<resource>{}</resource>", escape(resource)))
            .unwrap_or_default();
        let result = self
            .request("bind", &format!("<bind xmlns='{BIND}'>{inner}</bind>"))
            .await
            .context("binding failed")?;
        let jid = result
            .child("bind", BIND)
            .and_then(|bind| bind.child("jid", BIND))
            .map(|jid| jid.text.clone())
            .context("the server bound no address")?;
        let session = self.features.child("session", SESSION);
        if session.is_some_and(|session| session.child("optional", SESSION).is_none()) {
            self.request("session", &format!("<session xmlns='{SESSION}'/>"))
                .await
                .context("the session was refused")?;
        }
        Ok(jid)
    }

    async fn request(&mut self, id: &str, payload: &str) -> Result<Element> {
        self.stream
            .send(format!("<iq xmlns='{CLIENT}' type='set' id='{id}'>{payload}</iq>").as_bytes())?;
        loop {
            let answer = self.stream.next_element().await?;
            if answer.name != "iq" || answer.attribute("id") != Some(id) {
                continue;
            }
            if answer.attribute("type") == Some("result") {
                return Ok(answer);
            }
            let error = answer.child("error", CLIENT);
            bail!(
                "{}",
                error.map_or_else(|| "no reason given".to_owned(), condition)
            );
        }
    }

    /// Enables stream management on the bound stream. Counting begins with the answer.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn enable(&mut self, resume: bool) -> Result<Enabled> {
        let resume = if resume { " resume='true'" } else { "" };
        self.stream
            .send(format!("<enable xmlns='{SM}'{resume}/>").as_bytes())?;
        loop {
            let answer = self.stream.next_element().await?;
            if answer.is("enabled", SM) {
                let resumable = matches!(answer.attribute("resume"), Some("true" | "1"));
                return Ok(Enabled {
                    id: answer
                        .attribute("id")
                        .filter(|_| resumable)
                        .map(str::to_owned),
                    max: answer.attribute("max").and_then(|max| max.parse().ok()),
                    location: answer.attribute("location").map(str::to_owned),
                });
            }
            ensure!(
                !answer.is("failed", SM),
                "stream management was refused: {}",
                condition(&answer)
            );
        }
    }

    /// Asks to resume session `id`, of which this side handled `received` stanzas.
    ///
    /// # Errors
    /// When the stream breaks; a refusal is an answer, not an error.
    pub async fn resume(&mut self, id: &str, received: u32) -> Result<Resumption> {
        self.stream.send(
            format!(
                "<resume xmlns='{SM}' h='{received}' previd='{}'/>",
                escape(id)
            )
            .as_bytes(),
        )?;
        let answer = self.stream.next_element().await?;
        let handled = answer.attribute("h").and_then(|h| h.parse().ok());
        if answer.is("resumed", SM) {
            return Ok(Resumption::Resumed(
                handled.context("<resumed/> without h")?,
            ));
        }
        ensure!(
            answer.is("failed", SM),
            "expected <resumed/>, got <{}/>",
            answer.name
        );
        Ok(Resumption::Refused {
            reason: condition(&answer),
            handled,
        })
    }
}
