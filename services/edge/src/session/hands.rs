//! What sessions act through in a running edge: lanes to routers, sockets, locks, the clock.

use std::sync::Arc;
use std::time::Instant;

use sestina_proto as proto;
use sestina_runtime::clock::wall_ms;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::stream::{Framing, sm};
use sestina_xmpp::xml::Element;
use tokio::sync::{Notify, oneshot};

use super::{Answer, Session};
use crate::attachment::Attachments;
use crate::attachment::hands::{Hands, Limits, Reader, Say, Sent, Socket, Waiter};
use crate::metrics::EdgeMetrics;
use crate::routing::lane::{LaneSet, Opened};
use crate::shared::Shared;
use crate::stream::write;
use crate::transport::{CloseKind, Flush, TraceContext, WireWriter};

impl Hands for Shared {
    type Lock<T: 'static> = parking_lot::Mutex<T>;
    type Socket = WireWriter;
    type Route = Arc<LaneSet>;
    type Lane = Opened;
    type Waiter = oneshot::Sender<Answer>;
    type Reader = Notify;

    fn attachments(&self) -> &Attachments<Shared> {
        &self.attachments
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> i64 {
        wall_ms()
    }

    fn metrics(&self) -> &dyn EdgeMetrics {
        &*self.metrics
    }

    fn slot_of_room(&self, room: &Jid) -> u16 {
        self.config.slots.slot_of_jid(room)
    }

    fn lane(&self, route: &Arc<LaneSet>, slot: u16) -> Option<Opened> {
        route.lane(slot).opened()
    }

    fn send(&self, lane: &Opened, frame: proto::ToRouter) -> Sent {
        lane.send(frame)
    }

    fn waiting(&self, lane: &Opened) -> usize {
        lane.waiting()
    }

    fn is_same(&self, a: &Arc<LaneSet>, b: &Arc<LaneSet>) -> bool {
        Arc::ptr_eq(a, b)
    }

    fn leads_to(&self, route: &Arc<LaneSet>, node: &proto::Node) -> bool {
        route.is(node)
    }

    fn name<'a>(&self, route: &'a Arc<LaneSet>) -> &'a str {
        &route.router.name
    }

    fn learn(&self, map: proto::SlotMap) {
        if let Some(shared) = self.me.upgrade() {
            Shared::learn(&shared, map);
        }
    }
}

impl Socket for WireWriter {
    fn say(&self, framing: Framing, what: Say<'_>) -> bool {
        self.append(|out| write_said(out, framing, what))
    }

    #[inline]
    fn deliver(
        &self,
        framing: Framing,
        number: u64,
        trace_context: TraceContext,
        stanza: &Stanza,
        to: &str,
    ) -> bool {
        self.append_passing(number, trace_context, |out| {
            stanza.write_to(out, Some(to), framing.declares_content());
        })
    }

    fn flush(&self) -> Flush {
        WireWriter::flush(self)
    }

    fn close(&self, kind: CloseKind) {
        WireWriter::close(self, kind);
    }

    fn written(&self) -> u64 {
        WireWriter::written(self)
    }

    fn overflowed(&self) -> bool {
        WireWriter::overflowed(self)
    }

    fn heard_at(&self) -> Instant {
        WireWriter::heard_at(self)
    }

    fn is_websocket(&self) -> bool {
        WireWriter::is_websocket(self)
    }

    fn keepalive(&self) -> Flush {
        WireWriter::keepalive(self)
    }

    fn set_queue_limit(&self, bytes: usize) {
        WireWriter::set_queue_limit(self, bytes);
    }
}

fn write_said(out: &mut Vec<u8>, framing: Framing, what: Say<'_>) {
    match what {
        Say::Bound { id, jid } => {
            let mut result = Stanza::new(Kind::Iq);
            result.type_ = "result".to_owned();
            result.id = id.to_owned();
            let jid = Element::new("jid", ns::BIND).with_text(jid);
            result.push_element(&Element::new("bind", ns::BIND).with_child(jid));
            result.write_to(out, None, framing.declares_content());
        }
        Say::Resumed { previd, h } => sm::write_resumed(out, previd, h),
        Say::Enabled { id, max_s } => sm::write_enabled(out, id, id.is_some(), max_s),
        Say::Failed(condition) => sm::write_failed(out, condition, None),
        Say::Ack(h) => sm::write_ack(out, h),
        Say::Request => sm::write_request(out),
        Say::CountTooHigh { h, sent } => sm::write_handled_count_too_high(out, framing, h, sent),
        Say::Error(condition, text) => write::write_error(out, framing, condition, text),
        Say::Close => write::write_close(out, framing),
    }
}

impl Waiter<Shared> for oneshot::Sender<Answer> {
    fn session(self, session: &Arc<Session>) -> bool {
        self.send(Answer::Session(Arc::clone(session))).is_ok()
    }

    fn refused(self, refused: proto::Refused) -> bool {
        self.send(Answer::Refused(refused)).is_ok()
    }
}

impl Reader for Notify {
    fn wake(&self) {
        self.notify_one();
    }
}
