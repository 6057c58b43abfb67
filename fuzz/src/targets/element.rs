//! Trees: the oracle must read the same one.

use sestina_xmpp::xml::Element;

use super::check_element;
use crate::oracle;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(element) = Element::parse(data) else {
        return;
    };
    // The oracle knows no default namespace from outside: give it one.
    let mut document = b"<o xmlns='jabber:client'>".to_vec();
    document.extend_from_slice(data);
    document.extend_from_slice(b"</o>");
    match oracle::tree(&document) {
        Ok(tree) => {
            let outer = Element::new("o", "jabber:client").with_child(element.clone());
            assert_eq!(tree, oracle::canonical(&outer), "the oracle reads the same");
        }
        Err(error) => panic!("the oracle refuses what was accepted: {error}"),
    }
    check_element(&element);
}
