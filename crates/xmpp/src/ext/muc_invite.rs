//! XEP-0045 v1.35.5 §7.8.2: invitations to a room that the room passes on, and their refusals.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// What a room is asked to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mediation {
    /// `<invite/>`: an occupant invites a user.
    Invite,
    /// `<decline/>`: a user refuses an invitation.
    Decline,
}

impl Mediation {
    fn name(self) -> &'static str {
        match self {
            Mediation::Invite => "invite",
            Mediation::Decline => "decline",
        }
    }
}

/// An invitation or its refusal, in a message to a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mediated {
    /// Which of the two.
    pub mediation: Mediation,
    /// The user that it is for; none if the address is missing or invalid.
    pub to: Option<Jid>,
    /// Reason and other children.
    children: Vec<Element>,
}

impl Mediated {
    /// All that a message asks the room to pass on, in order; nothing if the message is of another kind.
    pub fn parse(message: &Stanza) -> Vec<Mediated> {
        if message.kind != Kind::Message || !matches!(message.type_.as_str(), "" | "normal") {
            return Vec::new();
        }
        let Some(x) = message.element(ns::MUC_USER, "x") else {
            return Vec::new();
        };
        let all = x.children().filter_map(|child| {
            let both = [Mediation::Invite, Mediation::Decline];
            let mediation = both.into_iter();
            let mut mediation = mediation.filter(|m| child.is(m.name(), ns::MUC_USER));
            Some(Mediated {
                mediation: mediation.next()?,
                to: child.attr("to").and_then(|to| Jid::parse(to).ok()),
                children: child.children().cloned().collect(),
            })
        });
        all.collect()
    }

    /// `<x/>` as the room sends it, from this user.
    pub fn passed_on(&self, from: &Jid) -> Element {
        let mut element = Element::new(self.mediation.name(), ns::MUC_USER);
        element.set_attr("from", from.as_str());
        for child in &self.children {
            element.push(child.clone());
        }
        Element::new("x", ns::MUC_USER).with_child(element)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    const INVITE: &str = "<message to='coven@chat.shakespeare.lit'>\
        <x xmlns='http://jabber.org/protocol/muc#user'>\
        <invite to='hecate@shakespeare.lit'><reason>Hey</reason></invite>\
        <invite to='@'/></x></message>";

    #[test]
    fn an_invitation_is_passed_on_with_its_sender_and_its_reason() {
        let all = Mediated::parse(&stanza(INVITE));
        assert_eq!(all.len(), 2);
        let to = all[0].to.as_ref().map(Jid::as_str);
        assert_eq!(to, Some("hecate@shakespeare.lit"));
        let from = Jid::parse("crone1@shakespeare.lit").unwrap();
        let expected = "<x xmlns='http://jabber.org/protocol/muc#user'>\
            <invite from='crone1@shakespeare.lit'><reason>Hey</reason></invite></x>";
        let expected = Element::parse(expected.as_bytes()).unwrap();
        assert_eq!(all[0].passed_on(&from), expected);
    }

    #[test]
    fn an_invalid_address_is_none() {
        let all = Mediated::parse(&stanza(INVITE));
        assert_eq!(all[1].to, None);
    }

    #[test]
    fn a_message_of_another_type_asks_for_nothing() {
        let chat = INVITE.replace("<message ", "<message type='groupchat' ");
        assert!(Mediated::parse(&stanza(&chat)).is_empty());
    }
}
