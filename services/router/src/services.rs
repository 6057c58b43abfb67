//! The services of a cluster: its domains, what is served at each of them, and which of them share
//! slots.

use std::collections::{BTreeSet, HashMap};

use sestina_cluster::slots::SlotHasher;

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
pub struct Services {
    by_domain: HashMap<String, Service>,
    /// Knows which domains are aliases.
    hasher: SlotHasher,
}

impl Services {
    /// Adds a virtual host.
    #[must_use]
    pub fn with_host(self, domain: &str, accounts: bool) -> Services {
        self.with(domain, ServiceKind::Host { accounts }, [])
    }

    /// Adds a service of rooms that these hosts name to their users. A service that is there
    /// already is named by these hosts too.
    #[must_use]
    pub fn with_rooms<'a>(
        self,
        domain: &str,
        listed_by: impl IntoIterator<Item = &'a str>,
    ) -> Services {
        self.with(domain, ServiceKind::Rooms, listed_by)
    }

    /// The rooms of a service have the slots of the rooms with the same names at `target`, which is
    /// no alias itself.
    #[must_use]
    pub fn with_slots_of(mut self, domain: &str, target: &str) -> Services {
        self.hasher = self.hasher.with_alias(domain, target);
        self
    }

    fn with<'a>(
        mut self,
        domain: &str,
        kind: ServiceKind,
        listed_by: impl IntoIterator<Item = &'a str>,
    ) -> Services {
        let service = self.by_domain.entry(domain.to_owned());
        let service = service.or_insert_with(|| Service {
            kind,
            listed_by: BTreeSet::new(),
        });
        let listed_by = listed_by.into_iter();
        service.listed_by.extend(listed_by.map(str::to_owned));
        self
    }

    /// From addresses to slots, with the aliases of these services. Edges of the cluster use the same.
    pub fn hasher(&self) -> &SlotHasher {
        &self.hasher
    }

    /// What is served at a domain; none if the domain is not of this cluster.
    pub fn kind(&self, domain: &str) -> Option<ServiceKind> {
        self.by_domain.get(domain).map(|service| service.kind)
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
        let services = self.by_domain.iter();
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
            .with_rooms("rooms.example", ["a.example"])
            .with_rooms("rooms.example", ["b.example"])
            .with_rooms("more.example", ["b.example"]);
        let rooms = ServiceKind::Rooms;
        assert_eq!(services.listed_by("a.example"), [("rooms.example", rooms)]);
        let both = [("more.example", rooms), ("rooms.example", rooms)];
        assert_eq!(services.listed_by("b.example"), both);
        assert!(services.is_rooms("more.example") && !services.has_accounts("b.example"));
    }

    #[test]
    fn a_service_that_no_host_names_is_listed_nowhere() {
        let services = Services::default()
            .with_host("a.example", true)
            .with_rooms("lobby.a.example", []);
        assert_eq!(services.listed_by("a.example"), []);
        assert!(services.is_rooms("lobby.a.example"));
    }

    #[test]
    fn rooms_of_an_alias_have_the_slots_of_its_target() {
        let services = Services::default()
            .with_host("a.example", true)
            .with_rooms("rooms.a.example", ["a.example"])
            .with_rooms("lobby.a.example", [])
            .with_slots_of("lobby.a.example", "rooms.a.example");
        let slot = |bare: &str| services.hasher().slot_of_bare(bare);
        assert_eq!(slot("x@lobby.a.example"), slot("x@rooms.a.example"));
        assert_eq!(
            slot("x@a.example"),
            SlotHasher::default().slot_of_bare("x@a.example")
        );
        assert_eq!(services.kind("lobby.a.example"), Some(ServiceKind::Rooms));
    }
}
