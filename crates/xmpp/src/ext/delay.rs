//! XEP-0203 v2.0: Delayed Delivery.

use super::datetime;
use crate::ns;
use crate::stanza::Child;
use crate::xml::Element;

/// The time when a stanza was first sent, and the entity that delayed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The entity that delayed it (§2: SHOULD be there).
    pub from: Option<String>,
    /// When it was sent first, in Unix milliseconds.
    pub stamp_ms: i64,
    /// The reason, for people.
    pub reason: Option<String>,
}

impl Delay {
    /// A delay without a reason.
    pub fn new(from: Option<&str>, stamp_ms: i64) -> Delay {
        Delay {
            from: from.map(str::to_owned),
            stamp_ms,
            reason: None,
        }
    }

    /// Reads `<delay/>`; `None` if it is another element or its stamp is no DateTime.
    pub fn parse(element: &Element) -> Option<Delay> {
        if !element.is("delay", ns::DELAY) {
            return None;
        }
        let reason = element.text();
        Some(Delay {
            from: element.attr("from").map(str::to_owned),
            stamp_ms: datetime::parse(element.attr("stamp")?)?,
            reason: (!reason.is_empty()).then_some(reason),
        })
    }

    /// Builds `<delay/>`.
    pub fn to_element(&self) -> Element {
        let mut element = Element::new("delay", ns::DELAY);
        if let Some(from) = &self.from {
            element.set_attr("from", from.as_str());
        }
        element.set_attr("stamp", datetime::format(self.stamp_ms));
        match &self.reason {
            Some(reason) => element.with_text(reason.as_str()),
            None => element,
        }
    }
}

/// Whether a child of a stanza is a delay by `from`.
pub fn is_delay_by(child: &Child<'_>, from: &str) -> bool {
    child.ns == ns::DELAY
        && child.name == "delay"
        && Element::parse(child.xml).is_ok_and(|e| e.attr("from") == Some(from))
}

#[cfg(test)]
mod tests {
    use super::super::testing::element;
    use super::*;

    /// §4, example 1.
    #[test]
    fn example() {
        let xml = "<delay xmlns='urn:xmpp:delay' from='capulet.com' \
                   stamp='2002-09-10T23:08:25Z'>Offline Storage</delay>";
        let delay = Delay::parse(&element(xml));
        let expected = Delay {
            from: Some("capulet.com".to_owned()),
            stamp_ms: 1_031_699_305_000,
            reason: Some("Offline Storage".to_owned()),
        };
        assert_eq!(delay.as_ref(), Some(&expected));
        assert_eq!(Delay::parse(&expected.to_element()), Some(expected));
        let short = Delay::new(None, 5);
        assert_eq!(Delay::parse(&short.to_element()), Some(short));
    }

    #[test]
    fn refused() {
        for bad in [
            "<delay xmlns='urn:xmpp:delay'/>",
            "<delay xmlns='urn:xmpp:delay' stamp='yesterday'/>",
            "<delay xmlns='jabber:x:delay' stamp='2002-09-10T23:08:25Z'/>",
        ] {
            assert_eq!(Delay::parse(&element(bad)), None, "{bad}");
        }
    }
}
