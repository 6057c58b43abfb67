//! Rooms without a slot: what a room decides about each stanza.

#![allow(clippy::unwrap_used)]

use sestina_xmpp::stanza::error::StanzaError;

use super::*;
use crate::config::RouterLimits;
use crate::modules::MODULES;
use crate::services::Services;

const ROOM: &str = "garden@muc.c.example";

/// A room, and the stanzas of clients.
struct Garden {
    room: Room,
    seq: u64,
    config: RouterConfig,
    pipeline: Pipeline,
}

/// What a room has decided: the stanzas that each session gets, and the answer to the sender.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// (session, stanza)
    told: Vec<(u128, String)>,
    answer: Option<String>,
}

impl Seen {
    /// What a session gets.
    fn of(&self, session: u128) -> Vec<&str> {
        let own = self.told.iter().filter(|(to, _)| *to == session);
        own.map(|(_, stanza)| stanza.as_str()).collect()
    }
}

impl Garden {
    fn new() -> Garden {
        Garden::with(RouterLimits::default())
    }

    fn with(limits: RouterLimits) -> Garden {
        Garden {
            room: Room::new(Jid::from_wire(ROOM)),
            seq: 0,
            config: RouterConfig {
                services: Services::default().with_host("c.example", true),
                limits,
                ..RouterConfig::default()
            },
            pipeline: Pipeline::new(MODULES),
        }
    }

    /// A session sends a stanza; its user has the same number.
    fn hears(&mut self, session: u128, to: &str, stanza: Stanza) -> Seen {
        let jid = Jid::from_wire(&format!("user{session}@c.example/home"));
        self.hears_from(session, jid, to, stanza)
    }

    fn hears_from(&mut self, session: u128, jid: Jid, to: &str, mut stanza: Stanza) -> Seen {
        self.seq += 1;
        let environment = Environment {
            seq: self.seq,
            identity: 7,
            wall_ms: 1_000_000 + i64::try_from(self.seq).unwrap(),
            config: &self.config,
            pipeline: &self.pipeline,
        };
        stanza.from = jid.as_str().to_owned();
        stanza.to = to.to_owned();
        let origin = Origin {
            session,
            home: Home(1),
            jid,
            ended: false,
        };
        let to = Jid::from_wire(to);
        match self.room.stanza(environment, origin, &to, stanza) {
            Decision::Ignored => Seen::default(),
            Decision::Answered(answer) => Seen {
                told: Vec::new(),
                answer: Some(brief(&answer)),
            },
            Decision::Happens(broadcast, answer) => Seen {
                told: told(&broadcast),
                answer: answer.as_ref().map(brief),
            },
            Decision::Enters(_, broadcast) => Seen {
                told: told(&broadcast),
                answer: None,
            },
            Decision::Sends(_, stanzas) => Seen {
                told: Vec::new(),
                answer: Some(stanzas.iter().map(sent).collect::<Vec<_>>().join(", ")),
            },
            Decision::ForModules(_, stanza) => Seen {
                told: Vec::new(),
                answer: Some(format!("for modules: {}", brief(&stanza))),
            },
        }
    }

    fn enters(&mut self, session: u128, nick: &str) -> Seen {
        let mut presence = Stanza::new(Kind::Presence);
        presence.push_element(&Element::new("x", ns::MUC));
        self.hears(session, &format!("{ROOM}/{nick}"), presence)
    }

    fn leaves(&mut self, session: u128, nick: &str) -> Seen {
        let mut presence = Stanza::new(Kind::Presence);
        presence.type_ = "unavailable".to_owned();
        self.hears(session, &format!("{ROOM}/{nick}"), presence)
    }

    fn says(&mut self, session: u128, child: &str, text: &str) -> Seen {
        let mut message = Stanza::new(Kind::Message);
        message.type_ = "groupchat".to_owned();
        message.push_element(&Element::new(child, ns::CLIENT).with_text(text));
        self.hears(session, ROOM, message)
    }

    fn asks(&mut self, session: u128, what: &str, to: &[&str]) -> Option<String> {
        let mut message = Stanza::new(Kind::Message);
        let mut x = Element::new("x", ns::MUC_USER);
        for to in to {
            x.push(Element::new(what, ns::MUC_USER).with_attr("to", *to));
        }
        message.push_element(&x);
        self.hears(session, ROOM, message).answer
    }

    fn owner_iq(&mut self, session: u128, type_: &str, form: Option<&str>) -> Seen {
        let mut iq = Stanza::new(Kind::Iq);
        iq.type_ = type_.to_owned();
        let mut query = Element::new("query", ns::MUC_OWNER);
        if let Some(type_) = form {
            query.push(Element::new("x", ns::DATA_FORM).with_attr("type", type_));
        }
        iq.push_element(&query);
        self.hears(session, ROOM, iq)
    }
}

fn told(broadcast: &Broadcast) -> Vec<(u128, String)> {
    let told = broadcast.targets.iter().map(|target| {
        let variant = &broadcast.variants[target.variant as usize];
        (target.session, brief(&Stanza::from((**variant).clone())))
    });
    told.collect()
}

/// The addressee of an invitation or its refusal, and whom it is from.
fn sent(stanza: &Stanza) -> String {
    let x = stanza.element(ns::MUC_USER, "x").unwrap();
    let child = x.children().next().unwrap();
    let from = child.attr("from").unwrap_or_default();
    format!("{} to {} from {from}", child.name, stanza.to)
}

/// Type, nick and what tells a test most: status codes, the text, or the error.
fn brief(stanza: &Stanza) -> String {
    let nick = stanza.from.split_once('/').map_or("", |(_, nick)| nick);
    let mut words = vec![stanza.type_.clone(), nick.to_owned()];
    if let Some(x) = stanza.element(ns::MUC_USER, "x") {
        let item = x.child("item", ns::MUC_USER);
        words.extend(item.and_then(|item| item.attr("role")).map(str::to_owned));
        let statuses = x.children().filter(|c| c.name == "status");
        words.extend(statuses.filter_map(|s| s.attr("code")).map(str::to_owned));
    }
    for name in ["subject", "body"] {
        let text = stanza.element(ns::CLIENT, name);
        words.extend(text.map(|text| format!("{name}={}", text.text())));
    }
    if let Some(error) = stanza.element(ns::CLIENT, "error") {
        words.push(
            StanzaError::from_element(&error)
                .condition
                .name()
                .to_owned(),
        );
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

#[test]
fn the_first_session_founds_the_room_and_the_next_one_sees_it() {
    let mut garden = Garden::new();
    let founded = garden.enters(1, "juliet");
    assert_eq!(
        founded.of(1),
        ["juliet moderator 110 201", "groupchat subject="]
    );
    let second = garden.enters(2, "romeo");
    assert_eq!(second.of(1), ["romeo participant"]);
    let expected = [
        "juliet moderator",
        "romeo participant 110",
        "groupchat subject=",
    ];
    assert_eq!(second.of(2), expected);
}

#[test]
fn a_nick_of_another_user_is_refused_in_any_case_and_the_own_one_is_shared() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    let answer = garden.enters(2, "JULIET").answer;
    assert_eq!(answer.as_deref(), Some("error JULIET conflict"));
    let mut presence = Stanza::new(Kind::Presence);
    presence.push_element(&Element::new("x", ns::MUC));
    let phone = Jid::from_wire("user1@c.example/phone");
    let seen = garden.hears_from(3, phone, &format!("{ROOM}/juliet"), presence);
    assert_eq!(seen.answer, None);
    assert_eq!(
        (garden.room.occupant_count(), garden.room.session_count()),
        (1, 2)
    );
}

#[test]
fn a_full_room_takes_no_further_session_and_lets_one_that_is_in_enter_again() {
    let mut garden = Garden::with(RouterLimits {
        max_room_occupants: 1,
        ..RouterLimits::default()
    });
    garden.enters(1, "juliet");
    let refused = garden.enters(2, "romeo").answer;
    assert_eq!(refused.as_deref(), Some("error romeo service-unavailable"));
    let again = garden.enters(1, "juliet");
    assert_eq!(again.of(1), ["juliet moderator 110", "groupchat subject="]);
}

#[test]
fn newcomers_get_the_history_and_then_the_subject() {
    let mut garden = Garden::with(RouterLimits {
        room_history: 2,
        ..RouterLimits::default()
    });
    garden.enters(1, "juliet");
    garden.says(1, "subject", "balcony");
    for text in ["one", "two", "three"] {
        let said = garden.says(1, "body", text);
        assert_eq!(said.of(1), [format!("groupchat juliet body={text}")]);
    }
    let seen = garden.enters(2, "romeo");
    let expected = [
        "juliet moderator",
        "romeo participant 110",
        "groupchat juliet body=two",
        "groupchat juliet body=three",
        "groupchat juliet subject=balcony",
    ];
    assert_eq!(seen.of(2), expected);
}

#[test]
fn participants_do_not_change_the_subject_and_strangers_do_not_speak() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    garden.enters(2, "romeo");
    let refused = garden.says(2, "subject", "balcony").answer;
    assert_eq!(refused.as_deref(), Some("error forbidden"));
    assert!(garden.room.subject().is_none());
    let refused = garden.says(3, "body", "hello").answer;
    assert_eq!(refused.as_deref(), Some("error not-acceptable"));
    assert_eq!(garden.room.history().count(), 0);
}

#[test]
fn an_occupant_that_leaves_is_seen_leaving_and_the_room_is_empty_after_the_last() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    garden.enters(2, "romeo");
    let left = garden.leaves(1, "juliet");
    assert_eq!(left.of(1), ["unavailable juliet none 110"]);
    assert_eq!(left.of(2), ["unavailable juliet none"]);
    assert!(!garden.room.is_empty());
    garden.leaves(2, "romeo");
    assert!(garden.room.is_empty());
    assert_eq!(garden.leaves(2, "romeo"), Seen::default());
}

#[test]
fn an_owner_takes_a_new_room_back_and_not_one_that_is_accepted() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    let options = garden.owner_iq(1, "get", None);
    assert_eq!(options.answer.as_deref(), Some("result"));
    let refused = garden.owner_iq(2, "get", None);
    assert_eq!(refused.answer.as_deref(), Some("error forbidden"));
    let cancelled = garden.owner_iq(1, "set", Some("cancel"));
    assert_eq!(cancelled.answer.as_deref(), Some("result"));
    assert_eq!(cancelled.of(1), ["unavailable juliet none 110"]);
    assert!(garden.room.is_empty());

    garden.enters(1, "juliet");
    garden.owner_iq(1, "set", Some("submit"));
    garden.owner_iq(1, "set", Some("cancel"));
    assert!(!garden.room.is_empty());
}

#[test]
fn an_iq_that_needs_no_room_is_left_to_modules() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    let mut ping = Stanza::new(Kind::Iq);
    ping.type_ = "get".to_owned();
    ping.push_element(&Element::new("ping", ns::PING));
    let seen = garden.hears(1, ROOM, ping.clone());
    assert_eq!(seen.answer.as_deref(), Some("for modules: get home"));
    // XEP-0410 §3.1: an occupant that pings itself is in the room.
    let seen = garden.hears(1, &format!("{ROOM}/juliet"), ping.clone());
    assert_eq!(seen.answer.as_deref(), Some("result juliet"));
    let seen = garden.hears(2, &format!("{ROOM}/juliet"), ping);
    assert_eq!(seen.answer.as_deref(), Some("error juliet not-acceptable"));
}

#[test]
fn a_stanza_to_a_room_that_does_not_exist_is_refused_unless_it_is_an_answer() {
    let to = Jid::from_wire(ROOM);
    let refusal = |kind: Kind, type_: &str| {
        let mut stanza = Stanza::new(kind);
        stanza.type_ = type_.to_owned();
        match Room::absent(&to, &stanza) {
            Decision::Answered(answer) => Some(brief(&answer)),
            _ => None,
        }
    };
    let not_found = Some("error item-not-found".to_owned());
    assert_eq!(refusal(Kind::Iq, "get"), not_found);
    assert_eq!(refusal(Kind::Message, "groupchat"), not_found);
    assert_eq!(refusal(Kind::Message, "chat"), not_found);
    assert_eq!(refusal(Kind::Iq, "result"), None);
    assert_eq!(refusal(Kind::Message, "error"), None);
}

#[test]
fn occupants_invite_users_and_each_user_of_a_message_once() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    let invited = ["nurse@c.example", "nurse@c.example/home", "paris@c.example"];
    let sent = garden.asks(1, "invite", &invited);
    let expected = "invite to nurse@c.example from user1@c.example, \
        invite to paris@c.example from user1@c.example";
    assert_eq!(sent.as_deref(), Some(expected));
    let refused = garden.asks(2, "invite", &["nurse@c.example"]);
    assert_eq!(refused.as_deref(), Some("error not-acceptable"));
    for nobody in ["nurse@elsewhere.example", "c.example", ROOM] {
        let refused = garden.asks(1, "invite", &[nobody]);
        assert_eq!(refused.as_deref(), Some("error item-not-found"), "{nobody}");
    }
    let refused = garden.asks(1, "invite", &["@"]);
    assert_eq!(refused.as_deref(), Some("error jid-malformed"));
    let refused = garden.asks(1, "invite", &["nurse@c.example"; 21]);
    assert_eq!(refused.as_deref(), Some("error policy-violation"));
    let refused = garden.asks(1, "other", &["nurse@c.example"]);
    assert_eq!(refused.as_deref(), Some("error bad-request"));
}

#[test]
fn a_refusal_goes_to_an_occupant_and_to_no_other_user() {
    let mut garden = Garden::new();
    garden.enters(1, "juliet");
    let sent = "decline to user1@c.example from user2@c.example";
    let answer = garden.asks(2, "decline", &["user1@c.example"]);
    assert_eq!(answer.as_deref(), Some(sent));
    let answer = garden.asks(2, "decline", &[&format!("{ROOM}/juliet")]);
    assert_eq!(answer.as_deref(), Some(sent));
    let refused = garden.asks(2, "decline", &["user3@c.example"]);
    assert_eq!(refused.as_deref(), Some("error item-not-found"));
}
