//! OFFER, WANT, and the hand-overs that follow: an OFFER names records by their versions, and only what
//! the peer wants is copied to it. A copy carries its age, so no life is prolonged.
//!
//! [`crate::node::replication::schedule`] decides what is offered, to which contact and when. One
//! OFFER is in flight to each peer at a time, and a bounded number over all. What is encoded is what
//! is stored when it leaves.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{
    ENTRIES_MAX, ENTRIES_WAITING_MAX, ENTRY_SIZE, HEADER_SIZE, K_MAX, OFFERS_IN_FLIGHT_MAX, RPC_ID_SIZE,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::params::Serving;
use crate::node::purpose::{OfferId, Outcome, Purpose};
use crate::node::timers::Timer;
use crate::record::{Life, Rank};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Entry, PeerMessage, Reply, Request};

/// Offers that wait, and offers in flight.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// What is to be offered, by the contact that it is offered to.
    waiting: BTreeMap<NodeId, Offer>,
    /// Entries in `waiting`.
    entries: usize,
    in_flight: BTreeMap<OfferId, Offer>,
    next: u64,
}

/// Records for one peer.
#[derive(Debug)]
struct Offer {
    to: Contact,
    keys: BTreeMap<Key, Reach>,
}

/// Whom a record is offered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// One of its replicas; all the others too, if that one wants it.
    One,
    /// Each replica that may need it: one that wants it gets a copy, and that is all.
    Each,
}

/// What an entry of a peer is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merit {
    /// A record larger than what is stored.
    Larger,
    /// Exactly what is stored.
    Same,
    /// Of the version that is stored, with another value: the values decide, and must meet.
    Rival,
    /// Smaller than what is stored.
    Smaller,
    /// Nothing that may be stored: over, too early, or no record.
    Void,
}

impl Offers {
    /// Notes that the record of `key` is to be offered to `to`; not beyond the bound.
    pub(crate) fn add(&mut self, to: Contact, key: Key, reach: Reach) {
        if self.entries >= ENTRIES_WAITING_MAX {
            return;
        }
        let offer = self.waiting.entry(to.id).or_insert_with(|| Offer { to, keys: BTreeMap::new() });
        if offer.keys.insert(key, reach).is_none() {
            self.entries += 1;
        }
    }

    /// Nothing is offered to `id` any more.
    pub(crate) fn forget(&mut self, id: &NodeId) {
        if let Some(offer) = self.waiting.remove(id) {
            self.entries -= offer.keys.len();
        }
    }

    /// Entries that wait.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Whether there is room for all that one record may add.
    pub(crate) fn has_room(&self) -> bool {
        self.entries + K_MAX <= ENTRIES_WAITING_MAX
    }

    /// Whether an offer waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether an offer is in flight.
    pub(crate) fn is_offering(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Peers to which an offer may leave now. While a scan may still add to offers, only full ones
    /// leave.
    fn ready(&self, is_scanning: bool) -> Vec<NodeId> {
        let busy: BTreeSet<NodeId> = self.in_flight.values().map(|offer| offer.to.id).collect();
        let is_ready =
            |(id, offer): &(&NodeId, &Offer)| !busy.contains(*id) && (!is_scanning || offer.keys.len() >= ENTRIES_MAX);
        let free = OFFERS_IN_FLIGHT_MAX.saturating_sub(busy.len());
        self.waiting.iter().filter(is_ready).map(|(id, _)| *id).take(free).collect()
    }

    /// Takes one full OFFER at most out of what waits for `to`; it is in flight from now on.
    fn begin(&mut self, to: &NodeId) -> Option<(OfferId, Contact)> {
        let waiting = self.waiting.get_mut(to)?;
        let contact = waiting.to;
        let rest = waiting.keys.keys().nth(ENTRIES_MAX).copied().map(|first| waiting.keys.split_off(&first));
        let keys = std::mem::take(&mut waiting.keys);
        match rest {
            Some(rest) => waiting.keys = rest,
            None => drop(self.waiting.remove(to)),
        }
        self.entries -= keys.len();
        let id = OfferId(self.next);
        self.next += 1;
        self.in_flight.insert(id, Offer { to: contact, keys });
        Some((id, contact))
    }
}

/// Offering.
impl Node {
    /// Sends the OFFERs that may leave now.
    pub(crate) fn send_offers(&mut self, now: Now, out: &mut Actions) {
        for to in self.offers.ready(self.is_scanning(now.mono)) {
            let Some((id, contact)) = self.offers.begin(&to) else { continue };
            if !self.call(now, contact, Purpose::Offer(id), out) {
                self.offer_over(now, id);
            }
        }
    }

    /// Writes the OFFER `id`, of what is still held. Returns whether there was anything to offer.
    pub(crate) fn write_offer(&mut self, now: Now, conn: ConnId, rpc: RpcId, id: OfferId, out: &mut Actions) -> bool {
        let Some(offer) = self.offers.in_flight.get(&id) else { return false };
        let held = offer.keys.keys().filter_map(|key| self.storage.find(now.mono, key));
        let entries: Vec<Entry> = held.map(|held| Entry::of(&held.record)).collect();
        if entries.is_empty() {
            return false;
        }
        self.counters.offers += 1;
        self.count_upkeep(entries.len() * ENTRY_SIZE);
        out.send(conn, &PeerMessage::Request(rpc, Request::Offer(List::lend(&entries))), None);
        true
    }

    /// Counts a message of upkeep with so many bytes behind its rpc id.
    pub(crate) fn count_upkeep(&mut self, bytes: usize) {
        self.counters.upkeep_bytes += (HEADER_SIZE + RPC_ID_SIZE + bytes) as u64;
    }

    /// The peer has answered an OFFER by a WANT, or will not. Keys that were not offered do not count.
    pub(crate) fn on_offer_outcome(&mut self, now: Now, id: OfferId, outcome: Outcome<'_>) {
        if let Outcome::Reply { reply: Reply::Wanted(keys), .. } = outcome
            && let Some(mut offer) = self.offers.in_flight.remove(&id)
        {
            for key in keys.iter() {
                let Some(reach) = offer.keys.remove(&key) else { continue };
                self.copies.hand_over(offer.to, key);
                if reach == Reach::One {
                    self.widen(now, &key, &offer.to.id);
                }
            }
        }
        self.offer_over(now, id);
    }

    fn offer_over(&mut self, now: Now, id: OfferId) {
        self.offers.in_flight.remove(&id);
        if self.has_replication_work() {
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }
}

/// Being offered.
impl Node {
    /// Answers an OFFER: wanted is what is larger than what is held, belongs here, and is not on
    /// its way already. Who is behind is sent what is held here, and so are all who may be.
    pub(crate) fn take_offer(
        &mut self,
        now: Now,
        conn: ConnId,
        from: &NodeId,
        rpc: RpcId,
        entries: List<'_, Entry>,
        out: &mut Actions,
    ) {
        let offerer = self.peers.contact_at(conn);
        let mut wanted = Vec::new();
        let mut room = self.wanted.room(now.mono, from);
        for entry in entries.iter() {
            let merit = self.merit_of(now, &entry);
            if merit == Merit::Same && offerer.is_some() {
                self.storage.heard(&entry.key, from);
            }
            if matches!(merit, Merit::Larger | Merit::Rival)
                && self.belongs_here(now, &entry.key)
                && self.may_want(now, from, &entry, &mut room)
            {
                wanted.push(entry.key);
            }
            if matches!(merit, Merit::Smaller | Merit::Rival)
                && let Some(offerer) = offerer
            {
                self.copies.hand_over(offerer, entry.key);
                self.widen(now, &entry.key, from);
                self.timers.hasten(Timer::Replicate, now.mono);
            }
        }
        self.counters.wants += wanted.len() as u64;
        self.count_upkeep(wanted.len() * KEY_SIZE);
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Wanted(List::lend(&wanted))), None);
    }

    /// What `entry`, which somebody holds, is to this node.
    pub(crate) fn merit_of(&self, now: Now, entry: &Entry) -> Merit {
        let Rank { life, version, .. } = entry.rank;
        if life == Life::Over || version.is_too_early(now.wall) {
            return Merit::Void;
        }
        if let Some(held) = self.storage.find(now.mono, &entry.key) {
            match entry.rank.precedence().cmp(&held.record.rank().precedence()) {
                Ordering::Less => return Merit::Smaller,
                Ordering::Equal if entry.crc == held.record.crc => return Merit::Same,
                Ordering::Equal => return Merit::Rival,
                Ordering::Greater => {}
            }
        }
        let buried = self.storage.tombstone(now.mono, &entry.key);
        match buried.and_then(|buried| buried.beats(entry.rank.precedence())) {
            Some(_) => Merit::Void,
            None => Merit::Larger,
        }
    }

    /// Whether a copy of a record of `key` would be taken, as a STORE of it would.
    fn belongs_here(&self, now: Now, key: &Key) -> bool {
        self.params.serving == Serving::Yes
            && self.may_hold(now, key)
            && !self.saving.is_failing()
            && !self.saving.is_full()
    }

    /// Whether the record of `entry`, which `peer` offers, may be asked for: not while the same or a
    /// larger one is on its way. If it may, it is on its way from now on.
    fn may_want(&mut self, now: Now, peer: &NodeId, entry: &Entry, room: &mut usize) -> bool {
        if *room == 0 || self.wanted.is_awaited(now.mono, &entry.key, entry.rank) {
            return false;
        }
        *room -= 1;
        let stored = self.storage.find(now.mono, &entry.key).map(|held| held.record.rank().precedence());
        let until = now.mono + self.params.rpc_timeout;
        self.wanted.want(entry.key, entry.rank, *peer, until, stored);
        true
    }
}
