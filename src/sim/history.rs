//! The client-visible history of a run: the values that clients PUT, how long each may live, and the newest
//! value that was read through each node.
//!
//! The node that accepts a PUT draws the version, so the order of two PUTs does not determine the order of
//! their values. The history observes the versions in the messages between nodes. A value that was PUT twice
//! has two versions; it counts as older than another value only if both versions are older.
//!
//! Limitation: values are identified by key and CRC. If a client writes two values with the same CRC under
//! one key (probability 2^-32), the history does not distinguish them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::Key;
use crate::record::Precedence;
use crate::sim::Number;
use crate::time::Time;

/// The values that clients PUT, and the newest ones that they read.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By key and CRC.
    values: BTreeMap<(Key, u32), PutValue>,
    /// The newest value that was read through a node, and the incarnation of the node.
    reads: BTreeMap<(Number, Key), (u32, Precedence)>,
}

#[derive(Clone, Copy, Debug)]
struct PutValue {
    /// When its life ends, without the time for transfers.
    ends: Time,
    ttl: Duration,
    /// The smallest and the largest of its versions.
    versions: Option<(Precedence, Precedence)>,
}

impl History {
    /// A client PUT a value with this CRC under `key`.
    pub(super) fn put(&mut self, now: Time, key: Key, crc: u32, ttl: Duration) {
        let value = self.values.entry((key, crc)).or_insert(PutValue { ends: now, ttl, versions: None });
        value.ends = value.ends.max(now + ttl);
        value.ttl = value.ttl.max(ttl);
    }

    /// A record with this value has this precedence. Values that no client PUT are ignored.
    pub(super) fn observe(&mut self, key: Key, crc: u32, precedence: Precedence) {
        if let Some(value) = self.values.get_mut(&(key, crc)) {
            let (min, max) = value.versions.unwrap_or((precedence, precedence));
            value.versions = Some((min.min(precedence), max.max(precedence)));
        }
    }

    /// The smallest observed version of a value.
    pub(super) fn oldest_version(&self, key: &Key, crc: u32) -> Option<Precedence> {
        self.values.get(&(*key, crc)).and_then(|value| value.versions).map(|(min, _)| min)
    }

    /// When the life of a value ends, without the time for transfers, and its TTL; `None` if no client PUT
    /// the value.
    pub(super) fn life(&self, key: &Key, crc: u32) -> Option<(Time, Duration)> {
        self.values.get(&(*key, crc)).map(|value| (value.ends, value.ttl))
    }

    /// A client read a value through this incarnation of the node `at`, or got the confirmation that it
    /// wrote the value there. Returns the newer value that was read there before, if any.
    pub(super) fn read(&mut self, at: Number, incarnation: u32, key: Key, crc: u32) -> Option<Precedence> {
        let (min, max) = self.values.get(&(key, crc)).and_then(|value| value.versions)?;
        let before = self.reads.get(&(at, key)).filter(|(then, _)| *then == incarnation).map(|(_, read)| *read);
        let newest = before.map_or(min, |before| before.max(min));
        self.reads.insert((at, key), (incarnation, newest));
        before.filter(|before| max < *before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Class, Life, Rank, Version};

    const HERE: Number = Number(3);
    const HOUR: Duration = Duration::from_hours(1);

    fn plain(version: u64) -> Precedence {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    /// Values with the CRCs 1 and 2 under one key, the second one newer.
    fn history() -> (History, Key) {
        let (mut history, key) = (History::default(), Key::new([1; 32]));
        for crc in [1, 2] {
            history.put(Time::ZERO, key, crc, HOUR);
            history.observe(key, crc, plain(u64::from(crc) * 10));
        }
        (history, key)
    }

    #[test]
    fn an_older_value_after_a_newer_one_is_found_per_incarnation_of_a_node() {
        let (mut history, key) = history();
        assert_eq!(history.read(HERE, 0, key, 1), None);
        assert_eq!(history.read(HERE, 0, key, 2), None);
        assert_eq!(history.read(HERE, 0, key, 1), Some(plain(20)));
        assert_eq!(history.read(Number(4), 0, key, 1), None, "another node");
        assert_eq!(history.read(HERE, 1, key, 1), None, "another incarnation");
    }

    #[test]
    fn a_value_with_two_versions_is_older_only_if_both_are() {
        let (mut history, key) = history();
        history.observe(key, 1, plain(30));
        assert_eq!(history.read(HERE, 0, key, 2), None);
        assert_eq!(history.read(HERE, 0, key, 1), None, "the read value may have version 30");
        assert_eq!(history.read(HERE, 0, key, 2), None, "the value before may have had version 10");
        assert_eq!(history.oldest_version(&key, 1), Some(plain(10)));
    }

    #[test]
    fn a_value_that_no_client_put_is_ignored() {
        let (mut history, key) = history();
        history.observe(key, 3, plain(5));
        assert_eq!(history.read(HERE, 0, key, 3), None);
        assert_eq!((history.oldest_version(&key, 3), history.life(&key, 3)), (None, None));
    }

    #[test]
    fn the_latest_of_equal_puts_determines_the_end_of_the_life() {
        let (mut history, key) = history();
        let later = Time::ZERO + HOUR;
        history.put(later, key, 1, HOUR);
        history.put(Time::ZERO, key, 1, HOUR);
        assert_eq!(history.life(&key, 1), Some((later + HOUR, HOUR)));
    }
}
