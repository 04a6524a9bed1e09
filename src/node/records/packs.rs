//! Old tombstones on their way to the disk, and packs of them there.
//!
//! A tombstone turns old about an hour after it was added: the storage looks at all young tombstones in *rounds* of a
//! few minutes, in small steps. What turns old in a step is written as a [`Pack`] for each epoch. The batch with the
//! pack, or a later one, removes the states of the keys, so that no crash loses a tombstone; after some crashes the
//! disk has one twice. A pack is removed when no old tombstone of its epoch is left: they have lapsed, or have given way.
//!
//! While the disk fails, no tombstone turns old. If all of the disk is lost, all old tombstones are written again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use sha2::{Digest, Sha256};

use crate::node::Node;
use crate::node::params::Durability;
use crate::node::persisted::{Pack, PackId};
use crate::node::records::persistence::Disk;
use crate::node::timers::Timer;
use crate::record::fingerprint::{Epoch, FingerprintKey, OldTombstone};
use crate::time::Now;

/// The pause after a round: with the time that tombstones are young at least, it makes an hour.
const ROUND_PAUSE: Duration = Duration::from_mins(8);

/// The pause between two steps of a round, each of which takes up to a millisecond. A million tombstones take a minute.
const STEP_PAUSE: Duration = Duration::from_millis(10);

/// The pause before a step while the disk fails or packs wait.
const WAIT_PAUSE: Duration = Duration::from_secs(1);

/// The most packs that wait for a batch: some 400 kB. While 64 packs wait, no tombstone turns old.
const UNSAVED_MAX: usize = 64;

/// Tombstones in a pack that is written again.
const PACK_MAX: usize = 256;

/// Packs that are written again with one batch.
const WRITTEN_AGAIN_MAX: usize = 16;

/// The packs of this node.
#[derive(Debug, Default)]
pub(super) struct Packs {
    /// The numbers of the packs that are on disk, or on their way there, by their epochs.
    known: BTreeMap<Epoch, Vec<u32>>,
    /// The number of the next pack.
    next: u32,
    /// Those for the next batch.
    unsaved: BTreeMap<PackId, Arc<Pack>>,
    /// Those that the system has, and that are not known to be on disk.
    unsynced: BTreeMap<PackId, Arc<Pack>>,
    writing_again: WritingAgain,
}

/// How far writing all old tombstones again has come.
#[derive(Clone, Copy, Debug, Default)]
enum WritingAgain {
    #[default]
    Done,
    /// Those behind this one are left, or all.
    Behind(Option<OldTombstone>),
}

impl Packs {
    /// Whether all packs are on disk.
    pub(super) fn is_done(&self) -> bool {
        !self.has_unsaved() && self.unsynced.is_empty()
    }

    /// Whether the next batch has packs.
    pub(super) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty() || self.is_writing_again()
    }

    /// Whether the disk had lost all packs, and not all of them are written again.
    pub(super) fn is_writing_again(&self) -> bool {
        matches!(self.writing_again, WritingAgain::Behind(_))
    }

    /// Takes the packs of the next batch.
    pub(super) fn take(&mut self) -> Vec<Arc<Pack>> {
        std::mem::take(&mut self.unsaved).into_values().collect()
    }

    /// A batch was written, and may not be on disk.
    pub(super) fn note_written(&mut self, packs: &[Arc<Pack>]) {
        self.unsynced.extend(by_id(packs));
    }

    /// All that was written is on disk.
    pub(super) fn note_durable(&mut self) {
        self.unsynced.clear();
    }

    /// A batch was not written, and what was not known to be on disk may not be there.
    pub(super) fn note_failed(&mut self, packs: &[Arc<Pack>]) {
        // Of two states of a pack the later one is written.
        let later = std::mem::replace(&mut self.unsaved, std::mem::take(&mut self.unsynced));
        self.unsaved.extend(by_id(packs));
        self.unsaved.extend(later);
    }

    /// Nothing is on disk any more.
    pub(super) fn lose(&mut self) {
        self.known.clear();
        self.unsaved.clear();
        self.unsynced.clear();
        self.writing_again = WritingAgain::Behind(None);
    }

    /// Makes packs of `tombstones`: one for each epoch.
    fn add(&mut self, tombstones: Vec<OldTombstone>, fingerprint_key: FingerprintKey) {
        let mut by_epoch = BTreeMap::<Epoch, Vec<OldTombstone>>::new();
        for old in tombstones {
            by_epoch.entry(Epoch::of(old.version)).or_default().push(old);
        }
        for (epoch, tombstones) in by_epoch {
            let id = PackId { epoch, number: self.next };
            self.next = self.next.wrapping_add(1);
            self.known.entry(epoch).or_default().push(id.number);
            self.unsaved.insert(id, Arc::new(Pack { id, fingerprint_key, tombstones }));
        }
    }

    /// Removes the packs of all epochs but `needed`; returns whether there were any.
    fn keep(&mut self, needed: &BTreeSet<Epoch>) -> bool {
        let before = self.known.len();
        for (epoch, numbers) in self.known.extract_if(.., |epoch, _| !needed.contains(epoch)) {
            let removed = numbers.into_iter().map(|number| PackId { epoch, number });
            self.unsaved.extend(removed.map(|id| (id, Arc::new(Pack::removed(id)))));
        }
        self.known.len() < before
    }
}

fn by_id(packs: &[Arc<Pack>]) -> impl Iterator<Item = (PackId, Arc<Pack>)> {
    packs.iter().map(|pack| (pack.id, Arc::clone(pack)))
}

/// What keys the fingerprints of a node without packs: like all its random numbers, it comes from `seed`.
pub(crate) fn fingerprint_key(seed: &[u8; 32]) -> FingerprintKey {
    let digest: [u8; 32] = Sha256::new().chain_update(seed).chain_update("fingerprints").finalize().into();
    FingerprintKey::new(*digest.first_chunk().expect("16 of 32 bytes"))
}

impl Node {
    /// Plans the next round of turning tombstones old, if there are young ones and none is planned.
    pub(crate) fn plan_to_turn_old(&mut self, now: Now) {
        if self.storage.has_young_tombstones() {
            self.timers.hasten(Timer::TurnOld, now.mono + ROUND_PAUSE);
        }
    }

    /// Turns some tombstones old, and makes packs of them.
    pub(crate) fn turn_old(&mut self, now: Now) {
        if self.saving.disk == Disk::Fails || self.saving.packs.unsaved.len() >= UNSAVED_MAX {
            return self.timers.hasten(Timer::TurnOld, now.mono + WAIT_PAUSE);
        }
        let turned = self.storage.turn_old(now);
        if self.params.durability != Durability::None {
            self.saving.packs.add(turned.tombstones, self.storage.fingerprint_key());
        }
        if !turned.is_round_done {
            self.timers.set(Timer::TurnOld, now.mono + STEP_PAUSE);
        }
    }

    /// Removes the packs of which no tombstone is left.
    pub(crate) fn drop_packs(&mut self, now: Now) {
        if self.saving.packs.known.is_empty() {
            return;
        }
        let needed = self.storage.old_epochs().chain(self.set_aside.old_epochs()).collect();
        if self.saving.packs.keep(&needed) {
            self.plan_to_save(now);
        }
    }

    /// If the disk has lost all packs, makes the next ones for the next batch.
    pub(super) fn write_packs_again(&mut self) {
        for _ in 0..WRITTEN_AGAIN_MAX {
            let WritingAgain::Behind(after) = self.saving.packs.writing_again else { return };
            let mut some = self.storage.old_tombstones(after, PACK_MAX);
            let last = some.last().copied();
            self.saving.packs.writing_again = WritingAgain::Behind(last);
            if some.len() < PACK_MAX {
                some.extend(self.set_aside.old());
                self.saving.packs.writing_again = WritingAgain::Done;
            }
            self.saving.packs.add(some, self.storage.fingerprint_key());
        }
    }

    /// Restores a pack that an earlier run has persisted. The host calls this before [`Node::restore`], which must not take
    /// back what these tombstones beat.
    pub fn restore_pack(&mut self, now: Now, pack: Pack) {
        let Pack { id, fingerprint_key, tombstones } = pack;
        let packs = &mut self.saving.packs;
        if packs.known.is_empty() {
            self.storage.set_fingerprint_key(fingerprint_key);
        }
        packs.next = packs.next.max(id.number.wrapping_add(1));
        packs.known.entry(id.epoch).or_default().push(id.number);
        if fingerprint_key != self.storage.fingerprint_key() {
            // No node writes such a pack.
            return warn!("pack of another node not used number={} tombstones={}", id.number, tombstones.len());
        }
        for old in tombstones {
            self.restore_old_tombstone(now, old);
        }
    }
}
