//! The services of a cluster: its domains, and what is served at each of them.

use std::collections::{BTreeSet, HashMap};

/// What is served at a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A virtual host: users log in there.
    Host {
        /// Its users have accounts; without, they are anonymous.
        accounts: bool,
    },
    /// Rooms (XEP-0045).
    Rooms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    kind: ServiceKind,
    /// The hosts that name it to their users (XEP-0030 §4).
    listed_by: BTreeSet<String>,
}

/// See the module. Domains are normalised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(HashMap<String, Service>);

impl Services {
    /// Adds a virtual host.
    #[must_use]
    pub fn with_host(self, domain: &str, accounts: bool) -> Services {
        self.with(domain, ServiceKind::Host { accounts }, None)
    }

    /// Adds a service of rooms that a host names to its users; several hosts may name one.
    #[must_use]
    pub fn with_rooms(self, domain: &str, host: &str) -> Services {
        self.with(domain, ServiceKind::Rooms, Some(host))
    }

    fn with(mut self, domain: &str, kind: ServiceKind, listed_by: Option<&str>) -> Services {
        let service = self.0.entry(domain.to_owned()).or_insert(Service {
            kind,
            listed_by: BTreeSet::new(),
        });
        service.listed_by.extend(listed_by.map(str::to_owned));
        self
    }

    /// What is served at a domain; none if the domain is not of this cluster.
    pub fn kind(&self, domain: &str) -> Option<ServiceKind> {
        self.0.get(domain).map(|service| service.kind)
    }

    /// Whether a domain has rooms.
    pub fn is_rooms(&self, domain: &str) -> bool {
        self.kind(domain) == Some(ServiceKind::Rooms)
    }

    /// Whether the users of a domain have accounts.
    pub fn has_accounts(&self, domain: &str) -> bool {
        self.kind(domain) == Some(ServiceKind::Host { accounts: true })
    }

    /// The services that a host names to its users, in order of their domains.
    pub fn listed_by(&self, host: &str) -> Vec<(&str, ServiceKind)> {
        let services = self.0.iter();
        let listed = services.filter(|(_, service)| service.listed_by.contains(host));
        let mut listed: Vec<_> = listed
            .map(|(domain, service)| (domain.as_str(), service.kind))
            .collect();
        listed.sort_unstable_by_key(|(domain, _)| *domain);
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_of_another_cluster_has_no_kind() {
        let services = Services::default().with_host("a.example", true);
        let host = ServiceKind::Host { accounts: true };
        assert_eq!(services.kind("a.example"), Some(host));
        assert_eq!(services.kind("b.example"), None);
        assert!(!services.is_rooms("b.example") && !services.has_accounts("b.example"));
    }

    #[test]
    fn two_hosts_may_name_one_service() {
        let services = Services::default()
            .with_host("a.example", true)
            .with_host("b.example", false)
            .with_rooms("rooms.example", "a.example")
            .with_rooms("rooms.example", "b.example")
            .with_rooms("more.example", "b.example");
        let rooms = ServiceKind::Rooms;
        assert_eq!(services.listed_by("a.example"), [("rooms.example", rooms)]);
        let both = [("more.example", rooms), ("rooms.example", rooms)];
        assert_eq!(services.listed_by("b.example"), both);
        assert!(services.is_rooms("more.example") && !services.has_accounts("b.example"));
    }
}
