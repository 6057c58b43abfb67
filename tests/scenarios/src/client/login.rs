//! From a connection to a session, and the resumption of one.

use std::time::Instant;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sestina_xmpp::ns;
use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::sasl::scram::{ClientBinding, ScramClient, random_nonce};
use sestina_xmpp::xml::Element;

use super::line::{Line, header};
use super::{Client, Entrance, Management, Transport};
use crate::sandbox::{HOST, PASSWORD};

/// The login of a client.
#[derive(Clone, Debug)]
pub struct Login {
    /// The transport.
    pub transport: Transport,
    /// The host to which it opens a stream.
    pub host: String,
    /// Its user name (not with ANONYMOUS).
    pub user: String,
    /// Its password.
    pub password: String,
    /// The SASL mechanism; none: the strongest of the transport.
    pub mechanism: Option<Mechanism>,
    /// The requested resource; empty: the server chooses.
    pub resource: String,
    /// XEP-0198 with resumption.
    pub managed: bool,
    /// Query of a WebSocket's address.
    pub query: String,
}

impl Login {
    /// The usual login.
    pub fn new(user: &str, resource: &str) -> Login {
        Login {
            transport: Transport::default(),
            host: HOST.to_owned(),
            user: user.to_owned(),
            password: PASSWORD.to_owned(),
            mechanism: None,
            resource: resource.to_owned(),
            managed: false,
            query: String::new(),
        }
    }

    /// The same with XEP-0198.
    #[must_use]
    pub fn managed(mut self) -> Login {
        self.managed = true;
        self
    }
}

impl Client {
    /// Connects, and sends nothing.
    pub async fn connect(
        name: &str,
        entrance: &Entrance,
        transport: Transport,
        host: &str,
        query: &str,
    ) -> Result<Client> {
        let line = Line::connect(entrance, transport, host, query)
            .await
            .with_context(|| format!("{name} connects"))?;
        Ok(Client {
            name: name.to_owned(),
            line,
            host: host.to_owned(),
            jid: String::new(),
            management: None,
            answers: true,
            asked: false,
            log: Vec::new(),
            began: Instant::now(),
        })
    }

    /// Connects and binds a session, without presence.
    pub async fn login(name: &str, entrance: &Entrance, login: &Login) -> Result<Client> {
        let mut client = Client::authenticated(name, entrance, login).await?;
        client.bind(&login.resource).await?;
        if login.managed {
            client.enable().await?;
        }
        // The log of a successful login is not needed.
        client.log.clear();
        let jid = client.jid.clone();
        client.note("--", &format!("logged in as {jid}"));
        Ok(client)
    }

    /// Connects and authenticates; returns with the stream after SASL.
    pub async fn authenticated(name: &str, entrance: &Entrance, login: &Login) -> Result<Client> {
        let (host, query) = (&login.host, &login.query);
        let mut client = Client::connect(name, entrance, login.transport, host, query).await?;
        client.open().await?;
        if client.line.is_plain() {
            client
                .write(&format!("<starttls xmlns='{}'/>", ns::TLS))
                .await?;
            client.expect_named("proceed", ns::TLS).await?;
            client.line.start_tls(host).await?;
            client.open().await?;
        }
        if !client.authenticate(login).await? {
            return Err(client.failure("login failed"));
        }
        client.restart().await?;
        Ok(client)
    }

    /// Opens the stream after SASL; returns the features.
    pub async fn restart(&mut self) -> Result<Element> {
        self.line.reset();
        self.open().await
    }

    /// Opens a stream; returns the features.
    pub async fn open(&mut self) -> Result<Element> {
        self.send_header(&self.host.clone()).await?;
        self.expect_named("features", ns::STREAM).await
    }

    /// Sends a stream header.
    pub async fn send_header(&mut self, host: &str) -> Result<()> {
        let header = header(self.line.is_websocket(), host);
        self.write(&header).await
    }

    /// Authenticates; false if the server refused.
    pub async fn authenticate(&mut self, login: &Login) -> Result<bool> {
        let strongest = match login.transport {
            Transport::StartTls | Transport::Tls => Mechanism::ScramSha256Plus,
            // Nothing to bind to: browsers give no access to the TLS session.
            Transport::WebSocket => Mechanism::ScramSha256,
        };
        let mechanism = login.mechanism.unwrap_or(strongest);
        let plain = || format!("\0{}\0{}", login.user, login.password).into_bytes();
        let Some(hash) = mechanism.hash() else {
            let first = if mechanism == Mechanism::Plain {
                plain()
            } else {
                Vec::new()
            };
            self.auth(mechanism, &first).await?;
            return Ok(self.sasl("success").await?.is_some());
        };
        let binding = match self.line.binding().filter(|_| mechanism.is_plus()) {
            Some(binding) => ClientBinding::Bound(binding),
            None => ClientBinding::Unsupported,
        };
        let (user, password) = (&login.user, &login.password);
        let scram = ScramClient::new(hash, user, password, None, binding, &random_nonce());
        self.auth(mechanism, &scram.client_first()).await?;
        let Some(challenge) = self.sasl("challenge").await? else {
            return Ok(false);
        };
        let (response, verifier) = scram
            .server_first(&challenge)
            .map_err(|error| self.failure(&format!("the challenge is wrong: {error}")))?;
        let response = STANDARD.encode(response);
        let xmlns = ns::SASL;
        self.write(&format!("<response xmlns='{xmlns}'>{response}</response>"))
            .await?;
        let Some(last) = self.sasl("success").await? else {
            return Ok(false);
        };
        verifier
            .server_final(&last)
            .map_err(|error| self.failure(&format!("the server does not prove itself: {error}")))?;
        Ok(true)
    }

    async fn auth(&mut self, mechanism: Mechanism, first: &[u8]) -> Result<()> {
        let first = sestina_xmpp::sasl::wire::encode(first);
        let xmlns = ns::SASL;
        self.write(&format!(
            "<auth xmlns='{xmlns}' mechanism='{mechanism}'>{first}</auth>"
        ))
        .await
    }

    /// The content of an element of that name; none if the answer is a failure.
    async fn sasl(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.element().await?;
        if answer.is("failure", ns::SASL) {
            return Ok(None);
        }
        if !answer.is(name, ns::SASL) {
            return Err(self.failure(&format!("expected <{name}/> of SASL")));
        }
        let text = sestina_xmpp::sasl::wire::decode(&answer.text());
        text.map(Some)
            .map_err(|error| self.failure(&format!("not base64: {error}")))
    }

    /// Binds a resource.
    pub async fn bind(&mut self, resource: &str) -> Result<()> {
        let resource = match resource {
            "" => String::new(),
            named => format!("<resource>{named}</resource>"),
        };
        let bind = ns::BIND;
        self.write(&format!(
            "<iq xmlns='jabber:client' type='set' id='bind'><bind xmlns='{bind}'>{resource}</bind></iq>"
        ))
        .await?;
        let result = self.element().await?;
        let jid = result
            .child("bind", ns::BIND)
            .and_then(|bind| bind.child("jid", ns::BIND))
            .map(Element::text);
        match jid {
            Some(jid) if result.attr("type") == Some("result") => self.jid = jid,
            _ => return Err(self.failure("was not bound")),
        }
        Ok(())
    }

    /// Enables XEP-0198.
    pub async fn enable(&mut self) -> Result<()> {
        let sm = ns::SM;
        self.write(&format!("<enable xmlns='{sm}' resume='true'/>"))
            .await?;
        let enabled = self.expect_named("enabled", ns::SM).await?;
        self.management = Some(Management {
            id: enabled.attr("id").unwrap_or_default().to_owned(),
            ..Management::default()
        });
        Ok(())
    }

    /// Breaks the connection without closing the stream.
    pub fn cut(&mut self) {
        self.note("--", "cuts the connection");
        self.line.cut();
    }

    /// Resumes the session over another connection (XEP-0198 §5). Returns the server's answer;
    /// after `<resumed/>`, the stanzas that the server had not handled are sent again.
    pub async fn resume(&mut self, entrance: &Entrance, login: &Login) -> Result<Element> {
        self.line.cut();
        let mut again = Client::authenticated(&self.name, entrance, login).await?;
        std::mem::swap(&mut self.line, &mut again.line);
        let management = self
            .management
            .clone()
            .context("only a managed session is resumed")?;
        let (sm, h, id) = (ns::SM, management.received, &management.id);
        self.write(&format!("<resume xmlns='{sm}' h='{h}' previd='{id}'/>"))
            .await?;
        let answer = self.element().await?;
        if answer.is("resumed", ns::SM) {
            let h = answer
                .attr("h")
                .and_then(|h| h.parse().ok())
                .ok_or_else(|| self.failure("<resumed/> has no h"))?;
            self.acknowledged(h);
            let again = self.management.as_ref().map(|m| m.unacked.clone());
            for (_, stanza) in again.into_iter().flatten() {
                self.write(&stanza).await?;
            }
        }
        Ok(answer)
    }
}
