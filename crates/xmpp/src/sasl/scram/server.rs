//! The server's side of SCRAM. Each step is a type, so that none can be left out or repeated:
//! [`ScramServer`] → [`NeedsKeys`] → [`NeedsProof`] → done. The caller provides the keys between
//! the first two.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::message::{BindFlag, ClientFinal, ClientFirst};
use crate::jid::Jid;
use crate::sasl::SaslFailure;
use crate::sasl::channel_binding::{BindingType, ChannelBinding};
use crate::sasl::keys::{ScramKeys, authenticated_jid, digest, hmac};
use crate::sasl::mechanism::{Hash, Mechanism};

/// Waits for the client's first message.
#[derive(Clone, Debug)]
pub struct ScramServer {
    hash: Hash,
    plus: bool,
    plus_offered: bool,
    bindings: Vec<ChannelBinding>,
    host: String,
}

/// Has the name of the user, and waits for that user's keys.
#[derive(Clone, Debug)]
pub struct NeedsKeys {
    hash: Hash,
    client_nonce: String,
    first_bare: String,
    /// The expected content of the client's `c=`: gs2 header and channel binding data.
    expected_binding: Vec<u8>,
}

/// Waits for the client's proof.
#[derive(Clone, Debug)]
pub struct NeedsProof {
    keys: ScramKeys,
    nonce: String,
    expected_binding: Vec<u8>,
    /// client-first-message-bare, comma, server-first-message, comma.
    auth_message: String,
}

impl ScramServer {
    /// Begins an exchange; `None` if the mechanism is no SCRAM.
    ///
    /// `host` is the domain of the user. `plus_offered`: whether a -PLUS mechanism was offered on
    /// this stream. `bindings`: the channel bindings of this TLS connection.
    pub fn new(
        mechanism: Mechanism,
        host: &str,
        plus_offered: bool,
        bindings: Vec<ChannelBinding>,
    ) -> Option<ScramServer> {
        Some(ScramServer {
            hash: mechanism.hash()?,
            plus: mechanism.is_plus(),
            plus_offered,
            bindings,
            host: host.to_owned(),
        })
    }

    /// Parses the client's first message; returns the bare JID of the user, and the next step.
    pub fn client_first(self, message: &[u8]) -> Result<(Jid, NeedsKeys), SaslFailure> {
        let first = ClientFirst::parse(message)?;
        let mut expected_binding = first.gs2_header.as_bytes().to_vec();
        match first.flag {
            BindFlag::Bound(name) if self.plus => {
                let kind = BindingType::parse(name).ok_or(SaslFailure::MalformedRequest)?;
                let binding = self
                    .bindings
                    .iter()
                    .find(|binding| binding.kind == kind)
                    .ok_or(SaslFailure::MalformedRequest)?;
                expected_binding.extend_from_slice(&binding.data);
            }
            // -PLUS without `p`, or `p` without -PLUS (RFC 5802 §6).
            BindFlag::Bound(_) => return Err(SaslFailure::MalformedRequest),
            _ if self.plus => return Err(SaslFailure::MalformedRequest),
            // The client did not get the offer that was made: an attacker removed it on the way.
            BindFlag::NotOffered if self.plus_offered => {
                return Err(SaslFailure::MalformedRequest);
            }
            BindFlag::NotOffered | BindFlag::Unsupported => {}
        }
        let jid = authenticated_jid(&first.username, &self.host, first.authzid.as_deref())?;
        let next = NeedsKeys {
            hash: self.hash,
            client_nonce: first.nonce.to_owned(),
            first_bare: first.bare.to_owned(),
            expected_binding,
        };
        Ok((jid, next))
    }
}

impl NeedsKeys {
    /// The hash function of the needed keys.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Makes the server's first message. `server_nonce` is fresh from
    /// [`random_nonce`](super::random_nonce). Keys for another hash function are a
    /// temporary-auth-failure: the account has none for this mechanism.
    pub fn with_keys(
        self,
        keys: ScramKeys,
        server_nonce: &str,
    ) -> Result<(Vec<u8>, NeedsProof), SaslFailure> {
        if keys.hash != self.hash {
            return Err(SaslFailure::TemporaryAuthFailure);
        }
        let nonce = format!("{}{server_nonce}", self.client_nonce);
        let salt = STANDARD.encode(&keys.salt);
        let server_first = format!("r={nonce},s={salt},i={}", keys.iterations);
        let auth_message = format!("{},{server_first},", self.first_bare);
        let next = NeedsProof {
            keys,
            nonce,
            expected_binding: self.expected_binding,
            auth_message,
        };
        Ok((server_first.into_bytes(), next))
    }
}

impl NeedsProof {
    /// Checks the client's last message; if it is right, returns the server's last message, for
    /// `<success/>`.
    pub fn client_final(self, message: &[u8]) -> Result<Vec<u8>, SaslFailure> {
        let last = ClientFinal::parse(message)?;
        let hash = self.keys.hash;
        if last.proof.len() != hash.output_len() {
            return Err(SaslFailure::MalformedRequest);
        }
        let auth_message = format!("{}{}", self.auth_message, last.without_proof);
        let signature = hmac(hash, &self.keys.stored_key, &[auth_message.as_bytes()]);
        let client_key: Vec<u8> = last
            .proof
            .iter()
            .zip(&signature)
            .map(|(proof, sign)| proof ^ sign)
            .collect();
        // All three are compared before the answer, so that its time reveals nothing.
        let good = digest(hash, &client_key).ct_eq(&self.keys.stored_key)
            & last.nonce.as_bytes().ct_eq(self.nonce.as_bytes())
            & last.binding.ct_eq(&self.expected_binding);
        if !bool::from(good) {
            return Err(SaslFailure::NotAuthorized);
        }
        let verifier = hmac(hash, &self.keys.server_key, &[auth_message.as_bytes()]);
        Ok(format!("v={}", STANDARD.encode(verifier)).into_bytes())
    }
}
