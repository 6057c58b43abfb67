//! SCRAM messages (RFC 5802 §7): attributes in a fixed order, and no other content.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::sasl::SaslFailure;

/// The most bytes of a nonce that a client may send.
const MAX_NONCE: usize = 512;

/// The client's support of channel binding (the gs2-cbind-flag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindFlag<'a> {
    /// `n`: not supported.
    Unsupported,
    /// `y`: supported, but the client believes that the server does not support it.
    NotOffered,
    /// `p=`: used, with this type.
    Bound(&'a str),
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    pub(super) flag: BindFlag<'a>,
    pub(super) authzid: Option<String>,
    pub(super) username: String,
    pub(super) nonce: &'a str,
    /// The part up to and including the second comma.
    pub(super) gs2_header: &'a str,
    /// The part after it.
    pub(super) bare: &'a str,
}

/// The client's last message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    pub(super) binding: Vec<u8>,
    pub(super) nonce: &'a str,
    pub(super) proof: Vec<u8>,
    pub(super) without_proof: &'a str,
}

/// The server's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

const MALFORMED: SaslFailure = SaslFailure::MalformedRequest;

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ClientFirst<'a>, SaslFailure> {
        let text = std::str::from_utf8(message).map_err(|_| MALFORMED)?;
        let mut head = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (head.next(), head.next(), head.next())
        else {
            return Err(MALFORMED);
        };
        let flag = match flag {
            "n" => BindFlag::Unsupported,
            "y" => BindFlag::NotOffered,
            _ => BindFlag::Bound(
                flag.strip_prefix("p=")
                    .filter(|name| is_cb_name(name))
                    .ok_or(MALFORMED)?,
            ),
        };
        let authzid = match authzid {
            "" => None,
            _ => Some(decode_name(authzid.strip_prefix("a=").ok_or(MALFORMED)?)?),
        };
        let mut attributes = bare.split(',');
        // An `m=` here is a mandatory extension; since none is supported, it fails like any other
        // attribute in the wrong place (RFC 5802 §5.1).
        let username = decode_name(attribute(attributes.next(), 'n')?)?;
        let nonce = nonce(attribute(attributes.next(), 'r')?)?;
        extensions(attributes)?;
        Ok(ClientFirst {
            flag,
            authzid,
            username,
            nonce,
            gs2_header: &text[..text.len() - bare.len()],
            bare,
        })
    }
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ClientFinal<'a>, SaslFailure> {
        let text = std::str::from_utf8(message).map_err(|_| MALFORMED)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(MALFORMED)?;
        let mut attributes = without_proof.split(',');
        let binding = base64(attribute(attributes.next(), 'c')?)?;
        let nonce = attribute(attributes.next(), 'r')?;
        extensions(attributes)?;
        Ok(ClientFinal {
            binding,
            nonce,
            proof: base64(proof)?,
            without_proof,
        })
    }
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<ServerFirst<'a>, SaslFailure> {
        let text = std::str::from_utf8(message).map_err(|_| MALFORMED)?;
        let mut attributes = text.split(',');
        let nonce = nonce(attribute(attributes.next(), 'r')?)?;
        let salt = base64(attribute(attributes.next(), 's')?)?;
        let iterations = attribute(attributes.next(), 'i')?;
        extensions(attributes)?;
        // posit-number: no sign, no leading zero.
        if !iterations.bytes().all(|b| b.is_ascii_digit()) || iterations.starts_with('0') {
            return Err(MALFORMED);
        }
        let iterations = iterations.parse().map_err(|_| MALFORMED)?;
        Ok(ServerFirst {
            nonce,
            salt,
            iterations,
        })
    }
}

/// Writes a name as a saslname: `,` and `=` are escaped.
pub(super) fn encode_name(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// Base64, of at least one byte.
fn base64(text: &str) -> Result<Vec<u8>, SaslFailure> {
    STANDARD
        .decode(text)
        .ok()
        .filter(|bytes| !bytes.is_empty())
        .ok_or(MALFORMED)
}

fn attribute(part: Option<&str>, name: char) -> Result<&str, SaslFailure> {
    part.and_then(|part| part.strip_prefix(name)?.strip_prefix('='))
        .ok_or(MALFORMED)
}

/// Attributes that RFC 5802 §5.1 defines; none of them is an optional extension.
const RESERVED: &[u8] = b"anmrcsipve";

/// Checks that optional extensions are well-formed; they are ignored otherwise.
fn extensions<'a>(parts: impl Iterator<Item = &'a str>) -> Result<(), SaslFailure> {
    for part in parts {
        let good = matches!(part.as_bytes(), [name, b'=', _, ..]
            if name.is_ascii_alphabetic() && !RESERVED.contains(name));
        if !good || part.contains('\0') {
            return Err(MALFORMED);
        }
    }
    Ok(())
}

fn decode_name(text: &str) -> Result<String, SaslFailure> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        if let Some(after) = after.strip_prefix("2C") {
            name.push(',');
            rest = after;
        } else if let Some(after) = after.strip_prefix("3D") {
            name.push('=');
            rest = after;
        } else {
            return Err(MALFORMED);
        }
    }
    name.push_str(rest);
    if name.is_empty() || name.contains('\0') {
        return Err(MALFORMED);
    }
    Ok(name)
}

fn nonce(text: &str) -> Result<&str, SaslFailure> {
    let good = (1..=MAX_NONCE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(text) } else { Err(MALFORMED) }
}

/// cb-name of RFC 5802 §7.
fn is_cb_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
}
