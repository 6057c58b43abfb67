//! Which cluster a process belongs to. Every call and every answer between tiers names it, and both
//! sides check it, so that a wrong address or certificate never joins two clusters.
//!
//! The name is configured; the id is in the database. A storage process knows it, and the others learn
//! it from the first answer that they get.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;

use crate::versions;

const NAME: HeaderName = HeaderName::from_static("sestina-cluster");
/// A warning at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);
const ID: HeaderName = HeaderName::from_static("sestina-cluster-id");

/// The cluster of this process. Clones share what is learnt.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    name_header: HeaderValue,
    id: OnceLock<(String, HeaderValue)>,
    /// When a process of another cluster was last warned of.
    warned: Mutex<Option<Instant>>,
}

/// Another cluster than that of this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherCluster {
    /// The names differ.
    #[error(
        "cluster {theirs:?} is not cluster {ours:?} of this process; check the addresses, and \
         `cluster.name` of both"
    )]
    Name {
        /// Configured here.
        ours: String,
        /// Of the other side.
        theirs: String,
    },
    /// The names are the same, and the ids of their databases differ.
    #[error(
        "both clusters are named {name:?} and have different databases (ids {ours} and {theirs}); \
         check the addresses, or rename one: `sestina cluster rename`"
    )]
    Id {
        /// The name.
        name: String,
        /// Known here.
        ours: String,
        /// Of the other side.
        theirs: String,
    },
    /// The other side does not say.
    #[error("the other side names no cluster, and this process is of cluster {0:?}")]
    Silent(String),
}

impl Cluster {
    /// The cluster of that name, whose id is not known yet.
    pub fn new(name: &str) -> Cluster {
        // The configuration allows nothing that a header could not hold.
        let name_header = HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("?"));
        Cluster(Arc::new(Known {
            name: name.to_owned(),
            name_header,
            id: OnceLock::new(),
            warned: Mutex::default(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its id, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.0.id.get().map(|(id, _)| id.as_str())
    }

    /// The id, as the database has it. What is known already stays.
    pub fn learn(&self, id: &str) {
        if let Ok(header) = HeaderValue::from_str(id) {
            self.0.id.get_or_init(|| (id.to_owned(), header));
        }
    }

    /// Adds what this process says of its cluster, and of the versions that it speaks.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        versions::tell(headers);
        headers.insert(NAME, self.0.name_header.clone());
        if let Some((_, id)) = self.0.id.get() {
            headers.insert(ID, id.clone());
        }
    }

    /// The same, with a request.
    pub(crate) fn tell_with(&self, metadata: &mut MetadataMap) {
        let mut headers = std::mem::take(metadata).into_headers();
        self.tell(&mut headers);
        *metadata = MetadataMap::from_headers(headers);
    }

    /// Whether the other side is of this cluster.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), OtherCluster> {
        let text = |header: &HeaderName| headers.get(header).map(|text| text.as_bytes());
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match text(&NAME) {
            None => return Err(OtherCluster::Silent(self.0.name.clone())),
            Some(theirs) if theirs != self.0.name_header.as_bytes() => {
                return Err(OtherCluster::Name {
                    ours: self.0.name.clone(),
                    theirs: words(theirs),
                });
            }
            Some(_) => {}
        }
        match (self.id(), text(&ID)) {
            (Some(ours), Some(theirs)) if ours.as_bytes() != theirs => Err(OtherCluster::Id {
                name: self.0.name.clone(),
                ours: ours.to_owned(),
                theirs: words(theirs),
            }),
            _ => Ok(()),
        }
    }

    /// Logs that this process met one of another cluster, with both names. It does so at intervals,
    /// because a wrong address is tried again and again.
    pub(crate) fn warn(&self, peer: &str, error: &OtherCluster) -> bool {
        let mut warned = self.0.warned.lock();
        if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return false;
        }
        *warned = Some(Instant::now());
        tracing::warn!(peer, %error, "refused a process of another cluster");
        true
    }

    /// The same for a refusal. It names no cluster if the call was refused before the other side
    /// adds the name.
    pub(crate) fn check_refusal(&self, metadata: &MetadataMap) -> Result<(), OtherCluster> {
        match metadata.as_ref().contains_key(NAME) {
            true => self.check(metadata.as_ref()),
            false => Ok(()),
        }
    }

    /// The same for an answer. If the id of the cluster is not known yet, it is taken from the
    /// answer.
    pub(crate) fn check_answer(&self, metadata: &MetadataMap) -> Result<(), OtherCluster> {
        let headers = metadata.as_ref();
        self.check(headers)?;
        if self.id().is_none()
            && let Some(id) = headers.get(ID).and_then(|id| id.to_str().ok())
        {
            self.learn(id);
        }
        Ok(())
    }
}

impl From<OtherCluster> for Status {
    fn from(error: OtherCluster) -> Status {
        Status::failed_precondition(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, id: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let cluster = Cluster::new(name);
        if let Some(id) = id {
            cluster.learn(id);
        }
        cluster.tell(&mut headers);
        headers
    }

    #[test]
    fn another_name_and_another_id_are_refused_with_both() {
        let ours = Cluster::new("prod");
        assert_eq!(ours.check(&headers("prod", Some("a1"))), Ok(()));
        let error = ours.check(&headers("trial", None)).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            error.contains("\"prod\"") && error.contains("\"trial\""),
            "{error}"
        );
        assert!(ours.check(&HeaderMap::new()).is_err());

        ours.check_answer(&MetadataMap::from_headers(headers("prod", Some("a1"))))
            .expect("the same cluster");
        assert_eq!(ours.id(), Some("a1"));
        assert_eq!(ours.check(&headers("prod", None)), Ok(()));
        let error = ours.check(&headers("prod", Some("b2"))).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("a1") && error.contains("b2"), "{error}");
    }

    #[test]
    fn a_refusal_by_another_cluster_is_recognised_and_logged_at_intervals() {
        let ours = Cluster::new("prod");
        let refusal = |name| MetadataMap::from_headers(headers(name, None));
        assert_eq!(ours.check_refusal(&MetadataMap::new()), Ok(()));
        assert_eq!(ours.check_refusal(&refusal("prod")), Ok(()));
        let error = ours.check_refusal(&refusal("trial"));
        let error = error.expect_err("a refusal of another cluster");
        assert!(ours.warn("r1", &error), "not told");
        assert!(!ours.warn("r1", &error), "told at each try");
    }
}
