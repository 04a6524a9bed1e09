//! What the world knows of the values that its clients PUT: which of two is the newer one, until
//! when they may live, and which of them was read through whom.
//!
//! The node that takes a PUT draws its version, so nobody outside can know the order of two values
//! from the order of their PUTs. The ledger reads it off the records that travel: a value that was
//! read was drawn somewhere, and came from somewhere. A value that was drawn twice has two
//! versions; it is older than another one only if both are.
//!
//! Values are told apart by their check: whoever writes two values of equal check under one key
//! (a chance of one in four billions) is not judged rightly.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::Key;
use crate::record::Precedence;
use crate::sim::Number;
use crate::time::Time;

/// The values that clients PUT, and what was read of them.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By key and check.
    values: BTreeMap<(Key, u32), Entry>,
    /// The newest that was read through a node, in that life of it.
    reads: BTreeMap<(Number, Key), (u32, Precedence)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The end of its life, had it not travelled.
    ends: Time,
    /// How long it is.
    ttl: Duration,
    /// The smallest and the largest of its versions.
    versions: Option<(Precedence, Precedence)>,
}

impl History {
    /// A client PUT a value of that check under `key`, now and for so long.
    pub(super) fn put(&mut self, now: Time, key: Key, crc: u32, ttl: Duration) {
        let entry = self.values.entry((key, crc)).or_insert(Entry { ends: now, ttl, versions: None });
        entry.ends = entry.ends.max(now + ttl);
        entry.ttl = entry.ttl.max(ttl);
    }

    /// A record of that value has this rank. What no client PUT here concerns nobody.
    pub(super) fn observe(&mut self, key: Key, crc: u32, seen: Precedence) {
        if let Some(entry) = self.values.get_mut(&(key, crc)) {
            let (least, most) = entry.versions.unwrap_or((seen, seen));
            entry.versions = Some((least.min(seen), most.max(seen)));
        }
    }

    /// The smallest version of that value that was seen.
    pub(super) fn least(&self, key: &Key, crc: u32) -> Option<Precedence> {
        self.values.get(&(*key, crc)).and_then(|entry| entry.versions).map(|(least, _)| least)
    }

    /// When the life of that value ends, had it not travelled, and how long it is; `None` for what
    /// no client PUT.
    pub(super) fn life(&self, key: &Key, crc: u32) -> Option<(Time, Duration)> {
        self.values.get(&(*key, crc)).map(|entry| (entry.ends, entry.ttl))
    }

    /// A client wrote that value through the node `at` in its `life`th life, and was told that it
    /// is held.
    pub(super) fn written(&mut self, at: Number, life: u32, key: Key, crc: u32) {
        self.read(at, life, key, crc);
    }

    /// A client read that value through the node `at` in its `life`th life: the newer one that was
    /// read there before, if there is one.
    pub(super) fn read(&mut self, at: Number, life: u32, key: Key, crc: u32) -> Option<Precedence> {
        let (least, most) = self.values.get(&(key, crc)).and_then(|entry| entry.versions)?;
        let before = self.reads.get(&(at, key)).filter(|(then, _)| *then == life).map(|(_, seen)| *seen);
        let newest = before.map_or(least, |before| before.max(least));
        self.reads.insert((at, key), (life, newest));
        before.filter(|before| most < *before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Class, Life, Rank, Version};

    const HERE: Number = Number(3);
    const HOUR: Duration = Duration::from_hours(1);

    fn seen(version: u64) -> Precedence {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    /// Values of checks 1 and 2 under one key, the second one newer.
    fn history() -> (History, Key) {
        let (mut history, key) = (History::default(), Key::new([1; 32]));
        for crc in [1, 2] {
            history.put(Time::ZERO, key, crc, HOUR);
            history.observe(key, crc, seen(u64::from(crc) * 10));
        }
        (history, key)
    }

    #[test]
    fn an_older_value_after_a_newer_one_is_found_in_one_life_of_one_node() {
        let (mut history, key) = history();
        assert_eq!(history.read(HERE, 0, key, 1), None);
        assert_eq!(history.read(HERE, 0, key, 2), None);
        assert_eq!(history.read(HERE, 0, key, 1), Some(seen(20)));
        assert_eq!(history.read(Number(4), 0, key, 1), None, "another node");
        assert_eq!(history.read(HERE, 1, key, 1), None, "another life");
    }

    #[test]
    fn a_value_that_was_drawn_twice_is_older_only_with_both_versions() {
        let (mut history, key) = history();
        history.observe(key, 1, seen(30));
        assert_eq!(history.read(HERE, 0, key, 2), None);
        assert_eq!(history.read(HERE, 0, key, 1), None, "it may be the later one");
        assert_eq!(history.read(HERE, 0, key, 2), None, "it may have been the earlier one");
        assert_eq!(history.least(&key, 1), Some(seen(10)));
    }

    #[test]
    fn what_no_client_put_is_not_judged() {
        let (mut history, key) = history();
        history.observe(key, 3, seen(5));
        assert_eq!(history.read(HERE, 0, key, 3), None);
        assert_eq!((history.least(&key, 3), history.life(&key, 3)), (None, None));
    }

    #[test]
    fn the_last_of_equal_puts_says_when_a_life_ends() {
        let (mut history, key) = history();
        let later = Time::ZERO + HOUR;
        history.put(later, key, 1, HOUR);
        history.put(Time::ZERO, key, 1, HOUR);
        assert_eq!(history.life(&key, 1), Some((later + HOUR, HOUR)));
    }
}
