//! Whether a process that opens a lane is the incarnation that it says it is: it has the secret whose
//! hash that incarnation left with the lease authorities.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::LeaseAuthority;
use sestina_api::link::LinkError;
use sestina_runtime::guard;

use super::Shared;

/// How long an authority may take to answer.
const LIMIT: Duration = Duration::from_millis(800);

/// The same where a renewal waits for the answer.
const SHORT: Duration = Duration::from_millis(250);

/// Incarnations that have proved themselves here, with the hash that they proved: lanes open again
/// while no authority can be asked. What is gone is forgotten.
#[derive(Default)]
pub(super) struct Proven(Mutex<HashMap<u64, (String, [u8; 32])>>);

impl Proven {
    fn is(&self, holder: &Holder) -> bool {
        let known = self.0.lock();
        known
            .get(&holder.node.incarnation)
            .is_some_and(|(name, proof)| {
                *name == holder.node.name && Some(*proof) == holder.secret.proof()
            })
    }

    fn note(&self, holder: &Holder) {
        if let Some(proof) = holder.secret.proof() {
            let name = holder.node.name.clone();
            self.0.lock().insert(holder.node.incarnation, (name, proof));
        }
    }

    /// That process is gone.
    pub(super) fn forget(&self, incarnation: u64) {
        self.0.lock().remove(&incarnation);
    }
}

impl Shared {
    /// Whether an authority knows that a process which lives has another secret than this one. The
    /// database may have lost the hash that was left there, and would take that of anybody.
    pub(super) async fn is_stranger(&self, holder: &Holder) -> bool {
        let lives = self.live.has(holder.node.incarnation);
        if !lives || self.proved.is(holder) || !guard!("incarnation-secret") {
            return false;
        }
        let asked = async |authority: &dyn LeaseAuthority| {
            let asked = tokio::time::timeout(SHORT, authority.prove(holder)).await;
            asked.ok()?.ok()
        };
        let (state_store, storage) = tokio::join!(
            asked(&*self.ports.state_store_leases),
            asked(&*self.ports.storage_leases)
        );
        let said = [state_store, storage];
        if said.contains(&Some(Proved::No)) {
            return true;
        }
        if said.contains(&Some(Proved::Yes)) {
            self.proved.note(holder);
        }
        false
    }

    /// Whether that process is this incarnation. One authority that knows it is enough; one that knows
    /// better refuses.
    pub(super) async fn admit(&self, holder: Holder) -> Result<(), LinkError> {
        if !guard!("incarnation-secret") || self.proved.is(&holder) {
            return Ok(());
        }
        let (state_store, storage) = tokio::join!(
            asked(&*self.ports.state_store_leases, &holder),
            asked(&*self.ports.storage_leases, &holder)
        );
        let peer = self.node.name.clone();
        match (state_store, storage) {
            (Some(Proved::No), _) | (_, Some(Proved::No)) => {
                let name = &holder.node.name;
                tracing::warn!(
                    name,
                    "refused a lane: the secret is not that of this incarnation"
                );
                let reason = format!("the secret is not that of this incarnation of {name}");
                Err(LinkError::Refused { peer, reason })
            }
            (Some(Proved::Yes), _) | (_, Some(Proved::Yes)) => {
                self.proved.note(&holder);
                Ok(())
            }
            (None, None) => Err(LinkError::Unavailable {
                peer,
                reason: "no lease authority answers, so this incarnation is not known".to_owned(),
            }),
            _ => Err(LinkError::Unavailable {
                peer,
                reason: "this incarnation has no lease yet".to_owned(),
            }),
        }
    }
}

async fn asked(authority: &dyn LeaseAuthority, holder: &Holder) -> Option<Proved> {
    let asked = tokio::time::timeout(LIMIT, authority.prove(holder)).await;
    asked.ok()?.ok()
}
