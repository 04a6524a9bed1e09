//! Timers: each is set at most once, and the earliest expires first. The node has its own ([`Timer`]), one
//! for each connection, and one for each PUT to retry.
//!
//! Other deadlines are elsewhere: those of requests in [`crate::pending`], of records in [`crate::storage`].

use std::collections::{BTreeMap, BTreeSet};

use crate::node::purpose::QueryId;
use crate::time::Time;

/// What the node does when its deadline comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Dial the bootstraps again.
    Join,
    /// Refresh stale buckets, and ping unresponsive contacts.
    Refresh,
    /// Retry the PUTs that too few replicas store.
    RetryPuts,
    /// Ping near contacts that have sent nothing for a while.
    Watch,
    /// Notice that the process was stopped, or its host suspended.
    Heartbeat,
    /// Ask peers for their wall clocks.
    AskTime,
    /// Log that peers cannot dial this node.
    Undialled,
    /// Tell peers what has changed between the address families.
    Families,
    /// Become settled, even if neighbours have not answered yet.
    Settle,
    /// Ask neighbours which records they store, and fetch those that this node missed.
    Sync,
    /// Offer records, and hand over those that peers want.
    Replicate,
    /// Answer the request of a client.
    Answer(QueryId),
    /// Look up a value again, for the GETs that came after the first answer to this lookup.
    Follow(QueryId),
    /// Begin the next attempt of a PUT, or the next lookup of a value.
    Retry(QueryId),
    /// Write changes to disk.
    Save,
    /// Answer those that wait for the disk, because it hangs.
    Disk,
    /// Log the tombstones that gave way.
    Tombstones,
    /// Fetch newer records that were refused.
    Missed,
    /// Ask the nodes that PUTs went on without which versions they store.
    Unheard,
    /// Turn tombstones old.
    TurnOld,
    /// Leave, even if work is left.
    Leave,
    /// Verify records of an earlier run.
    Verify,
}

/// Moments at which something named `T` happens.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    at: BTreeMap<T, Time>,
    queue: BTreeSet<(Time, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { at: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Sets `timer` to `at`; an earlier setting is replaced.
    pub(crate) fn set(&mut self, timer: T, at: Time) {
        self.cancel(timer);
        self.at.insert(timer, at);
        self.queue.insert((at, timer));
    }

    /// Sets `timer` to `at`, unless it is set to an earlier moment.
    pub(crate) fn hasten(&mut self, timer: T, at: Time) {
        if self.at.get(&timer).is_none_or(|&before| at < before) {
            self.set(timer, at);
        }
    }

    /// Unsets `timer`.
    pub(crate) fn cancel(&mut self, timer: T) {
        if let Some(at) = self.at.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    /// The timers that have expired, earliest first. All of them stay set.
    pub(crate) fn due(&self, now: Time) -> Vec<T> {
        self.queue.iter().take_while(|(at, _)| *at <= now).map(|&(_, timer)| timer).collect()
    }

    /// Unsets `timer` if it has expired; `false` if it was unset, or set to a later moment.
    pub(crate) fn take(&mut self, timer: T, now: Time) -> bool {
        let has_expired = self.at.get(&timer).is_some_and(|&at| at <= now);
        if has_expired {
            self.cancel(timer);
        }
        has_expired
    }

    /// Takes the earliest timer that has expired.
    pub(crate) fn take_next(&mut self, now: Time) -> Option<T> {
        let &(_, timer) = self.queue.first().filter(|(at, _)| *at <= now)?;
        self.cancel(timer);
        Some(timer)
    }

    /// When the earliest timer expires.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Whether `timer` is set.
    pub(crate) fn is_set(&self, timer: T) -> bool {
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
    fn a_timer_that_is_set_again_expires_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Join, at(5));
        timers.set(Timer::Join, at(9));
        timers.hasten(Timer::Join, at(12));
        timers.set(Timer::Refresh, at(7));
        assert_eq!(timers.next(), Some(at(7)));
        assert_eq!(timers.due(at(6)), []);
        assert_eq!(timers.due(at(9)), [Timer::Refresh, Timer::Join]);
        assert!(timers.take(Timer::Refresh, at(9)) && timers.take(Timer::Join, at(9)));
        assert_eq!(timers.due(at(99)), []);
    }

    #[test]
    fn a_timer_that_is_cancelled_or_set_to_a_later_moment_does_not_expire() {
        let mut timers = Timers::default();
        timers.set(Timer::Leave, at(1));
        timers.set(Timer::Join, at(2));
        assert_eq!(timers.due(at(9)), [Timer::Leave, Timer::Join]);
        timers.cancel(Timer::Leave);
        timers.set(Timer::Join, at(10));
        assert!(!timers.is_set(Timer::Leave));
        assert!(!timers.take(Timer::Leave, at(9)) && !timers.take(Timer::Join, at(9)));
        assert_eq!(timers.due(at(9)), []);
    }
}
