//! Retries of PUTs that too few replicas store.
//!
//! The node that accepted a PUT retries it until enough replicas acknowledge it, a newer record is found,
//! or the life of the record ends. Meanwhile this node stores the record itself. The pause between two
//! attempts doubles. A PUT that waits for its retry does not count as a request of a client: waiting PUTs
//! have their own bound, and few retries are in flight at a time. A node that has not joined does not
//! retry.
//!
//! Non-goal: beyond the bound a PUT is not retried. This node still stores the record, and replication
//! offers it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::Key;
use crate::limits::{PUT_RETRIES_IN_FLIGHT_MAX, PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::query::write_quorum::{Put, PutOrigin};
use crate::node::timers::{Timer, Timers};
use crate::record::{Record, Source, Version};
use crate::storage::Stored;
use crate::time::{Now, Time};

/// PUTs that are retried because too few nodes store them; not counted as requests of clients in flight. It
/// is what a node can accept while it is cut off. Beyond it the node only stores the record, and
/// replication spreads it later.
const PUT_RETRIES_MAX: usize = 1 << 16;

/// Retries of PUTs that are due and looked at in one turn.
const UPKEEP_RECORDS_PER_TURN_MAX: usize = 32;

/// The PUTs to retry.
#[derive(Debug, Default)]
pub(crate) struct PutRetries {
    retry: BTreeMap<Key, Retry>,
    /// When the next attempt of each is due.
    timers: Timers<Key>,
    in_flight: usize,
}

/// A PUT to retry; its record is in the storage.
#[derive(Clone, Copy, Debug)]
struct Retry {
    version: Version,
    /// The pause after the next attempt.
    pause: Duration,
}

impl PutRetries {
    /// Whether a PUT of `key` waits for a retry.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.retry.contains_key(key)
    }

    /// Cancels the retry of `key`, if there is one.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.retry.remove(key);
        self.timers.cancel(*key);
    }

    /// A retry in flight has ended.
    pub(crate) fn attempt_over(&mut self) {
        self.in_flight -= 1;
    }

    fn insert(&mut self, key: Key, retry: Retry, due: Time) {
        self.forget(&key);
        if self.retry.len() < PUT_RETRIES_MAX {
            self.timers.set(key, due);
            self.retry.insert(key, retry);
        }
    }

    /// Takes a retry that is due, unless too many are in flight.
    fn take_due(&mut self, now: Time) -> Option<(Key, Retry)> {
        if self.in_flight >= PUT_RETRIES_IN_FLIGHT_MAX {
            return None;
        }
        let key = self.timers.take_next(now)?;
        self.retry.remove(&key).map(|retry| (key, retry))
    }

    /// When the next retry is due; `None` while too many are in flight.
    fn next_due(&self) -> Option<Time> {
        self.timers.next().filter(|_| self.in_flight < PUT_RETRIES_IN_FLIGHT_MAX)
    }
}

impl Node {
    /// Stores `record`, which too few replicas store, and retries its PUT after `pause`.
    pub(crate) fn schedule_retry(&mut self, now: Now, record: Record, expires: Time, pause: Duration) -> Stored {
        let (key, version) = (record.key, record.version);
        let stored = self.hold(now, record, expires, Source::Client);
        if stored == Stored::Held {
            let next = (2 * pause).clamp(PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX);
            self.put_retries.insert(key, Retry { version, pause: next }, now.mono + pause);
            self.wake_for_retries();
        }
        stored
    }

    /// Begins the retries that are due, within the bounds.
    pub(crate) fn retry_puts(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..UPKEEP_RECORDS_PER_TURN_MAX {
            if !self.status.has_joined() {
                break;
            }
            if !self.queries.has_room() {
                // Requests of clients come first; there is room again when one of them has ended.
                return self.timers.set(Timer::RetryPuts, now.mono + PUT_RETRY_PAUSE);
            }
            let Some((key, retry)) = self.put_retries.take_due(now.mono) else { break };
            let Some(held) = self.storage.find(now.mono, &key).filter(|held| held.record.version == retry.version)
            else {
                continue; // its life has ended, or a newer record has replaced it
            };
            let put = Put::new(None, held.record.clone(), held.expires, PutOrigin::Retry, retry.pause);
            self.put_retries.in_flight += 1;
            self.begin_put(now, put, out);
        }
        self.wake_for_retries();
    }

    /// Sets the timer for the next retry, if the node has joined.
    pub(crate) fn wake_for_retries(&mut self) {
        if self.status.has_joined()
            && let Some(due) = self.put_retries.next_due()
        {
            self.timers.set(Timer::RetryPuts, due);
        }
    }
}
