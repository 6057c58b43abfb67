//! SCRAM keys (RFC 5802 §3), which the server stores instead of a password.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::SaslFailure;
use super::mechanism::Hash;
use super::saslprep::saslprep;
use crate::jid::Jid;

/// Rounds of PBKDF2 for new keys, unless the configuration sets them.
pub const DEFAULT_ITERATIONS: u32 = 10_000;

/// The fewest rounds that keys may have (RFC 7677 §4).
pub const MIN_ITERATIONS: u32 = 4096;

/// Bytes of salt in new keys.
pub const SALT_LEN: usize = 16;

/// The reason why there are no keys for a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, before or after SASLprep.
    #[error("the password is empty")]
    EmptyPassword,
    /// SASLprep (RFC 4013) refuses it.
    #[error("the password holds characters that SASLprep does not allow")]
    BadPassword,
    /// Fewer rounds than [`MIN_ITERATIONS`].
    #[error("at least 4096 iterations are needed")]
    TooFewIterations,
}

/// The keys of one user for one hash function.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// The hash function.
    pub hash: Hash,
    /// The salt.
    pub salt: Vec<u8>,
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// `H(HMAC(SaltedPassword, "Client Key"))`.
    pub stored_key: Vec<u8>,
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: Vec<u8>,
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys")
            .field("hash", &self.hash)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl ScramKeys {
    /// New keys for a password, with a random salt. Takes milliseconds of CPU, so it must not run
    /// on threads that serve connections.
    pub fn generate(password: &str, hash: Hash, iterations: u32) -> Result<ScramKeys, KeyError> {
        if iterations < MIN_ITERATIONS {
            return Err(KeyError::TooFewIterations);
        }
        ScramKeys::derive(
            password,
            hash,
            &rand::random::<[u8; SALT_LEN]>(),
            iterations,
        )
    }

    /// The keys for a password with this salt and number of rounds (at least one).
    pub fn derive(
        password: &str,
        hash: Hash,
        salt: &[u8],
        iterations: u32,
    ) -> Result<ScramKeys, KeyError> {
        let salted = salted_password(password, hash, salt, iterations)?;
        let client_key = Zeroizing::new(hmac(hash, &salted, &[b"Client Key"]));
        Ok(ScramKeys {
            hash,
            salt: salt.to_vec(),
            iterations,
            stored_key: digest(hash, &client_key),
            server_key: hmac(hash, &salted, &[b"Server Key"]),
        })
    }
}

/// Whether the keys were made of that password. The comparison takes constant time; the whole check
/// takes as long as making keys.
pub fn verify_password(keys: &ScramKeys, password: &str) -> bool {
    match ScramKeys::derive(password, keys.hash, &keys.salt, keys.iterations) {
        Ok(derived) => bool::from(derived.stored_key.ct_eq(&keys.stored_key)),
        Err(_) => false,
    }
}

/// Keys of a user that does not exist: always the same for a name, and no password fits. They
/// prevent a stranger from finding out which users exist (RFC 5802 §9 leaves that to the server).
pub fn fake_keys(secret: &[u8], bare_jid: &str, hash: Hash, iterations: u32) -> ScramKeys {
    let name = hash.mechanism().name().as_bytes();
    let made_up = |what: &[u8]| {
        hmac(
            Hash::Sha256,
            secret,
            &[
                b"scram fake\0",
                what,
                b"\0",
                name,
                b"\0",
                bare_jid.as_bytes(),
            ],
        )
    };
    let cut = |mut bytes: Vec<u8>, len| {
        bytes.truncate(len);
        bytes
    };
    ScramKeys {
        hash,
        salt: cut(made_up(b"salt"), SALT_LEN),
        iterations,
        stored_key: cut(made_up(b"stored"), hash.output_len()),
        server_key: cut(made_up(b"server"), hash.output_len()),
    }
}

/// The authenticated user: the user name as a bare JID of this host. The authorization identity, if
/// given, must be the same bare JID (RFC 6120 §6.3.8).
pub fn authenticated_jid(
    username: &str,
    host: &str,
    authzid: Option<&str>,
) -> Result<Jid, SaslFailure> {
    let jid = Jid::new(Some(username), host, None).map_err(|_| SaslFailure::NotAuthorized)?;
    match authzid {
        Some(authzid) if Jid::parse(authzid).ok().as_ref() != Some(&jid) => {
            Err(SaslFailure::InvalidAuthzid)
        }
        _ => Ok(jid),
    }
}

/// `Hi(Normalize(password), salt, i)`.
pub(super) fn salted_password(
    password: &str,
    hash: Hash,
    salt: &[u8],
    iterations: u32,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let prepared = saslprep(password).ok_or(KeyError::BadPassword)?;
    let prepared = Zeroizing::new(prepared.into_owned());
    if prepared.is_empty() {
        return Err(KeyError::EmptyPassword);
    }
    let mut salted = Zeroizing::new(vec![0; hash.output_len()]);
    let rounds = iterations.max(1);
    match hash {
        Hash::Sha1 => {
            pbkdf2::pbkdf2_hmac::<Sha1>(prepared.as_bytes(), salt, rounds, &mut salted);
        }
        Hash::Sha256 => {
            pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, rounds, &mut salted);
        }
    }
    Ok(salted)
}

/// HMAC over the parts, one after the other.
pub(super) fn hmac(hash: Hash, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().to_vec()
    }
    match hash {
        Hash::Sha1 => run::<Hmac<Sha1>>(key, parts),
        Hash::Sha256 => run::<Hmac<Sha256>>(key, parts),
    }
}

/// The hash function itself.
pub(super) fn digest(hash: Hash, data: &[u8]) -> Vec<u8> {
    match hash {
        Hash::Sha1 => Sha1::digest(data).to_vec(),
        Hash::Sha256 => Sha256::digest(data).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// RFC 6070: the PBKDF2 vectors, since SCRAM's salted password is PBKDF2.
    #[test]
    fn pbkdf2_vector() {
        let salted = salted_password("password", Hash::Sha1, b"salt", 2).unwrap();
        let hex: String = salted.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    }

    #[test]
    fn passwords() {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let keys = ScramKeys::generate("pencil", hash, MIN_ITERATIONS).unwrap();
            assert_eq!(
                (keys.salt.len(), keys.stored_key.len()),
                (SALT_LEN, hash.output_len())
            );
            assert!(verify_password(&keys, "pencil"));
            // SASLprep maps the soft hyphen to nothing (RFC 4013 §3).
            assert!(verify_password(&keys, "pen\u{ad}cil"));
            assert!(!verify_password(&keys, "pencil2"));
            assert!(!verify_password(&keys, ""));
            assert!(!verify_password(&keys, "pencil\u{7}"));
            let other = ScramKeys::generate("pencil", hash, MIN_ITERATIONS).unwrap();
            assert_ne!(keys.salt, other.salt);
        }
        assert_eq!(
            ScramKeys::generate("", Hash::Sha1, 4096),
            Err(KeyError::EmptyPassword)
        );
        assert_eq!(
            ScramKeys::generate("\u{ad}", Hash::Sha1, 4096),
            Err(KeyError::EmptyPassword)
        );
        assert_eq!(
            ScramKeys::generate("\u{7}", Hash::Sha1, 4096),
            Err(KeyError::BadPassword)
        );
        assert_eq!(
            ScramKeys::generate("x", Hash::Sha1, 4095),
            Err(KeyError::TooFewIterations)
        );
    }

    #[test]
    fn made_up_keys() {
        let keys = fake_keys(b"secret", "a@b", Hash::Sha256, 4096);
        assert_eq!(keys, fake_keys(b"secret", "a@b", Hash::Sha256, 4096));
        assert_ne!(
            keys.salt,
            fake_keys(b"secret", "c@b", Hash::Sha256, 4096).salt
        );
        assert_ne!(
            keys.salt,
            fake_keys(b"other", "a@b", Hash::Sha256, 4096).salt
        );
        let sha1 = fake_keys(b"secret", "a@b", Hash::Sha1, 4096);
        assert_ne!(keys.salt, sha1.salt);
        assert_eq!(
            (
                sha1.salt.len(),
                sha1.stored_key.len(),
                sha1.server_key.len()
            ),
            (16, 20, 20)
        );
        assert!(!verify_password(&keys, "pencil"));
    }

    #[test]
    fn authorization_identities() {
        let jid = |user, authzid| authenticated_jid(user, "example.com", authzid);
        assert_eq!(jid("Tim", None).unwrap().as_str(), "tim@example.com");
        assert!(jid("tim", Some("tim@example.com")).is_ok());
        assert!(jid("tim", Some("TIM@example.com.")).is_ok());
        for other in [
            "tim",
            "tim@example.org",
            "tim@example.com/x",
            "kurt@example.com",
            "@",
        ] {
            assert_eq!(
                jid("tim", Some(other)),
                Err(SaslFailure::InvalidAuthzid),
                "{other}"
            );
        }
        assert_eq!(jid("a@b", None), Err(SaslFailure::NotAuthorized));
    }

    #[test]
    fn debug_hides_the_keys() {
        let shown = format!("{:?}", fake_keys(b"secret", "a@b", Hash::Sha256, 4096));
        assert!(!shown.contains("stored_key") && !shown.contains("salt"));
    }
}
