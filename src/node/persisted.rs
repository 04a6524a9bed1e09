//! The state of a node that survives a restart, in the form that the host writes to disk.
//!
//! A node asks its host to write a [`Batch`]: the complete state of each key that has changed, packs of old tombstones,
//! and its contacts. The host writes all of a batch or nothing, and reports the result ([`Saved`]). After a
//! restart it gives everything that it has written to the new node. A power failure takes a batch away only if no
//! later result was [`Saved::Durable`].
//!
//! The life of a record is stored as its age at a moment, so the time between two runs counts. The moment is
//! stored on two clocks: since the boot of the host, which is right as long as the host was not restarted, and
//! on the wall clock, which may have been set meanwhile (`node/records/aside.rs`).

use std::sync::Arc;

use crate::contact::Contact;
use crate::id::Key;
use crate::record::fingerprint::{Epoch, FINGERPRINT_KEY_SIZE, FingerprintKey, OldTombstone};
use crate::record::{Age, Record, Source, Tombstone};
use crate::time::{BootTime, WallTime};

/// State to write to disk, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Whether the host reports the result when this batch and all earlier ones are on disk. If not, it reports the
    /// result when it has handed the batch to the system.
    pub sync: bool,
    /// Whether the host makes sure that its files have not been replaced, as it does whenever it syncs.
    pub look: bool,
    /// The keys whose state has changed, each once, in any order.
    pub keys: Vec<PersistedKey>,
    /// Packs that are new or not needed any more, each once. A pack is in the same batch as the removals of the keys
    /// whose tombstones it has, or in an earlier one.
    pub packs: Vec<Arc<Pack>>,
    /// All contacts, which replace those on disk; `None` if they have not changed.
    pub contacts: Option<Vec<Contact>>,
}

/// Old tombstones of one epoch, which stay on disk together until none of them is needed. A pack without tombstones is
/// deleted by the host; any other one is new.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// Distinguishes it from all other packs.
    pub id: PackId,
    /// Keys the fingerprints: that of all packs of a store.
    pub fingerprint_key: FingerprintKey,
    /// The tombstones.
    pub tombstones: Vec<OldTombstone>,
}

impl Pack {
    /// Says that the pack `id` is not needed any more.
    pub fn removed(id: PackId) -> Self {
        Self { id, fingerprint_key: FingerprintKey::new([0; FINGERPRINT_KEY_SIZE]), tombstones: Vec::new() }
    }
}

/// The id of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackId {
    /// The epoch of its tombstones.
    pub epoch: Epoch,
    /// The number of the pack in that epoch.
    pub number: u32,
}

/// The state of one key. If it has neither a record nor a tombstone, the host deletes the key.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistedKey {
    /// The key.
    pub key: Key,
    /// The record that the node stores.
    pub record: Option<PersistedRecord>,
    /// The versions that have ended.
    pub tombstone: Option<Tombstone>,
}

/// A record that the node stores.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistedRecord {
    /// The record.
    pub record: Record,
    /// Its age at `saved`.
    pub age: Age,
    /// The moment of `age`.
    pub saved: SavedAt,
    /// Where the node got the record from: it decides which quota counts the record.
    pub source: Source,
}

/// The moment at which a record was saved, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedAt {
    /// By the wall clock.
    pub wall: WallTime,
    /// Since the boot of the host; `None` if the host does not know.
    pub boot: Option<BootTime>,
}

/// The result of writing a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// All of it is on disk, and so are all earlier batches: they survive a crash of the process and a power failure.
    Durable,
    /// The system has all of it: it survives a crash of the process, but perhaps no power failure.
    Written,
    /// It does not count as on disk, nor do the batches that were written since the last durable one, although all of
    /// them may be found there at the next start: the node goes on to ask for them. The host has logged the reason.
    Failed,
    /// Nothing that was written before is on disk any more: the store was deleted or replaced. The host has begun an
    /// empty one, and the node writes all of its state again. The host has logged the reason.
    Lost,
}
