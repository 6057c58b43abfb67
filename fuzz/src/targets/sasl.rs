//! Messages of a client during SASL. The input has one message per line: the first for each
//! mechanism, the second as SCRAM's last message.

use sestina_xmpp::sasl::scram::ScramServer;
use sestina_xmpp::sasl::{BindingType, ChannelBinding, Mechanism};
use sestina_xmpp::sasl::{anonymous, keys, plain, wire};

const MECHANISMS: [&str; 4] = [
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
];

/// See the module.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(2, |&byte| byte == b'\n');
    let first = lines.next().unwrap_or(&[]);
    let last = lines.next().unwrap_or(&[]);
    if let Ok(text) = std::str::from_utf8(first)
        && let Ok(decoded) = wire::decode(text)
    {
        assert_eq!(wire::decode(&wire::encode(&decoded)), Ok(decoded));
    }
    if let Ok(plain) = plain::parse(first) {
        let mut again = plain.authzid.clone().unwrap_or_default().into_bytes();
        again.push(0);
        again.extend_from_slice(plain.username.as_bytes());
        again.push(0);
        again.extend_from_slice(plain.password.as_bytes());
        assert_eq!(again, first, "plain loses nothing");
        // Preparing the user name must not panic either.
        let _jid = keys::authenticated_jid(&plain.username, "a.example", plain.authzid.as_deref());
    }
    let _trace = anonymous::parse(first);
    for mechanism in MECHANISMS {
        let mechanism = Mechanism::parse(mechanism).expect("it is the name of a mechanism");
        scram(mechanism, first, last);
    }
}

fn scram(mechanism: Mechanism, first: &[u8], last: &[u8]) {
    let binding = ChannelBinding {
        kind: BindingType::TlsExporter,
        data: vec![7; 32],
    };
    let server = ScramServer::new(mechanism, "a.example", true, vec![binding])
        .expect("the mechanism is a scram");
    let Ok((jid, step)) = server.client_first(first) else {
        return;
    };
    assert_eq!(jid.domain(), "a.example");
    assert!(jid.is_bare() && jid.local().is_some());
    let keys = keys::fake_keys(b"secret", jid.as_str(), step.hash(), 4096);
    let Ok((challenge, step)) = step.with_keys(keys, "3rfcNHYJY1ZVvWVs7j") else {
        return;
    };
    assert!(std::str::from_utf8(&challenge).is_ok());
    assert!(
        step.client_final(last).is_err(),
        "no proof fits unknown keys"
    );
}
