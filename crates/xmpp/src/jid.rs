//! Addresses: `local@domain/resource` (RFC 7622, with RFC 6122's profile of the localpart).
//!
//! The localpart goes through nodeprep (RFC 6122, Unicode 3.2), as in all deployed servers: it
//! names accounts, which must be the same on every server. The resourcepart, and so each nickname,
//! is an OpaqueString in today's Unicode (RFC 7622 §3.4, [`crate::precis`]). The domainpart goes
//! through UTS 46 (the IDNA 2008 of RFC 7622 §3.2) and is kept in its Unicode form. Nameprep is
//! deliberately not applied to it: it folds `ß` to `ss`, which makes two domains of the DNS one
//! JID.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;
use std::str::FromStr;

use compact_str::CompactString;

use crate::precis;

/// The most bytes that one part of a JID may have (RFC 7622 §3.2 to §3.4).
pub const MAX_PART_LEN: usize = 1023;

/// The most bytes that one label of a domain may have in its ASCII form (RFC 1035 §2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// Rounds of preparation after which a part that still changes is refused.
const MAX_ROUNDS: usize = 4;

/// Why a string is no JID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JidError {
    /// `@` with nothing before it.
    #[error("the localpart before '@' is empty")]
    EmptyLocal,
    /// The localpart is longer than [`MAX_PART_LEN`].
    #[error("the localpart is longer than 1023 bytes")]
    LocalTooLong,
    /// Nodeprep (RFC 6122 appendix A) refuses it.
    #[error("the localpart holds characters that are not allowed there")]
    BadLocal,
    /// No domain.
    #[error("the domainpart is empty")]
    EmptyDomain,
    /// The domainpart is longer than [`MAX_PART_LEN`].
    #[error("the domainpart is longer than 1023 bytes")]
    DomainTooLong,
    /// Neither a domain name (IDNA) nor an IP literal.
    #[error("the domainpart is neither a domain name nor an IP address")]
    BadDomain,
    /// `/` with nothing after it.
    #[error("the resourcepart after '/' is empty")]
    EmptyResource,
    /// The resourcepart is longer than [`MAX_PART_LEN`].
    #[error("the resourcepart is longer than 1023 bytes")]
    ResourceTooLong,
    /// The OpaqueString profile (RFC 8265 §4.2) refuses it.
    #[error("the resourcepart holds characters that are not allowed there")]
    BadResource,
}

/// A normalised JID. Comparing two of them compares their strings.
#[derive(Clone)]
pub struct Jid {
    text: CompactString,
    /// Where the domain begins: after the `@`, or 0.
    domain_at: u32,
    /// Where the bare JID ends: at the `/`, or at the end.
    bare_len: u32,
}

impl Jid {
    /// Checks and normalises a JID from outside.
    pub fn parse(text: &str) -> Result<Jid, JidError> {
        let (domain_at, bare_len) = bounds(text);
        let local = domain_at.checked_sub(1).map(|end| &text[..end]);
        let resource = text.get(bare_len + 1..);
        let prepared = Parts::prepare(local, &text[domain_at..bare_len], resource)?;
        if prepared.all_borrowed() && prepared.len() == text.len() {
            return Ok(Jid {
                text: CompactString::from(text),
                domain_at: domain_at as u32,
                bare_len: bare_len as u32,
            });
        }
        Ok(prepared.join())
    }

    /// Takes a JID that is known to be normalised (from another tier or from storage) and only
    /// finds its parts. Never fails; the parts of an invalid JID are invalid.
    pub fn from_wire(text: &str) -> Jid {
        Jid::from_normalised(CompactString::from(text))
    }

    /// Builds a JID from parts that are not normalised yet.
    pub fn new(local: Option<&str>, domain: &str, resource: Option<&str>) -> Result<Jid, JidError> {
        Ok(Parts::prepare(local, domain, resource)?.join())
    }

    /// The part before the `@`.
    pub fn local(&self) -> Option<&str> {
        self.text.get(..(self.domain_at as usize).checked_sub(1)?)
    }

    /// The part between `@` and `/`, with internationalised labels in Unicode.
    pub fn domain(&self) -> &str {
        self.text
            .get(self.domain_at as usize..self.bare_len as usize)
            .unwrap_or("")
    }

    /// The part after the first `/`.
    pub fn resource(&self) -> Option<&str> {
        self.text.get(self.bare_len as usize + 1..)
    }

    /// The same address without a resource.
    pub fn bare(&self) -> Jid {
        Jid {
            text: CompactString::from(self.bare_str()),
            domain_at: self.domain_at,
            bare_len: self.bare_len,
        }
    }

    /// The text of [`Jid::bare`], without a copy.
    pub fn bare_str(&self) -> &str {
        self.text.get(..self.bare_len as usize).unwrap_or("")
    }

    /// Whether it has no resource.
    pub fn is_bare(&self) -> bool {
        self.bare_len as usize == self.text.len()
    }

    /// Whether it is that address, or one within it: an address without a resource has all its resources within it, and
    /// one without a local part all users and resources of its domain (XEP-0191 §6).
    pub fn is_within(&self, address: &Jid) -> bool {
        let part = |own: Option<&str>, wanted: Option<&str>| wanted.is_none() || wanted == own;
        self.domain() == address.domain()
            && part(self.local(), address.local())
            && part(self.resource(), address.resource())
    }

    /// The whole JID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same bare JID with this resource.
    pub fn with_resource(&self, resource: &str) -> Result<Jid, JidError> {
        let resource = prepare_resource(resource)?;
        let bare = self.bare_str();
        let mut text = CompactString::with_capacity(bare.len() + 1 + resource.len());
        text.push_str(bare);
        text.push('/');
        text.push_str(&resource);
        Ok(Jid {
            text,
            domain_at: self.domain_at,
            bare_len: self.bare_len,
        })
    }

    fn from_normalised(text: CompactString) -> Jid {
        let (domain_at, bare_len) = bounds(&text);
        Jid {
            domain_at: domain_at as u32,
            bare_len: bare_len as u32,
            text,
        }
    }
}

/// The start and the end of the domain (RFC 7622 §3.2: the end is at the first `/`, the start after
/// the first `@` before that).
fn bounds(text: &str) -> (usize, usize) {
    let bytes = text.as_bytes();
    let bare_len = memchr::memchr(b'/', bytes).unwrap_or(bytes.len());
    let domain_at = memchr::memchr(b'@', &bytes[..bare_len]).map_or(0, |at| at + 1);
    (domain_at, bare_len)
}

/// The three parts, prepared.
struct Parts<'a> {
    local: Option<Cow<'a, str>>,
    domain: Cow<'a, str>,
    resource: Option<Cow<'a, str>>,
}

impl<'a> Parts<'a> {
    fn prepare(
        local: Option<&'a str>,
        domain: &'a str,
        resource: Option<&'a str>,
    ) -> Result<Parts<'a>, JidError> {
        Ok(Parts {
            local: local.map(prepare_local).transpose()?,
            domain: prepare_domain(domain)?,
            resource: resource.map(prepare_resource).transpose()?,
        })
    }

    fn all_borrowed(&self) -> bool {
        let borrowed = |part: &Cow<'_, str>| matches!(part, Cow::Borrowed(_));
        self.local.as_ref().is_none_or(borrowed)
            && borrowed(&self.domain)
            && self.resource.as_ref().is_none_or(borrowed)
    }

    fn len(&self) -> usize {
        self.local.as_ref().map_or(0, |l| l.len() + 1)
            + self.domain.len()
            + self.resource.as_ref().map_or(0, |r| r.len() + 1)
    }

    fn join(&self) -> Jid {
        let mut text = CompactString::with_capacity(self.len());
        if let Some(local) = &self.local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(&self.domain);
        if let Some(resource) = &self.resource {
            text.push('/');
            text.push_str(resource);
        }
        Jid::from_normalised(text)
    }
}

/// Normalises a localpart (nodeprep).
pub fn prepare_local(local: &str) -> Result<Cow<'_, str>, JidError> {
    if local.is_empty() {
        return Err(JidError::EmptyLocal);
    }
    if local.len() > MAX_PART_LEN {
        return Err(JidError::LocalTooLong);
    }
    let forbidden = |b: u8| matches!(b, b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@');
    if local
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !forbidden(b))
    {
        return Ok(Cow::Borrowed(local));
    }
    let prepared = settle(local, |text| {
        stringprep::nodeprep(text).ok().map(Cow::into_owned)
    })
    .ok_or(JidError::BadLocal)?;
    match prepared.len() {
        0 => Err(JidError::EmptyLocal),
        1..=MAX_PART_LEN => Ok(prepared),
        _ => Err(JidError::LocalTooLong),
    }
}

/// Normalises a resourcepart (OpaqueString).
pub fn prepare_resource(resource: &str) -> Result<Cow<'_, str>, JidError> {
    if resource.is_empty() {
        return Err(JidError::EmptyResource);
    }
    if resource.len() > MAX_PART_LEN {
        return Err(JidError::ResourceTooLong);
    }
    if resource.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Ok(Cow::Borrowed(resource));
    }
    let prepared = precis::opaque(resource).ok_or(JidError::BadResource)?;
    if prepared.len() > MAX_PART_LEN {
        return Err(JidError::ResourceTooLong);
    }
    Ok(prepared)
}

/// Normalises a domainpart: a domain name (UTS 46), an IPv4 address or a bracketed IPv6 address.
/// One trailing dot is removed (RFC 7622 §3.2).
pub fn prepare_domain(domain: &str) -> Result<Cow<'_, str>, JidError> {
    if domain.len() > MAX_PART_LEN {
        return Err(JidError::DomainTooLong);
    }
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return Err(JidError::EmptyDomain);
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let address: Ipv6Addr = literal
            .strip_suffix(']')
            .and_then(|address| address.parse().ok())
            .ok_or(JidError::BadDomain)?;
        let canonical = format!("[{address}]");
        let same = canonical == domain;
        return Ok(if same {
            Cow::Borrowed(domain)
        } else {
            Cow::Owned(canonical)
        });
    }
    if domain.is_ascii() && !may_hold_a_label(domain) {
        check_ascii_labels(domain)?;
        return Ok(if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(domain.to_ascii_lowercase())
        } else {
            Cow::Borrowed(domain)
        });
    }
    let prepared = settle(domain, |text| {
        let (unicode, outcome) = idna::domain_to_unicode(text);
        outcome.ok().map(|()| unicode)
    })
    .ok_or(JidError::BadDomain)?;
    // A full-width dot at the end became a normal one, and is removed too.
    let prepared = match prepared.strip_suffix('.') {
        Some(stripped) => Cow::Owned(stripped.to_owned()),
        None => prepared,
    };
    let ascii = idna::domain_to_ascii(&prepared).map_err(|_| JidError::BadDomain)?;
    check_ascii_labels(&ascii)?;
    match prepared.len() {
        0 => Err(JidError::EmptyDomain),
        1..=MAX_PART_LEN => Ok(prepared),
        _ => Err(JidError::DomainTooLong),
    }
}

/// Whether an ASCII domain has a label that begins like an A-label (`xn--`).
fn may_hold_a_label(domain: &str) -> bool {
    domain.split('.').any(|label| {
        label
            .as_bytes()
            .first_chunk::<4>()
            .is_some_and(|p| p.eq_ignore_ascii_case(b"xn--"))
    })
}

/// Checks for letters, digits and hyphens, as RFC 1123 §2.1 requires, and the underscore, which is
/// not allowed in host names but is common in the names of private networks.
fn check_ascii_labels(domain: &str) -> Result<(), JidError> {
    let good = |label: &str| {
        (1..=MAX_LABEL_LEN).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if domain.split('.').all(good) {
        Ok(())
    } else {
        Err(JidError::BadDomain)
    }
}

/// Prepares the text until it does not change any more, so that a normalised JID always normalises
/// to itself: the tables of stringprep are those of Unicode 3.2, the normalisation is today's.
fn settle<'a>(text: &'a str, prep: impl Fn(&str) -> Option<String>) -> Option<Cow<'a, str>> {
    let mut current = Cow::Borrowed(text);
    for _ in 0..MAX_ROUNDS {
        let next = prep(&current)?;
        if next == *current {
            return Some(current);
        }
        current = Cow::Owned(next);
    }
    None
}

impl PartialEq for Jid {
    fn eq(&self, other: &Jid) -> bool {
        self.text == other.text
    }
}

impl Eq for Jid {}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Jid) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Jid) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Borrow<str> for Jid {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Jid {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jid({:?})", self.as_str())
    }
}

impl FromStr for Jid {
    type Err = JidError;

    fn from_str(text: &str) -> Result<Jid, JidError> {
        Jid::parse(text)
    }
}

impl From<Jid> for String {
    fn from(jid: Jid) -> String {
        jid.text.into_string()
    }
}

#[cfg(test)]
#[path = "jid_tests.rs"]
mod tests;
