//! Channel binding `tls-server-end-point` (RFC 5929 §4.1): a hash of the server's certificate.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

// Signature algorithms that name one hash function (RFC 3279, 4055, 5758).
const HASHES: &[(&str, Hash)] = &[
    ("1.2.840.113549.1.1.4", Hash::Sha256), // md5WithRSA, replaced by SHA-256
    ("1.2.840.113549.1.1.5", Hash::Sha256), // sha1WithRSA, replaced by SHA-256
    ("1.2.840.113549.1.1.14", Hash::Sha224), // sha224WithRSA
    ("1.2.840.113549.1.1.11", Hash::Sha256), // sha256WithRSA
    ("1.2.840.113549.1.1.12", Hash::Sha384), // sha384WithRSA
    ("1.2.840.113549.1.1.13", Hash::Sha512), // sha512WithRSA
    ("1.2.840.10040.4.3", Hash::Sha256),    // dsaWithSHA1, replaced by SHA-256
    ("2.16.840.1.101.3.4.3.1", Hash::Sha224), // dsaWithSHA224
    ("2.16.840.1.101.3.4.3.2", Hash::Sha256), // dsaWithSHA256
    ("1.2.840.10045.4.1", Hash::Sha256),    // ecdsaWithSHA1, replaced by SHA-256
    ("1.2.840.10045.4.3.1", Hash::Sha224),  // ecdsaWithSHA224
    ("1.2.840.10045.4.3.2", Hash::Sha256),  // ecdsaWithSHA256
    ("1.2.840.10045.4.3.3", Hash::Sha384),  // ecdsaWithSHA384
    ("1.2.840.10045.4.3.4", Hash::Sha512),  // ecdsaWithSHA512
    // The hash functions themselves, as RSASSA-PSS names them in its parameters.
    ("1.3.14.3.2.26", Hash::Sha256), // SHA-1, replaced by SHA-256
    ("2.16.840.1.101.3.4.2.4", Hash::Sha224),
    ("2.16.840.1.101.3.4.2.1", Hash::Sha256),
    ("2.16.840.1.101.3.4.2.2", Hash::Sha384),
    ("2.16.840.1.101.3.4.2.3", Hash::Sha512),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The channel binding of a server that presents this certificate (DER). Empty if RFC 5929 leaves
/// it undefined, because the signature uses no separate hash function (Ed25519) or an unknown one:
/// `tls-server-end-point` must not be offered then.
pub fn server_end_point(cert_der: &[u8]) -> Vec<u8> {
    match hash_of(cert_der) {
        Some(Hash::Sha224) => Sha224::digest(cert_der).to_vec(),
        Some(Hash::Sha256) => Sha256::digest(cert_der).to_vec(),
        Some(Hash::Sha384) => Sha384::digest(cert_der).to_vec(),
        Some(Hash::Sha512) => Sha512::digest(cert_der).to_vec(),
        None => Vec::new(),
    }
}

fn hash_of(cert_der: &[u8]) -> Option<Hash> {
    let (_, cert) = X509Certificate::from_der(cert_der).ok()?;
    let oid = match SignatureAlgorithm::try_from(&cert.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(params)) => params.hash_algorithm_oid().to_id_string(),
        _ => cert.signature_algorithm.algorithm.to_id_string(),
    };
    by_oid(&oid)
}

fn by_oid(oid: &str) -> Option<Hash> {
    HASHES
        .iter()
        .find(|(known, _)| *known == oid)
        .map(|(_, hash)| *hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm as Alg};
    use sha2::{Digest, Sha256, Sha384};

    fn cert(alg: &'static Alg) -> Vec<u8> {
        let key = KeyPair::generate_for(alg).unwrap();
        let params = CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_follows_the_signature_algorithm() {
        let der = cert(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(server_end_point(&der), Sha256::digest(&der).to_vec());
        let der = cert(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(server_end_point(&der), Sha384::digest(&der).to_vec());
    }

    #[test]
    fn undefined_for_ed25519_and_for_what_is_no_certificate() {
        assert!(server_end_point(&cert(&rcgen::PKCS_ED25519)).is_empty());
        assert!(server_end_point(b"not a certificate").is_empty());
    }

    #[test]
    fn weak_hashes_are_replaced_by_sha256() {
        for oid in [
            "1.2.840.113549.1.1.4",
            "1.2.840.113549.1.1.5",
            "1.2.840.10045.4.1",
        ] {
            assert_eq!(by_oid(oid), Some(Hash::Sha256), "{oid}");
        }
    }
}
