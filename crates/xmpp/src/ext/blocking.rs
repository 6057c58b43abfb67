//! XEP-0191 v1.3: the addresses that a user has blocked, and the commands that change them.

use std::collections::BTreeSet;

use crate::jid::Jid;
use crate::ns;
use crate::stanza::error::{Condition, ErrorType, StanzaError};
use crate::xml::Element;

/// The addresses that a user has blocked (§3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList(BTreeSet<Jid>);

/// A command that changes the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Blocks these addresses (§3.3).
    Block(Vec<Jid>),
    /// Takes these addresses off the list (§3.4); if there are none, all (§3.5).
    Unblock(Vec<Jid>),
}

impl Command {
    /// Reads a `<block/>` or `<unblock/>`.
    ///
    /// # Errors
    /// `bad-request` if a `<block/>` names no address, and `jid-malformed` if an address is none (§3.3).
    pub fn read(payload: &Element) -> Result<Command, (Condition, String)> {
        let mut addresses = Vec::new();
        let items = payload.children().filter(|c| c.is("item", ns::BLOCKING));
        for item in items {
            let Some(text) = item.attr("jid") else {
                let text = "an item has the attribute jid";
                return Err((Condition::BadRequest, text.to_owned()));
            };
            let address = Jid::parse(text).map_err(|error| {
                let text = format!("{text:?} is not a JID: {error}");
                (Condition::JidMalformed, text)
            })?;
            addresses.push(address);
        }
        if payload.name == "unblock" {
            return Ok(Command::Unblock(addresses));
        }
        if addresses.is_empty() {
            let text = "nothing to block: <block/> has an <item/> for each address";
            return Err((Condition::BadRequest, text.to_owned()));
        }
        Ok(Command::Block(addresses))
    }

    /// The command as the server tells it to the user's clients (§3.3, §3.4, §3.5).
    pub fn to_element(&self) -> Element {
        let (name, addresses) = match self {
            Command::Block(addresses) => ("block", addresses),
            Command::Unblock(addresses) => ("unblock", addresses),
        };
        with_items(name, addresses)
    }
}

impl BlockList {
    /// Does what a command says.
    pub fn apply(&mut self, command: &Command) {
        match command {
            Command::Block(addresses) => self.0.extend(addresses.iter().cloned()),
            Command::Unblock(addresses) if addresses.is_empty() => self.0.clear(),
            Command::Unblock(addresses) => {
                for address in addresses {
                    self.0.remove(address);
                }
            }
        }
    }

    /// Whether an address, or one that it is within, is blocked (§6).
    pub fn blocks(&self, address: &Jid) -> bool {
        let has = |local, resource| {
            let within = Jid::new(local, address.domain(), resource);
            within.is_ok_and(|within| self.0.contains(&within))
        };
        self.0.contains(address)
            || self.0.contains(&address.bare())
            || has(None, address.resource())
            || has(None, None)
    }

    /// The list as its user gets it (§3.2).
    pub fn to_element(&self) -> Element {
        with_items("blocklist", &self.0)
    }

    /// One address in each line: no JID has a line break. No bytes if no address is blocked.
    pub fn to_bytes(&self) -> Vec<u8> {
        let addresses: Vec<&str> = self.0.iter().map(Jid::as_str).collect();
        addresses.join("\n").into_bytes()
    }

    /// Reads what [`BlockList::to_bytes`] wrote.
    ///
    /// # Errors
    /// The line that is not a JID, and why.
    pub fn from_bytes(bytes: &[u8]) -> Result<BlockList, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let read = |line: &str| Jid::parse(line).map_err(|error| format!("{line:?}: {error}"));
        let addresses: Result<BTreeSet<Jid>, String> = text.lines().map(read).collect();
        Ok(BlockList(addresses?))
    }
}

/// The error for a stanza that a user sends to an address that it has blocked (§3.3).
pub fn blocked_error() -> StanzaError {
    StanzaError::new(Condition::NotAcceptable)
        .with_type(ErrorType::Cancel)
        .with_text("you have blocked this address")
        .with_app(Element::new("blocked", ns::BLOCKING_ERRORS))
}

fn with_items<'a>(name: &str, addresses: impl IntoIterator<Item = &'a Jid>) -> Element {
    let mut element = Element::new(name, ns::BLOCKING);
    for address in addresses {
        let item = Element::new("item", ns::BLOCKING).with_attr("jid", address.as_str());
        element.push(item);
    }
    element
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    fn command(xml: &str) -> Result<Command, (Condition, String)> {
        Command::read(&Element::parse(xml.as_bytes()).unwrap())
    }

    fn list(addresses: &[&str]) -> BlockList {
        BlockList(addresses.iter().map(|text| jid(text)).collect())
    }

    /// §3.3, §3.4, §3.5.
    #[test]
    fn commands_are_read_as_they_are_written() {
        let block = "<block xmlns='urn:xmpp:blocking'><item jid='Romeo@Montague.net'/></block>";
        let block = command(block).unwrap();
        assert_eq!(block, Command::Block(vec![jid("romeo@montague.net")]));
        for command in [
            block,
            Command::Unblock(vec![jid("a.b")]),
            Command::Unblock(vec![]),
        ] {
            assert_eq!(Command::read(&command.to_element()), Ok(command));
        }
    }

    /// §3.3.
    #[test]
    fn a_command_without_a_valid_address_is_refused() {
        let condition = |xml| command(xml).unwrap_err().0;
        let empty = "<block xmlns='urn:xmpp:blocking'><item jid='a@b' xmlns='urn:x'/></block>";
        assert_eq!(condition(empty), Condition::BadRequest);
        let without = "<block xmlns='urn:xmpp:blocking'><item/></block>";
        assert_eq!(condition(without), Condition::BadRequest);
        let malformed = "<unblock xmlns='urn:xmpp:blocking'><item jid='@b'/></unblock>";
        assert_eq!(condition(malformed), Condition::JidMalformed);
    }

    /// §6.
    #[test]
    fn addresses_match_in_four_ways() {
        let cases: [(&str, &[&str], &[&str]); 4] = [
            ("u@d/r", &["u@d/r"], &["u@d", "u@d/s", "d/r", "d", "v@d/r"]),
            ("u@d", &["u@d", "u@d/r"], &["d", "v@d", "d/r"]),
            ("d/r", &["d/r", "u@d/r"], &["d", "u@d", "d/s", "u@d/s"]),
            ("d", &["d", "d/r", "u@d", "u@d/r"], &["sub.d", "u@sub.d"]),
        ];
        for (blocked, within, others) in cases {
            let list = list(&[blocked]);
            for address in within {
                assert!(list.blocks(&jid(address)), "{blocked} blocks {address}");
                assert!(
                    jid(address).is_within(&jid(blocked)),
                    "{address} is within {blocked}"
                );
            }
            for address in others {
                assert!(
                    !list.blocks(&jid(address)),
                    "{blocked} does not block {address}"
                );
                assert!(
                    !jid(address).is_within(&jid(blocked)),
                    "{address} is not within {blocked}"
                );
            }
        }
    }

    #[test]
    fn a_list_of_another_program_is_an_error() {
        assert!(
            BlockList::from_bytes(b"a@b\n@")
                .unwrap_err()
                .starts_with("\"@\"")
        );
        assert!(BlockList::from_bytes(&[0xff]).is_err());
    }

    proptest! {
        #[test]
        fn a_list_survives_storage(texts in proptest::collection::vec("([a-z]{1,4}@)?[a-z]{1,5}(/[ -~]{1,6})?", 0..8)) {
            let addresses = texts.iter().filter_map(|text| Jid::parse(text).ok());
            let list = BlockList(addresses.collect());
            prop_assert_eq!(BlockList::from_bytes(&list.to_bytes()), Ok(list.clone()));
            let mut emptied = list;
            emptied.apply(&Command::Unblock(Vec::new()));
            prop_assert!(emptied.to_bytes().is_empty());
        }
    }
}
