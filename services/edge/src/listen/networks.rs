//! Sets of IP networks, as lists of trusted proxies.

use std::net::IpAddr;
use std::str::FromStr;

/// A list of addresses and networks (`10.0.0.0/8`, `::1`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address or network, write it like 10.0.0.0/8 or 2001:db8::/32")]
pub struct NetworkError(String);

impl Networks {
    /// Reads a list of addresses and networks.
    pub fn parse<T: AsRef<str>>(list: &[T]) -> Result<Self, NetworkError> {
        list.iter()
            .map(|text| network(text.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the address is in one of them. IPv4 inside IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0
            .iter()
            .any(|&(network, prefix)| match (network, address) {
                (IpAddr::V4(network), IpAddr::V4(address)) => {
                    let shift = 32 - u32::from(prefix);
                    let bits = u32::from(network) ^ u32::from(address);
                    bits.checked_shr(shift).unwrap_or(0) == 0
                }
                (IpAddr::V6(network), IpAddr::V6(address)) => {
                    let shift = 128 - u32::from(prefix);
                    let bits = u128::from(network) ^ u128::from(address);
                    bits.checked_shr(shift).unwrap_or(0) == 0
                }
                _ => false,
            })
    }

    /// True if no address is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Networks {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parts: Vec<&str> = text
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .collect();
        Self::parse(&parts)
    }
}

fn network(text: &str) -> Result<(IpAddr, u8), NetworkError> {
    let error = || NetworkError(text.to_owned());
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.trim().parse().map_err(|_| error())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) => prefix.trim().parse().map_err(|_| error())?,
        None => most,
    };
    if prefix > most {
        return Err(error());
    }
    Ok((address, prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn membership() {
        let set: Networks = "10.0.0.0/8, 192.0.2.7 2001:db8::/32,::1".parse().unwrap();
        for inside in [
            "10.255.0.1",
            "192.0.2.7",
            "2001:db8:ffff::1",
            "::1",
            "::ffff:10.1.2.3",
        ] {
            assert!(set.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::2"] {
            assert!(!set.contains(outside.parse().unwrap()), "{outside}");
        }
        let all: Networks = "0.0.0.0/0 ::/0".parse().unwrap();
        assert!(all.contains("203.0.113.1".parse().unwrap()));
        assert!(all.contains("2001:db8::1".parse().unwrap()));
        assert!(Networks::default().is_empty());
        assert!(!Networks::default().contains("::1".parse().unwrap()));
    }

    #[test]
    fn a_wrong_text_is_named() {
        for wrong in ["10.0.0.0/33", "proxy", "::/129", "10.0.0.0/x"] {
            assert_eq!(
                Networks::parse(&[wrong]),
                Err(NetworkError(wrong.to_owned()))
            );
        }
    }
}
