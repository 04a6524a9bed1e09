//! PUTs of this node's clients that too few others hold yet.
//!
//! Whoever took a PUT keeps it until enough holders have acknowledged it: the record is held here,
//! like one that its client may count on, and spread again after a pause that doubles, until
//! somebody holds a larger one or its life ends. Such a PUT is no request of a client any more: it
//! has a bound of its own, and few are spread at a time. A node that has not joined waits: there
//! is nobody to spread to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::Key;
use crate::limits::{
    PUT_RETRIES_IN_FLIGHT_MAX, PUT_RETRIES_MAX, PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX, UPKEEP_RECORDS_PER_TURN_MAX,
};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::query::put_spread::{Put, PutOrigin};
use crate::node::timers::Timer;
use crate::record::{Record, Source, Version};
use crate::storage::Stored;
use crate::time::{Now, Time};

/// What is kept, by key and by the moment of its next attempt.
#[derive(Debug, Default)]
pub(crate) struct PutRetries {
    retry: BTreeMap<Key, Retry>,
    queue: BTreeSet<(Time, Key)>,
    in_flight: usize,
}

/// A PUT that is kept; its record is in the storage.
#[derive(Clone, Copy, Debug)]
struct Retry {
    version: Version,
    due: Time,
    /// The pause after the next attempt.
    pause: Duration,
}

impl PutRetries {
    /// Whether a PUT of `key` is kept.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.retry.contains_key(key)
    }

    /// Whatever was kept of `key` is over.
    pub(crate) fn forget(&mut self, key: &Key) {
        if let Some(retry) = self.retry.remove(key) {
            self.queue.remove(&(retry.due, *key));
        }
    }

    /// An attempt to spread what was kept has ended.
    pub(crate) fn attempt_over(&mut self) {
        self.in_flight -= 1;
    }

    fn insert(&mut self, key: Key, retry: Retry) {
        self.forget(&key);
        if self.retry.len() < PUT_RETRIES_MAX {
            self.queue.insert((retry.due, key));
            self.retry.insert(key, retry);
        }
    }

    /// Takes one that is due, if there is room for another attempt.
    fn take_due(&mut self, now: Time) -> Option<(Key, Retry)> {
        let &(due, key) = self.queue.first()?;
        if due > now || self.in_flight >= PUT_RETRIES_IN_FLIGHT_MAX {
            return None;
        }
        self.queue.pop_first();
        self.retry.remove(&key).map(|retry| (key, retry))
    }

    /// When the next attempt is due; `None` while there is no room for one.
    fn next_due(&self) -> Option<Time> {
        self.queue.first().filter(|_| self.in_flight < PUT_RETRIES_IN_FLIGHT_MAX).map(|&(due, _)| due)
    }
}

impl Node {
    /// Holds `record`, which too few others do, and spreads it after `pause`.
    pub(crate) fn schedule_retry(&mut self, now: Now, record: Record, expires: Time, pause: Duration) -> Stored {
        let (key, version) = (record.key, record.version);
        let stored = self.hold(now, record, expires, Source::Client);
        if stored == Stored::Held {
            let next = (2 * pause).min(PUT_RETRY_PAUSE_MAX);
            self.put_retries.insert(key, Retry { version, due: now.mono + pause, pause: next });
            self.wake_for_retries();
        }
        stored
    }

    /// Spreads what was kept and is due, as much as there is room for.
    pub(crate) fn retry_puts(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..UPKEEP_RECORDS_PER_TURN_MAX {
            if !self.status.has_joined() {
                break;
            }
            if !self.queries.has_room() {
                // Clients have taken it all: it is there again when one of them was answered.
                return self.timers.set(Timer::RetryPuts, now.mono + PUT_RETRY_PAUSE);
            }
            let Some((key, retry)) = self.put_retries.take_due(now.mono) else { break };
            let Some(held) = self.storage.find(now.mono, &key).filter(|held| held.record.version == retry.version)
            else {
                continue; // its life is over, or a larger one has come
            };
            let put = Put::new(None, held.record.clone(), held.expires, PutOrigin::Retry, retry.pause);
            self.put_retries.in_flight += 1;
            self.begin_put(now, put, out);
        }
        self.wake_for_retries();
    }

    /// Wakes this node for the next attempt, once it has joined.
    pub(crate) fn wake_for_retries(&mut self) {
        if self.status.has_joined()
            && let Some(due) = self.put_retries.next_due()
        {
            self.timers.set(Timer::RetryPuts, due);
        }
    }
}
