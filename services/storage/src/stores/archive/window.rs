//! Which part of an archive a query asks for.

use sestina_proto as proto;

use super::place::{FIRST, LAST, Place};

/// The places between two, both excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) above: Place,
    pub(super) below: Place,
}

impl Window {
    /// What the time filters leave (XEP-0313 §4.1.2: both ends included).
    pub(super) fn of_times(request: &proto::ArchiveQueryRequest) -> Window {
        let above = match request.start_ms {
            Some(start) => (start.saturating_sub(1), i64::MAX, i64::MAX),
            None => FIRST,
        };
        let below = match request.end_ms {
            Some(end) => (end.saturating_add(1), i64::MIN, i64::MIN),
            None => LAST,
        };
        Window { above, below }
    }

    /// The part of it after and before these places.
    pub(super) fn narrowed(self, after: Option<Place>, before: Option<Place>) -> Window {
        Window {
            above: after.map_or(self.above, |after| self.above.max(after)),
            below: before.map_or(self.below, |before| self.below.min(before)),
        }
    }

    /// Whether the place lies inside.
    pub(super) fn contains(&self, place: Place) -> bool {
        self.above < place && place < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_included_and_pages_only_narrow() {
        let request = proto::ArchiveQueryRequest {
            start_ms: Some(10),
            end_ms: Some(20),
            ..Default::default()
        };
        let window = Window::of_times(&request);
        assert!(window.contains((10, 0, 0)) && window.contains((20, 9, 9)));
        assert!(!window.contains((9, 9, 9)) && !window.contains((21, 0, 0)));
        let page = window.narrowed(Some((5, 1, 1)), Some((15, 1, 1)));
        assert!(page.contains((10, 0, 0)) && page.contains((15, 1, 0)));
        assert!(!page.contains((15, 1, 1)) && !page.contains((9, 0, 0)));
        let all = Window::of_times(&proto::ArchiveQueryRequest::default());
        assert!(all.contains((0, 0, 0)) && all.contains((i64::MAX - 1, 1, 1)));
    }
}
