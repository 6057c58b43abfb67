//! Addresses of other processes: `host:port`, or `dns:///host:port` where each address behind the
//! name is a process of its own.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hickory_resolver::TokioResolver;

use crate::RpcError;

/// A configured address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The name stands for several processes, one for each of its addresses.
    pub many: bool,
}

impl Target {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.many {
            f.write_str("dns:///")?;
        }
        f.write_str(&self.authority())
    }
}

impl FromStr for Target {
    type Err = RpcError;

    fn from_str(text: &str) -> Result<Target, RpcError> {
        let bad = |reason: &str| RpcError::Address {
            address: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (rest, many) = match text.strip_prefix("dns:///") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(bad(
                "the port is missing; write host:port or dns:///host:port",
            ));
        };
        let port = port.parse().ok().filter(|p| *p != 0);
        let port = port.ok_or_else(|| bad("the port is not a number from 1 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(bad("what is in brackets is not an IPv6 address")),
            None => host,
        };
        let plain = host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if host.is_empty() || (!plain && host.parse::<IpAddr>().is_err()) {
            return Err(bad("the host is neither a DNS name nor an IP address"));
        }
        Ok(Target {
            host: host.to_owned(),
            port,
            many,
        })
    }
}

/// Looks names up, anew each time: an address that changed must not be asked for a cached minute.
#[derive(Clone)]
pub(crate) struct Names {
    resolver: Option<TokioResolver>,
}

impl Names {
    pub(crate) fn new() -> Names {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().cache_size = 0;
            builder.build()
        });
        match resolver {
            Ok(resolver) => Names {
                resolver: Some(resolver),
            },
            Err(error) => {
                tracing::warn!(%error, "no DNS configuration of the system can be read; asking the C library");
                Names { resolver: None }
            }
        }
    }

    pub(crate) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let mut found: Vec<SocketAddr> = match &self.resolver {
            Some(resolver) => resolver
                .lookup_ip(host)
                .await
                .map_err(|e| format!("{host} does not resolve: {e}"))?
                .iter()
                .map(|ip| SocketAddr::new(ip, port))
                .collect(),
            None => tokio::net::lookup_host((host, port))
                .await
                .map_err(|e| format!("{host} does not resolve: {e}"))?
                .collect(),
        };
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return Err(format!("{host} has no addresses"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in [
            "router-0:7000",
            "10.0.0.1:7000",
            "[::1]:7000",
            "dns:///r.ns.svc:7000",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert!("dns:///r:1".parse::<Target>().unwrap().many);
        for text in [
            "router",
            "router:0",
            "router:x",
            ":1",
            "[x]:1",
            "http://r:1",
            "r/x:1",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn addresses_need_no_lookup() {
        let names = Names::new();
        assert_eq!(
            names.resolve("192.0.2.1", 7).await.unwrap(),
            ["192.0.2.1:7".parse::<SocketAddr>().unwrap()]
        );
        assert_eq!(
            names.resolve("::1", 7).await.unwrap(),
            ["[::1]:7".parse::<SocketAddr>().unwrap()]
        );
    }
}
