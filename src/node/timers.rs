//! What the node will be woken for: each timer set at most once, the earliest first.
//!
//! Deadlines of requests, of connections and of records are not here: [`crate::pending`],
//! `node::peers` and [`crate::storage`] know their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::purpose::QueryId;
use crate::time::Time;

/// Something that has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Dial the bootstraps again.
    Join,
    /// Look whether a bucket is stale, or a contact asleep.
    Refresh,
    /// Retry a PUT that too few replicas store.
    RetryPuts,
    /// Ask near contacts that fell silent whether they are there.
    Watch,
    /// The node takes part, whatever its neighbours have not told it yet.
    Settle,
    /// Ask neighbours what they hold, and for what was missed.
    Sync,
    /// Offer records, and hand over what was wanted.
    Replicate,
    /// A client's request must be answered.
    Answer(QueryId),
    /// A PUT tries once more.
    Retry(QueryId),
    /// Something is to be on disk.
    Save,
    /// The node must have left.
    Leave,
}

/// The timers that are set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Time>,
    queue: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Sets `timer` to `at`, whatever it was set to.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        if let Some(before) = self.at.insert(timer, at) {
            self.queue.remove(&(before, timer));
        }
        self.queue.insert((at, timer));
    }

    /// Sets `timer` to `at`, unless it is set to an earlier moment.
    pub(crate) fn hasten(&mut self, timer: Timer, at: Time) {
        if self.at.get(&timer).is_none_or(|&before| at < before) {
            self.set(timer, at);
        }
    }

    /// Takes `timer` back.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    /// The earliest timer whose moment has come; it is no longer set.
    pub(crate) fn due(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }

    /// When the earliest is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Whether `timer` is set.
    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn a_timer_is_set_once_and_fires_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Join, at(5));
        timers.set(Timer::Join, at(9));
        timers.hasten(Timer::Join, at(12));
        timers.set(Timer::Refresh, at(7));
        assert_eq!(timers.next(), Some(at(7)));
        assert_eq!(timers.due(at(6)), None);
        assert_eq!(timers.due(at(9)), Some(Timer::Refresh));
        assert_eq!(timers.due(at(9)), Some(Timer::Join));
        assert_eq!(timers.due(at(99)), None);
    }

    #[test]
    fn a_cancelled_timer_never_fires() {
        let mut timers = Timers::default();
        timers.set(Timer::Leave, at(1));
        timers.cancel(Timer::Leave);
        assert!(!timers.is_set(Timer::Leave));
        assert_eq!(timers.due(at(9)), None);
    }
}
