//! Records that this node has asked peers for: by WANT when a peer offered them, by FIND VALUE when SYNC
//! has shown that they are missing.
//!
//! One table serves both, so that this node does not ask two peers for one record at the same time. A
//! peer that promises a record and does not send it blocks the request to another peer for `rpc_timeout`,
//! and only once.

use std::collections::BTreeMap;

use crate::id::{Key, NodeId};
use crate::limits::{ASKED_FOR_MAX, ASKED_OF_ONE_MAX, ENTRIES_MAX};
use crate::record::{Precedence, Rank};
use crate::time::Time;

/// The records that this node has asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    records: BTreeMap<Key, Awaited>,
    /// How many of them are fetched by FIND VALUE.
    fetches: usize,
}

/// A record that a peer was asked for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    rank: Rank,
    from: NodeId,
    /// When other peers may be asked for it; `None` for a fetch, which ends with its request.
    until: Option<Time>,
}

impl Awaited {
    fn is_awaited(&self, now: Time) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

impl Wanted {
    /// How many more records may be asked of `peer` in answer to its OFFER.
    pub(crate) fn room(&mut self, now: Time, peer: &NodeId) -> usize {
        if self.records.len() + ENTRIES_MAX > ASKED_FOR_MAX {
            self.records.retain(|_, awaited| awaited.is_awaited(now));
        }
        let of_it = self.records.values().filter(|awaited| awaited.from == *peer && awaited.is_awaited(now)).count();
        ASKED_OF_ONE_MAX.saturating_sub(of_it).min(ASKED_FOR_MAX.saturating_sub(self.records.len()))
    }

    /// Whether a record of `key` that is no smaller than `rank` is awaited.
    pub(crate) fn is_awaited(&self, now: Time, key: &Key, rank: Rank) -> bool {
        let is_enough = |awaited: &Awaited| awaited.is_awaited(now) && awaited.rank.precedence() >= rank.precedence();
        self.records.get(key).is_some_and(is_enough)
    }

    /// This node wants a record of `rank` from `peer`, which offers it, and awaits it until `until`. If
    /// `peer` has promised a record before, and `stored` shows that it has not sent it, this node does not
    /// wait for the peer again. A fetch of the key goes on, and stays the one that is awaited.
    pub(crate) fn want(&mut self, key: Key, rank: Rank, peer: NodeId, until: Time, stored: Option<Precedence>) {
        let before = self.records.get(&key);
        if !self.is_fetched(&key)
            && before.is_none_or(|awaited| awaited.from != peer || stored >= Some(awaited.rank.precedence()))
        {
            self.records.insert(key, Awaited { rank, from: peer, until: Some(until) });
        }
    }

    /// `peer` has sent a record of `key`. What it still has to send counts against its room, and this no longer. Returns
    /// whether the record was awaited from it.
    pub(crate) fn arrived(&mut self, key: &Key, peer: &NodeId) -> bool {
        let is_awaited = |awaited: &Awaited| awaited.from == *peer && awaited.until.is_some();
        self.records.get(key).is_some_and(is_awaited) && self.records.remove(key).is_some()
    }

    /// Whether a record of `key`, however large, is being fetched.
    pub(crate) fn is_fetched(&self, key: &Key) -> bool {
        self.records.get(key).is_some_and(|awaited| awaited.until.is_none())
    }

    /// The record of `key` is fetched from `peer`; no other fetch of the key may be in flight.
    pub(crate) fn begin_fetch(&mut self, key: Key, rank: Rank, peer: NodeId) {
        self.records.insert(key, Awaited { rank, from: peer, until: None });
        self.fetches += 1;
    }

    /// A fetch of `key` has ended.
    pub(crate) fn end_fetch(&mut self, key: &Key) {
        if self.is_fetched(key) {
            self.records.remove(key);
            self.fetches -= 1;
        }
    }

    /// How many records are being fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.fetches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Class, Life, Version};

    const KEY: Key = Key::new([1; 32]);

    fn rank(version: u64) -> Rank {
        Rank { class: Class::Plain, life: Life::Alive, version: Version::from_bits(version) }
    }

    fn peer(n: u8) -> NodeId {
        NodeId::new(Key::new([n; 32]))
    }

    #[test]
    fn a_record_that_has_arrived_takes_no_room() {
        let mut wanted = Wanted::default();
        let (now, until) = (Time::ZERO, Time::from_nanos(9));
        wanted.want(KEY, rank(1), peer(1), until, None);
        assert_eq!(wanted.room(now, &peer(1)), ASKED_OF_ONE_MAX - 1);
        assert!(!wanted.arrived(&KEY, &peer(2)));
        assert_eq!(wanted.room(now, &peer(1)), ASKED_OF_ONE_MAX - 1, "another peer sent it");
        assert!(wanted.arrived(&KEY, &peer(1)));
        assert_eq!(wanted.room(now, &peer(1)), ASKED_OF_ONE_MAX);
        wanted.begin_fetch(KEY, rank(1), peer(1));
        assert!(!wanted.arrived(&KEY, &peer(1)));
        assert_eq!(wanted.fetches(), 1, "a fetch ends with its request");
    }

    #[test]
    fn an_offer_of_a_larger_record_does_not_lose_a_fetch_in_flight() {
        let mut wanted = Wanted::default();
        wanted.begin_fetch(KEY, rank(5), peer(1));
        wanted.want(KEY, rank(6), peer(2), Time::from_nanos(9), None);
        wanted.end_fetch(&KEY);
        assert_eq!(wanted.fetches(), 0);
    }
}
