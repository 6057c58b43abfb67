//! Reads the client's own archive page by page (XEP-0313 with XEP-0059).

use anyhow::{Context as _, Result, bail};

use super::stream::condition;
use crate::xml::tree::{Element, escape};

const MAM: &str = "urn:xmpp:mam:2";
const RSM: &str = "http://jabber.org/protocol/rsm";
const FORWARD: &str = "urn:xmpp:forward:0";
const CLIENT: &str = "jabber:client";

/// The part of the archive to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All messages, from the oldest.
    All,
    /// The last page only.
    Last,
}

/// A message of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id in the archive.
    pub id: String,
    /// The body.
    pub body: String,
}

/// A query that is under way.
#[derive(Debug)]
pub struct Query {
    id: String,
    websocket: bool,
    part: Part,
    page: u32,
    round: u32,
    items: Vec<Item>,
}

/// The meaning of an element for a query.
#[derive(Debug)]
pub enum Progress {
    /// The element does not belong to the query.
    NotMine,
    /// The element belongs to it, and the page is not complete.
    More,
    /// The next request to send.
    Ask(Vec<u8>),
    /// Complete.
    Done(Vec<Item>),
}

impl Query {
    /// A query and its first request. `id` must be unique on the stream.
    #[must_use]
    pub fn start(id: &str, websocket: bool, part: Part, page: u32) -> (Self, Vec<u8>) {
        let query = Self {
            id: id.to_owned(),
            websocket,
            part,
            page,
            round: 0,
            items: Vec::new(),
        };
        let request = query.request(None);
        (query, request)
    }

    fn round_id(&self) -> String {
        format!("{}-{}", self.id, self.round)
    }

    fn request(&self, after: Option<&str>) -> Vec<u8> {
        let position = match (self.part, after) {
            (Part::Last, _) => "<before/>".to_owned(),
            (Part::All, Some(after)) => format!("<after>{}</after>", escape(after)),
            (Part::All, None) => String::new(),
        };
        let ns = if self.websocket {
            " xmlns='jabber:client'"
        } else {
            ""
        };
        let id = self.round_id();
        format!(
            "<iq{ns} type='set' id='{id}'><query xmlns='{MAM}' queryid='{id}'>\
             <set xmlns='{RSM}'><max>{}</max>{position}</set></query></iq>",
            self.page
        )
        .into_bytes()
    }

    /// Handles an incoming element.
    ///
    /// # Errors
    /// When the server answers with an error.
    pub fn incoming(&mut self, element: &Element) -> Result<Progress> {
        let id = self.round_id();
        if element.name == "message" {
            let Some(result) = element.child("result", MAM) else {
                return Ok(Progress::NotMine);
            };
            if result.attribute("queryid") != Some(&id) {
                return Ok(Progress::NotMine);
            }
            let archived = result
                .attribute("id")
                .context("an archive result without id")?;
            let body = result
                .child("forwarded", FORWARD)
                .and_then(|forwarded| forwarded.child("message", CLIENT))
                .and_then(|message| message.child("body", CLIENT))
                .map(|body| body.text.clone())
                .unwrap_or_default();
            self.items.push(Item {
                id: archived.to_owned(),
                body,
            });
            return Ok(Progress::More);
        }
        if element.name != "iq" || element.attribute("id") != Some(&id) {
            return Ok(Progress::NotMine);
        }
        if element.attribute("type") != Some("result") {
            let error = element.child("error", CLIENT);
            bail!(
                "the archive answered with an error: {}",
                error.map_or_else(|| "no reason given".to_owned(), condition)
            );
        }
        let fin = element
            .child("fin", MAM)
            .context("an archive answer without <fin/>")?;
        let complete = matches!(fin.attribute("complete"), Some("true" | "1"));
        let last = fin
            .child("set", RSM)
            .and_then(|set| set.child("last", RSM))
            .map(|last| last.text.clone());
        match last {
            Some(last) if !complete && self.part == Part::All => {
                self.round += 1;
                Ok(Progress::Ask(self.request(Some(&last))))
            }
            _ => Ok(Progress::Done(std::mem::take(&mut self.items))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn result(query: &str, id: &str, body: &str) -> Element {
        let xml = format!(
            "<message><result xmlns='{MAM}' queryid='{query}' id='{id}'>\
             <forwarded xmlns='{FORWARD}'><message xmlns='jabber:client'><body>{body}</body>\
             </message></forwarded></result></message>"
        );
        Element::parse(xml.as_bytes(), CLIENT).unwrap()
    }

    fn fin(query: &str, complete: bool, last: &str) -> Element {
        let xml = format!(
            "<iq type='result' id='{query}'><fin xmlns='{MAM}' complete='{complete}'>\
             <set xmlns='{RSM}'><first>x</first><last>{last}</last></set></fin></iq>"
        );
        Element::parse(xml.as_bytes(), CLIENT).unwrap()
    }

    #[test]
    fn pages_are_followed_until_complete_and_strangers_ignored() {
        let (mut query, first) = Query::start("q", false, Part::All, 2);
        assert!(String::from_utf8(first).unwrap().contains("queryid='q-0'"));
        assert!(matches!(
            query.incoming(&result("q-0", "1", "a")).unwrap(),
            Progress::More
        ));
        assert!(matches!(
            query.incoming(&result("z", "9", "z")).unwrap(),
            Progress::NotMine
        ));
        let Progress::Ask(next) = query.incoming(&fin("q-0", false, "1")).unwrap() else {
            panic!("a second page was not asked for");
        };
        assert!(
            String::from_utf8(next)
                .unwrap()
                .contains("<after>1</after>")
        );
        query.incoming(&result("q-1", "2", "b")).unwrap();
        let Progress::Done(items) = query.incoming(&fin("q-1", true, "2")).unwrap() else {
            panic!("the query did not end");
        };
        let bodies: Vec<_> = items.iter().map(|item| item.body.as_str()).collect();
        assert_eq!(bodies, ["a", "b"]);
    }

    #[test]
    fn an_error_is_an_error() {
        let (mut query, _) = Query::start("q", false, Part::Last, 20);
        let xml = b"<iq type='error' id='q-0'><error type='wait'><resource-constraint \
            xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
        let error = query
            .incoming(&Element::parse(xml, CLIENT).unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("resource-constraint"));
    }
}
