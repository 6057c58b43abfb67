//! Streams that must end, and their stream errors (RFC 6120 §4.9.3).
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{bytewise, condition_of, feed, rxml_accepts, whole, without_whitespace};
use sestina_xmpp::stream::StreamCondition::{self, *};
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser, WsParser};

#[test]
fn bodies_that_are_refused() {
    let cases: &[(&[u8], StreamCondition)] = &[
        (b"<message><body>\x01</body></message>", NotWellFormed),
        (
            b"<message><body>\xEF\xBF\xBE</body></message>",
            NotWellFormed,
        ),
        (b"<message><body>&#0;</body></message>", NotWellFormed),
        (b"<message><body>&#xD800;</body></message>", NotWellFormed),
        (b"<message><body>&#xFFFF;</body></message>", NotWellFormed),
        (b"<message><body>&#;</body></message>", NotWellFormed),
        (b"<message><body>& </body></message>", NotWellFormed),
        (b"<message><body>&amp</body></message>", NotWellFormed),
        (b"<message><body>]]></body></message>", NotWellFormed),
        (b"<message a='\x02'/>", NotWellFormed),
        (b"<message a='<'/>", NotWellFormed),
        (b"<message a='&'/>", NotWellFormed),
        (b"<message a=b/>", NotWellFormed),
        (b"<message a/>", NotWellFormed),
        (b"<message a='1'b='2'/>", NotWellFormed),
        (b"<message a='1' a='2'/>", NotWellFormed),
        (
            b"<message xmlns:p='u' xmlns:q='u' p:a='1' q:a='2'/>",
            NotWellFormed,
        ),
        (
            b"<message xmlns='jabber:client' xmlns='jabber:client'/>",
            NotWellFormed,
        ),
        (b"<message p:a='1'/>", NotWellFormed),
        (b"<message><p:x/></message>", NotWellFormed),
        (b"<message><x xmlns:p='u'/><p:y/></message>", NotWellFormed),
        (b"<message><1a/></message>", NotWellFormed),
        (b"<message><-a/></message>", NotWellFormed),
        (b"<message><a:b:c xmlns:a='u'/></message>", NotWellFormed),
        (b"<message><:a/></message>", NotWellFormed),
        (b"<message><a:/></message>", NotWellFormed),
        ("<message><×/></message>".as_bytes(), NotWellFormed),
        ("<message><a\u{2028}/></message>".as_bytes(), NotWellFormed),
        ("<message><a\u{FEFF}/></message>".as_bytes(), NotWellFormed),
        (b"<message><a:1b xmlns:a='u'/></message>", NotWellFormed),
        (b"<message 1a='b'/>", NotWellFormed),
        (b"<message>< a/></message>", NotWellFormed),
        (b"<message><a / ></message>", NotWellFormed),
        (b"<message><body></message>", NotWellFormed),
        (b"<message></Message>", NotWellFormed),
        (b"<message></message x>", NotWellFormed),
        (b"<message xmlns:p='u'><p:x></q:x></message>", NotWellFormed),
        (b"<message xmlns:p=''/>", NotWellFormed),
        (b"<message xmlns:xml='u'/>", NotWellFormed),
        (
            b"<message xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
            NotWellFormed,
        ),
        (
            b"<message xmlns='http://www.w3.org/XML/1998/namespace'/>",
            NotWellFormed,
        ),
        (b"<message xmlns:xmlns='u'/>", NotWellFormed),
        (
            b"<message xmlns:p='http://www.w3.org/2000/xmlns/'/>",
            NotWellFormed,
        ),
        (
            b"<message xmlns:p='http://www.w3.org/2000/xmlns&#47;'/>",
            NotWellFormed,
        ),
        (b"<message><xmlns:x/></message>", NotWellFormed),
        (b"<message><xml:x/></message>", BadNamespacePrefix),
        (b"<message><![CDATB[x]]></message>", NotWellFormed),
        (b"<message><![cdata[x]]></message>", NotWellFormed),
        (b"</stream:strean>", NotWellFormed),
        (b"</message>", NotWellFormed),
        (b"</stream:stream a='b'>", NotWellFormed),
        (b"</stream:streams>", NotWellFormed),
        (b"<message><body>\xFF</body></message>", UnsupportedEncoding),
        (
            b"<message><body>\xC0\x80</body></message>",
            UnsupportedEncoding,
        ),
        (
            b"<message><body>\xED\xA0\x80</body></message>",
            UnsupportedEncoding,
        ),
        (b"<message><\xFF/></message>", UnsupportedEncoding),
        (b"<message xmlns:p='\xFF'/>", UnsupportedEncoding),
        (b"<message><!-- c --></message>", RestrictedXml),
        (b"<!-- c -->", RestrictedXml),
        (b"<!DOCTYPE x>", RestrictedXml),
        (b"<message><!DOCTYPE x></message>", RestrictedXml),
        (b"<message><!ENTITY x 'y'></message>", RestrictedXml),
        (b"<message><?php x?></message>", RestrictedXml),
        (b"<?xml version='1.0'?>", RestrictedXml),
        (b"<message><body>&nbsp;</body></message>", RestrictedXml),
        (b"<message a='&lol;'/>", RestrictedXml),
        (b"text", BadFormat),
        (b"\0", BadFormat),
        (b"<![CDATA[x]]>", BadFormat),
        (b"<message/>text", BadFormat),
        (b"<a xmlns='urn:xmpp:sm:3'/>", BadFormat),
        (b"<a xmlns='urn:xmpp:sm:3' h='-1'/>", BadFormat),
        (b"<a xmlns='urn:xmpp:sm:3' h='+1'/>", BadFormat),
        (b"<a xmlns='urn:xmpp:sm:3' h='4294967296'/>", BadFormat),
    ];
    for (body, expected) in cases {
        let shown = String::from_utf8_lossy(body);
        assert_eq!(condition_of(body), Some(*expected), "{shown}");
    }
}

#[test]
fn a_fault_needs_no_more_input_than_what_is_wrong() {
    for body in [
        "<message><body></message>",
        "<message a='<",
        "<message a='&;",
        "<message><!-",
        "<message><?",
        "<message><body>]]>",
        "<message><1a ",
        "<message><p:x>",
        "<message a='' a=''>",
    ] {
        assert!(condition_of(body.as_bytes()).is_some(), "{body}");
    }
}

#[test]
fn limits_are_kept() {
    let long = |n: usize| "x".repeat(n);
    let nested = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
    let attributes = |n: usize| {
        let attrs: Vec<String> = (0..n).map(|i| format!(" a{i}=''")).collect();
        format!("<message{}/>", attrs.concat())
    };
    let namespaces = |n: usize| {
        let attrs: Vec<String> = (0..n).map(|i| format!(" xmlns:a{i}='u'")).collect();
        format!("<message{}/>", attrs.concat())
    };
    let sized = |n: usize| {
        let around = "<message><body></body></message>".len();
        format!("<message><body>{}</body></message>", long(n - around))
    };
    let limits = Limits::default();
    // The header declares two namespaces.
    let cases = [
        (sized(limits.bytes), sized(limits.bytes + 1)),
        (nested(limits.depth), nested(limits.depth + 1)),
        (
            attributes(limits.attributes),
            attributes(limits.attributes + 1),
        ),
        (
            namespaces(limits.namespaces - 2),
            namespaces(limits.namespaces - 1),
        ),
        (
            format!("<{}/>", long(limits.name)),
            format!("<{}/>", long(limits.name + 1)),
        ),
        (
            format!("<m {}=''/>", long(limits.name)),
            format!("<m {}=''/>", long(limits.name + 1)),
        ),
        (
            format!("<m>&#{:0>27};</m>", 65),
            format!("<m>&#{:0>40};</m>", 65),
        ),
    ];
    for (fits, exceeds) in cases {
        let shown = &fits[..fits.len().min(60)];
        assert_eq!(condition_of(fits.as_bytes()), None, "{shown}");
        assert_eq!(
            condition_of(exceeds.as_bytes()),
            Some(PolicyViolation),
            "{shown}"
        );
    }
    // The stanza is refused even before it is complete.
    let endless = format!("<message><body>{}", long(limits.bytes));
    assert_eq!(condition_of(endless.as_bytes()), Some(PolicyViolation));
    let deep = "<a>".repeat(50_000);
    assert_eq!(condition_of(deep.as_bytes()), Some(PolicyViolation));
}

#[test]
fn a_lowered_limit_holds_for_what_is_half_read() {
    let mut parser = StreamParser::new(Limits::default());
    parser.push(common::HEADER.as_bytes());
    parser.push(format!("<message><body>{}", "x".repeat(20_000)).as_bytes());
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
    assert_eq!(parser.next(), Ok(None));
    parser.set_limits(Limits::unauthenticated());
    assert_eq!(parser.next().unwrap_err().condition, PolicyViolation);
    assert_eq!(parser.buffered(), 0);
}

#[test]
fn headers_that_are_refused() {
    const STREAM: &str = "xmlns:stream='http://etherx.jabber.org/streams'";
    let cases = [
        (
            format!("<stream:stream version='1.0' xmlns='jabber:server' {STREAM}>"),
            InvalidNamespace,
        ),
        (
            format!("<stream:stream version='1.0' {STREAM}>"),
            InvalidNamespace,
        ),
        (
            "<stream:stream version='1.0' xmlns='jabber:client' xmlns:stream='urn:x'>".into(),
            InvalidNamespace,
        ),
        (
            "<stream version='1.0' xmlns='jabber:client'>".into(),
            InvalidNamespace,
        ),
        (
            "<stream version='1.0' xmlns='http://etherx.jabber.org/streams'>".into(),
            BadNamespacePrefix,
        ),
        (
            "<s:stream version='1.0' xmlns='jabber:client' \
              xmlns:s='http://etherx.jabber.org/streams'>"
                .into(),
            BadNamespacePrefix,
        ),
        (
            format!("<stream:strea version='1.0' xmlns='jabber:client' {STREAM}>"),
            BadFormat,
        ),
        (
            format!("<stream:stream version='1.0' xmlns='jabber:client' {STREAM}/>"),
            BadFormat,
        ),
        (
            "<stream:stream version='1.0' xmlns='jabber:client'>".into(),
            NotWellFormed,
        ),
        (
            format!("<stream:stream xmlns='jabber:client' {STREAM}>"),
            UnsupportedVersion,
        ),
        (
            format!("<stream:stream version='0.9' xmlns='jabber:client' {STREAM}>"),
            UnsupportedVersion,
        ),
        (
            format!("<stream:stream version='+1.0' xmlns='jabber:client' {STREAM}>"),
            UnsupportedVersion,
        ),
        (
            format!("<stream:stream to='a b' version='1.0' xmlns='jabber:client' {STREAM}>"),
            ImproperAddressing,
        ),
        (
            format!("<stream:stream to='a\u{1}' version='1.0' xmlns='jabber:client' {STREAM}>"),
            NotWellFormed,
        ),
        ("GET / HTTP/1.1\r\n".into(), NotWellFormed),
        ("\u{FEFF}<stream:stream>".into(), NotWellFormed),
        ("\u{16}\u{3}\u{1}".into(), NotWellFormed),
        (" <?xml version='1.0'?>".into(), RestrictedXml),
        (
            "<?xml version='1.0'?><?xml version='1.0'?>".into(),
            RestrictedXml,
        ),
        ("<?xml-stylesheet href='x'?>".into(), RestrictedXml),
        ("<?php".into(), RestrictedXml),
        ("<?xml version='1.1'?>".into(), NotWellFormed),
        ("<?xml encoding='utf-8'?>".into(), NotWellFormed),
        (
            "<?xml version='1.0' encoding='utf-8' x='y'?>".into(),
            NotWellFormed,
        ),
        (
            "<?xml version='1.0' standalone='maybe'?>".into(),
            NotWellFormed,
        ),
        (
            "<?xml version='1.0' encoding='ISO-8859-1'?>".into(),
            UnsupportedEncoding,
        ),
        (
            format!("<?xml version='1.0'{}", " ".repeat(300)),
            PolicyViolation,
        ),
        ("<!DOCTYPE stream>".into(), RestrictedXml),
        ("<!-- hi -->".into(), RestrictedXml),
        ("</stream:stream>".into(), NotWellFormed),
        (
            format!("<stream:stream a='{}", "x".repeat(300_000)),
            PolicyViolation,
        ),
    ];
    for (header, expected) in cases {
        let outcome = without_whitespace(whole(header.as_bytes()));
        assert_eq!(
            outcome,
            without_whitespace(bytewise(header.as_bytes())),
            "{header}"
        );
        let condition = outcome.1.map(|fault| fault.condition);
        assert_eq!((outcome.0, condition), (vec![], Some(expected)), "{header}");
    }
}

#[test]
fn websocket_messages_that_are_refused() {
    const OPEN: &str =
        "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a.example' version='1.0'/>";
    let cases = [
        ("", NotWellFormed),
        (" ", BadFormat),
        (" <message xmlns='jabber:client'/>", BadFormat),
        ("<message xmlns='jabber:client'/> ", NotWellFormed),
        (
            "<message xmlns='jabber:client'/><message xmlns='jabber:client'/>",
            NotWellFormed,
        ),
        ("<message xmlns='jabber:client'>", NotWellFormed),
        ("</message>", NotWellFormed),
        ("<open xmlns='jabber:client'/>", InvalidNamespace),
        ("<close/>", InvalidNamespace),
        (
            "<ping xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
            BadFormat,
        ),
        (
            "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
            UnsupportedVersion,
        ),
        ("<stream:features/>", NotWellFormed),
        ("<?xml version='1.0'", NotWellFormed),
        ("<!-- c -->", RestrictedXml),
    ];
    for (message, expected) in cases {
        let mut parser = WsParser::new(Limits::default());
        assert!(matches!(
            parser.frame(OPEN.as_bytes()),
            Ok(StreamEvent::Open(_))
        ));
        let fault = parser.frame(message.as_bytes()).unwrap_err();
        assert_eq!(fault.condition, expected, "{message}");
        assert_eq!(
            parser.frame(OPEN.as_bytes()),
            Err(fault),
            "a fault is for good"
        );
    }
    let mut parser = WsParser::new(Limits::default());
    let fault = parser
        .frame(b"<message xmlns='jabber:client'/>")
        .unwrap_err();
    assert_eq!(fault.condition, BadFormat, "before <open/>");
    let mut parser = WsParser::new(Limits {
        bytes: 50,
        ..Limits::default()
    });
    assert_eq!(
        parser.frame(OPEN.as_bytes()).unwrap_err().condition,
        PolicyViolation
    );
}

#[test]
fn nothing_comes_after_a_fault_or_the_end() {
    let mut parser = StreamParser::new(Limits::default());
    parser.push(b"x");
    let fault = parser.next().unwrap_err();
    parser.push(common::HEADER.as_bytes());
    assert_eq!(parser.next(), Err(fault));
    let stream = format!("{}</stream:stream ><message/>x", common::HEADER);
    let (events, fault) = feed(Limits::default(), [stream.as_bytes(), b"<a"]);
    assert_eq!(
        (events.len(), events.last(), fault),
        (2, Some(&StreamEvent::Close), None)
    );
}

/// Unusual but well-formed elements, which both parsers accept.
#[test]
fn strange_elements_that_are_accepted() {
    for xml in [
        "<a b = 'c'\td\n=\r\"e'\" />",
        "<a></a >",
        "<a>]] > &gt; ]]&gt;</a>",
        "<a><![CDATA[]]]]><![CDATA[>]]></a>",
        "<a><![CDATA[<&]]]]]></a>",
        "<a b='>'>></a>",
        "<é ñ='&#x1F600;'>&#00065;</é>",
        "<p:a xmlns:p='u' xmlns='v' p:b='1' b='2'><p xmlns=''/></p:a>",
        "<a xml:lang='de' xml:space='preserve'/>",
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='u'><p:b xmlns:p='v' p:c=''/></a>",
        "<a xmlns:p='u' xmlns:q='v' p:c='' q:c='' c=''/>",
        "<a.b-c_d/>",
    ] {
        assert!(Element::parse(xml.as_bytes()).is_ok(), "{xml}");
        assert!(rxml_accepts(xml.as_bytes()), "{xml}");
    }
}
