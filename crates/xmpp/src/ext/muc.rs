//! XEP-0045 v1.35.5: Multi-User Chat, joining and the messages of a room to its users only.
//!
//! Left out: the muc#admin and muc#owner requests. Invitations: [`super::muc_invite`].

use super::{datetime, stanza_id};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Child, Kind, Stanza};
use crate::xml::Element;

/// Codes of `<status/>` (§15.6.2).
pub mod status {
    /// Any occupant may see the user's full JID.
    pub const NON_ANONYMOUS: u16 = 100;
    /// This presence is that of its receiver.
    pub const SELF: u16 = 110;
    /// A new room was created.
    pub const CREATED: u16 = 201;
    /// The service assigned or changed the nickname.
    pub const NICK_ASSIGNED: u16 = 210;
    /// The occupant is banned.
    pub const BANNED: u16 = 301;
    /// The occupant has a new nickname.
    pub const NICK_CHANGED: u16 = 303;
    /// The occupant is kicked.
    pub const KICKED: u16 = 307;
    /// The occupant is removed for a technical problem.
    pub const REMOVED_ERROR: u16 = 333;
}

/// Whether only the room itself may send such a child in a stanza: information about occupants
/// (`muc#user`, and XEP-0421), its id for the stanza (XEP-0359 §3), and its delay (XEP-0203; a
/// delay that names no entity counts as the room's).
pub fn is_said_by_rooms(child: &Child<'_>, room: &str) -> bool {
    match child.ns {
        ns::MUC_USER => true,
        ns::OCCUPANT_ID => child.name == "occupant-id",
        ns::STANZA_ID => stanza_id::is_void(child, room),
        ns::DELAY | ns::LEGACY_DELAY => Element::parse(child.xml).is_ok_and(|delay| {
            let by = delay.attr("from").map(Jid::parse);
            by.is_none_or(|by| by.is_ok_and(|by| by.bare_str() == room))
        }),
        _ => false,
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$item:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$item])* $variant,)*
        }

        impl $type {
            /// The value of the attribute.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }

            /// The variant of that name.
            pub fn parse(name: &str) -> Option<$type> {
                match name {
                    $($name => Some($type::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    /// A long-lived relation to a room, in ascending order (§5.2).
    Affiliation {
        /// Banned.
        Outcast = "outcast",
        /// None.
        None = "none",
        /// Member.
        Member = "member",
        /// Administrator.
        Admin = "admin",
        /// Owner.
        Owner = "owner",
    }
}

names! {
    /// The rights of an occupant at present, in ascending order (§5.1).
    Role {
        /// Not in the room.
        None = "none",
        /// May not speak in a moderated room.
        Visitor = "visitor",
        /// May speak.
        Participant = "participant",
        /// May moderate.
        Moderator = "moderator",
    }
}

/// The limits of the requested history (§7.2.14); all of them apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryLimits {
    /// The most characters of XML; 0: no history.
    pub maxchars: Option<u64>,
    /// The most messages.
    pub maxstanzas: Option<u64>,
    /// Only messages of the last seconds.
    pub seconds: Option<u64>,
    /// Only messages since this moment, in Unix milliseconds.
    pub since_ms: Option<i64>,
}

/// The payload of a client's join (§7.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    /// The room's password (§7.2.6).
    pub password: Option<String>,
    /// Limits of the history.
    pub history: HistoryLimits,
}

impl Join {
    /// Parses the `<x/>` of a presence; without it, the presence is no join (§7.2.1) and the result
    /// is `None`. A limit that is no number or date is ignored.
    pub fn parse(presence: &Stanza) -> Option<Join> {
        if presence.kind != Kind::Presence || !presence.type_.is_empty() {
            return None;
        }
        let x = presence.element(ns::MUC, "x")?;
        let mut join = Join {
            password: x.child("password", ns::MUC).map(Element::text),
            ..Join::default()
        };
        if let Some(history) = x.child("history", ns::MUC) {
            let number = |name| history.attr(name)?.trim().parse().ok();
            join.history = HistoryLimits {
                maxchars: number("maxchars"),
                maxstanzas: number("maxstanzas"),
                seconds: number("seconds"),
                since_ms: history.attr("since").and_then(datetime::parse),
            };
        }
        Some(join)
    }

    /// Builds `<x/>`.
    pub fn to_element(&self) -> Element {
        let mut x = Element::new("x", ns::MUC);
        if let Some(password) = &self.password {
            x.push(Element::new("password", ns::MUC).with_text(password.as_str()));
        }
        if self.history != HistoryLimits::default() {
            let mut history = Element::new("history", ns::MUC);
            let limits = &self.history;
            for (name, limit) in [
                ("maxchars", limits.maxchars),
                ("maxstanzas", limits.maxstanzas),
                ("seconds", limits.seconds),
            ] {
                if let Some(limit) = limit {
                    history.set_attr(name, limit.to_string());
                }
            }
            if let Some(since) = limits.since_ms {
                history.set_attr("since", datetime::format(since));
            }
            x.push(history);
        }
        x
    }
}

/// Information about an occupant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Relation to the room.
    pub affiliation: Affiliation,
    /// Rights at present.
    pub role: Role,
    /// Real full JID, for receivers that may see it.
    pub jid: Option<String>,
    /// New nickname, or the reserved one.
    pub nick: Option<String>,
    /// Nickname of the occupant that acted (§8.2).
    pub actor_nick: Option<String>,
    /// The reason, for people.
    pub reason: Option<String>,
}

impl Item {
    /// An item with affiliation and role only.
    pub fn new(affiliation: Affiliation, role: Role) -> Item {
        Item {
            affiliation,
            role,
            jid: None,
            nick: None,
            actor_nick: None,
            reason: None,
        }
    }

    /// The same item with a real JID.
    #[must_use]
    pub fn with_jid(mut self, jid: impl Into<String>) -> Item {
        self.jid = Some(jid.into());
        self
    }

    fn to_element(&self) -> Element {
        let mut item = Element::new("item", ns::MUC_USER)
            .with_attr("affiliation", self.affiliation.name())
            .with_attr("role", self.role.name());
        if let Some(jid) = &self.jid {
            item.set_attr("jid", jid.as_str());
        }
        if let Some(nick) = &self.nick {
            item.set_attr("nick", nick.as_str());
        }
        if let Some(nick) = &self.actor_nick {
            item.push(Element::new("actor", ns::MUC_USER).with_attr("nick", nick.as_str()));
        }
        if let Some(reason) = &self.reason {
            item.push(Element::new("reason", ns::MUC_USER).with_text(reason.as_str()));
        }
        item
    }

    fn parse(item: &Element) -> Option<Item> {
        let attribute = |name| item.attr(name).map(str::to_owned);
        let actor = item.child("actor", ns::MUC_USER);
        Some(Item {
            affiliation: Affiliation::parse(item.attr("affiliation").unwrap_or("none"))?,
            role: Role::parse(item.attr("role").unwrap_or("none"))?,
            jid: attribute("jid"),
            nick: attribute("nick"),
            actor_nick: actor
                .and_then(|actor| actor.attr("nick"))
                .map(str::to_owned),
            reason: item.child("reason", ns::MUC_USER).map(Element::text),
        })
    }
}

/// A room's end (§10.9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Another room, to be joined instead.
    pub jid: Option<String>,
    /// That room's password.
    pub password: Option<String>,
    /// The reason, for people.
    pub reason: Option<String>,
}

/// The `<x/>` of muc#user, which a room adds to a presence or message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// About the occupant.
    pub item: Option<Item>,
    /// Status codes, in order.
    pub statuses: Vec<u16>,
    /// The room was destroyed.
    pub destroy: Option<Destroy>,
}

impl UserInfo {
    /// With an item only.
    pub fn item(item: Item) -> UserInfo {
        UserInfo {
            item: Some(item),
            ..UserInfo::default()
        }
    }

    /// With a status code only.
    pub fn status(code: u16) -> UserInfo {
        UserInfo {
            statuses: vec![code],
            ..UserInfo::default()
        }
    }

    /// The same with one more status code.
    #[must_use]
    pub fn with_status(mut self, code: u16) -> UserInfo {
        self.statuses.push(code);
        self
    }

    /// Builds `<x/>`.
    pub fn to_element(&self) -> Element {
        let mut x = Element::new("x", ns::MUC_USER);
        if let Some(item) = &self.item {
            x.push(item.to_element());
        }
        if let Some(destroy) = &self.destroy {
            let mut element = Element::new("destroy", ns::MUC_USER);
            if let Some(jid) = &destroy.jid {
                element.set_attr("jid", jid.as_str());
            }
            for (name, text) in [("password", &destroy.password), ("reason", &destroy.reason)] {
                if let Some(text) = text {
                    element.push(Element::new(name, ns::MUC_USER).with_text(text.as_str()));
                }
            }
            x.push(element);
        }
        for code in &self.statuses {
            x.push(Element::new("status", ns::MUC_USER).with_attr("code", code.to_string()));
        }
        x
    }

    /// Parses `<x/>`; `None` if it is another element or its item is invalid.
    pub fn parse(x: &Element) -> Option<UserInfo> {
        if !x.is("x", ns::MUC_USER) {
            return None;
        }
        let destroy = |element: &Element| {
            let text = |name| element.child(name, ns::MUC_USER).map(Element::text);
            Destroy {
                jid: element.attr("jid").map(str::to_owned),
                password: text("password"),
                reason: text("reason"),
            }
        };
        Some(UserInfo {
            item: match x.child("item", ns::MUC_USER) {
                Some(item) => Some(Item::parse(item)?),
                None => None,
            },
            statuses: x
                .children()
                .filter(|child| child.is("status", ns::MUC_USER))
                .filter_map(|status| status.attr("code")?.parse().ok())
                .collect(),
            destroy: x.child("destroy", ns::MUC_USER).map(destroy),
        })
    }
}

#[cfg(test)]
#[path = "muc_tests.rs"]
mod tests;
