//! Creation of certificates: the private CA of a cluster, its node certificates, and the
//! self-signed certificate of a first start.
//!
//! The CA signs only certificates for mutual TLS between tiers; clients never see it. All keys are
//! ECDSA P-256, which every TLS 1.3 peer supports and which is the cheapest to sign with.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::{CertError, Role, ascii_name, describe};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_DAYS: u32 = 3650;
const NODE_DAYS: u32 = 365;
const SELF_SIGNED_DAYS: u32 = 3650;
/// The clocks of peers may be behind by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// A certificate chain and its private key, both in PEM.
#[derive(Clone)]
pub struct CertifiedKeyPem {
    /// The certificate (chain).
    pub cert_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for CertifiedKeyPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log.
        f.debug_struct("CertifiedKeyPem")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

impl CertifiedKeyPem {
    /// Writes both files, the key readable by its owner only.
    pub fn write(&self, cert: &Path, key: &Path) -> Result<(), CertError> {
        write_file(key, self.key_pem.as_bytes(), 0o600)?;
        write_file(cert, self.cert_pem.as_bytes(), 0o644)
    }
}

/// The files of a node's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedFiles {
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its private key (mode 0600).
    pub key: PathBuf,
    /// The CA certificate that peers are checked against.
    pub ca: PathBuf,
}

/// A private CA for one cluster.
pub struct TrialCa {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl std::fmt::Debug for TrialCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrialCa").finish_non_exhaustive()
    }
}

impl TrialCa {
    /// Creates a CA in memory; also returns its key, for [`TrialCa::from_pem`].
    pub fn create(common_name: &str) -> Result<(TrialCa, CertifiedKeyPem), CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = base_params(common_name, CA_DAYS);
        // The CA signs node certificates, never another CA.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key)?.pem();
        let pem = CertifiedKeyPem {
            cert_pem: cert_pem.clone(),
            key_pem: key.serialize_pem(),
        };
        Ok((
            TrialCa {
                issuer: Issuer::new(params, key),
                cert_pem,
            },
            pem,
        ))
    }

    /// Makes a CA of its certificate and key. `name` is their origin in error messages.
    pub fn from_pem(name: &str, pem: &CertifiedKeyPem) -> Result<TrialCa, CertError> {
        let info = describe(pem.cert_pem.as_bytes())
            .map_err(|e| CertError::content(name, e.to_string()))?;
        if !info.is_ca {
            return Err(CertError::content(
                name,
                "the certificate is not a CA certificate",
            ));
        }
        // Proves that the key belongs to the certificate.
        crate::parse_identity(name, pem.cert_pem.as_bytes(), name, pem.key_pem.as_bytes())?;
        let key = KeyPair::from_pem(&pem.key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&pem.cert_pem, key)?;
        Ok(TrialCa {
            issuer,
            cert_pem: pem.cert_pem.clone(),
        })
    }

    /// The CA certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a certificate for one process with its name, its role, and further DNS names and IP
    /// addresses; it is valid for both sides of a TLS connection.
    pub fn issue(
        &self,
        name: &str,
        role: Role,
        sans: &[String],
    ) -> Result<CertifiedKeyPem, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = base_params(name, NODE_DAYS);
        params.subject_alt_names.push(dns_san(name)?);
        for san in sans.iter().filter(|s| s.as_str() != name) {
            params.subject_alt_names.push(san_of(san)?);
        }
        params
            .subject_alt_names
            .push(SanType::URI(role.uri().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(CertifiedKeyPem {
            cert_pem,
            key_pem: key.serialize_pem(),
        })
    }
}

/// Loads the CA in `dir` (`ca.pem`, `ca.key`), or creates one there.
pub fn ensure_ca(dir: &Path) -> Result<TrialCa, CertError> {
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    match (cert_path.exists(), key_path.exists()) {
        (true, true) => {
            let pem = CertifiedKeyPem {
                cert_pem: read_text(&cert_path)?,
                key_pem: read_text(&key_path)?,
            };
            TrialCa::from_pem(&cert_path.display().to_string(), &pem)
        }
        (false, false) => {
            make_dir(dir)?;
            let (ca, pem) = TrialCa::create("Sestina cluster CA")?;
            pem.write(&cert_path, &key_path)?;
            Ok(ca)
        }
        // A new CA beside half of the old one would lock out every node that has the old one.
        (true, false) => Err(CertError::content(
            &key_path.display().to_string(),
            "missing, but its certificate is there; put the key back, or remove the certificate to start a new CA",
        )),
        (false, true) => Err(CertError::content(
            &cert_path.display().to_string(),
            "missing, but its key is there; put the certificate back, or remove the key to start a new CA",
        )),
    }
}

/// Issues a certificate for one process with the CA in `dir` (created if there is none) and writes
/// `<name>.pem` and `<name>.key` there, replacing older ones.
pub fn issue(
    dir: &Path,
    name: &str,
    role: Role,
    sans: &[String],
) -> Result<IssuedFiles, CertError> {
    // Checked before a CA is created: the name also becomes a file name.
    dns_san(name)?;
    if name == "ca" {
        return Err(CertError::Name {
            name: name.to_owned(),
            reason: "the name is taken by the CA's own files".to_owned(),
        });
    }
    let ca = ensure_ca(dir)?;
    let files = IssuedFiles {
        cert: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        ca: dir.join(CA_CERT),
    };
    ca.issue(name, role, sans)?.write(&files.cert, &files.key)?;
    Ok(files)
}

/// A self-signed certificate for these domains, for client listeners when none is configured.
pub fn self_signed(domains: &[String]) -> Result<CertifiedKeyPem, CertError> {
    let Some(first) = domains.first() else {
        return Err(CertError::Name {
            name: String::new(),
            reason: "at least one domain is needed".to_owned(),
        });
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = base_params(first, SELF_SIGNED_DAYS);
    for domain in domains {
        params.subject_alt_names.push(san_of(domain)?);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let cert_pem = params.self_signed(&key)?.pem();
    Ok(CertifiedKeyPem {
        cert_pem,
        key_pem: key.serialize_pem(),
    })
}

fn base_params(common_name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    // With a clock before 1970 the certificate is not valid now, and peers report that.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + DAY * days;
    params.distinguished_name = DistinguishedName::new();
    // RFC 5280 limits a common name to 64 characters; peers check the other names anyway.
    let short: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, short);
    params
}

fn san_of(name: &str) -> Result<SanType, CertError> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => dns_san(name),
    }
}

/// A DNS name; its first label may be a wildcard.
fn dns_san(name: &str) -> Result<SanType, CertError> {
    let bad = |reason: &str| CertError::Name {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let name = &*ascii_name(name);
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || name.len() > 253 {
        return Err(bad("a DNS name has 1 to 253 characters"));
    }
    for label in rest.split('.') {
        if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
            return Err(bad(
                "each label has 1 to 63 characters and no hyphen at its ends",
            ));
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(bad(
                "only letters, digits, hyphens and underscores are allowed",
            ));
        }
    }
    Ok(SanType::DnsName(name.try_into()?))
}

fn make_dir(dir: &Path) -> Result<(), CertError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| CertError::io("create", dir, e))
}

fn read_text(path: &Path) -> Result<String, CertError> {
    fs::read_to_string(path).map_err(|e| CertError::io("read", path, e))
}

/// Writes a second file and renames it, so that no reader sees half of the content, and a key does
/// not get the mode of an existing file that others could read.
fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), CertError> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".{}.new", std::process::id()));
    let temp = PathBuf::from(temp);
    let write = || -> std::io::Result<()> {
        match fs::remove_file(&temp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temp)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().map_err(|e| {
        // Removes the part of a key that was written; an error here does not change the one that is
        // returned.
        fs::remove_file(&temp).ok();
        CertError::io("write", path, e)
    })
}
