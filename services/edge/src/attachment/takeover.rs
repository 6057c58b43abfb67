//! A slot gets another owner, or its owner does not take frames: which sessions are reported, which
//! frames wait, and which are sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::guard;
use sestina_xmpp::stream::StreamCondition;

use super::Attachments;
use super::hands::{Hands, Lock as _};
use super::slots::{Retry, Slot};
use super::state::{HeldIn, Link, Phase, Session};
use crate::metrics::Count;

/// The first wait after a redirection; each one doubles it.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Within this many ticks all slots are swept: about five seconds.
const SWEEP: usize = 100;
/// A session without a socket that no owner takes over is dropped after this long.
const LOST_LIMIT: Duration = Duration::from_secs(600);

impl<H: Hands> Attachments<H> {
    /// The slot has a new owner. This edge sends it all that it holds of the slot (see
    /// [`report`](super::report)), and from now on refuses frames of other routers. False if the epoch
    /// is not above those that this edge knows; the caller sends that to the router.
    pub fn install_epoch(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        route: &H::Route,
        epoch: u64,
        install: &proto::InstallEpoch,
    ) -> bool {
        // Each owner has an epoch of its own, unless the stores have lost one.
        let others = epoch == slot.reported
            && epoch == slot.epoch
            && (slot.route.as_ref()).is_some_and(|owner| !hands.is_same(owner, route));
        if (epoch < slot.epoch || others) && guard!("epoch") {
            hands.metrics().count(Count::RefusedEpoch, 1);
            return false;
        }
        if let Some(owner) = &install.owner
            && !hands.leads_to(route, owner)
        {
            tracing::warn!(
                slot = number,
                owner = %owner.name,
                router = hands.name(route),
                "an epoch came on another router's lane and was ignored"
            );
            return true;
        }
        hands.metrics().count(Count::EpochInstalled, 1);
        slot.raise(hands, epoch, Some(route.clone()));
        slot.reported = 0;
        self.begin_report(hands, number, slot);
        if !slot.pending.is_empty() {
            self.wait_for_owner(hands, number, slot);
        }
        true
    }

    /// The new owner lacks the presences of some occupants.
    pub fn tell_members(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        asked: Vec<proto::AskedMember>,
    ) {
        let parts = self.rooms.members(hands, number, asked).into_iter();
        // If the lane breaks now, the owner begins again on the next one.
        self.begin_answer(hands, number, slot, parts.map(Body::RoomMembers).collect());
    }

    /// The new owner has rebuilt these sessions; those it does not know are closed.
    pub fn take_restored(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        restored: &proto::Restored,
    ) {
        for item in &restored.items {
            if let Some(session) = slot.sessions.get(&item.handle)
                && session.generation == item.generation
            {
                let mut state = session.state.lock();
                session.restored(hands, slot, &mut state, item);
                let again = state
                    .incoming
                    .held
                    .iter()
                    .filter(|h| h.n > state.incoming.accepted)
                    .count();
                hands.metrics().count(Count::Replayed, again as u64);
                state.tell_unsettled(hands);
            }
        }
        let unknown: Vec<Arc<Session<H>>> = slot
            .sessions
            .values()
            .filter(|s| matches!(s.state.lock().link, Link::Restoring))
            .cloned()
            .collect();
        for session in unknown {
            hands.metrics().count(Count::NotRestored, 1);
            give_up(hands, &session);
            session.dismiss(
                hands,
                StreamCondition::Reset.name(),
                "the session could not be restored",
            );
            self.remove_session(hands, slot, session.handle);
        }
        slot.retry = None;
        slot.resend_pending(hands, number);
    }

    /// The owner did not take frames of that session (or a bind): they are sent again when a newer
    /// map names another owner, and otherwise after a while.
    pub fn take_redirect(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        route: &H::Route,
        redirect: &proto::Redirect,
    ) {
        // A router that is not the owner any more has nothing new to say, whatever epoch it knows.
        if !slot
            .route
            .as_ref()
            .is_some_and(|owner| hands.is_same(owner, route))
        {
            return;
        }
        hands.metrics().count(Count::Redirected, 1);
        if let Some(session) = slot.sessions.get(&redirect.handle) {
            let mut state = session.state.lock();
            if redirect.generation < session.generation || matches!(state.link, Link::Restoring) {
                return;
            }
            if redirect.n > 0 && redirect.n <= state.incoming.accepted {
                // The owner has accepted less than its predecessor had reported.
                state.incoming.accepted = state.incoming.settled.max(redirect.n - 1);
            }
            if matches!(state.link, Link::Waiting) {
                // Of the frames that were on their way; or the owner asks for them now.
                if redirect.n == state.incoming.accepted + 1
                    && let Some(retry) = &mut slot.retry
                {
                    retry.at = hands.now();
                }
                return;
            }
            session.wait(hands, &mut state);
        } else if !slot.pending.contains_key(&redirect.handle) {
            return;
        }
        self.wait_for_owner(hands, number, slot);
    }

    /// Arms the slot's retry.
    pub fn wait_for_owner(&self, hands: &H, number: u16, slot: &mut Slot<H>) {
        let now = hands.now();
        let tries = match slot.retry {
            Some(retry) if retry.at > now => return,
            Some(retry) => retry.tries + 1,
            None => 0,
        };
        let pause = RETRY_FIRST
            .saturating_mul(1 << tries.min(6))
            .min(RETRY_LAST);
        slot.retry = Some(Retry {
            at: now + pause,
            tries,
        });
        self.waiting.lock().insert(number);
    }

    /// Called by the timers' task: sends again what owners did not take, and ends what waited too
    /// long.
    pub fn retry_waiting(&self, hands: &H, now: Instant) {
        let waiting: Vec<u16> = self.waiting.lock().iter().copied().collect();
        for number in waiting {
            let mut slot = self.slots[usize::from(number)].lock();
            match slot.retry {
                Some(retry) if retry.at > now => continue,
                Some(retry) if slot.is_waiting() => {
                    slot.resend_waiting(hands, number);
                    let pause = RETRY_FIRST
                        .saturating_mul(1 << retry.tries.min(6))
                        .min(RETRY_LAST);
                    slot.retry = Some(Retry {
                        at: now + pause,
                        tries: retry.tries + 1,
                    });
                }
                _ => {
                    slot.retry = None;
                    self.waiting.lock().remove(&number);
                }
            }
        }
        let step = self.slots.len().div_ceil(SWEEP);
        let from = {
            let mut at = self.sweep_at.lock();
            let from = *at;
            *at = (from + step) % self.slots.len().max(1);
            from
        };
        for offset in 0..step {
            self.sweep(hands, (from + offset) % self.slots.len(), now);
        }
    }

    /// Looks for what has waited too long in one slot, and for clients that are gone.
    pub fn sweep(&self, hands: &H, index: usize, now: Instant) {
        let mut slot = self.slots[index].lock();
        if slot.sessions.is_empty() {
            return;
        }
        let mut over: Vec<(Arc<Session<H>>, bool)> = Vec::new();
        for session in slot.sessions.values() {
            let mut state = session.state.lock();
            session.check_keepalive(hands, &mut state, now);
            let Some(since) = state.waiting_since else {
                continue;
            };
            let open = state.phase == Phase::Open;
            let linked = matches!(state.link, Link::Live(_));
            if open && linked {
                continue;
            }
            let limit = if open {
                hands.limits().owner_deadline
            } else {
                LOST_LIMIT
            };
            if state.phase == Phase::Gone || hands.now().saturating_duration_since(since) >= limit {
                over.push((Arc::clone(session), open));
            } else if linked && state.all_forwarded() {
                session.send_close(hands, &state);
            }
        }
        for (session, open) in over {
            if open {
                hands.metrics().count(Count::OwnerTimeout, 1);
            }
            give_up(hands, &session);
            session.dismiss(
                hands,
                StreamCondition::ResourceConstraint.name(),
                "no server took over this session in time",
            );
            self.remove_session(hands, &mut slot, session.handle);
        }
    }

    /// A lane is open: everything of its slots that is not answered is sent on it.
    pub fn lane_ready(&self, hands: &H, route: &H::Route, lane: u32, lanes: u32) {
        let step = (lanes as usize).max(1);
        for number in (lane as usize..self.slots.len()).step_by(step) {
            let mut slot = self.slots[number].lock();
            if slot
                .route
                .as_ref()
                .is_some_and(|owner| hands.is_same(owner, route))
            {
                if slot.reported == slot.epoch {
                    // The owner's answer to the report may have been lost with the lane. If it
                    // has not restored yet, it redirects and installs its epoch once more.
                    for session in slot.sessions.values() {
                        session.assume_restored(&slot, &mut session.state.lock());
                    }
                }
                slot.resend(hands, number as u16);
            }
        }
    }
}

/// Counts the stanzas that are lost: the client was told that they are accepted, and no owner has
/// taken them from this edge.
fn give_up<H: Hands>(hands: &H, session: &Session<H>) {
    let state = session.state.lock();
    let promised = |held: &&HeldIn| held.n <= state.incoming.told;
    let lost = state.incoming.held.iter().filter(promised).count();
    hands.metrics().count(Count::InputLost, lost as u64);
}
