//! Data forms (XEP-0004): a parsed form is the same after it is written and parsed again.

use sestina_xmpp::ext::dataform::Form;
use sestina_xmpp::xml::Element;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(element) = Element::parse(data) else {
        return;
    };
    for form in [Form::parse(&element), Form::inside(&element)] {
        let Some(form) = form else { continue };
        assert_eq!(Form::parse(&form.to_element()), Some(form));
    }
}
