//! Sessions of a slot that was taken, rebuilt from what edges reported of them.

use std::collections::BTreeMap;

use prost::Message as _;
use sestina_api::key::{EffectKey, join};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::jid::Jid;

use super::archive_again::Held;
use super::core::{Core, LaneRef};
use super::session::{Attachment, Older, Session, Spare};
use super::slot::Slot;

impl Session {
    /// Keeps an attachment that the session was resumed from, if its edge holds stanzas that the edge
    /// of the attachment after it does not: it sends those first. False if nothing of it is needed.
    pub(super) fn keep_older(
        &mut self,
        lane: LaneRef,
        report: &proto::SessionReport,
        until: u64,
    ) -> bool {
        let needed = self.settled < until || self.spare.is_some();
        if needed {
            self.older.push(Older {
                lane,
                handle: report.handle,
                generation: report.generation,
                until,
                knew: true,
            });
        }
        needed
    }
}

impl Slot {
    /// After more than one fault (the edge of an older attachment and the owner are dead) nobody has
    /// stanzas any more that the client was told to be accepted, or nobody who has their number knows
    /// that they are settled. They are counted as lost, and the session goes on behind them.
    pub(super) fn give_up_lost(
        &self,
        core: &Core,
        id: u128,
        report: &mut proto::SessionReport,
        held_from: u64,
    ) {
        let known = self.sessions.get(&id).map_or(0, |shadow| shadow.settled);
        if held_from <= report.settled.max(known) {
            return;
        }
        let lost = held_from - report.settled.max(known);
        tracing::warn!(
            slot = self.slot,
            session = report.jid,
            lost,
            "stanzas of a session are lost: an edge and the owner died at once"
        );
        core.metrics.input_lost(lost);
        report.settled = held_from;
    }

    /// Rebuilds a session from what its edge holds, and from what that edge did not get before the
    /// older owner died: the shadow, and the attachments `before` this one, have it. What the client
    /// has `taken` may be missing in the archive.
    pub(super) fn restore_reported(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        report: proto::SessionReport,
        mut before: BTreeMap<u64, proto::Outbound>,
        taken: &mut Held,
    ) -> Option<proto::ProgressItem> {
        let record = proto::SessionState::decode(report.state.clone()).ok()?;
        let id = join(report.session_hi, report.session_lo);
        if let Some(shadow) = self.sessions.get(&id) {
            if shadow.generation > report.generation {
                return None;
            }
            if let Some(shadow) = self.remove_session(id) {
                let queue = (shadow.acked + 1..).zip(&shadow.queue);
                before.extend(queue.map(|(number, item)| (number, item.outbound(number))));
            }
            core.metrics.reattached();
            core.metrics.ended();
        }
        let attachment = Attachment::Edge {
            lane,
            handle: report.handle,
        };
        let mut session = Session::from_record(record, attachment);
        session.id = id;
        session.jid = Jid::from_wire(&report.jid);
        session.generation = report.generation;
        session.transport = report.transport;
        session.remote = report.remote;
        session.accepted = report.settled;
        session.settled = report.settled;
        if guard!("predecessor-accepted") {
            session.promised = report.accepted;
        }
        session.replay_until = report.sent.max(report.accepted);
        session.mark = report.settled;
        session.acked = report.acked;
        session.next = report.acked;
        let mut take = |item: proto::Outbound| {
            if let (Some(key), Some(stanza)) = (item.key, item.stanza) {
                taken.push_back((EffectKey::from(&key), stanza));
            }
        };
        let mut spare = false;
        let after = before.split_off(&(report.received + 1));
        for (number, item) in before {
            if number <= report.acked && number > report.released {
                if let Some(key) = item.key.as_ref().map(EffectKey::from) {
                    spare = true;
                    session.unreleased.insert(number, key);
                    session.restored.insert(key);
                }
                take(item);
            }
        }
        for item in report.held {
            if item.number <= report.acked {
                // Taken by the client, but its origin may still replay it.
                if let Some(key) = item.key.as_ref().map(EffectKey::from) {
                    session.unreleased.insert(item.number, key);
                    session.restored.insert(key);
                }
                take(item);
            } else if item.number == session.next + 1 {
                session.restore_item(item, core.wall_ms);
            }
        }
        session.next = session.next.max(report.received);
        session.sent = session.next;
        session.written = session.acked;
        session.flying_bytes = session.queue_bytes.get();
        session.edge_has = session.next;
        for (number, item) in after {
            if number == session.next + 1 {
                spare = true;
                session.restore_item(item, core.wall_ms);
            }
        }
        session.held = session.next;
        if spare && guard!("spare-copies") {
            session.spare = Some(Spare {
                out: session.next,
                keys: session.acked,
            });
        }
        self.any_restored |= !session.restored.is_empty();
        core.metrics.bound();
        let item = proto::ProgressItem {
            handle: report.handle,
            generation: report.generation,
            accepted: session.accepted,
            settled: session.settled,
            released: session.released().min(session.sent),
        };
        self.handles.insert((lane.edge, report.handle), id);
        self.insert_session(session);
        self.ask_rooms(id);
        // What the shadow kept while it was detached goes, unless something is in there alone.
        self.shadow_delete_spilled(core, id);
        Some(item)
    }
}
