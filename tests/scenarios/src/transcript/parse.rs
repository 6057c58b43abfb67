//! Text to steps.

use anyhow::{Context, Result, bail};
use sestina_xmpp::sasl::Mechanism;

use crate::client::Transport;

/// A scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its accounts.
    pub accounts: Vec<String>,
    /// Names of its rooms.
    pub rooms: Vec<String>,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its line, from 1.
    pub line: usize,
    /// The session that acts.
    pub actor: String,
    /// The action of the session, or the expected event.
    pub what: What,
}

/// The way in which a session logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The edge.
    pub edge: usize,
    /// The transport.
    pub transport: Transport,
    /// Another mechanism than the strongest.
    pub mechanism: Option<Mechanism>,
    /// With XEP-0198.
    pub managed: bool,
    /// On the host with anonymous logins.
    pub anonymous: bool,
    /// Query of a WebSocket's address.
    pub query: String,
    /// Another password than the right one.
    pub password: Option<String>,
}

/// The content of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Connects and binds a session.
    LogsIn(Way),
    /// The login is refused.
    FailsToLogIn(Way),
    /// Connects, and sends nothing.
    Connects(Way),
    /// Opens a stream and receives the features.
    Opens,
    /// Sends a header to another host.
    OpensTo(String),
    /// SASL and the stream after it, on an open stream.
    Authenticates(Way),
    /// Sends presence, and receives its own.
    IsAvailable(Option<i8>),
    /// Sends a stanza.
    Sends(String),
    /// Writes text as it is.
    Writes(String),
    /// Receives this stanza next.
    Receives(String),
    /// Receives these stanzas next, in any order.
    ReceivesInAnyOrder(String),
    /// Receives no stanza.
    ReceivesNothing,
    /// The session ends with a stream error.
    IsEndedWith(String),
    /// Closes its stream.
    Closes,
    /// Its connection breaks.
    IsCut,
    /// Resumes its session.
    Resumes(usize),
    /// Tries to resume, and is refused.
    FailsToResume(usize, String),
    /// All its stanzas are acknowledged.
    IsAcknowledged,
}

/// Parses a scenario.
pub fn parse(text: &str) -> Result<Script> {
    let mut script = Script {
        accounts: Vec::new(),
        rooms: Vec::new(),
        steps: Vec::new(),
    };
    for (number, line) in logical_lines(text) {
        let words = |list: &str| list.split_whitespace().map(str::to_owned).collect();
        if let Some(list) = line.strip_prefix("accounts:") {
            script.accounts = words(list);
        } else if let Some(list) = line.strip_prefix("rooms:") {
            script.rooms = words(list);
        } else {
            let (actor, rest) = line
                .split_once(' ')
                .with_context(|| format!("line {number}: {line:?} says nothing"))?;
            let what = what(rest.trim()).with_context(|| format!("line {number}: {line}"))?;
            let actor = actor.to_owned();
            script.steps.push(Step {
                line: number,
                actor,
                what,
            });
        }
    }
    if script.steps.is_empty() {
        bail!("nothing happens");
    }
    Ok(script)
}

/// The lines without comments, with indented lines joined to the line before.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match lines.last_mut().filter(|_| line.starts_with(' ')) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            None => lines.push((number + 1, line.to_owned())),
        }
    }
    lines
}

fn what(text: &str) -> Result<What> {
    let simple = match text {
        "receives nothing" => Some(What::ReceivesNothing),
        "closes" => Some(What::Closes),
        "is cut" => Some(What::IsCut),
        "is acknowledged" => Some(What::IsAcknowledged),
        "opens" => Some(What::Opens),
        "is available" => Some(What::IsAvailable(None)),
        _ => None,
    };
    if let Some(what) = simple {
        return Ok(what);
    }
    let after = |prefix: &str| text.strip_prefix(prefix).map(str::trim);
    if let Some(xml) = after("sends:") {
        Ok(What::Sends(xml.to_owned()))
    } else if let Some(raw) = after("writes:") {
        Ok(What::Writes(raw.to_owned()))
    } else if let Some(xml) = after("receives in any order:") {
        Ok(What::ReceivesInAnyOrder(xml.to_owned()))
    } else if let Some(xml) = after("receives:") {
        Ok(What::Receives(xml.to_owned()))
    } else if let Some(priority) = after("is available with priority ") {
        Ok(What::IsAvailable(Some(priority.parse()?)))
    } else if let Some(condition) = after("is ended with ") {
        Ok(What::IsEndedWith(condition.to_owned()))
    } else if let Some(host) = after("opens to ") {
        Ok(What::OpensTo(host.to_owned()))
    } else if let Some(rest) = after("fails to resume") {
        let (way, xml) = rest.split_once(':').context("the answer is missing")?;
        Ok(What::FailsToResume(
            parse_way(way)?.edge,
            xml.trim().to_owned(),
        ))
    } else if let Some(rest) = after("resumes") {
        Ok(What::Resumes(parse_way(rest)?.edge))
    } else if let Some(rest) = after("fails to log in") {
        Ok(What::FailsToLogIn(parse_way(rest)?))
    } else if let Some(rest) = after("logs in") {
        Ok(What::LogsIn(parse_way(rest)?))
    } else if let Some(rest) = after("connects") {
        Ok(What::Connects(parse_way(rest)?))
    } else if let Some(rest) = after("authenticates") {
        Ok(What::Authenticates(parse_way(rest)?))
    } else {
        bail!("no such step")
    }
}

/// `managed`, `anonymously`, `over websocket`, `by PLAIN`, `at edge 1`, `with query room=x`,
/// `with password x`.
fn parse_way(text: &str) -> Result<Way> {
    let mut way = Way::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let mut next = || words.next().context("a word is missing at the end");
        match word {
            "managed" => way.managed = true,
            "anonymously" => way.anonymous = true,
            "over" => {
                way.transport = match next()? {
                    "websocket" => Transport::WebSocket,
                    "starttls" => Transport::StartTls,
                    other => bail!("{other:?} is no transport"),
                }
            }
            "by" => {
                let name = next()?;
                way.mechanism = Some(
                    Mechanism::parse(name).with_context(|| format!("{name:?} is no mechanism"))?,
                );
            }
            "at" => {
                let (_edge, number) = (next()?, next()?);
                way.edge = number.parse()?;
            }
            "with" => match next()? {
                "query" => way.query = next()?.to_owned(),
                "password" => way.password = Some(next()?.to_owned()),
                other => bail!("with {other:?}?"),
            },
            other => bail!("{other:?} is not understood"),
        }
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_are_read() {
        let text = "# about\naccounts: alice bob\nalice logs in managed over websocket at edge 1\n\
                    alice sends: <message\n  to='x'/>\nbob receives nothing\n";
        let script = parse(text).unwrap();
        assert_eq!(script.accounts, ["alice", "bob"]);
        let way = Way {
            managed: true,
            transport: Transport::WebSocket,
            edge: 1,
            ..Way::default()
        };
        assert_eq!(script.steps[0].what, What::LogsIn(way));
        assert_eq!(
            script.steps[1].what,
            What::Sends("<message to='x'/>".to_owned())
        );
        assert_eq!((script.steps[2].line, &*script.steps[2].actor), (6, "bob"));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for text in [
            "",
            "alice",
            "alice sings",
            "alice logs in by GUESSING",
            "a resumes at edge",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let error = format!("{:#}", parse("a logs in\na sings\n").unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }
}
