//! The simulated disk of a host.
//!
//! Guarantees: all of a batch is on the disk, or nothing. It is there from the moment at which its node gets
//! the result. If the process stops earlier, the batch is lost, and earlier batches are not affected. On a
//! full disk every batch fails, and earlier content stays.
//!
//! Non-goals: the disk does not decide how long a batch takes or when its node gets the result. There are no power
//! failures, so a batch that is written is as safe as one that is synced.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contact::{Contact, Family};
use crate::id::{Key, NodeId};
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, Pack, PackId, PersistedKey, Saved};
use crate::record::Precedence;
use crate::record::fingerprint::Fingerprint;
use crate::sim::{Number, network};

/// Whether a disk has space for a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskSpace {
    /// Every batch succeeds.
    #[default]
    Available,
    /// Every batch fails.
    Full,
}

/// The disk of one host. Small while it is empty, since a large world has many.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) space: DiskSpace,
    keys: BTreeMap<Key, PersistedKey>,
    packs: BTreeMap<PackId, Arc<Pack>>,
    /// The contacts as numbers of nodes, which takes a tenth of the memory of [`Contact`]s.
    contacts: Box<[(Number, Family)]>,
    in_flight: Option<Arc<Batch>>,
}

impl Disk {
    /// Begins to write a batch. Returns the number of batches in flight; there should never be two.
    pub(super) fn begin(&mut self, batch: &Arc<Batch>) -> usize {
        let before = self.in_flight.replace(Arc::clone(batch));
        1 + usize::from(before.is_some())
    }

    /// Ends the write of the batch in flight; `None` if there is none.
    pub(super) fn end(&mut self) -> Option<Saved> {
        let batch = self.in_flight.take()?;
        if self.space == DiskSpace::Full {
            return Some(Saved::Failed);
        }
        for persisted in &batch.keys {
            if persisted.record.is_none() && persisted.tombstone.is_none() {
                self.keys.remove(&persisted.key);
            } else {
                self.keys.insert(persisted.key, persisted.clone());
            }
        }
        for pack in &batch.packs {
            if pack.tombstones.is_empty() {
                self.packs.remove(&pack.id);
            } else {
                self.packs.insert(pack.id, Arc::clone(pack));
            }
        }
        if let Some(contacts) = &batch.contacts {
            self.contacts = contacts
                .iter()
                .filter_map(|contact| network::listener_at(&Endpoint::Address(contact.address)))
                .collect();
        }
        Some(if batch.sync { Saved::Durable } else { Saved::Written })
    }

    /// The process stops: the batch in flight is lost.
    pub(super) fn crash(&mut self) {
        self.in_flight = None;
    }

    /// All persisted keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &PersistedKey> {
        self.keys.values()
    }

    /// All packs of old tombstones.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.packs.values().map(|pack| &**pack)
    }

    /// The persisted contacts. `id_of` returns the id of a node.
    pub(super) fn contacts(&self, id_of: impl Fn(Number) -> NodeId) -> Vec<Contact> {
        let contact = |&(number, family)| Contact::new(id_of(number), network::address_of(number, family));
        self.contacts.iter().map(contact).collect()
    }

    /// Whether the disk has a record of `key` with this or a larger precedence, or a tombstone of that.
    pub(super) fn covers(&self, key: &Key, precedence: Precedence) -> bool {
        let is_covered = self.keys.get(key).is_some_and(|persisted| {
            let record = persisted.record.as_ref().map(|persisted| persisted.record.rank().precedence());
            persisted.tombstone.unwrap_or_default().beats(precedence).is_some() || record >= Some(precedence)
        });
        let in_pack = |pack: &Pack| {
            let fingerprint = Fingerprint::of(pack.fingerprint_key, key);
            let mut same = pack.tombstones.iter().filter(|old| old.fingerprint == fingerprint);
            same.any(|old| old.tombstone().beats(precedence).is_some())
        };
        is_covered || self.packs().any(in_pack)
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
            saved: crate::node::persisted::SavedAt { wall: WallTime::from_millis(0), boot: None },
            source: Source::Peer,
        };
        PersistedKey { key: Key::new([key; 32]), record: Some(record), tombstone: None }
    }

    fn batch(keys: Vec<PersistedKey>) -> Arc<Batch> {
        Arc::new(Batch { sync: true, keys, ..Batch::default() })
    }

    fn plain(version: u64) -> Precedence {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    /// A disk with version 5 of key 1.
    fn disk() -> Disk {
        let mut disk = Disk::default();
        disk.begin(&batch(vec![persisted(1, 5)]));
        assert_eq!(disk.end(), Some(Saved::Durable));
        disk
    }

    #[test]
    fn a_batch_is_on_the_disk_from_its_end_on() {
        let mut disk = Disk::default();
        assert_eq!(disk.begin(&batch(vec![persisted(1, 5), persisted(2, 5)])), 1);
        assert_eq!(disk.keys().count(), 0);
        assert_eq!(disk.end(), Some(Saved::Durable));
        assert_eq!(disk.keys().count(), 2);
        assert_eq!(disk.end(), None);
    }

    #[test]
    fn a_crash_loses_only_the_batch_in_flight() {
        let mut disk = disk();
        disk.begin(&batch(vec![persisted(1, 6), persisted(2, 6)]));
        disk.crash();
        assert_eq!(disk.end(), None);
        assert_eq!(disk.keys().cloned().collect::<Vec<_>>(), [persisted(1, 5)]);
    }

    #[test]
    fn a_batch_fails_on_a_full_disk_and_earlier_content_stays() {
        let mut disk = disk();
        disk.space = DiskSpace::Full;
        disk.begin(&batch(vec![persisted(1, 6), persisted(2, 6)]));
        assert_eq!(disk.end(), Some(Saved::Failed));
        assert_eq!(disk.keys().cloned().collect::<Vec<_>>(), [persisted(1, 5)]);
    }

    #[test]
    fn a_key_without_a_state_is_removed() {
        let mut disk = disk();
        disk.begin(&batch(vec![PersistedKey { record: None, ..persisted(1, 0) }]));
        disk.end();
        assert_eq!(disk.keys().count(), 0);
    }

    #[test]
    fn a_version_is_covered_by_itself_a_later_version_and_their_tombstones() {
        let mut disk = Disk::default();
        let ended =
            Rank { life: crate::record::Life::Over, ..persisted(2, 5).record.expect("it has one").record.rank() };
        let buried = PersistedKey { record: None, tombstone: Some(Tombstone::of(ended)), ..persisted(2, 5) };
        disk.begin(&batch(vec![persisted(1, 5), buried]));
        disk.end();
        for key in [1, 2].map(|key| Key::new([key; 32])) {
            assert!(disk.covers(&key, plain(4)) && disk.covers(&key, plain(5)));
            assert!(!disk.covers(&key, plain(6)));
        }
        assert!(!disk.covers(&Key::new([3; 32]), plain(1)));
    }
}
