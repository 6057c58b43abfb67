//! XEP-0054 v1.3.0: vcard-temp. What a client publishes is kept as it is: servers need not understand it.

use crate::ns;
use crate::xml::{Element, XmlError};

/// A vCard: a `<vCard/>` element (§3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VCard(Element);

impl VCard {
    /// Takes a `<vCard/>` element; none if it is another one.
    pub fn from_element(element: &Element) -> Option<VCard> {
        element
            .is("vCard", ns::VCARD)
            .then(|| VCard(element.clone()))
    }

    /// Reads what [`VCard::to_bytes`] wrote.
    ///
    /// # Errors
    /// The bytes are not one element, or another element than a vCard.
    pub fn from_bytes(bytes: &[u8]) -> Result<VCard, XmlError> {
        let element = Element::parse(bytes)?;
        VCard::from_element(&element).ok_or_else(|| {
            XmlError::new(
                crate::stream::StreamCondition::BadFormat,
                "it is not a vCard",
            )
        })
    }

    /// The element as XML; no bytes if the vCard says nothing, which is as good as no vCard.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.is_empty() {
            true => Vec::new(),
            false => self.0.to_bytes(""),
        }
    }

    /// Whether [`VCard::from_bytes`] reads what [`VCard::to_bytes`] writes.
    pub fn is_readable(&self) -> bool {
        let bytes = self.to_bytes();
        bytes.is_empty() || VCard::from_bytes(&bytes).is_ok()
    }

    /// The element.
    pub fn element(&self) -> &Element {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.children().next().is_none() && self.0.text().trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn element(xml: &str) -> Element {
        Element::parse(xml.as_bytes()).unwrap()
    }

    /// §3.2.
    #[test]
    fn a_vcard_is_read_as_it_was_written() {
        let published = element(
            "<vCard xmlns='vcard-temp'><FN>Peter Saint-Andre</FN><N><FAMILY>Saint-Andre</FAMILY></N>\
             <x xmlns='urn:example:other' a='&lt;1&gt;'>&amp;</x></vCard>",
        );
        let vcard = VCard::from_element(&published).unwrap();
        let again = VCard::from_bytes(&vcard.to_bytes()).unwrap();
        assert_eq!(again.element(), &published);
    }

    #[test]
    fn a_vcard_of_too_many_namespaces_is_not_readable() {
        let attributes: String = (1..64).map(|n| format!(" a:b{n}=''")).collect();
        let vcard = format!("<vCard xmlns='vcard-temp'><x xmlns:a='u'{attributes}/></vCard>");
        assert!(!VCard::from_element(&element(&vcard)).unwrap().is_readable());
        let vcard = element("<vCard xmlns='vcard-temp'><x xmlns:a='u' a:b='1'/></vCard>");
        assert!(VCard::from_element(&vcard).unwrap().is_readable());
    }

    #[test]
    fn an_empty_vcard_has_no_bytes() {
        let empty = element("<vCard xmlns='vcard-temp'> </vCard>");
        assert!(VCard::from_element(&empty).unwrap().to_bytes().is_empty());
    }

    #[test]
    fn other_elements_are_no_vcards() {
        assert!(VCard::from_element(&element("<vCard xmlns='urn:example:x'/>")).is_none());
        assert!(VCard::from_bytes(b"<VCARD xmlns='vcard-temp'/>").is_err());
        assert!(VCard::from_bytes(b"<vCard xmlns='vcard-temp'>").is_err());
    }
}
