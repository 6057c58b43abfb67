//! Value types: durations, sizes, networks, secrets.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::shape::{Shape, Shaped, leaf};

/// A duration, written with its unit: `200ms`, `30s`, `5m`, `1h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl Time {
    /// A number of milliseconds.
    pub const fn ms(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    /// A number of seconds.
    pub const fn s(s: u64) -> Time {
        Time(Duration::from_secs(s))
    }
}

impl Deref for Time {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let (number, unit) = split_unit(text);
        let scale = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| *scale);
        number
            .parse::<u64>()
            .ok()
            .zip(scale)
            .and_then(|(number, scale)| number.checked_mul(scale))
            .map(Time::ms)
            .ok_or_else(|| {
                format!("{text:?} is no duration; write a whole number with ms, s, m, h or d")
            })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.as_millis();
        // Days and hours are used only for whole numbers of them.
        let (unit, scale) = TIME_UNITS
            .iter()
            .find(|(_, scale)| ms > 0 && ms.is_multiple_of(u128::from(*scale)))
            .unwrap_or(&("s", 1000));
        write!(f, "{}{unit}", ms / u128::from(*scale))
    }
}

/// A number of bytes: an integer, or text with a unit: `10000`, `256KiB`, `4MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

impl Size {
    /// A number of KiB.
    pub const fn kib(n: usize) -> Size {
        Size(n << 10)
    }

    /// A number of MiB.
    pub const fn mib(n: usize) -> Size {
        Size(n << 20)
    }
}

impl Deref for Size {
    type Target = usize;

    fn deref(&self) -> &usize {
        &self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let (number, unit) = split_unit(text);
        let scale = match unit {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        number
            .parse::<usize>()
            .ok()
            .zip(scale)
            .and_then(|(number, scale)| number.checked_mul(scale))
            .map(Size)
            .ok_or_else(|| {
                format!("{text:?} is no size; write a whole number, alone or with KiB, MiB or GiB")
            })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        match n {
            0 => f.write_str("0"),
            _ if n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            _ if n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            _ if n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            _ => write!(f, "{n}"),
        }
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// An address or a network in CIDR notation: `192.0.2.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

impl Net {
    /// Whether the address belongs to the network. An IPv4 address that arrived on an IPv6
    /// socket (`::ffff:192.0.2.7`) counts as IPv4.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                u32::from(net) & mask == u32::from(addr) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                u128::from(net) & mask == u128::from(addr) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let bad = || format!("{text:?} is no address or network; write 192.0.2.7 or 10.0.0.0/8");
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.trim().parse().map_err(|_| bad())?;
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|n| *n <= longest)
                .ok_or_else(bad)?,
            None => longest,
        };
        Ok(Net { addr, prefix })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// A secret. Neither `Debug` nor the printed configuration shows it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The secret itself, for the code that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<redacted>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

impl Shaped for Secret {
    fn shape() -> Shape {
        leaf::<Secret>("secret")
    }
}

macro_rules! as_text {
    ($($type:ty: $kind:literal, $expected:literal;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        // Only sizes parse without a unit; the error of other types explains that
                        // it is missing.
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl Shaped for $type {
            fn shape() -> Shape {
                leaf::<$type>($kind)
            }
        }
    )*};
}

as_text! {
    Time: "duration", "a duration such as \"30s\"";
    Size: "size", "a size such as 10000 or \"256KiB\"";
    Net: "network", "an address or network such as \"10.0.0.0/8\"";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("200ms", 200),
            ("4s", 4000),
            ("5m", 300_000),
            ("7d", 604_800_000),
        ] {
            let time: Time = text.parse().unwrap();
            assert_eq!(*time, Duration::from_millis(ms));
            assert_eq!(time.to_string(), text);
        }
        assert_eq!(Time::s(90).to_string(), "90s");
        assert_eq!(Time::s(0).to_string(), "0s");
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, n) in [("10000", 10_000), ("256KiB", 262_144), ("1GiB", 1 << 30)] {
            let size: Size = text.parse().unwrap();
            assert_eq!((*size, size.to_string().as_str()), (n, text));
        }
        for text in ["", "KiB", "1KB", "-1", "99999999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks() {
        let inside = |net: &str, addr: &str| {
            net.parse::<Net>()
                .unwrap()
                .contains(addr.parse::<IpAddr>().unwrap())
        };
        assert!(inside("10.0.0.0/8", "10.255.1.2"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(inside("0.0.0.0/0", "203.0.113.9"));
        assert!(!inside("0.0.0.0/0", "2001:db8::1"));
        assert!(inside("2001:db8::/32", "2001:db8:1::1"));
        assert!(inside("::/0", "2001:db8:1::1"));
        assert!(inside("192.0.2.7", "192.0.2.7"));
        assert!(!inside("192.0.2.7", "192.0.2.6"));
        for text in ["", "10.0.0.0/33", "fd00::/129", "host", "10.0.0.0/x"] {
            assert!(text.parse::<Net>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "<redacted>");
        assert_eq!(
            toml::Value::try_from(&secret).unwrap().as_str(),
            Some("<redacted>")
        );
        assert_eq!(secret.expose(), "hunter2");
    }
}
