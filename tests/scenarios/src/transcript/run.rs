//! Performs the steps of a scenario.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::xml::Element;

use super::matching::{Bindings, fill, matches};
use super::parse::{Script, Step, Way, What, parse};
use crate::client::{Client, Login, written};
use crate::sandbox::{ANONYMOUS, HOST, PASSWORD, Sandbox};

/// A scenario with its name.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Name of its file.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Runs a scenario on that server; the error contains the whole conversation.
pub async fn run(sandbox: &Sandbox, transcript: &Transcript) -> Result<()> {
    let script = parse(&transcript.text)?;
    let run = format!("{}-{:06x}", transcript.name, rand::random::<u32>() >> 8);
    // Users and rooms get names of this run: the script is parsed again after they were replaced in
    // the text.
    let mut text = transcript.text.clone();
    for name in script.accounts.iter().chain(&script.rooms) {
        text = text.replace(&format!("{name}@"), &format!("{name}.{run}@"));
    }
    for account in &script.accounts {
        sandbox.add_user(&format!("{account}.{run}")).await?;
    }
    let script: Script = parse(&text)?;
    let mut stage = Stage {
        sandbox,
        run,
        actors: HashMap::new(),
        bindings: Bindings::new(),
    };
    for step in &script.steps {
        if let Err(error) = stage.perform(step).await {
            let said: Vec<String> = stage
                .actors
                .values()
                .map(|actor| actor.client.transcript())
                .collect();
            let (name, line, actor) = (&transcript.name, step.line, &step.actor);
            bail!(
                "{name}.scs line {line}: {actor} {:?}\n=> {error:#}\n{}",
                step.what,
                said.join("\n--\n")
            );
        }
    }
    Ok(())
}

struct Actor {
    client: Client,
    login: Login,
}

struct Stage<'a> {
    sandbox: &'a Sandbox,
    run: String,
    actors: HashMap<String, Actor>,
    bindings: Bindings,
}

impl Stage<'_> {
    async fn perform(&mut self, step: &Step) -> Result<()> {
        let name = step.actor.clone();
        match &step.what {
            What::LogsIn(way) => {
                let login = self.login(&name, way);
                let entrance = self.sandbox.entrance(way.edge)?;
                let client = Client::login(&name, &entrance, &login).await?;
                self.enters(name, client, login);
            }
            What::FailsToLogIn(way) => {
                let login = self.login(&name, way);
                let entrance = self.sandbox.entrance(way.edge)?;
                let (host, query) = (&login.host, &login.query);
                let mut client =
                    Client::connect(&name, &entrance, login.transport, host, query).await?;
                client.open().await?;
                if client.authenticate(&login).await? {
                    bail!("the login succeeded");
                }
            }
            What::Connects(way) => {
                let login = self.login(&name, way);
                let entrance = self.sandbox.entrance(way.edge)?;
                let (host, query) = (&login.host, &login.query);
                let client =
                    Client::connect(&name, &entrance, login.transport, host, query).await?;
                self.enters(name, client, login);
            }
            What::Authenticates(way) => {
                let login = self.login(&name, way);
                let actor = self.actor(&name)?;
                if !actor.client.authenticate(&login).await? {
                    bail!("it was refused");
                }
                actor.client.restart().await?;
                actor.login = login;
            }
            What::FailsToResume(edge, pattern) => {
                let answer = self.resumes(&name, *edge).await?;
                self.check(&name, pattern, &answer)?;
            }
            What::Resumes(edge) => {
                let answer = self.resumes(&name, *edge).await?;
                if !answer.is("resumed", sestina_xmpp::ns::SM) {
                    bail!("it was not resumed: {}", written(&answer));
                }
            }
            What::IsAvailable(priority) => {
                let priority =
                    priority.map_or(String::new(), |p| format!("<priority>{p}</priority>"));
                let stanza = format!("<presence xmlns='jabber:client'>{priority}</presence>");
                let actor = self.actor(&name)?;
                actor.client.send(&stanza).await?;
                let own = format!(
                    "<presence from='{}'>{priority}</presence>",
                    actor.client.jid()
                );
                let jid = actor.client.jid().to_owned();
                let heard = actor.client.element().await?;
                self.check(&name, &own, &heard)?;
                // A stanza that comes before that would be stored and delivered with a time stamp.
                if !priority.contains('-') {
                    self.sandbox.caught_up(&jid).await?;
                }
            }
            What::Receives(pattern) => {
                let heard = self.actor(&name)?.client.element().await?;
                self.check(&name, pattern, &heard)?;
            }
            What::ReceivesInAnyOrder(patterns) => self.any_order(&name, patterns).await?,
            What::Sends(stanza) => {
                let stanza = self.declared(&fill(stanza, &self.bindings)?, &name)?;
                self.actor(&name)?.client.send(&stanza).await?;
            }
            What::Writes(text) => {
                let text = fill(text, &self.bindings)?;
                self.actor(&name)?.client.write(&text).await?;
            }
            simple => self.simple(&name, simple).await?,
        }
        Ok(())
    }

    async fn simple(&mut self, name: &str, what: &What) -> Result<()> {
        let client = &mut self.actor(name)?.client;
        match what {
            What::Opens => drop(client.open().await?),
            What::OpensTo(host) => client.send_header(host).await?,
            What::ReceivesNothing => client.hears_nothing().await?,
            What::IsEndedWith(condition) => drop(client.is_ended_with(condition).await?),
            What::Closes => client.close().await?,
            What::IsCut => client.cut(),
            What::IsAcknowledged => {
                let came = client.settle().await?;
                if let Some(first) = came.first() {
                    bail!("{} came meanwhile", written(first));
                }
            }
            other => bail!("{other:?} is not done here"),
        }
        Ok(())
    }

    /// A WebSocket has no stream header to inherit the namespace from (RFC 7395 §3.3.3).
    fn declared(&self, stanza: &str, name: &str) -> Result<String> {
        let actor = self.actors.get(name).context("not here")?;
        let websocket = actor.login.transport == crate::client::Transport::WebSocket;
        if !websocket || stanza.contains("xmlns='jabber:client'") {
            return Ok(stanza.to_owned());
        }
        let end = stanza
            .find([' ', '/', '>'])
            .context("a stanza begins with its name")?;
        let (start, rest) = stanza.split_at(end);
        Ok(format!("{start} xmlns='jabber:client'{rest}"))
    }

    fn login(&self, name: &str, way: &Way) -> Login {
        let address = name.split('~').next().unwrap_or_default();
        let (user, resource) = address.split_once('/').unwrap_or((address, "home"));
        let mut login = Login::new(&format!("{user}.{}", self.run), resource);
        login.transport = way.transport;
        login.managed = way.managed;
        login.query = way.query.clone();
        login.password = way.password.clone().unwrap_or_else(|| PASSWORD.to_owned());
        let anonymous = way.anonymous.then_some(Mechanism::Anonymous);
        login.mechanism = way.mechanism.or(anonymous);
        login.host = if way.anonymous { ANONYMOUS } else { HOST }.to_owned();
        login
    }

    fn enters(&mut self, name: String, client: Client, login: Login) {
        if !client.jid().is_empty() {
            self.bindings.insert(name.clone(), client.jid().to_owned());
        }
        self.actors.insert(name, Actor { client, login });
    }

    fn actor(&mut self, name: &str) -> Result<&mut Actor> {
        self.actors
            .get_mut(name)
            .with_context(|| format!("{name} has not come in"))
    }

    async fn resumes(&mut self, name: &str, edge: usize) -> Result<Element> {
        let entrance = self.sandbox.entrance(edge)?;
        let actor = self.actor(name)?;
        actor.client.resume(&entrance, &actor.login).await
    }

    fn check(&mut self, name: &str, pattern: &str, heard: &Element) -> Result<()> {
        let pattern = Element::parse(pattern.as_bytes())
            .with_context(|| format!("this is not XML: {pattern}"))?;
        let own = self.actors[name].client.jid();
        let got = || format!("got {}", written(heard));
        matches(&pattern, heard, own, &mut self.bindings).with_context(got)
    }

    /// Receives as many elements as there are patterns, each fitting another pattern.
    async fn any_order(&mut self, name: &str, patterns: &str) -> Result<()> {
        let all = format!("<all xmlns='jabber:client'>{patterns}</all>");
        let all = Element::parse(all.as_bytes())
            .with_context(|| format!("this is not XML: {patterns}"))?;
        let mut left: Vec<Element> = all.children().cloned().collect();
        while !left.is_empty() {
            let heard = self.actor(name)?.client.element().await?;
            let own = self.actors[name].client.jid().to_owned();
            let mut reasons = Vec::new();
            let at = left.iter().position(|pattern| {
                match matches(pattern, &heard, &own, &mut self.bindings) {
                    Ok(()) => true,
                    Err(reason) => {
                        reasons.push(reason.to_string());
                        false
                    }
                }
            });
            match at {
                Some(at) => drop(left.remove(at)),
                None => bail!("{} fits none: {}", written(&heard), reasons.join("; ")),
            }
        }
        Ok(())
    }
}
