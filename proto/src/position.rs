//! Positions of the slot table.

use crate::{Position, SlotMap};

impl Position {
    /// What positions are compared by: timeline, then version.
    pub fn place(&self) -> (u64, u64) {
        (self.timeline, self.version)
    }
}

impl SlotMap {
    /// Where the table was.
    pub fn position(&self) -> Position {
        Position {
            timeline: self.timeline,
            version: self.version,
            token: self.token,
        }
    }
}
