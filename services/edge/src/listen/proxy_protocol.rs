//! The PROXY protocol, versions 1 and 2, without I/O.
//!
//! A load balancer writes one header before the client's bytes. The parser says how many bytes
//! may be read next without taking any that belong to the client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1, with its line end.
const V1_BYTES: usize = 107;

/// Shortest header of version 1: `PROXY UNKNOWN` and the line end.
const V1_LEAST: usize = 15;

/// Bytes before the variable part of version 2.
const V2_FIXED: usize = 16;

/// Longest variable part of version 2 that is accepted: addresses and some extensions.
const V2_BYTES: usize = 2048;

/// How far a header has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The header goes on. This many more bytes are surely its own.
    Read(usize),
    /// The header is complete.
    Done(Origin),
}

/// The address of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy itself (a health check), or a client whose address it cannot tell.
    Proxy,
    /// The client's address and port.
    Client(SocketAddr),
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY header is not valid: {0}")]
pub struct ProxyError(&'static str);

/// Looks at all bytes read so far. Begin with none.
pub fn parse(bytes: &[u8]) -> Result<Step, ProxyError> {
    if bytes.is_empty() {
        return Ok(Step::Read(V1_LEAST));
    }
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        version2(bytes)
    } else {
        version1(bytes)
    }
}

fn version1(bytes: &[u8]) -> Result<Step, ProxyError> {
    let start = b"PROXY ";
    let common = bytes.len().min(start.len());
    if bytes[..common] != start[..common] {
        return Err(ProxyError(
            "it is missing, or the client was not sent through the proxy",
        ));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        if bytes.len() >= V1_BYTES {
            return Err(ProxyError("the line is too long"));
        }
        let least = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
        return Ok(Step::Read(V1_LEAST.saturating_sub(bytes.len()).max(least)));
    };
    let line = std::str::from_utf8(line).map_err(|_| ProxyError("the line is not text"))?;
    let mut fields = line[start.len()..].split(' ');
    let family = fields.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Step::Done(Origin::Proxy));
    }
    let fields: Vec<&str> = fields.collect();
    let [source, target, source_port, target_port] = fields[..] else {
        return Err(ProxyError("the line has another number of fields"));
    };
    let ip = |text: &str| -> Result<IpAddr, ProxyError> {
        let wrong = ProxyError("an address cannot be read");
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| wrong),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong),
            _ => Err(ProxyError("the address family is not known")),
        }
    };
    let port = |text: &str| -> Result<u16, ProxyError> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|_| digits)
            .ok_or(ProxyError("a port cannot be read"))
    };
    ip(target)?;
    port(target_port)?;
    Ok(Step::Done(Origin::Client(SocketAddr::new(
        ip(source)?,
        port(source_port)?,
    ))))
}

fn version2(bytes: &[u8]) -> Result<Step, ProxyError> {
    if bytes.len() < V2_FIXED {
        return Ok(Step::Read(V2_FIXED - bytes.len()));
    }
    let (version, command, family) = (bytes[12] >> 4, bytes[12] & 0x0f, bytes[13]);
    if version != 2 {
        return Err(ProxyError("the version is not known"));
    }
    let len = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if len > V2_BYTES {
        return Err(ProxyError("it is too long"));
    }
    let body = &bytes[V2_FIXED..];
    if body.len() < len {
        return Ok(Step::Read(len - body.len()));
    }
    match command {
        0 => return Ok(Step::Done(Origin::Proxy)),
        1 => {}
        _ => return Err(ProxyError("the command is not known")),
    }
    let short = ProxyError("it is too short for its addresses");
    match family {
        0x11 => {
            let fields = body
                .first_chunk::<12>()
                .filter(|_| len >= 12)
                .ok_or(short)?;
            let ip = Ipv4Addr::new(fields[0], fields[1], fields[2], fields[3]);
            let port = u16::from_be_bytes([fields[8], fields[9]]);
            Ok(Step::Done(Origin::Client(SocketAddr::new(ip.into(), port))))
        }
        0x21 => {
            let fields = body
                .first_chunk::<36>()
                .filter(|_| len >= 36)
                .ok_or(short)?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&fields[..16]);
            let port = u16::from_be_bytes([fields[32], fields[33]]);
            Ok(Step::Done(Origin::Client(SocketAddr::new(
                Ipv6Addr::from(ip).into(),
                port,
            ))))
        }
        0x00 => Ok(Step::Done(Origin::Proxy)),
        _ => Err(ProxyError("the address family is not a TCP one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a header followed by the client's bytes the way the listener does.
    fn read(stream: &[u8]) -> Result<(Origin, usize), ProxyError> {
        let mut used = 0;
        loop {
            match parse(&stream[..used])? {
                Step::Read(n) => {
                    assert!(n > 0);
                    used += n;
                    assert!(used <= stream.len(), "asked for bytes beyond the header");
                }
                Step::Done(origin) => return Ok((origin, used)),
            }
        }
    }

    fn client(text: &str) -> Origin {
        Origin::Client(text.parse().expect("a socket address"))
    }

    #[test]
    fn version_1_takes_nothing_of_the_client() {
        for (header, origin) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
                client("192.0.2.1:56324"),
            ),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", client("1.1.1.1:1")),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 5 65535\r\n",
                client("[2001:db8::1]:5"),
            ),
            ("PROXY UNKNOWN\r\n", Origin::Proxy),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Origin::Proxy),
        ] {
            assert_eq!(read(header.as_bytes()), Ok((origin, header.len())));
            let with_data = format!("{header}<stream:stream>");
            assert_eq!(read(with_data.as_bytes()), Ok((origin, header.len())));
        }
    }

    #[test]
    fn broken_version_1() {
        for header in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 99999\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "<stream:stream xmlns='jabber:client'>",
        ] {
            assert!(read(header.as_bytes()).is_err(), "{header}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(
            read(long.as_bytes()),
            Err(ProxyError("the line is too long"))
        );
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&[0x20 | command, family]);
        out.extend_from_slice(&(body.len() as u16).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn version_2() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
        let mut v6 = Vec::new();
        v6.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().expect("ipv6").octets());
        v6.extend_from_slice(&[0; 16]);
        v6.extend_from_slice(&[0, 7, 0x01, 0xbb]);
        let with_extension = [&v4[..], &[0x04, 0x00, 0x02, 1, 2]].concat();
        for (header, origin) in [
            (v2(1, 0x11, &v4), client("192.0.2.1:56324")),
            (v2(1, 0x11, &with_extension), client("192.0.2.1:56324")),
            (v2(1, 0x21, &v6), client("[2001:db8::1]:7")),
            (v2(0, 0x11, &v4), Origin::Proxy),
            (v2(0, 0x00, &[]), Origin::Proxy),
            (v2(1, 0x00, &[]), Origin::Proxy),
        ] {
            let with_data = [&header[..], b"\x16\x03\x01"].concat();
            assert_eq!(read(&with_data), Ok((origin, header.len())));
        }
    }

    #[test]
    fn broken_version_2() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
        let mut wrong_version = v2(1, 0x11, &v4);
        wrong_version[12] = 0x31;
        for header in [
            wrong_version,
            v2(2, 0x11, &v4),
            v2(1, 0x12, &v4),
            v2(1, 0x31, &v4),
            v2(1, 0x11, &v4[..11]),
            v2(1, 0x21, &v4),
            v2(1, 0x11, &[0; V2_BYTES + 1]),
        ] {
            assert!(read(&header).is_err());
        }
    }
}
