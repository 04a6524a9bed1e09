//! What of a node survives a restart, in the form in which its host keeps it.
//!
//! A node hands out a [`Batch`] of [`PersistedKey`]s, each the whole state of its key at that moment,
//! and of its contacts; the host writes them all or none, says how that went ([`Saved`]), and
//! returns all it has when the node is made anew. A life is kept as an age at a moment of the wall
//! clock, so that time spent switched off counts, and a clock that was set back prolongs nothing.

use crate::contact::Contact;
use crate::id::Key;
use crate::record::{Age, Record, Source, Tombstone};
use crate::time::WallTime;

/// What is to be kept, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The keys whose state has changed, in no particular order, each once.
    pub keys: Vec<PersistedKey>,
    /// All contacts, if they are to be kept anew; what was kept of them before is gone then.
    pub contacts: Option<Vec<Contact>>,
}

/// The state of one key. With neither, the key is to be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistedKey {
    /// Which.
    pub key: Key,
    /// The record that is held.
    pub record: Option<PersistedRecord>,
    /// Which versions are over.
    pub tombstone: Option<Tombstone>,
}

/// A record that is held.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistedRecord {
    /// The record.
    pub record: Record,
    /// How old it was at `saved`.
    pub age: Age,
    /// When that was, by the wall clock.
    pub saved: WallTime,
    /// Who brought it.
    pub source: Source,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// All of it is on disk: it survives the end of the process and of the power.
    Durable,
    /// Nothing of it is: the disk is full, or fails. The host has said so in its log.
    Failed,
}
