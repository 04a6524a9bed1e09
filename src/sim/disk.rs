//! What of a node survives in its place: the disk, in memory.
//!
//! The law: a batch is all or nothing. It is on the disk from the moment at which its node is told
//! so, and not before: whoever is killed earlier loses it, and nothing that came before it. While
//! a disk is full no batch gets there, and what is there stays.
//!
//! What is not decided here: how long a batch takes, and who is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contact::Contact;
use crate::id::Key;
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, PersistedKey, Saved};
use crate::record::Precedence;
use crate::sim::{Number, network};

/// Whether a disk has room for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// It has.
    #[default]
    Enough,
    /// It is full: every batch fails.
    None,
}

/// The disk of one place. Small while nothing is on it: a large world has very many.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) room: Room,
    keys: BTreeMap<Key, PersistedKey>,
    /// The contacts, as the numbers of their places: a tenth of what they take otherwise.
    contacts: Box<[Number]>,
    under_way: Option<Arc<Batch>>,
}

impl Disk {
    /// A batch is on its way to the disk. Returns how many are now; there should never be two.
    pub(super) fn begin(&mut self, batch: &Arc<Batch>) -> usize {
        let before = self.under_way.replace(Arc::clone(batch));
        1 + usize::from(before.is_some())
    }

    /// The batch arrives, if there is room; `None` if none is under way.
    pub(super) fn end(&mut self) -> Option<Saved> {
        let batch = self.under_way.take()?;
        if self.room == Room::None {
            return Some(Saved::Failed);
        }
        for persisted in &batch.keys {
            if persisted.record.is_none() && persisted.tombstone.is_none() {
                self.keys.remove(&persisted.key);
            } else {
                self.keys.insert(persisted.key, persisted.clone());
            }
        }
        if let Some(contacts) = &batch.contacts {
            self.contacts =
                contacts.iter().filter_map(|contact| network::number_at(&Endpoint::Address(contact.address))).collect();
        }
        Some(Saved::Durable)
    }

    /// The process dies: what is under way is lost.
    pub(super) fn crash(&mut self) {
        self.under_way = None;
    }

    /// All that is on the disk of a key: for a restart.
    pub(super) fn keys(&self) -> impl Iterator<Item = &PersistedKey> {
        self.keys.values()
    }

    /// Who is remembered on the disk; `id_of` knows their ids.
    pub(super) fn contacts(&self, id_of: impl Fn(Number) -> crate::id::NodeId) -> Vec<Contact> {
        self.contacts.iter().map(|number| Contact::new(id_of(*number), network::address_of(*number))).collect()
    }

    /// Whether what is on the disk of `key` is `seen`, something larger, or the end of either.
    pub(super) fn covers(&self, key: &Key, seen: Precedence) -> bool {
        self.keys.get(key).is_some_and(|persisted| {
            let record = persisted.record.as_ref().map(|persisted| persisted.record.rank().precedence());
            let over = persisted.tombstone.is_some_and(|tombstone| tombstone.beats(seen).is_some());
            over || record.is_some_and(|record| record >= seen)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Age, Class, Life, Rank, Record, Source, Tombstone, Ttl, Version, crc_of};
    use crate::time::WallTime;

    fn persisted(key: u8, version: u64) -> PersistedKey {
        let record = Record {
            key: Key::new([key; 32]),
            class: Class::Plain,
            version: Version::from_bits(version),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 3,
            crc: crc_of(b"v"),
            value: (*b"v").into(),
        };
        let record = crate::node::persisted::PersistedRecord {
            record,
            age: Age(0),
            saved: WallTime::from_millis(0),
            source: Source::Peer,
        };
        PersistedKey { key: Key::new([key; 32]), record: Some(record), tombstone: None }
    }

    fn batch(keys: Vec<PersistedKey>) -> Arc<Batch> {
        Arc::new(Batch { keys, contacts: None })
    }

    fn seen(version: u64) -> Precedence {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    #[test]
    fn a_batch_is_there_when_it_ends_and_not_before() {
        let mut disk = Disk::default();
        assert_eq!(disk.begin(&batch(vec![persisted(1, 5), persisted(2, 5)])), 1);
        assert_eq!(disk.keys().count(), 0);
        assert_eq!(disk.end(), Some(Saved::Durable));
        assert_eq!(disk.keys().count(), 2);
        assert_eq!(disk.end(), None);
    }

    #[test]
    fn whoever_crashes_loses_what_is_under_way_and_nothing_else() {
        let mut disk = Disk::default();
        disk.begin(&batch(vec![persisted(1, 5)]));
        disk.end();
        disk.begin(&batch(vec![persisted(1, 6), persisted(2, 6)]));
        disk.crash();
        assert_eq!(disk.end(), None);
        assert_eq!(disk.keys().cloned().collect::<Vec<_>>(), [persisted(1, 5)]);
    }

    #[test]
    fn a_full_disk_takes_nothing_and_keeps_what_it_has() {
        let mut disk = Disk::default();
        disk.begin(&batch(vec![persisted(1, 5)]));
        disk.end();
        disk.room = Room::None;
        disk.begin(&batch(vec![persisted(1, 6), persisted(2, 6)]));
        assert_eq!(disk.end(), Some(Saved::Failed));
        assert_eq!(disk.keys().cloned().collect::<Vec<_>>(), [persisted(1, 5)]);
    }

    #[test]
    fn a_key_without_a_state_is_forgotten() {
        let mut disk = Disk::default();
        disk.begin(&batch(vec![persisted(1, 5)]));
        disk.end();
        disk.begin(&batch(vec![PersistedKey { record: None, ..persisted(1, 0) }]));
        disk.end();
        assert_eq!(disk.keys().count(), 0);
    }

    #[test]
    fn a_version_is_covered_by_itself_by_a_later_one_and_by_the_end_of_either() {
        let mut disk = Disk::default();
        let over =
            Rank { life: crate::record::Life::Over, ..persisted(2, 5).record.expect("it has one").record.rank() };
        let buried = PersistedKey { record: None, tombstone: Some(Tombstone::of(over)), ..persisted(2, 5) };
        disk.begin(&batch(vec![persisted(1, 5), buried]));
        disk.end();
        for key in [1, 2].map(|key| Key::new([key; 32])) {
            assert!(disk.covers(&key, seen(4)) && disk.covers(&key, seen(5)));
            assert!(!disk.covers(&key, seen(6)));
        }
        assert!(!disk.covers(&Key::new([3; 32]), seen(1)));
    }
}
