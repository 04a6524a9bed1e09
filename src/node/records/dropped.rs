//! Tombstones that gave way to records or to newer tombstones before they lapsed, for the log: an older version of
//! their keys may come back.

use std::time::Duration;

use log::warn;

use crate::node::Node;
use crate::node::timers::Timer;
use crate::time::{Now, Time};

/// Pause between two lines of the log.
const LOG_PAUSE: Duration = Duration::from_mins(1);

/// Which tombstones are in the log.
#[derive(Debug, Default)]
pub(crate) struct DroppedTombstones {
    logged: u64,
    logged_at: Option<Time>,
}

/// What to do about tombstones that gave way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    /// Log this number of them.
    Now(u64),
    /// Ask again at that moment.
    At(Time),
}

impl DroppedTombstones {
    /// What to do at `now` when `dropped` have given way since the start; `None` if all of them are in the log.
    fn report(&mut self, now: Time, dropped: u64) -> Option<Report> {
        let count = dropped - self.logged;
        if count == 0 {
            return None;
        }
        let due = self.logged_at.map_or(now, |at| at + LOG_PAUSE);
        if due > now {
            return Some(Report::At(due));
        }
        (self.logged, self.logged_at) = (dropped, Some(now));
        Some(Report::Now(count))
    }
}

impl Node {
    /// Counts and logs the tombstones that have given way.
    pub(crate) fn note_dropped_tombstones(&mut self, now: Now) {
        let dropped = self.storage.tombstones_dropped();
        self.counters.tombstones_dropped = dropped;
        match self.dropped_tombstones.report(now.mono, dropped) {
            Some(Report::Now(count)) => warn!("tombstones dropped for want of room dropped={count} total={dropped}"),
            Some(Report::At(due)) => self.timers.hasten(Timer::Tombstones, due),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dropped_tombstone_is_logged_once_and_lines_are_a_minute_apart() {
        let mut dropped = DroppedTombstones::default();
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        assert_eq!(dropped.report(at(5), 0), None);
        assert_eq!(dropped.report(at(6), 3), Some(Report::Now(3)));
        assert_eq!(dropped.report(at(7), 3), None);
        for secs in [8, 65] {
            assert_eq!(dropped.report(at(secs), 10), Some(Report::At(at(66))));
        }
        assert_eq!(dropped.report(at(66), 11), Some(Report::Now(8)));
    }
}
