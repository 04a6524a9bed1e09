//! OFFER and WANT: an OFFER names records by their versions, the peer answers with a WANT for those that
//! it lacks, and only these are handed over to it. A copy carries its age, so no life is prolonged.
//!
//! [`crate::node::replication::schedule`] decides what is offered, to which contact and when. At most
//! one OFFER is in flight to each peer, and at most [`OFFERS_IN_FLIGHT_MAX`] in total. An OFFER is encoded
//! when it leaves, from the records that are stored then.
//!
//! Nothing here guarantees delivery: an offer that fails too often, or exceeds a bound, is left to the next round.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{
    ENTRIES_MAX, ENTRIES_WAITING_MAX, ENTRY_SIZE, HEADER_SIZE, K_MAX, RPC_ID_SIZE, VERIFIED_PER_TURN_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, Caller, ConnId};
use crate::node::purpose::{OfferId, Outcome, Purpose};
use crate::node::replication::schedule::HandOver;
use crate::node::timers::Timer;
use crate::pending::Passed;
use crate::record::{Class, Life, Rank, Tombstone, TombstoneClass};
use crate::time::Now;
use crate::wire::codec::List;
use crate::wire::peer::{Entry, ErrorCode, PeerMessage, Reply, Request};

/// OFFERs in flight, to all peers together; one per peer.
const OFFERS_IN_FLIGHT_MAX: usize = 32;

/// An offer that is not answered so often, although its peer stays a live contact, waits for the next round.
const OFFER_FAILURES_MAX: u32 = 4;

/// Offers that wait, and offers in flight.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// The records to be offered, by contact.
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
    /// How often they were offered to it without an answer.
    failures: u32,
}

/// How many replicas a record is offered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// One. If that one wants it, it is offered to all the others too.
    One,
    /// Each that may need it. A WANT is answered with a copy and triggers no further offers.
    Each,
    /// One peer, which has offered a record that a tombstone beats: it is told so, unless a newer record is stored by
    /// then.
    Over,
}

/// How the record that an entry of a peer names compares with what this node stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It is larger.
    Larger,
    /// It is the same record.
    Same,
    /// It has the version of the stored record and another value. The values decide which is larger,
    /// so each side sends its own to the other.
    SameVersion,
    /// It is smaller.
    Smaller,
    /// It must not be stored: it has ended, or its version is too early for the clock of this node.
    Invalid,
}

impl Comparison {
    /// Whether this node lacks the record.
    pub(crate) fn is_missing_here(self) -> bool {
        matches!(self, Comparison::Larger | Comparison::SameVersion)
    }
}

impl Offers {
    /// Queues an offer of the record of `key` to `to`; does nothing beyond [`ENTRIES_WAITING_MAX`].
    pub(crate) fn add(&mut self, to: Contact, key: Key, reach: Reach) {
        if self.entries >= ENTRIES_WAITING_MAX {
            return;
        }
        let offer = self.waiting.entry(to.id).or_insert_with(|| Offer { to, keys: BTreeMap::new(), failures: 0 });
        if offer.keys.insert(key, reach).is_none() {
            self.entries += 1;
        }
    }

    /// Queues an offer again that was not answered.
    fn add_again(&mut self, offer: &Offer) {
        for (key, reach) in &offer.keys {
            self.add(offer.to, *key, *reach);
        }
        if let Some(waiting) = self.waiting.get_mut(&offer.to.id) {
            waiting.failures = waiting.failures.max(offer.failures + 1);
        }
    }

    /// Drops the waiting offers to `id`.
    pub(crate) fn forget(&mut self, id: &NodeId) {
        if let Some(offer) = self.waiting.remove(id) {
            self.entries -= offer.keys.len();
        }
    }

    /// How many entries wait.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Whether there is room for all offers of one record, in two address families.
    pub(crate) fn has_room(&self) -> bool {
        self.entries + 2 * K_MAX <= ENTRIES_WAITING_MAX
    }

    /// How many entries more may wait.
    pub(crate) fn room(&self) -> usize {
        ENTRIES_WAITING_MAX.saturating_sub(self.entries)
    }

    /// Whether an offer waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether an offer is in flight.
    pub(crate) fn is_offering(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Peers to which an offer may leave now. While a scan may add to the offers, only full ones leave.
    fn ready(&self, is_scanning: bool) -> Vec<NodeId> {
        let busy: BTreeSet<NodeId> = self.in_flight.values().map(|offer| offer.to.id).collect();
        let is_ready =
            |(id, offer): &(&NodeId, &Offer)| !busy.contains(*id) && (!is_scanning || offer.keys.len() >= ENTRIES_MAX);
        let free = OFFERS_IN_FLIGHT_MAX.saturating_sub(busy.len());
        self.waiting.iter().filter(is_ready).map(|(id, _)| *id).take(free).collect()
    }

    /// Moves the waiting entries for `to`, at most one full OFFER of them, to the offers in flight.
    fn begin(&mut self, to: &NodeId) -> Option<(OfferId, Contact)> {
        let Offer { to: contact, mut keys, failures } = self.waiting.remove(to)?;
        if let Some(first) = keys.keys().nth(ENTRIES_MAX).copied() {
            self.waiting.insert(*to, Offer { to: contact, keys: keys.split_off(&first), failures });
        }
        self.entries -= keys.len();
        let id = OfferId(self.next);
        self.next += 1;
        self.in_flight.insert(id, Offer { to: contact, keys, failures });
        Some((id, contact))
    }
}

/// OFFERs of this node.
impl Node {
    /// Sends the OFFERs that may leave now.
    pub(crate) fn send_offers(&mut self, now: Now, out: &mut Actions) {
        let leaves = self.status.is_leaving();
        for to in self.offers.ready(self.is_scanning(now.mono)) {
            if !self.may_call() {
                return;
            }
            if leaves && self.copies.is_busy_with(&to) {
                continue; // what it wanted before takes the room that it has for this node
            }
            let Some((id, contact)) = self.offers.begin(&to) else { continue };
            self.call(now, contact, Purpose::Offer(id), out);
        }
    }

    /// Writes the OFFER `id`, of the records that are still stored. `false` if none is.
    pub(crate) fn write_offer(&mut self, now: Now, conn: ConnId, rpc: RpcId, id: OfferId, out: &mut Actions) -> bool {
        let Some(offer) = self.offers.in_flight.get(&id) else { return false };
        let entries = offer.keys.iter().filter_map(|(key, reach)| match reach {
            Reach::One | Reach::Each => self.storage.find(now.mono, key).map(|held| Entry::of(&held.record)),
            Reach::Over => self.entry(now, *key),
        });
        let entries: Vec<Entry> = entries.collect();
        if entries.is_empty() {
            return false;
        }
        self.counters.offers += 1;
        self.count_maintenance(entries.len() * ENTRY_SIZE);
        out.send(conn, &PeerMessage::Request(rpc, Request::Offer(List::lend(&entries))), None);
        true
    }

    /// Counts a maintenance message with `bytes` bytes after its RPC id.
    pub(crate) fn count_maintenance(&mut self, bytes: usize) {
        self.counters.upkeep_bytes += (HEADER_SIZE + RPC_ID_SIZE + bytes) as u64;
    }

    /// The peer has answered an OFFER with a WANT, or will not. Keys that were not offered are ignored.
    pub(crate) fn on_offer_outcome(&mut self, now: Now, id: OfferId, outcome: Outcome<'_>) {
        if let Outcome::Reply { reply: Reply::Wanted(keys), .. } = outcome
            && let Some(mut offer) = self.offers.in_flight.remove(&id)
        {
            let is_complete = keys.is_empty();
            for key in keys.iter() {
                let Some(reach) = offer.keys.remove(&key) else { continue };
                self.copies.hand_over(offer.to, key);
                self.hand_over_again(HandOver::Unverified);
                if reach == Reach::One {
                    self.offer_to_all_replicas(now, &key, &offer.to.id);
                }
            }
            // A peer that wants some may lack others, for which it has no room yet.
            if self.status.is_leaving() && is_complete {
                offer.keys.keys().for_each(|key| self.storage.heard(key, &offer.to.id));
            }
        } else {
            self.hand_over_again(HandOver::Refused);
        }
        let has_failed = matches!(outcome, Outcome::Failed | Outcome::Passed(Passed::Timeout));
        if has_failed
            && !self.status.is_leaving()
            && let Some(offer) = self.offers.in_flight.remove(&id)
            && offer.failures < OFFER_FAILURES_MAX
            && self.is_live(&offer.to.id)
        {
            self.offers.add_again(&offer);
        }
        self.end_offer(now, id);
    }

    fn end_offer(&mut self, now: Now, id: OfferId) {
        self.offers.in_flight.remove(&id);
        if self.has_replication_work() {
            self.timers.hasten(Timer::Replicate, now.mono);
        }
    }
}

/// OFFERs of peers.
impl Node {
    /// Answers the OFFER of `caller`. This node wants a record that it lacks, would accept, and does not
    /// expect already. If it wants none, although it lacks some, it answers by an error. Where the peer's
    /// record is smaller, the peer gets a copy and all other replicas an offer. Where a tombstone of plain versions beats
    /// the peer's record, the peer is told so by an OFFER. After a restart this node leaves out what it cannot compare
    /// before it has verified its own record.
    pub(crate) fn serve_offer(&mut self, now: Now, caller: &Caller, entries: List<'_, Entry>, out: &mut Actions) {
        let from = &caller.id;
        let offerer = self.peers.contact_at(caller.conn);
        let (mut wanted, mut refused) = (Vec::new(), None);
        let mut room = self.wanted.room(now.mono, from);
        let mut proofs = VERIFIED_PER_TURN_MAX;
        for entry in entries.iter() {
            if !self.storage.verify_within(&entry.key, &mut proofs) {
                refused = Some(ErrorCode::TOO_MANY); // it is verified later
                continue;
            }
            self.bury_as_told(now, &entry);
            let comparison = self.compare(now, &entry);
            if let Some(offerer) = offerer.filter(|_| self.is_over(now, &entry)) {
                self.offers.add(offerer, entry.key, Reach::Over);
                self.timers.hasten(Timer::Replicate, now.mono);
            }
            if entry.rank.life == Life::Alive && self.is_too_early(now, entry.rank.version) {
                refused = Some(ErrorCode::TOO_EARLY); // it is not stored here
                self.note_newer_claim(now, &entry);
            }
            if comparison == Comparison::Same && offerer.is_some() {
                self.storage.heard(&entry.key, from);
            }
            if comparison.is_missing_here() {
                match self.accepts(now, &entry.key) {
                    Err(error) => {
                        refused = Some(error);
                        self.note_missed(now, &entry.key, entry.rank);
                    }
                    Ok(()) if self.may_want(now, from, &entry, &mut room) => wanted.push(entry.key),
                    Ok(()) => refused = Some(ErrorCode::TOO_MANY),
                }
            }
            if matches!(comparison, Comparison::Smaller | Comparison::SameVersion)
                && let Some(offerer) = offerer
            {
                self.copies.hand_over(offerer, entry.key);
                self.offer_to_all_replicas(now, &entry.key, from);
                self.timers.hasten(Timer::Replicate, now.mono);
            }
        }
        if let Some(error) = refused.filter(|_| wanted.is_empty()) {
            // An empty WANT would mean that this node stores all of the records.
            return out.reply_to(caller, Reply::Error(error));
        }
        self.counters.wants += wanted.len() as u64;
        self.count_maintenance(wanted.len() * KEY_SIZE);
        out.reply_to(caller, Reply::Wanted(List::lend(&wanted)));
    }

    /// Whether `entry` names a live record that a tombstone of plain versions beats.
    fn is_over(&self, now: Now, entry: &Entry) -> bool {
        let plain = || self.storage.tombstone(now, &entry.key).and_then(|over| over.plain);
        let beats = |over| Tombstone::of_class(TombstoneClass::Plain, over).beats(entry.rank.precedence()).is_some();
        entry.rank.life == Life::Alive && plain().is_some_and(beats)
    }

    /// A peer says that plain versions of a key are over: if this node stores one of them, its life ends. That needs no
    /// proof, as a newer plain record would not either.
    pub(super) fn bury_as_told(&mut self, now: Now, entry: &Entry) {
        let Rank { class, life, version } = entry.rank;
        if life == Life::Alive || class != Class::Plain || version.is_too_early(now.wall) {
            return;
        }
        let tombstone = Tombstone::of_class(TombstoneClass::Plain, version);
        let held = self.storage.find(now.mono, &entry.key);
        if held.is_some_and(|held| tombstone.beats(held.record.rank().precedence()).is_some()) {
            self.storage.bury(now, entry.key, tombstone);
        }
    }

    /// A peer stores the record of `entry`, which is too far ahead for this node. The claim needs no proof if the
    /// record does not either, or if this node only looks at others before it answers.
    pub(super) fn note_newer_claim(&mut self, now: Now, entry: &Entry) {
        if !entry.rank.version.is_too_early(now.wall) {
            self.note_missed(now, &entry.key, entry.rank);
        } else if entry.rank.class == Class::Plain {
            self.note_newer(now, &entry.key, entry.rank);
        }
    }

    /// Compares the record that `entry` names with what this node stores.
    pub(crate) fn compare(&self, now: Now, entry: &Entry) -> Comparison {
        let Rank { life, version, .. } = entry.rank;
        if life == Life::Over || self.is_too_early(now, version) {
            return Comparison::Invalid;
        }
        if let Some(held) = self.storage.find(now.mono, &entry.key) {
            match entry.rank.precedence().cmp(&held.record.rank().precedence()) {
                Ordering::Less => return Comparison::Smaller,
                Ordering::Equal if entry.crc == held.record.crc => return Comparison::Same,
                Ordering::Equal => return Comparison::SameVersion,
                Ordering::Greater => {}
            }
        }
        let buried = self.storage.tombstone(now, &entry.key);
        match buried.and_then(|buried| buried.beats(entry.rank.precedence())) {
            Some(_) => Comparison::Invalid,
            None => Comparison::Larger,
        }
    }

    /// Whether this node may want the record of `entry`, which `peer` offers: not while the same or a
    /// larger one is expected. If it may, the record is expected from now on.
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
