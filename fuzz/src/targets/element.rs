//! Trees: the oracle must parse the same tree.

use sestina_xmpp::xml::Element;

use super::check_element;
use crate::oracle;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(element) = Element::parse(data) else {
        return;
    };
    // The oracle accepts no default namespace from outside, so a root element declares it.
    let mut document = b"<o xmlns='jabber:client'>".to_vec();
    document.extend_from_slice(data);
    document.extend_from_slice(b"</o>");
    match oracle::tree(&document) {
        Ok(tree) => {
            let outer = Element::new("o", "jabber:client").with_child(element.clone());
            assert_eq!(tree, oracle::canonical(&outer), "the oracle reads the same");
        }
        Err(error) => panic!("the oracle refuses an accepted element: {error}"),
    }
    check_element(&element);
}
