//! Data forms (XEP-0004): what was read is the same when it is written and read again.

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
