//! OFFER, WANT, and the copies that follow: what is offered goes by its version first, and is
//! copied only to who wants it; a copy carries its age, so no life is prolonged.
//!
//! What is offered, to whom and when, [`crate::node::replication::schedule`] decides. One OFFER at a time is under
//! way to each peer, a bounded number over all, and a bounded number of copies: upkeep never fills
//! an outbox. What is encoded is what is held when it leaves.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{
    ASKED_FOR_MAX, ASKED_OF_ONE_MAX, ENTRIES_MAX, ENTRY_SIZE, HEADER_SIZE, OFFERS_IN_FLIGHT_MAX, RPC_ID_SIZE,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::params::Serving;
use crate::node::query::session::Seen;
use crate::node::replication::schedule::{AskedFor, Offer, OfferId, Reach};
use crate::node::rpc::outbound::{Ask, Purpose};
use crate::node::timers::Timer;
use crate::record::{Life, Rank};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Entry, PeerMessage, Reply, Request, StoreOutcome};

/// What an entry of somebody else is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Merit {
    /// A record larger than what is held.
    Larger,
    /// Exactly what is held.
    Same,
    /// Of the version that is held, with another value: the values decide, and must meet.
    Rival,
    /// Smaller than what is held.
    Smaller,
    /// Nothing that may be held: over, too early, or no record.
    Void,
}

/// Offering.
impl Node {
    /// Sends OFFERs, one at a time to each peer; those that a walk may yet add to wait for it.
    pub(in crate::node) fn send_offers(&mut self, now: Now, out: &mut Actions) {
        let replicating = &self.upkeep.replicating;
        let may_grow = replicating.is_scanning(now.mono);
        let busy: BTreeSet<NodeId> = replicating.in_flight.values().map(|offer| offer.to.id).collect();
        let ready =
            |(id, offer): &(&NodeId, &Offer)| !busy.contains(*id) && (!may_grow || offer.keys.len() >= ENTRIES_MAX);
        let free = OFFERS_IN_FLIGHT_MAX - busy.len().min(OFFERS_IN_FLIGHT_MAX);
        let ready: Vec<NodeId> = replicating.waiting.iter().filter(ready).map(|(id, _)| *id).take(free).collect();
        for to in ready {
            let replicating = &mut self.upkeep.replicating;
            let Some(offer) = replicating.take_waiting(&to) else { continue };
            let contact = offer.to;
            let id = replicating.begin(offer);
            if !self.ask(now, contact, Purpose::Offer(id), out) {
                self.offer_over(now, id);
            }
        }
    }

    /// Writes the OFFER `id`, of what is still held. Returns whether there was anything to offer.
    pub(in crate::node) fn write_offer(
        &mut self,
        now: Now,
        conn: ConnId,
        rpc: RpcId,
        id: OfferId,
        out: &mut Actions,
    ) -> bool {
        let Some(offer) = self.upkeep.replicating.in_flight.get(&id) else { return false };
        let held = offer.keys.keys().filter_map(|key| self.storage.find(now.mono, key));
        let entries: Vec<Entry> = held.map(|held| Entry::of(&held.record)).collect();
        if entries.is_empty() {
            self.offer_over(now, id);
            return false;
        }
        self.counters.offers += 1;
        self.count_upkeep(entries.len() * ENTRY_SIZE);
        out.send(conn, &PeerMessage::Request(rpc, Request::Offer(List::lend(&entries))), None);
        true
    }

    /// Counts a message of upkeep with so many bytes behind its rpc id.
    pub(in crate::node) fn count_upkeep(&mut self, bytes: usize) {
        self.counters.upkeep_bytes += (HEADER_SIZE + RPC_ID_SIZE + bytes) as u64;
    }

    /// `from` wants `keys` of the offer `id`; others that it names are none of its business.
    pub(in crate::node) fn offer_answered(&mut self, now: Now, id: OfferId, keys: List<'_, Key>) {
        let Some(mut offer) = self.upkeep.replicating.in_flight.remove(&id) else { return };
        for key in keys.iter() {
            let Some(reach) = offer.keys.remove(&key) else { continue };
            self.upkeep.replicating.copy(offer.to, key);
            if reach == Reach::One {
                self.widen(now, &key, &offer.to.id);
            }
        }
        self.offer_over(now, id);
    }

    /// An offer was answered, or never will be.
    pub(in crate::node) fn offer_over(&mut self, now: Now, id: OfferId) {
        let replicating = &mut self.upkeep.replicating;
        replicating.in_flight.remove(&id);
        if replicating.is_waiting() {
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    pub(in crate::node) fn send_copies(&mut self, now: Now, out: &mut Actions) {
        while let Some((to, key)) = self.upkeep.replicating.take_copy_to_send() {
            if !self.ask(now, to, Purpose::HandOver(key), out) {
                self.upkeep.replicating.copy_over(&to.id);
            }
        }
    }

    /// A copy of the record of `key` was answered: what `from` holds now is known.
    pub(in crate::node) fn copy_taken(
        &mut self,
        now: Now,
        ask: &Ask,
        key: &Key,
        (outcome, held): (StoreOutcome, Rank),
    ) {
        if outcome == StoreOutcome::Held {
            self.heard_to_hold(now, key, held, &ask.to.id);
        }
        if !ask.expired {
            self.handed(now, &ask.to.id);
        }
    }

    /// A copy was taken by `to`, or was not.
    pub(in crate::node) fn handed(&mut self, now: Now, to: &NodeId) {
        let replicating = &mut self.upkeep.replicating;
        replicating.copy_over(to);
        if !replicating.copies.is_empty() {
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }

    /// `peer` holds a record of `key` of that rank; it counts if that is what is held here.
    pub(in crate::node) fn heard_to_hold(&mut self, now: Now, key: &Key, rank: Rank, peer: &NodeId) {
        if self.storage.find(now.mono, key).is_some_and(|held| held.record.rank() == rank) {
            self.storage.heard(key, peer);
        }
    }
}

/// Being offered.
impl Node {
    /// Answers an OFFER: wanted is what is larger than what is held, belongs here, and is not on
    /// its way already. Who is behind is sent what is held here, and so are all who may be.
    pub(in crate::node) fn take_offer(
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
        let mut room = self.room_to_ask(now, from);
        for entry in entries.iter() {
            let merit = self.merit_of(now, &entry);
            if merit == Merit::Same && offerer.is_some() {
                self.storage.heard(&entry.key, from);
            }
            if matches!(merit, Merit::Larger | Merit::Rival)
                && self.belongs_here(now, &entry.key)
                && self.may_ask(now, from, &entry, &mut room)
            {
                wanted.push(entry.key);
            }
            if matches!(merit, Merit::Smaller | Merit::Rival)
                && let Some(offerer) = offerer
            {
                self.upkeep.replicating.copy(offerer, entry.key);
                self.widen(now, &entry.key, from);
                self.timers.hasten(Timer::Replicate, now.mono);
            }
        }
        self.counters.wants += wanted.len() as u64;
        self.count_upkeep(wanted.len() * KEY_SIZE);
        out.send(conn, &PeerMessage::Reply(rpc, Reply::Wanted(List::lend(&wanted))), None);
    }

    /// What `entry`, which somebody holds, is to this node.
    pub(in crate::node) fn merit_of(&self, now: Now, entry: &Entry) -> Merit {
        let Rank { class, life, version } = entry.rank;
        if life == Life::Over || version.is_too_early(now.wall) {
            return Merit::Void;
        }
        if let Some(held) = self.storage.find(now.mono, &entry.key) {
            match Seen::of(entry.rank).cmp(&Seen::of(held.record.rank())) {
                Ordering::Less => return Merit::Smaller,
                Ordering::Equal if entry.crc == held.record.crc => return Merit::Same,
                Ordering::Equal => return Merit::Rival,
                Ordering::Greater => {}
            }
        }
        let buried = self.storage.tombstone(now.mono, &entry.key);
        match buried.and_then(|buried| buried.beats(class, version)) {
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

    /// How many more records may be asked of `peer`.
    fn room_to_ask(&mut self, now: Now, peer: &NodeId) -> usize {
        let asked_for = &mut self.upkeep.replicating.asked_for;
        if asked_for.len() + ENTRIES_MAX > ASKED_FOR_MAX {
            asked_for.retain(|_, asked| asked.until > now.mono);
        }
        let of_it = asked_for.values().filter(|asked| asked.of == *peer && asked.until > now.mono).count();
        ASKED_OF_ONE_MAX.saturating_sub(of_it).min(ASKED_FOR_MAX.saturating_sub(asked_for.len()))
    }

    /// Whether the record of `entry`, which `peer` offers, may be asked for: not while the same or a
    /// larger one is on its way. If it may, it is on its way from now on; but not if one was to come
    /// from `peer` before and did not: nobody else is kept from sending it.
    fn may_ask(&mut self, now: Now, peer: &NodeId, entry: &Entry, room: &mut usize) -> bool {
        let held = self.storage.find(now.mono, &entry.key).map(|held| Seen::of(held.record.rank()));
        let asked_for = &mut self.upkeep.replicating.asked_for;
        let before = asked_for.get(&entry.key).copied();
        if before.is_some_and(|asked| asked.until > now.mono && Seen::of(asked.rank) >= Seen::of(entry.rank))
            || *room == 0
        {
            return false;
        }
        *room -= 1;
        if before.is_none_or(|asked| asked.of != *peer || held >= Some(Seen::of(asked.rank))) {
            let until = now.mono + self.params.rpc_timeout;
            asked_for.insert(entry.key, AskedFor { rank: entry.rank, of: *peer, until });
        }
        true
    }
}
