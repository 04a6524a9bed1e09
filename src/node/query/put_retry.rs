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
    PUT_RETRY_PAUSE, PUT_RETRY_PAUSE_MAX, PUTS_KEPT_MAX, PUTS_KEPT_UNDER_WAY_MAX, UPKEEP_RECORDS_PER_TURN_MAX,
};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::query::{Put, PutOrigin};
use crate::node::timers::Timer;
use crate::record::{Giver, Record, Version};
use crate::storage::Stored;
use crate::time::{Now, Time};

/// What is kept, by key and by the moment of its next attempt.
#[derive(Debug, Default)]
pub(in crate::node) struct Keeping {
    kept: BTreeMap<Key, Kept>,
    queue: BTreeSet<(Time, Key)>,
    under_way: usize,
}

/// A PUT that is kept; its record is in the storage.
#[derive(Clone, Copy, Debug)]
struct Kept {
    version: Version,
    due: Time,
    /// The pause after the next attempt.
    pause: Duration,
}

impl Keeping {
    /// Whether a PUT of `key` is kept.
    pub(in crate::node) fn contains(&self, key: &Key) -> bool {
        self.kept.contains_key(key)
    }

    /// Whatever was kept of `key` is over.
    pub(in crate::node) fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.queue.remove(&(kept.due, *key));
        }
    }

    /// An attempt to spread what was kept has ended.
    pub(in crate::node) fn attempt_over(&mut self) {
        self.under_way -= 1;
    }

    fn insert(&mut self, key: Key, kept: Kept) {
        self.forget(&key);
        if self.kept.len() < PUTS_KEPT_MAX {
            self.queue.insert((kept.due, key));
            self.kept.insert(key, kept);
        }
    }

    /// Takes one that is due, if there is room for another attempt.
    fn take_due(&mut self, now: Time) -> Option<(Key, Kept)> {
        let &(due, key) = self.queue.first()?;
        if due > now || self.under_way >= PUTS_KEPT_UNDER_WAY_MAX {
            return None;
        }
        self.queue.pop_first();
        self.kept.remove(&key).map(|kept| (key, kept))
    }

    /// When the next attempt is due; `None` while there is no room for one.
    fn next_due(&self) -> Option<Time> {
        self.queue.first().filter(|_| self.under_way < PUTS_KEPT_UNDER_WAY_MAX).map(|&(due, _)| due)
    }
}

impl Node {
    /// Holds `record`, which too few others do, and spreads it after `pause`.
    pub(in crate::node) fn keep(&mut self, now: Now, record: Record, expires: Time, pause: Duration) -> Stored {
        let (key, version) = (record.key, record.version);
        let stored = self.hold(now, record, expires, Giver::Client);
        if stored == Stored::Held {
            let next = (2 * pause).min(PUT_RETRY_PAUSE_MAX);
            self.keeping.insert(key, Kept { version, due: now.mono + pause, pause: next });
            self.plan_spreading();
        }
        stored
    }

    /// Spreads what was kept and is due, as much as there is room for.
    pub(in crate::node) fn spread_kept(&mut self, now: Now, out: &mut Actions) {
        for _ in 0..UPKEEP_RECORDS_PER_TURN_MAX {
            if !self.has_joined() {
                break;
            }
            if !self.jobs.have_room() {
                // Clients have taken it all: it is there again when one of them was answered.
                return self.timers.set(Timer::Spread, now.mono + PUT_RETRY_PAUSE);
            }
            let Some((key, kept)) = self.keeping.take_due(now.mono) else { break };
            let Some(held) = self.storage.find(now.mono, &key).filter(|held| held.record.version == kept.version)
            else {
                continue; // its life is over, or a larger one has come
            };
            let put = Put::new(None, held.record.clone(), held.expires, PutOrigin::Kept, kept.pause);
            self.keeping.under_way += 1;
            self.begin_put(now, put, out);
        }
        self.plan_spreading();
    }

    /// Wakes this node for the next attempt, once it has joined.
    pub(in crate::node) fn plan_spreading(&mut self) {
        if self.has_joined()
            && let Some(due) = self.keeping.next_due()
        {
            self.timers.set(Timer::Spread, due);
        }
    }
}
