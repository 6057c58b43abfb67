//! Finds addresses that two listeners share.

use std::net::SocketAddr;

/// The options whose address an earlier option has taken, each with the reason.
pub(super) fn taken_twice(all: &[(&'static str, SocketAddr)]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (index, (key, address)) in all.iter().enumerate() {
        let before = all[..index]
            .iter()
            .find(|(_, other)| collide(*address, *other));
        if let Some((other, taken)) = before {
            let reason = format!("{address} is taken by `{other}` ({taken}); choose another port");
            found.push(((*key).to_owned(), reason));
        }
    }
    found
}

/// Whether the second address cannot be bound after the first. If both are configured, `[::]`
/// leaves IPv4 to `0.0.0.0`; port 0 is any free port.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let covers = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && covers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_another_address_takes_its_port() {
        for (a, b, collides) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("0.0.0.0:1", "[::]:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let parse = |text: &str| text.parse().expect("an address");
            assert_eq!(collide(parse(a), parse(b)), collides, "{a} {b}");
            assert_eq!(collide(parse(b), parse(a)), collides, "{b} {a}");
        }
    }
}
