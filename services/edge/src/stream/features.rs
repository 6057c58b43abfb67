//! Stream features as the initiating entity reads them (RFC 6120 §4.3.2).

use sestina_xmpp::ns;
use sestina_xmpp::stream::features::StartTls;
use sestina_xmpp::xml::Element;

/// What a receiving entity offers at this point of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// STARTTLS, and whether it is required.
    pub starttls: Option<StartTls>,
    /// SASL mechanisms, the preferred one first, as they are written.
    pub mechanisms: Vec<String>,
    /// Channel-binding types (XEP-0440), the preferred one first, as they are written.
    pub channel_bindings: Vec<String>,
    /// Resource binding.
    pub bind: bool,
    /// Stream management (XEP-0198).
    pub sm: bool,
}

impl Offer {
    /// Reads `<stream:features/>`; nothing if it is another element. Features that are not known are
    /// left out.
    pub(super) fn read(element: &Element) -> Option<Offer> {
        if !element.is("features", ns::STREAM) {
            return None;
        }
        let starttls = element.child("starttls", ns::TLS);
        let mechanisms = below(element, "mechanisms", ns::SASL);
        let bindings = below(element, "sasl-channel-binding", ns::SASL_CB);
        Some(Offer {
            starttls: starttls.map(|starttls| match starttls.child("required", ns::TLS) {
                Some(_) => StartTls::Required,
                None => StartTls::Optional,
            }),
            mechanisms: mechanisms
                .filter(|element| element.is("mechanism", ns::SASL))
                .map(Element::text)
                .collect(),
            channel_bindings: bindings
                .filter_map(|element| element.attr("type").map(str::to_owned))
                .collect(),
            bind: element.child("bind", ns::BIND).is_some(),
            sm: element.child("sm", ns::SM).is_some(),
        })
    }
}

/// What is in the child of that name, if there is one.
fn below<'a>(element: &'a Element, name: &str, ns: &str) -> impl Iterator<Item = &'a Element> {
    let child = element.child(name, ns);
    child.into_iter().flat_map(Element::children)
}
