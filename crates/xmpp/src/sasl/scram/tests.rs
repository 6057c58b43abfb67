#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::sasl::keys::{ScramKeys, fake_keys};
use crate::sasl::{BindingType, ChannelBinding, Hash, Mechanism, SaslFailure};

const HOST: &str = "example.com";

fn server(mechanism: Mechanism) -> ScramServer {
    ScramServer::new(mechanism, HOST, false, Vec::new()).unwrap()
}

fn salt(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn bound(kind: BindingType, data: &[u8]) -> ChannelBinding {
    ChannelBinding {
        kind,
        data: data.to_vec(),
    }
}

fn both_sides_agree(
    mechanism: Mechanism,
    client_nonce: &str,
    server_nonce: &str,
    salt_text: &str,
    messages: [&str; 4],
) {
    let [client_first, server_first, client_final, server_final] = messages;
    let hash = mechanism.hash().unwrap();
    let client = ScramClient::new(
        hash,
        "user",
        "pencil",
        None,
        ClientBinding::Unsupported,
        client_nonce,
    );
    assert_eq!(client.client_first(), client_first.as_bytes());
    let (jid, step) = server(mechanism)
        .client_first(client_first.as_bytes())
        .unwrap();
    assert_eq!(jid.as_str(), "user@example.com");
    assert_eq!(step.hash(), hash);
    let keys = ScramKeys::derive("pencil", hash, &salt(salt_text), 4096).unwrap();
    let (challenge, step) = step.with_keys(keys, server_nonce).unwrap();
    assert_eq!(std::str::from_utf8(&challenge).unwrap(), server_first);
    let (response, client) = client.server_first(&challenge).unwrap();
    assert_eq!(std::str::from_utf8(&response).unwrap(), client_final);
    let success = step.client_final(&response).unwrap();
    assert_eq!(std::str::from_utf8(&success).unwrap(), server_final);
    client.server_final(&success).unwrap();
}

/// RFC 5802 §5.
#[test]
fn vector_sha1() {
    both_sides_agree(
        Mechanism::ScramSha1,
        "fyko+d2lbbFgONRv9qkxdawL",
        "3rfcNHYJY1ZVvWVs7j",
        "QSXCR+Q6sek8bf92",
        [
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ],
    );
}

/// RFC 7677 §3.
#[test]
fn vector_sha256() {
    both_sides_agree(
        Mechanism::ScramSha256,
        "rOprNGfwEbeRWgbNEkqO",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        [
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ],
    );
}

/// Runs an exchange between this crate's client and server; returns the result of the server.
fn exchange(
    mechanism: Mechanism,
    server_bindings: Vec<ChannelBinding>,
    client_binding: ClientBinding,
    keys: ScramKeys,
    change: impl Fn(String) -> String,
) -> Result<(), SaslFailure> {
    let hash = mechanism.hash().unwrap();
    let plus_offered = !server_bindings.is_empty();
    let server = ScramServer::new(mechanism, HOST, plus_offered, server_bindings).unwrap();
    let client = ScramClient::new(
        hash,
        "user",
        "pencil",
        Some("user@example.com"),
        client_binding,
        &random_nonce(),
    );
    let (_, step) = server.client_first(&client.client_first())?;
    let (challenge, step) = step.with_keys(keys, &random_nonce())?;
    let (response, client) = client.server_first(&challenge).unwrap();
    let success = step.client_final(change(String::from_utf8(response).unwrap()).as_bytes())?;
    client.server_final(&success).unwrap();
    Ok(())
}

fn keys(hash: Hash) -> ScramKeys {
    ScramKeys::derive("pencil", hash, b"0123456789abcdef", 100).unwrap()
}

#[test]
fn channel_binding() {
    let exporter = bound(BindingType::TlsExporter, b"exported");
    let end_point = bound(BindingType::TlsServerEndPoint, b"certificate");
    let known = || vec![exporter.clone(), end_point.clone()];
    for (mechanism, hash) in [
        (Mechanism::ScramSha1Plus, Hash::Sha1),
        (Mechanism::ScramSha256Plus, Hash::Sha256),
    ] {
        let run = |bindings, client| exchange(mechanism, bindings, client, keys(hash), |m| m);
        for binding in known() {
            assert_eq!(run(known(), ClientBinding::Bound(binding)), Ok(()));
        }
        // Another channel: an attacker in the middle.
        let other = ClientBinding::Bound(bound(BindingType::TlsExporter, b"something else"));
        assert_eq!(run(known(), other), Err(SaslFailure::NotAuthorized));
        // A type that this connection does not have.
        let missing = ClientBinding::Bound(exporter.clone());
        assert_eq!(
            run(vec![end_point.clone()], missing),
            Err(SaslFailure::MalformedRequest)
        );
        // A -PLUS mechanism without binding.
        for flag in [ClientBinding::Unsupported, ClientBinding::NotOffered] {
            assert_eq!(run(known(), flag), Err(SaslFailure::MalformedRequest));
        }
    }
}

/// RFC 5802 §6: `y` while -PLUS was offered is a downgrade.
#[test]
fn downgrade() {
    let offered = || vec![bound(BindingType::TlsExporter, b"exported")];
    let run = |bindings, flag| {
        exchange(
            Mechanism::ScramSha256,
            bindings,
            flag,
            keys(Hash::Sha256),
            |m| m,
        )
    };
    assert_eq!(
        run(offered(), ClientBinding::NotOffered),
        Err(SaslFailure::MalformedRequest)
    );
    assert_eq!(run(Vec::new(), ClientBinding::NotOffered), Ok(()));
    assert_eq!(run(offered(), ClientBinding::Unsupported), Ok(()));
    let binding = ClientBinding::Bound(bound(BindingType::TlsExporter, b"exported"));
    assert_eq!(run(offered(), binding), Err(SaslFailure::MalformedRequest));
    // The signed message contains the flag, so a change on the way is noticed.
    let forged = |message: String| {
        message.replacen(
            &format!("c={}", STANDARD.encode("y,a=user@example.com,")),
            &format!("c={}", STANDARD.encode("n,a=user@example.com,")),
            1,
        )
    };
    let outcome = exchange(
        Mechanism::ScramSha256,
        Vec::new(),
        ClientBinding::NotOffered,
        keys(Hash::Sha256),
        forged,
    );
    assert_eq!(outcome, Err(SaslFailure::NotAuthorized));
}

#[test]
fn wrong_proofs() {
    let run = |keys, change: &dyn Fn(String) -> String| {
        exchange(
            Mechanism::ScramSha256,
            Vec::new(),
            ClientBinding::Unsupported,
            keys,
            change,
        )
    };
    let good = || keys(Hash::Sha256);
    assert_eq!(run(good(), &|m| m), Ok(()));
    let wrong = ScramKeys::derive("Pencil", Hash::Sha256, b"0123456789abcdef", 100).unwrap();
    assert_eq!(run(wrong, &|m| m), Err(SaslFailure::NotAuthorized));
    let made_up = fake_keys(b"secret", "user@example.com", Hash::Sha256, 100);
    assert_eq!(run(made_up, &|m| m), Err(SaslFailure::NotAuthorized));
    assert_eq!(
        run(keys(Hash::Sha1), &|m| m),
        Err(SaslFailure::TemporaryAuthFailure)
    );
    assert_eq!(
        run(good(), &|m| m.replacen("r=", "r=x", 1)),
        Err(SaslFailure::NotAuthorized)
    );
    for (from, to) in [
        (",p=", ",m=x,p="),
        (",p=", ",,p="),
        (",p=", ",p=!"),
        (",p=", ",q="),
        ("c=", "C="),
        (",r=", ",s="),
        (",p=", ",p=AAAA,p="),
    ] {
        let outcome = run(good(), &|m| m.replacen(from, to, 1));
        assert_eq!(
            outcome,
            Err(SaslFailure::MalformedRequest),
            "{from} to {to}"
        );
    }
    let short = |m: String| {
        format!(
            "{}p={}",
            m.split_once("p=").unwrap().0,
            STANDARD.encode("x")
        )
    };
    assert_eq!(run(good(), &short), Err(SaslFailure::MalformedRequest));
    // The signed message contains optional extensions; the client did not sign this one.
    let extended = run(good(), &|m| m.replacen(",p=", ",x=y,p=", 1));
    assert_eq!(extended, Err(SaslFailure::NotAuthorized));
}

#[test]
fn first_messages() {
    let first = |message: &str| {
        server(Mechanism::ScramSha1)
            .client_first(message.as_bytes())
            .map(|(jid, _)| jid)
    };
    let jid = first("n,,n=a=2Cb=3Dc,r=x").unwrap();
    assert_eq!(jid.local(), Some("a,b=c"));
    assert!(first("n,a=u@example.com,n=u,r=x,x=ignored").is_ok());
    assert_eq!(
        first("n,a=v@example.com,n=u,r=x"),
        Err(SaslFailure::InvalidAuthzid)
    );
    assert_eq!(first("n,,n=a b,r=x"), Err(SaslFailure::NotAuthorized));
    for bad in [
        "",
        "n",
        "n,",
        "n,,",
        "n,,r=x,n=u",
        "n,,n=u",
        "n,,n=u,r=",
        "n,,n=,r=x",
        "n,,n=u,r=x y",
        "n,,n=u,r=\u{fc}",
        "n,,m=z,n=u,r=x",
        "n,,n=u,r=x,m=z",
        "n,,n=u=,r=x",
        "n,,n=u=2c,r=x",
        "n,,n=u,r=x,",
        "n,a=,n=u,r=x",
        "n,u,n=u,r=x",
        "z,,n=u,r=x",
        "p=,,n=u,r=x",
        "p=tls exporter,,n=u,r=x",
        "p=tls-exporter,,n=u,r=x",
        "N,,n=u,r=x",
        " n,,n=u,r=x",
    ] {
        assert_eq!(first(bad), Err(SaslFailure::MalformedRequest), "{bad:?}");
    }
    let not_utf8 = server(Mechanism::ScramSha1)
        .client_first(b"n,,n=\xff,r=x")
        .map(|_| ());
    assert_eq!(not_utf8, Err(SaslFailure::MalformedRequest));
    let long = format!("n,,n=u,r={}", "x".repeat(513));
    assert_eq!(first(&long), Err(SaslFailure::MalformedRequest));
    assert!(ScramServer::new(Mechanism::Plain, HOST, false, Vec::new()).is_none());
}

#[test]
fn the_client_checks_the_server() {
    let client = || {
        ScramClient::new(
            Hash::Sha1,
            "user",
            "pencil",
            None,
            ClientBinding::Unsupported,
            "abc",
        )
    };
    let failure = |message: &str| {
        client()
            .server_first(message.as_bytes())
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(failure("r=abd1,s=AAAA,i=4096"), SaslFailure::Aborted);
    assert_eq!(failure("r=abc,s=AAAA,i=4096"), SaslFailure::Aborted);
    assert_eq!(failure("r=abc1,s=AAAA,i=1000000000"), SaslFailure::Aborted);
    for bad in [
        "r=abc1,s=AAAA,i=0",
        "r=abc1,s=AAAA,i=+5",
        "r=abc1,s=,i=5",
        "r=abc1,i=5",
    ] {
        assert_eq!(failure(bad), SaslFailure::MalformedRequest, "{bad}");
    }
    let (_, next) = client().server_first(b"r=abc1,s=AAAA,i=5").unwrap();
    assert_eq!(next.server_final(b"v=AAAA"), Err(SaslFailure::Aborted));
}

#[test]
fn nonces_are_fresh() {
    let (one, two) = (random_nonce(), random_nonce());
    assert_ne!(one, two);
    assert!(one.len() >= 24 && !one.contains(','));
}

proptest! {
    #[test]
    fn nothing_a_client_sends_panics_or_gets_in(
        flag in "[nyp=,a-z-]{0,8}",
        bare in "\\PC{0,20}|n=[a-z=2CD,]{0,8},r=\\PC{0,8}",
        last in "\\PC{0,30}|c=biws,r=\\PC{0,8},p=[A-Za-z0-9+/=]{0,44}",
    ) {
        let first = format!("{flag},,{bare}");
        if let Ok((jid, step)) = server(Mechanism::ScramSha1).client_first(first.as_bytes()) {
            prop_assert_eq!(jid.domain(), HOST);
            let keys = fake_keys(b"secret", jid.as_str(), Hash::Sha1, 4096);
            let (challenge, step) = step.with_keys(keys, "nonce").unwrap();
            prop_assert!(std::str::from_utf8(&challenge).is_ok());
            prop_assert!(step.client_final(last.as_bytes()).is_err());
        }
    }
}
