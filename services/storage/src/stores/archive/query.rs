//! Pages of an archive (XEP-0313 §4, XEP-0059 §2).

use prost::Message;
use sestina_api::store::{ARCHIVE_PAGE, StoreError};
use sestina_proto as proto;

use super::place::Place;
use super::window::{Window, order_of};
use crate::dialect::dialects;
use crate::error::Fault;
use crate::stores::{checked, fits};

/// The most rows that are asked for by id.
const IDS: usize = 1000;

/// How far `count` and `first_index` are exact. Beyond, counting would cost more than the page,
/// and XEP-0059 §2.2 lets both be approximate: they stop here.
const COUNTED: i64 = 100_000;

/// A row as it is read: `at_ms`, epoch, counter, stanza-id, other side, its resource, stanza.
type Row = (i64, i64, i64, Vec<u8>, String, String, Vec<u8>);

fn place_of(row: &Row) -> Place {
    (row.0, row.1, row.2)
}

/// Which other side the rows must have. The statements differ, for each to use the best index.
#[derive(Clone, Copy, Debug)]
enum With<'a> {
    Anyone,
    Peer(i64),
    Resource(i64, &'a str),
    /// Somebody who occurs in no archive.
    Nobody,
}

macro_rules! filtered {
    ($head:literal, $with:literal, $tail:literal) => {
        concat!(
            $head,
            " FROM archive a WHERE a.archive = $1",
            " AND (a.epoch, a.counter) > ($3, $4)",
            " AND (a.epoch, a.counter) < ($6, $7)",
            " AND a.at_ms >= $2 AND a.at_ms <= $5",
            $with,
            $tail
        )
    };
}

macro_rules! page_sql {
    ($with:literal, forwards) => {
        filtered!(
            "SELECT a.at_ms, a.epoch, a.counter, a.stanza_id,
             (SELECT p.jid FROM archive_peer p WHERE p.id = a.peer), a.resource, a.stanza",
            $with,
            " ORDER BY a.epoch, a.counter LIMIT $8"
        )
    };
    ($with:literal, backwards) => {
        filtered!(
            "SELECT a.at_ms, a.epoch, a.counter, a.stanza_id,
             (SELECT p.jid FROM archive_peer p WHERE p.id = a.peer), a.resource, a.stanza",
            $with,
            " ORDER BY a.epoch DESC, a.counter DESC LIMIT $8"
        )
    };
}

/// Sizes of the stanzas in a page, in the order of reading: what does not fit is not read.
macro_rules! sizes_sql {
    ($with:literal, forwards) => {
        filtered!(
            "SELECT CAST(length(a.stanza) AS BIGINT)",
            $with,
            " ORDER BY a.epoch, a.counter LIMIT $8"
        )
    };
    ($with:literal, backwards) => {
        filtered!(
            "SELECT CAST(length(a.stanza) AS BIGINT)",
            $with,
            " ORDER BY a.epoch DESC, a.counter DESC LIMIT $8"
        )
    };
}

macro_rules! count_sql {
    ($with:literal) => {
        filtered!(
            "SELECT count(*) FROM (SELECT 1 AS n",
            $with,
            " LIMIT $8) AS counted"
        )
    };
}

fn page_text(with: With<'_>, backwards: bool) -> &'static str {
    match (with, backwards) {
        (With::Anyone | With::Nobody, false) => page_sql!("", forwards),
        (With::Anyone | With::Nobody, true) => page_sql!("", backwards),
        (With::Peer(_), false) => page_sql!(" AND a.peer = $9", forwards),
        (With::Peer(_), true) => page_sql!(" AND a.peer = $9", backwards),
        (With::Resource(..), false) => {
            page_sql!(" AND a.peer = $9 AND a.resource = $10", forwards)
        }
        (With::Resource(..), true) => {
            page_sql!(" AND a.peer = $9 AND a.resource = $10", backwards)
        }
    }
}

fn sizes_text(with: With<'_>, backwards: bool) -> &'static str {
    match (with, backwards) {
        (With::Anyone | With::Nobody, false) => sizes_sql!("", forwards),
        (With::Anyone | With::Nobody, true) => sizes_sql!("", backwards),
        (With::Peer(_), false) => sizes_sql!(" AND a.peer = $9", forwards),
        (With::Peer(_), true) => sizes_sql!(" AND a.peer = $9", backwards),
        (With::Resource(..), false) => {
            sizes_sql!(" AND a.peer = $9 AND a.resource = $10", forwards)
        }
        (With::Resource(..), true) => {
            sizes_sql!(" AND a.peer = $9 AND a.resource = $10", backwards)
        }
    }
}

fn count_text(with: With<'_>) -> &'static str {
    match with {
        With::Anyone | With::Nobody => count_sql!(""),
        With::Peer(_) => count_sql!(" AND a.peer = $9"),
        With::Resource(..) => count_sql!(" AND a.peer = $9 AND a.resource = $10"),
    }
}

/// Binds the parameters of a statement: those that all have, then what `with` asks for.
macro_rules! bound {
    ($query:expr, $archive:expr, $with:expr, $window:expr, $limit:expr) => {{
        let Window { above, below } = $window;
        let query = $query
            .bind($archive)
            .bind(above.0)
            .bind(above.1)
            .bind(above.2)
            .bind(below.0)
            .bind(below.1)
            .bind(below.2)
            .bind($limit);
        match $with {
            With::Anyone | With::Nobody => query,
            With::Peer(peer) => query.bind(peer),
            With::Resource(peer, resource) => query.bind(peer).bind(resource.to_owned()),
        }
    }};
}

fn validate(request: &proto::ArchiveQueryRequest) -> Result<(), StoreError> {
    checked(&request.archive)?;
    checked(&request.with_bare)?;
    checked(&request.with_resource)?;
    if request.ids.len() > IDS {
        return Err(StoreError::Invalid(format!(
            "more than {IDS} ids in one query"
        )));
    }
    Ok(())
}

/// The answer to an id that is not in the archive (XEP-0313 §4.1.4, §4.3.1).
fn not_found() -> proto::ArchiveQueryReply {
    proto::ArchiveQueryReply {
        item_not_found: true,
        ..Default::default()
    }
}

fn to_row(archive: &str, row: Row) -> Result<proto::ArchiveRow, Fault> {
    let (at_ms, epoch, counter, stanza_id, with_bare, with_resource, stanza) = row;
    Ok(proto::ArchiveRow {
        fence: None,
        archive: archive.to_owned(),
        epoch: epoch as u64,
        counter: counter as u64,
        stanza_id: stanza_id.into(),
        at_ms,
        with_bare,
        with_resource,
        stanza: Some(proto::Stanza::decode(&stanza[..])?),
        moves: false,
    })
}

dialects! {
    items:

    /// A page of an archive.
    pub(crate) async fn query(
        conn: &mut Conn,
        request: &proto::ArchiveQueryRequest,
    ) -> Result<proto::ArchiveQueryReply, Fault> {
        validate(request)?;
        let archive: Option<i64> =
            sqlx::query_scalar("SELECT id FROM archive_owner WHERE jid = $1")
                .bind(&request.archive)
                .fetch_optional(&mut *conn)
                .await?;
        let named = !request.after.is_empty() || !request.before.is_empty();
        let Some(archive) = archive else {
            let empty = proto::ArchiveQueryReply { complete: true, ..Default::default() };
            let missing = named || !request.ids.is_empty();
            return Ok(if missing { not_found() } else { empty });
        };
        let (Some(after), Some(before)) = (
            edge(conn, archive, &request.after).await?,
            edge(conn, archive, &request.before).await?,
        ) else {
            return Ok(not_found());
        };
        let all = Window::of_times(request);
        let page = all.narrowed(after, before);
        let with = with(conn, request).await?;
        if request.ids.is_empty() {
            page_of(conn, request, archive, with, all, page).await
        } else {
            page_of_ids(conn, request, archive, with, all, page).await
        }
    }

    /// Where the row with that id is. Outer None: nowhere. Inner None: no id was given.
    async fn edge(
        conn: &mut Conn,
        archive: i64,
        id: &[u8],
    ) -> Result<Option<Option<Place>>, Fault> {
        if id.is_empty() {
            return Ok(Some(None));
        }
        let place = sqlx::query_as(
            "SELECT at_ms, epoch, counter FROM archive_key WHERE archive = $1 AND stanza_id = $2",
        )
        .bind(archive)
        .bind(id)
        .fetch_optional(conn)
        .await?;
        Ok(place.map(Some))
    }

    async fn with<'a>(
        conn: &mut Conn,
        request: &'a proto::ArchiveQueryRequest,
    ) -> Result<With<'a>, Fault> {
        if request.with_bare.is_empty() {
            return Ok(With::Anyone);
        }
        let peer: Option<i64> = sqlx::query_scalar("SELECT id FROM archive_peer WHERE jid = $1")
            .bind(&request.with_bare)
            .fetch_optional(conn)
            .await?;
        Ok(match peer {
            None => With::Nobody,
            Some(peer) if request.with_resource.is_empty() => With::Peer(peer),
            Some(peer) => With::Resource(peer, &request.with_resource),
        })
    }

    async fn page_of(
        conn: &mut Conn,
        request: &proto::ArchiveQueryRequest,
        archive: i64,
        with: With<'_>,
        all: Window,
        page: Window,
    ) -> Result<proto::ArchiveQueryReply, Fault> {
        if let With::Nobody = with {
            return Ok(proto::ArchiveQueryReply { complete: true, ..Default::default() });
        }
        let max = request.max.min(ARCHIVE_PAGE);
        let backwards = request.backwards;
        let sizes = sizes(conn, archive, with, page, backwards, i64::from(max) + 1).await?;
        let (fitting, more) = fits(&sizes, max, request.max_bytes);
        let mut rows = Vec::new();
        if fitting > 0 {
            rows = select(conn, archive, with, page, backwards, fitting as i64).await?;
        }
        // Returned in the order of the archive.
        if backwards {
            rows.reverse();
        }
        let complete = !more;
        let count = count(conn, archive, with, all).await?;
        let first_index = match rows.first() {
            _ if request.backwards => None,
            None => Some(0),
            Some(first) => {
                let ahead = all.narrowed(None, Some(place_of(first)));
                Some(self::count(conn, archive, with, ahead).await?)
            }
        };
        let count = count.max(first_index.unwrap_or_default() + rows.len() as u64);
        let rows: Result<_, _> =
            rows.into_iter().map(|row| to_row(&request.archive, row)).collect();
        Ok(proto::ArchiveQueryReply {
            rows: rows?,
            complete,
            item_not_found: false,
            count,
            first_index,
        })
    }

    /// The same for rows named by id. There are few, so they are filtered and counted here.
    async fn page_of_ids(
        conn: &mut Conn,
        request: &proto::ArchiveQueryRequest,
        archive: i64,
        with: With<'_>,
        all: Window,
        page: Window,
    ) -> Result<proto::ArchiveQueryReply, Fault> {
        let mut places: Vec<Place> = Vec::with_capacity(request.ids.len());
        for id in &request.ids {
            match edge(conn, archive, id).await? {
                Some(place) => places.extend(place),
                None => return Ok(not_found()),
            }
        }
        places.sort_unstable_by_key(|place| order_of(*place));
        places.dedup();
        let mut matching = Vec::new();
        for place in places {
            let exactly = Window::exactly(place);
            let row = select(conn, archive, With::Anyone, exactly, false, 1).await?.pop();
            // Its month has been dropped, though its key is still remembered.
            let Some(row) = row else { return Ok(not_found()) };
            let matches = match with {
                With::Anyone => true,
                With::Nobody => false,
                With::Peer(_) => row.4 == request.with_bare,
                With::Resource(_, resource) => row.4 == request.with_bare && row.5 == resource,
            };
            if matches && all.contains(place) {
                matching.push(row);
            }
        }
        let count = matching.len() as u64;
        let ahead = |row: &Row| {
            let before = |other: &&Row| order_of(place_of(other)) < order_of(place_of(row));
            matching.iter().filter(before).count()
        };
        let mut paged: Vec<Row> =
            matching.iter().filter(|row| page.contains(place_of(row))).cloned().collect();
        if request.backwards {
            paged.reverse();
        }
        let sizes: Vec<i64> = paged.iter().map(|row| row.6.len() as i64).collect();
        let (fitting, more) = fits(&sizes, request.max.min(ARCHIVE_PAGE), request.max_bytes);
        let (mut rows, complete) = (paged, !more);
        rows.truncate(fitting);
        if request.backwards {
            rows.reverse();
        }
        let first_index = (!request.backwards).then(|| rows.first().map_or(0, ahead) as u64);
        let rows: Result<_, _> =
            rows.into_iter().map(|row| to_row(&request.archive, row)).collect();
        Ok(proto::ArchiveQueryReply {
            rows: rows?,
            complete,
            item_not_found: false,
            count,
            first_index,
        })
    }

    async fn sizes(
        conn: &mut Conn,
        archive: i64,
        with: With<'_>,
        window: Window,
        backwards: bool,
        limit: i64,
    ) -> Result<Vec<i64>, Fault> {
        let query = sqlx::query_scalar(sizes_text(with, backwards));
        let query = bound!(query, archive, with, window, limit);
        Ok(query.fetch_all(conn).await?)
    }

    async fn select(
        conn: &mut Conn,
        archive: i64,
        with: With<'_>,
        window: Window,
        backwards: bool,
        limit: i64,
    ) -> Result<Vec<Row>, Fault> {
        let query = sqlx::query_as(page_text(with, backwards));
        let query = bound!(query, archive, with, window, limit);
        Ok(query.fetch_all(conn).await?)
    }

    async fn count(
        conn: &mut Conn,
        archive: i64,
        with: With<'_>,
        window: Window,
    ) -> Result<u64, Fault> {
        let query = sqlx::query_scalar(count_text(with));
        let query = bound!(query, archive, with, window, COUNTED);
        let count: i64 = query.fetch_one(conn).await?;
        Ok(count as u64)
    }
}
