//! Answers for people.

use sestina_proto::versions::Range;
use sestina_router::admin::{Counts, SessionInfo};
use sestina_xmpp::ext::datetime;

use crate::admin::types::{
    Closed, Failpoints, NodeStatus, ProcessStatus, Sessions, Slots, Status, User, Users,
};

/// Rows under a header, each column as wide as its widest cell.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn day(ms: i64) -> String {
    datetime::format(ms)
}

pub(super) fn users(found: &Users) -> String {
    if found.users.is_empty() {
        return "no users; add one with `user add`\n".to_owned();
    }
    let rows: Vec<_> = found
        .users
        .iter()
        .map(|user| vec![user.jid.clone(), yes(!user.disabled), day(user.created_ms)])
        .collect();
    table(&["user", "may log in", "since"], &rows)
}

pub(super) fn user(user: &User) -> String {
    format!(
        "user        {}\nmay log in  {}\nsince       {}\nkeys for    {}\n",
        user.jid,
        yes(!user.disabled),
        day(user.created_ms),
        user.mechanisms.join(", ")
    )
}

pub(super) fn sessions(found: &Sessions) -> String {
    let rows: Vec<_> = found
        .sessions
        .iter()
        .map(|session| {
            vec![
                session.jid.clone(),
                session.state.clone(),
                session.transport.clone(),
                session.remote.clone(),
                session
                    .priority
                    .map_or("-".to_owned(), |priority| priority.to_string()),
            ]
        })
        .collect();
    let mut text = if rows.is_empty() {
        "no sessions\n".to_owned()
    } else {
        table(
            &["session", "state", "transport", "from", "priority"],
            &rows,
        )
    };
    text.push_str(&incomplete(&found.missing));
    text
}

pub(super) fn session_details(found: &Sessions) -> String {
    let all: Vec<String> = found.sessions.iter().map(session).collect();
    format!("{}{}", all.join("\n"), incomplete(&found.missing))
}

fn session(session: &SessionInfo) -> String {
    format!(
        "session            {}\nstate              {}\ntransport          {}\n\
         from               {}\nslot               {}\nstream management  {}\n\
         carbons            {}\npriority           {}\nstanzas            {} in, {} out\n\
         not acknowledged   {} bytes\nrooms              {}\n",
        session.jid,
        session.state,
        session.transport,
        session.remote,
        session.slot,
        yes(session.stream_management),
        yes(session.carbons),
        session
            .priority
            .map_or("not available".to_owned(), |priority| priority.to_string()),
        session.stanzas_in,
        session.stanzas_out,
        session.queued_bytes,
        session.rooms,
    )
}

pub(super) fn closed(done: &Closed) -> String {
    format!(
        "{} closed\n{}",
        plural(done.closed, "session"),
        incomplete(&done.missing)
    )
}

fn incomplete(missing: &[String]) -> String {
    missing
        .iter()
        .map(|who| format!("incomplete: {who}\n"))
        .collect()
}

pub(super) fn slots(slots: &Slots) -> String {
    let rows: Vec<_> = slots
        .routers
        .iter()
        .map(|router| {
            vec![
                router.name.clone(),
                router.address.clone(),
                router.slots.to_string(),
            ]
        })
        .collect();
    let mut text = format!("slot table {}\n\n", slots.version);
    text.push_str(&table(&["router", "address", "slots"], &rows));
    if slots.unowned > 0 {
        text.push_str(&format!("without owner: {}\n", slots.unowned));
    }
    // With rendezvous hashing there are thousands of ranges; those are for programs.
    if slots.ranges.len() <= 32 {
        text.push('\n');
        for range in &slots.ranges {
            let owner = range.owner.as_deref().unwrap_or("nobody");
            text.push_str(&format!("{:>4}-{:<4}  {owner}\n", range.first, range.last));
        }
    }
    text
}

pub(super) fn status(status: &Status) -> String {
    let mut text = match status.redundant {
        true => "the cluster is redundant\n".to_owned(),
        false => "the cluster is NOT redundant:\n".to_owned(),
    };
    for missing in &status.missing {
        text.push_str(&format!("  - {missing}\n"));
    }
    text.push_str(&format!(
        "\n{} ({} without a socket), {} with {}\n\n",
        plural(status.sessions, "session"),
        status.detached,
        plural(status.rooms, "room"),
        plural(status.occupants, "occupant"),
    ));
    // The table of a single process has fewer columns.
    let cluster = status.authorities.iter().any(|a| a.name == "redis");
    let versions = |process: &ProcessStatus| match (process.oldest, process.newest) {
        (_, 0) => "-".to_owned(),
        (oldest, newest) => Range { oldest, newest }.to_string(),
    };
    let processes = status.processes.iter().chain(&status.storages);
    let rows: Vec<_> = processes
        .map(|process| {
            let incarnation = &process.incarnation;
            let router = status
                .routers
                .iter()
                .find(|r| &r.incarnation == incarnation);
            let count = |count: fn(&Counts) -> usize| {
                router.map_or("-".to_owned(), |router| count(&router.counts).to_string())
            };
            let state = match process.draining {
                true => "draining",
                false => "serving",
            };
            let mut row = vec![process.name.clone(), process.role.clone()];
            row.extend(cluster.then(|| process.address.clone()));
            row.push(state.to_owned());
            let holds_leases = process.role != "storage";
            row.extend(cluster.then(|| match holds_leases {
                true => yes(process.redis),
                false => "-".to_owned(),
            }));
            row.push(yes(process.storage));
            row.extend([
                count(|counts| counts.slots),
                count(|counts| counts.sessions),
            ]);
            row.extend(cluster.then(|| process.program.clone()));
            row.extend(cluster.then(|| versions(process)));
            row
        })
        .collect();
    let mut head = vec![
        "process", "role", "address", "state", "redis", "storage", "slots", "sessions", "program",
        "speaks",
    ];
    let only = |name: &str| matches!(name, "address" | "redis" | "program" | "speaks");
    head.retain(|name| cluster || !only(name));
    text.push_str(&table(&head, &rows));
    if cluster {
        text.push_str(&format!(
            "\nthe cluster speaks version {} between its tiers\n",
            status.speaks
        ));
    }
    text.push_str(&format!(
        "\nanswered by {}, program {}, slot table {}\n",
        status.node, status.program, status.table_version
    ));
    text
}

pub(super) fn node_status(node: &NodeStatus) -> String {
    let state = if node.ready {
        "ready".to_owned()
    } else {
        format!("not ready: {}", node.reason)
    };
    let (oldest, newest) = (node.oldest, node.newest);
    let range = Range { oldest, newest };
    let speaks = match node.speaks {
        0 => String::new(),
        version => format!("; the cluster speaks version {version}"),
    };
    format!(
        "{} {} (program {}, speaks version {range} between tiers{speaks}): {state}\n",
        node.role, node.name, node.program
    )
}

pub(super) fn armed(points: &Failpoints) -> String {
    let armed: Vec<String> = points
        .points
        .iter()
        .filter_map(|point| {
            Some(format!(
                "{}={} ({} hits)\n",
                point.name,
                point.action.as_ref()?,
                point.hits
            ))
        })
        .collect();
    if armed.is_empty() {
        "no fail point is armed\n".to_owned()
    } else {
        armed.concat()
    }
}

pub(super) fn failpoints(points: &Failpoints) -> String {
    let rows: Vec<_> = points
        .points
        .iter()
        .map(|point| {
            let action = point.action.clone().unwrap_or_default();
            vec![
                point.name.clone(),
                action,
                point.hits.to_string(),
                point.what.clone(),
            ]
        })
        .collect();
    table(&["point", "action", "hits", "where"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::types::AuthorityStatus;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["alice@localhost".to_owned(), "x".to_owned()]];
        assert_eq!(
            table(&["user", "b"], &rows),
            "user             b\nalice@localhost  x\n"
        );
    }

    #[test]
    fn a_status_names_what_is_missing() {
        let text = status(&Status {
            missing: vec!["redis cannot be reached: hung".into()],
            ..Status::default()
        });
        assert!(text.starts_with("the cluster is NOT redundant:\n  - redis cannot be reached"));
        let text = status(&Status {
            redundant: true,
            ..Status::default()
        });
        assert!(text.starts_with("the cluster is redundant\n"));
    }

    #[test]
    fn one_process_has_no_column_for_redis() {
        let named = |name: &str| AuthorityStatus {
            name: name.to_owned(),
            ..AuthorityStatus::default()
        };
        let process = ProcessStatus {
            name: "vm".to_owned(),
            role: "serve".to_owned(),
            storage: true,
            ..ProcessStatus::default()
        };
        let mut shown = Status {
            authorities: vec![named("storage")],
            processes: vec![process],
            ..Status::default()
        };
        let text = status(&shown);
        assert!(
            text.contains("process  role   state    storage  slots  sessions\n"),
            "{text}"
        );
        assert!(
            text.contains("vm       serve  serving  yes      -      -\n"),
            "{text}"
        );
        shown.authorities.push(named("redis"));
        assert!(status(&shown).contains("  redis  storage  "));
    }
}
