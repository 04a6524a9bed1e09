//! Records that are on their way to this node because it asked for them: by WANT when a peer offered
//! them, by FIND VALUE when SYNC has shown that they are missing.
//!
//! One table serves both, so that no record comes twice. A peer that promises a record and does not
//! send it keeps others from being asked for `rpc_timeout`, and only once.

use std::collections::BTreeMap;

use crate::id::{Key, NodeId};
use crate::limits::{ASKED_FOR_MAX, ASKED_OF_ONE_MAX, ENTRIES_MAX};
use crate::record::{Precedence, Rank};
use crate::time::Time;

/// The records that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    records: BTreeMap<Key, Coming>,
    /// How many of them are fetched.
    fetches: usize,
}

/// A record on its way.
#[derive(Clone, Copy, Debug)]
struct Coming {
    rank: Rank,
    from: NodeId,
    /// When others may be asked for it; `None` for a fetch, which ends with its request.
    until: Option<Time>,
}

impl Coming {
    fn is_awaited(&self, now: Time) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Wanted {
    /// How many more records may be asked of `peer` in answer to its OFFER.
    pub(crate) fn room(&mut self, now: Time, peer: &NodeId) -> usize {
        if self.records.len() + ENTRIES_MAX > ASKED_FOR_MAX {
            self.records.retain(|_, coming| coming.is_awaited(now));
        }
        let of_it = self.records.values().filter(|coming| coming.from == *peer && coming.is_awaited(now)).count();
        ASKED_OF_ONE_MAX.saturating_sub(of_it).min(ASKED_FOR_MAX.saturating_sub(self.records.len()))
    }

    /// Whether a record of `key` that is no smaller than `rank` is awaited.
    pub(crate) fn is_awaited(&self, now: Time, key: &Key, rank: Rank) -> bool {
        let is_enough = |coming: &Coming| coming.is_awaited(now) && coming.rank.precedence() >= rank.precedence();
        self.records.get(key).is_some_and(is_enough)
    }

    /// `peer`, which offers a record of `rank`, is asked for it, and it is awaited until `until`; not
    /// if a record was to come from `peer` before and `stored`, which is here, is older than that.
    pub(crate) fn want(&mut self, key: Key, rank: Rank, peer: NodeId, until: Time, stored: Option<Precedence>) {
        let before = self.records.get(&key);
        if before.is_none_or(|coming| coming.from != peer || stored >= Some(coming.rank.precedence())) {
            self.records.insert(key, Coming { rank, from: peer, until: Some(until) });
        }
    }

    /// The record of `key` is fetched from `peer`.
    pub(crate) fn begin_fetch(&mut self, key: Key, rank: Rank, peer: NodeId) {
        self.records.insert(key, Coming { rank, from: peer, until: None });
        self.fetches += 1;
    }

    /// A fetch of `key` has ended.
    pub(crate) fn end_fetch(&mut self, key: &Key) {
        if self.records.get(key).is_some_and(|coming| coming.until.is_none()) {
            self.records.remove(key);
            self.fetches -= 1;
        }
    }

    /// How many records are being fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.fetches
    }
}
