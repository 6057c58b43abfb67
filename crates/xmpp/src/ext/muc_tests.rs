#![allow(clippy::unwrap_used)]

use super::super::testing::{element, stanza, text};
use super::*;

fn join(presence: &str) -> Option<Join> {
    Join::parse(&stanza(presence))
}

fn history(attributes: &str) -> HistoryLimits {
    let xml = format!(
        "<presence to='coven@chat.shakespeare.lit/thirdwitch'>\
         <x xmlns='http://jabber.org/protocol/muc'><history {attributes}/></x></presence>"
    );
    let join = join(&xml).unwrap();
    assert_eq!(Join::parse(&stanza_with(&join)), Some(join.clone()));
    join.history
}

fn stanza_with(join: &Join) -> Stanza {
    let mut presence = Stanza::new(Kind::Presence);
    presence.push_element(&join.to_element());
    presence
}

/// §7.2.1 and §7.2.6.
#[test]
fn joins() {
    let x = "<x xmlns='http://jabber.org/protocol/muc'/>";
    assert_eq!(
        join(&format!("<presence>{x}</presence>")),
        Some(Join::default())
    );
    assert_eq!(join("<presence/>"), None);
    assert_eq!(
        join(&format!("<presence type='unavailable'>{x}</presence>")),
        None
    );
    assert_eq!(join(&format!("<message>{x}</message>")), None);
    let with_password = join(
        "<presence><x xmlns='http://jabber.org/protocol/muc'>\
         <password>cauldronburn</password></x></presence>",
    )
    .unwrap();
    assert_eq!(with_password.password.as_deref(), Some("cauldronburn"));
    assert_eq!(
        Join::parse(&stanza_with(&with_password)),
        Some(with_password)
    );
}

/// §7.2.14.
#[test]
fn history_limits() {
    let none = HistoryLimits::default();
    assert_eq!(history("maxchars='65000'").maxchars, Some(65_000));
    assert_eq!(
        history("maxchars='0'"),
        HistoryLimits {
            maxchars: Some(0),
            ..none
        }
    );
    assert_eq!(
        history("maxstanzas='20'"),
        HistoryLimits {
            maxstanzas: Some(20),
            ..none
        }
    );
    assert_eq!(
        history("seconds='180'"),
        HistoryLimits {
            seconds: Some(180),
            ..none
        }
    );
    let since = HistoryLimits {
        since_ms: Some(0),
        ..none
    };
    assert_eq!(history("since='1970-01-01T00:00:00Z'"), since);
    assert_eq!(
        history("maxstanzas='-1' seconds='x' since='x' maxchars=''"),
        none
    );
}

/// After §7.2.2, example 24, and §8.2.
#[test]
fn user_info() {
    let own =
        Item::new(Affiliation::Member, Role::Participant).with_jid("hag66@shakespeare.lit/pda");
    let own = UserInfo::item(own)
        .with_status(status::NON_ANONYMOUS)
        .with_status(status::SELF);
    assert_eq!(
        text(&own.to_element()),
        "<x xmlns='http://jabber.org/protocol/muc#user'>\
         <item affiliation='member' role='participant' jid='hag66@shakespeare.lit/pda'/>\
         <status code='100'/><status code='110'/></x>"
    );
    let mut kicked = Item::new(Affiliation::None, Role::None);
    kicked.actor_nick = Some("Fluellen".to_owned());
    kicked.reason = Some("Avaunt, you cullion!".to_owned());
    kicked.nick = Some("pistol".to_owned());
    let kicked = UserInfo::item(kicked).with_status(status::KICKED);
    assert_eq!(
        text(&kicked.to_element()),
        "<x xmlns='http://jabber.org/protocol/muc#user'>\
         <item affiliation='none' role='none' nick='pistol'><actor nick='Fluellen'/>\
         <reason>Avaunt, you cullion!</reason></item><status code='307'/></x>"
    );
    let destroyed = UserInfo {
        destroy: Some(Destroy {
            jid: Some("coven@chat.shakespeare.lit".to_owned()),
            password: Some("p".to_owned()),
            reason: Some("Macbeth doth come.".to_owned()),
        }),
        ..UserInfo::item(Item::new(Affiliation::None, Role::None))
    };
    for info in [
        own,
        kicked,
        destroyed,
        UserInfo::status(104),
        UserInfo::default(),
    ] {
        assert_eq!(UserInfo::parse(&info.to_element()), Some(info));
    }
    let bad = "<x xmlns='http://jabber.org/protocol/muc#user'><item role='king'/></x>";
    assert_eq!(UserInfo::parse(&element(bad)), None);
    assert_eq!(UserInfo::parse(&element("<x xmlns='urn:x'/>")), None);
}

#[test]
fn ranks() {
    assert!(Affiliation::Owner > Affiliation::Admin && Affiliation::Admin > Affiliation::Member);
    assert!(Affiliation::Member > Affiliation::None && Affiliation::None > Affiliation::Outcast);
    assert!(Role::Moderator > Role::Participant && Role::Participant > Role::Visitor);
    assert!(Role::Visitor > Role::None);
    assert_eq!(
        Affiliation::parse("admin").map(Affiliation::name),
        Some("admin")
    );
    assert_eq!(Role::parse("owner"), None);
}

/// XEP-0359 §3, XEP-0421 §4, XEP-0203: elements that an occupant must not send in the room's name.
#[test]
fn only_rooms_say_this() {
    let said = stanza(
        "<message to='garden@muc.example.org/Juliet'><body>1</body>\
         <x xmlns='http://jabber.org/protocol/muc#user'/>\
         <occupant-id xmlns='urn:xmpp:occupant-id:0' id='2'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='Garden@muc.example.org' id='3'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='4'/>\
         <origin-id xmlns='urn:xmpp:sid:0' id='5'/>\
         <delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25Z'/>\
         <delay xmlns='urn:xmpp:delay' from='garden@muc.example.org' stamp='2002-09-10T23:08:25Z'/>\
         <delay xmlns='urn:xmpp:delay' from='garden@muc.example.org/R' stamp='2002-09-10T23:08:25Z'/>\
         <delay xmlns='urn:xmpp:delay' from='juliet@example.org' stamp='2002-09-10T23:08:25Z'/>\
         <x xmlns='jabber:x:delay' from='garden@muc.example.org' stamp='20020910T23:08:25'/></message>",
    );
    let kept: Vec<&str> = said
        .children()
        .filter(|child| !is_said_by_rooms(child, "garden@muc.example.org"))
        .map(|child| std::str::from_utf8(child.xml).unwrap())
        .collect();
    assert_eq!(
        kept,
        [
            "<body>1</body>",
            "<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='4'/>",
            "<origin-id xmlns='urn:xmpp:sid:0' id='5'/>",
            "<delay xmlns='urn:xmpp:delay' from='juliet@example.org' stamp='2002-09-10T23:08:25Z'/>",
        ]
    );
}
