//! Roles: a URI name (RFC 5280 §4.2.1.6) of a node certificate names the tier of its holder.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "urn:sestina:role:";

/// The role that a certificate allows its holder to have in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Holds client sockets, calls routers.
    Edge,
    /// Owns slots, calls routers and storage.
    Router,
    /// Serves the stores.
    Storage,
    /// Calls the administration service of any tier.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Edge, Role::Router, Role::Storage, Role::Admin];

    /// The name used on the command line and in the URI.
    pub fn name(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Router => "router",
            Role::Storage => "storage",
            Role::Admin => "admin",
        }
    }

    /// The URI that a certificate of this role carries.
    pub fn uri(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// Reads a URI name of a certificate; `None` if it names no role.
    pub fn from_uri(uri: &str) -> Option<Role> {
        uri.strip_prefix(PREFIX)?.parse().ok()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role; the roles are edge, router, storage and admin")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(s: &str) -> Result<Role, UnknownRole> {
        Role::ALL
            .into_iter()
            .find(|r| r.name() == s)
            .ok_or_else(|| UnknownRole(s.to_owned()))
    }
}
