//! What the log says of failed logins.

use sestina_telemetry::testing::Lines;

use super::client::SECURE;
use super::rig::Rig;

const PAGE: &str = include_str!("../../../../docs/operations.md");

/// The expression for fail2ban in docs/operations.md, as Python would read it.
fn failregex() -> regex::Regex {
    let line = PAGE
        .lines()
        .find_map(|line| line.strip_prefix("failregex = "));
    let line = line.expect("docs/operations.md holds a failregex");
    assert!(line.contains("<ADDR>"), "{line}");
    regex::Regex::new(&line.replace("<ADDR>", "(?P<address>[0-9a-fA-F.:]+)")).unwrap()
}

#[tokio::test]
async fn a_failed_login_leaves_one_line_that_fail2ban_understands() {
    let lines = Lines::start();
    let rig = Rig::new(1).await;
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client.plain("juliet", "not her password").await;
    client.until("</failure>").await;
    let failed = lines.with("login failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    let line = &failed[0];
    assert!(line.contains(" INFO "), "{line}");
    for part in [
        "peer=127.0.0.1 ",
        "host=c.example ",
        "account=juliet@c.example ",
        "mechanism=PLAIN ",
        "reason=not-authorized",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    let found = failregex().captures(line).expect("the expression matches");
    assert_eq!(&found["address"], "127.0.0.1");
}

#[tokio::test]
async fn names_that_are_no_account_or_mechanism_are_not_in_the_log() {
    let lines = Lines::start();
    let rig = Rig::new(1).await;
    let mut client = rig.client(SECURE).await;
    client.open("c.example").await;
    client.plain("typed-pass-word-1", "typed-pass-word-2").await;
    client.until("</failure>").await;
    client
        .send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='NO reason=x'/>")
        .await;
    client.until("</failure>").await;
    let failed = lines.with("login failed");
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains("account=unknown "), "{}", failed[0]);
    assert!(failed[1].contains("mechanism=unknown "), "{}", failed[1]);
    assert!(failregex().is_match(&failed[0]));
    assert!(!failregex().is_match(&failed[1]), "no password was tried");
    assert_eq!(lines.with("typed-pass-word"), Vec::<String>::new());
    assert_eq!(lines.with("NO reason"), Vec::<String>::new());
}
