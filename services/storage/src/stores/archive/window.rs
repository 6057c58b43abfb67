//! Which part of an archive a query asks for.

use sestina_proto as proto;

use super::place::Place;

/// The rows between two places in the order, both excluded, with times between two, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The first time, and the place that the rows come after.
    pub(super) above: Place,
    /// The last time, and the place that the rows come before.
    pub(super) below: Place,
}

impl Window {
    /// What the time filters leave (XEP-0313 §4.1.2: both ends included). Where a clock was wrong,
    /// these rows are not next to each other.
    pub(super) fn of_times(request: &proto::ArchiveQueryRequest) -> Window {
        Window {
            above: (request.start_ms.unwrap_or(i64::MIN), i64::MIN, i64::MIN),
            below: (request.end_ms.unwrap_or(i64::MAX), i64::MAX, i64::MAX),
        }
    }

    /// The row at this place alone.
    pub(super) fn exactly(place: Place) -> Window {
        let (at_ms, epoch, counter) = place;
        let next = match counter.checked_add(1) {
            Some(next) => (epoch, next),
            None => (epoch.saturating_add(1), i64::MIN),
        };
        Window {
            above: (at_ms, epoch, counter.saturating_sub(1)),
            below: (at_ms, next.0, next.1),
        }
    }

    /// The part of it after and before these places.
    pub(super) fn narrowed(self, after: Option<Place>, before: Option<Place>) -> Window {
        let mut window = self;
        if let Some(after) = after {
            let order = order_of(after).max(order_of(self.above));
            window.above = (self.above.0, order.0, order.1);
        }
        if let Some(before) = before {
            let order = order_of(before).min(order_of(self.below));
            window.below = (self.below.0, order.0, order.1);
        }
        window
    }

    /// Whether the place lies inside.
    pub(super) fn contains(&self, place: Place) -> bool {
        (self.above.0..=self.below.0).contains(&place.0)
            && order_of(self.above) < order_of(place)
            && order_of(place) < order_of(self.below)
    }
}

/// The place in the order, without the time.
pub(super) fn order_of(place: Place) -> (i64, i64) {
    (place.1, place.2)
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
        // The order decides which page a row is on, its time whether it is asked for.
        let page = window.narrowed(Some((90, 1, 1)), Some((15, 3, 0)));
        assert!(page.contains((10, 1, 2)) && page.contains((20, 2, 9)));
        assert!(!page.contains((10, 1, 1)) && !page.contains((10, 3, 0)));
        assert!(!page.contains((9, 2, 0)));
        let narrower = page.narrowed(Some((15, 0, 0)), Some((15, 9, 0)));
        assert_eq!(narrower, page);
        let all = Window::of_times(&proto::ArchiveQueryRequest::default());
        assert!(all.contains((0, 0, 0)) && all.contains((i64::MAX, 1, 1)));
        let one = Window::exactly((5, 2, i64::MAX));
        assert!(one.contains((5, 2, i64::MAX)) && !one.contains((6, 2, i64::MAX)));
        assert!(!one.contains((5, 3, 0)));
    }
}
