//! A stored record, and what this node knows of it.

use std::cell::Cell;

use crate::id::KEY_SIZE;
use crate::record::{Record, Source, Tombstone};
use crate::storage::bytes_of;
use crate::storage::quota::Quota;
use crate::storage::schedule::{Place, Tick};
use crate::time::{Time, WallTime};

/// A stored record, and the end of its life.
#[derive(Debug)]
pub struct Held {
    /// The record.
    pub record: Record,
    /// The first moment at which the record is not found any more.
    pub expires: Time,
    pub(super) quota: Quota,
    /// The tick in which the record is due to be offered to other nodes; at the latest that of the end of its life.
    pub(super) due: Tick,
    /// Where the schedule has the record: in the tick in which it is due, or in an earlier one.
    pub(super) place: Place,
    /// One bit for each peer, chosen by its id, that is known to store the record since it was last
    /// scheduled; [`SHOWN`]; and the [`LASTING`] bits.
    pub(super) heard: Cell<u32>,
}

/// The bit that is set while this node may return the record without asking other nodes.
pub(super) const SHOWN: u32 = 1 << PEER_BITS;

/// The bit that is set while nothing confirms the age of the record.
pub(super) const AGE_UNCERTAIN: u32 = 1 << (PEER_BITS + 1);

/// The bit that is set while the record is not verified.
pub(super) const UNVERIFIED: u32 = 1 << (PEER_BITS + 2);

/// The bit that is set beside it if the record was found to prove nothing.
pub(super) const REFUTED: u32 = 1 << (PEER_BITS + 3);

/// The bits that say something about the record itself, and not about other nodes.
pub(super) const LASTING: u32 = AGE_UNCERTAIN | UNVERIFIED | REFUTED;

/// Bits for peers, beside the others.
pub(super) const PEER_BITS: u32 = u32::BITS - 4;

impl Held {
    /// When the record is due to be offered to other nodes, rounded up to a quarter of a second; the end of its life, if
    /// it is not to be offered.
    pub fn due(&self) -> Time {
        self.due.end().min(self.expires)
    }

    /// A lower bound of the number of peers known to store exactly this record since it was last scheduled.
    /// Peers may share a bit.
    pub fn heard_from(&self) -> u32 {
        (self.heard.get() & !(SHOWN | LASTING)).count_ones()
    }

    /// Reads one word of each cache line that a look-up of the record reads.
    pub(super) fn touch(&self) -> u64 {
        let key = self.record.key.as_bytes();
        u64::from(key[0] ^ key[KEY_SIZE - 1]) ^ u64::from(self.heard.get()) ^ self.expires.as_nanos()
    }

    /// Whether [`Held::show`] was called, and neither [`Storage::doubt`] nor [`Storage::schedule`] after it.
    ///
    /// [`Storage::doubt`]: super::Storage::doubt
    /// [`Storage::schedule`]: super::Storage::schedule
    pub fn is_shown(&self) -> bool {
        self.heard.get() & SHOWN != 0
    }

    /// Notes that no newer version was read or written through this node, so that the next GET can return
    /// the record without a comparison.
    pub fn show(&self) {
        self.heard.set(self.heard.get() | SHOWN);
    }

    /// The source of the record, as far as it matters after a restart: [`Source::Client`] or [`Source::Peer`].
    pub fn source(&self) -> Source {
        if self.quota == Quota::CLIENT { Source::Client } else { Source::Peer }
    }

    pub(super) fn bytes(&self) -> usize {
        bytes_of(&self.record)
    }

    /// The tombstone that the record leaves when its life has ended; an unverified one leaves none.
    pub(super) fn tombstone(&self, wall: WallTime) -> Tombstone {
        let is_certain = self.heard.get() & LASTING == 0;
        if is_certain { Tombstone::of_ended(&self.record, wall) } else { Tombstone::default() }
    }
}
