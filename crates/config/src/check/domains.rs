//! Checks of the sections `host` and `rooms`: domains, and what they say of each other.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv6Addr;

use super::Findings;
use crate::nearest::nearest_name;
use crate::sections::{Config, Host, Rooms};

/// Mechanisms that `host.mechanisms` may name.
const MECHANISMS: [&str; 5] = [
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "PLAIN",
];

pub(super) fn check(config: &Config, found: &mut Findings) {
    let mut seen = HashSet::new();
    for host in &config.host {
        found.require(
            !host.domain.is_empty(),
            "host.domain",
            "every host needs a domain",
        );
        for (key, domain) in [("host.domain", &host.domain), ("host.muc", &host.muc)] {
            check_domain(key, domain, found);
            if !domain.is_empty() {
                let new = seen.insert(domain.as_str());
                found.require(new, key, format!("{domain:?} is used twice"));
            }
        }
        check_login(host, found);
        found.pair("host.certificate", &host.certificate, &host.key);
    }
    check_rooms(config, found);
}

fn check_domain(key: &str, domain: &str, found: &mut Findings) {
    let plain = !domain.contains(|c: char| {
        c.is_whitespace() || c.is_uppercase() || matches!(c, '@' | '/' | ':' | '*')
    });
    let rule = "write a domain in lower case, without a port, @, / and spaces";
    // An IPv6 address is written in brackets.
    let address = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']'));
    let address = address.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    found.require(plain || address, key, format!("{domain:?}: {rule}"));
    let whole = !domain.starts_with('.') && !domain.contains("..");
    found.require(whole, key, format!("{domain:?} has an empty part"));
}

fn check_login(host: &Host, found: &mut Findings) {
    for mechanism in &host.mechanisms {
        found.require(
            MECHANISMS.contains(&mechanism.as_str()),
            "host.mechanisms",
            format!(
                "{mechanism:?} is not known; use some of {}",
                MECHANISMS.join(", ")
            ),
        );
    }
    found.require(
        host.anonymous || !host.mechanisms.is_empty(),
        "host.mechanisms",
        format!(
            "nobody could log in to {:?}: name at least one mechanism",
            host.domain
        ),
    );
}

fn check_rooms(config: &Config, found: &mut Findings) {
    let hosts = || config.host.iter().map(|host| host.domain.as_str());
    let mut seen: HashSet<&str> = hosts().collect();
    for rooms in &config.rooms {
        let domain = rooms.domain.as_str();
        found.require(
            !domain.is_empty(),
            "rooms.domain",
            "every service of rooms needs a domain",
        );
        check_domain("rooms.domain", domain, found);
        let new = domain.is_empty() || seen.insert(domain);
        found.require(new, "rooms.domain", format!("{domain:?} is used twice"));
        for host in &rooms.listed_by {
            let known = hosts().any(|known| known == host);
            let hint = did_you_mean(host, hosts());
            found.require(
                known,
                "rooms.listed_by",
                format!("{host:?} is the domain of no `[[host]]`{hint}"),
            );
        }
    }
    let slots_of = services(config);
    for rooms in &config.rooms {
        if let Err(reason) = check_slots_of(rooms, &slots_of) {
            found.require(false, "rooms.slots_of", reason);
        }
    }
}

/// All services of rooms, each with the one whose slots it shares.
fn services(config: &Config) -> BTreeMap<&str, Option<&str>> {
    let of_hosts = config.host.iter().map(|host| (host.muc.as_str(), None));
    let others = config.rooms.iter();
    let others = others.map(|rooms| (rooms.domain.as_str(), rooms.slots_of.as_deref()));
    // A block about the service of a host comes later, and counts.
    of_hosts.chain(others).collect()
}

fn check_slots_of(rooms: &Rooms, services: &BTreeMap<&str, Option<&str>>) -> Result<(), String> {
    let domain = rooms.domain.as_str();
    let Some(target) = rooms.slots_of.as_deref() else {
        return Ok(());
    };
    if target == domain {
        return Err(format!(
            "{target:?} is this service itself; name another one, or remove the option"
        ));
    }
    let Some(next) = services.get(target) else {
        let others = services.keys().copied().filter(|known| *known != domain);
        let hint = did_you_mean(target, others);
        return Err(format!("{target:?} is no service of rooms{hint}"));
    };
    let Some(next) = *next else { return Ok(()) };
    let remedy = match end_of(next, services) {
        Some(end) => format!("write {end:?} for {domain:?} too"),
        None => "remove one of the two".to_owned(),
    };
    Err(format!(
        "{domain:?} names {target:?}, which names {next:?} itself; {remedy}"
    ))
}

/// The service at the end of a chain; none if the chain is a cycle, or ends at an unknown domain.
fn end_of<'a>(start: &'a str, services: &BTreeMap<&str, Option<&'a str>>) -> Option<&'a str> {
    let mut at = start;
    for _ in services {
        match services.get(at)? {
            Some(next) => at = next,
            None => return Some(at),
        }
    }
    None
}

fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest_name(name, known).map_or(String::new(), |near| format!("; did you mean {near:?}?"))
}
