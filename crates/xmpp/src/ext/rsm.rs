//! XEP-0059 v1.0: Result Set Management.

use crate::ns;
use crate::xml::Element;

/// The longest UID that is accepted.
const MAX_UID_LEN: usize = 1024;

/// The requested page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The most items; 0 requests only the count (§2.7).
    pub max: Option<u32>,
    /// The page that follows this UID (§2.2).
    pub after: Option<String>,
    /// The page that precedes this UID; empty: the last page (§2.3, §2.5).
    pub before: Option<String>,
    /// The page that begins at this position (§2.6).
    pub index: Option<u64>,
}

/// The `<set/>` is invalid: answered with bad-request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the result set request holds no valid number or identifier")]
pub struct BadPageRequest;

impl PageRequest {
    /// Parses the `<set/>` directly inside this element; an empty request without one.
    pub fn inside(parent: &Element) -> Result<PageRequest, BadPageRequest> {
        match parent.child("set", ns::RSM) {
            Some(set) => PageRequest::parse(set),
            None => Ok(PageRequest::default()),
        }
    }

    /// Reads `<set/>`.
    pub fn parse(set: &Element) -> Result<PageRequest, BadPageRequest> {
        let text = |name| set.child(name, ns::RSM).map(Element::text);
        let uid = |name| match text(name) {
            Some(uid) if uid.len() > MAX_UID_LEN => Err(BadPageRequest),
            uid => Ok(uid),
        };
        Ok(PageRequest {
            max: text("max")
                .map(|max| number(&max))
                .transpose()?
                .map(saturate),
            after: uid("after")?,
            before: uid("before")?,
            index: text("index").map(|index| number(&index)).transpose()?,
        })
    }

    /// Whether the request pages backwards.
    pub fn is_backwards(&self) -> bool {
        self.before.is_some()
    }

    /// Builds `<set/>`.
    pub fn to_element(&self) -> Element {
        let mut set = Element::new("set", ns::RSM);
        let mut push = |name: &str, text: Option<String>| {
            if let Some(text) = text {
                set.push(Element::new(name, ns::RSM).with_text(text));
            }
        };
        push("max", self.max.map(|max| max.to_string()));
        push("after", self.after.clone());
        push("before", self.before.clone());
        push("index", self.index.map(|index| index.to_string()));
        set
    }
}

/// The page of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// UID of the first item; `None` if the page is empty.
    pub first: Option<String>,
    /// UID of the last item.
    pub last: Option<String>,
    /// Position of the first item in the whole set.
    pub first_index: Option<u64>,
    /// Items in the whole set.
    pub count: Option<u64>,
}

impl Page {
    /// Builds `<set/>`.
    pub fn to_element(&self) -> Element {
        let mut set = Element::new("set", ns::RSM);
        if let (Some(first), Some(last)) = (&self.first, &self.last) {
            let mut element = Element::new("first", ns::RSM).with_text(first.as_str());
            if let Some(index) = self.first_index {
                element.set_attr("index", index.to_string());
            }
            set.push(element);
            set.push(Element::new("last", ns::RSM).with_text(last.as_str()));
        }
        if let Some(count) = self.count {
            set.push(Element::new("count", ns::RSM).with_text(count.to_string()));
        }
        set
    }

    /// Parses `<set/>`; a missing or invalid value is `None`.
    pub fn parse(set: &Element) -> Page {
        let text = |name| set.child(name, ns::RSM).map(Element::text);
        Page {
            first: text("first"),
            last: text("last"),
            first_index: set
                .child("first", ns::RSM)
                .and_then(|first| number(first.attr("index")?).ok()),
            count: text("count").and_then(|count| number(&count).ok()),
        }
    }
}

/// A number without sign; one that exceeds 64 bits becomes the largest.
fn number(text: &str) -> Result<u64, BadPageRequest> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadPageRequest);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn saturate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{element, text};
    use super::*;

    fn parse(inner: &str) -> Result<PageRequest, BadPageRequest> {
        let xml = format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        let query = Element::new("query", "urn:x").with_child(element(&xml));
        PageRequest::inside(&query)
    }

    /// §2.1 to §2.7.
    #[test]
    fn requests() {
        let limited = PageRequest {
            max: Some(10),
            ..PageRequest::default()
        };
        assert_eq!(parse("<max>10</max>"), Ok(limited.clone()));
        let after = Some("peterpan@neverland.lit".to_owned());
        assert_eq!(
            parse("<max>10</max><after>peterpan@neverland.lit</after>"),
            Ok(PageRequest {
                after,
                ..limited.clone()
            })
        );
        let last = PageRequest {
            before: Some(String::new()),
            ..limited.clone()
        };
        assert!(last.is_backwards() && !limited.is_backwards());
        assert_eq!(parse("<max>10</max><before/>"), Ok(last.clone()));
        assert_eq!(PageRequest::parse(&last.to_element()), Ok(last));
        let index = PageRequest {
            index: Some(371),
            ..limited
        };
        assert_eq!(parse("<max>10</max><index>371</index>"), Ok(index.clone()));
        assert_eq!(PageRequest::parse(&index.to_element()), Ok(index));
        assert_eq!(
            PageRequest::inside(&Element::new("query", "urn:x")),
            Ok(Default::default())
        );
        assert_eq!(parse("<max>0</max>").map(|r| r.max), Ok(Some(0)));
        assert_eq!(
            parse(&format!("<max>{}</max>", "9".repeat(40))).map(|r| r.max),
            Ok(Some(u32::MAX))
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "<max/>",
            "<max>-1</max>",
            "<max>ten</max>",
            "<index>x</index>",
            "<max>+1</max>",
        ] {
            assert_eq!(parse(bad), Err(BadPageRequest), "{bad}");
        }
        assert_eq!(
            parse(&format!("<after>{}</after>", "x".repeat(1025))),
            Err(BadPageRequest)
        );
    }

    /// §2.2, examples 4 and 7.
    #[test]
    fn pages() {
        let page = Page {
            first: Some("stpeter@jabber.org".to_owned()),
            last: Some("peterpan@neverland.lit".to_owned()),
            first_index: Some(0),
            count: Some(800),
        };
        assert_eq!(
            text(&page.to_element()),
            "<set xmlns='http://jabber.org/protocol/rsm'>\
             <first index='0'>stpeter@jabber.org</first><last>peterpan@neverland.lit</last>\
             <count>800</count></set>"
        );
        assert_eq!(Page::parse(&page.to_element()), page);
        let empty = Page {
            count: Some(790),
            ..Page::default()
        };
        assert_eq!(
            text(&empty.to_element()),
            "<set xmlns='http://jabber.org/protocol/rsm'><count>790</count></set>"
        );
    }
}
