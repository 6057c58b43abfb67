//! The first line of a client of the floor.

use anyhow::{Context as _, Result};

use crate::xml::tree::Element;

/// The behaviour of a connection at the floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Connections of one benchmark run share a group.
    pub group: u64,
    /// The receivers of this connection's messages.
    pub role: Role,
    /// This connection's number in the group.
    pub number: usize,
    /// Size of each message that this connection sends.
    pub incoming: usize,
    /// Size of each delivery of such a message.
    pub outgoing: usize,
    /// Ask for an acknowledgement with every n-th delivery (0: never).
    pub ask_every: u32,
}

/// The receivers of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One other connection of the group.
    Peer(usize),
    /// All connections of the group.
    Everyone,
    /// None.
    Idle,
}

impl Hello {
    /// The line as it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let role = match self.role {
            Role::Peer(peer) => format!("peer='{peer}'"),
            Role::Everyone => "everyone='1'".to_owned(),
            Role::Idle => "idle='1'".to_owned(),
        };
        format!(
            "<hello group='{}' {role} number='{}' incoming='{}' outgoing='{}' ask='{}'/>",
            self.group, self.number, self.incoming, self.outgoing, self.ask_every
        )
        .into_bytes()
    }

    /// Parses the line.
    ///
    /// # Errors
    /// When it is no such line.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let element = Element::parse(bytes, "")?;
        anyhow::ensure!(element.name == "hello", "the floor expects <hello/> first");
        let number = |name: &str| -> Result<u64> {
            let value = element
                .attribute(name)
                .with_context(|| format!("hello without {name}"))?;
            value
                .parse()
                .with_context(|| format!("{name} in hello is no number"))
        };
        let role = if element.attribute("peer").is_some() {
            Role::Peer(usize::try_from(number("peer")?)?)
        } else if element.attribute("everyone").is_some() {
            Role::Everyone
        } else {
            Role::Idle
        };
        Ok(Self {
            group: number("group")?,
            role,
            number: usize::try_from(number("number")?)?,
            incoming: usize::try_from(number("incoming")?)?,
            outgoing: usize::try_from(number("outgoing")?)?,
            ask_every: u32::try_from(number("ask")?)?,
        })
    }
}

/// A delivery of exactly `size` bytes (at least the smallest possible one).
#[must_use]
pub fn frame(size: usize) -> Vec<u8> {
    const HEAD: &str = "<message to='floor' type='chat'><body>bench:";
    const TAIL: &str = "</body></message>";
    let padding = size.saturating_sub(HEAD.len() + TAIL.len());
    format!("{HEAD}{}{TAIL}", "x".repeat(padding)).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hello_comes_back_as_it_went() {
        for role in [Role::Peer(7), Role::Everyone, Role::Idle] {
            let hello = Hello {
                group: 9,
                role,
                number: 3,
                incoming: 310,
                outgoing: 420,
                ask_every: 25,
            };
            assert_eq!(Hello::parse(&hello.encode()).unwrap(), hello);
        }
        assert!(Hello::parse(b"<iq/>").is_err());
        assert_eq!(frame(420).len(), 420);
    }
}
