//! Queries of an archive with their paging (XEP-0313, XEP-0059): a parsed query is the same after
//! it is written and parsed again.

use sestina_xmpp::ext::mam::Query;
use sestina_xmpp::ext::rsm::{Page, PageRequest};
use sestina_xmpp::xml::Element;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(element) = Element::parse(data) else {
        return;
    };
    if let Ok(query) = Query::parse(&element) {
        assert_eq!(Query::parse(&query.to_element()).as_ref(), Ok(&query));
    }
    if let Ok(page) = PageRequest::parse(&element) {
        assert_eq!(PageRequest::parse(&page.to_element()).as_ref(), Ok(&page));
    }
    let _page = Page::parse(&element);
}
