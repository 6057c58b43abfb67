//! tokio-xmpp against a running server: STARTTLS with certificate checking, SCRAM, chat, the
//! archive, and the resumption of a session whose connection was lost.
//!
//! Prints one line for each check; ends with a non-zero code at the first that fails. SSL_CERT_FILE
//! names the authority to trust. The Python and Node clients are in the folders beside.
#![allow(clippy::print_stdout)]

mod relay;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_xmpp::connect::DnsConfig;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::message::{Lang, Message, MessageType};
use tokio_xmpp::parsers::presence::Presence;
use tokio_xmpp::xmlstream::Timeouts;
use tokio_xmpp::{Client, Event, IqRequest, IqResponse, Stanza};

use relay::Relay;

const LIMIT: Duration = Duration::from_secs(30);
const MAM: &str = "urn:xmpp:mam:2";

fn passed(text: &str) {
    println!("tokio-xmpp: ok: {text}");
}

/// A client, with the messages that it received while it waited for another event.
struct Peer {
    client: Client,
    jid: Jid,
    messages: Vec<Message>,
}

impl Peer {
    async fn login(jid: &str, password: &str, address: &str) -> Result<Peer> {
        let jid = Jid::new(jid)?;
        let mut client =
            Client::new_starttls(jid, password, DnsConfig::addr(address), Timeouts::default());
        let jid = loop {
            match timeout(LIMIT, client.next())
                .await
                .context("no login in time")?
            {
                Some(Event::Online { bound_jid, .. }) => break bound_jid,
                Some(Event::Disconnected(error)) => return Err(error).context("login failed"),
                Some(Event::Stanza(_)) => {}
                None => bail!("the client ended"),
            }
        };
        client.send_stanza(Presence::available().into()).await?;
        Ok(Peer {
            client,
            jid,
            messages: Vec::new(),
        })
    }

    async fn say(&mut self, to: Jid, text: &str) -> Result<()> {
        let mut message = Message::new(Some(to));
        message.type_ = MessageType::Chat;
        message.bodies.insert(Lang::new(), text.to_owned());
        self.client.send_stanza(message.into()).await?;
        Ok(())
    }

    async fn event(&mut self, what: &str) -> Result<Event> {
        let event = timeout(LIMIT, self.client.next())
            .await
            .with_context(|| format!("waited too long for {what}"))?;
        event.with_context(|| format!("the client ended, waiting for {what}"))
    }

    async fn hear(&mut self, wanted: &str) -> Result<()> {
        loop {
            if !self.messages.is_empty() {
                let body = body(&self.messages.remove(0));
                ensure!(body == wanted, "wanted {wanted:?}, got {body:?}");
                return Ok(());
            }
            self.keep(wanted).await?;
        }
    }

    /// Waits for one event and keeps it if it is a message with text.
    async fn keep(&mut self, what: &str) -> Result<Event> {
        let event = self.event(what).await?;
        if let Event::Stanza(Stanza::Message(message)) = &event
            && !body(message).is_empty()
        {
            self.messages.push(message.clone());
        }
        Ok(event)
    }

    /// The texts in the archive that begin with `prefix`, oldest first.
    async fn archived(&mut self, with: &Jid, prefix: &str) -> Result<Vec<String>> {
        let field = |name: &str, value: &str| {
            let value = Element::builder("value", "jabber:x:data").append(value);
            Element::builder("field", "jabber:x:data")
                .attr(
                    tokio_xmpp::minidom::rxml::xml_ncname!("var").to_owned(),
                    name,
                )
                .append(value.build())
                .build()
        };
        let form = Element::builder("x", "jabber:x:data")
            .attr(
                tokio_xmpp::minidom::rxml::xml_ncname!("type").to_owned(),
                "submit",
            )
            .append(field("FORM_TYPE", MAM))
            .append(field("with", with.to_bare().as_str()))
            .build();
        let query = Element::builder("query", MAM).append(form).build();
        let token = self.client.send_iq(None, IqRequest::Set(query)).await;
        tokio::pin!(token);
        let mut found = Vec::new();
        let answer = loop {
            tokio::select! {
                biased;
                event = self.client.next() => match event {
                    Some(Event::Stanza(Stanza::Message(message))) => {
                        found.extend(message.payloads.iter().filter_map(forwarded_body));
                    }
                    Some(_) => {}
                    None => bail!("the client ended, waiting for the archive"),
                },
                answer = &mut token => break answer?,
                () = tokio::time::sleep(LIMIT) => bail!("the archive did not answer"),
            }
        };
        ensure!(
            matches!(answer, IqResponse::Result(_)),
            "the archive answered {answer:?}"
        );
        // The results come before the answer, and may still be in the client's channel.
        while let Some(Some(event)) = self.client.next().now_or_never() {
            if let Event::Stanza(Stanza::Message(message)) = event {
                found.extend(message.payloads.iter().filter_map(forwarded_body));
            }
        }
        found.retain(|text| text.starts_with(prefix));
        Ok(found)
    }
}

fn body(message: &Message) -> String {
    message.bodies.values().next().cloned().unwrap_or_default()
}

fn forwarded_body(payload: &Element) -> Option<String> {
    let result = Some(payload).filter(|p| p.is("result", MAM))?;
    let message = result
        .get_child("forwarded", "urn:xmpp:forward:0")?
        .get_child("message", "jabber:client")?;
    Some(message.get_child("body", "jabber:client")?.text())
}

async fn run(options: &HashMap<String, String>) -> Result<()> {
    let option = |name: &str| {
        let value = options.get(name).map(String::as_str);
        value.with_context(|| format!("--{name} is missing"))
    };
    let address = option("address")?;
    let relay = Relay::start(address).await?;
    let mut one = Peer::login(option("jid")?, option("password")?, address).await?;
    let (peer, password) = (option("peer")?, option("peer-password")?);
    let mut two = Peer::login(peer, password, relay.address()).await?;
    passed(&format!(
        "logged in as {} and {} with certificate checking",
        one.jid, two.jid
    ));

    let run = std::process::id();
    let texts: Vec<String> = (0..5).map(|i| format!("tokio-xmpp {run} {i}")).collect();
    for text in &texts {
        one.say(two.jid.to_bare().into(), text).await?;
    }
    for text in &texts {
        two.hear(text).await?;
    }
    passed("five messages arrived in order");

    let prefix = format!("tokio-xmpp {run} ");
    let (jid_one, jid_two) = (one.jid.clone(), two.jid.clone());
    for (peer, with) in [(&mut one, &jid_two), (&mut two, &jid_one)] {
        let found = peer.archived(with, &prefix).await?;
        ensure!(
            found == texts,
            "the archive of {} holds {found:?}",
            peer.jid
        );
    }
    passed("both archives hold them once, in that order");

    relay.cut();
    let away: Vec<String> = (0..3)
        .map(|i| format!("tokio-xmpp {run} away {i}"))
        .collect();
    for text in &away {
        one.say(jid_two.clone(), text).await?;
    }
    loop {
        if let Event::Online { resumed, .. } = two.keep("the resumption").await? {
            ensure!(resumed, "logged in anew instead of resuming");
            break;
        }
    }
    for text in &away {
        two.hear(text).await?;
    }
    let back = format!("tokio-xmpp {run} back");
    two.say(jid_one.to_bare().into(), &back).await?;
    one.hear(&back).await?;
    ensure!(
        two.messages.is_empty(),
        "delivered twice: {:?}",
        two.messages
    );
    passed("a session whose connection was lost resumed and got its missed messages once");
    Ok(())
}

// One thread: if another thread sends a stanza just when this client's receiver looks for one, the
// receiver is not woken again (tokio-xmpp 6.0).
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut options = HashMap::new();
    for pair in words.chunks(2) {
        let (Some(name), Some(value)) =
            (pair.first().and_then(|n| n.strip_prefix("--")), pair.get(1))
        else {
            bail!("options are written as --name value");
        };
        options.insert(name.to_owned(), value.clone());
    }
    run(&options).await
}
