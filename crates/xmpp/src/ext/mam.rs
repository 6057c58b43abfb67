//! XEP-0313 v1.1.3: Message Archive Management.
//!
//! The rules for archiving are in [`archive_rules`](super::archive_rules). Left out: the `node` of
//! pubsub archives (§6.1.3).

use super::dataform::{Field, Form, FormType, parse_boolean};
use super::datetime;
use super::delay::Delay;
use super::forward::write_forwarded;
use super::rsm::{Page, PageRequest};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::error::Condition;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// XEP-0122, for the open list of ids.
const VALIDATE: &str = "http://jabber.org/protocol/xdata-validate";

/// The most ids that one query may name.
const MAX_IDS: usize = 256;

/// The longest `queryid`, which every result repeats.
const MAX_QUERY_ID: usize = 256;

/// A client's request to an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The fields that queries may have (§4.1.5).
    Fields,
    /// The first and last message (§5).
    Metadata,
    /// Messages (§4).
    Query(Box<Query>),
}

/// A query for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Repeated in each result.
    pub query_id: Option<String>,
    /// Only messages to or from this JID (§4.1.1).
    pub with: Option<Jid>,
    /// Not before this moment, in Unix milliseconds (§4.1.2).
    pub start_ms: Option<i64>,
    /// Not after this moment.
    pub end_ms: Option<i64>,
    /// Before this message, but counted from the start (§4.1.3).
    pub before_id: Option<String>,
    /// After this message.
    pub after_id: Option<String>,
    /// Only these messages; empty: all.
    pub ids: Vec<String>,
    /// Whether to include groupchat messages of a user's archive (§4.1.4).
    pub include_groupchat: Option<bool>,
    /// The page (§4.3).
    pub page: PageRequest,
    /// Newest first within the page (§4.3.4).
    pub flip_page: bool,
}

/// The reason why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MamError {
    /// An unknown field (§4.1.5).
    #[error("unknown field {0:?} in the archive query")]
    UnknownField(String),
    /// A pubsub archive.
    #[error("archives of nodes are not supported")]
    Node,
    /// The form is not for archive queries, or a value is invalid.
    #[error("{0}")]
    Invalid(&'static str),
}

impl MamError {
    /// The condition of the error answer.
    pub fn condition(&self) -> Condition {
        match self {
            MamError::UnknownField(_) | MamError::Node => Condition::FeatureNotImplemented,
            MamError::Invalid(_) => Condition::BadRequest,
        }
    }
}

impl Request {
    /// Parses an IQ; `None` if it is no request to an archive.
    pub fn parse(iq: &Stanza) -> Option<Result<Request, MamError>> {
        if iq.kind != Kind::Iq {
            return None;
        }
        match iq.type_.as_str() {
            "get" if iq.child(ns::MAM, "query").is_some() => Some(Ok(Request::Fields)),
            "get" if iq.child(ns::MAM, "metadata").is_some() => Some(Ok(Request::Metadata)),
            "set" => {
                let query = Query::parse(&iq.element(ns::MAM, "query")?);
                Some(query.map(|query| Request::Query(Box::new(query))))
            }
            _ => None,
        }
    }
}

impl Query {
    /// Reads `<query/>`.
    pub fn parse(element: &Element) -> Result<Query, MamError> {
        if element.attr("node").is_some() {
            return Err(MamError::Node);
        }
        let mut query = Query {
            query_id: element.attr("queryid").map(str::to_owned),
            page: PageRequest::inside(element)
                .map_err(|_| MamError::Invalid("the result set request is invalid"))?,
            flip_page: element.child("flip-page", ns::MAM).is_some(),
            ..Query::default()
        };
        if query
            .query_id
            .as_ref()
            .is_some_and(|id| id.len() > MAX_QUERY_ID)
        {
            return Err(MamError::Invalid("the queryid is longer than 256 bytes"));
        }
        if let Some(form) = element.child("x", ns::DATA_FORM) {
            let form = Form::parse(form).ok_or(MamError::Invalid("the form is invalid"))?;
            query.read_form(&form)?;
        }
        if query.page.after.is_some() && query.page.before.is_some() {
            // §4.3.2 does not define the meaning of both.
            return Err(MamError::Invalid(
                "use before-id and after-id to name a range",
            ));
        }
        Ok(query)
    }

    fn read_form(&mut self, form: &Form) -> Result<(), MamError> {
        if form.kind != FormType::Submit || form.form_type() != Some(ns::MAM) {
            return Err(MamError::Invalid(
                "the form is not a submitted archive query",
            ));
        }
        for field in &form.fields {
            let value = field.value();
            match field.var.as_str() {
                "FORM_TYPE" => {}
                "with" => self.with = value.map(address).transpose()?,
                "start" => self.start_ms = value.map(moment).transpose()?,
                "end" => self.end_ms = value.map(moment).transpose()?,
                "before-id" => self.before_id = value.map(str::to_owned),
                "after-id" => self.after_id = value.map(str::to_owned),
                "ids" if field.values.len() > MAX_IDS => {
                    return Err(MamError::Invalid("more than 256 ids in one query"));
                }
                "ids" => self.ids.clone_from(&field.values),
                "include-groupchat" => {
                    self.include_groupchat = value.map(boolean).transpose()?;
                }
                other => return Err(MamError::UnknownField(other.to_owned())),
            }
        }
        Ok(())
    }

    /// Builds `<query/>`.
    pub fn to_element(&self) -> Element {
        let mut form = Form::new(FormType::Submit, ns::MAM);
        let mut push = |var: &str, values: Vec<String>| {
            if !values.is_empty() {
                form.fields.push(Field {
                    var: var.to_owned(),
                    values,
                    ..Field::default()
                });
            }
        };
        push("with", self.with.iter().map(Jid::to_string).collect());
        push(
            "start",
            self.start_ms
                .iter()
                .map(|ms| datetime::format(*ms))
                .collect(),
        );
        push(
            "end",
            self.end_ms.iter().map(|ms| datetime::format(*ms)).collect(),
        );
        push("before-id", self.before_id.iter().cloned().collect());
        push("after-id", self.after_id.iter().cloned().collect());
        push("ids", self.ids.clone());
        push(
            "include-groupchat",
            self.include_groupchat.iter().map(bool::to_string).collect(),
        );
        let mut element = Element::new("query", ns::MAM);
        if let Some(id) = &self.query_id {
            element.set_attr("queryid", id.as_str());
        }
        if form.fields.len() > 1 {
            element.push(form.to_element());
        }
        if self.page != PageRequest::default() {
            element.push(self.page.to_element());
        }
        if self.flip_page {
            element.push(Element::new("flip-page", ns::MAM));
        }
        element
    }
}

fn address(text: &str) -> Result<Jid, MamError> {
    Jid::parse(text).map_err(|_| MamError::Invalid("the field 'with' is no valid JID"))
}

fn moment(text: &str) -> Result<i64, MamError> {
    datetime::parse(text).ok_or(MamError::Invalid(
        "'start' and 'end' must be dates of XEP-0082",
    ))
}

fn boolean(text: &str) -> Result<bool, MamError> {
    parse_boolean(text).ok_or(MamError::Invalid("'include-groupchat' must be a boolean"))
}

/// The answer to [`Request::Fields`]: the form with all fields (§4.1.5).
pub fn fields() -> Element {
    let open = Element::new("validate", VALIDATE)
        .with_attr("datatype", "xs:string")
        .with_child(Element::new("open", VALIDATE));
    let mut ids = Field::new("list-multi", "ids");
    ids.extra.push(open);
    let form = Form::new(FormType::Form, ns::MAM)
        .with_field(Field::new("jid-single", "with"))
        .with_field(Field::new("text-single", "start"))
        .with_field(Field::new("text-single", "end"))
        .with_field(Field::new("text-single", "before-id"))
        .with_field(Field::new("text-single", "after-id"))
        .with_field(ids)
        .with_field(Field::new("boolean", "include-groupchat"));
    Element::new("query", ns::MAM).with_child(form.to_element())
}

/// The answer to [`Request::Metadata`] (§5): id and time of the first and of the last message;
/// `None` if the archive is empty.
pub fn metadata(ends: Option<[(&str, i64); 2]>) -> Element {
    let mut element = Element::new("metadata", ns::MAM);
    for (name, (id, ms)) in ["start", "end"].into_iter().zip(ends.into_iter().flatten()) {
        element.push(
            Element::new(name, ns::MAM)
                .with_attr("id", id)
                .with_attr("timestamp", datetime::format(ms)),
        );
    }
    element
}

/// One result (§4.2): a message from the archive to the client.
pub fn result(
    archive: &str,
    client: &str,
    query_id: Option<&str>,
    id: &str,
    at_ms: i64,
    stored: &Stanza,
) -> Stanza {
    let mut head = Element::new("result", ns::MAM).with_attr("id", id);
    if let Some(query_id) = query_id {
        head.set_attr("queryid", query_id);
    }
    // The start tag is written as an empty element, whose end is then replaced.
    let mut xml = head.to_bytes(ns::CLIENT);
    xml.truncate(xml.len() - b"/>".len());
    xml.push(b'>');
    write_forwarded(&mut xml, stored, Some(&Delay::new(None, at_ms)));
    xml.extend_from_slice(b"</result>");
    let mut message = Stanza::new(Kind::Message);
    message.from = archive.to_owned();
    message.to = client.to_owned();
    message.push_raw(&xml, "result", ns::MAM);
    message
}

/// The end of the results (§4.3.2): `complete` if no page follows, `stable` unless the store knows
/// that the order may still change.
pub fn fin(page: &Page, complete: bool, stable: bool) -> Element {
    let mut element = Element::new("fin", ns::MAM);
    if complete {
        element.set_attr("complete", "true");
    }
    if !stable {
        element.set_attr("stable", "false");
    }
    element.with_child(page.to_element())
}

#[cfg(test)]
#[path = "mam_tests.rs"]
mod tests;
