//! SASL on the client's side: ANONYMOUS, PLAIN, SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, 7677),
//! without channel binding.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::stream::{Stream, condition};
use crate::xml::tree::Element;

const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// A higher number of rounds is refused: it would only serve a hostile server.
const MAX_ROUNDS: u32 = 1_000_000;

/// The mechanism of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum Mechanism {
    /// The strongest that both the server and this client support.
    #[default]
    #[serde(rename = "auto")]
    #[value(name = "auto")]
    Auto,
    /// No account: the server chooses the address.
    #[serde(rename = "ANONYMOUS")]
    #[value(name = "ANONYMOUS")]
    Anonymous,
    /// The password itself.
    #[serde(rename = "PLAIN")]
    #[value(name = "PLAIN")]
    Plain,
    /// Challenge and response over SHA-1.
    #[serde(rename = "SCRAM-SHA-1")]
    #[value(name = "SCRAM-SHA-1")]
    ScramSha1,
    /// Challenge and response over SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
}

/// The account of a login.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The mechanism.
    pub mechanism: Mechanism,
    /// Local part of the account's address; unused with ANONYMOUS.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// Runs the exchange on a stream whose `features` were just read.
///
/// # Errors
/// When the server refuses, or fails to prove that it knows the password.
pub async fn authenticate(
    stream: &mut Stream,
    features: &Element,
    who: &Credentials,
) -> Result<()> {
    let offered: Vec<&str> = features
        .child("mechanisms", SASL)
        .map(|list| {
            list.children
                .iter()
                .map(|mechanism| mechanism.text.trim())
                .collect()
        })
        .unwrap_or_default();
    match choose(who.mechanism, &offered)? {
        Mechanism::Anonymous => {
            // "=" is an empty initial response (RFC 6120 §6.4.2); without it the server must send a
            // challenge.
            let auth = format!("<auth xmlns='{SASL}' mechanism='ANONYMOUS'>=</auth>");
            stream.send(auth.as_bytes())?;
            success(stream).await.map(drop)
        }
        Mechanism::Plain | Mechanism::Auto => {
            let message = format!("\0{}\0{}", who.user, who.password);
            send(stream, Some("PLAIN"), &message)?;
            success(stream).await.map(drop)
        }
        Mechanism::ScramSha1 => scram::<Sha1Kind>(stream, who).await,
        Mechanism::ScramSha256 => scram::<Sha256Kind>(stream, who).await,
    }
}

fn choose(wanted: Mechanism, offered: &[&str]) -> Result<Mechanism> {
    const STRONGEST_FIRST: [(Mechanism, &str); 4] = [
        (Mechanism::ScramSha256, "SCRAM-SHA-256"),
        (Mechanism::ScramSha1, "SCRAM-SHA-1"),
        (Mechanism::Plain, "PLAIN"),
        (Mechanism::Anonymous, "ANONYMOUS"),
    ];
    STRONGEST_FIRST
        .iter()
        .filter(|(mechanism, _)| match wanted {
            Mechanism::Auto => *mechanism != Mechanism::Anonymous,
            wanted => *mechanism == wanted,
        })
        .find(|(_, name)| offered.contains(name))
        .map(|(mechanism, _)| *mechanism)
        .with_context(|| format!("the server offers {offered:?}, which does not suit {wanted:?}"))
}

fn send(stream: &Stream, mechanism: Option<&str>, data: &str) -> Result<()> {
    let data = STANDARD.encode(data);
    stream.send(
        match mechanism {
            Some(name) => format!("<auth xmlns='{SASL}' mechanism='{name}'>{data}</auth>"),
            None => format!("<response xmlns='{SASL}'>{data}</response>"),
        }
        .as_bytes(),
    )
}

async fn receive(stream: &mut Stream, name: &str) -> Result<String> {
    let answer = stream.next_element().await?;
    if answer.is("failure", SASL) {
        bail!("authentication failed: {}", condition(&answer));
    }
    ensure!(
        answer.is(name, SASL),
        "expected <{name}/>, got <{}/>",
        answer.name
    );
    let data = STANDARD
        .decode(answer.text.trim())
        .context("SASL data is not base64")?;
    String::from_utf8(data).context("SASL data is not UTF-8")
}

async fn success(stream: &mut Stream) -> Result<String> {
    receive(stream, "success").await
}

async fn scram<H: Hash>(stream: &mut Stream, who: &Credentials) -> Result<()> {
    let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
    let user = who.user.replace('=', "=3D").replace(',', "=2C");
    let bare = format!("n={user},r={nonce}");
    send(stream, Some(H::NAME), &format!("n,,{bare}"))?;
    let challenge = receive(stream, "challenge").await?;
    let (answer, signature) = respond::<H>(&bare, &nonce, &challenge, &who.password)?;
    send(stream, None, &answer)?;
    let last = success(stream).await?;
    let proof = last.split(',').find_map(|part| part.strip_prefix("v="));
    ensure!(
        proof == Some(STANDARD.encode(signature).as_str()),
        "the server did not prove that it knows the password"
    );
    Ok(())
}

/// The client's final message and the signature expected from the server.
fn respond<H: Hash>(
    bare: &str,
    nonce: &str,
    challenge: &str,
    password: &str,
) -> Result<(String, Vec<u8>)> {
    let part = |key: &str| challenge.split(',').find_map(|part| part.strip_prefix(key));
    let full_nonce = part("r=").context("the challenge has no nonce")?;
    ensure!(
        full_nonce.len() > nonce.len() && full_nonce.starts_with(nonce),
        "the challenge does not extend our nonce"
    );
    let salt = STANDARD.decode(part("s=").context("the challenge has no salt")?)?;
    let rounds: u32 = part("i=")
        .context("the challenge has no iteration count")?
        .parse()?;
    ensure!(
        (1..=MAX_ROUNDS).contains(&rounds),
        "{rounds} iterations are out of range"
    );

    let salted = salted_password::<H>(password, &salt, rounds);
    let client_key = H::hmac(&salted, b"Client Key");
    let without_proof = format!("c=biws,r={full_nonce}");
    let message = format!("{bare},{challenge},{without_proof}");
    let client_signature = H::hmac(&H::hash(&client_key), message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(&client_signature)
        .map(|(a, b)| a ^ b)
        .collect();
    let server_key = H::hmac(&salted, b"Server Key");
    let answer = format!("{without_proof},p={}", STANDARD.encode(proof));
    Ok((answer, H::hmac(&server_key, message.as_bytes())))
}

type SaltKey = (&'static str, String, Vec<u8>, u32);

/// Salted passwords are kept: a generator that logs the same users in again and again should load
/// the server, not its own PBKDF2.
static SALTED: LazyLock<Mutex<HashMap<SaltKey, Vec<u8>>>> = LazyLock::new(Mutex::default);

fn salted_password<H: Hash>(password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
    let key = (H::NAME, password.to_owned(), salt.to_vec(), rounds);
    let mut known = SALTED.lock().unwrap_or_else(PoisonError::into_inner);
    known
        .entry(key)
        .or_insert_with(|| H::salted(password, salt, rounds))
        .clone()
}

/// One hash function, and its three uses in SCRAM.
trait Hash {
    const NAME: &'static str;
    fn hash(data: &[u8]) -> Vec<u8>;
    fn hmac(key: &[u8], data: &[u8]) -> Vec<u8>;
    fn salted(password: &str, salt: &[u8], rounds: u32) -> Vec<u8>;
}

struct Sha1Kind;
struct Sha256Kind;

macro_rules! hash {
    ($kind:ident, $digest:ty, $bytes:literal, $name:literal) => {
        impl Hash for $kind {
            const NAME: &'static str = $name;

            fn hash(data: &[u8]) -> Vec<u8> {
                <$digest>::digest(data).to_vec()
            }

            fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
                let mut mac =
                    Hmac::<$digest>::new_from_slice(key).expect("HMAC takes keys of any length");
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }

            fn salted(password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
                let mut out = [0; $bytes];
                pbkdf2::pbkdf2_hmac::<$digest>(password.as_bytes(), salt, rounds, &mut out);
                out.to_vec()
            }
        }
    };
}

hash!(Sha1Kind, Sha1, 20, "SCRAM-SHA-1");
hash!(Sha256Kind, Sha256, 32, "SCRAM-SHA-256");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_exchange_of_rfc_5802_is_reproduced() {
        let nonce = "fyko+d2lbbFgONRv9qkxdawL";
        let challenge = "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";
        let (answer, signature) = respond::<Sha1Kind>(
            "n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            nonce,
            challenge,
            "pencil",
        )
        .unwrap();
        assert!(
            answer.ends_with(",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="),
            "{answer}"
        );
        assert_eq!(STANDARD.encode(signature), "rmF9pqV8S7suAoZWja4dJRkFsKQ=");
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (answer, signature) =
            respond::<Sha256Kind>("n=user,r=rOprNGfwEbeRWgbNEkqO", nonce, challenge, "pencil")
                .unwrap();
        assert!(
            answer.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
            "{answer}"
        );
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_challenge_with_another_nonce_is_refused() {
        for challenge in [
            "r=other,s=QSXCR+Q6sek8bf92,i=4096",
            "r=abcd,s=QQ==,i=0",
            "r=abc,i=1",
        ] {
            assert!(respond::<Sha1Kind>("n=u,r=abc", "abc", challenge, "x").is_err());
        }
    }

    #[test]
    fn the_strongest_known_mechanism_is_chosen() {
        let offered = ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "ANONYMOUS"];
        assert_eq!(
            choose(Mechanism::Auto, &offered).unwrap(),
            Mechanism::ScramSha1
        );
        assert_eq!(
            choose(Mechanism::Anonymous, &offered).unwrap(),
            Mechanism::Anonymous
        );
        assert!(choose(Mechanism::ScramSha256, &offered).is_err());
        assert!(choose(Mechanism::Auto, &["ANONYMOUS"]).is_err());
    }
}
