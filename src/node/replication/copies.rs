//! Copies of records in flight to other nodes: those of PUTs, of read repairs, and hand-overs to a peer
//! that lacks a record.
//!
//! One function receives the outcome of each copy. A hand-over waits here until it may leave: at most
//! [`COPIES_TO_ONE_MAX`] are in flight to a peer and [`COPIES_IN_FLIGHT_MAX`] in total, so that maintenance
//! never fills an outbox. A hand-over sends the record that is stored when it leaves, with its remaining life.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::contact::Contact;
use crate::id::{KEY_SIZE, Key, NodeId, RpcId};
use crate::limits::{COPIES_IN_FLIGHT_MAX, COPIES_TO_ONE_MAX, ENTRIES_MAX};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::purpose::{Copied, Outcome, Purpose, RepairId};
use crate::node::replication::schedule::HandOver;
use crate::node::rpc::outbound::{Report, block_of};
use crate::node::timers::Timer;
use crate::pending::Passed;
use crate::record::{Rank, Record};
use crate::time::{Now, Time};
use crate::wire::peer::{ErrorCode, PeerMessage, Reply, Request, StoreOutcome};

/// Read repairs in flight. Each sends at most k copies. Further ones are left to the next GET.
const REPAIRS_MAX: usize = 64;

/// Records that peers have wanted and that wait to be sent: about three full OFFERs for each of a few
/// peers. A record beyond it is offered again in the next round.
const COPIES_WAITING_MAX: usize = 16 * ENTRIES_MAX;

/// Hand-overs that wait, and copies in flight. A PUT counts its own copies.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Hand-overs that have not left, with the contacts that they go to.
    waiting: BTreeMap<(NodeId, Key), Contact>,
    /// How many hand-overs to each peer are in flight; never zero.
    handing_over: BTreeMap<NodeId, usize>,
    /// Read repairs that have a copy in flight.
    repairs: BTreeMap<RepairId, Repair>,
    next_repair: u64,
}

/// A read repair.
#[derive(Debug)]
struct Repair {
    record: Record,
    expires: Time,
    /// How many of its copies are in flight or not sent yet; never zero.
    copies: usize,
}

impl Copies {
    /// A copy to `to` has been answered, or will not be.
    fn end(&mut self, copied: Copied, to: &NodeId) {
        let in_flight = match copied {
            Copied::Put(_) => return, // the PUT counts it
            Copied::Repair(id) => self.repairs.get_mut(&id).map(|repair| &mut repair.copies),
            Copied::HandOver(_) => self.handing_over.get_mut(to),
        };
        if let Some(in_flight) = in_flight {
            *in_flight -= 1;
        }
        self.repairs.retain(|_, repair| repair.copies > 0);
        self.handing_over.retain(|_, in_flight| *in_flight > 0);
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

    /// Whether a hand-over to `id` waits or is in flight.
    pub(crate) fn is_busy_with(&self, id: &NodeId) -> bool {
        let first = (*id, Key::new([0; KEY_SIZE]));
        let waits = self.waiting.range(first..).next().is_some_and(|((to, _), _)| to == id);
        waits || self.handing_over.contains_key(id)
    }

    /// Whether a hand-over waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a hand-over is in flight.
    pub(crate) fn is_handing_over(&self) -> bool {
        !self.handing_over.is_empty()
    }

    /// Takes a hand-over that may leave now, and counts it as in flight.
    fn take_waiting(&mut self) -> Option<(Contact, Key)> {
        if self.handing_over.values().sum::<usize>() >= COPIES_IN_FLIGHT_MAX {
            return None;
        }
        let mut from = Bound::Unbounded;
        while let Some((&(to, key), &contact)) = self.waiting.range((from, Bound::Unbounded)).next() {
            if self.handing_over.get(&to).is_none_or(|in_flight| *in_flight < COPIES_TO_ONE_MAX) {
                self.waiting.remove(&(to, key));
                *self.handing_over.entry(to).or_default() += 1;
                return Some((contact, key));
            }
            from = Bound::Excluded((to, Key::new([u8::MAX; KEY_SIZE])));
        }
        None
    }
}

impl Node {
    /// Repairs the replicas `behind` by copies of `record`. Does nothing if too many repairs are in flight, or too
    /// many requests wait.
    pub(crate) fn repair(&mut self, now: Now, record: Record, expires: Time, behind: &[Contact], out: &mut Actions) {
        if behind.is_empty() || self.copies.repairs.len() >= REPAIRS_MAX || !self.may_call() {
            return;
        }
        let id = RepairId(self.copies.next_repair);
        self.copies.next_repair += 1;
        self.copies.repairs.insert(id, Repair { record, expires, copies: behind.len() });
        for contact in behind {
            self.call(now, *contact, Purpose::Copy(Copied::Repair(id)), out);
        }
    }

    /// Sends waiting hand-overs, as many as may be in flight.
    pub(crate) fn send_hand_overs(&mut self, now: Now, out: &mut Actions) {
        while self.may_call()
            && let Some((to, key)) = self.copies.take_waiting()
        {
            self.call(now, to, Purpose::Copy(Copied::HandOver(key)), out);
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
            Copied::Repair(id) => self.copies.repairs.get(&id).map(|repair| (&repair.record, repair.expires)),
            Copied::HandOver(key) => self.storage.find(now.mono, &key).map(|held| (&held.record, held.expires)),
        }
    }

    /// A copy was answered, or will not be. A late reply counts too: the peer stores the record.
    pub(crate) fn on_copy_outcome(&mut self, now: Now, copied: Copied, report: Report<'_>, out: &mut Actions) {
        let Report { call, outcome } = report;
        let to = call.to.id;
        if let Outcome::Passed(passed @ (Passed::Hedge | Passed::GiveUp)) = outcome {
            return self.copy_late(now, copied, &to, passed, out);
        }
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
            Copied::Put(attempt) => {
                let answer = match outcome {
                    Outcome::Refused(code) => Some(Err(code)),
                    Outcome::Passed(Passed::Timeout) if call.refusals > 0 => Some(Err(ErrorCode::TOO_MANY)),
                    _ => answer.map(Ok),
                };
                self.on_put_copied(now, attempt, call, answer, out);
            }
            Copied::HandOver(_) => {
                if answer.is_none() {
                    self.hand_over_again(HandOver::Refused);
                }
                if self.copies.is_waiting() || self.offers.is_waiting() {
                    self.timers.hasten(Timer::Replicate, now.mono);
                }
            }
            Copied::Repair(_) => {}
        }
    }

    /// The answer of `to` to a copy is late. A PUT sends one to another node too; others wait.
    fn copy_late(&mut self, now: Now, copied: Copied, to: &NodeId, passed: Passed, out: &mut Actions) {
        if let (Copied::Put(attempt), Passed::GiveUp) = (copied, passed)
            && let Some(put) = self.queries.spreading(attempt)
        {
            put.copy_overdue(*to);
            self.advance_put(now, attempt.query, out);
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
