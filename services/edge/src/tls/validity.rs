//! Whether the certificate that a host is served with does for that host.

use std::fmt;

use super::set::{Entry, find};

/// A certificate is said to end soon when so little is left.
const SOON: i64 = 7 * DAY;
const DAY: i64 = 24 * 3600;

/// How one host is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostValidity {
    /// The host.
    pub host: String,
    /// The holder of its certificate.
    pub subject: String,
    /// How long its certificate does: negative since it expired, 0 if it never did.
    pub seconds_left: i64,
    /// What is wrong, if anything.
    pub problem: Option<Problem>,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It has ended.
    Expired {
        /// Days since then.
        days: i64,
    },
    /// It ends soon.
    Ends {
        /// Days until then.
        days: i64,
    },
    /// Its time has not begun.
    NotYet {
        /// Days until then.
        days: i64,
    },
    /// It is for other names.
    Name {
        /// Which.
        names: Vec<String>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Expired { days } => write!(f, "the certificate expired {days} days ago"),
            Problem::Ends { days } => write!(f, "the certificate expires in {days} days"),
            Problem::NotYet { days } => {
                write!(
                    f,
                    "the certificate is not valid yet, it will be in {days} days"
                )
            }
            Problem::Name { names } => {
                write!(
                    f,
                    "the certificate is for other names ({})",
                    names.join(", ")
                )
            }
        }
    }
}

/// How these hosts are served by these certificates, which are at least one, at this time in Unix
/// seconds.
pub(super) fn of(entries: &[Entry], hosts: &[String], now: i64) -> Vec<HostValidity> {
    let one = |host: &String| {
        // Certificates name an internationalised host in its ASCII form.
        let name = sestina_certs::ascii_name(host);
        let info = &find(entries, Some(&name))?.info;
        let (left, until) = (info.not_after - now, info.not_before - now);
        let (seconds_left, problem) = if !info.covers(&name) {
            let names = info.dns_names.clone();
            (0, Some(Problem::Name { names }))
        } else if until > 0 {
            let days = until / DAY;
            (0, Some(Problem::NotYet { days }))
        } else if left <= 0 {
            (left, Some(Problem::Expired { days: -left / DAY }))
        } else {
            let days = left / DAY;
            (left, (left < SOON).then_some(Problem::Ends { days }))
        };
        Some(HostValidity {
            host: host.clone(),
            subject: info.subject.clone(),
            seconds_left,
            problem,
        })
    };
    hosts.iter().filter_map(one).collect()
}
