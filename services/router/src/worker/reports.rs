//! The reports of edges to a new owner of a slot come in parts; here they are put together.

use sestina_proto as proto;

use super::core::LaneRef;

/// Adds a part of an edge's report. False if it is of no use: it is not the next one, or of a report
/// that the edge has begun anew since.
pub(crate) fn take(
    reports: &mut Vec<(LaneRef, proto::EpochReport)>,
    lane: LaneRef,
    mut part: proto::EpochReport,
) -> bool {
    let known = reports.iter_mut().find(|(of, _)| of.edge == lane.edge);
    let next = match &known {
        Some((_, known)) if known.report == part.report => known.part + 1,
        Some((_, known)) if known.report > part.report => return false,
        _ => 0,
    };
    if part.part != next {
        return false;
    }
    spread_payloads(&mut part);
    match known {
        Some((_, known)) if next > 0 => append(known, part),
        // Its lane broke before it had told all.
        Some(known) => *known = (lane, part),
        None => reports.push((lane, part)),
    }
    true
}

/// Gives each delivery its stanza.
fn spread_payloads(part: &mut proto::EpochReport) {
    let payloads = std::mem::take(&mut part.payloads);
    let held = part.sessions.iter_mut().flat_map(|s| &mut s.held);
    for item in held.filter(|item| item.payload > 0) {
        let place = item.payload as usize - 1;
        item.stanza = payloads.get(place).cloned();
        item.payload = 0;
    }
}

fn append(report: &mut proto::EpochReport, part: proto::EpochReport) {
    let mut sessions = part.sessions.into_iter().peekable();
    if let Some(last) = report.sessions.pop_if(|last| last.more) {
        // One that is not gone on with has gone at its edge meanwhile.
        if let Some(mut next) = sessions.next_if(|next| next.handle == last.handle) {
            let held = std::mem::replace(&mut next.held, last.held);
            next.held.extend(held);
            report.sessions.push(next);
        }
    }
    report.sessions.extend(sessions);
    report.part = part.part;
    report.more = part.more;
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
