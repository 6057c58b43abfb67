#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

#[test]
fn parts() {
    let full = jid("juliet@capulet.lit/balcony");
    assert_eq!(full.local(), Some("juliet"));
    assert_eq!(full.domain(), "capulet.lit");
    assert_eq!(full.resource(), Some("balcony"));
    assert_eq!(full.bare_str(), "juliet@capulet.lit");
    assert_eq!(full.bare().as_str(), "juliet@capulet.lit");
    assert_eq!(full.bare().resource(), None);
    assert!(full.bare().is_bare() && !full.is_bare());
    let host = jid("capulet.lit");
    assert_eq!(
        (host.local(), host.domain(), host.resource()),
        (None, "capulet.lit", None)
    );
    let host = jid("capulet.lit/a@b/c");
    assert_eq!((host.local(), host.domain()), (None, "capulet.lit"));
    assert_eq!(host.resource(), Some("a@b/c"));
}

/// RFC 7622 §3.5, tables 1 and 2, where nodeprep agrees with PRECIS in localparts.
#[test]
fn examples_of_rfc_7622() {
    for good in [
        "juliet@example.com",
        "juliet@example.com/foo",
        "juliet@example.com/foo bar",
        "juliet@example.com/foo@bar",
        "foo\\20bar@example.com",
        "fussball@example.com",
        "π@example.com",
        "πα@example.com",
        "king@example.com/♚",
        "king@example.com/🦀 👩‍💻",
        "king@example.com/Ⅳ",
        "example.com",
        "example.com/foobar",
        "a.example.com/b@example.net",
        "[2001:db8::1]/x",
        "u@127.0.0.1",
    ] {
        assert_eq!(jid(good).as_str(), good);
    }
    assert_eq!(jid("Σ@example.com").as_str(), "σ@example.com");
    for (bad, why) in [
        ("\"juliet\"@example.com", JidError::BadLocal),
        ("foo bar@example.com", JidError::BadLocal),
        ("juliet@example.com/", JidError::EmptyResource),
        ("@example.com/", JidError::EmptyLocal),
        ("@example.com", JidError::EmptyLocal),
        ("@", JidError::EmptyLocal),
        ("", JidError::EmptyDomain),
        ("/res", JidError::EmptyDomain),
        ("juliet@", JidError::EmptyDomain),
        ("juliet@.", JidError::EmptyDomain),
        ("juliet@a@b", JidError::BadDomain),
        ("juliet@exa mple.com", JidError::BadDomain),
        ("juliet@a..b", JidError::BadDomain),
        ("juliet@example.com..", JidError::BadDomain),
        ("juliet@-a.b", JidError::BadDomain),
        ("juliet@a-.b", JidError::BadDomain),
        ("juliet@[::1", JidError::BadDomain),
        ("juliet@[nonsense]", JidError::BadDomain),
        ("juliet@xn--a.example", JidError::BadDomain),
        ("a\u{0}b@example.com", JidError::BadLocal),
        ("a@example.com/\u{7f}", JidError::BadResource),
        ("a@example.com/\n", JidError::BadResource),
        ("a@example.com/\u{200b}", JidError::BadResource),
        // Private use (RFC 3454 table C.3).
        ("a\u{e000}@example.com", JidError::BadLocal),
        // Only characters that nodeprep maps to nothing.
        ("\u{ad}@example.com", JidError::EmptyLocal),
    ] {
        assert_eq!(Jid::parse(bad), Err(why), "{bad:?}");
    }
}

#[test]
fn normalises() {
    for (written, normal) in [
        ("Juliet@Capulet.LIT/Balcony", "juliet@capulet.lit/Balcony"),
        ("Juliet@capulet.lit.", "juliet@capulet.lit"),
        ("capulet.lit./x", "capulet.lit/x"),
        ("a@BÜCHER.example", "a@bücher.example"),
        ("a@xn--bcher-kva.example", "a@bücher.example"),
        ("a@XN--BCHER-KVA.example", "a@bücher.example"),
        // Two domains of the DNS stay different.
        ("a@straße.example", "a@straße.example"),
        ("a@xn--strae-oqa.example", "a@straße.example"),
        ("a@strasse.example", "a@strasse.example"),
        // Nodeprep folds more than case.
        ("straße@example.com", "strasse@example.com"),
        ("ａbc@example.com", "abc@example.com"),
        ("a@ｅxample。com", "a@example.com"),
        ("a@example.com。", "a@example.com"),
        ("a@[2001:DB8:0::1]", "a@[2001:db8::1]"),
        ("a@my_host.local", "a@my_host.local"),
        ("a@example.com/A\u{30a}\u{a0}B", "a@example.com/Å B"),
    ] {
        assert_eq!(jid(written).as_str(), normal, "{written}");
    }
    // The full-width '@' and '/' of NFKC must not make new parts.
    assert_eq!(Jid::parse("a＠b@example.com"), Err(JidError::BadLocal));
    assert_eq!(Jid::parse("a／b@example.com"), Err(JidError::BadLocal));
    assert_eq!(Jid::parse("a@b／c"), Err(JidError::BadDomain));
}

#[test]
fn lengths() {
    let long = "a".repeat(MAX_PART_LEN);
    let domain = [&"b".repeat(63)[..]; 15].join(".");
    assert_eq!(
        jid(&format!("{long}@{domain}/{long}")).local(),
        Some(&long[..])
    );
    assert_eq!(
        Jid::parse(&format!("{long}a@b")),
        Err(JidError::LocalTooLong)
    );
    assert_eq!(
        Jid::parse(&format!("a@b/{long}a")),
        Err(JidError::ResourceTooLong)
    );
    assert_eq!(
        Jid::parse(&format!("a@{}", "b".repeat(64))),
        Err(JidError::BadDomain)
    );
    assert_eq!(
        Jid::parse(&format!("a@{domain}.{domain}")),
        Err(JidError::DomainTooLong)
    );
    // Grows under NFC: one character of 4 bytes becomes two of 8 bytes.
    let grows = "\u{1d15e}".repeat(200);
    assert_eq!(
        Jid::parse(&format!("a@b/{grows}")),
        Err(JidError::ResourceTooLong)
    );
}

#[test]
fn builds() {
    assert_eq!(
        Jid::new(Some("A"), "B.c", Some("D")).unwrap().as_str(),
        "a@b.c/D"
    );
    assert_eq!(Jid::new(Some("a@b"), "c", None), Err(JidError::BadLocal));
    assert_eq!(Jid::new(None, "c/d", None), Err(JidError::BadDomain));
    let jid = jid("a@b/old");
    assert_eq!(jid.with_resource("new/x").unwrap().as_str(), "a@b/new/x");
    assert_eq!(jid.with_resource(""), Err(JidError::EmptyResource));
}

#[test]
fn compares_by_string() {
    let mut set = std::collections::HashSet::new();
    set.insert(jid("a@b/c"));
    assert!(set.contains("a@b/c"));
    assert!(set.contains(&jid("A@B/c")));
    assert!(!set.contains("a@b"));
    assert!(jid("a@b") < jid("a@b/c") && jid("a@b/c") < jid("b"));
}

proptest! {
    #[test]
    fn parsing_is_idempotent(text in "\\PC{0,40}") {
        if let Ok(once) = Jid::parse(&text) {
            let twice = Jid::parse(once.as_str());
            prop_assert_eq!(twice.as_ref(), Ok(&once));
            let again = Jid::new(once.local(), once.domain(), once.resource());
            prop_assert_eq!(again.as_ref(), Ok(&once));
        }
    }

    #[test]
    fn parsing_is_idempotent_in_each_part(
        local in "[a-zA-ZäÖßſKİıΣς\u{ad}\u{fdfa}Ⅸﬃ0-9.]{1,8}",
        domain in "[a-zA-ZäÖßſKİıΣς0-9.．xn-]{1,12}",
        resource in "\\PC{1,8}",
    ) {
        if let Ok(once) = Jid::parse(&format!("{local}@{domain}/{resource}")) {
            let twice = Jid::parse(once.as_str());
            prop_assert_eq!(twice.as_ref(), Ok(&once));
            prop_assert_eq!(once.bare(), Jid::from_wire(once.bare_str()));
        }
    }

    #[test]
    fn from_wire_never_panics(text in any::<String>()) {
        let jid = Jid::from_wire(&text);
        prop_assert_eq!(jid.as_str(), &text[..]);
        let mut joined = jid.local().map(|l| format!("{l}@")).unwrap_or_default();
        joined.push_str(jid.domain());
        if let Some(resource) = jid.resource() {
            joined.push('/');
            joined.push_str(resource);
        }
        prop_assert_eq!(joined, text);
    }

    #[test]
    fn the_fast_path_agrees_with_the_tables(local in "[ -~]{1,12}") {
        let slow = stringprep::nodeprep(&local).ok().map(Cow::into_owned);
        let ours = prepare_local(&local).ok().map(Cow::into_owned);
        prop_assert_eq!(ours, slow);
    }
}
