//! XEP-0030 v2.5.0: Service Discovery, with forms as in XEP-0128 v1.0.1.
//!
//! Left out: paging through items (§7); a caller with many items adds a result set (XEP-0059).

use std::collections::BTreeSet;

use super::dataform::Form;
use crate::ns;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// A request for information or items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Identity and features (§3) of this node.
    Info(Option<String>),
    /// Items (§4) of this node.
    Items(Option<String>),
}

impl Query {
    /// Parses an IQ of type get; `None` if it is no such request.
    pub fn parse(iq: &Stanza) -> Option<Query> {
        if iq.kind != Kind::Iq || iq.type_ != "get" {
            return None;
        }
        let node = |query: &Element| query.attr("node").map(str::to_owned);
        if let Some(query) = iq.element(ns::DISCO_INFO, "query") {
            return Some(Query::Info(node(&query)));
        }
        iq.element(ns::DISCO_ITEMS, "query")
            .map(|query| Query::Items(node(&query)))
    }

    /// Builds `<query/>`.
    pub fn to_element(&self) -> Element {
        let (ns, node) = match self {
            Query::Info(node) => (ns::DISCO_INFO, node),
            Query::Items(node) => (ns::DISCO_ITEMS, node),
        };
        query_element(ns, node.as_deref())
    }
}

/// An identity of an entity (§3.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Such as `server`, `account` or `conference`.
    pub category: String,
    /// Such as `im`, `registered` or `text`.
    pub kind: String,
    /// Language of the name; empty if not given.
    pub lang: String,
    /// A name for people; empty if there is none.
    pub name: String,
}

impl Identity {
    /// An identity; the name may be empty.
    pub fn new(category: &str, kind: &str, name: &str) -> Identity {
        Identity {
            category: category.to_owned(),
            kind: kind.to_owned(),
            lang: String::new(),
            name: name.to_owned(),
        }
    }
}

/// Identity and features of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The node; an answer repeats that of its request.
    pub node: Option<String>,
    /// Identities, at least one.
    pub identities: Vec<Identity>,
    /// Features, each once and sorted.
    pub features: BTreeSet<String>,
    /// Extensions, as forms of type result.
    pub forms: Vec<Form>,
}

impl Info {
    /// With one identity and the feature of this protocol, which every answer has (§3.1).
    pub fn new(identity: Identity) -> Info {
        Info {
            identities: vec![identity],
            ..Info::default()
        }
        .with_features([ns::DISCO_INFO])
    }

    /// The same with more features.
    #[must_use]
    pub fn with_features<'a>(mut self, features: impl IntoIterator<Item = &'a str>) -> Info {
        self.features
            .extend(features.into_iter().map(str::to_owned));
        self
    }

    /// The same for a node.
    #[must_use]
    pub fn with_node(mut self, node: Option<&str>) -> Info {
        self.node = node.map(str::to_owned);
        self
    }

    /// Builds `<query/>`.
    pub fn to_element(&self) -> Element {
        let mut query = query_element(ns::DISCO_INFO, self.node.as_deref());
        for identity in &self.identities {
            let mut element = Element::new("identity", ns::DISCO_INFO)
                .with_attr("category", identity.category.as_str())
                .with_attr("type", identity.kind.as_str());
            if !identity.name.is_empty() {
                element.set_attr("name", identity.name.as_str());
            }
            if !identity.lang.is_empty() {
                element.set_attr("xml:lang", identity.lang.as_str());
            }
            query.push(element);
        }
        for feature in &self.features {
            query.push(Element::new("feature", ns::DISCO_INFO).with_attr("var", feature.as_str()));
        }
        for form in &self.forms {
            query.push(form.to_element());
        }
        query
    }

    /// Parses `<query/>`; elements without a mandatory attribute are skipped.
    pub fn parse(query: &Element) -> Option<Info> {
        if !query.is("query", ns::DISCO_INFO) {
            return None;
        }
        let of = |name: &'static str| {
            query
                .children()
                .filter(move |child| child.is(name, ns::DISCO_INFO))
        };
        let identity = |element: &Element| {
            Some(Identity {
                category: element.attr("category")?.to_owned(),
                kind: element.attr("type")?.to_owned(),
                lang: element.attr("xml:lang").unwrap_or("").to_owned(),
                name: element.attr("name").unwrap_or("").to_owned(),
            })
        };
        Some(Info {
            node: query.attr("node").map(str::to_owned),
            identities: of("identity").filter_map(identity).collect(),
            features: of("feature")
                .filter_map(|f| f.attr("var").map(str::to_owned))
                .collect(),
            forms: query.children().filter_map(Form::parse).collect(),
        })
    }
}

/// An item of an entity (§4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its address.
    pub jid: String,
    /// A node at that address.
    pub node: Option<String>,
    /// A name for people.
    pub name: Option<String>,
}

impl Item {
    /// An item without a node.
    pub fn new(jid: &str, name: Option<&str>) -> Item {
        Item {
            jid: jid.to_owned(),
            node: None,
            name: name.map(str::to_owned),
        }
    }
}

/// Builds the `<query/>` that answers [`Query::Items`].
pub fn items(node: Option<&str>, items: &[Item]) -> Element {
    let mut query = query_element(ns::DISCO_ITEMS, node);
    for item in items {
        let mut element = Element::new("item", ns::DISCO_ITEMS).with_attr("jid", item.jid.as_str());
        if let Some(node) = &item.node {
            element.set_attr("node", node.as_str());
        }
        if let Some(name) = &item.name {
            element.set_attr("name", name.as_str());
        }
        query.push(element);
    }
    query
}

/// Reads the items of a `<query/>`.
pub fn parse_items(query: &Element) -> Vec<Item> {
    let attribute = |element: &Element, name| element.attr(name).map(str::to_owned);
    query
        .children()
        .filter(|child| child.is("item", ns::DISCO_ITEMS))
        .filter_map(|child| {
            Some(Item {
                jid: attribute(child, "jid")?,
                node: attribute(child, "node"),
                name: attribute(child, "name"),
            })
        })
        .collect()
}

fn query_element(ns: &str, node: Option<&str>) -> Element {
    let query = Element::new("query", ns);
    match node {
        Some(node) => query.with_attr("node", node),
        None => query,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::dataform::FormType;
    use super::super::testing::{element, stanza, text};
    use super::*;

    /// §3.1, §3.2, §4.1.
    #[test]
    fn queries() {
        let parse = |kind: &str, query: &str| {
            Query::parse(&stanza(&format!("<iq type='{kind}' id='1'>{query}</iq>")))
        };
        let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
        assert_eq!(parse("get", info), Some(Query::Info(None)));
        assert_eq!(parse("result", info), None);
        assert_eq!(parse("set", info), None);
        let node = Some("http://jabber.org/protocol/commands".to_owned());
        for query in [
            Query::Info(node.clone()),
            Query::Items(node),
            Query::Items(None),
        ] {
            assert_eq!(parse("get", &text(&query.to_element())), Some(query));
        }
    }

    /// §3.1, example 2, with the features sorted, as caching requires.
    #[test]
    fn info() {
        let info = Info::new(Identity::new(
            "conference",
            "text",
            "Play-Specific Chatrooms",
        ))
        .with_features(["jabber:iq:version", "http://jabber.org/protocol/muc"])
        .with_features(["jabber:iq:version"])
        .with_node(Some("n"));
        assert_eq!(
            text(&info.to_element()),
            "<query xmlns='http://jabber.org/protocol/disco#info' node='n'>\
             <identity category='conference' type='text' name='Play-Specific Chatrooms'/>\
             <feature var='http://jabber.org/protocol/disco#info'/>\
             <feature var='http://jabber.org/protocol/muc'/>\
             <feature var='jabber:iq:version'/></query>"
        );
        assert_eq!(Info::parse(&info.to_element()), Some(info));
    }

    #[test]
    fn forms_and_languages() {
        let mut info = Info::new(Identity::new("server", "im", ""));
        info.identities.push(Identity {
            lang: "de".to_owned(),
            ..Identity::new("a", "b", "c")
        });
        info.forms.push(Form::new(
            FormType::Result,
            "http://jabber.org/network/serverinfo",
        ));
        let read = Info::parse(&element(&text(&info.to_element())));
        assert_eq!(read, Some(info));
        assert_eq!(Info::parse(&element("<query xmlns='urn:x'/>")), None);
    }

    /// §4.1, example 17.
    #[test]
    fn item_lists() {
        let list = [
            Item::new("people.shakespeare.lit", Some("Directory of Characters")),
            Item {
                node: Some("books".to_owned()),
                ..Item::new("catalog.shakespeare.lit", None)
            },
        ];
        let query = items(None, &list);
        assert_eq!(
            text(&query),
            "<query xmlns='http://jabber.org/protocol/disco#items'>\
             <item jid='people.shakespeare.lit' name='Directory of Characters'/>\
             <item jid='catalog.shakespeare.lit' node='books'/></query>"
        );
        assert_eq!(parse_items(&query), list);
        assert_eq!(
            text(&items(Some("n"), &[])),
            text(&Query::Items(Some("n".to_owned())).to_element())
        );
    }
}
