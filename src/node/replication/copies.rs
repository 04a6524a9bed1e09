//! Copies of records in flight to other nodes: those of PUTs, of read repairs, and hand-overs to a peer
//! that lacks a record.
//!
//! One table counts all copies in flight, and one function receives the outcome of each. A hand-over
//! waits here until it may leave: at most [`COPIES_TO_ONE_MAX`] are in flight to a peer and
//! [`COPIES_IN_FLIGHT_MAX`] in total, so that maintenance never fills an outbox. A hand-over sends the
//! record that is stored when it leaves, with its remaining life.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{COPIES_IN_FLIGHT_MAX, COPIES_TO_ONE_MAX, ENTRIES_MAX};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::purpose::{Attempt, Copied, Outcome, Purpose, RepairId};
use crate::node::rpc::outbound::{Call, block_of};
use crate::node::timers::Timer;
use crate::record::{Rank, Record};
use crate::time::{Now, Time};
use crate::wire::peer::{PeerMessage, Reply, Request, StoreOutcome};

/// Read repairs in flight. Each sends at most k copies. Further ones are left to the next GET.
const REPAIRS_MAX: usize = 64;

/// Records that peers have wanted and that wait to be sent: about three full OFFERs for each of a few
/// peers. A record beyond it is offered again in the next round.
const COPIES_WAITING_MAX: usize = 16 * ENTRIES_MAX;

/// Hand-overs that wait, and copies in flight.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Hand-overs that have not left, with the contacts that they go to.
    waiting: BTreeMap<(NodeId, Key), Contact>,
    /// How many copies are in flight, by group; never zero.
    in_flight: BTreeMap<CopyGroup, usize>,
    /// The records of read repairs that have a copy in flight, and when their lives end.
    repairs: BTreeMap<RepairId, (Record, Time)>,
    next_repair: u64,
}

/// The copies that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CopyGroup {
    /// Those of an attempt of a PUT.
    Put(Attempt),
    /// Those of a read repair.
    Repair(RepairId),
    /// Hand-overs to this peer.
    HandOver(NodeId),
}

impl CopyGroup {
    fn of(copied: Copied, to: &NodeId) -> Self {
        match copied {
            Copied::Put(attempt) => CopyGroup::Put(attempt),
            Copied::Repair(id) => CopyGroup::Repair(id),
            Copied::HandOver(_) => CopyGroup::HandOver(*to),
        }
    }
}

impl Copies {
    /// Counts a copy to `to` as in flight.
    pub(crate) fn begin(&mut self, copied: Copied, to: &NodeId) {
        *self.in_flight.entry(CopyGroup::of(copied, to)).or_default() += 1;
    }

    /// A copy to `to` has been answered, or will not be. Does nothing if it was forgotten.
    pub(crate) fn end(&mut self, copied: Copied, to: &NodeId) {
        let group = CopyGroup::of(copied, to);
        let Some(in_flight) = self.in_flight.get_mut(&group) else { return };
        *in_flight -= 1;
        if *in_flight == 0 {
            self.in_flight.remove(&group);
            if let Copied::Repair(id) = copied {
                self.repairs.remove(&id);
            }
        }
    }

    /// How many copies of this attempt of a PUT are in flight.
    pub(crate) fn of_put(&self, attempt: Attempt) -> usize {
        self.in_flight.get(&CopyGroup::Put(attempt)).copied().unwrap_or_default()
    }

    /// The PUT does not wait for the copies of this attempt any more.
    pub(crate) fn forget_put(&mut self, attempt: Attempt) {
        self.in_flight.remove(&CopyGroup::Put(attempt));
    }

    /// Begins a read repair, to which copies are added by [`Copies::begin`]; `None` if too many are
    /// in flight.
    pub(crate) fn begin_repair(&mut self, record: Record, expires: Time) -> Option<RepairId> {
        if self.repairs.len() >= REPAIRS_MAX {
            return None;
        }
        let id = RepairId(self.next_repair);
        self.next_repair += 1;
        self.repairs.insert(id, (record, expires));
        Some(id)
    }

    /// Queues a hand-over of the record of `key` to `to`; does nothing beyond [`COPIES_WAITING_MAX`].
    pub(crate) fn hand_over(&mut self, to: Contact, key: Key) {
        if self.waiting.len() < COPIES_WAITING_MAX {
            self.waiting.insert((to.id, key), to);
        }
    }

    /// Drops the waiting hand-overs to `id`.
    pub(crate) fn forget(&mut self, id: &NodeId) {
        self.waiting.retain(|(to, _), _| to != id);
    }

    /// Whether a hand-over waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a hand-over is in flight.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.hand_overs_in_flight() > 0
    }

    fn hand_overs_in_flight(&self) -> usize {
        let first = CopyGroup::HandOver(NodeId::new(Key::new([0; KEY_SIZE])));
        self.in_flight.range(first..).map(|(_, in_flight)| in_flight).sum()
    }

    /// Takes a hand-over that may leave now.
    fn take_waiting(&mut self) -> Option<(Contact, Key)> {
        if self.hand_overs_in_flight() >= COPIES_IN_FLIGHT_MAX {
            return None;
        }
        let mut from = Bound::Unbounded;
        while let Some((&(to, key), &contact)) = self.waiting.range((from, Bound::Unbounded)).next() {
            let in_flight = self.in_flight.get(&CopyGroup::HandOver(to)).copied().unwrap_or_default();
            if in_flight < COPIES_TO_ONE_MAX {
                self.waiting.remove(&(to, key));
                return Some((contact, key));
            }
            from = Bound::Excluded((to, Key::new([u8::MAX; KEY_SIZE])));
        }
        None
    }
}

impl Node {
    /// Sends a copy to `to`; no copy is in flight if a bound refuses it.
    pub(crate) fn send_copy(&mut self, now: Now, to: Contact, copied: Copied, out: &mut Actions) {
        self.copies.begin(copied, &to.id);
        if !self.call(now, to, Purpose::Copy(copied), out) {
            self.copies.end(copied, &to.id);
        }
    }

    /// Sends waiting hand-overs, as many as may be in flight.
    pub(crate) fn send_hand_overs(&mut self, now: Now, out: &mut Actions) {
        while let Some((to, key)) = self.copies.take_waiting() {
            self.send_copy(now, to, Copied::HandOver(key), out);
        }
    }

    /// Writes the STORE of a copy. `false` if the record is gone.
    pub(crate) fn write_copy(&mut self, now: Now, conn: ConnId, rpc: RpcId, copied: Copied, out: &mut Actions) -> bool {
        let Some((record, expires)) = self.record_to_copy(now, copied) else { return false };
        let block = block_of(record, expires, now.mono);
        out.send(conn, &PeerMessage::Request(rpc, Request::Store(block)), Some(record.value.clone()));
        self.counters.repairs += u64::from(matches!(copied, Copied::HandOver(_)));
        true
    }

    fn record_to_copy(&self, now: Now, copied: Copied) -> Option<(&Record, Time)> {
        match copied {
            Copied::Put(attempt) => self.queries.attempt(attempt).map(|put| (&put.record, put.expires)),
            Copied::Repair(id) => self.copies.repairs.get(&id).map(|(record, expires)| (record, *expires)),
            Copied::HandOver(key) => self.storage.find(now.mono, &key).map(|held| (&held.record, held.expires)),
        }
    }

    /// A copy was answered, or will not be. A late reply counts too: the peer stores the record.
    pub(crate) fn on_copy_outcome(
        &mut self,
        now: Now,
        copied: Copied,
        call: &Call,
        outcome: Outcome<'_>,
        out: &mut Actions,
    ) {
        let to = call.to.id;
        let copied_key = self.record_to_copy(now, copied).map(|(record, _)| record.key);
        let mut answer = None;
        if let Outcome::Reply { reply: Reply::Stored { key, outcome, held }, .. } = outcome
            && Some(key) == copied_key
        {
            answer = Some((outcome, held));
            if outcome == StoreOutcome::Held {
                self.on_replica(now, &key, held, &to);
            }
        }
        if !call.expired {
            self.copies.end(copied, &to);
        }
        match copied {
            Copied::Put(attempt) => self.on_put_copied(now, attempt, &to, answer, out),
            Copied::Repair(_) => {}
            Copied::HandOver(_) => {
                if self.copies.is_waiting() {
                    self.timers.hasten(Timer::Replicate, now.mono);
                }
            }
        }
    }

    /// `peer` stores a record of `key` of that rank; it counts as a replica if this node stores a record
    /// of the same rank.
    pub(crate) fn on_replica(&mut self, now: Now, key: &Key, rank: Rank, peer: &NodeId) {
        if self.storage.find(now.mono, key).is_some_and(|held| held.record.rank() == rank) {
            self.storage.heard(key, peer);
        }
    }
}
