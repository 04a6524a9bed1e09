//! Newer records that this node has refused although it stores an older one of their keys: its disk fails, too much waits
//! for the disk, there is no room, or most peers say that its clock is fast.
//!
//! Other nodes store these records, and PUTs of them are confirmed without this node. So it returns the older ones only
//! after a lookup, and to peers as tentative ([`Node::is_tentative`]), until it stores a newer one. What it has missed for
//! long it fetches from its neighbours, once it accepts records again: it settles once more.
//!
//! Bound: [`MISSED_MAX`] keys. If there are more, this node takes each of its records for missed until it settles.

use std::collections::BTreeMap;
use std::time::Duration;

use log::info;

use crate::id::Key;
use crate::limits::SETTLE_PAUSE;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::records::persistence::Disk;
use crate::node::timers::Timer;
use crate::record::{Precedence, Rank};
use crate::time::{Now, Time};

/// The keys that are remembered. Most nodes refuse few records, or all; 60 bytes each.
const MISSED_MAX: usize = 4_096;

/// The pause before this node looks whether it still misses records: the peer that was refused tries again for
/// `request_timeout`.
const RETRIED: Duration = Duration::from_secs(10);

/// The records that this node has refused.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    keys: BTreeMap<Key, Precedence>,
    /// Whether there are more of them.
    is_full: bool,
    /// When this node may settle because of them.
    settle_at: Time,
}

impl Missed {
    /// Whether this node misses nothing.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.is_full
    }

    /// Whether this node has refused a record of `key` that is newer than what it stores.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.is_full || self.keys.contains_key(key)
    }

    /// Whether it has refused one that is newer than a record of that precedence.
    pub(crate) fn replaces(&self, key: &Key, known: Precedence) -> bool {
        self.is_full || self.keys.get(key).is_some_and(|refused| *refused > known)
    }

    fn insert(&mut self, key: Key, refused: Precedence) {
        if self.keys.len() < MISSED_MAX || self.keys.contains_key(&key) {
            let known = self.keys.entry(key).or_insert(refused);
            *known = refused.max(*known);
        } else {
            self.is_full = true;
        }
    }

    /// This node stores a record of `key` with that precedence now.
    pub(crate) fn stored(&mut self, key: &Key, precedence: Precedence) {
        if self.keys.get(key).is_some_and(|refused| precedence >= *refused) {
            self.keys.remove(key);
        }
    }
}

impl Node {
    /// This node does not store the record of `key` and `rank`, which a peer has sent or offered.
    pub(crate) fn note_missed(&mut self, now: Now, key: &Key, rank: Rank) {
        let held = self.storage.find(now.mono, key).map(|held| held.record.rank().precedence());
        if held.is_some_and(|held| held < rank.precedence()) {
            self.missed.insert(*key, rank.precedence());
            self.timers.hasten(Timer::Missed, now.mono + RETRIED);
        }
    }

    /// Fetches what this node still misses, if it accepts records again.
    pub(crate) fn fetch_missed(&mut self, now: Now, out: &mut Actions) {
        if self.missed.is_empty() {
            return;
        }
        let accepts = self.saving.disk != Disk::Fails && !self.saving.is_full() && !self.clock_differs();
        if !accepts || !self.status.is_settled() || now.mono < self.missed.settle_at {
            return self.timers.set(Timer::Missed, now.mono + RETRIED);
        }
        let (refused, is_full) = (self.missed.keys.len(), self.missed.is_full);
        info!("settling again reason=\"newer records were refused\" keys={refused} and_more={is_full}");
        self.missed = Missed { settle_at: now.mono + SETTLE_PAUSE, ..Missed::default() };
        self.join.falls_behind();
        self.settle_again(now, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KEY_SIZE;
    use crate::record::{Class, Life, Version};

    fn precedence(version: u64) -> Precedence {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    #[test]
    fn a_key_is_missed_until_the_largest_refused_record_is_stored() {
        let mut missed = Missed::default();
        let key = Key::new([1; KEY_SIZE]);
        for version in [5, 7, 6] {
            missed.insert(key, precedence(version));
        }
        missed.stored(&key, precedence(6));
        assert!(missed.contains(&key) && !missed.contains(&Key::new([2; KEY_SIZE])));
        missed.stored(&key, precedence(7));
        assert!(missed.is_empty());
    }

    #[test]
    fn beyond_its_bound_every_key_is_missed() {
        let mut missed = Missed::default();
        let key = |n: usize| {
            let mut bytes = [0; KEY_SIZE];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            Key::new(bytes)
        };
        (0..MISSED_MAX).for_each(|n| missed.insert(key(n), precedence(1)));
        missed.insert(key(0), precedence(2));
        assert!(!missed.contains(&key(MISSED_MAX)));
        missed.insert(key(MISSED_MAX), precedence(1));
        assert!(missed.keys.len() == MISSED_MAX && missed.contains(&key(MISSED_MAX + 1)));
    }
}
