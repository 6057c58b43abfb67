#![allow(clippy::unwrap_used)]

use super::super::testing::{element, reread, stanza, text};
use super::*;

fn form(fields: &str) -> String {
    format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
         <value>urn:xmpp:mam:2</value></field>{fields}</x>"
    )
}

fn field(var: &str, value: &str) -> String {
    format!("<field var='{var}'><value>{value}</value></field>")
}

fn query(inner: &str) -> Result<Query, MamError> {
    let iq = stanza(&format!(
        "<iq type='set' id='juliet1'><query xmlns='urn:xmpp:mam:2'>{inner}</query></iq>"
    ));
    match Request::parse(&iq).unwrap()? {
        Request::Query(query) => Ok(*query),
        other => panic!("{other:?}"),
    }
}

/// §4, example 1.
#[test]
fn plain_query() {
    let iq =
        stanza("<iq type='set' id='juliet1'><query xmlns='urn:xmpp:mam:2' queryid='f27' /></iq>");
    let expected = Query {
        query_id: Some("f27".to_owned()),
        ..Query::default()
    };
    assert_eq!(
        Request::parse(&iq),
        Some(Ok(Request::Query(Box::new(expected))))
    );
}

/// §4.1.1 to §4.1.4, §4.3.1 to §4.3.4.
#[test]
fn filters_and_pages() {
    let read = query(&form(&field("with", "Juliet@capulet.lit"))).unwrap();
    assert_eq!(read.with, Some(Jid::from_wire("juliet@capulet.lit")));
    let span = field("start", "2010-06-07T00:00:00Z") + &field("end", "2010-07-07T13:23:54Z");
    let read = query(&form(&span)).unwrap();
    assert_eq!(read.start_ms, Some(1_275_868_800_000));
    assert_eq!(read.end_ms, Some(1_278_509_034_000));
    let ids = field("after-id", "28482-98726-73623") + &field("before-id", "09af3-cc343-b409f");
    let read = query(&form(&ids)).unwrap();
    assert_eq!(read.after_id.as_deref(), Some("28482-98726-73623"));
    assert_eq!(read.before_id.as_deref(), Some("09af3-cc343-b409f"));
    let read = query(&form(
        "<field var='ids'><value>28482-98726-73623</value><value>2</value></field>\
         <field var='include-groupchat'><value>false</value></field>",
    ))
    .unwrap();
    assert_eq!(read.ids, ["28482-98726-73623", "2"]);
    assert_eq!(read.include_groupchat, Some(false));
    let read = query(
        "<set xmlns='http://jabber.org/protocol/rsm'><max>10</max><after>09af3</after></set>\
         <flip-page/>",
    )
    .unwrap();
    assert_eq!(
        (read.page.max, read.page.after.as_deref()),
        (Some(10), Some("09af3"))
    );
    assert!(read.flip_page);
    let read = query(&form(&field("with", ""))).unwrap();
    assert_eq!(read, Query::default());
}

#[test]
fn what_is_built_is_read() {
    let full = Query {
        query_id: Some("q".to_owned()),
        with: Some(Jid::from_wire("a@b/c")),
        start_ms: Some(1),
        end_ms: Some(2000),
        before_id: Some("x".to_owned()),
        after_id: Some("y".to_owned()),
        ids: vec!["1".to_owned(), "2".to_owned()],
        include_groupchat: Some(true),
        page: PageRequest {
            max: Some(5),
            before: Some(String::new()),
            ..PageRequest::default()
        },
        flip_page: true,
    };
    assert_eq!(Query::parse(&full.to_element()), Ok(full));
    assert_eq!(
        Query::parse(&Query::default().to_element()),
        Ok(Query::default())
    );
}

#[test]
fn refused() {
    let unknown = query(&form(&field("{http://example.com/}free-text-search", "x"))).unwrap_err();
    assert_eq!(unknown.condition(), Condition::FeatureNotImplemented);
    let node = element("<query xmlns='urn:xmpp:mam:2' node='n'/>");
    assert_eq!(Query::parse(&node), Err(MamError::Node));
    let many = "<value>1</value>".repeat(257);
    for bad in [
        form(&field("start", "yesterday")),
        form(&field("end", "2010-02-30T00:00:00Z")),
        form(&field("with", "@")),
        form(&field("include-groupchat", "maybe")),
        form(&format!("<field var='ids'>{many}</field>")),
        "<x xmlns='jabber:x:data' type='submit'/>".to_owned(),
        "<x xmlns='jabber:x:data'/>".to_owned(),
        form("").replace("submit", "form"),
        form("").replace("mam:2", "mam:1"),
        "<set xmlns='http://jabber.org/protocol/rsm'><max>x</max></set>".to_owned(),
        "<set xmlns='http://jabber.org/protocol/rsm'><after>1</after><before>2</before></set>"
            .to_owned(),
    ] {
        assert_eq!(
            query(&bad).unwrap_err().condition(),
            Condition::BadRequest,
            "{bad}"
        );
    }
    let long = format!(
        "<query xmlns='urn:xmpp:mam:2' queryid='{}'/>",
        "x".repeat(257)
    );
    assert!(Query::parse(&element(&long)).is_err());
}

#[test]
fn other_requests() {
    let request = |xml: &str| Request::parse(&stanza(xml));
    let get = |payload: &str| request(&format!("<iq type='get' id='1'>{payload}</iq>"));
    assert_eq!(
        get("<query xmlns='urn:xmpp:mam:2'/>"),
        Some(Ok(Request::Fields))
    );
    assert_eq!(
        get("<metadata xmlns='urn:xmpp:mam:2'/>"),
        Some(Ok(Request::Metadata))
    );
    assert_eq!(get("<query xmlns='urn:xmpp:mam:1'/>"), None);
    assert_eq!(
        request("<iq type='result' id='1'><query xmlns='urn:xmpp:mam:2'/></iq>"),
        None
    );
    assert_eq!(
        request("<message type='set'><query xmlns='urn:xmpp:mam:2'/></message>"),
        None
    );
}

/// §4.1.5.
#[test]
fn field_discovery() {
    let form = Form::inside(&fields()).unwrap();
    let list: Vec<_> = form
        .fields
        .iter()
        .map(|f| (f.kind.as_str(), f.var.as_str()))
        .collect();
    assert_eq!(
        list,
        [
            ("hidden", "FORM_TYPE"),
            ("jid-single", "with"),
            ("text-single", "start"),
            ("text-single", "end"),
            ("text-single", "before-id"),
            ("text-single", "after-id"),
            ("list-multi", "ids"),
            ("boolean", "include-groupchat"),
        ]
    );
    assert!(form.fields.iter().all(|field| !field.required));
    assert!(text(&fields()).contains(
        "<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'>\
         <open/></validate>"
    ));
}

/// §5.
#[test]
fn archive_metadata() {
    let ends = [
        ("YWxwaGEg", 1_219_439_344_000),
        ("b21lZ2Eg", 1_587_393_261_000),
    ];
    assert_eq!(
        text(&metadata(Some(ends))),
        "<metadata xmlns='urn:xmpp:mam:2'>\
         <start id='YWxwaGEg' timestamp='2008-08-22T21:09:04Z'/>\
         <end id='b21lZ2Eg' timestamp='2020-04-20T14:34:21Z'/></metadata>"
    );
    assert_eq!(text(&metadata(None)), "<metadata xmlns='urn:xmpp:mam:2'/>");
}

/// §4.2.
#[test]
fn results() {
    let stored = stanza(
        "<message to='juliet@capulet.lit/balcony' from='romeo@montague.lit/orchard' type='chat'>\
         <body>Call me but love</body></message>",
    );
    let message = result(
        "juliet@capulet.lit",
        "juliet@capulet.lit/chamber",
        Some("f'27"),
        "28482-98726-73623",
        1_278_803_305_000,
        &stored,
    );
    assert!(message.child(ns::MAM, "result").is_some());
    let message = reread(&message);
    assert_eq!(message.attr("to"), Some("juliet@capulet.lit/chamber"));
    let result = message.child("result", ns::MAM).unwrap();
    assert_eq!(result.attr("queryid"), Some("f'27"));
    assert_eq!(result.attr("id"), Some("28482-98726-73623"));
    let forwarded = result.child("forwarded", ns::FORWARD).unwrap();
    let forwarded = super::super::forward::Forwarded::parse(forwarded).unwrap();
    assert_eq!(forwarded.delay, Some(Delay::new(None, 1_278_803_305_000)));
    assert_eq!(
        forwarded.stanza.attr("from"),
        Some("romeo@montague.lit/orchard")
    );
    assert_eq!(
        forwarded.stanza.child("body", ns::CLIENT).unwrap().text(),
        "Call me but love"
    );
}

/// §4.3.2.
#[test]
fn ends() {
    let page = Page {
        first: Some("23452-4534-1".to_owned()),
        last: Some("390-2342-22".to_owned()),
        first_index: Some(0),
        count: Some(16),
    };
    let set = text(&page.to_element());
    assert_eq!(
        text(&fin(&page, true, true)),
        format!("<fin xmlns='urn:xmpp:mam:2' complete='true'>{set}</fin>")
    );
    assert_eq!(
        text(&fin(&page, false, false)),
        format!("<fin xmlns='urn:xmpp:mam:2' stable='false'>{set}</fin>")
    );
}
