//! The trace context of a stanza, for telemetry alone: when it was read, and its trace.
//!
//! Between processes `age_us` is an age, since clocks differ; inside this one the same field holds
//! the time at which the stanza was read, on this process's clock, so that waiting in a mailbox or
//! a queue counts. [`entering`] and [`leaving`] turn one into the other. 0 stands for "not known".

use std::sync::Arc;

use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_telemetry::trace;

/// Microseconds on this process's clock, modulo 2^32: enough for over an hour.
pub(crate) type Micros = u32;

/// See the module. Empty for what no client sent just now; then copying it is free.
#[derive(Clone, Debug, Default)]
pub(crate) struct TraceContext {
    /// When it was read at its edge; 0: not known.
    pub(crate) received_at: Micros,
    /// W3C traceparent of the span that handled it last, if it is sampled.
    pub(crate) trace: Option<Arc<str>>,
}

impl TraceContext {
    /// Continues what a frame brought, in a span of that name. The span is disabled unless the
    /// stanza is sampled.
    pub(crate) fn of(
        received_at: Micros,
        traceparent: &str,
        name: &'static str,
    ) -> (TraceContext, tracing::Span) {
        if traceparent.is_empty() {
            return (
                TraceContext {
                    received_at,
                    trace: None,
                },
                tracing::Span::none(),
            );
        }
        let span = trace::span_from_traceparent(name, traceparent);
        // Without an exporter here, others may still have one.
        let next = trace::traceparent(&span).map_or_else(|| Arc::from(traceparent), Arc::from);
        (
            TraceContext {
                received_at,
                trace: Some(next),
            },
            span,
        )
    }

    /// The form in frames.
    pub(crate) fn traceparent(&self) -> String {
        self.trace.as_deref().unwrap_or_default().to_owned()
    }
}

/// The age of what was read at `received_at`.
fn age(received_at: Micros, now: Micros) -> u32 {
    if received_at == 0 {
        0
    } else {
        now.wrapping_sub(received_at).max(1)
    }
}

/// When something of that age was read.
fn received_at(age: u32, now: Micros) -> Micros {
    if age == 0 {
        0
    } else {
        now.wrapping_sub(age).max(1)
    }
}

/// A frame of an edge comes into this process.
pub(crate) fn edge_entering(frame: &mut proto::ToRouter, now: Micros) {
    if let Some(RouterBody::Inbound(inbound)) = &mut frame.body {
        inbound.age_us = received_at(inbound.age_us.max(1), now);
    }
}

/// A frame of an edge was not taken: it waits outside.
pub(crate) fn edge_refused(frame: &mut proto::ToRouter, now: Micros) {
    if let Some(RouterBody::Inbound(inbound)) = &mut frame.body {
        inbound.age_us = age(inbound.age_us, now);
    }
}

/// A frame of another router comes into this process.
pub(crate) fn entering(frame: &mut proto::PeerFrame, now: Micros) {
    if let Some(at) = field(frame) {
        *at = received_at(*at, now);
    }
}

/// A frame leaves for another router.
pub(crate) fn leaving(frame: &mut proto::PeerFrame, now: Micros) {
    if let Some(at) = field(frame) {
        *at = age(*at, now);
    }
}

/// Deliveries leave for an edge.
pub(crate) fn edge_leaving(deliver: &mut proto::Deliver, now: Micros) {
    for variant in &mut deliver.variants {
        variant.age_us = age(variant.age_us, now);
    }
}

fn field(frame: &mut proto::PeerFrame) -> Option<&mut u32> {
    match &mut frame.body {
        Some(PeerBody::SlotMessage(message)) => Some(&mut message.age_us),
        Some(PeerBody::RoomEvent(event)) => Some(&mut event.age_us),
        _ => None,
    }
}

#[cfg(test)]
#[path = "trace_context_tests.rs"]
mod hops;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn slot_message(age_us: u32) -> proto::PeerFrame {
        let message = proto::SlotMessage {
            age_us,
            ..proto::SlotMessage::default()
        };
        proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(PeerBody::SlotMessage(message)),
        }
    }

    #[test]
    fn ages_add_up_over_clocks_that_differ_and_wrap() {
        let mut frame = slot_message(300);
        entering(&mut frame, 100);
        assert_eq!(*field(&mut frame).unwrap(), 100u32.wrapping_sub(300));
        leaving(&mut frame, 150);
        assert_eq!(*field(&mut frame).unwrap(), 350);
        entering(&mut frame, u32::MAX - 9);
        leaving(&mut frame, 40);
        assert_eq!(*field(&mut frame).unwrap(), 400);
    }

    #[test]
    fn what_is_not_known_stays_so() {
        let mut frame = slot_message(0);
        entering(&mut frame, 77);
        leaving(&mut frame, 99);
        assert_eq!(*field(&mut frame).unwrap(), 0);
    }

    #[test]
    fn a_stanza_that_is_not_sampled_makes_no_span() {
        let (trace_context, span) = TraceContext::of(5, "", "route");
        assert!(span.is_disabled() && trace_context.trace.is_none());
        assert_eq!(
            (trace_context.received_at, trace_context.traceparent()),
            (5, String::new())
        );
    }
}
