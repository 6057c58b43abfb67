//! The client's side of SCRAM.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::message::{ServerFirst, encode_name};
use crate::sasl::SaslFailure;
use crate::sasl::channel_binding::ChannelBinding;
use crate::sasl::keys::{digest, hmac, salted_password};
use crate::sasl::mechanism::Hash;

/// The most rounds that a server may ask for.
const MAX_ITERATIONS: u32 = 1_000_000;

/// The client's support of channel binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientBinding {
    /// Not supported.
    Unsupported,
    /// Supported, but not offered by the server.
    NotOffered,
    /// Used.
    Bound(ChannelBinding),
}

/// One exchange; waits for the server's first message.
pub struct ScramClient {
    hash: Hash,
    password: Zeroizing<String>,
    nonce: String,
    gs2_header: String,
    binding: ClientBinding,
    first_bare: String,
}

/// Waits for the server's last message.
pub struct NeedsVerifier {
    expected: String,
}

impl ScramClient {
    /// Begins an exchange.
    pub fn new(
        hash: Hash,
        username: &str,
        password: &str,
        authzid: Option<&str>,
        binding: ClientBinding,
        nonce: &str,
    ) -> ScramClient {
        let flag = match &binding {
            ClientBinding::Unsupported => "n".to_owned(),
            ClientBinding::NotOffered => "y".to_owned(),
            ClientBinding::Bound(binding) => format!("p={}", binding.kind.name()),
        };
        let authzid = authzid
            .map(|a| format!("a={}", encode_name(a)))
            .unwrap_or_default();
        ScramClient {
            hash,
            password: Zeroizing::new(password.to_owned()),
            nonce: nonce.to_owned(),
            gs2_header: format!("{flag},{authzid},"),
            binding,
            first_bare: format!("n={},r={nonce}", encode_name(username)),
        }
    }

    /// The client's first message.
    pub fn client_first(&self) -> Vec<u8> {
        format!("{}{}", self.gs2_header, self.first_bare).into_bytes()
    }

    /// Reads the server's first message and makes the client's last one.
    pub fn server_first(self, message: &[u8]) -> Result<(Vec<u8>, NeedsVerifier), SaslFailure> {
        let first = ServerFirst::parse(message)?;
        let own = first.nonce.starts_with(&self.nonce) && first.nonce.len() > self.nonce.len();
        if !own || first.iterations > MAX_ITERATIONS {
            return Err(SaslFailure::Aborted);
        }
        let salted = salted_password(&self.password, self.hash, &first.salt, first.iterations)
            .map_err(|_| SaslFailure::Aborted)?;
        let mut bound = self.gs2_header.clone().into_bytes();
        if let ClientBinding::Bound(binding) = &self.binding {
            bound.extend_from_slice(&binding.data);
        }
        let without_proof = format!("c={},r={}", STANDARD.encode(bound), first.nonce);
        let server_first = std::str::from_utf8(message).map_err(|_| SaslFailure::Aborted)?;
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_key = Zeroizing::new(hmac(self.hash, &salted, &[b"Client Key"]));
        let stored_key = digest(self.hash, &client_key);
        let signature = hmac(self.hash, &stored_key, &[auth_message.as_bytes()]);
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(k, s)| k ^ s)
            .collect();
        let server_key = hmac(self.hash, &salted, &[b"Server Key"]);
        let verifier = hmac(self.hash, &server_key, &[auth_message.as_bytes()]);
        let expected = format!("v={}", STANDARD.encode(verifier));
        let message = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((message.into_bytes(), NeedsVerifier { expected }))
    }
}

impl NeedsVerifier {
    /// Checks that the server knows the keys too.
    pub fn server_final(self, message: &[u8]) -> Result<(), SaslFailure> {
        if bool::from(message.ct_eq(self.expected.as_bytes())) {
            Ok(())
        } else {
            Err(SaslFailure::Aborted)
        }
    }
}
