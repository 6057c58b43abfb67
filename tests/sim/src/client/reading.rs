//! What a client does with each stanza that it receives.

use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::archive::ArchivePage;
use super::stanzas::{body_number, part, stanza_id};
use super::{Came, Client, Received, Socks, What, When};

impl Client {
    /// Reads a stanza.
    pub(super) fn read(&mut self, socks: &mut Socks, stanza: &Stanza, when: When) {
        let payload = String::from_utf8_lossy(&stanza.payload).into_owned();
        match stanza.kind {
            Kind::Message if payload.contains("<result") => {
                let query = part(&payload, "queryid='", "'").unwrap_or_default();
                let result = payload.split("<result").nth(1).unwrap_or_default();
                let id = part(result, " id='", "'").unwrap_or_default();
                self.login.results.entry(query).or_default().push(id);
            }
            Kind::Message => self.read_message(stanza, &payload, when),
            Kind::Presence => self.read_presence(stanza, &payload),
            Kind::Iq if matches!(stanza.type_.as_str(), "get" | "set") => {
                let reply = stanza.result_reply(None);
                self.send(socks, reply);
            }
            Kind::Iq => self.read_answer(stanza, &payload, when),
        }
    }

    /// Records a numbered stanza.
    fn record(&mut self, stanza: &Stanza, payload: &str, when: When, what: What, number: u64) {
        self.got.insert(number);
        self.log.push(Received {
            when,
            session: self.session_no,
            what,
            number,
            came: Came::of(stanza),
            stanza_id: stanza_id(payload).unwrap_or_default(),
            from: stanza.from.clone(),
        });
    }

    fn read_message(&mut self, stanza: &Stanza, payload: &str, when: When) {
        // An error may come without the body of the message that it is about.
        let named = || stanza.id.strip_prefix('m')?.parse().ok();
        let of_error = || stanza.is_error().then(named).flatten();
        let Some(number) = body_number(payload).or_else(of_error) else {
            return;
        };
        let what = if stanza.is_error() {
            What::Error
        } else if stanza.type_ == "groupchat" {
            What::Groupchat
        } else if payload.contains(ns::MAM) {
            return;
        } else if payload.contains(ns::CARBONS) {
            if payload.contains("<sent") {
                What::CarbonSent
            } else {
                What::CarbonReceived
            }
        } else if stanza.child(ns::MUC_USER, "x").is_some() {
            What::Invite
        } else {
            What::Message
        };
        self.record(stanza, payload, when, what, number);
        if what == What::Groupchat {
            self.heard.said(&stanza.from, number, Came::of(stanza));
        }
    }

    fn read_presence(&mut self, stanza: &Stanza, payload: &str) {
        let status = |code: &str| {
            [format!("code='{code}'"), format!("code=\"{code}\"")]
                .iter()
                .any(|status| payload.contains(status))
        };
        // XEP-0045: 110 is its own presence; with 303 it stays, under another nick.
        let (own, renamed) = (status("110"), status("303"));
        self.heard.presence(stanza, own, renamed);
        let address = stanza.from.split_once('/');
        if stanza.is_error() {
            // The room is not entered: storage was unavailable, for example.
            if let Some((room, _)) = address
                && self.login.rooms.get(room) == Some(&false)
            {
                self.login.rooms.remove(room);
            }
            return;
        }
        let Some((room, _)) = address.filter(|_| own && !renamed) else {
            return;
        };
        let login = &mut self.login;
        if stanza.type_.is_empty() {
            // A presence that was on its way when the client left does not bring it back in.
            if !login.leaving.contains(room) {
                login.rooms.insert(room.to_owned(), true);
            }
            return;
        }
        login.leaving.remove(room);
        if login.rooms.get(room) == Some(&true) {
            // While the client enters the room again, the room may still tell the end of its stay
            // before: that leaves the entry as it is.
            login.rooms.remove(room);
            login.rooms_settled.remove(room);
        }
    }

    /// Whether one of its own IQs has been answered.
    fn is_answered(&self, number: u64) -> bool {
        let mut log = self.log.iter();
        log.any(|got| got.what == What::Reply && got.number == number)
    }

    /// Reads the answer to one of its own IQs.
    fn read_answer(&mut self, stanza: &Stanza, payload: &str, when: When) {
        let number = stanza.id.strip_prefix('i').and_then(|n| n.parse().ok());
        let Some(number) = number else {
            return;
        };
        let unavailable = payload.contains("service-unavailable");
        if self.is_answered(number) && (unavailable || self.unavailable.contains(&number)) {
            // The session that was asked has ended, and its client, or a later one with its address, has answered.
            return;
        }
        if unavailable {
            self.unavailable.insert(number);
        }
        self.record(stanza, payload, when, What::Reply, number);
        if stanza.is_error() {
            self.refused.insert(number);
        }
        self.login.asking.remove(&number);
        let ids = self.login.results.remove(&number.to_string());
        if payload.contains("<fin") {
            let ids = ids.unwrap_or_default();
            self.pages.push(ArchivePage::new(ids, payload));
        }
    }
}
